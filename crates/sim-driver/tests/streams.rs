//! Work is asynchronous: what nothing orders happens in an order that the seed chooses, so that a missing wait shows.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::in_child;
use common::program::*;
use cudarc::driver::sys::{self, CUresult};

/// Runs a test's body in a process for each of 24 seeds; the words that the bodies printed after "saw".
fn over_seeds(name: &str, settings: &[(&str, &str)], body: impl Fn()) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for seed in 0..24 {
        let seed = seed.to_string();
        let settings = [settings, &[("KILN_SIM_SEED", seed.as_str())]].concat();
        let Some(said) = in_child(name, &settings, &body) else { return BTreeSet::new() };
        seen.extend(said.lines().filter_map(|l| l.split_once("saw ")).map(|(_, word)| word.to_owned()));
    }
    seen
}

/// What `seen` holds, unless this is a child, whose parent judges.
fn expect(seen: &BTreeSet<String>, expected: &[&str]) {
    if !seen.is_empty() {
        assert_eq!(seen, &expected.iter().map(|&e| e.to_owned()).collect::<BTreeSet<_>>());
    }
}

#[test]
fn a_stream_that_waits_for_no_event_sees_work_or_not() {
    let seen = over_seeds("a_stream_that_waits_for_no_event_sees_work_or_not", &[], || {
        let p = Program::start();
        let (data, first, second) = (words(1), stream(), stream());
        ok(launch(p.function("store"), 1, first, &[data, 7]));
        println!("saw {}", word(data, second));
    });
    expect(&seen, &["0", "7"]);
}

#[test]
fn a_stream_that_waits_for_an_event_sees_the_work_before_it() {
    let seen = over_seeds("a_stream_that_waits_for_an_event_sees_the_work_before_it", &[], || {
        let p = Program::start();
        let (data, first, second, done) = (words(1), stream(), stream(), event());
        ok(launch(p.function("store"), 1, first, &[data, 7]));
        ok(unsafe { sys::cuEventRecord(done, first) });
        // What comes after the event need not be seen.
        ok(launch(p.function("store"), 1, first, &[data, 8]));
        ok(unsafe { sys::cuStreamWaitEvent(second, done, 0) });
        println!("saw {}", word(data, second));
    });
    expect(&seen, &["7", "8"]);
}

#[test]
fn the_legacy_stream_orders_blocking_streams() {
    let seen = over_seeds("the_legacy_stream_orders_blocking_streams", &[], || {
        let p = Program::start();
        let (data, first, second) = (words(1), blocking_stream(), blocking_stream());
        let step = p.function("step");
        for stream in [first, null_mut(), second, null_mut()] {
            ok(launch(step, 1, stream, &[data, 1]));
        }
        println!("saw {}", word(data, first));
    });
    expect(&seen, &["15"]);
}

#[test]
fn the_legacy_stream_does_not_wait_for_non_blocking_streams() {
    let seen = over_seeds("the_legacy_stream_does_not_wait_for_non_blocking_streams", &[], || {
        let p = Program::start();
        let (data, other) = (words(1), stream());
        ok(launch(p.function("store"), 1, other, &[data, 7]));
        println!("saw {}", word(data, null_mut()));
    });
    expect(&seen, &["0", "7"]);
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_at_once() {
    let seen = over_seeds("pinned_memory_is_read_when_the_copy_runs_and_pageable_at_once", &[], || {
        Program::start();
        let (data, stream, source) = (words(2), stream(), pinned(1));
        let mut pageable = [5u32];
        source[0] = 5;
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(data, source.as_ptr().cast(), 4, stream) });
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(data + 4, pageable.as_ptr().cast(), 4, stream) });
        (source[0], pageable[0]) = (6, 6);
        std::hint::black_box(pageable);
        println!("saw {} {}", word(data, stream), word(data + 4, stream));
    });
    expect(&seen, &["5 5", "6 5"]);
}

