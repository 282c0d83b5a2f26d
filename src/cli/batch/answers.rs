//! The file of answers: read back to know what is done, appended to, and never anything else's file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;

use kiln::text::Refusal;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{FileId, is_standard_stream, standard_file};
use crate::cli::CliError;

/// How each line begins, up to the request's id. What an interruption left of a line is known by it.
const LINE_START: &str = "{\"id\":\"batch_req_";

/// One answer, as it stands in the file. The order of the fields is the file's.
#[derive(Debug, Serialize)]
struct AnswerLine<'a> {
    id: String,
    custom_id: &'a str,
    /// What was answered: see `fingerprint`.
    request_sha256: &'a str,
    response: Response<'a>,
    error: Option<()>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ignored: &'a [String],
}

#[derive(Debug, Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: &'a Value,
}

/// What is read of a line that is there already. One without a fingerprint was written by something else, or by an older kiln; it
/// answers nothing.
#[derive(Deserialize)]
struct WrittenLine {
    id: String,
    custom_id: String,
    request_sha256: Option<String>,
    response: WrittenResponse,
}

#[derive(Deserialize)]
struct WrittenResponse {
    status_code: u16,
    #[allow(dead_code)] // Must be there.
    body: IgnoredAny,
}

/// Which request a line answers.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    pub custom_id: &'a str,
    pub request_sha256: &'a str,
    pub ignored: &'a [String],
}

/// Where answers go, and what is answered there.
#[derive(Debug)]
pub struct Answers {
    name: String,
    file: File,
    kind: Kind,
    /// Of each id's last line: the request that it answers, unless it is an error.
    done: HashMap<String, Option<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file of our own, locked. Its last line may lack its end.
    Regular { needs_newline: bool },
    /// A pipe, a terminal or a device: it is not read back.
    Stream,
}

impl Answers {
    /// Opens the file to append to it, after a check that it is empty or this command's; `-` is standard output. What an interruption
    /// left of a last line is cut off. `input` is the file of requests.
    ///
    /// # Errors
    /// The output is something else's, is the input, a folder, or being written by another process.
    pub fn open(path: &Path, input: Option<FileId>) -> Result<Answers, CliError> {
        let is_stdout = is_standard_stream(path);
        let name = if is_stdout { "standard output".to_owned() } else { path.display().to_string() };
        let failed = |source| CliError::File { path: name.clone(), source };
        let (file, is_regular) = if is_stdout {
            // The shell has opened it, to replace or to append; what it holds is not ours to read.
            (standard_file(std::io::stdout()).map_err(failed)?, false)
        } else {
            open_file(path).map_err(failed)?
        };
        let id = FileId::of(&file).map_err(failed)?;
        if id.is_some() && id == input {
            return Err(CliError::usage(format!(
                "{name} is the file of requests too: name another one for the answers"
            )));
        }
        let mut answers = Answers { name, file, kind: Kind::Stream, done: HashMap::new() };
        if is_regular {
            answers.lock()?;
            answers.read_back()?;
        }
        Ok(answers)
    }

    /// Keeps other batches away for as long as the file is open.
    fn lock(&self) -> Result<(), CliError> {
        match self.file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(CliError::usage(format!(
                "{} is being written by another process: wait until it has ended, or name another file",
                self.name
            ))),
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{} cannot be locked ({error}): let no other batch write to it", self.name);
                Ok(())
            }
        }
    }

    /// Learns what is answered, and cuts off what an interruption left of a last line.
    fn read_back(&mut self) -> Result<(), CliError> {
        let failed = |source| CliError::File { path: self.name.clone(), source };
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut whole_bytes, mut needs_newline) = (Vec::new(), 0u64, false);
        for number in 1u64.. {
            line.clear();
            let read_bytes = reader.read_until(b'\n', &mut line).map_err(failed)? as u64;
            if read_bytes == 0 {
                break;
            }
            let is_whole = line.ends_with(b"\n");
            if let Some(written) = WrittenLine::read(&line) {
                let fingerprint = written.request_sha256.filter(|_| written.response.status_code == 200);
                self.done.insert(written.custom_id, fingerprint);
                needs_newline = !is_whole;
            } else if !is_whole && is_torn_line(&line, whole_bytes > 0) {
                self.file.set_len(whole_bytes).map_err(failed)?;
                break;
            } else {
                return Err(CliError::usage(format!(
                    "{} line {number} is no answer of `kiln batch`, so the file stays as it is: name another one for the answers",
                    self.name
                )));
            }
            whole_bytes += read_bytes;
        }
        self.kind = Kind::Regular { needs_newline };
        Ok(())
    }

    /// Whether the request has been answered, and not with an error.
    pub fn is_done(&self, custom_id: &str, request_sha256: &str) -> bool {
        self.done.get(custom_id).is_some_and(|done| done.as_deref() == Some(request_sha256))
    }

    /// Whether people watch what is written.
    pub fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes one line, in one write.
    ///
    /// # Errors
    /// It cannot be written. What a regular file got of it is taken back.
    pub fn write(&mut self, of: Answered<'_>, status_code: u16, body: &Value) -> Result<(), CliError> {
        let Answered { custom_id, request_sha256, ignored } = of;
        let response = Response { status_code, request_id: format!("req_{custom_id}"), body };
        let id = format!("batch_req_{custom_id}");
        let line = AnswerLine { id, custom_id, request_sha256, response, error: None, ignored };
        let is_cut = self.kind == Kind::Regular { needs_newline: true };
        let text = format!("{}{}\n", if is_cut { "\n" } else { "" }, serde_json::to_string(&line)?);
        let bytes_before = self.file.metadata().map(|metadata| metadata.len()).ok();
        let written = self.file.write_all(text.as_bytes());
        if let (Err(_), Kind::Regular { .. }, Some(bytes)) = (&written, self.kind, bytes_before) {
            // A torn line that stays is cut off by the next run.
            let _ = self.file.set_len(bytes);
        }
        written.map_err(|source| match source.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::File { path: self.name.clone(), source },
        })?;
        if is_cut {
            self.kind = Kind::Regular { needs_newline: false };
        }
        Ok(())
    }

    /// Writes a refusal as a line.
    ///
    /// # Errors
    /// As [`Answers::write`].
    pub fn write_error(&mut self, of: Answered<'_>, refusal: &Refusal) -> Result<(), CliError> {
        self.write(of, refusal.status, &kiln::text::openai::error_body(refusal))
    }
}

