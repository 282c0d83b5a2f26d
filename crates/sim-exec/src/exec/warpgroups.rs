//! All four warps of a warpgroup must issue the same wgmmas: each computes its rows of what is one product. So when one of them has
//! waited for a product, the others' operands have been read too; CUTLASS's pipelines count on that.
//!
//! Operands in shared memory are read by the asynchronous proxy, which to the race checker is a warp of its own.

use std::collections::VecDeque;

use super::memory::UNWRITTEN;
use super::state::Fault;
use super::warp::Step;
use crate::check::clock::Actor;
use crate::finding::FindingKind;

/// Warps of a warpgroup.
const WARPS: usize = 4;

/// The wgmmas that some warps of a warpgroup have issued and others not yet.
#[derive(Clone, Debug, Default)]
pub struct Warpgroup {
    /// Per warp.
    issued: [u64; WARPS],
    /// Issued by all.
    common: u64,
    /// Program counters of those after.
    ahead: VecDeque<u32>,
    exited: usize,
    /// Offsets of the 16-byte pieces that the wgmmas from number `waited` on read.
    operands: VecDeque<Vec<u32>>,
    /// The wgmmas that some warp has waited for.
    waited: u64,
}

impl Warpgroup {
    /// Whether all warps have issued so many wgmmas.
    pub fn have_issued(&self, count: u64) -> bool {
        self.common >= count
    }

    /// The wgmmas that each warp has issued.
    pub fn issued(&self) -> [u64; WARPS] {
        self.issued
    }

    /// Notes that a warp issues the wgmma at `pc`.
    ///
    /// # Errors
    /// The program counter of the wgmma that another warp issued in its place.
    fn issue(&mut self, warp: usize, pc: u32) -> Result<(), u32> {
        match self.ahead.get((self.issued[warp] - self.common) as usize) {
            None => self.ahead.push_back(pc),
            Some(&other) if other != pc => return Err(other),
            Some(_) => {}
        }
        self.issued[warp] += 1;
        while self.issued.iter().all(|&n| n > self.common) {
            self.common += 1;
            self.ahead.pop_front();
        }
        Ok(())
    }
}

impl Step<'_, '_> {
    /// Checks a wgmma against those of the other warps of its warpgroup.
    pub(super) fn check_warpgroup_issue(&mut self) -> Result<(), Fault> {
        let pc = self.pc;
        let places = &self.launch.program.places;
        let (warp, group) = (self.warp.index % WARPS, self.warpgroup());
        group.issue(warp, pc).map_err(|other| {
            let place = places.get(other as usize).map(ToString::to_string).unwrap_or_default();
            let message = format!("another warp of the warpgroup issues the wgmma at {place} in place of this one");
            Fault::new(FindingKind::DivergentBarrier, None, message)
        })
    }

    /// The wgmmas that the warp has issued.
    pub(super) fn issued_wgmmas(&mut self) -> u64 {
        let warp = self.warp.index % WARPS;
        self.warpgroup().issued[warp]
    }

    /// Checks that the asynchronous proxy may read 16 bytes of shared memory, and remembers that it did.
    pub(super) fn check_operand_read(&mut self, cta: usize, offset: u32) -> Result<(), Fault> {
        let who = Actor { clock: &self.warp.clock, cluster: self.cluster_id, warp: self.warp.id };
        let (proxy, tick) = (self.warp.clock.own.len() - 1, self.transfers.tick() + 1);
        let shared = &mut self.ctas[cta].shared;
        let checked = shared.check_operand(&who, offset, (proxy, tick));
        let is_written = shared.is_written(offset, 16);
        checked.map_err(|trouble| self.shared_fault(trouble, "read", offset, 0))?;
        if is_written {
            return Ok(());
        }
        let message = format!("read of shared offset {offset:#x}: {UNWRITTEN}");
        Err(Fault::new(FindingKind::Uninitialised, Some(0), message))
    }

    /// Whether all warps of the warpgroup have issued so many wgmmas.
    pub(super) fn warpgroup_has_issued(&self, count: u64) -> bool {
        let groups = &self.ctas[self.warp.cta].warpgroups;
        groups.get(self.warp.index / WARPS).is_some_and(|group| group.have_issued(count))
    }

    /// Guards the operands of the wgmma that the warp has just issued against writes.
    pub(super) fn guard_operands(&mut self, pieces: Vec<u32>) {
        let shared = &mut self.ctas[self.warp.cta].shared;
        pieces.iter().for_each(|&piece| shared.begin_async_read(piece));
        self.transfers.next_tick();
        let number = self.issued_wgmmas() - 1;
        let group = self.warpgroup();
        let at = (number - group.waited) as usize;
        if at >= group.operands.len() {
            group.operands.resize(at + 1, Vec::new());
        }
        group.operands[at].extend(pieces);
    }

    /// The warp waits for the first `issued` wgmmas. Returns false if other warps have not issued them yet.
    pub(super) fn finish_operands(&mut self, issued: u64) -> bool {
        let group = self.warpgroup();
        if !group.have_issued(issued) {
            return false;
        }
        let count = issued.saturating_sub(group.waited);
        let done: Vec<Vec<u32>> = group.operands.drain(..count as usize).collect();
        group.waited += count;
        let shared = &mut self.ctas[self.warp.cta].shared;
        done.iter().flatten().for_each(|&piece| shared.end_async_read(piece));
        let (proxy, tick) = (self.warp.clock.own.len() - 1, self.transfers.tick());
        self.warp.clock.own[proxy] = self.warp.clock.own[proxy].max(tick);
        true
    }

    /// Checks, when the last warp of a warpgroup exits, that all issued the same wgmmas.
    pub(super) fn check_warpgroup_exit(&mut self) -> Result<(), Fault> {
        if self.launch.program.watches.is_empty() {
            return Ok(());
        }
        let group = self.warpgroup();
        group.exited += 1;
        if group.exited < WARPS || group.ahead.is_empty() {
            return Ok(());
        }
        let message = format!("the warps of a warpgroup issued different numbers of wgmmas: {:?}", group.issued);
        Err(Fault { pc: group.ahead.front().copied(), ..Fault::new(FindingKind::DivergentBarrier, None, message) })
    }

    fn warpgroup(&mut self) -> &mut Warpgroup {
        let groups = &mut self.ctas[self.warp.cta].warpgroups;
        let at = self.warp.index / WARPS;
        if at >= groups.len() {
            groups.resize(at + 1, Warpgroup::default());
        }
        &mut groups[at]
    }
}
