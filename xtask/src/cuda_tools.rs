//! The CUDA toolkit's compiler and headers, and outside device code to test with, from Python wheels: no system-wide CUDA needed.
//!
//! A demo and the lints need the compiler alone, a third of the whole. What is missing goes into a folder beside the final one and is moved
//! from there; the list of what is installed is written last, so that a half-made set is never used.

use crate::Error;
use crate::model::{lock, run_pip};
use crate::process;
use crate::repo::Repo;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned packages, one a line; a list of the same form in the folder says what is installed.
const REQUIREMENTS: &str = include_str!("../cuda-tools.txt");
const STAMP: &str = "installed.txt";
/// Those that compile a kernel.
const COMPILER: [&str; 5] =
    ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-nvvm", "nvidia-cuda-cccl"];

/// Returns `target/tools/cuda` with everything in it; installs what is missing or of other versions.
/// Needs no network when all is there.
pub fn ensure(repo: &Repo) -> Result<PathBuf, Error> {
    check_cpp_compiler()?;
    install_missing(repo, &packages(REQUIREMENTS), "what compiles, inspects and checks CUDA kernels (450 MB)")
}

/// Sees to a compiler for `build.rs`: one that the user names or has, or else that in `target/tools/cuda`.
pub fn ensure_compiler(repo: &Repo) -> Result<(), Error> {
    check_cpp_compiler()?;
    if has_compiler(std::env::var_os("NVCC").as_deref(), std::env::var_os("CUDA_HOME").as_deref()) {
        return Ok(());
    }
    let mut wanted = packages(REQUIREMENTS);
    wanted.retain(|package| COMPILER.contains(&name(package)));
    install_missing(repo, &wanted, "the CUDA compiler (130 MB)").map(drop)
}

/// Whether `build.rs` takes a compiler from these variables.
fn has_compiler(nvcc: Option<&OsStr>, cuda_home: Option<&OsStr>) -> bool {
    nvcc.is_some() || cuda_home.is_some_and(|home| Path::new(home).join("bin/nvcc").is_file())
}

fn check_cpp_compiler() -> Result<(), Error> {
    let program = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    // CXX may hold a wrapper before the compiler, as in `ccache g++`.
    let program = program.to_string_lossy().into_owned();
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    let probe = command.args(words).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match probe.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::NoCompiler { program }),
    }
}

/// The lines of a list that name a package.
fn packages(list: &str) -> Vec<&str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn name(package: &str) -> &str {
    package.split("==").next().unwrap_or(package)
}