/// Opens what is at `path`, or a new file; and whether it is a regular one.
fn open_file(path: &Path) -> std::io::Result<(File, bool)> {
    let found = std::fs::metadata(path).ok();
    if let Some(metadata) = found.filter(|metadata| !metadata.is_file()) {
        if metadata.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "is a folder: expected a file"));
        }
        return Ok((OpenOptions::new().write(true).open(path)?, false));
    }
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let is_regular = file.metadata()?.is_file();
    Ok((file, is_regular))
}

impl WrittenLine {
    /// A line of this format; nothing if it is anything else.
    fn read(line: &[u8]) -> Option<WrittenLine> {
        let written: WrittenLine = serde_json::from_slice(line).ok()?;
        (written.id.strip_prefix("batch_req_") == Some(&written.custom_id)).then_some(written)
    }
}

/// Whether `torn`, which ends without a newline, is the beginning of a line that this command writes. Less than the fixed start is one
/// only after lines of ours.
fn is_torn_line(torn: &[u8], follows_ours: bool) -> bool {
    let Some(rest) = torn.strip_prefix(LINE_START.as_bytes()) else {
        return follows_ours && LINE_START.as_bytes().starts_with(torn);
    };
    let mut is_escaped = false;
    let end = rest.iter().position(|&byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    let Some((id, rest)) = end.map(|end| rest.split_at(end)) else { return true };
    let fits = |expected: &[u8], found: &[u8]| {
        let common = expected.len().min(found.len());
        expected[..common] == found[..common]
    };
    let middle = [b"\",\"custom_id\":\"", id, b"\",\"request_sha256\":\""].concat();
    let Some(rest) = rest.strip_prefix(&middle[..]) else { return fits(&middle, rest) };
    let digits = rest.iter().take(64).take_while(|byte| byte.is_ascii_hexdigit()).count();
    digits == rest.len() || digits == 64 && fits(b"\",\"response\":{\"status_code\":", &rest[64..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn whole_line(folder: &Path, custom_id: &str) -> Vec<u8> {
        let path = folder.join("whole");
        let _ = std::fs::remove_file(&path);
        let mut answers = Answers::open(&path, None).unwrap();
        let request_sha256 = "0123456789abcdef".repeat(4);
        let of = Answered { custom_id, request_sha256: &request_sha256, ignored: &["user".to_owned()] };
        answers.write(of, 200, &json!({"choices": []})).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_beginning_of_a_line_is_torn_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for custom_id in ["r1", "", "a \"quoted\" \\ id\n", "ünï"] {
            let line = whole_line(folder.path(), custom_id);
            for end in 1..line.len() - 1 {
                let torn = &line[..end];
                assert!(WrittenLine::read(torn).is_none() && is_torn_line(torn, true), "{:?}", torn.escape_ascii());
                assert_eq!(is_torn_line(torn, false), end >= LINE_START.len());
            }
            assert!(WrittenLine::read(&line[..line.len() - 1]).is_some(), "only the newline is missing");
        }
        for text in [
            "some text",
            "{",
            "{\"id\": \"batch_req_1\"",
            "{\"id\":\"batch_req_1\",\"other\":",
            "[1, 2",
            "{\"id\":\"batch_req_1\",\"custom_id\":\"2\"",
            "{\"custom_id\":\"1\",\"method\":\"POST\"",
            "{\"id\":\"batch_req_1\",\"custom_id\":\"1\",\"request_sha256\":\"no digits",
        ] {
            assert!(!is_torn_line(text.as_bytes(), false), "{text}");
        }
    }

    #[test]
    fn the_last_line_of_an_id_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers");
        let of = |request_sha256| Answered { custom_id: "a", request_sha256, ignored: &[] };
        let mut answers = Answers::open(&path, None).unwrap();
        answers.write(of("one"), 200, &json!({})).unwrap();
        drop(answers);
        let mut answers = Answers::open(&path, None).unwrap();
        assert!(answers.is_done("a", "one") && !answers.is_done("a", "two") && !answers.is_done("b", "one"));
        answers.write_error(of("one"), &Refusal::bad_request(None, "no")).unwrap();
        drop(answers);
        let mut answers = Answers::open(&path, None).unwrap();
        assert!(!answers.is_done("a", "one"), "an error answers nothing");
        answers.write(of("two"), 200, &json!({})).unwrap();
        drop(answers);
        assert!(Answers::open(&path, None).unwrap().is_done("a", "two"));
    }
}
