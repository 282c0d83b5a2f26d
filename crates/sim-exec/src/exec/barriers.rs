//! bar.sync/arrive/red, bar.warp.sync and barrier.cluster.

use super::state::{BARRIERS, Fault, Fragment, Wait};
use super::warp::{Flow, Step, each};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::program::{Barrier, BarrierKind, Slot};

impl Step<'_, '_> {
    pub(super) fn cta_barrier(&mut self, barrier: &Barrier, active: Mask) -> Result<Flow, Fault> {
        let lane = active.trailing_zeros() as usize;
        let id = self.reg(barrier.id)[lane] as u32 as usize;
        if id >= BARRIERS {
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), format!("barrier {id} of {BARRIERS}")));
        }
        if self.resumed {
            return Ok(self.leave_barrier(barrier, id, active));
        }
        if barrier.aligned && self.warp.live & !active != 0 {
            return Ok(Flow::Wait(Wait::Converge { lanes: self.warp.live }));
        }
        let expected = barrier.threads.map(|t| self.reg(t)[lane] as u32);
        if expected.is_some_and(|n| n == 0 || n % 32 != 0) {
            let message = format!("barrier {id} for {expected:?} threads, not a multiple of 32");
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        }
        let votes = match barrier.kind {
            BarrierKind::RedPopc { p, .. } | BarrierKind::RedAnd { p, .. } | BarrierKind::RedOr { p, .. } => {
                self.pred(p) & active
            }
            BarrierKind::Sync | BarrierKind::Arrive => 0,
        };
        let clock = self.warp.release();
        // Barriers count whole warps: a warp whose lanes have partly exited still stands for 32 threads when a count is given.
        let arriving = if expected.is_some() && barrier.aligned { 32 } else { active.count_ones() };
        let cta = &mut self.ctas[self.warp.cta];
        let state = &mut cta.barriers[id];
        if state.arrived > 0 && state.expected != expected {
            let message = format!("barrier {id} awaits {:?} threads, here {expected:?}", state.expected);
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        }
        let generation = state.generation;
        state.expected = expected;
        state.arrived += arriving;
        state.popc += votes.count_ones();
        state.all &= votes == active;
        state.any |= votes != 0;
        state.clock.join(&clock);
        state.settle(cta.live_threads);
        if barrier.kind == BarrierKind::Arrive {
            return Ok(Flow::Next);
        }
        Ok(Flow::Wait(Wait::Barrier { id, generation }))
    }

    fn leave_barrier(&mut self, barrier: &Barrier, id: usize, active: Mask) -> Flow {
        let state = &self.ctas[self.warp.cta].barriers[id];
        self.warp.clock.join(&state.done_clock);
        let (popc, all, any) = state.done;
        match barrier.kind {
            BarrierKind::RedPopc { d, .. } => self.set(d, active, &[popc.into(); 32]),
            BarrierKind::RedAnd { d, .. } => self.set_pred(d, active, if all { !0 } else { 0 }),
            BarrierKind::RedOr { d, .. } => self.set_pred(d, active, if any { !0 } else { 0 }),
            BarrierKind::Sync | BarrierKind::Arrive => {}
        }
        Flow::Next
    }

    /// Lanes may reach a warp barrier at different instructions.
    pub(super) fn warp_sync(&mut self, mask: Slot, active: Mask) -> Result<Flow, Fault> {
        let masks = self.reg(mask);
        if let Some(lane) = each(active).find(|&l| masks[l] as u32 >> l & 1 == 0) {
            let message = format!("lane {lane} is not in its member mask {:#x}", masks[lane] as u32);
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        }
        let lanes = each(active).fold(0, |m, lane| m | masks[lane] as u32);
        let waiting = |f: &Fragment| matches!(f.wait, Some(Wait::WarpSync { lanes: other }) if other & lanes != 0);
        let arrived = self.warp.fragments.iter().filter(|f| waiting(f)).fold(active, |m, f| m | f.mask);
        if self.needed(lanes) & !arrived != 0 {
            return Ok(Flow::Wait(Wait::WarpSync { lanes }));
        }
        for fragment in self.warp.fragments.iter_mut().filter(|f| waiting(f)) {
            fragment.wait = None;
            fragment.pc += 1;
        }
        self.warp.clock.own[self.warp.id] += 1;
        Ok(Flow::Next)
    }

    pub(super) fn cluster_arrive(&mut self, active: Mask) -> Result<Flow, Fault> {
        let clock = self.warp.release();
        let live: u32 = self.ctas.iter().map(|c| c.live_threads).sum();
        self.cluster_barrier.clock.join(&clock);
        self.cluster_barrier.arrived += active.count_ones();
        self.warp.cluster_generation = self.cluster_barrier.generation;
        self.cluster_barrier.settle(live);
        Ok(Flow::Next)
    }

    pub(super) fn cluster_wait(&mut self, active: Mask) -> Result<Flow, Fault> {
        let _ = active;
        let generation = self.warp.cluster_generation;
        if self.cluster_barrier.generation == generation {
            return Ok(Flow::Wait(Wait::Cluster { generation }));
        }
        self.warp.clock.join(&self.cluster_barrier.done_clock);
        Ok(Flow::Next)
    }
}
