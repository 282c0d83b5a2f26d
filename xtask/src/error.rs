use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a task stopped.
#[derive(Debug)]
pub enum Error {
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A program that is not there, or cannot be run.
    Start {
        program: String,
        source: std::io::Error,
        remedy: &'static str,
    },
    Failed {
        command: String,
        status: ExitStatus,
    },
    NoPip {
        python: String,
        remedy: &'static str,
    },
    /// Package names that pip did not get.
    NotFetched {
        what: String,
        command: String,
        status: ExitStatus,
    },
    NoCompiler {
        program: String,
    },
    Checksum {
        path: PathBuf,
        expected: String,
        found: String,
        remedy: &'static str,
    },
    Lint(String),
    /// A command line that is not understood.
    Usage(String),
    /// A device that this machine lacks.
    Device(String),
}

// Written by hand: a derive would make every fresh clone wait for a parser of Rust.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => write!(f, "{action} {}: {source}", path.display()),
            Error::Start { program, source, remedy } => {
                write!(f, "`{program}` cannot be started: {source}\n  {remedy}")
            }
            Error::Failed { command, status } => write!(f, "`{command}` failed ({status})"),
            Error::NoPip { python, remedy } => {
                write!(f, "`{python} -m pip` does not work, and packages are fetched with it\n  {remedy}")
            }
            Error::NotFetched { what, command, status } => write!(
                f,
                "{what} could not be fetched: `{command}` failed ({status}); its messages are above\n  \
                 it needs a connection to the Python package index, or PIP_INDEX_URL set to another one; nothing was kept"
            ),
            Error::NoCompiler { program } => write!(
                f,
                "`{program}` does not work, and the CUDA compiler needs a C++ compiler beside it\n  \
                 install one (Debian, Ubuntu: `apt install g++`), or set CXX"
            ),
            Error::Checksum { path, expected, found, remedy } => {
                write!(f, "{}: expected SHA-256 {expected}, found {found}\n  {remedy}", path.display())
            }
            Error::Lint(message) | Error::Usage(message) | Error::Device(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Error {
        Error::Usage(error.to_string())
    }
}

impl Error {
    /// For `map_err`: which action on which path failed.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + use<'a> {
        move |source| Error::Io { action, path: path.to_path_buf(), source }
    }
}
