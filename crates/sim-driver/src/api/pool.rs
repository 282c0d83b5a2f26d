//! `cuMemPool*` and stream-ordered allocation.

use crate::abi::{In, Out};
use crate::code::{Code, Res, refuse, require};
use crate::core::pool::PoolValue;
use crate::core::table::Handle;

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProps {
    allocation_kind: u32,
    handle_kinds: u32,
    location_kind: u32,
    location_id: i32,
    security: usize,
    bytes_max: usize,
    usage: u16,
    reserved: [u8; 54],
}

const _: () = assert!(size_of::<PoolProps>() == 88);

impl PoolProps {
    fn check(&self) -> Res {
        // Pinned memory of a device, which no other process sees.
        require(self.allocation_kind == 1, Code::InvalidValue, format!("allocation type {}", self.allocation_kind))?;
        require(self.handle_kinds == 0, Code::NotSupported, "pools for other processes are not simulated")?;
        require(self.location_kind == 1, Code::NotSupported, "pools of host memory are not simulated")?;
        require(self.reserved.iter().all(|&b| b == 0), Code::InvalidValue, "reserved bytes must be 0")
    }
}

calls! {
    cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) |d| {
        address.give(|| d.alloc_async(bytes as u64, None, stream))
    };
    cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) |d| {
        address.give(|| d.alloc_async(bytes as u64, Some(pool), stream))
    };
    cuMemFreeAsync(address: u64, stream: Handle) |d| d.free_async(address, stream);
    cuMemPoolCreate(pool: Out<Handle>, props: In<PoolProps>) |d| {
        let props = props.get()?;
        props.check()?;
        pool.give(|| d.pool_create(props.location_id, props.bytes_max as u64))
    };
    cuMemPoolDestroy(pool: Handle) |d| d.pool_destroy(pool);
    cuMemPoolTrimTo(pool: Handle, _bytes_min: usize) |d| d.pools.get(pool).map(drop);
    cuMemPoolGetAttribute(pool: Handle, attribute: i32, value: Out<u8>) |d| {
        require(!value.is_null(), Code::InvalidValue, "an output pointer is null")?;
        match d.pool_attribute(pool, attribute)? {
            PoolValue::Flag(flag) => value.retype().give(|| Ok(flag)),
            PoolValue::Bytes(bytes) => value.retype().give(|| Ok(bytes)),
        }
    };
    cuMemPoolSetAttribute(pool: Handle, attribute: i32, value: In<u8>) |d| {
        let value = match attribute {
            1..=3 => PoolValue::Flag(value.retype::<i32>().get()?),
            4..=8 => PoolValue::Bytes(value.retype::<u64>().get()?),
            _ => return refuse(Code::InvalidValue, format!("{attribute} is no pool attribute")),
        };
        d.pool_set_attribute(pool, attribute, value)
    };
}
