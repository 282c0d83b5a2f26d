//! Faults on request, and devices as the environment describes them.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::ptr::null_mut;

use common::in_child;
use common::program::*;
use cudarc::driver::sys::{self, CUresult, CUresult::*};

/// How often each kind of call is made.
const CALLS: usize = 4;

/// The codes of `CALLS` calls of a kind, one after the other.
fn codes(call: impl FnMut() -> CUresult) -> Vec<CUresult> {
    std::iter::repeat_with(call).take(CALLS).collect()
}

fn only(n: usize, code: CUresult) -> Vec<CUresult> {
    (1..=CALLS).map(|i| if i == n { code } else { CUDA_SUCCESS }).collect()
}

/// Success before the n-th call, and from it on a code that stays.
fn from(n: usize, code: CUresult) -> Vec<CUresult> {
    (1..=CALLS).map(|i| if i >= n { code } else { CUDA_SUCCESS }).collect()
}

/// Runs `body` with the n-th call of a kind failing, for each n in a process of its own.
fn each(name: &str, kind: &str, body: impl Fn(usize)) {
    if let Ok(n) = std::env::var("TEST_N") {
        return body(n.parse().unwrap());
    }
    for n in 1..=CALLS {
        let fault = format!("{kind}:{n}");
        in_child(name, &[("KILN_SIM_FAULT", &fault), ("TEST_N", &n.to_string())], || unreachable!("handled above"));
    }
}

#[test]
fn the_nth_allocation_fails_and_the_next_does_not() {
    each("the_nth_allocation_fails_and_the_next_does_not", "alloc", |n| {
        Program::start();
        let mut of_each_kind = 0..;
        let seen = codes(|| unsafe {
            match of_each_kind.next().unwrap() {
                0 => sys::cuMemAlloc_v2(&mut 0, 64),
                1 => sys::cuMemHostAlloc(&mut null_mut(), 64, 0),
                2 => sys::cuMemAllocAsync(&mut 0, 64, null_mut()),
                _ => sys::cuMemAllocManaged(&mut 0, 64, 1),
            }
        });
        assert_eq!(seen, only(n, CUDA_ERROR_OUT_OF_MEMORY));
        ok(unsafe { sys::cuCtxSynchronize() });
    });
}

#[test]
fn the_nth_copy_fails_and_leaves_its_destination() {
    each("the_nth_copy_fails_and_leaves_its_destination", "copy", |n| {
        Program::start();
        let address = given(0, |a| unsafe { sys::cuMemAlloc_v2(a, 4 * CALLS) });
        let mut next = 0u32..;
        let seen = codes(|| unsafe {
            let i = next.next().unwrap();
            sys::cuMemcpyHtoD_v2(address + u64::from(4 * i), (&raw const i).cast(), 4)
        });
        assert_eq!(seen, only(n, CUDA_ERROR_OPERATING_SYSTEM));
        // Only copies up to the fourth could fail; this one is the fifth.
        let mut back = [9u32; 1];
        let last = address + 4 * (if n == CALLS { 0 } else { CALLS as u64 - 1 });
        ok(unsafe { sys::cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), last, 4) });
        assert_eq!(back[0] as usize, if n == CALLS { 0 } else { CALLS - 1 });
    });
}

#[test]
fn the_nth_launch_fails_and_the_context_is_lost() {
    each("the_nth_launch_fails_and_the_context_is_lost", "launch", |n| {
        let p = Program::start();
        let (bump, stream) = (p.function("bump"), stream());
        let seen = codes(|| launch(bump, 1, stream, &[]));
        assert_eq!(seen, from(n, CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_sticky(CUDA_ERROR_ILLEGAL_ADDRESS, stream);
    });
}

#[test]
fn the_nth_synchronisation_fails_and_the_context_is_lost() {
    each("the_nth_synchronisation_fails_and_the_context_is_lost", "sync", |n| {
        let p = Program::start();
        let (bump, stream, event) = (p.function("bump"), stream(), event());
        ok(launch(bump, 1, stream, &[]));
        ok(unsafe { sys::cuEventRecord(event, stream) });
        let mut of_each_kind = 0..;
        let seen = codes(|| unsafe {
            match of_each_kind.next().unwrap() {
                0 => sys::cuStreamSynchronize(stream),
                1 => sys::cuEventSynchronize(event),
                _ => sys::cuCtxSynchronize(),
            }
        });
        assert_eq!(seen, from(n, CUDA_ERROR_LAUNCH_FAILED));
        assert_sticky(CUDA_ERROR_LAUNCH_FAILED, stream);
    });
}

/// Every call that needs the context returns its error, whatever it is about; what describes devices goes on, and a context that
/// is made anew works.
fn assert_sticky(code: CUresult, stream: sys::CUstream) {
    let calls: [(&str, CUresult); 6] = unsafe {
        [
            ("cuMemAlloc", sys::cuMemAlloc_v2(&mut 0, 4)),
            ("cuStreamSynchronize", sys::cuStreamSynchronize(stream)),
            ("cuStreamCreate", sys::cuStreamCreate(&mut null_mut(), 0)),
            ("cuEventCreate", sys::cuEventCreate(&mut null_mut(), 0)),
            ("cuMemGetInfo", sys::cuMemGetInfo_v2(&mut 0, &mut 0)),
            ("cuCtxSynchronize", sys::cuCtxSynchronize()),
        ]
    };
    for (name, found) in calls {
        assert_eq!(found, code, "{name}");
    }
    ok(unsafe { sys::cuDeviceGetCount(&mut 0) });
    ok(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) });
    words(1);
}

