//! One warp's turn: choosing a fragment, running it until it waits, splits or meets another.
//!
//! Divergence follows the smallest program counter, which reconverges structured code at its join. Fragments whose turn never
//! comes because others loop get one after [`PATIENCE`] backward branches, the one that has waited longest first, so that lanes
//! can wait for lanes of their own warp.

use super::locate;
use super::state::{Cluster, Cta, Fault, Fragment, Launch, Wait, Warp};
use super::transfers::Transfers;
use crate::counters::Tally;
use crate::finding::{Finding, FindingKind};
use crate::lanes::{FULL, Lanes, Mask};
use crate::program::{BoolOp, Instruction, Op, Pred, PredSlot, SINK, Slot};

/// Backward branches after which another fragment gets a turn.
const PATIENCE: u32 = 200;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Every fragment waits.
    Blocked,
    /// The budget is used up.
    Turn,
    /// A wait failed; others should run first.
    Spin,
}

/// What follows an operation.
#[derive(Debug)]
pub enum Flow {
    Next,
    Branch(u32),
    /// Per lane targets.
    BranchLanes(Box<[(u32, Mask)]>),
    Exit,
    Wait(Wait),
    /// Go on, but let others run first.
    Yield,
}

/// A warp at work: everything an operation can reach.
pub struct Step<'a, 'l> {
    pub launch: &'a Launch<'l>,
    pub cluster_id: u32,
    pub ctas: &'a mut [Cta],
    pub cluster_barrier: &'a mut super::state::BarrierState,
    pub transfers: &'a mut Transfers,
    pub warp: &'a mut Warp,
    pub tally: &'a mut Tally,
    /// The fragment was at a barrier that has now completed.
    pub resumed: bool,
    pub pc: u32,
}

/// Runs warp `at` of a cluster for at most `budget` instructions.
pub fn run(
    launch: &Launch<'_>,
    cluster: &mut Cluster,
    tally: &mut Tally,
    at: usize,
    budget: u64,
) -> Result<Outcome, Finding> {
    let mut step = step(launch, cluster, tally, at);
    let result = step.turn(budget);
    let pc = step.pc;
    result.map_err(|fault| locate(launch, cluster, at, pc, fault))
}

/// Ends what a cluster whose warps are done has left.
pub fn finish(launch: &Launch<'_>, cluster: &mut Cluster, tally: &mut Tally) -> Result<(), Finding> {
    tally.ctas += cluster.ctas.len() as u64;
    let mut step = step(launch, cluster, tally, 0);
    let result = step.finish_transfers();
    result.map_err(|fault| locate(launch, cluster, 0, 0, fault))
}

fn step<'a, 'l>(launch: &'a Launch<'l>, cluster: &'a mut Cluster, tally: &'a mut Tally, at: usize) -> Step<'a, 'l> {
    Step {
        launch,
        cluster_id: cluster.id,
        ctas: &mut cluster.ctas,
        cluster_barrier: &mut cluster.barrier,
        transfers: &mut cluster.transfers,
        warp: &mut cluster.warps[at],
        tally,
        resumed: false,
        pc: 0,
    }
}

impl Step<'_, '_> {
    fn turn(&mut self, budget: u64) -> Result<Outcome, Fault> {
        let end = self.warp.instructions + budget;
        loop {
            let Some(i) = self.pick() else {
                return Ok(if self.warp.fragments.is_empty() { Outcome::Done } else { Outcome::Blocked });
            };
            let fragment = self.warp.fragments.swap_remove(i);
            if let Some(outcome) = self.run_fragment(fragment, end)? {
                return Ok(outcome);
            }
        }
    }

    /// The fragment to run: the ready one with the smallest program counter.
    fn pick(&mut self) -> Option<usize> {
        self.resumed = false;
        if let [only] = self.warp.fragments.as_slice()
            && only.wait.is_none()
        {
            return Some(0);
        }
        let impatient = self.warp.impatience > PATIENCE;
        if impatient {
            self.warp.impatience = 0;
        }
        let ready = (0..self.warp.fragments.len()).filter(|&i| self.is_ready(&self.warp.fragments[i]));
        let i = if impatient {
            ready.min_by_key(|&i| self.warp.fragments[i].ran)?
        } else {
            ready.min_by_key(|&i| self.warp.fragments[i].pc)?
        };
        let fragment = &mut self.warp.fragments[i];
        self.resumed = matches!(fragment.wait, Some(Wait::Barrier { .. } | Wait::Cluster { .. }));
        fragment.wait = None;
        Some(i)
    }

