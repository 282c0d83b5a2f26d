//! `cuOccupancy*`.

use super::launch::{Config, request};
use crate::abi::{In, Out};
use crate::code::{Code, Res, require};
use crate::core::Driver;
use crate::core::table::Handle;

/// Dynamic shared memory for a block size.
type SharedBytes = Option<extern "C" fn(i32) -> usize>;

struct BestBlock {
    function: Handle,
    shared_bytes_of: SharedBytes,
    shared_bytes: usize,
    limit: i32,
}

fn best_block(d: &mut Driver, grid: Out<i32>, block: Out<i32>, ask: BestBlock) -> Res {
    grid.check()?;
    let shared = |threads| ask.shared_bytes_of.map_or(ask.shared_bytes, |f| f(threads)) as u64;
    let (blocks, threads) = d.best_block(ask.function, ask.limit, shared)?;
    block.give(|| Ok(threads))?;
    grid.give(|| Ok(blocks))
}

fn check_flags(flags: u32) -> Res {
    require(flags <= 1, Code::InvalidValue, format!("flags {flags:#x}"))
}

calls! {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, function: Handle, threads: i32, shared_bytes: usize) |d| {
        blocks.give(|| d.occupancy(function, threads, shared_bytes as u64))
    };
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, function: Handle, threads: i32, shared_bytes: usize, flags: u32,
    ) |d| {
        check_flags(flags)?;
        blocks.give(|| d.occupancy(function, threads, shared_bytes as u64))
    };
    cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_bytes_of: SharedBytes, shared_bytes: usize, limit: i32,
    ) |d| best_block(d, grid, block, BestBlock { function, shared_bytes_of, shared_bytes, limit });
    cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_bytes_of: SharedBytes, shared_bytes: usize, limit: i32,
        flags: u32,
    ) |d| {
        check_flags(flags)?;
        best_block(d, grid, block, BestBlock { function, shared_bytes_of, shared_bytes, limit })
    };
    cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: i32, threads: i32) |d| {
        bytes.give(|| d.available_shared_bytes(function, blocks, threads).map(|b| b as usize))
    };
    cuOccupancyMaxActiveClusters(clusters: Out<i32>, function: Handle, config: In<Config>) |d| {
        let (request, _) = request(&config.get()?, function, Vec::new())?;
        clusters.give(|| d.active_clusters(&request))
    };
    cuOccupancyMaxPotentialClusterSize(ctas: Out<i32>, function: Handle, config: In<Config>) |d| {
        let (request, _) = request(&config.get()?, function, Vec::new())?;
        ctas.give(|| d.largest_cluster(&request))
    };
}
