//! What can be wrong with a model file.

/// A model file that cannot be used: the subject, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read {path}: {source}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file breaks the format: `subject` is a field or a tensor.
    #[error("{subject}: expected {expected}, found {found}")]
    Invalid { subject: String, expected: String, found: String },
    #[error("tensor {name} is missing: expected shape {expected}")]
    MissingTensor { name: String, expected: String },
    #[error("metadata key {key} is missing: expected {expected}")]
    MissingKey { key: String, expected: String },
    /// The file that was opened is no longer what its path names.
    #[error(
        "{path} changed while it was being read: expected {expected}, found {found}; start again once it is complete"
    )]
    Changed { path: String, expected: String, found: String },
    /// Which file the error inside is about.
    #[error("{path}: {source}")]
    InFile {
        path: String,
        #[source]
        source: Box<WeightsError>,
    },
}

impl WeightsError {
    /// An [`WeightsError::Invalid`] from anything printable.
    pub fn invalid(subject: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        WeightsError::Invalid { subject: subject.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}
