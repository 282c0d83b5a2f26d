//! The registry of addresses: every allocation, mapping and module variable, so that each pointer is known or refused.

use sim_exec::memory::MemoryError;

use super::Driver;
use super::fault::FaultPoint;
use super::table::Handle;
use crate::code::{Code, Res, refuse, require};
use crate::host::{HostRange, PinnedBlock};

/// What is behind a range of addresses.
#[derive(Debug)]
pub enum RangeKind {
    /// `cuMemAlloc`.
    Device,
    /// `cuMemAllocAsync` and `cuMemAllocFromPoolAsync`.
    Pool(Handle),
    /// `cuMemAllocManaged`: host memory that the device maps.
    Managed(PinnedBlock),
    /// `cuMemHostAlloc`.
    Pinned(PinnedBlock),
    /// `cuMemHostRegister`.
    Registered,
    /// A variable of a module.
    Global,
}

/// One range.
#[derive(Debug)]
pub struct Range {
    pub bytes: u64,
    pub kind: RangeKind,
    pub context: Handle,
    pub device: usize,
    /// Flags of `cuMemHostAlloc` and `cuMemHostRegister`.
    pub flags: u32,
    /// Where the mapping of host memory starts.
    pub mapped_at: u64,
}

impl Range {
    pub fn is_host(&self) -> bool {
        matches!(self.kind, RangeKind::Managed(_) | RangeKind::Pinned(_) | RangeKind::Registered)
    }

    /// Whether the program allocated it, and must free it.
    pub fn is_allocated(&self) -> bool {
        !matches!(self.kind, RangeKind::Registered | RangeKind::Global)
    }
}

/// A memory error of the executor as the driver reports it.
pub fn memory_refusal<T>(error: MemoryError) -> Res<T> {
    let code = match error {
        MemoryError::OutOfMemory { .. } => Code::OutOfMemory,
        _ => Code::InvalidValue,
    };
    refuse(code, error.to_string())
}

impl Driver {
    /// The range that holds an address, and its first address.
    pub fn range_of(&self, address: u64) -> Option<(u64, &Range)> {
        let (&base, range) = self.memory.range(..=address).next_back()?;
        (address - base < range.bytes).then_some((base, range))
    }

    /// The device whose memory `bytes` bytes at `address` are; the current one for mapped host memory.
    pub fn device_of(&self, address: u64, bytes: u64) -> Res<usize> {
        let Some((base, range)) = self.range_of(address) else {
            return refuse(Code::InvalidValue, format!("{address:#x} is no device address"));
        };
        require(
            bytes <= range.bytes - (address - base),
            Code::InvalidValue,
            format!("{bytes} bytes at {address:#x} reach past the allocation of {} bytes at {base:#x}", range.bytes),
        )?;
        if range.is_host() { Ok(self.current()?.device) } else { Ok(range.device) }
    }

    /// Refuses host ranges that are device memory, or that reach past the end of pinned memory.
    pub fn check_host(&self, host: HostRange) -> Res {
        let Some((base, range)) = self.range_of(host.address).filter(|_| host.bytes > 0) else { return Ok(()) };
        require(
            range.is_host(),
            Code::InvalidValue,
            format!("{:#x} is a device address, not the host's", host.address),
        )?;
        require(
            matches!(range.kind, RangeKind::Registered) || host.bytes <= range.bytes - (host.address - base),
            Code::InvalidValue,
            format!("{} bytes at {:#x} reach past the pinned memory", host.bytes, host.address),
        )
    }

    pub fn alloc(&mut self, bytes: u64) -> Res<u64> {
        let context = self.context()?;
        require(bytes > 0, Code::InvalidValue, "an allocation of 0 bytes")?;
        self.refuse_unsafe_call()?;
        self.fault(FaultPoint::Alloc)?;
        let device = self.current()?.device;
        self.alloc_on(context, device, bytes, RangeKind::Device)
    }

    /// Allocates memory of a device and registers it.
    pub fn alloc_on(&mut self, context: Handle, device: usize, bytes: u64, kind: RangeKind) -> Res<u64> {
        let label = format!("allocation of {bytes} bytes");
        let address = self.devices[device].gpu.memory.alloc(bytes, &label).or_else(memory_refusal)?;
        self.memory.insert(address, Range { bytes, kind, context, device, flags: 0, mapped_at: address });
        self.report.allocation(false, bytes);
        Ok(address)
    }

    pub fn free(&mut self, address: u64) -> Res {
        self.context()?;
        let is_freeable = match self.memory.get(&address).map(|r| &r.kind) {
            Some(RangeKind::Device | RangeKind::Managed(_) | RangeKind::Pool(_)) => true,
            Some(_) => return refuse(Code::InvalidValue, format!("{address:#x} is not from cuMemAlloc")),
            None => false,
        };
        require(is_freeable, Code::InvalidValue, format!("{address:#x} is not the start of a live allocation"))?;
        self.refuse_unsafe_call()?;
        self.remove_when_idle(address);
        Ok(())
    }

    /// Removes a range when all that was submitted has run, as freeing and unmapping wait on a device.
    fn remove_when_idle(&mut self, address: u64) {
        self.wait_and(self.queue.of(|_| true), Driver::range_give_back, address);
    }

    /// Removes a range that its owner gave back; what a context takes with it when it goes is not reported.
    fn range_give_back(&mut self, address: u64) -> Res {
        if let Some(range) = self.memory.get(&address)
            && range.is_allocated()
        {
            self.report.free(range.is_host(), range.bytes);
        }
        self.range_remove(address)
    }

