//! CuTe's wgmma atoms over its shared-memory layouts.

use crate::case::{Case, DeviceCode};

const fn case(name: &'static str, checks: &'static str, exercises: &'static [&'static str]) -> Case {
    let code = DeviceCode::Cuda { file: "cute_tiles.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-cutlass (CuTe)", checks, exercises }
}

pub const CASES: &[Case] = &[
    case(
        "cute_tiles_f16",
        "K-major tiles, 128-byte swizzle",
        &["wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16", "wgmma.fence", "fence.proxy.async"],
    ),
    case("cute_tiles_plain", "K-major tiles without swizzle", &["wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16"]),
    case("cute_tiles_swizzles", "32- and 64-byte swizzles", &["wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16"]),
    case("cute_tiles_a_transposed", "A along M, not swizzled", &["wgmma.mma_async.sync.aligned.m64n128k16"]),
    case("cute_tiles_b_transposed", "B along N, 32-byte swizzle", &["wgmma.mma_async.sync.aligned.m64n128k16"]),
    case("cute_tiles_transposed", "A along M, B along N", &["wgmma.mma_async.sync.aligned.m64n128k16"]),
    case("cute_tiles_narrow", "four products side by side", &["wgmma.mma_async.sync.aligned.m64n32k16"]),
    case("cute_tiles_bf16", "bf16", &["wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16"]),
    case("cute_tiles_tf32", "tf32", &["wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32"]),
    case("cute_tiles_s8", "i8, exact", &["wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8"]),
    case("cute_tiles_registers", "A in registers, B along N", &["wgmma.mma_async.sync.aligned.m64n128k16"]),
    case("cute_tiles_registers_s8", "A in registers, exact", &["wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8"]),
];