fn install_missing(repo: &Repo, wanted: &[&str], what: &str) -> Result<PathBuf, Error> {
    let tools = repo.root().join("target/tools");
    fs::create_dir_all(&tools).map_err(Error::io("creating", &tools))?;
    let _lock = lock(&tools.join(".lock"))?;
    let target = tools.join("cuda");
    let stamp = fs::read_to_string(target.join(STAMP)).unwrap_or_default();
    let mut installed = packages(&stamp);
    let missing: Vec<&str> = wanted.iter().copied().filter(|package| !installed.contains(package)).collect();
    if missing.is_empty() {
        return Ok(target);
    }
    // Of a set with another version, or one that is linked from elsewhere, nothing is kept.
    let pinned = packages(REQUIREMENTS);
    let is_kept =
        !target.is_symlink() && !installed.is_empty() && installed.iter().all(|package| pinned.contains(package));
    if !is_kept {
        installed.clear();
    }
    let missing = if is_kept { missing } else { wanted.to_vec() };
    let partial = tools.join("cuda.partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(Error::io("creating", &partial))?;
    eprintln!("installing {what} from Python wheels into target/tools");
    let mut pip = process::pip("install");
    // `--target` touches no environment, so that an interpreter marked "externally managed" does as well.
    pip.args(["--quiet", "--root-user-action=ignore"]).arg("--target").arg(partial.join("files")).args(&missing);
    run_pip(pip, what, &partial, None)?;
    if !is_kept {
        remove(&target)?;
    }
    merge(&partial.join("files"), &target)?;
    remove(&partial)?;
    let now: String = installed.iter().chain(&missing).map(|package| format!("{package}\n")).collect();
    fs::write(target.join(STAMP), now).map_err(Error::io("writing to", &target))?;
    Ok(target)
}

/// Moves everything below `from` to the same place below `to`, replacing files that are there.
fn merge(from: &Path, to: &Path) -> Result<(), Error> {
    if !(from.is_dir() && to.is_dir()) {
        remove(to)?;
        return fs::rename(from, to).map_err(Error::io("moving the CUDA tools to", to));
    }
    for entry in fs::read_dir(from).map_err(Error::io("listing", from))? {
        let entry = entry.map_err(Error::io("listing", from))?;
        merge(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    // A developer may have linked a shared installation here.
    if path.is_symlink() || path.is_file() {
        return fs::remove_file(path).map_err(Error::io("removing", path));
    }
    if path.exists() { fs::remove_dir_all(path).map_err(Error::io("removing", path)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository in which these packages count as installed.
    fn repo_with(stamp: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let cuda = folder.path().join("target/tools/cuda");
        fs::create_dir_all(&cuda).unwrap();
        fs::write(cuda.join(STAMP), stamp).unwrap();
        (folder, cuda)
    }

    /// A wheel with one empty file, as pip installs it.
    fn wheel(folder: &Path, name: &str, file: &str) -> String {
        const PACK: &str = "import sys, zipfile\n\
            path, name, file = sys.argv[1:]\n\
            with zipfile.ZipFile(path, 'w') as wheel:\n    \
            wheel.writestr(file, '')\n    \
            wheel.writestr(f'{name}-1.0.dist-info/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')\n    \
            wheel.writestr(f'{name}-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n    \
            wheel.writestr(f'{name}-1.0.dist-info/RECORD', '')";
        let path = folder.join(format!("{name}-1.0-py3-none-any.whl")).display().to_string();
        process::run(process::python().args(["-c", PACK, &path, name, file])).unwrap();
        path
    }

    #[test]
    fn what_is_installed_is_not_installed_again() {
        // Wheels come from an index that is not there: an installation would fail.
        let (folder, cuda) = repo_with(REQUIREMENTS);
        assert_eq!(ensure(&Repo::at(folder.path())).unwrap(), cuda);
        let compiler: String = packages(REQUIREMENTS)
            .into_iter()
            .filter(|p| COMPILER.contains(&name(p)))
            .map(|p| format!("{p}\n"))
            .collect();
        let (folder, _) = repo_with(&compiler);
        ensure_compiler(&Repo::at(folder.path())).unwrap();
    }

    #[test]
    fn missing_packages_join_those_that_are_there() {
        let kept = packages(REQUIREMENTS)[0];
        let (folder, cuda) = repo_with(kept);
        fs::create_dir_all(cuda.join("nvidia/bin")).unwrap();
        fs::write(cuda.join("nvidia/bin/old"), "").unwrap();
        let added = wheel(folder.path(), "added", "nvidia/bin/new");
        let install = || install_missing(&Repo::at(folder.path()), &[kept, &added], "a test's packages");
        install().unwrap();
        assert!(cuda.join("nvidia/bin/old").is_file() && cuda.join("nvidia/bin/new").is_file());
        fs::remove_file(&added).unwrap();
        install().expect("nothing is missing");
    }

    #[test]
    fn a_set_of_other_versions_is_replaced() {
        let (folder, cuda) = repo_with("nvidia-cuda-nvcc==1.0\n");
        fs::write(cuda.join("old"), "").unwrap();
        let added = wheel(folder.path(), "added", "new");
        install_missing(&Repo::at(folder.path()), &[&added], "a test's packages").unwrap();
        assert!(cuda.join("new").is_file() && !cuda.join("old").exists());
    }

    #[test]
    fn an_installation_that_fails_leaves_the_old_one() {
        let (folder, cuda) = repo_with("nvidia-cuda-nvcc==1.0\n");
        let missing = folder.path().join("missing-1.0-py3-none-any.whl").display().to_string();
        let error =
            install_missing(&Repo::at(folder.path()), &[&missing], "a test's packages").expect_err("no such wheel");
        assert!(error.to_string().contains("a test's packages could not be fetched"), "{error}");
        assert_eq!(fs::read_to_string(cuda.join(STAMP)).unwrap(), "nvidia-cuda-nvcc==1.0\n");
    }

    #[test]
    fn every_package_is_pinned_and_the_compilers_are_among_them() {
        let names: Vec<&str> = packages(REQUIREMENTS).into_iter().map(name).collect();
        assert!(packages(REQUIREMENTS).iter().all(|package| package.contains("==")), "{REQUIREMENTS}");
        assert!(COMPILER.iter().all(|package| names.contains(package)), "{names:?}");
    }

    #[test]
    fn a_compiler_that_the_user_names_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_compiler(None, Some(folder.path().as_os_str())));
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/nvcc"), "").unwrap();
        assert!(has_compiler(None, Some(folder.path().as_os_str())) && has_compiler(Some(OsStr::new("nvcc")), None));
    }
}