    /// Unmaps or frees a range, whatever it is.
    pub fn range_remove(&mut self, address: u64) -> Res {
        let Some(range) = self.memory.remove(&address) else {
            return refuse(Code::InvalidValue, format!("{address:#x} is not registered"));
        };
        if let RangeKind::Pool(pool) = range.kind
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used_bytes -= range.bytes;
        }
        if range.is_host() {
            self.devices.iter().try_for_each(|d| d.gpu.memory.free(range.mapped_at)).or_else(memory_refusal)
        } else {
            self.devices[range.device].gpu.memory.free(address).or_else(memory_refusal)
        }
    }

    /// Pinned memory, at its host address on every device.
    pub fn host_alloc(&mut self, bytes: u64, flags: u32) -> Res<u64> {
        require(flags & !7 == 0, Code::InvalidValue, format!("host allocation flags {flags:#x}"))?;
        self.alloc_host_memory(bytes, flags, RangeKind::Pinned)
    }

    pub fn managed_alloc(&mut self, bytes: u64, flags: u32) -> Res<u64> {
        require(matches!(flags, 1 | 2), Code::InvalidValue, format!("managed allocation flags {flags:#x}"))?;
        self.alloc_host_memory(bytes, 0, RangeKind::Managed)
    }

    fn alloc_host_memory(&mut self, bytes: u64, flags: u32, kind: fn(PinnedBlock) -> RangeKind) -> Res<u64> {
        let context = self.context()?;
        require(bytes > 0, Code::InvalidValue, "an allocation of 0 bytes")?;
        self.refuse_unsafe_call()?;
        self.fault(FaultPoint::Alloc)?;
        let block = PinnedBlock::new(bytes)?;
        let host = block.range;
        self.map(host, context, flags, kind(block))?;
        self.report.allocation(true, bytes);
        Ok(host.address)
    }

    pub fn host_free(&mut self, address: u64) -> Res {
        self.context()?;
        match self.memory.get(&address).map(|r| &r.kind) {
            Some(RangeKind::Pinned(_)) => {}
            _ => return refuse(Code::InvalidValue, format!("{address:#x} is not from cuMemHostAlloc, or was freed")),
        }
        self.refuse_unsafe_call()?;
        self.remove_when_idle(address);
        Ok(())
    }

    pub fn host_register(&mut self, host: HostRange, flags: u32) -> Res {
        let context = self.context()?;
        require(flags & !15 == 0, Code::InvalidValue, format!("host registration flags {flags:#x}"))?;
        require(host.bytes > 0, Code::InvalidValue, "a registration of 0 bytes")?;
        let end = host.address + host.bytes;
        let below = self.memory.range(..end).next_back();
        let overlaps = below.is_some_and(|(base, range)| base + range.bytes > host.address);
        require(!overlaps, Code::HostMemoryAlreadyRegistered, "part of the range is registered already")?;
        self.refuse_unsafe_call()?;
        self.map(host, context, flags, RangeKind::Registered)
    }

    pub fn host_unregister(&mut self, address: u64) -> Res {
        self.context()?;
        match self.memory.get(&address).map(|r| &r.kind) {
            Some(RangeKind::Registered) => {}
            _ => return refuse(Code::HostMemoryNotRegistered, format!("{address:#x} is not registered")),
        }
        self.refuse_unsafe_call()?;
        self.remove_when_idle(address);
        Ok(())
    }

    fn map(&mut self, host: HostRange, context: Handle, flags: u32, kind: RangeKind) -> Res {
        let (start, words) = host.words();
        let bytes = host.address + host.bytes - start;
        for device in &self.devices {
            let mapped = device.gpu.memory.map_host(words.clone(), bytes, Some(start), "host memory");
            if let Err(error) = mapped {
                for before in &self.devices[..device.ordinal] {
                    // Mapped a moment ago.
                    let _ = before.gpu.memory.free(start);
                }
                return refuse(Code::HostMemoryAlreadyRegistered, error.to_string());
            }
        }
        let device = self.contexts.get(context)?.device;
        let range = Range { bytes: host.bytes, kind, context, device, flags, mapped_at: start };
        self.memory.insert(host.address, range);
        Ok(())
    }

    /// The device address of pinned memory: the host's, as addresses are unified.
    pub fn host_device_pointer(&self, address: u64, flags: u32) -> Res<u64> {
        self.context()?;
        require(flags == 0, Code::InvalidValue, format!("flags {flags:#x}, expected 0"))?;
        match self.range_of(address) {
            Some((_, range)) if range.is_host() => Ok(address),
            _ => refuse(Code::InvalidValue, format!("{address:#x} is no pinned memory")),
        }
    }

    pub fn host_flags(&self, address: u64) -> Res<u32> {
        self.context()?;
        match self.range_of(address) {
            Some((_, Range { kind: RangeKind::Pinned(_) | RangeKind::Registered, flags, .. })) => Ok(*flags),
            _ => refuse(Code::InvalidValue, format!("{address:#x} is no pinned memory")),
        }
    }

    /// First address and length of the allocation around an address.
    pub fn address_range(&self, address: u64) -> Res<(u64, u64)> {
        self.context()?;
        match self.range_of(address) {
            Some((base, range)) => Ok((base, range.bytes)),
            None => refuse(Code::NotFound, format!("{address:#x} is no device address")),
        }
    }

    /// Free and total bytes of the current device.
    pub fn memory_info(&self) -> Res<(u64, u64)> {
        let memory = &self.devices[self.current()?.device].gpu.memory;
        Ok((memory.total_bytes() - memory.used_bytes(), memory.total_bytes()))
    }
}
