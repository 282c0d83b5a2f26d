//! What can be wrong with a model file.

use super::text::Shown;
use std::fmt;
use std::path::Path;

/// Most names that one error lists.
const NAMES_SHOWN_MAX: usize = 5;

/// A model file that cannot be used: the subject, what was expected and what was found. The fields hold text as the file
/// has it; messages show it without control characters.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read {}: {source}", Shown(path))]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file breaks the format, or kiln cannot do what it says: `subject` is a field, a key or a tensor.
    #[error("{}: expected {}, found {}", Shown(subject), Shown(expected), Shown(found))]
    Invalid { subject: String, expected: String, found: String },
    #[error(
        "tensor {} is missing: expected shape {}; the file is incomplete or holds a kind of model that kiln does not run",
        Shown(name),
        Shown(expected)
    )]
    MissingTensor { name: String, expected: String },
    #[error("metadata key {} is missing: expected {}", Shown(key), Shown(expected))]
    MissingKey { key: String, expected: String },
    /// What the file holds beyond what a model's program is made of, and what may change its numbers.
    #[error(
        "{} {}: expected only what kiln reads for {} models; the numbers would be wrong without, so this model needs another \
         engine or a newer kiln",
        kind.noun(names.len()),
        Names(names),
        Shown(architecture)
    )]
    Unread { kind: Unread, names: Vec<String>, architecture: String },
    /// The file that was opened is no longer what its path names.
    #[error(
        "{} changed while it was being read: expected {expected}, found {found}; start again once it is complete",
        Shown(path)
    )]
    Changed { path: String, expected: String, found: String },
    /// Which file the error inside is about.
    #[error("{}: {source}", Shown(path))]
    InFile {
        path: String,
        #[source]
        source: Box<WeightsError>,
    },
}

/// What [`WeightsError::Unread`] lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    MetadataKeys,
    Tensors,
}

impl Unread {
    fn noun(self, count: usize) -> &'static str {
        match (self, count) {
            (Unread::MetadataKeys, 1) => "metadata key",
            (Unread::MetadataKeys, _) => "metadata keys",
            (Unread::Tensors, 1) => "tensor",
            (Unread::Tensors, _) => "tensors",
        }
    }
}

impl WeightsError {
    /// An [`WeightsError::Invalid`] from anything printable.
    pub fn invalid(subject: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        WeightsError::Invalid { subject: subject.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The same error with the file that it is about, unless it says so already.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            WeightsError::Io { .. } | WeightsError::Changed { .. } | WeightsError::InFile { .. } => self,
            source => WeightsError::InFile { path: path.display().to_string(), source: Box::new(source) },
        }
    }
}

/// The first few names, and how many more there are.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(NAMES_SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", Shown(name))?;
        }
        match self.0.len().saturating_sub(NAMES_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_control_character_of_a_file() {
        let evil = || "\u{1b}[2J\u{202e}x\n".to_owned();
        let errors = [
            WeightsError::Io { path: evil(), source: std::io::ErrorKind::NotFound.into() },
            WeightsError::invalid(evil(), evil(), evil()),
            WeightsError::MissingTensor { name: evil(), expected: evil() },
            WeightsError::MissingKey { key: evil(), expected: evil() },
            WeightsError::Unread { kind: Unread::Tensors, names: vec![evil(), evil()], architecture: evil() },
            WeightsError::Changed { path: evil(), expected: String::new(), found: String::new() },
            WeightsError::invalid("a", "b", "c").in_file(Path::new(&evil())),
        ];
        for error in errors {
            let message = error.to_string();
            assert!(message.contains("\\u{1b}[2J\\u{202e}x\\n"), "{message:?}");
            assert!(!message.contains(['\u{1b}', '\u{202e}', '\n']), "{message:?}");
        }
    }

    #[test]
    fn many_unread_names_are_the_first_few_and_a_count() {
        let names = (0..8).map(|i| format!("t{i}")).collect();
        let error = WeightsError::Unread { kind: Unread::Tensors, names, architecture: "llama".into() }.to_string();
        assert!(
            error.starts_with("tensors t0, t1, t2, t3, t4 and 3 more: expected only what kiln reads for llama"),
            "{error}"
        );
    }
}
