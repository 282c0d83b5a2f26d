//! The CUDA toolkit's compiler and headers, and outside device code to test with, from Python wheels: no system-wide CUDA needed.
//!
//! pip installs the pinned list into a folder beside the final one, which is then renamed: a half-made set is never used.

use crate::error::Error;
use crate::model::{check_pip, lock};
use crate::process;
use crate::progress;
use crate::repo::Repo;
use std::fs;
use std::path::{Path, PathBuf};

/// The pinned packages; a copy of it in the folder says what is installed.
const REQUIREMENTS: &str = include_str!("../cuda-tools.txt");
const STAMP: &str = "installed.txt";

/// Returns `target/tools/cuda`, whose `nvidia/cu13/bin/nvcc` compiles; installs it when it is missing or of other versions.
/// Needs no network when it is there.
pub fn ensure(repo: &Repo) -> Result<PathBuf, Error> {
    let tools = repo.root().join("target/tools");
    fs::create_dir_all(&tools).map_err(Error::io("creating", &tools))?;
    let _lock = lock(&tools.join(".lock"))?;
    let target = tools.join("cuda");
    if fs::read_to_string(target.join(STAMP)).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(target);
    }
    check_pip()?;
    let partial = tools.join("cuda.partial");
    remove(&partial)?;
    eprintln!("installing the CUDA compiler and its headers from Python wheels (about 400 MB) into target/tools");
    let bar = progress::spinner("pip install");
    let installed = install(&repo.root().join("xtask/cuda-tools.txt"), &partial);
    bar.finish_and_clear();
    installed?;
    fs::write(partial.join(STAMP), REQUIREMENTS).map_err(Error::io("writing to", &partial))?;
    remove(&target)?;
    fs::rename(&partial, &target).map_err(Error::io("moving the CUDA tools to", &target))?;
    Ok(target)
}

/// `--target` touches no environment, so that an interpreter marked "externally managed" does as well.
fn install(requirements: &Path, folder: &Path) -> Result<(), Error> {
    let mut command = process::python();
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-deps"]);
    command.arg("--root-user-action=ignore").arg("--target").arg(folder).arg("-r").arg(requirements);
    process::capture(&mut command).map(|_| ())
}

fn remove(path: &Path) -> Result<(), Error> {
    // A developer may have linked a shared installation here.
    if path.is_symlink() {
        return fs::remove_file(path).map_err(Error::io("removing", path));
    }
    if path.exists() { fs::remove_dir_all(path).map_err(Error::io("removing", path)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_installed_again() {
        let folder = tempfile::tempdir().unwrap();
        let cuda = folder.path().join("target/tools/cuda");
        fs::create_dir_all(&cuda).unwrap();
        fs::write(cuda.join(STAMP), REQUIREMENTS).unwrap();
        // There is no list of packages in this repository: an installation would fail.
        assert_eq!(ensure(&Repo::at(folder.path())).unwrap(), cuda);
    }

    #[test]
    fn an_installation_that_fails_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let cuda = folder.path().join("target/tools/cuda");
        fs::create_dir_all(&cuda).unwrap();
        fs::write(cuda.join(STAMP), "other versions").unwrap();
        ensure(&Repo::at(folder.path())).expect_err("there is no list of packages here");
        assert_eq!(fs::read_to_string(cuda.join(STAMP)).unwrap(), "other versions");
    }

    #[test]
    fn every_package_is_pinned() {
        for line in REQUIREMENTS.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("=="), "{line}");
        }
    }
}
