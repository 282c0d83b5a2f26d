//! Text of files as it may be shown: a file chooses its names, and none of them may move a terminal's cursor, hide text or
//! fill a screen.

use std::borrow::Cow;
use std::fmt;

/// Longest text of a file within an error, in characters.
const SHOWN_CHARS_MAX: usize = 400;

/// `text` with control characters and invisible formatting characters escaped, as Rust writes them (`\n`, `\u{1b}`).
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// `text` in double quotes, on one line, with what would end the quotes escaped.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if is_hidden(c) || matches!(c, '"' | '\\') { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('"');
    out
}

/// Bytes that are no UTF-8, in double quotes: ASCII as it is, everything else as `\xNN`.
pub fn quoted_bytes(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// The first `chars_max` characters of `text`, and whether that leaves any out.
pub fn beginning(text: &str, chars_max: usize) -> (&str, bool) {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

/// Controls, and what reorders or hides the text around it: bidirectional overrides, zero-width and tag characters.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A piece of an error, printable and of bounded length.
pub(super) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, is_cut) = beginning(self.0, SHOWN_CHARS_MAX);
        f.write_str(&printable(text))?;
        if is_cut { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_hides_or_reorders_text_is_escaped() {
        let cases = [
            ("plain ünï 日本 😀", "plain ünï 日本 😀"),
            ("a\u{1b}[31mred", "a\\u{1b}[31mred"),
            ("two\nlines\r\t\0", "two\\nlines\\r\\t\\u{0}"),
            ("\u{9b}2J \u{7f}", "\\u{9b}2J \\u{7f}"),
            ("abc\u{202e}def\u{2066}\u{feff}\u{200b}", "abc\\u{202e}def\\u{2066}\\u{feff}\\u{200b}"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(quoted("a \"b\" \\ \u{1b}"), r#""a \"b\" \\ \u{1b}""#);
        assert_eq!(quoted_bytes(b"Ren\xe9\n\""), r#""Ren\xe9\n\"""#);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "é".repeat(1000);
        assert_eq!(Shown(&long).to_string(), format!("{}… (2000 bytes)", "é".repeat(400)));
        assert_eq!(beginning("abc", 3), ("abc", false));
    }
}
