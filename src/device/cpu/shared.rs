//! Memory that all threads of a step write, each its own part.
#![allow(unsafe_code)]

use memmap2::MmapMut;

use crate::device::host::HostMemory;
use crate::device::{DeviceError, Purpose};

/// An anonymous, zeroed, page-aligned allocation, shared by the pool's threads. Which thread writes what, and when, is up to the stages: items of one phase write disjoint ranges, and a barrier or a phase counter lies between writer and reader.
#[derive(Debug)]
pub struct Shared {
    map: MmapMut,
    base: *mut u8,
}

// SAFETY: the pointer is to the map this struct owns; accesses go through the unsafe methods below.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Takes `bytes` zeroed bytes from the system, with huge pages where it offers them.
    pub fn new(host: &mut HostMemory, purpose: Purpose, bytes: u64) -> Result<Shared, DeviceError> {
        host.take(purpose, bytes)?;
        let len = usize::try_from(bytes.max(1)).map_err(|e| HostMemory::refused(purpose, bytes, e))?;
        let mut map = MmapMut::map_anon(len).map_err(|e| HostMemory::refused(purpose, bytes, e))?;
        #[cfg(target_os = "linux")]
        // Fewer TLB misses while streaming weights; a kernel without huge pages says no, which is fine.
        let _ = map.advise(memmap2::Advice::HugePage);
        let base = map.as_mut_ptr();
        Ok(Shared { map, base })
    }

    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The whole allocation, while nobody else uses it.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// The first element.
    pub fn ptr<T: bytemuck::Pod>(&self) -> *mut T {
        self.base.cast()
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// Nobody writes the range while the slice lives.
    pub unsafe fn slice<T: bytemuck::Pod>(&self, start: usize, len: usize) -> &[T] {
        assert!((start + len) * size_of::<T>() <= self.map.len());
        // SAFETY: in bounds, aligned (pages), initialised (zeroed), any bits are a `T`; no writers by contract.
        unsafe { std::slice::from_raw_parts(self.ptr::<T>().add(start), len) }
    }

    /// Elements `start..start + len`, for writing.
    ///
    /// # Safety
    /// Nobody else reads or writes the range while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut<T: bytemuck::Pod>(&self, start: usize, len: usize) -> &mut [T] {
        assert!((start + len) * size_of::<T>() <= self.map.len());
        // SAFETY: as in `slice`; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr::<T>().add(start), len) }
    }
}
