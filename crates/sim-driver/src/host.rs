//! Host memory and host functions that the driver was lent, and pinned memory that it owns.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::AtomicU32;

use sim_exec::memory::Words;

use crate::code::{Code, Res, refuse, require};

const PAGE_BYTES: usize = 4096;

/// A range of host memory, by address. The API's contract is that it lives until the work that uses it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    pub address: u64,
    pub bytes: u64,
}

impl HostRange {
    /// Refuses null, unless empty, and what no address space can hold.
    pub fn new(address: u64, bytes: u64) -> Res<Self> {
        require(address != 0 || bytes == 0, Code::InvalidValue, "a host pointer is null")?;
        match address.checked_add(bytes) {
            Some(end) if end < 1 << 48 => Ok(HostRange { address, bytes }),
            _ => refuse(Code::InvalidValue, format!("{bytes} bytes at {address:#x} are no host memory")),
        }
    }

    /// The part that starts `offset` bytes on.
    pub fn part(self, offset: u64, bytes: u64) -> Self {
        assert!(offset + bytes <= self.bytes, "a part of a host range reaches past its end");
        HostRange { address: self.address + offset, bytes }
    }

    /// Runs `f` on the bytes, to read.
    pub fn read<T>(self, f: impl FnOnce(&[u8]) -> T) -> T {
        if self.bytes == 0 {
            return f(&[]);
        }
        let start = std::ptr::with_exposed_provenance::<u8>(self.address as usize);
        // SAFETY: the caller of the driver lends this memory for the work at hand; it is neither null nor empty.
        f(unsafe { std::slice::from_raw_parts(start, self.bytes as usize) })
    }

    /// Runs `f` on the bytes, to write.
    pub fn write<T>(self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        if self.bytes == 0 {
            return f(&mut []);
        }
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.address as usize);
        // SAFETY: as in `read`; the caller lends it for writing, so that nobody else uses it meanwhile.
        f(unsafe { std::slice::from_raw_parts_mut(start, self.bytes as usize) })
    }

    /// The words from the 4-byte boundary at or below the start on, for a mapping.
    ///
    /// The caller keeps the mapping no longer than the memory: it is removed when the range is unregistered or freed.
    pub fn words(self) -> (u64, Words) {
        let start = self.address & !3;
        let count = (self.address + self.bytes - start).div_ceil(4) as usize;
        let pointer = std::ptr::with_exposed_provenance::<AtomicU32>(start as usize);
        // SAFETY: lent or owned memory; rounding to words stays inside its pages. Launches hold the words only while they
        // run, and the driver's lock keeps the range from being freed meanwhile.
        (start, Words::Static(unsafe { std::slice::from_raw_parts(pointer, count) }))
    }
}

/// Pinned memory: zeroed pages that the driver owns.
#[derive(Debug)]
pub struct PinnedBlock {
    pub range: HostRange,
    layout: Layout,
}

impl PinnedBlock {
    pub fn new(bytes: u64) -> Res<Self> {
        let layout = usize::try_from(bytes)
            .ok()
            .and_then(|n| Layout::from_size_align(n.checked_next_multiple_of(PAGE_BYTES)?, PAGE_BYTES).ok());
        let Some(layout) = layout.filter(|l| l.size() > 0) else {
            return refuse(Code::InvalidValue, format!("{bytes} bytes of pinned memory"));
        };
        // SAFETY: the layout is not empty.
        let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
        if pointer.is_null() {
            return refuse(Code::OutOfMemory, format!("the host has no {bytes} bytes left to pin"));
        }
        Ok(PinnedBlock { range: HostRange { address: pointer.expose_provenance() as u64, bytes }, layout })
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(self.range.address as usize);
        // SAFETY: from `alloc_zeroed` with this layout, and freed only here; mappings of it were removed before.
        unsafe { std::alloc::dealloc(pointer, self.layout) };
    }
}

/// A host function and its argument.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    pub function: extern "C" fn(*mut c_void),
    /// Address of the caller's data.
    pub data: u64,
}

thread_local! {
    static IN_HOST_CALL: Cell<bool> = const { Cell::new(false) };
}

impl HostCall {
    /// Calls it. Calls into the driver from inside it are refused, as the API says.
    pub fn run(self) {
        IN_HOST_CALL.set(true);
        (self.function)(std::ptr::with_exposed_provenance_mut(self.data as usize));
        IN_HOST_CALL.set(false);
    }

    /// Whether this thread is inside a host function.
    pub fn is_running() -> bool {
        IN_HOST_CALL.get()
    }
}
