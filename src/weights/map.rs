//! Files mapped into memory, and what happens when one shrinks while it is read.
//!
//! Reading a mapped page that the file no longer has raises SIGBUS. While a [`MappedFile`] is alive, such a fault inside it
//! ends the process with one line on stderr and status 1 instead of a crash; every other SIGBUS takes the course that it
//! had before.
#![allow(unsafe_code)]

use super::{WeightsError, printable};
use memmap2::Mmap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Most files mapped at the same time: the signal handler looks them up in a table of fixed size.
pub const MAPS_MAX: usize = 256;

/// A whole file, mapped read-only.
pub struct MappedFile {
    // Declared first: a range must leave the handler's table before its addresses are unmapped.
    registration: Registration,
    map: Mmap,
    path: PathBuf,
    identity: Identity,
}

/// What tells whether a path still names the file that was opened, with the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

impl MappedFile {
    /// Maps the regular file at `path`.
    pub fn open(path: &Path) -> Result<MappedFile, WeightsError> {
        let io = |source| WeightsError::Io { path: path.display().to_string(), source };
        // Before opening: to open a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(WeightsError::invalid(path.display(), "a regular file", "a folder, pipe or device"));
        }
        let file = File::open(path).map_err(io)?;
        let identity = Identity::of(&file.metadata().map_err(io)?);
        // SAFETY: the mapping is private and read-only. Another process may still truncate or overwrite the file: the
        // former is caught by the handler below, the latter by `verify_unchanged`, and the bytes are only ever read as
        // plain numbers, for which any value is valid once the header has been copied out of the map.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let registration = Registration::new(path, &map)?;
        Ok(MappedFile { registration, map, path: path.to_owned(), identity })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error if the file at the path is no longer the one that was opened (device and inode), or its length or time of
    /// modification differ. To be called once everything has been copied.
    pub fn verify_unchanged(&self) -> Result<(), WeightsError> {
        let io = |source| WeightsError::Io { path: self.path.display().to_string(), source };
        let now = Identity::of(&std::fs::metadata(&self.path).map_err(io)?);
        if now == self.identity {
            return Ok(());
        }
        let then = self.identity;
        Err(WeightsError::Changed {
            path: self.path.display().to_string(),
            expected: format!("{} bytes modified at {}.{:09}", then.bytes, then.modified_s, then.modified_ns),
            found: format!("{} bytes modified at {}.{:09}", now.bytes, now.modified_s, now.modified_ns),
        })
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path).field("slot", &self.registration.slot).finish()
    }
}

/// One live range of the handler's table. `start` is 0 while the slot is free and [`CLAIMED`] while it is filled in.
struct Slot {
    start: AtomicUsize,
    bytes: AtomicUsize,
    path: AtomicPtr<u8>,
    path_bytes: AtomicUsize,
}

impl Slot {
    fn contains(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        // The kernel maps whole pages, and a fault on the last one may lie beyond the file's length.
        start > CLAIMED
            && address >= start
            && address - start < self.bytes.load(Ordering::Relaxed).next_multiple_of(4096)
    }
}

/// No mapping starts here: it is not a page's address.
const CLAIMED: usize = 1;

static SLOTS: [Slot; MAPS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        path: AtomicPtr::new(std::ptr::null_mut()),
        path_bytes: AtomicUsize::new(0),
    }
}; MAPS_MAX];

/// What SIGBUS did before the first map, restored for faults that are not ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A slot of [`SLOTS`], freed on drop.
struct Registration {
    slot: usize,
    /// Keeps the bytes alive that the slot points to.
    _path: Box<[u8]>,
}

impl Registration {
    fn new(path: &Path, map: &Mmap) -> Result<Self, WeightsError> {
        install_handler().map_err(|source| WeightsError::Io { path: path.display().to_string(), source })?;
        // The handler cannot escape: what it prints is made ready here.
        let mut path_bytes: Box<[u8]> = printable(&path.to_string_lossy()).as_bytes().into();
        for (index, slot) in SLOTS.iter().enumerate() {
            if slot.start.compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            slot.bytes.store(map.len(), Ordering::Relaxed);
            slot.path.store(path_bytes.as_mut_ptr(), Ordering::Relaxed);
            slot.path_bytes.store(path_bytes.len(), Ordering::Relaxed);
            slot.start.store(map.as_ptr() as usize, Ordering::Release);
            return Ok(Registration { slot: index, _path: path_bytes });
        }
        let found = format!("{} is one more", path.display());
        Err(WeightsError::invalid("mapped model files", format!("at most {MAPS_MAX}"), found))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        SLOTS[self.slot].start.store(0, Ordering::Release);
    }
}

/// Installs the handler once for the process; without a live map it only hands on.
fn install_handler() -> std::io::Result<()> {
    let mut failure = None;
    PREVIOUS.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid: default action, empty mask.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        let mut ours = previous;
        ours.sa_sigaction = on_sigbus as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both structs outlive the call and `on_sigbus` has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(libc::SIGBUS, &ours, &mut previous) } != 0 {
            failure = Some(std::io::Error::last_os_error());
        }
        previous
    });
    failure.map_or(Ok(()), Err)
}

