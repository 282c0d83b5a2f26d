//! The simulated GPU's driver, where programs find it as `libcuda.so`.

use crate::Error;
use crate::process;
use crate::repo::Repo;
use std::fs;
use std::path::{Path, PathBuf};

/// Builds the driver in a profile and returns `target/simcuda`, a folder of links to it for `LD_LIBRARY_PATH`. Not the build's own folder, which
/// cargo puts on that path for everything it runs.
pub fn library_folder(repo: &Repo, profile: &str) -> Result<PathBuf, Error> {
    process::run(process::cargo(repo).args(["build", "--profile", profile, "--package", "sim-driver"]))?;
    link(repo, &repo.built()?.join(profile).join("libkiln_simcuda.so"))
}

/// Makes `target/simcuda` a folder of links to that library.
pub fn link(repo: &Repo, library: &Path) -> Result<PathBuf, Error> {
    let folder = repo.root().join("target/simcuda");
    fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if link.is_symlink() {
            fs::remove_file(&link).map_err(Error::io("replacing", &link))?;
        }
        std::os::unix::fs::symlink(library, &link).map_err(Error::io("linking", &link))?;
    }
    Ok(folder)
}
