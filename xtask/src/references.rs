//! What tests compare with and llama.cpp's developers publish: chat templates and tokenizers' vocabularies with recorded ids.
//!
//! Both lie in the source package of llama-cpp-python, which is fetched once, checked, and kept under `target/references`.

use crate::Error;
use crate::model::{TemporaryFolder, lock, run_pip, sha256_of};
use crate::process;
use crate::repo::Repo;
use std::fs;
use std::path::{Path, PathBuf};

/// The package whose source carries llama.cpp, as pip takes it; `xtask/compare/requirements.txt` pins the same.
pub const PACKAGE: &str = "llama-cpp-python==0.3.36";
const PACKAGE_FILE: &str = "llama_cpp_python-0.3.36.tar.gz";
const PACKAGE_SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";
/// The note that ends an extraction; it says from what.
const STAMP: &str = "extracted-from.txt";

/// Unpacks from the archive `argv[1]` into the folder `argv[2]` the files that tests read, under their paths in llama.cpp.
const EXTRACT: &str = r"
import pathlib, re, shutil, sys, tarfile
wanted = re.compile(r'[^/]+/vendor/llama\.cpp/(models/(templates/[^/]+\.jinja|ggml-vocab-[^/]+\.gguf(\.inp|\.out)?))')
with tarfile.open(sys.argv[1]) as archive:
    for member in archive:
        match = wanted.fullmatch(member.name)
        if match and member.isfile():
            path = pathlib.Path(sys.argv[2], match[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('wb') as file:
                shutil.copyfileobj(archive.extractfile(member), file)
";

/// Returns `target/references/llama.cpp`, which holds `models/templates/*.jinja` and `models/ggml-vocab-*.gguf` with their
/// recorded strings (`.inp`) and ids (`.out`); makes it when it is missing. Needs no network when it is there.
pub fn ensure(repo: &Repo) -> Result<PathBuf, Error> {
    let folder = folder(repo)?;
    let _lock = lock(&folder.join(".lock"))?;
    let target = folder.join("llama.cpp");
    if fs::read_to_string(target.join(STAMP)).is_ok_and(|stamp| stamp == PACKAGE_SHA256) {
        return Ok(target);
    }
    let package = fetched(repo, &folder)?;
    extract(&package, &folder, &target)?;
    Ok(target)
}

/// The package's archive, checked; fetched when it is missing.
pub fn package(repo: &Repo) -> Result<PathBuf, Error> {
    let folder = folder(repo)?;
    let _lock = lock(&folder.join(".lock"))?;
    fetched(repo, &folder)
}

fn folder(repo: &Repo) -> Result<PathBuf, Error> {
    let folder = repo.root().join("target/references");
    fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    Ok(folder)
}

fn fetched(repo: &Repo, folder: &Path) -> Result<PathBuf, Error> {
    let target = folder.join(PACKAGE_FILE);
    if target.exists() {
        let found = sha256_of(&target)?;
        if found == PACKAGE_SHA256 {
            return Ok(target);
        }
        let shown = repo.relative(&target);
        eprintln!("{shown} is damaged: expected SHA-256 {PACKAGE_SHA256}, found {found}; fetching it again");
    }
    eprintln!("fetching the source package of {PACKAGE} (77 MB), for the templates and vocabularies in it");
    let partial = TemporaryFolder::create(folder.join(".fetch"))?;
    let mut command = process::pip("download");
    command.args(["--no-binary", "llama-cpp-python", "--dest"]).arg(partial.path()).arg(PACKAGE);
    run_pip(command, PACKAGE_FILE, partial.path(), None)?;
    let file = partial.path().join(PACKAGE_FILE);
    let found = sha256_of(&file)?;
    if found != PACKAGE_SHA256 {
        let remedy = "the package is not the expected one; nothing was kept";
        let path = PathBuf::from(PACKAGE_FILE);
        return Err(Error::Checksum { path, expected: PACKAGE_SHA256.to_owned(), found, remedy });
    }
    fs::rename(&file, &target).map_err(Error::io("moving the package to", &target))?;
    Ok(target)
}

/// The files appear all at once, by a rename.
fn extract(package: &Path, folder: &Path, target: &Path) -> Result<(), Error> {
    let partial = TemporaryFolder::create(folder.join(".extract"))?;
    let files = partial.path().join("llama.cpp");
    fs::create_dir(&files).map_err(Error::io("creating", &files))?;
    process::run(process::python().args(["-c", EXTRACT]).arg(package).arg(&files))?;
    fs::write(files.join(STAMP), PACKAGE_SHA256).map_err(Error::io("writing to", &files))?;
    if target.exists() {
        fs::remove_dir_all(target).map_err(Error::io("removing", target))?;
    }
    fs::rename(&files, target).map_err(Error::io("moving the references to", target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tests_read_is_extracted() {
        const PACK: &str = "import io, sys, tarfile\n\
            with tarfile.open(sys.argv[1], 'w:gz') as archive:\n    \
            for name in sys.argv[2:]:\n        \
            info = tarfile.TarInfo(name); info.size = 3\n        \
            archive.addfile(info, io.BytesIO(b'abc'))";
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("package.tar.gz");
        let names = ["models/templates/a.jinja", "models/ggml-vocab-b.gguf", "models/ggml-vocab-b.gguf.out"];
        let others = ["models/templates/README.md", "src/llama.cpp", "models/templates/../../c.jinja"];
        let members = names.iter().chain(&others).map(|name| format!("package-1/vendor/llama.cpp/{name}"));
        process::run(process::python().args(["-c", PACK]).arg(&archive).args(members)).unwrap();
        let target = folder.path().join("llama.cpp");
        extract(&archive, folder.path(), &target).unwrap();
        for name in names {
            assert_eq!(fs::read(target.join(name)).unwrap(), b"abc", "{name}");
        }
        assert_eq!(fs::read_dir(target.join("models")).unwrap().count(), 3);
        assert_eq!(fs::read_dir(target.join("models/templates")).unwrap().count(), 1);
        assert!(!folder.path().join(".extract").exists());
    }

    #[test]
    fn what_is_there_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target/references/llama.cpp");
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join(STAMP), PACKAGE_SHA256).unwrap();
        assert_eq!(ensure(&Repo::at(folder.path())).unwrap(), target);
        assert!(!target.parent().unwrap().join(PACKAGE_FILE).exists());
    }

    #[test]
    fn comparisons_and_goldens_use_the_same_package() {
        for pinned in [include_str!("../compare/requirements.txt"), include_str!("../goldens/requirements.txt")] {
            assert!(pinned.lines().any(|line| line == PACKAGE), "{pinned}");
        }
    }
}
