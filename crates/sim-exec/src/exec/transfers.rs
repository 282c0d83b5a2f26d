//! Bulk copies under way. They arrive as late as the ISA allows: those that report to an mbarrier when somebody has to wait for it,
//! in an order that the seed chooses, the others when their thread waits for their group, or when the cluster is done.
//!
//! To the race checker the asynchronous proxy is one more warp of the cluster, of which each arrival, and each wgmma, is a tick:
//! whoever waited in the right way has learned of it.

use super::atomics::{update_global, updated};
use super::bulk::{far_offset, units};
use super::state::Fault;
use super::warp::Step;
use crate::check::clock::{Actor, Clock};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::Allocation;
use crate::program::{AtomicKind, AtomicType, BulkRoute, Strength};
use crate::rng::Rng;
use crate::tensor_map::Piece;

/// How a transfer's end is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So many bytes are taken off the mbarrier's count.
    Barrier { cta: usize, offset: u32, bytes: u32 },
    /// The bulk group of a thread.
    Group { warp: usize, lane: usize, group: u32 },
}

/// A bulk copy that was issued and has not arrived.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub pc: u32,
    pub lane: usize,
    /// What the issuing warp knew.
    pub clock: Clock,
    pub route: BulkRoute,
    pub reduce: Option<(AtomicKind, AtomicType)>,
    /// Whose shared memory the pieces' offsets are in.
    pub cta: usize,
    /// The destination of a copy between CTAs.
    pub to: Option<usize>,
    pub pieces: Vec<Piece>,
    pub fill: [u8; 8],
    pub end: End,
    /// What was read of shared memory, if the source is free again.
    pub read: Option<Vec<u8>>,
}

/// The bulk copies of a cluster.
#[derive(Debug)]
pub struct Transfers {
    pending: Vec<Transfer>,
    /// Arrivals and wgmmas so far.
    tick: u32,
    rng: Rng,
}

impl Transfers {
    pub fn new(seed: u64) -> Self {
        Transfers { pending: Vec::new(), tick: 0, rng: Rng::new(seed ^ 0x6275_6c6b) }
    }

    /// Arrivals and wgmmas so far.
    pub fn tick(&self) -> u32 {
        self.tick
    }

    pub fn next_tick(&mut self) {
        self.tick += 1;
    }

    pub fn issue(&mut self, transfer: Transfer) {
        self.pending.push(transfer);
    }
}

impl Step<'_, '_> {
    /// The asynchronous proxy's number among the warps of clocks.
    fn proxy_warp(&self) -> usize {
        self.warp.clock.own.len() - 1
    }

    /// Somebody waits in vain for an mbarrier: now and then a copy that reports to it arrives. Returns whether one did.
    pub(super) fn deliver(&mut self, cta: usize, offset: u32) -> Result<bool, Fault> {
        let reports = |t: &Transfer| matches!(t.end, End::Barrier { cta: c, offset: o, .. } if (c, o) == (cta, offset));
        let transfers = &mut *self.transfers;
        let candidates: Vec<usize> = (0..transfers.pending.len()).filter(|&i| reports(&transfers.pending[i])).collect();
        if candidates.is_empty() || transfers.rng.below(2) == 0 {
            return Ok(false);
        }
        let chosen = candidates[transfers.rng.below(candidates.len() as u64) as usize];
        let transfer = transfers.pending.remove(chosen);
        self.arrive(transfer)?;
        Ok(true)
    }