    fn is_ready(&self, fragment: &Fragment) -> bool {
        match fragment.wait {
            None => true,
            Some(Wait::Converge { lanes } | Wait::WarpSync { lanes }) => lanes & self.warp.live & !fragment.mask == 0,
            Some(Wait::Barrier { id, generation }) => self.ctas[self.warp.cta].barriers[id].generation != generation,
            Some(Wait::Cluster { generation }) => self.cluster_barrier.generation != generation,
            Some(Wait::Warpgroup { issued }) => self.warpgroup_has_issued(issued),
        }
    }

    /// Runs until the fragment ends, waits or meets another (`None`), or the turn is over.
    fn run_fragment(&mut self, mut fragment: Fragment, end: u64) -> Result<Option<Outcome>, Fault> {
        let program = self.launch.program;
        let mut stop = self.meeting_point(fragment.pc);
        loop {
            self.pc = fragment.pc;
            let instruction = &program.instructions[fragment.pc as usize];
            let active = match instruction.guard {
                Some(pred) => self.pred(pred) & fragment.mask,
                None => fragment.mask,
            };
            self.warp.instructions += 1;
            self.tally.issue(fragment.pc, active);
            if let (Some(Some(watch)), 1..) = (program.watches.get(fragment.pc as usize), active) {
                self.check_watched(watch)?;
            }
            let flow = if !self.warp.undefined.is_empty() {
                self.execute_tracking(instruction, fragment.mask, active)?
            } else if active == 0 {
                Flow::Next
            } else {
                self.execute(&instruction.op, active)?
            };
            self.resumed = false;
            match flow {
                Flow::Next => fragment.pc += 1,
                Flow::Branch(target) => {
                    if target <= fragment.pc && !self.warp.fragments.is_empty() {
                        self.warp.impatience += 1;
                    }
                    let rest = fragment.mask & !active;
                    if rest != 0 {
                        self.tally.at(self.pc).divergent_branches += 1;
                        self.park(Fragment::new(fragment.pc + 1, rest, None));
                        self.park(Fragment::new(target, active, None));
                        return Ok(self.turn_over(end));
                    }
                    let backward = target <= fragment.pc;
                    fragment.pc = target;
                    if self.warp.impatience > PATIENCE {
                        self.park(fragment);
                        return Ok(self.turn_over(end));
                    }
                    if backward && !self.warp.fragments.is_empty() {
                        stop = self.meeting_point(fragment.pc);
                    }
                }
                Flow::BranchLanes(targets) => {
                    for &(pc, mask) in targets.iter() {
                        self.park(Fragment::new(pc, mask, None));
                    }
                    if fragment.mask & !active != 0 {
                        self.park(Fragment::new(fragment.pc + 1, fragment.mask & !active, None));
                    }
                    return Ok(self.turn_over(end));
                }
                Flow::Exit => {
                    self.exit(active)?;
                    fragment.mask &= !active;
                    if fragment.mask == 0 {
                        return Ok(self.turn_over(end));
                    }
                    fragment.pc += 1;
                }
                Flow::Wait(wait) => {
                    // The last to arrive at a warp barrier takes the others with it: they are not issued again.
                    if !matches!(wait, Wait::WarpSync { .. }) {
                        self.tally.withdraw(fragment.pc, active);
                    }
                    if fragment.mask & !active != 0 {
                        self.park(Fragment::new(fragment.pc + 1, fragment.mask & !active, None));
                    }
                    self.park(Fragment::new(fragment.pc, active, Some(wait)));
                    return Ok(self.turn_over(end));
                }
                Flow::Yield => {
                    fragment.pc += 1;
                    self.park(fragment);
                    return Ok(Some(Outcome::Spin));
                }
            }
            if fragment.pc >= stop || self.warp.instructions >= end {
                self.park(fragment);
                return Ok(self.turn_over(end));
            }
        }
    }

    /// Executes, in all lanes, an operation that is part of another.
    pub(super) fn execute_part(&mut self, part: &Instruction) -> Result<(), Fault> {
        if self.warp.undefined.is_empty() {
            self.execute(&part.op, FULL)?;
        } else {
            self.execute_tracking(part, FULL, FULL)?;
        }
        Ok(())
    }

