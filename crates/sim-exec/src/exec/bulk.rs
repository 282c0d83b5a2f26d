//! Bulk copies: what their instructions ask for, checked when they are issued. [`super::transfers`] carries them out.

use super::state::Fault;
use super::transfers::{End, Transfer};
use super::warp::{Flow, Step, each};
use crate::check::clock::Clock;
use crate::check::global_race::GlobalAccess;
use crate::check::shared;
use crate::counters::Sectors;
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::{PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::program::{Address, AtomicType, Bulk, BulkFar, BulkRoute, Op, Slot, Strength};
use crate::tensor_map::{Piece, TensorMap};
use crate::traffic::Touch;

/// Bytes that plain bulk copies are multiples of, and units in which their sources are guarded.
const UNIT_BYTES: u32 = 16;

/// What one copy moves.
struct Layout {
    /// `global` is an address in global memory or, between CTAs, an offset in the destination's shared memory.
    pieces: Vec<Piece>,
    /// Of shared memory, from the first byte to the last.
    span_bytes: u32,
    /// What is counted at the mbarrier.
    bytes: u32,
    /// What elements outside the tensor read as, repeated.
    fill: [u8; 8],
    ty: Option<AtomicType>,
}

impl Step<'_, '_> {
    pub(super) fn bulk_op(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        match op {
            Op::Bulk(bulk) => each(active).try_for_each(|lane| self.issue_bulk(bulk, lane))?,
            Op::BulkCommit => each(active).for_each(|lane| self.warp.bulk_groups[lane] += 1),
            Op::BulkWait { pending, read } => {
                for lane in each(active) {
                    let limit = self.warp.bulk_groups[lane].saturating_sub(*pending);
                    self.finish_groups(lane, limit, *read)?;
                }
            }
            Op::ProxyFence { shared, global } => self.fence_proxy(*shared, *global),
            other => panic!("{other:?} is no bulk operation"),
        }
        Ok(Flow::Next)
    }

    fn fence_proxy(&mut self, shared: bool, global: bool) {
        let (me, epoch) = (self.warp.id, self.warp.proxy_epoch);
        if shared {
            self.warp.clock.fence_proxy(me, epoch.into());
            // After more fences than can be counted, the warp's writes count as fenced.
            self.warp.proxy_epoch = if epoch == 0 { 0 } else { epoch.wrapping_add(1) };
        }
        if global {
            self.warp.clock.fence_proxy_global(me);
        }
    }

    fn issue_bulk(&mut self, bulk: &Bulk, lane: usize) -> Result<(), Fault> {
        let near = self.shared_operand(&bulk.shared, lane);
        let layout = match &bulk.far {
            BulkFar::Bytes { address, bytes } => self.plain_layout(bulk, near, address, *bytes, lane)?,
            BulkFar::Tensor { map, coordinates } => self.tensor_layout(near, map, coordinates, lane)?,
        };
        let reduce = match bulk.reduce.map(|(kind, ty)| (kind, ty.or(layout.ty))) {
            Some((_, None)) => return Err(bad(lane, "a reduction of elements that cannot be updated")),
            Some((kind, Some(ty))) => Some((kind, ty)),
            None => None,
        };
        let targets = match bulk.cta_mask {
            Some(mask) => self.multicast_targets(mask, near, &layout, lane)?,
            None => vec![self.shared_at(near, layout.span_bytes.into(), lane)?.0],
        };
        let mut to = None;
        if bulk.route == BulkRoute::Between {
            to = Some(self.far_shared(bulk, &layout, lane)?);
        }
        self.count_bulk(bulk.route, &layout, lane)?;
        if bulk.route != BulkRoute::Between {
            self.check_global_side(bulk.route, &layout, lane)?;
        }
        if bulk.route != BulkRoute::Load {
            self.guard_shared_source(targets[0], &layout, lane)?;
        }
        if let Some(to) = to {
            for piece in &layout.pieces {
                match reduce {
                    None => self.claim(to, far_offset(piece), piece.bytes, lane)?,
                    Some(_) => self.check_updated(to, far_offset(piece), piece.bytes, lane)?,
                }
            }
        }
        for &cta in targets.iter().filter(|_| bulk.route == BulkRoute::Load) {
            layout.pieces.iter().try_for_each(|p| self.claim(cta, p.shared, p.bytes, lane))?;
        }
        let clock = self.warp.release();
        for cta in targets {
            let end = match &bulk.mbarrier {
                Some(address) => self.bulk_barrier(address, to.unwrap_or(cta), bulk, layout.bytes, lane)?,
                None => End::Group { warp: self.warp.id, lane, group: self.warp.bulk_groups[lane] },
            };
            self.transfers.issue(Transfer {
                pc: self.pc,
                lane,
                clock: clock.clone(),
                route: bulk.route,
                reduce,
                cta,
                to,
                pieces: layout.pieces.clone(),
                fill: layout.fill,
                end,
                read: None,
            });
        }
        Ok(())
    }

    /// An address in shared memory, without its window if it is generic.
    fn shared_operand(&self, address: &Address, lane: usize) -> u64 {
        let at = self.addresses(address)[lane];
        if at >= SHARED_WINDOW { at - SHARED_WINDOW } else { at }
    }

    fn plain_layout(
        &mut self,
        bulk: &Bulk,
        near: u64,
        far: &Address,
        bytes: Slot,
        lane: usize,
    ) -> Result<Layout, Fault> {
        let bytes = self.reg(bytes)[lane] as u32;
        let far = match bulk.route {
            BulkRoute::Between => self.shared_operand(far, lane),
            BulkRoute::Load | BulkRoute::Store => self.addresses(far)[lane],
        };
        for (value, what) in [(near, "address"), (far, "address"), (bytes.into(), "number of bytes")] {
            if value % u64::from(UNIT_BYTES) != 0 {
                let message = format!("{what} {value:#x} of a bulk copy is not a multiple of {UNIT_BYTES}");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
        }
        let (_, offset) = self.shared_at(near, bytes.into(), lane)?;
        let pieces = if bytes == 0 { vec![] } else { vec![Piece { shared: offset, global: Some(far), bytes }] };
        Ok(Layout { pieces, span_bytes: bytes, bytes, fill: [0; 8], ty: None })
    }

    fn tensor_layout(&mut self, near: u64, map: &Address, coordinates: &[Slot], lane: usize) -> Result<Layout, Fault> {
        let map = self.tensor_map(self.addresses(map)[lane], lane)?;
        if map.dims.len() != coordinates.len() {
            let message = format!("{} coordinates for a tensor map of {}", coordinates.len(), map.dims.len());
            return Err(bad(lane, message));
        }
        if !near.is_multiple_of(128) {
            let message = format!("shared address {near:#x} of a tensor copy is not a multiple of 128");
            return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
        }
        let start: Vec<i32> = coordinates.iter().map(|&c| self.reg(c)[lane] as i32).collect();
        let span_bytes = map.shared_bytes();
        let (_, offset) = self.shared_at(near, span_bytes.into(), lane)?;
        let ty = match map.data_type {
            2 => Some(AtomicType::Unsigned(32)),
            3 => Some(AtomicType::Signed(32)),
            4 => Some(AtomicType::Unsigned(64)),
            5 => Some(AtomicType::Signed(64)),
            6 => Some(AtomicType::F16),
            7 | 10 => Some(AtomicType::F32),
            8 => Some(AtomicType::F64),
            9 => Some(AtomicType::Bf16),
            _ => None,
        };
        let nan: u64 = match (map.fills_nan, map.element_bytes) {
            (false, _) => 0,
            (true, 2) => 0x7fff_7fff_7fff_7fff,
            (true, 4) => 0x7fff_ffff_7fff_ffff,
            (true, _) => 0x7fff_ffff_ffff_ffff,
        };
        let pieces = map.pieces(&start, offset);
        Ok(Layout { pieces, span_bytes, bytes: map.box_bytes(), fill: nan.to_le_bytes(), ty })
    }

    /// Reads a tensor map from parameters or global memory.
    fn tensor_map(&mut self, at: u64, lane: usize) -> Result<TensorMap, Fault> {
        if !at.is_multiple_of(64) {
            let message = format!("tensor map at {at:#x}, which is not a multiple of 64");
            return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
        }
        let mut bytes = [0u8; 128];
        if (PARAM_WINDOW..PARAM_WINDOW + WINDOW_BYTES).contains(&at) {
            let offset = (at - PARAM_WINDOW) as usize;
            let Some(found) = self.launch.config.params.get(offset..offset + 128) else {
                let message = format!("a tensor map at parameter offset {offset}");
                return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
            };
            bytes.copy_from_slice(found);
        } else {
            let Some(allocation) = self.allocation(&[at; 32], 1 << lane, 128)? else {
                panic!("one tensor map cannot lie in several allocations");
            };
            let offset = at - allocation.base;
            if self.launch.gpu.config.checks.races {
                self.race_read(allocation, offset, 128, lane, Strength::Weak)?;
            }
            allocation.read_bytes(offset, &mut bytes);
        }
        let words = std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * i + byte])));
        let message = || format!("the 128 bytes at {at:#x} are no tensor map that can be used");
        TensorMap::decode(&words).filter(TensorMap::is_usable).ok_or_else(|| bad(lane, message()))
    }

    /// The CTAs of a multicast: all have the same offsets.
    fn multicast_targets(&self, mask: Slot, near: u64, layout: &Layout, lane: usize) -> Result<Vec<usize>, Fault> {
        let mask = self.reg(mask)[lane] as u16;
        if mask == 0 || u32::from(mask) >> self.ctas.len().min(16) != 0 {
            let message = format!("CTA mask {mask:#x} in a cluster of {}", self.ctas.len());
            return Err(bad(lane, message));
        }
        self.shared_at(near, layout.span_bytes.into(), lane)?;
        Ok(each(mask.into()).collect())
    }

    /// The CTA that a copy between CTAs goes to; its offsets are made relative to it.
    fn far_shared(&self, bulk: &Bulk, layout: &Layout, lane: usize) -> Result<usize, Fault> {
        let BulkFar::Bytes { address, .. } = &bulk.far else { return Err(bad(lane, "a tensor between CTAs")) };
        Ok(self.shared_at(self.shared_operand(address, lane), layout.bytes.into(), lane)?.0)
    }

    /// Checks that writes to global memory are ordered before a copy that reads them, and fenced before one that uses it at all.
    fn check_global_side(&mut self, route: BulkRoute, layout: &Layout, lane: usize) -> Result<(), Fault> {
        if !self.launch.gpu.config.checks.races {
            return Ok(());
        }
        let nothing = Clock::empty(self.warp.clock.own.len());
        for (start, bytes) in runs(layout.pieces.iter().filter_map(|p| Some((p.global?, u64::from(p.bytes))))) {
            let Some(allocation) = self.allocation(&[start; 32], 1 << lane, bytes)? else {
                panic!("one run of a copy cannot lie in several allocations");
            };
            let offset = start - allocation.base;
            if route == BulkRoute::Load {
                self.race_read(allocation, offset, bytes, lane, Strength::Weak)?;
            }
            let (word, end) = ((offset / 4) as usize, (offset + bytes).div_ceil(4) as usize);
            let access = GlobalAccess { word, bytes: 15, lane: 32, atomic: false, launch: self.launch.number };
            let fenced = self.warp.clock.fenced_global().unwrap_or(&nothing);
            let me = (self.cluster_id, nothing.own.len() - 1);
            if let Some(writer) = allocation.races.unfenced_write(fenced, me, access, end - word) {
                let message = format!(
                    "the asynchronous proxy uses {bytes} bytes at offset {offset} of {}, where cluster {} warp {} lane {} \
                     wrote without a fence.proxy.async since",
                    allocation.label, writer.other_cluster, writer.other_warp, writer.other_lane
                );
                return Err(Fault::new(FindingKind::MissingProxyFence, Some(lane), message));
            }
        }
        Ok(())
    }

    /// Checks that a copy may read its source in shared memory, and guards it against writes until it has.
    fn guard_shared_source(&mut self, cta: usize, layout: &Layout, lane: usize) -> Result<(), Fault> {
        for piece in layout.pieces.iter().filter(|p| p.global.is_some()) {
            self.check_shared_read(cta, piece.shared, piece.bytes, lane, false)?;
            self.check_async_proxy(cta, piece.shared, piece.bytes, Some(lane), "reads")?;
        }
        if self.launch.gpu.config.checks.races {
            units(&layout.pieces).for_each(|unit| self.ctas[cta].shared.begin_async_read(unit));
        }
        Ok(())
    }

    /// Checks that a copy may write to shared memory; until it has, nobody may touch it.
    fn claim(&mut self, cta: usize, offset: u32, bytes: u32, lane: usize) -> Result<(), Fault> {
        // A race says more than a missing fence, but the check for it forgets who wrote.
        let fenced = self.check_async_proxy(cta, offset, bytes, Some(lane), "overwrites");
        let access = shared::Access { offset, width: bytes, lane, atomic: false, epoch: 0 };
        self.check_shared_change(cta, access, None)?;
        fenced?;
        self.ctas[cta].shared.await_copy(offset, bytes);
        Ok(())
    }

    /// Checks that a copy may update bytes of shared memory, as others may at the same time.
    fn check_updated(&mut self, cta: usize, offset: u32, bytes: u32, lane: usize) -> Result<(), Fault> {
        self.check_shared_read(cta, offset, bytes, lane, true)?;
        self.check_async_proxy(cta, offset, bytes, Some(lane), "updates")
    }

    /// Checks generic writes to bytes of shared memory that the asynchronous proxy is about to use.
    pub(super) fn check_async_proxy(
        &self,
        cta: usize,
        offset: u32,
        bytes: u32,
        lane: Option<usize>,
        verb: &str,
    ) -> Result<(), Fault> {
        let Some((warp, writer)) = self.ctas[cta].shared.unfenced_write(&self.warp.clock, offset, bytes) else {
            return Ok(());
        };
        let per_cta = self.launch.config.block.iter().product::<u32>().div_ceil(32) as usize;
        let (cta, warp) = (warp / per_cta, warp % per_cta);
        let message = format!(
            "the asynchronous proxy {verb} shared offset {offset:#x}, which CTA {cta} warp {warp} lane {writer} wrote \
             without a fence.proxy.async since"
        );
        Err(Fault::new(FindingKind::MissingProxyFence, lane, message))
    }

    /// The mbarrier that a copy to CTA `target` reports to.
    fn bulk_barrier(
        &mut self,
        address: &Address,
        target: usize,
        bulk: &Bulk,
        bytes: u32,
        lane: usize,
    ) -> Result<End, Fault> {
        let (cta, offset) = self.mbarrier_at(self.addresses(address)[lane], lane)?;
        if bulk.cta_mask.is_none() && cta != target {
            return Err(bad(lane, format!("an mbarrier of CTA {cta} for a copy to CTA {target}")));
        }
        self.check_shared_read(target, offset, 8, lane, true)?;
        if !self.ctas[target].mbarriers.contains_key(&offset) {
            return Err(bad(lane, format!("shared offset {offset:#x} of CTA {target} holds no initialised mbarrier")));
        }
        Ok(End::Barrier { cta: target, offset, bytes })
    }

    /// Counts a copy by its side in global memory; multicast reads once.
    fn count_bulk(&mut self, route: BulkRoute, layout: &Layout, lane: usize) -> Result<(), Fault> {
        let mut sectors = 0;
        let mut bytes = 0;
        let touch = if route == BulkRoute::Load { Touch::Read } else { Touch::Write };
        let far = layout.pieces.iter().filter_map(|p| Some((p.global?, u64::from(p.bytes))));
        if route == BulkRoute::Between {
            let accesses = self.tally.at(self.pc);
            accesses.bulk_cluster_copies += 1;
            accesses.bulk_cluster_bytes += u64::from(layout.bytes);
            return Ok(());
        }
        for (start, length) in runs(far) {
            let Some(allocation) = self.allocation(&[start; 32], 1 << lane, length)? else {
                panic!("one run of a copy cannot lie in several allocations");
            };
            sectors += Sectors::of_range(start, length).touched;
            bytes += length;
            if !allocation.is_mapped() {
                let at = self.warp.last_allocation;
                self.launch.traffic.touch(at, allocation, start - allocation.base, length, touch);
            }
        }
        let accesses = self.tally.at(self.pc);
        if route == BulkRoute::Load {
            accesses.bulk_loads += 1;
            accesses.bulk_load_bytes += bytes;
            accesses.bulk_load_sectors += sectors;
        } else {
            accesses.bulk_stores += 1;
            accesses.bulk_store_bytes += bytes;
            accesses.bulk_store_sectors += sectors;
        }
        Ok(())
    }
}

/// The offset in the destination's shared memory of a piece between CTAs.
pub(super) fn far_offset(piece: &Piece) -> u32 {
    (piece.global.unwrap_or(0) & ((1 << crate::memory::CLUSTER_RANK_SHIFT) - 1)) as u32
}

/// First offsets of the guarded units that pieces inside the tensor touch; a unit counts once for each piece.
pub(super) fn units(pieces: &[Piece]) -> impl Iterator<Item = u32> {
    let inside = pieces.iter().filter(|p| p.global.is_some());
    inside
        .flat_map(|p| (p.shared / UNIT_BYTES..(p.shared + p.bytes).div_ceil(UNIT_BYTES)).map(|unit| unit * UNIT_BYTES))
}

/// Joins ranges (start and length) that follow each other.
fn runs(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (start, length) in ranges {
        match runs.last_mut() {
            Some((from, so_far)) if *from + *so_far == start => *so_far += length,
            _ => runs.push((start, length)),
        }
    }
    runs
}

fn bad(lane: usize, message: impl Into<String>) -> Fault {
    Fault::new(FindingKind::BadOperand, Some(lane), message)
}