/// The handler. Only async-signal-safe calls: atomics, `write`, `_exit`, `sigaction`, `raise`.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    // SAFETY: as above; for a signal that no fault raised the address means nothing and is not used.
    let address = unsafe { (*info).si_addr() } as usize;
    let is_fault = code > 0;
    if is_fault && let Some(slot) = SLOTS.iter().find(|slot| slot.contains(address)) {
        write_stderr(b"error: the model file changed while it was being read: ");
        // SAFETY: a slot that contains an address is complete, and its path lives until the slot has been freed, which
        // cannot happen while a thread reads the map.
        write_stderr(unsafe {
            std::slice::from_raw_parts(slot.path.load(Ordering::Relaxed), slot.path_bytes.load(Ordering::Relaxed))
        });
        write_stderr(b" was truncated or overwritten\n");
        // SAFETY: ends the process at once, without destructors or exit handlers.
        unsafe { libc::_exit(1) };
    }
    // SAFETY: an all-zero sigaction is valid: default action, empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    if is_fault {
        // The instruction faults again after the return and meets what was there before us.
        set_action(signal, PREVIOUS.get().unwrap_or(&default));
    } else {
        // Sent by `kill`: nothing would fault again, so the previous handler could miss it.
        set_action(signal, &default);
        // SAFETY: the signal is blocked here and delivered, with the default action, when the handler returns.
        unsafe { libc::raise(signal) };
    }
}

fn set_action(signal: libc::c_int, action: &libc::sigaction) {
    // SAFETY: `action` outlives the call; the old action is not asked for.
    unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) };
}

/// Writes without locks or allocation; a failure has nowhere to be reported.
fn write_stderr(bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    /// Runs the test `name` of this binary in a process of its own, with the file that it is to map.
    fn in_child(name: &str, path: &Path) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = format!("weights::map::tests::{name}");
        command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env("KILN_TEST_MAPPED_FILE", path);
        command.output().unwrap()
    }

    /// The file to map, if this process is such a child.
    fn child_path() -> Option<PathBuf> {
        std::env::var_os("KILN_TEST_MAPPED_FILE").map(PathBuf::from)
    }

    fn folder_with_file(bytes: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, vec![7; bytes]).unwrap();
        (folder, path)
    }

    fn truncate(path: &Path, bytes: u64) {
        File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_ends_the_process_with_one_line() {
        if let Some(path) = child_path() {
            let _other = MappedFile::open(&std::env::current_exe().unwrap()).unwrap();
            let map = MappedFile::open(&path).unwrap();
            assert_eq!(map.bytes()[100_000], 7);
            truncate(&path, 4096);
            let sum: u64 = map.bytes().iter().map(|b| u64::from(*b)).sum();
            panic!("read {sum} from pages that are gone");
        }
        let (_folder, path) = folder_with_file(200_000);
        let output = in_child("a_file_that_shrinks_while_it_is_read_ends_the_process_with_one_line", &path);
        let expected = format!(
            "error: the model file changed while it was being read: {} was truncated or overwritten\n",
            path.display()
        );
        assert_eq!((output.status.code(), output.status.signal()), (Some(1), None), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    }

    #[test]
    fn faults_in_other_maps_take_their_usual_course() {
        if let Some(path) = child_path() {
            let _ours = MappedFile::open(&std::env::current_exe().unwrap()).unwrap();
            // A map that was ours once is no longer.
            drop(MappedFile::open(&path).unwrap());
            // SAFETY: the file is truncated below and the fault that this raises is the point.
            let foreign = unsafe { Mmap::map(&File::open(&path).unwrap()) }.unwrap();
            truncate(&path, 0);
            let first = std::hint::black_box(&foreign)[0];
            panic!("read {first} from a page that is gone");
        }
        let (_folder, path) = folder_with_file(5000);
        let output = in_child("faults_in_other_maps_take_their_usual_course", &path);
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("model file"), "{output:?}");
    }

    #[test]
    fn a_signal_that_somebody_sent_ends_the_process() {
        if let Some(path) = child_path() {
            let _map = MappedFile::open(&path).unwrap();
            // SAFETY: raises a signal in this process, which is meant to die of it.
            unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
            std::thread::sleep(std::time::Duration::from_secs(5));
            panic!("outlived the signal");
        }
        let (_folder, path) = folder_with_file(5000);
        let output = in_child("a_signal_that_somebody_sent_ends_the_process", &path);
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    }

    #[test]
    fn maps_are_limited_and_their_places_reused() {
        if let Some(path) = child_path() {
            for _ in 0..2 {
                let maps: Vec<_> = (0..MAPS_MAX).map(|_| MappedFile::open(&path).unwrap()).collect();
                let error = MappedFile::open(&path).expect_err("one too many").to_string();
                assert!(error.starts_with("mapped model files: expected at most 256, found"), "{error}");
                drop(maps);
            }
            return;
        }
        let (_folder, path) = folder_with_file(10);
        let output = in_child("maps_are_limited_and_their_places_reused", &path);
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_file_that_changed_since_it_was_opened_is_noticed() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("longer", |path| truncate(path, 5001)),
            ("shorter", |path| truncate(path, 4999)),
            ("overwritten", |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1)).unwrap();
            }),
            ("replaced", |path| {
                let modified = std::fs::metadata(path).unwrap().modified().unwrap();
                let other = path.with_extension("new");
                std::fs::write(&other, [7; 5000]).unwrap();
                File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
                std::fs::rename(&other, path).unwrap();
            }),
        ];
        for (what, change) in changes {
            let (_folder, path) = folder_with_file(5000);
            let map = MappedFile::open(&path).unwrap();
            map.verify_unchanged().unwrap();
            change(&path);
            let error = map.verify_unchanged().expect_err(what);
            assert!(matches!(error, WeightsError::Changed { .. }), "{what}: {error}");
            assert!(error.to_string().starts_with(&format!("{} changed", path.display())), "{what}: {error}");
        }
        let (_folder, path) = folder_with_file(5000);
        let map = MappedFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = map.verify_unchanged().expect_err("removed");
        assert!(matches!(error, WeightsError::Io { .. }), "{error}");
    }
}