    /// Executes while some registers hold values that nothing has written.
    #[cold]
    fn execute_tracking(&mut self, instruction: &Instruction, lanes: Mask, active: Mask) -> Result<Flow, Fault> {
        let effect = self.undefined_effect(instruction, lanes, active)?;
        let flow = if active == 0 { Flow::Next } else { self.execute(&instruction.op, active)? };
        if !matches!(flow, Flow::Wait(_)) {
            self.warp.undefined.apply(effect);
        }
        Ok(flow)
    }

    fn turn_over(&self, end: u64) -> Option<Outcome> {
        (self.warp.instructions >= end && !self.warp.fragments.is_empty()).then_some(Outcome::Turn)
    }

    /// Where a fragment at `pc` must look for others: the smallest other program counter at or after it.
    fn meeting_point(&self, pc: u32) -> u32 {
        self.warp.fragments.iter().map(|f| f.pc).filter(|&other| other >= pc).min().unwrap_or(u32::MAX)
    }

    /// Puts a fragment back, joining it with one that is ready, or waits for lanes, at the same place.
    fn park(&mut self, mut fragment: Fragment) {
        fragment.ran = self.warp.instructions;
        let joins = |wait: Option<Wait>| matches!(wait, None | Some(Wait::Converge { .. }));
        for other in &mut self.warp.fragments {
            if other.pc == fragment.pc && joins(other.wait) && joins(fragment.wait) {
                // Both keep waiting only if neither is ready: a joined fragment tries again.
                other.mask |= fragment.mask;
                if other.wait.is_some() != fragment.wait.is_some() {
                    other.wait = None;
                }
                return;
            }
        }
        self.warp.fragments.push(fragment);
    }

    fn exit(&mut self, lanes: Mask) -> Result<(), Fault> {
        self.check_bulk_exit(lanes)?;
        self.warp.live &= !lanes;
        let cta = &mut self.ctas[self.warp.cta];
        cta.live_threads -= lanes.count_ones();
        for barrier in &mut cta.barriers {
            barrier.settle(cta.live_threads);
        }
        let live: u32 = self.ctas.iter().map(|c| c.live_threads).sum();
        self.cluster_barrier.settle(live);
        if self.warp.live == 0 { self.check_warpgroup_exit() } else { Ok(()) }
    }

    /// Lanes of the warp that `lanes` names and that have not exited.
    pub fn needed(&self, lanes: Mask) -> Mask {
        lanes & self.warp.live
    }

    /// A `.sync` operation's wait, if lanes of its mask are still elsewhere.
    ///
    /// # Errors
    /// When lanes disagree about the mask or a lane is not in its own mask.
    pub fn converge(&self, mask: Slot, active: Mask) -> Result<Option<Flow>, Fault> {
        let masks = self.reg(mask);
        for lane in each(active) {
            if masks[lane] as u32 >> lane & 1 == 0 {
                let message = format!("lane {lane} is not in its member mask {:#x}", masks[lane] as u32);
                return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
            }
        }
        // Groups with different masks may run side by side: each must be complete.
        let union = each(active).fold(0, |m, lane| m | masks[lane] as u32);
        Ok((self.needed(union) & !active != 0).then_some(Flow::Wait(Wait::Converge { lanes: union })))
    }

    #[inline(always)]
    pub fn reg(&self, slot: Slot) -> &Lanes {
        &self.warp.registers[slot as usize]
    }

    /// Writes the active lanes of a register.
    #[inline(always)]
    pub fn set(&mut self, slot: Slot, active: Mask, values: &Lanes) {
        if slot == SINK {
            return;
        }
        if !self.warp.undefined.is_empty() {
            self.warp.undefined.define(slot, active);
        }
        let register = &mut self.warp.registers[slot as usize];
        if active == FULL {
            *register = *values;
        } else {
            for lane in each(active) {
                register[lane] = values[lane];
            }
        }
    }

    #[inline(always)]
    pub fn pred(&self, pred: Pred) -> Mask {
        let mask = self.warp.preds[pred.slot as usize];
        if pred.negated { !mask } else { mask }
    }

    /// Writes the active lanes of a predicate.
    #[inline(always)]
    pub fn set_pred(&mut self, slot: PredSlot, active: Mask, values: Mask) {
        if slot != SINK {
            if !self.warp.undefined.is_empty() {
                self.warp.undefined.define_pred(slot, active);
            }
            let pred = &mut self.warp.preds[slot as usize];
            *pred = *pred & !active | values & active;
        }
    }

