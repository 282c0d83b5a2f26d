//! Files mapped into memory, and what happens when one shrinks while it is read.
//!
//! Reading a mapped page that the file no longer has raises SIGBUS. While a [`MappedFile`] is alive, such a fault inside it
//! ends the process with one line on stderr and status 1 instead of a crash; every other SIGBUS takes the course that it
//! had before.
#![allow(unsafe_code)]

use super::WeightsError;
use memmap2::Mmap;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
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
        let mut path_bytes: Box<[u8]> = path.as_os_str().as_bytes().into();
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
    restore_previous(signal);
    if !is_fault {
        // Sent by `kill`: nothing will fault again after the return.
        // SAFETY: the signal is blocked here and delivered, with the action just restored, when the handler returns.
        unsafe { libc::raise(signal) };
    }
}

fn restore_previous(signal: libc::c_int) {
    // SAFETY: an all-zero sigaction is valid: default action, empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let previous = PREVIOUS.get().unwrap_or(&default);
    // SAFETY: `previous` outlives the call; the old action is not asked for.
    unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
}

/// Writes without locks or allocation; a failure has nowhere to be reported.
fn write_stderr(bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}
