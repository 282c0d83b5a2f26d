//! Cooperative groups.

use crate::case::{Case, DeviceCode};

const fn case(name: &'static str, checks: &'static str, exercises: &'static [&'static str]) -> Case {
    let code = DeviceCode::Cuda { file: "cooperative_groups.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-cuda-runtime (cooperative groups)", checks, exercises }
}

pub const CASES: &[Case] = &[
    case(
        "cg_tiles",
        "reduce, exclusive scan and shuffles of tiles of 1 to 32 threads",
        &["redux.sync.add", "shfl.sync.up", "shfl.sync.bfly"],
    ),
    case(
        "cg_tile_votes",
        "ballot, any, all, match and shuffles of tiles of 8",
        &["match.any.sync", "match.all.sync", "vote.sync.ballot"],
    ),
    case(
        "cg_coalesced",
        "groups of the threads in a branch: reduce, rank, one atomic per group",
        &["activemask", "atom.global.add"],
    ),
    case("cg_partitions", "binary and labeled partitions of a warp: reduce, rank, scan", &["shfl.sync.idx"]),
    case("cg_multi_warp_tile", "tiles of 64 threads: reduce, sync, broadcast", &["red.and.release.cta"]),
    case("cg_grid_sync", "averaging of neighbours in steps: every step reads what all blocks wrote", &["%envreg1"]),
    case(
        "cg_cluster_histogram",
        "a histogram spread over the blocks of clusters",
        &["mapa", "atom.shared::cluster.add"],
    ),
    case(
        "cg_cluster_ring",
        "each block reads its neighbour's shared memory",
        &["barrier.cluster.arrive", "getctarank"],
    ),
    case("cg_split_barrier", "block barrier with arrive and wait apart", &["barrier."]),
    case("cg_memcpy_async", "tiles in two stages, wait_prior", &["cp.async.ca.shared.global", "cp.async.wait_group"]),
];
