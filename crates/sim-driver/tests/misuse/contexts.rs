//! Initialisation, devices and contexts.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUcontext, CUlimit, CUresult::*};

use super::common::program::{given, ok, raw, words};
use super::{Machine, Misuse, on, row};

fn context(device: i32) -> CUcontext {
    given(null_mut(), |c| unsafe { sys::cuCtxCreate_v4(c, null_mut(), 0, device) })
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = initialisation();
    rows.extend(devices());
    rows.extend(contexts());
    rows.extend(peers());
    rows
}

fn initialisation() -> Vec<Misuse> {
    vec![
        on(
            Machine::Uninitialised,
            row("cuCtxCreate", "before `cuInit`", CUDA_ERROR_NOT_INITIALIZED, |_| unsafe {
                sys::cuCtxCreate_v4(&mut null_mut(), null_mut(), 0, 0)
            }),
        ),
        on(
            Machine::Uninitialised,
            row("cuDeviceGetCount", "before `cuInit`", CUDA_ERROR_NOT_INITIALIZED, |_| unsafe {
                sys::cuDeviceGetCount(&mut 0)
            }),
        ),
        on(
            Machine::Uninitialised,
            row("cuMemAlloc", "before `cuInit`", CUDA_ERROR_NOT_INITIALIZED, |_| unsafe {
                sys::cuMemAlloc_v2(&mut 0, 4)
            }),
        ),
        on(
            Machine::Uninitialised,
            row("cuInit", "flags other than 0", CUDA_ERROR_INVALID_VALUE, |_| unsafe { sys::cuInit(1) }),
        ),
        on(
            Machine::Empty,
            row("cuInit", "on a machine without devices", CUDA_ERROR_NO_DEVICE, |_| unsafe { sys::cuInit(0) }),
        ),
    ]
}

fn devices() -> Vec<Misuse> {
    vec![
        row("cuDeviceGetCount", "nowhere to write", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuDeviceGetCount(null_mut())
        }),
        row("cuDeviceGet", "an ordinal beyond the last device", CUDA_ERROR_INVALID_DEVICE, |_| unsafe {
            sys::cuDeviceGet(&mut 0, 2)
        }),
        row("cuDeviceGet", "a negative ordinal", CUDA_ERROR_INVALID_DEVICE, |_| unsafe {
            sys::cuDeviceGet(&mut 0, -1)
        }),
        row("cuDeviceGetName", "room for 0 bytes", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuDeviceGetName([0; 8].as_mut_ptr(), 0, 0)
        }),
        row("cuDeviceGetAttribute", "an attribute that does not exist", CUDA_ERROR_INVALID_VALUE, |_| {
            let call: extern "C" fn(&mut i32, i32, i32) -> sys::CUresult = raw("cuDeviceGetAttribute");
            call(&mut 0, 9999, 0)
        }),
        row("cuDeviceTotalMem", "a device that does not exist", CUDA_ERROR_INVALID_DEVICE, |_| unsafe {
            sys::cuDeviceTotalMem_v2(&mut 0, 9)
        }),
        row("cuGetErrorName", "a number that is no error", CUDA_ERROR_INVALID_VALUE, |_| {
            let call: extern "C" fn(u32, &mut usize) -> sys::CUresult = raw("cuGetErrorName");
            call(12345, &mut 0)
        }),
        row("cuGetProcAddress", "a name that no call has", CUDA_ERROR_NOT_FOUND, |_| unsafe {
            sys::cuGetProcAddress_v2(c"cuNoSuchCall".as_ptr(), &mut null_mut(), 12000, 0, null_mut())
        }),
    ]
}

