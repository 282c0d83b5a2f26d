//! libcu++: barriers, pipelines, atomics and the standard library on the device.

use crate::case::{Case, DeviceCode};

const fn case(
    arch: &'static str,
    name: &'static str,
    checks: &'static str,
    exercises: &'static [&'static str],
) -> Case {
    let code = DeviceCode::Cuda { file: "libcudacxx.cu", arch };
    Case { name, code, package: "nvidia-cuda-cccl (libcu++)", checks, exercises }
}

const fn ptx(name: &'static str, checks: &'static str, exercises: &'static [&'static str]) -> Case {
    let code = DeviceCode::Cuda { file: "cuda_ptx.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-cuda-cccl (cuda::ptx)", checks, exercises }
}

pub const CASES: &[Case] = &[
    case(
        "sm_80",
        "cuda_barrier_producer_consumer",
        "one warp fills stages, three empty them, two barriers per stage",
        &["mbarrier.init", "mbarrier.arrive", "mbarrier.test_wait"],
    ),
    case(
        "sm_80",
        "cuda_barrier_completion",
        "completion function once per phase; threads that drop out",
        &["atom.add.acq_rel.cta.u64", "ld.acquire.cta", "st.release.cta"],
    ),
    case(
        "sm_80",
        "cuda_memcpy_async_barrier",
        "16-byte copies that arrive at a barrier",
        &["cp.async.mbarrier.arrive"],
    ),
    case("sm_80", "cuda_pipeline_block", "a pipeline of three stages shared by a block", &["cp.async.", "mbarrier."]),
    case(
        "sm_80",
        "cuda_pipeline_roles",
        "producer and consumer threads of a pipeline",
        &["mbarrier.", "match.any.sync"],
    ),
    case("sm_80", "cuda_pipeline_thread", "each thread's own pipeline", &["cp.async.cg", "cp.async.wait_group"]),
    case(
        "sm_80",
        "cuda_atomic_ref_arithmetic",
        "add, sub, min, max, and, or, xor on 32 and 64 bits, float and double",
        &["atom.add.acquire.gpu.f64", "atom.min.acquire.sys", "fence.sc.gpu"],
    ),
    case(
        "sm_80",
        "cuda_atomic_ref_exchange",
        "loops of compare-and-exchange; 16-bit atomics in 32-bit words",
        &["atom.cas.acq_rel.gpu", "ld.relaxed.gpu"],
    ),
    case(
        "sm_80",
        "cuda_atomic_message",
        "a chain of blocks by release and acquire",
        &["ld.acquire.gpu", "st.release.gpu"],
    ),
    case(
        "sm_80",
        "cuda_atomic_lock",
        "a ticket lock around plain memory; fences around relaxed flags",
        &["fence.acq_rel"],
    ),
    case(
        "sm_80",
        "cuda_semaphore_latch",
        "at most three threads inside; waiting for four",
        &["atom.cas.acquire.cta.b64"],
    ),
    case("sm_80", "cuda_std_complex", "a Fourier transform of 128 points", &["brev.b32", "fma.rn.f32"]),
    case("sm_80", "cuda_std_containers", "span, mdspan, array, tuple, optional, variant, algorithms", &["rem.u32"]),
    case("sm_80", "cuda_std_bit", "the functions of <bit>", &["popc.b64", "clz.b64", "shf.r.wrap", "prmt.b32"]),
    ptx(
        "cuda_ptx_mbarrier",
        "values handed over phase by phase, by parity",
        &["mbarrier.init", "mbarrier.try_wait.parity", "fence.mbarrier_init"],
    ),
    ptx("cuda_ptx_bits", "bit fields, permutes, shuffles, elect", &["bmsk.clamp", "prmt", "elect.sync", "bfind"]),
];
