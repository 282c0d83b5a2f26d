//! What a user may have got wrong: subject, what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

use sim_exec::memory::MemoryError;
use sim_exec::{LaunchError, LoadError};
use sim_fatbin::FatbinError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}: {source}", path = path.display())]
    Image { path: PathBuf, source: FatbinError },
    #[error("{path}: expected PTX text, a fatbin, or a program or library with fatbins in it; found {found}", path = path.display())]
    NotAnImage { path: PathBuf, found: &'static str },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{path}: no kernel {found}; it has {expected}", path = path.display())]
    NoEntry { path: PathBuf, expected: String, found: String },
    #[error("{kernel} takes {expected} arguments ({slots}), found {found}; give each with --arg")]
    ArgumentCount { kernel: String, expected: usize, slots: String, found: usize },
    #[error("argument {number} ({text}) of {kernel}: the parameter has {expected} bytes, found {found}")]
    ArgumentSize { number: usize, text: String, kernel: String, expected: u32, found: usize },
    #[error("{text}: {subject}: expected {expected}, found {found:?}")]
    Argument { text: String, subject: &'static str, expected: String, found: String },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("the launch is refused: {0}")]
    Launch(String),
    #[error("{path}:{line}: expected a line that KILN_SIM_REPORT wrote: {source}", path = path.display())]
    ReportLine { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{path}: no lines of {kernel}: compile it with -lineinfo and run with KILN_SIM_REPORT_LINES=1", path = path.display())]
    NoLines { path: PathBuf, kernel: String },
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("writing to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

impl From<LaunchError> for Error {
    fn from(error: LaunchError) -> Self {
        Error::Launch(error.to_string())
    }
}