    /// A thread waits for its groups below `limit`: until their sources were read or until they have arrived.
    pub(super) fn finish_groups(&mut self, lane: usize, limit: u32, read: bool) -> Result<(), Fault> {
        let me = self.warp.id;
        let due = |t: &Transfer| matches!(t.end, End::Group { warp, lane: l, group } if (warp, l) == (me, lane) && group < limit);
        let mut last = None;
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.transfers.pending).into_iter().partition(due);
        self.transfers.pending = later;
        for mut transfer in now {
            if read {
                self.read_source(&mut transfer).map_err(|fault| at(transfer.pc, fault))?;
                self.transfers.pending.push(transfer);
            } else {
                self.arrive(transfer)?;
            }
            last = Some(self.transfers.tick);
        }
        if let Some(tick) = last {
            let proxy = self.proxy_warp();
            self.warp.clock.own[proxy] = self.warp.clock.own[proxy].max(tick);
        }
        Ok(())
    }

    /// Checks that exiting lanes have waited until their copies' sources were read: shared memory ends with its CTA.
    pub(super) fn check_bulk_exit(&self, lanes: Mask) -> Result<(), Fault> {
        let me = self.warp.id;
        let unread = |t: &&Transfer| {
            let own = matches!(t.end, End::Group { warp, lane, .. } if warp == me && lanes >> lane & 1 != 0);
            own && t.read.is_none()
        };
        if !self.launch.gpu.config.checks.races {
            return Ok(());
        }
        let Some(transfer) = self.transfers.pending.iter().find(unread) else { return Ok(()) };
        let message = "the thread exits before it has waited until this bulk copy has read shared memory";
        Err(at(transfer.pc, Fault::new(FindingKind::AsyncNotWaited, Some(transfer.lane), message)))
    }

    /// The cluster is done: what was not waited for arrives now, and nothing may arrive in its shared memory any more.
    pub(super) fn finish_transfers(&mut self) -> Result<(), Fault> {
        while let Some(transfer) = self.transfers.pending.pop() {
            if matches!(transfer.end, End::Barrier { .. }) && self.launch.gpu.config.checks.races {
                let message = "the cluster ends before anybody has waited for this bulk copy into its shared memory";
                return Err(at(transfer.pc, Fault::new(FindingKind::AsyncNotWaited, None, message)));
            }
            self.arrive(transfer)?;
        }
        Ok(())
    }

    fn arrive(&mut self, mut transfer: Transfer) -> Result<(), Fault> {
        let pc = transfer.pc;
        let arrived = match transfer.route {
            BulkRoute::Load => self.arrive_load(&transfer),
            BulkRoute::Store => self.arrive_store(&mut transfer),
            BulkRoute::Between => self.arrive_between(&mut transfer),
        };
        arrived.map_err(|fault| at(pc, fault))?;
        let (proxy, tick) = (self.proxy_warp(), self.transfers.tick);
        if let End::Barrier { cta, offset, bytes } = transfer.end
            && let Some(barrier) = self.ctas[cta].mbarriers.get_mut(&offset)
        {
            let word = barrier.complete(bytes, proxy, tick);
            self.ctas[cta].shared.store(offset, 8, word);
        }
        Ok(())
    }

    /// What the copy knew when it was issued, at its arrival.
    fn arrival_clock(&mut self, transfer: &Transfer) -> Clock {
        self.transfers.tick += 1;
        let mut clock = transfer.clock.clone();
        clock.own[self.proxy_warp()] = self.transfers.tick;
        clock
    }

    fn actor<'c>(&self, clock: &'c Clock) -> Actor<'c> {
        Actor { clock, cluster: self.cluster_id, warp: self.proxy_warp() }
    }

    fn arrive_load(&mut self, transfer: &Transfer) -> Result<(), Fault> {
        let clock = self.arrival_clock(transfer);
        let (lane, races) = (transfer.lane, self.launch.gpu.config.checks.races);
        let mut data = Vec::new();
        for piece in &transfer.pieces {
            data.clear();
            data.extend(transfer.fill.iter().cycle().take(piece.bytes as usize));
            let mut unwritten = Vec::new();
            if let Some(from) = piece.global {
                let Some(allocation) = self.allocation(&[from; 32], 1 << lane, piece.bytes.into())? else {
                    panic!("one piece of a copy cannot lie in several allocations");
                };
                let (offset, bytes) = (from - allocation.base, u64::from(piece.bytes));
                if races {
                    self.race_read_by(&self.actor(&clock), allocation, (offset, bytes), lane, Strength::Weak)?;
                }
                allocation.read_bytes(offset, &mut data);
                if !allocation.is_page_written(offset, bytes) {
                    unwritten.extend((0..piece.bytes).filter(|&i| !allocation.is_written(offset + u64::from(i), 1)));
                }
            }
            let actor = Actor { clock: &clock, cluster: self.cluster_id, warp: self.proxy_warp() };
            let shared = &mut self.ctas[transfer.cta].shared;
            shared.finish_bulk(&actor, piece.shared, &data);
            unwritten.iter().for_each(|i| shared.mark_unwritten(piece.shared + i, 1));
        }
        Ok(())
    }

    /// Reads the source in shared memory, once; then it may be written again.
    fn read_source(&mut self, transfer: &mut Transfer) -> Result<(), Fault> {
        if transfer.read.is_some() {
            return Ok(());
        }
        let clock = self.arrival_clock(transfer);
        let actor = self.actor(&clock);
        let shared = &mut self.ctas[transfer.cta].shared;
        let mut data = Vec::new();
        for piece in transfer.pieces.iter().filter(|p| p.global.is_some()) {
            shared.read_async(&actor, piece.shared, piece.bytes, &mut data);
        }
        if self.launch.gpu.config.checks.races {
            units(&transfer.pieces).for_each(|unit| shared.end_async_read(unit));
        }
        transfer.read = Some(data);
        Ok(())
    }

    fn arrive_store(&mut self, transfer: &mut Transfer) -> Result<(), Fault> {
        self.read_source(transfer)?;
        let clock = self.arrival_clock(transfer);
        let (lane, races) = (transfer.lane, self.launch.gpu.config.checks.races);
        let data = transfer.read.take().expect("the source was just read");
        let mut rest = data.as_slice();
        let strength = if transfer.reduce.is_some() { Strength::Relaxed } else { Strength::Weak };
        for piece in &transfer.pieces {
            let Some(to) = piece.global else { continue };
            let (now, later) = rest.split_at(piece.bytes as usize);
            rest = later;
            let Some(allocation) = self.allocation(&[to; 32], 1 << lane, piece.bytes.into())? else {
                panic!("one piece of a copy cannot lie in several allocations");
            };
            let offset = to - allocation.base;
            if races {
                let range = (offset, u64::from(piece.bytes));
                self.race_write_by(&self.actor(&clock), allocation, range, lane, strength, false)?;
            }
            match transfer.reduce {
                None => allocation.write_bytes(offset, now),
                Some((kind, ty)) => self.reduce_global(allocation, offset, now, (kind, ty), lane)?,
            }
        }
        Ok(())
    }

    fn reduce_global(
        &self,
        allocation: &Allocation,
        offset: u64,
        data: &[u8],
        (kind, ty): (AtomicKind, AtomicType),
        lane: usize,
    ) -> Result<(), Fault> {
        let width = ty.width();
        for (i, element) in data.chunks_exact(width as usize).enumerate() {
            let at = offset + i as u64 * u64::from(width);
            if self.launch.gpu.config.checks.uninitialised && !allocation.is_written(at, width) {
                let message = format!("reduction at offset {at} of {}, which nothing has written", allocation.label);
                return Err(Fault::new(FindingKind::Uninitialised, Some(lane), message));
            }
            update_global(allocation, at, width, |old| updated(kind, ty, old, value(element)));
        }
        Ok(())
    }

    fn arrive_between(&mut self, transfer: &mut Transfer) -> Result<(), Fault> {
        self.read_source(transfer)?;
        let clock = self.arrival_clock(transfer);
        let actor = self.actor(&clock);
        let data = transfer.read.take().expect("the source was just read");
        let to = transfer.to.expect("a copy between CTAs has a destination");
        let mut rest = data.as_slice();
        for piece in &transfer.pieces {
            let (now, later) = rest.split_at(piece.bytes as usize);
            rest = later;
            let at = far_offset(piece);
            let shared = &mut self.ctas[to].shared;
            let Some((kind, ty)) = transfer.reduce else {
                shared.finish_bulk(&actor, at, now);
                continue;
            };
            let width = ty.width();
            let mut sums = Vec::with_capacity(now.len());
            for (i, element) in now.chunks_exact(width as usize).enumerate() {
                let old = shared.load(at + i as u32 * width, width);
                sums.extend_from_slice(&updated(kind, ty, old, value(element)).to_le_bytes()[..width as usize]);
            }
            let result = shared.reduce_bulk(&actor, at, &sums);
            result.map_err(|trouble| self.shared_fault(trouble, "reduction", at, transfer.lane))?;
        }
        Ok(())
    }
}

fn value(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// A fault of the instruction that issued the copy, wherever it shows.
fn at(pc: u32, fault: Fault) -> Fault {
    Fault { pc: Some(fault.pc.unwrap_or(pc)), ..fault }
}
