use crate::error::Error;
use std::path::{Path, PathBuf};

/// The checked-out repository that the tasks work on.
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// Cargo says where the xtask package lies; its parent folder is the repository.
    pub fn locate() -> Result<Repo, Error> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).join("..");
        let root = root.canonicalize().map_err(Error::io("finding the repository at", &root))?;
        Ok(Repo { root })
    }

    #[cfg(test)]
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

    /// A path as a person at the repository's root would type it.
    pub fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}
