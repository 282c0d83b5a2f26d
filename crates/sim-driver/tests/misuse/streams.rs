//! Streams and events.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUresult::*};

use super::common::program::{Program, event, given, launch, ok, stream};
use super::{Misuse, row};

/// A stream of a context on the other device, while the own one is current.
fn foreign_stream(p: Program) -> sys::CUstream {
    given(null_mut(), |c| unsafe { sys::cuCtxCreate_v4(c, null_mut(), 0, 1) });
    let theirs = stream();
    ok(unsafe { sys::cuCtxSetCurrent(p.context) });
    theirs
}

/// An event that was recorded and has happened.
fn past(flags: u32) -> sys::CUevent {
    let event = given(null_mut(), |e| unsafe { sys::cuEventCreate(e, flags) });
    ok(unsafe { sys::cuEventRecord(event, null_mut()) });
    ok(unsafe { sys::cuEventSynchronize(event) });
    event
}

static CODE: AtomicU32 = AtomicU32::new(0);

extern "C" fn call_from_inside(_: *mut c_void) {
    CODE.store(unsafe { sys::cuMemAlloc_v2(&mut 0, 4) } as u32, Ordering::SeqCst);
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = streams();
    rows.extend(events());
    rows
}

fn streams() -> Vec<Misuse> {
    vec![
        row("cuStreamCreate", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuStreamCreate(&mut null_mut(), 2)
        }),
        row("cuStreamCreate", "nowhere to write", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuStreamCreate(null_mut(), 0)
        }),
        row("cuStreamDestroy", "twice", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let stream = stream();
            ok(sys::cuStreamDestroy_v2(stream));
            sys::cuStreamDestroy_v2(stream)
        }),
        row("cuStreamDestroy", "the default stream", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            sys::cuStreamDestroy_v2(null_mut())
        }),
        row("cuStreamSynchronize", "a stream that was destroyed", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let stream = stream();
            ok(sys::cuStreamDestroy_v2(stream));
            sys::cuStreamSynchronize(stream)
        }),
        row("cuStreamQuery", "work that is not done, which is no error", CUDA_ERROR_NOT_READY, |p| unsafe {
            let stream = stream();
            ok(launch(p.function("bump"), 32, stream, &[]));
            sys::cuStreamQuery(stream)
        }),
        row("cuLaunchHostFunc", "a null function", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuLaunchHostFunc(stream(), None, null_mut())
        }),
        row("cuMemAlloc", "from inside a host function", CUDA_ERROR_NOT_PERMITTED, |_| unsafe {
            let stream = stream();
            ok(sys::cuLaunchHostFunc(stream, Some(call_from_inside), null_mut()));
            ok(sys::cuStreamSynchronize(stream));
            assert_eq!(CODE.load(Ordering::SeqCst), CUDA_ERROR_NOT_PERMITTED as u32);
            CUDA_ERROR_NOT_PERMITTED
        }),
    ]
}

fn events() -> Vec<Misuse> {
    vec![
        row("cuEventCreate", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuEventCreate(&mut null_mut(), 0x100)
        }),
        row("cuEventCreate", "an interprocess event that keeps time", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuEventCreate(&mut null_mut(), 4)
        }),
        row("cuEventDestroy", "twice", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let event = event();
            ok(sys::cuEventDestroy_v2(event));
            sys::cuEventDestroy_v2(event)
        }),
        row("cuEventRecord", "an event that was destroyed", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let event = event();
            ok(sys::cuEventDestroy_v2(event));
            sys::cuEventRecord(event, null_mut())
        }),
        row("cuEventRecord", "in a stream of another context", CUDA_ERROR_INVALID_HANDLE, |p| unsafe {
            let event = event();
            sys::cuEventRecord(event, foreign_stream(p))
        }),
        row("cuStreamWaitEvent", "an event that was destroyed", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let event = event();
            ok(sys::cuEventDestroy_v2(event));
            sys::cuStreamWaitEvent(stream(), event, 0)
        }),
        row("cuStreamWaitEvent", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuStreamWaitEvent(stream(), past(0), 2)
        }),
        row("cuEventElapsedTime", "an event that was never recorded", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            sys::cuEventElapsedTime_v2(&mut 0.0, past(0), event())
        }),
        row("cuEventElapsedTime", "an event without timing", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            sys::cuEventElapsedTime_v2(&mut 0.0, past(0), past(2))
        }),
        row("cuEventElapsedTime", "an event that has not happened", CUDA_ERROR_NOT_READY, |p| unsafe {
            let (stream, start, end) = (stream(), past(0), event());
            ok(launch(p.function("bump"), 32, stream, &[]));
            ok(sys::cuEventRecord(end, stream));
            sys::cuEventElapsedTime_v2(&mut 0.0, start, end)
        }),
    ]
}