fn attribute(attribute: sys::CUdevice_attribute_enum, device: i32) -> i32 {
    given(0, |v| unsafe { sys::cuDeviceGetAttribute(v, attribute, device) })
}

/// Of a compute capability: SMs, threads and shared KiB per SM, shared KiB per block, and whether there are clusters.
const MACHINES: &[(&str, [i32; 4], bool)] = &[
    ("8.0", [108, 2048, 164, 163], false),
    ("8.9", [128, 1536, 100, 99], false),
    ("9.0", [132, 2048, 228, 227], true),
    ("10.0", [148, 2048, 228, 227], true),
    ("12.0", [170, 1536, 100, 99], true),
];

#[test]
fn each_compute_capability_has_its_limits_and_runs_kernels() {
    if let Ok(cc) = std::env::var("TEST_CC") {
        return check_machine(MACHINES.iter().find(|m| m.0 == cc).unwrap());
    }
    let name = "each_compute_capability_has_its_limits_and_runs_kernels";
    for (cc, ..) in MACHINES {
        in_child(name, &[("KILN_SIM_CC", cc), ("TEST_CC", cc)], || unreachable!("handled above"));
    }
}

fn check_machine(&(cc, expected, has_clusters): &(&str, [i32; 4], bool)) {
    use sys::CUdevice_attribute_enum::*;
    let p = Program::start();
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0);
    let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0);
    assert_eq!(format!("{major}.{minor}"), cc);
    let found = [
        attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0),
        attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0),
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 0) >> 10,
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0) >> 10,
    ];
    assert_eq!(found, expected);
    assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 0) == 1, has_clusters);
    let data = words(1);
    ok(launch(p.function("store"), 1, null_mut(), &[data, 7]));
    assert_eq!(word(data, null_mut()), 7);
    let clustered = launch_ex(p.function("bump"), 4, &[cluster(2), early()]);
    assert_eq!(clustered == CUDA_SUCCESS, has_clusters);
    ok(unsafe { sys::cuCtxSynchronize() });
}

#[test]
fn several_devices_have_memory_of_their_own_which_is_accounted() {
    let settings = [("KILN_SIM_DEVICES", "3"), ("KILN_SIM_VRAM_MIB", "64"), ("KILN_SIM_SMS", "7")];
    in_child("several_devices_have_memory_of_their_own_which_is_accounted", &settings, || {
        let programs = [0, 1, 2].map(Program::on);
        assert_eq!(given(0, |n| unsafe { sys::cuDeviceGetCount(n) }), 3);
        for (i, p) in programs.iter().enumerate() {
            ok(unsafe { sys::cuCtxSetCurrent(p.context) });
            assert_eq!(attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, i as i32), 7);
            let free = || {
                let (mut free, mut total) = (0, 0);
                ok(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) });
                assert_eq!(total, 64 << 20);
                free
            };
            let before = free();
            let address = given(0, |a| unsafe { sys::cuMemAlloc_v2(a, (i + 1) << 20) });
            assert_eq!(before - free(), (i + 1) << 20);
            assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut 0, before) }, CUDA_ERROR_OUT_OF_MEMORY);
            ok(unsafe { sys::cuMemFree_v2(address) });
            assert_eq!(free(), before);
        }
    });
}
