use std::path::{Path, PathBuf};

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of what all tasks share: files, child processes, packages.
    #[error(transparent)]
    Task(#[from] xtask::Error),

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
        move |source| xtask::Error::io(action, path)(source).into()
    }
}
