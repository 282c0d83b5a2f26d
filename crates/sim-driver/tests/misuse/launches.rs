//! Launches and occupancy, and what a failed kernel leaves behind.

use std::ffi::c_void;
use std::fmt::Write;
use std::ptr::{from_ref, null_mut};

use cudarc::driver::sys::{self, CUfunction, CUresult, CUresult::*, CUstream};

use super::common::program::{Program, cluster, function, given, launch, launch_ex, load, ok, raw, stream, words};
use super::{Machine, Misuse, on, row};

/// A launch of a kernel without parameters.
fn shape(function: CUfunction, grid: [u32; 3], block: [u32; 3]) -> CUresult {
    with_shared(function, grid, block, 0)
}

fn with_shared(function: CUfunction, grid: [u32; 3], block: [u32; 3], bytes: u32) -> CUresult {
    let none = || null_mut::<*mut c_void>();
    unsafe {
        sys::cuLaunchKernel(
            function,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            bytes,
            null_mut(),
            none(),
            none(),
        )
    }
}

/// A launch of one thread whose arguments are a buffer.
fn with_extra(function: CUfunction, params: &mut [*mut c_void], extra: &mut [*mut c_void]) -> CUresult {
    let params = if params.is_empty() { null_mut() } else { params.as_mut_ptr() };
    unsafe { sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, null_mut(), params, extra.as_mut_ptr()) }
}

fn tag(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number)
}

fn cooperative(function: CUfunction, ctas: u32) -> CUresult {
    unsafe { sys::cuLaunchCooperativeKernel(function, ctas, 1, 1, 32, 1, 1, 0, null_mut(), null_mut()) }
}

/// A kernel that keeps 100 values at once, which is more registers than 1024 threads can have.
fn hungry() -> CUfunction {
    let mut ptx = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry hungry(.param .u64 a) {\n.reg .b32 %r<101>; .reg .b64 %a;\n\
         ld.param.u64 %a, [a]; mov.u32 %r1, %tid.x;\n",
    );
    (2..=100).for_each(|i| writeln!(ptx, "mul.lo.u32 %r{i}, %r1, {i};").unwrap());
    (2..=100).for_each(|i| writeln!(ptx, "xor.b32 %r1, %r1, %r{i};").unwrap());
    ptx.push_str("st.global.u32 [%a], %r1; ret; }");
    function(load(&ptx), "hungry")
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = shapes();
    rows.extend(resources());
    rows.extend(arguments());
    rows.extend(clusters());
    rows.extend(occupancy());
    rows.extend(failures());
    rows
}

fn shapes() -> Vec<Misuse> {
    vec![
        row("cuLaunchKernel", "a grid without CTAs", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1, 0, 1], [1, 1, 1])
        }),
        row("cuLaunchKernel", "a block without threads", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1, 1, 1], [32, 1, 0])
        }),
        row("cuLaunchKernel", "a grid of 2³¹ in x", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1 << 31, 1, 1], [1, 1, 1])
        }),
        row("cuLaunchKernel", "a grid of 65,536 in y", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1, 65536, 1], [1, 1, 1])
        }),
        row("cuLaunchKernel", "a block of 65 in z", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1, 1, 1], [1, 1, 65])
        }),
        row("cuLaunchKernel", "a block of 1,056 threads", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("bump"), [1, 1, 1], [32, 33, 1])
        }),
        row("cuLaunchKernel", "more threads than the kernel's `.maxntid`", CUDA_ERROR_INVALID_VALUE, |p| {
            ok(shape(p.function("bounded"), [1, 1, 1], [128, 1, 1]));
            shape(p.function("bounded"), [1, 1, 1], [129, 1, 1])
        }),
        row("cuLaunchKernel", "another block than the kernel's `.reqntid`", CUDA_ERROR_INVALID_VALUE, |p| {
            ok(shape(p.function("fixed"), [1, 1, 1], [64, 1, 1]));
            shape(p.function("fixed"), [1, 1, 1], [32, 2, 1])
        }),
    ]
}

