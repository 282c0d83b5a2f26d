//! What Triton's compiler makes of kernels in Python.

use crate::case::{Case, DeviceCode};

const fn case(
    name: &'static str,
    kernel: &'static str,
    capability: u32,
    checks: &'static str,
    exercises: &'static [&'static str],
) -> Case {
    Case {
        name,
        code: DeviceCode::Triton { file: "kernels.py", kernel, capability },
        package: "triton",
        checks,
        exercises,
    }
}

pub const CASES: &[Case] = &[
    case("triton_vector_add_80", "vector_add", 80, "masked loads and stores", &["ld.global", "st.global"]),
    case("triton_vector_add_90", "vector_add", 90, "masked loads and stores", &["ld.global", "st.global"]),
    case("triton_softmax_80", "softmax", 80, "rows of 200", &["shfl.sync.bfly", "ex2.approx", "bar.sync"]),
    case("triton_softmax_90", "softmax", 90, "rows of 200", &["shfl.sync.bfly", "ex2.approx", "bar.sync"]),
    case("triton_layer_norm_80", "layer_norm", 80, "rows of 200", &["shfl.sync.bfly", "sqrt.approx"]),
    case("triton_layer_norm_90", "layer_norm", 90, "rows of 200", &["shfl.sync.bfly", "sqrt.approx"]),
    case("triton_sum_atomic_80", "sum_atomic", 80, "sum and maximum over CTAs", &["atom.global.gpu.acq_rel.add"]),
    case("triton_sum_atomic_90", "sum_atomic", 90, "sum and maximum over CTAs", &["atom.global.gpu.acq_rel.add"]),
    case("triton_prefix_sum_80", "prefix_sum", 80, "512 integers per CTA", &["shfl.sync.up"]),
    case("triton_prefix_sum_90", "prefix_sum", 90, "512 integers per CTA", &["shfl.sync.up"]),
    case("triton_sort_80", "sort_rows", 80, "128 floats per CTA", &["shfl.sync"]),
    case("triton_sort_90", "sort_rows", 90, "128 floats per CTA", &["shfl.sync"]),
    case(
        "triton_matmul_f16_80",
        "matmul_f16",
        80,
        "three stages; depth and edges that fill no tile",
        &["mma.sync.aligned.m16n8k16", "ldmatrix", "cp.async.cg"],
    ),
    case(
        "triton_matmul_f16_90",
        "matmul_f16",
        90,
        "three stages; depth and edges that fill no tile",
        &["wgmma.mma_async", "cp.async"],
    ),
    case("triton_matmul_bf16_80", "matmul_bf16", 80, "two stages", &["mma.sync.aligned.m16n8k16.row.col.f32.bf16"]),
    case("triton_matmul_bf16_90", "matmul_bf16", 90, "two stages", &["wgmma.mma_async"]),
    case("triton_matmul_s8_80", "matmul_s8", 80, "exact", &["mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8"]),
    case("triton_matmul_s8_90", "matmul_s8", 90, "exact", &["wgmma.mma_async"]),
    case("triton_attention_80", "attention", 80, "causal, two heads of 64", &["mma.sync.aligned.m16n8k16", "ldmatrix"]),
    case("triton_attention_90", "attention", 90, "causal, two heads of 64", &["wgmma.mma_async", "wgmma.wait_group"]),
    case(
        "triton_matmul_host_descriptors",
        "matmul_host_descriptors",
        90,
        "tensor maps of the host; depth and edges that fill no tile",
        &[
            "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes",
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group",
            "mbarrier.arrive.expect_tx",
            "mbarrier.try_wait.parity",
            "wgmma.mma_async",
        ],
    ),
    case(
        "triton_matmul_device_descriptors",
        "matmul_device_descriptors",
        90,
        "tensor maps that the kernel makes; the result is added to memory",
        &[
            "tensormap.replace.tile.global_address",
            "tensormap.cp_fenceproxy",
            "fence.proxy.tensormap::generic.acquire.gpu",
            "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add",
        ],
    ),
    case(
        "triton_attention_descriptors",
        "attention_descriptors",
        90,
        "causal, two heads of 64, tensor maps of the host",
        &["cp.async.bulk.tensor.2d", "fence.proxy.async", "wgmma.mma_async", "elect.sync"],
    ),
];