fn contexts() -> Vec<Misuse> {
    vec![
        row("cuCtxCreate", "a device that does not exist", CUDA_ERROR_INVALID_DEVICE, |_| unsafe {
            sys::cuCtxCreate_v4(&mut null_mut(), null_mut(), 0, 2)
        }),
        row("cuCtxCreate", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuCtxCreate_v4(&mut null_mut(), null_mut(), 0x8000, 0)
        }),
        row("cuMemAlloc", "no current context", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            ok(sys::cuCtxSetCurrent(null_mut()));
            sys::cuMemAlloc_v2(&mut 0, 4)
        }),
        row("cuStreamCreate", "no current context", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            ok(sys::cuCtxSetCurrent(null_mut()));
            sys::cuStreamCreate(&mut null_mut(), 0)
        }),
        row("cuCtxPopCurrent", "an empty stack of contexts", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            ok(sys::cuCtxSetCurrent(null_mut()));
            sys::cuCtxPopCurrent_v2(&mut null_mut())
        }),
        row("cuCtxSetCurrent", "a context that was destroyed", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            let other = context(0);
            ok(sys::cuCtxDestroy_v2(other));
            sys::cuCtxSetCurrent(other)
        }),
        row("cuCtxPushCurrent", "a handle that is none", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            sys::cuCtxPushCurrent_v2(std::ptr::without_provenance_mut(64))
        }),
        row("cuCtxDestroy", "twice", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            let other = context(0);
            ok(sys::cuCtxDestroy_v2(other));
            sys::cuCtxDestroy_v2(other)
        }),
        row("cuCtxDestroy", "a primary context", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            let primary = given(null_mut(), |c| sys::cuDevicePrimaryCtxRetain(c, 1));
            let result = sys::cuCtxDestroy_v2(primary);
            ok(sys::cuDevicePrimaryCtxRelease_v2(1));
            result
        }),
        row("cuDevicePrimaryCtxRelease", "a context that nobody retained", CUDA_ERROR_INVALID_CONTEXT, |_| unsafe {
            sys::cuDevicePrimaryCtxRelease_v2(1)
        }),
        row("cuMemAlloc", "the context was destroyed by another thread", CUDA_ERROR_CONTEXT_IS_DESTROYED, |p| {
            let context = p.context as usize;
            let destroy = move || ok(unsafe { sys::cuCtxDestroy_v2(context as CUcontext) });
            std::thread::spawn(destroy).join().unwrap();
            unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }
        }),
        row("cuCtxGetLimit", "a limit that the device does not have", CUDA_ERROR_UNSUPPORTED_LIMIT, |_| unsafe {
            sys::cuCtxGetLimit(&mut 0, CUlimit::CU_LIMIT_SHMEM_SIZE)
        }),
        row("cuCtxSetLimit", "a limit that does not exist", CUDA_ERROR_INVALID_VALUE, |_| {
            let call: extern "C" fn(i32, usize) -> sys::CUresult = raw("cuCtxSetLimit");
            call(99, 1)
        }),
    ]
}

fn peers() -> Vec<Misuse> {
    vec![
        row("cuCtxEnablePeerAccess", "devices that cannot reach each other", CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, |p| {
            let other = context(1);
            unsafe {
                ok(sys::cuCtxSetCurrent(p.context));
                sys::cuCtxEnablePeerAccess(other, 0)
            }
        }),
        row("cuCtxEnablePeerAccess", "flags other than 0", CUDA_ERROR_INVALID_VALUE, |p| {
            let other = context(1);
            unsafe {
                ok(sys::cuCtxSetCurrent(p.context));
                sys::cuCtxEnablePeerAccess(other, 1)
            }
        }),
        row("cuCtxDisablePeerAccess", "access that was not enabled", CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, |p| {
            let other = context(1);
            unsafe {
                ok(sys::cuCtxSetCurrent(p.context));
                sys::cuCtxDisablePeerAccess(other)
            }
        }),
        row("cuMemcpyPeer", "memory of another device than the context's", CUDA_ERROR_INVALID_VALUE, |p| {
            let (to, from) = (words(1), words(1));
            let other = context(1);
            unsafe { sys::cuMemcpyPeer(to, other, from, p.context, 4) }
        }),
    ]
}