fn resources() -> Vec<Misuse> {
    vec![
        row("cuLaunchKernel", "more registers than an SM has", CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, |_| {
            launch(hungry(), 1024, null_mut(), &[words(101)])
        }),
        row("cuLaunchKernel", "above 48 KiB of shared memory without leave", CUDA_ERROR_INVALID_VALUE, |p| {
            ok(with_shared(p.function("bump"), [1; 3], [1; 3], 48 << 10));
            with_shared(p.function("bump"), [1; 3], [1; 3], (48 << 10) + 4)
        }),
        row("cuLaunchCooperativeKernel", "more CTAs than fit at once", CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, |p| {
            ok(cooperative(p.function("bump"), 4 * 32));
            cooperative(p.function("bump"), 4 * 32 + 1)
        }),
    ]
}

fn arguments() -> Vec<Misuse> {
    vec![
        row("cuLaunchKernel", "no arguments for a kernel that has parameters", CUDA_ERROR_INVALID_VALUE, |p| {
            shape(p.function("store"), [1; 3], [1; 3])
        }),
        row("cuLaunchKernel", "`kernelParams` and `extra`", CUDA_ERROR_INVALID_VALUE, |p| {
            let (address, value) = (words(1), 7u32);
            let mut params = [from_ref(&address).cast_mut().cast(), from_ref(&value).cast_mut().cast()];
            with_extra(p.function("store"), &mut params, &mut [tag(0)])
        }),
        row("cuLaunchKernel", "`extra` of another length than the parameters", CUDA_ERROR_INVALID_VALUE, |p| {
            let mut buffer = [0u8; 16];
            buffer[..8].copy_from_slice(&words(1).to_le_bytes());
            let mut of_length = |mut bytes: usize| {
                let (at, length) = ((&raw mut buffer).cast(), (&raw mut bytes).cast());
                with_extra(p.function("store"), &mut [], &mut [tag(1), at, tag(2), length, tag(0)])
            };
            ok(of_length(12));
            of_length(8)
        }),
        row("cuLaunchKernel", "`extra` with a tag that does not exist", CUDA_ERROR_INVALID_VALUE, |p| {
            with_extra(p.function("store"), &mut [], &mut [tag(9), tag(9), tag(0)])
        }),
        row("cuLaunchKernel", "a null function", CUDA_ERROR_INVALID_HANDLE, |_| shape(null_mut(), [1; 3], [1; 3])),
        row("cuLaunchKernel", "a stream that was destroyed", CUDA_ERROR_INVALID_HANDLE, |p| {
            let stream = stream();
            ok(unsafe { sys::cuStreamDestroy_v2(stream) });
            launch(p.function("bump"), 1, stream, &[])
        }),
        row("cuLaunchKernel", "an event in place of a stream", CUDA_ERROR_INVALID_HANDLE, |p| {
            launch(p.function("bump"), 1, super::common::program::event() as CUstream, &[])
        }),
        row("cuLaunchKernel", "a stream of another context", CUDA_ERROR_INVALID_HANDLE, |p| {
            let other = given(null_mut(), |c| unsafe { sys::cuCtxCreate_v4(c, null_mut(), 0, 1) });
            let theirs = stream();
            ok(unsafe { sys::cuCtxSetCurrent(p.context) });
            let result = launch(p.function("bump"), 1, theirs, &[]);
            ok(unsafe { sys::cuCtxDestroy_v2(other) });
            result
        }),
        row("cuLaunchKernelEx", "an attribute that does not exist", CUDA_ERROR_INVALID_VALUE, |p| {
            launch_ex(p.function("bump"), 1, &[(99, [0; 16])])
        }),
    ]
}

fn clusters() -> Vec<Misuse> {
    vec![
        row("cuLaunchKernelEx", "a cluster of 16 CTAs without leave", CUDA_ERROR_INVALID_CLUSTER_SIZE, |p| {
            ok(launch_ex(p.function("bump"), 16, &[cluster(8)]));
            launch_ex(p.function("bump"), 16, &[cluster(16)])
        }),
        row("cuLaunchKernelEx", "a cluster of 32 CTAs, with leave for 16", CUDA_ERROR_INVALID_CLUSTER_SIZE, |p| {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            ok(unsafe { sys::cuFuncSetAttribute(p.function("bump"), attribute, 1) });
            ok(launch_ex(p.function("bump"), 32, &[cluster(16)]));
            launch_ex(p.function("bump"), 32, &[cluster(32)])
        }),
        row("cuLaunchKernelEx", "a grid that is no multiple of the cluster", CUDA_ERROR_INVALID_CLUSTER_SIZE, |p| {
            launch_ex(p.function("bump"), 6, &[cluster(4)])
        }),
        row("cuLaunchKernelEx", "an empty cluster", CUDA_ERROR_INVALID_CLUSTER_SIZE, |p| {
            launch_ex(p.function("bump"), 4, &[cluster(0)])
        }),
        on(
            Machine::Older,
            row("cuLaunchKernelEx", "a cluster on 8.0", CUDA_ERROR_INVALID_CLUSTER_SIZE, |p| {
                launch_ex(p.function("bump"), 4, &[cluster(2)])
            }),
        ),
    ]
}

