//! GPT-2's spelling of bytes: each of the 256 bytes is one printable character, so that a vocabulary is text.
//!
//! Bytes that print as themselves in Latin-1 are themselves; the others are U+0100 and on, in order.

/// The character that spells `byte`.
pub(super) const fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// Appends the bytes that `text` spells. A character that spells no byte stands for its own UTF-8.
pub(super) fn decode(text: &str, bytes: &mut Vec<u8>) {
    for char in text.chars() {
        match byte_of(char) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends the spelling of `bytes`.
pub(super) fn encode(bytes: &[u8], text: &mut String) {
    text.extend(bytes.iter().map(|&byte| char_of(byte)));
}

fn byte_of(char: char) -> Option<u8> {
    match u32::from(char) {
        code @ 0..=0xFF => Some(code as u8).filter(|&byte| prints(byte)),
        code => OTHERS.get(code as usize - 0x100).copied(),
    }
}

const fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut other) = (0, 0x100);
    while byte < 256 {
        chars[byte] = if prints(byte as u8) {
            byte as u8 as char
        } else {
            other += 1;
            match char::from_u32(other - 1) {
                Some(char) => char,
                None => panic!("below the surrogates"),
            }
        };
        byte += 1;
    }
    chars
};

/// Bytes of U+0100 and on.
const OTHERS: [u8; 68] = {
    let mut others = [0; 68];
    let (mut byte, mut count) = (0, 0);
    while byte < 256 {
        if !prints(byte as u8) {
            others[count] = byte as u8;
            count += 1;
        }
        byte += 1;
    }
    assert!(count == 68);
    others
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_its_spelling() {
        let all: Vec<u8> = (0..=255).collect();
        let (mut text, mut back) = (String::new(), Vec::new());
        encode(&all, &mut text);
        assert_eq!(text.chars().count(), 256);
        assert!(text.chars().all(|char| !char.is_control() && !char.is_whitespace()), "{text:?}");
        decode(&text, &mut back);
        assert_eq!(back, all);
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'A')), ('Ġ', 'Ċ', 'A'));
    }

    #[test]
    fn a_character_that_spells_no_byte_is_itself() {
        let mut bytes = Vec::new();
        decode("a▁\u{A0}", &mut bytes);
        assert_eq!(bytes, "a▁\u{A0}".as_bytes());
    }
}
