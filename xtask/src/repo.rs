use crate::Error;
use std::path::{Path, PathBuf};

/// The checked-out repository that the tasks work on.
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// The folder that holds `xtask/`, above the package that cargo runs.
    pub fn locate() -> Result<Repo, Error> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let package = Path::new(&package);
        let package = package.canonicalize().map_err(Error::io("finding the repository at", package))?;
        let root = package.ancestors().find(|folder| folder.join("xtask/Cargo.toml").is_file());
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no folder above it holds xtask/Cargo.toml");
        let root = root.ok_or_else(|| Error::io("finding the repository at", &package)(missing()))?;
        Ok(Repo { root: root.to_path_buf() })
    }

    /// A repository that is known to lie there.
    pub fn at(root: &Path) -> Repo {
        Repo { root: root.to_path_buf() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `weights/`: model files, ignored by git.
    pub fn weights(&self) -> PathBuf {
        self.root.join("weights")
    }

    /// Where cargo builds: `target`, unless the user's settings name another folder. This program was built there.
    pub fn built(&self) -> Result<PathBuf, Error> {
        let program = std::env::current_exe().map_err(Error::io("finding", "this program".as_ref()))?;
        // Of TARGET/debug/xtask, or TARGET/debug/deps/xtask-0123 in a test.
        let profile = program.ancestors().find(|folder| folder.ends_with("debug"));
        Ok(profile.and_then(Path::parent).map_or_else(|| self.root.join("target"), Path::to_path_buf))
    }

    /// A path as a person at the repository's root would type it.
    pub fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}