fn occupancy() -> Vec<Misuse> {
    vec![
        row(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            "blocks of no threads",
            CUDA_ERROR_INVALID_VALUE,
            |p| unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, p.function("bump"), 0, 0) },
        ),
        row(
            "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
            "flags that do not exist",
            CUDA_ERROR_INVALID_VALUE,
            |p| unsafe {
                sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut 0, p.function("bump"), 32, 0, 2)
            },
        ),
        row(
            "cuOccupancyAvailableDynamicSMemPerBlock",
            "more blocks than fit on an SM",
            CUDA_ERROR_INVALID_VALUE,
            |p| unsafe { sys::cuOccupancyAvailableDynamicSMemPerBlock(&mut 0, p.function("bump"), 33, 32) },
        ),
        row("cuOccupancyMaxPotentialBlockSize", "a function that is none", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            sys::cuOccupancyMaxPotentialBlockSize(&mut 0, &mut 0, null_mut(), None, 0, 0)
        }),
    ]
}

/// A launch that fails on the device, which the next call that waits reports.
fn fail(p: Program, name: &str, arguments: &[u64]) -> CUresult {
    ok(launch(p.function(name), 1, null_mut(), arguments));
    unsafe { sys::cuCtxSynchronize() }
}

fn failures() -> Vec<Misuse> {
    vec![
        row(
            "cuCtxSynchronize",
            "after a kernel that wrote outside every allocation",
            CUDA_ERROR_ILLEGAL_ADDRESS,
            |p| fail(p, "store", &[0x1000, 7]),
        ),
        row(
            "cuCtxSynchronize",
            "after a kernel that wrote to memory that was freed",
            CUDA_ERROR_ILLEGAL_ADDRESS,
            |p| {
                let address = words(1);
                ok(unsafe { sys::cuMemFree_v2(address) });
                fail(p, "store", &[address, 7])
            },
        ),
        row(
            "cuCtxSynchronize",
            "after a kernel that wrote to a misaligned address",
            CUDA_ERROR_MISALIGNED_ADDRESS,
            |p| fail(p, "store", &[words(2) + 2, 7]),
        ),
        row("cuCtxSynchronize", "after a kernel that trapped", CUDA_ERROR_LAUNCH_FAILED, |p| fail(p, "give_up", &[])),
        row("cuMemAlloc", "the context was lost to an illegal address", CUDA_ERROR_ILLEGAL_ADDRESS, |p| {
            assert_eq!(fail(p, "store", &[0x1000, 7]), CUDA_ERROR_ILLEGAL_ADDRESS);
            unsafe { sys::cuMemAlloc_v2(&mut 0, 4) }
        }),
        row("cuLaunchKernel", "the context was lost to an illegal address", CUDA_ERROR_ILLEGAL_ADDRESS, |p| {
            let bump = p.function("bump");
            assert_eq!(fail(p, "store", &[0x1000, 7]), CUDA_ERROR_ILLEGAL_ADDRESS);
            launch(bump, 1, null_mut(), &[])
        }),
        row("cuMemFree", "the context was lost to a trap", CUDA_ERROR_LAUNCH_FAILED, |p| {
            let address = words(1);
            assert_eq!(fail(p, "give_up", &[]), CUDA_ERROR_LAUNCH_FAILED);
            unsafe { sys::cuMemFree_v2(address) }
        }),
        row("cuStreamCreate", "the context was lost to a trap", CUDA_ERROR_LAUNCH_FAILED, |p| {
            assert_eq!(fail(p, "give_up", &[]), CUDA_ERROR_LAUNCH_FAILED);
            let call: extern "C" fn(&mut usize, u32) -> CUresult = raw("cuStreamCreate");
            call(&mut 0, 0)
        }),
    ]
}
