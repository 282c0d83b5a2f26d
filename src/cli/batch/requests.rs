//! The file of requests, read and checked before a model is loaded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use kiln::text::json;
use serde_json::Value;

use super::files::{FileId, is_standard_stream, standard_file};
use crate::cli::CliError;
use crate::cli::streams::{STDIN, text_of};

/// A line of the file.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub custom_id: String,
    pub method: String,
    pub url: String,
    pub body: Value,
    /// Fields beside these, which nothing reads.
    pub ignored: Vec<String>,
}

/// The requests, and which file they were in.
#[derive(Debug)]
pub struct Requests {
    pub lines: Vec<Line>,
    pub file: Option<FileId>,
}

/// Reads the requests of a file, or of standard input where `path` is `-`.
///
/// # Errors
/// What is wrong, with file and line. Each request must have an id of its own, since answers are found by it.
pub fn read(path: &Path) -> Result<Requests, CliError> {
    let is_stdin = is_standard_stream(path);
    let name = if is_stdin { STDIN.to_owned() } else { path.display().to_string() };
    let failed = |source| CliError::File { path: name.clone(), source };
    let file = if is_stdin { standard_file(std::io::stdin()) } else { File::open(path) };
    let mut file = file.map_err(failed)?;
    if file.is_terminal() {
        return Err(CliError::usage(format!("{name} is a terminal: expected a file or a pipe with requests")));
    }
    let id = FileId::of(&file).map_err(failed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(Requests { lines: parse_all(&name, &text_of(&name, 1, bytes)?)?, file: id })
}

fn parse_all(name: &str, text: &str) -> Result<Vec<Line>, CliError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut first_lines = HashMap::new();
    let mut lines = Vec::new();
    for (number, text) in (1u64..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let at = |message: String| CliError::usage(message).at(format!("{name} line {number}"));
        let line = parse(text).map_err(at)?;
        if let Some(first) = first_lines.insert(line.custom_id.clone(), number) {
            return Err(at(format!(
                "custom_id {:?} is there twice, first on line {first}: answers are found by it",
                line.custom_id
            )));
        }
        lines.push(line);
    }
    Ok(lines)
}

fn parse(text: &str) -> Result<Line, String> {
    const EXPECTED: &str = "an object with custom_id, method, url and body";
    let Value::Object(mut fields) =
        json::parse(text).map_err(|error| format!("expected {EXPECTED}; no JSON: {error}"))?
    else {
        return Err(format!("expected {EXPECTED}, found other JSON"));
    };
    // What is null is absent.
    let mut take = |name: &str| match fields.remove(name) {
        None | Some(Value::Null) => Err(format!("{name} is missing: expected {EXPECTED}")),
        Some(value) => Ok(value),
    };
    let text = |name: &str, value: Value| match value {
        Value::String(text) => Ok(text),
        other => Err(format!("{name}: expected a string, found {}", json::shown(&other))),
    };
    let custom_id = text("custom_id", take("custom_id")?)?;
    let method = text("method", take("method")?)?;
    let url = text("url", take("url")?)?;
    let body = take("body")?;
    let ignored = fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect();
    Ok(Line { custom_id, method, url, body, ignored })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_requests_and_mistakes_are_named_by_line() {
        let good = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}"#;
        let lines = parse_all("IN", &format!("\u{feff}{good}\r\n\n{}", good.replace("\"a\"", "\"b\""))).unwrap();
        assert_eq!(lines.iter().map(|line| line.custom_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let with_more = parse(&good.replace("\"method\"", "\"tags\": [1], \"note\": null, \"method\"")).unwrap();
        assert_eq!(with_more.ignored, ["tags"]);
        let message = |line: &str| parse_all("IN", &format!("{good}\n{line}\n")).unwrap_err().to_string();
        for (line, words) in [
            (good.to_owned(), "IN line 2: custom_id \"a\" is there twice, first on line 1"),
            ("{\"custom_id\": \"b\"".to_owned(), "IN line 2: expected an object with custom_id"),
            ("[]".to_owned(), "IN line 2: expected an object with custom_id"),
            ("{\"method\": \"POST\"}".to_owned(), "IN line 2: custom_id is missing"),
            (good.replace("\"a\"", "5"), "IN line 2: custom_id: expected a string, found 5"),
            (good.replace("\"a\"", "\"b\"").replace("\"url\"", "\"uri\""), "IN line 2: url is missing"),
        ] {
            let message = message(&line);
            assert!(message.starts_with(words) && !message.contains("line 1 column"), "{message}");
        }
    }
}