#[test]
fn pinned_memory_is_written_when_the_stream_has_come_there() {
    let seen = over_seeds("pinned_memory_is_written_when_the_stream_has_come_there", &[], || {
        let p = Program::start();
        let (data, stream, target) = (words(1), stream(), pinned(1));
        ok(launch(p.function("store"), 1, stream, &[data, 7]));
        ok(unsafe { sys::cuMemcpyDtoHAsync_v2(target.as_mut_ptr().cast(), data, 4, stream) });
        let early = unsafe { target.as_ptr().read_volatile() };
        ok(unsafe { sys::cuStreamSynchronize(stream) });
        println!("saw {early} {}", target[0]);
    });
    expect(&seen, &["0 7", "7 7"]);
}

#[test]
fn graph_nodes_run_in_every_order_that_their_edges_allow() {
    let seen = over_seeds("graph_nodes_run_in_every_order_that_their_edges_allow", &[], || {
        let p = Program::start();
        let (data, first, second) = (words(1), stream(), stream());
        let (fork, join) = (event(), event());
        let store = p.function("store");
        ok(unsafe { sys::cuStreamBeginCapture_v2(first, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL) });
        ok(launch(store, 1, first, &[data, 1]));
        ok(unsafe { sys::cuEventRecord(fork, first) });
        ok(unsafe { sys::cuStreamWaitEvent(second, fork, 0) });
        // The branches race.
        ok(launch(store, 1, first, &[data, 2]));
        ok(launch(store, 1, second, &[data, 3]));
        ok(unsafe { sys::cuEventRecord(join, second) });
        ok(unsafe { sys::cuStreamWaitEvent(first, join, 0) });
        let graph = given(null_mut(), |g| unsafe { sys::cuStreamEndCapture(first, g) });
        let exec = given(null_mut(), |e| unsafe { sys::cuGraphInstantiateWithFlags(e, graph, 0) });
        ok(unsafe { sys::cuGraphLaunch(exec, first) });
        println!("saw {}", word(data, first));
    });
    expect(&seen, &["2", "3"]);
}

#[test]
fn asking_often_enough_makes_work_done() {
    let seen = over_seeds("asking_often_enough_makes_work_done", &[], || {
        let p = Program::start();
        let (data, stream, done) = (words(1), stream(), event());
        ok(unsafe { sys::cuEventQuery(done) });
        ok(unsafe { sys::cuStreamQuery(stream) });
        for _ in 0..20 {
            ok(launch(p.function("store"), 1, stream, &[data, 7]));
        }
        ok(unsafe { sys::cuEventRecord(done, stream) });
        assert_eq!(unsafe { sys::cuEventQuery(done) }, CUresult::CUDA_ERROR_NOT_READY);
        let asked = (0..100).take_while(|_| unsafe { sys::cuStreamQuery(stream) } != CUresult::CUDA_SUCCESS).count();
        assert!(asked < 30, "asked {asked} times");
        ok(unsafe { sys::cuEventQuery(done) });
        println!("saw {}", word(data, stream));
    });
    expect(&seen, &["7"]);
}

#[test]
fn the_device_works_while_the_program_makes_no_call() {
    in_child("the_device_works_while_the_program_makes_no_call", &[], || {
        let p = Program::start();
        let (stream, flag) = (stream(), pinned(1));
        let start = Instant::now();
        ok(launch(p.function("store"), 1, stream, &[flag.as_ptr() as u64, 7]));
        while unsafe { flag.as_ptr().read_volatile() } != 7 {
            assert!(start.elapsed() < Duration::from_secs(20), "nothing happened");
            std::thread::yield_now();
        }
    });
}

static ENTERED: AtomicU32 = AtomicU32::new(0);
static LEFT: AtomicU32 = AtomicU32::new(0);

