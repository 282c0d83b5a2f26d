//! `cuDevice*`.

use crate::abi::Out;
use crate::code::{Code, refuse, require};
use crate::core::table::Handle;

calls! {
    cuDeviceGetCount(count: Out<i32>) |d| count.give(|| Ok(d.devices.len() as i32));
    cuDeviceGet(device: Out<i32>, ordinal: i32) |d| device.give(|| Ok(d.device(ordinal)?.ordinal as i32));
    cuDeviceGetName(name: Out<u8>, length: i32, device: i32) |d| {
        require(length > 0, Code::InvalidValue, format!("room for {length} bytes"))?;
        let mut bytes = d.device(device)?.name().into_bytes();
        bytes.truncate(length as usize - 1);
        bytes.push(0);
        name.give_slice(&bytes, length as usize).map(drop)
    };
    cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) |d| uuid.give(|| Ok(d.device(device)?.uuid()));
    cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) |d| uuid.give(|| Ok(d.device(device)?.uuid()));
    cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) |d| {
        bytes.give(|| Ok(d.device(device)?.gpu.memory.total_bytes() as usize))
    };
    cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) |d| {
        value.give(|| d.device(device)?.attribute(attribute))
    };
    cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) |d| {
        let cc = d.device(device)?.limits.compute_capability;
        major.give(|| Ok(cc.0 as i32))?;
        minor.give(|| Ok(cc.1 as i32))
    };
    cuDeviceGetPCIBusId(id: Out<u8>, length: i32, device: i32) |d| {
        require(length > 0, Code::InvalidValue, format!("room for {length} bytes"))?;
        let mut text = format!("0000:{:02X}:00.0", d.device(device)?.ordinal + 1).into_bytes();
        text.truncate(length as usize - 1);
        text.push(0);
        id.give_slice(&text, length as usize).map(drop)
    };
    cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) |d| {
        d.device(device)?;
        d.device(peer)?;
        // Copies between devices work; kernels see only their own.
        can.give(|| Ok(0))
    };
    cuDeviceGetP2PAttribute(value: Out<i32>, _attribute: u32, device: i32, peer: i32) |d| {
        d.device(device)?;
        d.device(peer)?;
        value.give(|| Ok(0))
    };
    cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) |d| pool.give(|| Ok(d.device(device)?.default_pool));
    cuDeviceGetMemPool(pool: Out<Handle>, device: i32) |d| pool.give(|| Ok(d.device(device)?.current_pool));
    cuDeviceSetMemPool(device: i32, pool: Handle) |d| d.pool_set_current(device, pool);
    cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) |d| context.give(|| d.primary_retain(device));
    cuDevicePrimaryCtxRelease_v2(device: i32) |d| d.primary_release(device);
    cuDevicePrimaryCtxReset_v2(device: i32) |d| d.primary_reset(device);
    cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) |d| d.primary_set_flags(device, flags);
    cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) |d| {
        let state = d.primary_state(device)?;
        flags.give(|| Ok(state.0))?;
        active.give(|| Ok(state.1.into()))
    };
    cuCtxEnablePeerAccess(peer: Handle, flags: u32) |d| {
        d.context()?;
        require(flags == 0, Code::InvalidValue, format!("flags {flags:#x}, expected 0"))?;
        d.contexts.get(peer)?;
        refuse(Code::PeerAccessUnsupported, "kernels see only the memory of their own device")
    };
    cuCtxDisablePeerAccess(peer: Handle) |d| {
        d.context()?;
        d.contexts.get(peer)?;
        refuse(Code::PeerAccessNotEnabled, "peer access cannot be enabled")
    };
}
