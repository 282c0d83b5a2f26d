//! CUB: warp-, block- and device-wide algorithms.

use crate::case::{Case, DeviceCode};

type Instructions = &'static [&'static str];

const fn case(file: &'static str, name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    let code = DeviceCode::Cuda { file, arch: "sm_90a" };
    Case { name, code, package: "nvidia-cuda-cccl (CUB)", checks, exercises }
}

const fn block(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    case("cub_block.cu", name, checks, exercises)
}

const fn sort(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    case("cub_sort.cu", name, checks, exercises)
}

const fn warp(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    case("cub_warp.cu", name, checks, exercises)
}

const fn device(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    let code = DeviceCode::Cuda { file: "cub_device.cu", arch: "sm_80" };
    Case { name, code, package: "nvidia-cuda-cccl (CUB)", checks, exercises }
}

pub const CASES: &[Case] = &[
    warp("cub_warp_reduce", "float sums of warps; maxima of groups of 8 with lanes missing", &["shfl.sync.down"]),
    warp("cub_warp_reduce_segmented", "sums from head flag to head flag", &["vote.sync.ballot", "%lanemask_ge"]),
    warp("cub_warp_scan", "inclusive and exclusive sums of half warps from an initial value", &["shfl.sync.up"]),
    warp("cub_warp_scan_custom", "composition of linear functions: not commutative", &["shfl.sync.up", "fma.rn.f32"]),
    warp("cub_warp_exchange", "blocked to striped, through shared memory and by shuffles", &["shfl.sync.bfly"]),
    warp("cub_warp_load_store", "transposing f64 copies with a partial warp", &["bar.warp.sync", "add.f64"]),
    block("cub_block_reduce", "sum of each block's 128 integers", &["redux.sync.add", "bar.sync"]),
    block("cub_block_reduce_raking", "float maximum of a partly filled block", &["st.shared", "bar.sync"]),
    block("cub_block_reduce_commutative", "xor of each block, raking", &["redux.sync.xor"]),
    block("cub_block_scan", "exclusive sums of 4 items per thread, and the total", &["shfl.sync.up"]),
    block("cub_block_scan_raking", "inclusive maxima, raking with memoized partials", &["bar.sync", "max.s32"]),
    block("cub_block_scan_prefix", "inclusive sums over many tiles with a running prefix", &["bar.sync"]),
    block("cub_block_exchange", "blocked to striped and back; scatter by rank", &["st.shared", "ld.shared"]),
    block("cub_block_exchange_warp", "f64, blocked to warp-striped and back", &["bar.warp.sync"]),
    block("cub_block_load_store", "all four transposing algorithms, partial tile of i16", &["ld.global.u16"]),
    block("cub_block_load_store_vector", "vectorised tiles", &["ld.global.v4", "st.global.v4"]),
    block("cub_block_histogram_atomic", "256 bins of bytes by shared-memory atomics", &["atom.shared.cta.add"]),
    block("cub_block_histogram_sort", "256 bins of bytes by sorting", &["bar.sync"]),
    block("cub_block_discontinuity", "head and tail flags", &["setp.ne", "bar.sync"]),
    block("cub_block_adjacent_difference", "differences to the left and right neighbour", &["sub.s32", "bar.sync"]),
    block("cub_block_run_length_decode", "runs of 0 to 9 items, decoded window by window", &["bar.sync"]),
    block("cub_block_shuffle", "items one up, one down, and the block's last", &["bar.sync"]),
    sort("cub_block_radix_sort", "floats with both zeros and infinities in order", &["bmsk.clamp", "bar.sync"]),
    sort("cub_block_radix_sort_pairs", "descending, stable, 16-bit values", &["bar.sync"]),
    sort(
        "cub_block_radix_rank",
        "ranks by a 6-bit digit through ballots of equal lanes",
        &["vote.ballot.sync", "atom.shared"],
    ),
    sort("cub_block_merge_sort", "stable by magnitude with values, partly filled", &["bar.sync"]),
    sort(
        "cub_block_topk",
        "the k largest of a partly filled block, with their places",
        &["atom.shared.add", "ld.shared.v4"],
    ),
    warp("cub_warp_merge_sort", "48 keys of each half warp in order", &["bar.warp.sync", "ld.shared"]),
    device("cub_device_scan", "exclusive sums by decoupled look-back", &["ld.relaxed.gpu.v2", "st.relaxed.gpu.v2"]),
    device("cub_device_reduce", "maxima of shares of the input, then of those", &["shfl.sync.down"]),
    device("cub_device_radix_sort", "pairs in four one-sweep passes, stable", &["atom.global.add", "bar.red.or.pred"]),
    device(
        "cub_device_select",
        "the odd numbers in their order, and how many",
        &["ld.relaxed.gpu.v2", "vote.sync.any"],
    ),
];
