//! Stream capture.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult, CUresult::*, CUstream, CUstreamCaptureMode_enum::*};

use super::common::PTX;
use super::common::program::{Program, blocking_stream, event, launch, ok, raw, stream, words};
use super::{Misuse, row};

fn begin(stream: CUstream) -> CUstream {
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL) });
    stream
}

fn end(stream: CUstream) -> CUresult {
    unsafe { sys::cuStreamEndCapture(stream, &mut null_mut()) }
}

fn bump(p: Program, stream: CUstream) -> CUresult {
    launch(p.function("bump"), 1, stream, &[])
}

/// Makes one stream wait for another, which a capture spreads by.
fn join(first: CUstream, second: CUstream) -> CUresult {
    let event = event();
    ok(unsafe { sys::cuEventRecord(event, first) });
    unsafe { sys::cuStreamWaitEvent(second, event, 0) }
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = beginnings();
    rows.extend(illegal_calls());
    rows.extend(ends());
    rows
}

fn beginnings() -> Vec<Misuse> {
    vec![
        row("cuStreamBeginCapture", "the legacy stream", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            sys::cuStreamBeginCapture_v2(null_mut(), CU_STREAM_CAPTURE_MODE_GLOBAL)
        }),
        row("cuStreamBeginCapture", "a stream that is capturing", CUDA_ERROR_ILLEGAL_STATE, |_| unsafe {
            sys::cuStreamBeginCapture_v2(begin(stream()), CU_STREAM_CAPTURE_MODE_GLOBAL)
        }),
        row("cuStreamBeginCapture", "a mode that does not exist", CUDA_ERROR_INVALID_VALUE, |_| {
            let call: extern "C" fn(CUstream, u32) -> CUresult = raw("cuStreamBeginCapture_v2");
            call(stream(), 3)
        }),
    ]
}

fn illegal_calls() -> Vec<Misuse> {
    vec![
        row("cuStreamSynchronize", "a stream that is capturing", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            sys::cuStreamSynchronize(begin(stream()))
        }),
        row("cuStreamQuery", "a stream that is capturing", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            sys::cuStreamQuery(begin(stream()))
        }),
        row("cuCtxSynchronize", "while a stream captures", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            begin(stream());
            sys::cuCtxSynchronize()
        }),
        row("cuMemAlloc", "while a stream captures", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            begin(stream());
            sys::cuMemAlloc_v2(&mut 0, 4)
        }),
        row("cuMemFree", "while a stream captures", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            let address = words(1);
            begin(stream());
            sys::cuMemFree_v2(address)
        }),
        row("cuMemcpyHtoD", "while a stream captures", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            let address = words(1);
            begin(stream());
            sys::cuMemcpyHtoD_v2(address, [0u32].as_ptr().cast(), 4)
        }),
        row("cuModuleLoadData", "while a stream captures", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, |_| unsafe {
            let text = std::ffi::CString::new(PTX).unwrap();
            begin(stream());
            sys::cuModuleLoadData(&mut null_mut(), text.as_ptr().cast())
        }),
        row(
            "cuLaunchKernel",
            "in the legacy stream, while a stream that it waits for captures",
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            |p| {
                begin(blocking_stream());
                bump(p, null_mut())
            },
        ),
        row("cuStreamWaitEvent", "an event from outside the capture", CUDA_ERROR_STREAM_CAPTURE_ISOLATION, |p| {
            let (outside, inside) = (stream(), begin(stream()));
            ok(bump(p, outside));
            join(outside, inside)
        }),
        row("cuStreamWaitEvent", "an event of another capture", CUDA_ERROR_STREAM_CAPTURE_MERGE, |p| {
            let (first, second) = (begin(stream()), begin(stream()));
            ok(bump(p, first));
            join(first, second)
        }),
        row(
            "cuStreamWaitEvent",
            "in the legacy stream, an event of a capture",
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            |p| {
                let first = begin(stream());
                ok(bump(p, first));
                join(first, null_mut())
            },
        ),
        row("cuEventSynchronize", "an event that was recorded in a capture", CUDA_ERROR_CAPTURED_EVENT, |_| unsafe {
            let (event, stream) = (event(), begin(stream()));
            ok(sys::cuEventRecord(event, stream));
            sys::cuEventSynchronize(event)
        }),
        row("cuEventQuery", "an event that was recorded in a capture", CUDA_ERROR_CAPTURED_EVENT, |_| unsafe {
            let (event, stream) = (event(), begin(stream()));
            ok(sys::cuEventRecord(event, stream));
            sys::cuEventQuery(event)
        }),
        row(
            "cuLaunchKernel",
            "in a capture that an earlier mistake invalidated",
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            |p| {
                let stream = begin(stream());
                assert_eq!(unsafe { sys::cuStreamSynchronize(stream) }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
                bump(p, stream)
            },
        ),
    ]
}

fn ends() -> Vec<Misuse> {
    vec![
        row("cuStreamEndCapture", "a stream that is not capturing", CUDA_ERROR_ILLEGAL_STATE, |_| end(stream())),
        row(
            "cuStreamEndCapture",
            "a capture that an earlier mistake invalidated",
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            |_| {
                let stream = begin(stream());
                assert_eq!(unsafe { sys::cuStreamSynchronize(stream) }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
                end(stream)
            },
        ),
        row("cuStreamEndCapture", "in another stream than it began in", CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, |p| {
            let (first, second) = (begin(stream()), stream());
            ok(bump(p, first));
            ok(join(first, second));
            end(second)
        }),
        row(
            "cuStreamEndCapture",
            "with work of another stream that was not joined",
            CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
            |p| {
                let (first, second) = (begin(stream()), stream());
                ok(bump(p, first));
                ok(join(first, second));
                ok(bump(p, second));
                end(first)
            },
        ),
        row("cuStreamEndCapture", "in another thread", CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, |p| {
            let (context, stream) = (p.context as usize, begin(stream()) as usize);
            let other = move || {
                ok(unsafe { sys::cuCtxSetCurrent(context as sys::CUcontext) });
                end(stream as CUstream)
            };
            std::thread::spawn(other).join().unwrap()
        }),
        row("cuGraphInstantiate", "a graph that a capture is making", CUDA_ERROR_ILLEGAL_STATE, |p| unsafe {
            let (stream, mut graph, mut count, mut status) = (begin(stream()), null_mut(), 0usize, 0u32);
            ok(bump(p, stream));
            let call: extern "C" fn(CUstream, &mut u32, usize, &mut sys::CUgraph, usize, &mut usize) -> CUresult =
                raw("cuStreamGetCaptureInfo_v2");
            ok(call(stream, &mut status, 0, &mut graph, 0, &mut count));
            assert_eq!((status, count), (1, 1));
            sys::cuGraphInstantiateWithFlags(&mut null_mut(), graph, 0)
        }),
        row("cuStreamUpdateCaptureDependencies", "a stream that is not capturing", CUDA_ERROR_ILLEGAL_STATE, |_| {
            let call: extern "C" fn(CUstream, usize, usize, u32) -> CUresult = raw("cuStreamUpdateCaptureDependencies");
            call(stream(), 0, 0, 0)
        }),
        row("cuThreadExchangeStreamCaptureMode", "a mode that does not exist", CUDA_ERROR_INVALID_VALUE, |_| {
            let call: extern "C" fn(&mut u32) -> CUresult = raw("cuThreadExchangeStreamCaptureMode");
            call(&mut 3)
        }),
    ]
}
