//! Texts in and out: standard streams that may be closed or full, files that may not be text, and names that may hold anything.

use std::fmt::Display;
use std::io::{Read, Write};
use std::path::Path;

use super::CliError;

/// What errors call the stream that a command reads.
pub const STDIN: &str = "standard input";

/// A line for the user, on standard error. If that is closed or full, there is nobody to tell.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A line on standard output.
///
/// # Errors
/// It cannot be written.
pub fn print_line(line: impl Display) -> Result<(), CliError> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

/// The text in a file.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| CliError::File { path: name.clone(), source })?;
    text_of(&name, 1, bytes)
}

/// All of standard input.
pub fn read_stdin() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|source| CliError::File { path: STDIN.to_owned(), source })?;
    text_of(STDIN, 1, bytes)
}

/// The text that bytes of `name`, from the start of line `line_first` on, are.
///
/// # Errors
/// Where they are no UTF-8.
pub fn text_of(name: &str, line_first: u64, bytes: Vec<u8>) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() as u64 + line_first;
        let column = valid - before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1) + 1;
        let found = error.as_bytes()[valid];
        CliError::usage(format!("{name} line {line}: expected UTF-8, found the byte 0x{found:02X} at byte {column}"))
    })
}

/// A text without the one line end that it may have at its end.
pub fn without_last_newline(mut text: String) -> String {
    let kept = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).map_or(text.len(), str::len);
    text.truncate(kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_named_by_line_and_place() {
        let message = |bytes: &[u8]| text_of("FILE", 1, bytes.to_vec()).unwrap_err().to_string();
        assert_eq!(message(b"\xff"), "FILE line 1: expected UTF-8, found the byte 0xFF at byte 1");
        assert_eq!(message(b"one\ntwo \xc3"), "FILE line 2: expected UTF-8, found the byte 0xC3 at byte 5");
        assert_eq!(message(b"\n\n\xe2\x82z"), "FILE line 3: expected UTF-8, found the byte 0xE2 at byte 1");
        assert_eq!(text_of("FILE", 1, "é\n".into()).unwrap(), "é\n");
        assert!(text_of("FILE", 7, b"\n\xff".to_vec()).unwrap_err().to_string().contains("line 8:"));
    }

    #[test]
    fn one_line_end_is_taken_off() {
        let cases = [("", ""), ("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", "")];
        for (text, expected) in cases {
            assert_eq!(without_last_newline(text.to_owned()), expected, "{text:?}");
        }
    }
}
