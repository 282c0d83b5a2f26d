//! `nvcuda::wmma`.

use crate::case::{Case, DeviceCode};

const fn case(name: &'static str, checks: &'static str, exercises: &'static [&'static str]) -> Case {
    let code = DeviceCode::Cuda { file: "wmma.cu", arch: "sm_80" };
    Case { name, code, package: "nvidia-cuda-crt (nvcuda::wmma)", checks, exercises }
}

pub const CASES: &[Case] = &[
    case("wmma_f16", "16 × 16 × 16 tiles, f32 sums", &["wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32"]),
    case("wmma_f16_wide", "8 × 32 × 16 tiles", &["wmma.mma.sync.aligned.col.row.m8n32k16.f32.f32"]),
    case("wmma_f16_accumulate", "32 × 8 × 16 tiles, f16 sums", &["wmma.mma.sync.aligned.row.row.m32n8k16.f16.f16"]),
    case("wmma_bf16", "bf16 tiles", &["wmma.mma.sync.aligned.col.col.m16n16k16.f32.bf16.bf16.f32"]),
    case("wmma_s8", "i8 tiles, exact", &["wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.s8.s32"]),
    case("wmma_u8", "u8 tiles, exact", &["wmma.mma.sync.aligned.row.row.m32n8k16.s32.u8.u8.s32"]),
    case(
        "wmma_tf32",
        "tf32 tiles, inputs rounded",
        &["wmma.mma.sync.aligned.row.row.m16n16k8.f32.tf32", "cvt.rna.tf32"],
    ),
    case("wmma_f64", "f64 tiles", &["wmma.mma.sync.aligned.row.col.m8n8k4"]),
    case(
        "wmma_fragment_elements",
        "elements of fragments, shared memory with padding",
        &["wmma.load.a", "wmma.store.d"],
    ),
    case("wmma_b1", "bits: xor and and, population counts", &["wmma.mma.xor.popc", "wmma.mma.and.popc"]),
    case("wmma_s4", "4-bit integers", &["wmma.mma.sync.aligned.row.col.m8n8k32"]),
];
