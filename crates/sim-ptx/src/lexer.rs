//! PTX text to tokens.

/// A token and its 1-based line.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    pub line: u32,
}

/// Splits PTX text: words (with dots, `%`, `$`, `::`), strings, and single punctuation characters.
///
/// # Errors
/// An unterminated comment or string, with its line.
pub fn tokens(text: &str) -> Result<Vec<Token>, (u32, String)> {
    let bytes = text.as_bytes();
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.');
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < bytes.len() {
        let start = i;
        match bytes[i] {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            c if c.is_ascii_whitespace() || c == 0 => {
                i += 1;
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'/') => {
                i += text[i..].find('\n').unwrap_or(bytes.len() - i);
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'*') => {
                let length = text[i..].find("*/").ok_or((line, "comment without end".to_owned()))? + 2;
                line += text[i..i + length].matches('\n').count() as u32;
                i += length;
                continue;
            }
            b'"' => {
                i += 1;
                while bytes.get(i).is_some_and(|&c| c != b'"') {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                i += 1;
                if i > bytes.len() {
                    return Err((line, "string without end".to_owned()));
                }
            }
            // A directive ends where the next one begins: `.reg.b32`.
            b'.' => {
                i += 1;
                while i < bytes.len() && bytes[i] != b'.' && (word(bytes[i]) || text[i..].starts_with("::")) {
                    i += if bytes[i] == b':' { 2 } else { 1 };
                }
            }
            c if word(c) => {
                while i < bytes.len() && (word(bytes[i]) || text[i..].starts_with("::")) {
                    i += if bytes[i] == b':' { 2 } else { 1 };
                }
            }
            _ => i += text[i..].chars().next().map_or(1, char::len_utf8),
        }
        out.push(Token { text: text[start..i].to_owned(), line });
    }
    Ok(out)
}
