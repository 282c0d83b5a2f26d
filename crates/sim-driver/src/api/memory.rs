//! `cuMem*` but for copies and pools: allocations, pinned and managed memory, what is known about a pointer.

use crate::abi::{In, Out};
use crate::code::{Code, Res, refuse, require};
use crate::core::Driver;
use crate::core::memory::RangeKind;
use crate::core::table::Handle;
use crate::host::HostRange;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemLocation {
    kind: u32,
    id: i32,
}

fn check_managed(d: &Driver, address: u64, bytes: usize) -> Res {
    d.context()?;
    d.device_of(address, bytes as u64)?;
    let is_managed = d.range_of(address).is_some_and(|(_, r)| matches!(r.kind, RangeKind::Managed(_)));
    require(is_managed && bytes > 0, Code::InvalidValue, format!("{address:#x} is no managed memory"))
}

fn check_location(d: &Driver, location: MemLocation) -> Res {
    match location.kind {
        1 => d.device(location.id).map(drop),
        // The host, and a NUMA node of it.
        2..=4 => Ok(()),
        other => refuse(Code::InvalidValue, format!("memory location {other}")),
    }
}

fn pointer_attribute(d: &mut Driver, out: &Out<u8>, attribute: u32, address: u64) -> Res {
    let Some((base, range)) = d.range_of(address) else {
        return refuse(Code::InvalidValue, format!("{address:#x} is not known to the driver"));
    };
    let (is_host, is_managed) = (range.is_host(), matches!(range.kind, RangeKind::Managed(_)));
    match attribute {
        1 => out.retype().give(|| Ok(range.context)),
        // CU_MEMORYTYPE_HOST and CU_MEMORYTYPE_DEVICE; managed memory counts as the device's.
        2 => out.retype().give(|| Ok(if is_host && !is_managed { 1u32 } else { 2 })),
        3 => out.retype().give(|| Ok(address)),
        4 => {
            require(is_host, Code::InvalidValue, "device memory has no host pointer")?;
            out.retype().give(|| Ok(address))
        }
        // Synchronous memory operations: they all are.
        6 => out.retype().give(|| Ok(1u32)),
        7 => out.retype().give(|| Ok(base)),
        8 => out.retype().give(|| Ok(u32::from(is_managed))),
        9 => out.retype().give(|| Ok(range.device as i32)),
        10 | 15 | 21 => out.retype().give(|| Ok(0u32)),
        11 => out.retype().give(|| Ok(base)),
        12 => out.retype().give(|| Ok(range.bytes)),
        13 => out.retype().give(|| Ok(1u32)),
        14 => out.retype().give(|| Ok(0u64)),
        // Read and write.
        16 => out.retype().give(|| Ok(3u32)),
        17 => {
            let RangeKind::Pool(pool) = range.kind else {
                return refuse(Code::InvalidValue, format!("{address:#x} is not from a pool"));
            };
            out.retype().give(|| Ok(pool))
        }
        _ => refuse(Code::InvalidValue, format!("pointer attribute {attribute}")),
    }
}

calls! {
    cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |d| {
        let (free_bytes, total_bytes) = d.memory_info()?;
        free.give(|| Ok(free_bytes as usize))?;
        total.give(|| Ok(total_bytes as usize))
    };
    cuMemAlloc_v2(address: Out<u64>, bytes: usize) |d| address.give(|| d.alloc(bytes as u64));
    cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) |d| {
        require(matches!(element, 4 | 8 | 16), Code::InvalidValue, format!("elements of {element} bytes"))?;
        pitch.check()?;
        let Some(row) = width.checked_next_multiple_of(512) else {
            return refuse(Code::InvalidValue, format!("rows of {width} bytes"));
        };
        let Some(bytes) = row.checked_mul(height) else { return refuse(Code::OutOfMemory, "too many rows") };
        address.give(|| d.alloc(bytes as u64))?;
        pitch.give(|| Ok(row))
    };
    cuMemFree_v2(address: u64) |d| d.free(address);
    cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) |d| address.give(|| d.managed_alloc(bytes as u64, flags));
    cuMemHostAlloc(pointer: Out<u64>, bytes: usize, flags: u32) |d| pointer.give(|| d.host_alloc(bytes as u64, flags));
    cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) |d| pointer.give(|| d.host_alloc(bytes as u64, 0));
    cuMemFreeHost(pointer: u64) |d| d.host_free(pointer);
    cuMemHostRegister_v2(pointer: u64, bytes: usize, flags: u32) |d| {
        d.host_register(HostRange::new(pointer, bytes as u64)?, flags)
    };
    cuMemHostUnregister(pointer: u64) |d| d.host_unregister(pointer);
    cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: u64, flags: u32) |d| {
        address.give(|| d.host_device_pointer(pointer, flags))
    };
    cuMemHostGetFlags(flags: Out<u32>, pointer: u64) |d| flags.give(|| d.host_flags(pointer));
    cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) |d| {
        let (start, length) = d.address_range(address)?;
        base.offer(start)?;
        bytes.offer(length as usize)
    };
    cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: MemLocation) |d| {
        require((1..=6).contains(&advice), Code::InvalidValue, format!("advice {advice}"))?;
        check_location(d, location)?;
        check_managed(d, address, bytes)
    };
    cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: MemLocation, flags: u32, stream: Handle) |d| {
        d.stream(stream)?;
        require(flags == 0, Code::InvalidValue, format!("flags {flags:#x}"))?;
        check_location(d, location)?;
        check_managed(d, address, bytes)
    };
    cuPointerGetAttributes(count: u32, attributes: In<u32>, values: In<Out<u8>>, address: u64) |d| {
        require(count > 0, Code::InvalidValue, "no attributes")?;
        let (attributes, values) = (attributes.slice(count as usize)?, values.slice(count as usize)?);
        attributes.iter().zip(&values).try_for_each(|(&attribute, value)| {
            require(!value.is_null(), Code::InvalidValue, "an output pointer is null")?;
            match d.range_of(address) {
                Some(_) => pointer_attribute(d, value, attribute, address),
                // Of what the driver does not know, it tells nothing: no error.
                None => value.retype().give(|| Ok(0u32)),
            }
        })
    };
    cuPointerGetAttribute(value: Out<u8>, attribute: u32, address: u64) |d| {
        require(!value.is_null(), Code::InvalidValue, "an output pointer is null")?;
        pointer_attribute(d, &value, attribute, address)
    };
}
