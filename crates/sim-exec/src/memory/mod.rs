//! Device memory: a 64-bit address space with allocations, guard gaps and a record of what was freed.

mod allocation;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use allocation::{Allocation, Words};

/// Every allocation starts at a multiple of this, as `cuMemAlloc` promises.
pub const ALLOCATION_ALIGN: u64 = 256;
/// Unmapped bytes after every allocation, so that a small overrun never lands in a neighbour.
const GUARD_BYTES: u64 = 4096;
const FIRST_ADDRESS: u64 = 0x0000_0007_0000_0000;

/// Generic addresses of the spaces that are not global. They lie above every user-space pointer of the host, so that
/// mapped host memory can keep its own addresses.
pub const SHARED_WINDOW: u64 = 0x0001_0000_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x0002_0000_0000_0000;
pub const PARAM_WINDOW: u64 = 0x0003_0000_0000_0000;
/// Addresses of functions: nothing can be read there.
pub const CODE_WINDOW: u64 = 0x0004_0000_0000_0000;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;
/// In a shared::cluster address, bits 24.. hold one plus the rank of the CTA; zero means the executing CTA.
pub const CLUSTER_RANK_SHIFT: u32 = 24;

/// Why a host-side memory operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    #[error("out of device memory: asked for {asked} bytes, {free} of {total} are free")]
    OutOfMemory { asked: u64, free: u64, total: u64 },
    #[error("an allocation of 0 bytes")]
    Empty,
    #[error("address {address:#x} is not the start of a live allocation")]
    NotAnAllocation { address: u64 },
    #[error("{bytes} bytes at {address:#x} do not lie inside one live allocation")]
    OutOfBounds { address: u64, bytes: u64 },
    #[error("a mapping of {bytes} bytes at {address:#x} overlaps another, or is not 4-byte aligned")]
    BadMapping { address: u64, bytes: u64 },
}

/// What an address that is not live is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressHistory {
    /// Inside an allocation that was freed: its base, length and label.
    Freed(u64, u64, String),
    /// Nearest live allocation below: base, length and label.
    Near(u64, u64, String),
    Unknown,
}

#[derive(Debug, Default)]
struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    /// Addresses are never used again, so that every use after free is seen: base → (bytes, label).
    freed: BTreeMap<u64, (u64, String)>,
    next: u64,
    used_bytes: u64,
}

/// All memory that kernels can address globally.
#[derive(Debug)]
pub struct DeviceMemory {
    total_bytes: u64,
    table: Mutex<Table>,
}

impl DeviceMemory {
    /// A device with `total_bytes` of memory.
    pub fn new(total_bytes: u64) -> Self {
        DeviceMemory { total_bytes, table: Mutex::new(Table { next: FIRST_ADDRESS, ..Table::default() }) }
    }

    /// As [`DeviceMemory::new`], with addresses from `first_address` on: several devices share one address space.
    pub fn starting_at(total_bytes: u64, first_address: u64) -> Self {
        let next = first_address.next_multiple_of(ALLOCATION_ALIGN);
        DeviceMemory { total_bytes, table: Mutex::new(Table { next, ..Table::default() }) }
    }

    /// Allocates device memory, unwritten.
    ///
    /// # Errors
    /// `Empty`, or `OutOfMemory` when the device's capacity is exceeded.
    pub fn alloc(&self, bytes: u64, label: &str) -> Result<u64, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::Empty);
        }
        let mut table = self.lock();
        let free = self.total_bytes - table.used_bytes;
        if bytes > free {
            return Err(MemoryError::OutOfMemory { asked: bytes, free, total: self.total_bytes });
        }
        let base = table.next;
        table.next = (base + bytes + GUARD_BYTES).next_multiple_of(ALLOCATION_ALIGN);
        table.used_bytes += bytes;
        table.live.insert(base, Arc::new(Allocation::device(base, bytes, label.to_owned())));
        Ok(base)
    }

    /// Makes host memory addressable by kernels, at `address` (its host address, for unified addressing) or, with
    /// `None`, wherever there is room. Returns the device address.
    ///
    /// # Errors
    /// `BadMapping` when the range overlaps a live allocation or is not 4-byte aligned.
    pub fn map_host(&self, words: Words, bytes: u64, address: Option<u64>, label: &str) -> Result<u64, MemoryError> {
        let mut table = self.lock();
        let base = match address {
            Some(address) => address,
            None => {
                let base = table.next;
                table.next = (base + bytes + GUARD_BYTES).next_multiple_of(ALLOCATION_ALIGN);
                base
            }
        };
        let overlaps = table.live.range(..base + bytes).next_back().is_some_and(|(b, a)| b + a.bytes > base);
        if overlaps || base % 4 != 0 || bytes == 0 || base + bytes > SHARED_WINDOW {
            return Err(MemoryError::BadMapping { address: base, bytes });
        }
        table.freed.retain(|b, (len, _)| *b >= base + bytes || b + *len <= base);
        table.live.insert(base, Arc::new(Allocation::mapped(base, bytes, label.to_owned(), words)));
        Ok(base)
    }

    /// Frees an allocation or a mapping by its first address.
    ///
    /// # Errors
    /// `NotAnAllocation`.
    pub fn free(&self, base: u64) -> Result<(), MemoryError> {
        let mut table = self.lock();
        let allocation = table.live.remove(&base).ok_or(MemoryError::NotAnAllocation { address: base })?;
        if !allocation.is_mapped() {
            table.used_bytes -= allocation.bytes;
        }
        table.freed.insert(base, (allocation.bytes, allocation.label.clone()));
        Ok(())
    }

    /// The live allocation that holds `address`.
    pub fn find(&self, address: u64) -> Option<Arc<Allocation>> {
        let table = self.lock();
        let (_, allocation) = table.live.range(..=address).next_back()?;
        (address < allocation.base + allocation.bytes).then(|| allocation.clone())
    }

    /// Bytes allocated, without mappings.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// Capacity in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Copies host bytes to the device.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, data.len() as u64)?;
        allocation.write_bytes(offset, data);
        Ok(())
    }

    /// Copies device bytes to the host.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        if out.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.range(address, out.len() as u64)?;
        allocation.read_bytes(offset, out);
        Ok(())
    }

    /// Copies between device addresses; unwritten bytes stay unwritten.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, from) = self.range(from, bytes)?;
        let (target, to) = self.range(to, bytes)?;
        target.copy_from(to, &source, from, bytes);
        Ok(())
    }

    /// Fills `count` elements with `pattern` (1, 2 or 4 bytes).
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        self.write(address, &pattern.repeat(count as usize))
    }

    /// What is known about an address outside every live allocation, for messages.
    pub fn history(&self, address: u64) -> AddressHistory {
        let table = self.lock();
        if let Some((&base, (bytes, label))) = table.freed.range(..=address).next_back()
            && address < base + bytes
        {
            return AddressHistory::Freed(base, *bytes, label.clone());
        }
        match table.live.range(..=address).next_back() {
            Some((&base, a)) => AddressHistory::Near(base, a.bytes, a.label.clone()),
            None => AddressHistory::Unknown,
        }
    }

    /// The live allocations in order of address: what a launch sees.
    pub fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.lock().live.values().cloned().collect()
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let allocation = self.find(address).ok_or(MemoryError::OutOfBounds { address, bytes })?;
        let offset = address - allocation.base;
        if bytes > allocation.bytes - offset {
            return Err(MemoryError::OutOfBounds { address, bytes });
        }
        Ok((allocation, offset))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic in another thread leaves the table whole: every update is one insertion or removal.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
