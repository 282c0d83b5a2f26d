//! Memory pools and stream-ordered allocation. Freed memory goes back in stream order and is never used again, so that every use
//! after it is seen.

use super::Driver;
use super::capture::Status;
use super::fault::FaultPoint;
use super::memory::{Range, RangeKind};
use super::table::Handle;
use super::work::{Free, Work};
use crate::code::{Code, Res, refuse, require};

/// `CU_MEMPOOL_ATTR_*` by number.
const RELEASE_THRESHOLD: i32 = 4;
const RESERVED_HIGH: i32 = 6;
const USED_HIGH: i32 = 8;

/// One pool.
#[derive(Debug)]
pub struct Pool {
    pub device: usize,
    pub is_default: bool,
    /// 0 for no limit.
    pub bytes_max: u64,
    pub used_bytes: u64,
    used_bytes_high: u64,
    release_threshold: u64,
    /// Reuse by event dependencies, opportunistic, by internal dependencies.
    reuse: [i32; 3],
}

impl Pool {
    pub fn new(device: usize, is_default: bool) -> Self {
        Pool {
            device,
            is_default,
            bytes_max: 0,
            used_bytes: 0,
            used_bytes_high: 0,
            release_threshold: 0,
            reuse: [1; 3],
        }
    }
}

/// An attribute's value: the first three are 32-bit, the others 64-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolValue {
    Flag(i32),
    Bytes(u64),
}

impl Driver {
    pub fn pool_create(&mut self, device: i32, bytes_max: u64) -> Res<Handle> {
        let device = self.device(device)?.ordinal;
        Ok(self.pools.insert(Pool { bytes_max, ..Pool::new(device, false) }))
    }

    pub fn pool_destroy(&mut self, pool: Handle) -> Res {
        require(!self.pools.get(pool)?.is_default, Code::InvalidValue, "a default pool cannot be destroyed")?;
        self.pools.remove(pool)?;
        for device in self.devices.iter_mut().filter(|d| d.current_pool == pool) {
            device.current_pool = device.default_pool;
        }
        Ok(())
    }

    pub fn pool_set_current(&mut self, ordinal: i32, pool: Handle) -> Res {
        let owner = self.pools.get(pool)?.device;
        let device = self.device_mut(ordinal)?;
        require(owner == device.ordinal, Code::InvalidValue, "the pool belongs to another device")?;
        device.current_pool = pool;
        Ok(())
    }

    pub fn pool_attribute(&self, pool: Handle, attribute: i32) -> Res<PoolValue> {
        let pool = self.pools.get(pool)?;
        Ok(match attribute {
            1..=3 => PoolValue::Flag(pool.reuse[attribute as usize - 1]),
            RELEASE_THRESHOLD => PoolValue::Bytes(pool.release_threshold),
            // Nothing is kept beyond what is used.
            5 | 7 => PoolValue::Bytes(pool.used_bytes),
            RESERVED_HIGH | USED_HIGH => PoolValue::Bytes(pool.used_bytes_high),
            _ => return refuse(Code::InvalidValue, format!("{attribute} is no pool attribute")),
        })
    }

    pub fn pool_set_attribute(&mut self, pool: Handle, attribute: i32, value: PoolValue) -> Res {
        let pool = self.pools.get_mut(pool)?;
        match (attribute, value) {
            (1..=3, PoolValue::Flag(flag)) => pool.reuse[attribute as usize - 1] = flag,
            (RELEASE_THRESHOLD, PoolValue::Bytes(bytes)) => pool.release_threshold = bytes,
            // High-water marks can only be reset.
            (RESERVED_HIGH | USED_HIGH, PoolValue::Bytes(0)) => pool.used_bytes_high = pool.used_bytes,
            _ => return refuse(Code::InvalidValue, format!("attribute {attribute} cannot be set to {value:?}")),
        }
        Ok(())
    }

    /// Allocates in stream order, from a pool or from the current one of the stream's device.
    pub fn alloc_async(&mut self, bytes: u64, pool: Option<Handle>, stream: Handle) -> Res<u64> {
        let stream = self.stream(stream)?;
        require(bytes > 0, Code::InvalidValue, "an allocation of 0 bytes")?;
        self.stream_ordered_memory(stream)?;
        self.fault(FaultPoint::Alloc)?;
        let context = self.streams.get(stream)?.context;
        let pool = pool.unwrap_or(self.devices[self.contexts.get(context)?.device].current_pool);
        let (device, used, bytes_max) = self.pools.get(pool).map(|p| (p.device, p.used_bytes, p.bytes_max))?;
        require(bytes_max == 0 || used + bytes <= bytes_max, Code::OutOfMemory, "the pool is full")?;
        let address = self.alloc_on(context, device, bytes, RangeKind::Pool(pool))?;
        let pool = self.pools.get_mut(pool)?;
        pool.used_bytes += bytes;
        pool.used_bytes_high = pool.used_bytes_high.max(pool.used_bytes);
        Ok(address)
    }

    pub fn free_async(&mut self, address: u64, stream: Handle) -> Res {
        let stream = self.stream(stream)?;
        let (device, bytes, pool) = match self.memory.get(&address) {
            Some(Range { kind: RangeKind::Device, device, bytes, .. }) => (*device, *bytes, None),
            Some(Range { kind: RangeKind::Pool(pool), device, bytes, .. }) => (*device, *bytes, Some(*pool)),
            _ => return refuse(Code::InvalidValue, format!("{address:#x} is not the start of a live allocation")),
        };
        self.stream_ordered_memory(stream)?;
        self.memory.remove(&address);
        self.report.free(false, bytes);
        self.submit(stream, Work::Free(Free { device, address, bytes, pool }))
    }

    /// Memory nodes of graphs are not simulated.
    fn stream_ordered_memory(&mut self, stream: Handle) -> Res {
        self.legacy_allowed(stream)?;
        if self.capture_status(stream)? == Status::None {
            return Ok(());
        }
        if let Some((id, _)) = self.streams.get(stream)?.capture.clone() {
            self.invalidate(id);
        }
        refuse(Code::NotSupported, "graphs with memory nodes are not simulated: allocate before the capture")
    }
}
