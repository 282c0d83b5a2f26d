//! Bulk and tensor copies: libcu++ and CuTe.

use crate::case::{Case, DeviceCode};

const fn case(
    file: &'static str,
    name: &'static str,
    package: &'static str,
    checks: &'static str,
    exercises: &'static [&'static str],
) -> Case {
    Case { name, code: DeviceCode::Cuda { file, arch: "sm_90a" }, package, checks, exercises }
}

const LIBCUDACXX: &str = "nvidia-cuda-cccl (libcu++)";

pub const CASES: &[Case] = &[
    case(
        "tma.cu",
        "tma_scale_rows",
        LIBCUDACXX,
        "cuda::barrier counts bytes; rows are loaded, changed in place and stored",
        &[
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes",
            "mbarrier.arrive.expect_tx",
            "fence.proxy.async.shared::cta",
            "cp.async.bulk.global.shared::cta.bulk_group",
            "cp.async.bulk.wait_group.read",
        ],
    ),
    case(
        "tma.cu",
        "tma_transpose",
        LIBCUDACXX,
        "tiles with a swizzle of 128 bytes; edges that fill no tile",
        &["cp.async.bulk.tensor.2d.shared::cluster.global.tile", "cp.async.bulk.tensor.2d.global.shared::cta.tile"],
    ),
    case(
        "tma.cu",
        "tma_boxes",
        LIBCUDACXX,
        "five dimensions, element strides, boxes half outside filled with NaN",
        &["cp.async.bulk.tensor.5d.shared::cluster.global.tile"],
    ),
    case(
        "tma.cu",
        "tma_histogram",
        LIBCUDACXX,
        "sums and 64-bit maxima of many CTAs",
        &[
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32",
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.max.u64",
        ],
    ),
    case(
        "tma.cu",
        "tma_ring",
        LIBCUDACXX,
        "clusters of four: multicast, then from shared memory to shared memory",
        &[
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes",
            "mapa.shared::cluster",
        ],
    ),
    case(
        "tma.cu",
        "tma_moved_map",
        LIBCUDACXX,
        "tensor maps that are changed on the device",
        &[
            "tensormap.replace.tile.global_address.shared::cta",
            "tensormap.cp_fenceproxy",
            "fence.proxy.tensormap::generic.acquire.gpu",
        ],
    ),
    case(
        "cute_tma.cu",
        "cute_tma_gemm",
        "nvidia-cutlass (CuTe)",
        "clusters of two: CUTLASS's pipeline, multicast, wgmma, tensor stores",
        &[
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
            "mbarrier.arrive.shared::cluster.b64",
            "setmaxnreg.dec",
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group",
        ],
    ),
];
