//! Special registers, as 32-bit values.

use super::state::{Cta, Launch, unflatten};
use crate::program::{RESERVED_SHARED_BYTES, Special};

/// The value of a special register in one lane.
pub fn value(launch: &Launch<'_>, cta: &Cta, rank: usize, warp: usize, lane: usize, special: Special) -> u32 {
    let config = launch.config;
    let threads: u32 = config.block.iter().product();
    let axis = |values: [u32; 3], i: u8| values[i as usize];
    let bit = 1u32 << lane;
    let clusters: [u32; 3] = std::array::from_fn(|i| config.grid[i] / config.cluster[i]);
    match special {
        Special::Tid(i) => axis(unflatten((warp * 32 + lane) as u32, config.block), i),
        Special::Ntid(i) => axis(config.block, i),
        Special::Ctaid(i) => axis(cta.index, i),
        Special::Nctaid(i) => axis(config.grid, i),
        Special::LaneId => lane as u32,
        Special::WarpId => warp as u32,
        Special::NWarpId => threads.div_ceil(32),
        Special::SmId => {
            (cta.index[0] + config.grid[0] * (cta.index[1] + config.grid[1] * cta.index[2]))
                % launch.gpu.config.sm_count
        }
        Special::NSmId => launch.gpu.config.sm_count,
        Special::GridId => launch.number as u32,
        Special::LaneMaskEq => bit,
        Special::LaneMaskLt => bit - 1,
        Special::LaneMaskLe => bit | (bit - 1),
        Special::LaneMaskGt => !(bit | (bit - 1)),
        Special::LaneMaskGe => !(bit - 1),
        Special::ClusterId(i) => axis(cta.index, i) / axis(config.cluster, i),
        Special::NClusterId(i) => axis(clusters, i),
        Special::ClusterCtaId(i) => axis(cta.index, i) % axis(config.cluster, i),
        Special::ClusterNCtaId(i) => axis(config.cluster, i),
        Special::ClusterCtaRank => rank as u32,
        Special::ClusterNCtaRank => config.cluster.iter().product(),
        Special::DynamicSharedBytes => config.dynamic_shared_bytes,
        Special::TotalSharedBytes => cta.shared_bytes,
        Special::ReservedSharedOffset(offset) => cta.reserved_shared.start + offset,
        Special::ReservedSharedBytes => RESERVED_SHARED_BYTES,
        Special::EnvReg(1) => (config.grid_workspace >> 32) as u32,
        Special::EnvReg(2) => config.grid_workspace as u32,
        Special::EnvReg(_) => 0,
    }
}