    pub(super) fn combine(&self, mask: Mask, combine: Option<(BoolOp, Pred)>) -> Mask {
        match combine {
            None => mask,
            Some((BoolOp::And, p)) => mask & self.pred(p),
            Some((BoolOp::Or, p)) => mask | self.pred(p),
            Some((BoolOp::Xor, p)) => mask ^ self.pred(p),
        }
    }

    fn execute(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        match op {
            Op::Lanes { f, d, a, b, c } => {
                let mut out = [0; 32];
                f(&mut out, self.reg(*a), self.reg(*b), self.reg(*c));
                self.set(*d, active, &out);
                Ok(Flow::Next)
            }
            Op::Branch { target } => Ok(Flow::Branch(*target)),
            Op::Compare { f, p, q, a, b, combine } => {
                let mask = f(self.reg(*a), self.reg(*b));
                let (yes, no) = (self.combine(mask, *combine), self.combine(!mask, *combine));
                self.set_pred(*p, active, yes);
                self.set_pred(*q, active, no);
                Ok(Flow::Next)
            }
            Op::Load(access) => self.load(access, active),
            Op::Store(access) => self.store(access, active),
            _ => self.execute_less_common(op, active),
        }
    }

    fn execute_less_common(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        match op {
            Op::Nop => Ok(Flow::Next),
            Op::Yield => Ok(Flow::Yield),
            Op::Exit => Ok(Flow::Exit),
            Op::Trap => {
                Err(Fault::new(FindingKind::Trap, Some(active.trailing_zeros() as usize), "the kernel trapped"))
            }
            Op::CallAgain(again) => self.call_again(again, active),
            Op::Return { start, end } => Ok(self.return_again(*start, *end, active)),
            Op::CheckFunction { address } => self.check_function(*address, active),
            Op::BranchIndexed { index, targets } => self.branch_indexed(*index, targets, active),
            Op::Barrier(barrier) => self.cta_barrier(barrier, active),
            Op::WarpSync { mask } => self.warp_sync(*mask, active),
            Op::ClusterArrive => self.cluster_arrive(active),
            Op::ClusterWait => self.cluster_wait(active),
            Op::Fence => self.fence(),
            Op::Atomic(atomic) => self.atomic(atomic, active),
            Op::MapShared { .. } | Op::ClusterRank { .. } | Op::IsSpace { .. } => self.addresses_op(op, active),
            Op::Shuffle { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::Elect { mask, .. } => match self.converge(*mask, active)? {
                Some(wait) => Ok(wait),
                None => self.between_lanes(op, active),
            },
            Op::LoadMatrix(_)
            | Op::StoreMatrix(_)
            | Op::MoveMatrix { .. }
            | Op::Mma(_)
            | Op::LoadFragment(_)
            | Op::StoreFragment(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. }
            | Op::Wgmma(_) => self.matrix(op, active),
            Op::CopyAsync { .. } | Op::CopyCommit | Op::CopyWait { .. } => self.copy(op, active),
            Op::Mbarrier { op, address } => self.mbarrier(op, address, active),
            Op::Bulk(_) | Op::BulkCommit | Op::BulkWait { .. } | Op::ProxyFence { .. } => self.bulk_op(op, active),
            Op::ReplaceInMap { .. } | Op::CopyMap { .. } => self.tensor_map_op(op, active),
            Op::Printf { format, arguments, d } => self.printf(*format, *arguments, *d, active),
            Op::Assert { message, file, line } => self.assert_fail(*message, *file, *line, active),
            _ => {
                self.arithmetic(op, active);
                Ok(Flow::Next)
            }
        }
    }

    fn branch_indexed(&self, index: Slot, targets: &[u32], active: Mask) -> Result<Flow, Fault> {
        let mut groups: Vec<(u32, Mask)> = Vec::new();
        for lane in each(active) {
            let i = self.reg(index)[lane] as u32 as usize;
            let Some(&target) = targets.get(i) else {
                let message = format!("branch index {i} of {} targets", targets.len());
                return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
            };
            match groups.iter_mut().find(|(t, _)| *t == target) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => groups.push((target, 1 << lane)),
            }
        }
        Ok(Flow::BranchLanes(groups.into()))
    }
}

/// The lanes of a mask, in order.
pub fn each(mask: Mask) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
