//! What can be wrong with a template, or with what it is asked to render.

use std::fmt;

/// A failure, with the line of the template at which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    message: String,
    line: Option<u32>,
}

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source is not a template.
    Syntax,
    /// The template refused its input with `raise_exception`.
    Raised,
    /// The template took more steps, memory or depth than it may.
    Limit,
    /// An operation that the values do not allow.
    Runtime,
}

impl Error {
    pub(crate) fn syntax(message: impl Into<String>, line: u32) -> Error {
        Error(Box::new(Inner { kind: ErrorKind::Syntax, message: message.into(), line: Some(line) }))
    }

    pub(crate) fn runtime(message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind: ErrorKind::Runtime, message: message.into(), line: None }))
    }

    pub(crate) fn raised(message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind: ErrorKind::Raised, message: message.into(), line: None }))
    }

    pub(crate) fn limit(message: impl Into<String>) -> Error {
        let message = format!("the template was stopped: {}", message.into());
        Error(Box::new(Inner { kind: ErrorKind::Limit, message, line: None }))
    }

    /// Where it happened, unless a place nearer to it is known.
    pub(crate) fn at(mut self, line: u32) -> Error {
        self.0.line.get_or_insert(line);
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The line of the template, counted from 1.
    pub fn line(&self) -> Option<u32> {
        self.0.line
    }

    /// What happened, without the line.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.0.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}