extern "C" fn wait_for_the_other_thread(result: *mut c_void) {
    // Calls from inside are refused, and do no harm.
    let count = &mut 0;
    let refused = unsafe { sys::cuDeviceGetCount(count) };
    unsafe { result.cast::<CUresult>().write(refused) };
    ENTERED.store(1, Ordering::SeqCst);
    while LEFT.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn other_threads_make_calls_while_a_host_function_runs() {
    in_child("other_threads_make_calls_while_a_host_function_runs", &[], || {
        let p = Program::start();
        let stream = stream();
        let mut refused = CUresult::CUDA_SUCCESS;
        let context = p.context as usize;
        let other = std::thread::spawn(move || {
            while ENTERED.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            ok(unsafe { sys::cuCtxSetCurrent(context as sys::CUcontext) });
            let data = given(0, |a| unsafe { sys::cuMemAlloc_v2(a, 4) });
            LEFT.store(1, Ordering::SeqCst);
            data
        });
        ok(unsafe { sys::cuLaunchHostFunc(stream, Some(wait_for_the_other_thread), (&raw mut refused).cast()) });
        ok(unsafe { sys::cuStreamSynchronize(stream) });
        assert_ne!(other.join().unwrap(), 0);
        assert_eq!(refused, CUresult::CUDA_ERROR_NOT_PERMITTED);
    });
}

/// A launch that lets the next one start early; two that come after it, of which one waits for it.
const EARLY: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry first(.param .u64 data)
{
	.reg .b64 %rd<2>;
	griddepcontrol.launch_dependents;
	ld.param.u64 %rd1, [data];
	st.global.u32 [%rd1], 7;
	ret;
}
.visible .entry hasty(.param .u64 data, .param .u64 out)
{
	.reg .b32 %r<2>;
	.reg .b64 %rd<3>;
	ld.param.u64 %rd1, [data];
	ld.param.u64 %rd2, [out];
	ld.global.u32 %r1, [%rd1];
	st.global.u32 [%rd2], %r1;
	ret;
}
.visible .entry patient(.param .u64 data, .param .u64 out)
{
	.reg .b32 %r<2>;
	.reg .b64 %rd<3>;
	griddepcontrol.wait;
	ld.param.u64 %rd1, [data];
	ld.param.u64 %rd2, [out];
	ld.global.u32 %r1, [%rd1];
	st.global.u32 [%rd2], %r1;
	ret;
}
";

#[test]
fn a_dependent_launch_that_does_not_wait_may_come_first() {
    let name = "a_dependent_launch_that_does_not_wait_may_come_first";
    let seen = over_seeds(name, &[], || {
        Program::start();
        let module = load(EARLY);
        let stream = stream();
        for second in ["hasty", "patient"] {
            let (data, out) = (words(1), words(1));
            ok(launch(function(module, "first"), 1, stream, &[data]));
            let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
            attribute.id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attribute.value.programmaticStreamSerializationAllowed = 1;
            let mut config: sys::CUlaunchConfig = unsafe { std::mem::zeroed() };
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (1, 1, 1);
            (config.hStream, config.attrs, config.numAttrs) = (stream, &mut attribute, 1);
            let mut parameters: [*mut c_void; 2] =
                [(&raw const data).cast_mut().cast(), (&raw const out).cast_mut().cast()];
            let f = function(module, second);
            ok(unsafe { sys::cuLaunchKernelEx(&config, f, parameters.as_mut_ptr(), null_mut()) });
            println!("saw {second} {}", word(out, stream));
        }
    });
    expect(&seen, &["hasty 0", "hasty 7", "patient 7"]);
}

#[test]
fn launches_block_when_asked_to() {
    let name = "launches_block_when_asked_to";
    let seen = over_seeds(name, &[("CUDA_LAUNCH_BLOCKING", "1")], || {
        let p = Program::start();
        let (data, first, second) = (words(1), stream(), stream());
        ok(launch(p.function("store"), 1, first, &[data, 7]));
        println!("saw {}", word(data, second));
        let result = launch(p.function("give_up"), 1, first, &[]);
        assert_eq!(result, CUresult::CUDA_ERROR_LAUNCH_FAILED, "the launch itself says so");
    });
    expect(&seen, &["7"]);
}

#[test]
fn memory_that_a_stream_frees_is_gone_for_what_does_not_wait() {
    let seen = over_seeds("memory_that_a_stream_frees_is_gone_for_what_does_not_wait", &[], || {
        let p = Program::start();
        let (first, second) = (stream(), stream());
        let data = given(0, |a| unsafe { sys::cuMemAllocAsync(a, 4, first) });
        ok(unsafe { sys::cuStreamSynchronize(first) });
        ok(launch(p.function("store"), 1, second, &[data, 7]));
        ok(unsafe { sys::cuMemFreeAsync(data, first) });
        println!("saw {:?}", unsafe { sys::cuCtxSynchronize() });
    });
    expect(&seen, &["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_SUCCESS"]);
}
