use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("`{program}` cannot be started: {source}\n  {remedy}")]
    Start { program: String, source: std::io::Error, remedy: &'static str },

    #[error("`{command}` failed ({status})")]
    Failed { command: String, status: ExitStatus },

    #[error("`{python} -m pip` does not work, and packages are fetched with it\n  {remedy}")]
    NoPip { python: String, remedy: &'static str },

    #[error("{}: expected SHA-256 {expected}, found {found}\n  {remedy}", path.display())]
    Checksum { path: PathBuf, expected: String, found: String, remedy: &'static str },

    #[error("{0}")]
    Lint(String),

    #[error("{subject}: {problem}")]
    Compare { subject: String, problem: String },

    #[error("{subject}: {problem}")]
    Counters { subject: String, problem: String },

    #[error("{subject}: {problem}")]
    GpuCheck { subject: String, problem: String },

    #[error("{}: no lines `<!-- {name}: begin -->` and `<!-- {name}: end -->` to write between", path.display())]
    NoMarkers { path: PathBuf, name: String },

    #[error("{subject}: {problem}")]
    Goldens { subject: String, problem: String },
}

impl Error {
    /// For `map_err`: which action on which path failed.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + use<'a> {
        move |source| Error::Io { action, path: path.to_path_buf(), source }
    }
}
