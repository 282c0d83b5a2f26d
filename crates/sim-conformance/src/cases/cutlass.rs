//! CUTLASS and CuTe.

use crate::case::{Case, DeviceCode};

type Instructions = &'static [&'static str];

const fn case(
    file: &'static str,
    arch: &'static str,
    name: &'static str,
    checks: &'static str,
    exercises: Instructions,
) -> Case {
    Case { name, code: DeviceCode::Cuda { file, arch }, package: "nvidia-cutlass", checks, exercises }
}

const fn gemm(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    case("cutlass_gemm.cu", "sm_80", name, checks, exercises)
}

pub const CASES: &[Case] = &[
    gemm(
        "cutlass_gemm_f16",
        "multistage GEMM, odd shapes, linear combination",
        &["cp.async.cg", "ldmatrix.sync.aligned.x4", "mma.sync.aligned.m16n8k16.row.col.f32.f16"],
    ),
    gemm(
        "cutlass_gemm_bf16_relu",
        "transposed operands, f32 output, rectified",
        &["ldmatrix.sync.aligned.x4.trans", "mma.sync.aligned.m16n8k16.row.col.f32.bf16"],
    ),
    gemm("cutlass_gemm_s8", "i8 operands, exact", &["mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32.satfinite"]),
    gemm("cutlass_gemm_tf32", "f32 operands through tf32", &["mma.sync.aligned.m16n8k8.row.col.f32.tf32"]),
    case(
        "cute.cu",
        "sm_80",
        "cute_gemm_sm80",
        "tiled copies, swizzled stages, tiled products by hand",
        &["cp.async.cg", "ldmatrix.sync.aligned.x4", "mma.sync.aligned.m16n8k16"],
    ),
    case("cute.cu", "sm_80", "cute_transpose", "a transpose through swizzled shared memory", &["bar.sync"]),
    case(
        "cute_sm90.cu",
        "sm_90a",
        "cute_wgmma_f16",
        "two warpgroups, 128-byte swizzle, K-major",
        &["wgmma.mma_async.sync.aligned.m64n64k16.f32.f16", "fence.proxy.async"],
    ),
    case(
        "cute_sm90.cu",
        "sm_90a",
        "cute_wgmma_bf16",
        "64-byte swizzle, MN-major operands",
        &["wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16", "wgmma.wait_group"],
    ),
    case(
        "cute_sm90.cu",
        "sm_90a",
        "cute_wgmma_e4m3",
        "fp8, 32-byte swizzle",
        &["wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3", "wgmma.fence"],
    ),
];
