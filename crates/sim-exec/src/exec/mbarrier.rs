//! mbarrier objects. Their state lives beside shared memory; the 64-bit word holds a copy that kernels treat as opaque.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::check::clock::Clock;
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, MbarrierOp, SINK};

/// An mbarrier.
#[derive(Clone, Debug)]
pub struct Mbarrier {
    /// Arrivals per phase.
    pub expected: u32,
    /// Arrivals that this phase still needs.
    pub pending: u32,
    /// Bytes announced and not yet copied.
    pub tx: i64,
    pub phase: u64,
    clock: Clock,
    done_clock: Clock,
}

impl Mbarrier {
    fn settle(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
            let empty = Clock::empty(self.clock.own.len());
            self.done_clock = std::mem::replace(&mut self.clock, empty);
        }
    }

    /// What a kernel sees in the object.
    fn word(&self) -> u64 {
        self.phase << 40 | u64::from(self.expected) << 20 | u64::from(self.pending)
    }
}

impl Step<'_, '_> {
    pub(super) fn mbarrier(
        &mut self,
        op: &MbarrierOp,
        address: &Address,
        _cluster: bool,
        active: Mask,
    ) -> Result<Flow, Fault> {
        let addresses = self.addresses(address);
        let mut passed = 0;
        for lane in each(active) {
            let at = addresses[lane];
            let at = if at >= SHARED_WINDOW { at - SHARED_WINDOW } else { at };
            if at % 8 != 0 {
                let message = format!("mbarrier at {at:#x}, which is not a multiple of 8");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
            let (cta, offset) = self.shared_at(at, 8, lane)?;
            passed |= u32::from(self.mbarrier_lane(op, cta, offset, lane)?) << lane;
        }
        let MbarrierOp::Wait { d, .. } = op else { return Ok(Flow::Next) };
        self.set_pred(*d, active, passed);
        self.warp.spinning = passed != active;
        Ok(if passed == active { Flow::Next } else { Flow::Yield })
    }

    /// Returns whether a wait passed.
    fn mbarrier_lane(&mut self, op: &MbarrierOp, cta: usize, offset: u32, lane: usize) -> Result<bool, Fault> {
        let operand = |step: &Self, slot: u16| step.reg(slot)[lane] as u32;
        if let MbarrierOp::Init { count } = op {
            let expected = operand(self, *count);
            let empty = Clock::empty(self.warp.clock.own.len());
            let new =
                Mbarrier { expected, pending: expected, tx: 0, phase: 0, clock: empty.clone(), done_clock: empty };
            self.check_shared_write(cta, offset, 8, lane, true, new.word())?;
            self.ctas[cta].shared.store(offset, 8, new.word());
            self.ctas[cta].mbarriers.insert(offset, new);
            return Ok(true);
        }
        if matches!(op, MbarrierOp::ArriveAfterCopies { .. }) {
            let group = self.warp.copy_groups[lane] + 1;
            self.finish_copies(1 << lane, |_| group)?;
        }
        if !matches!(op, MbarrierOp::Invalidate) {
            self.check_shared_read(cta, offset, 8, lane, true)?;
        }
        let published = self.warp.clock.clone();
        let Some(barrier) = self.ctas[cta].mbarriers.get_mut(&offset) else {
            let message = format!("shared offset {offset:#x} of CTA {cta} holds no initialised mbarrier");
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        };
        let registers = &self.warp.registers;
        let mut old = None;
        match op {
            MbarrierOp::Arrive { count, tx, drop, .. } => {
                let arrivals = count.map_or(1, |c| registers[c as usize][lane] as u32);
                barrier.tx += tx.map_or(0, |t| i64::from(registers[t as usize][lane] as u32));
                if barrier.pending < arrivals {
                    let message = format!("{arrivals} arrivals at an mbarrier that awaits {}", barrier.pending);
                    return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
                }
                old = Some(barrier.word());
                barrier.pending -= arrivals;
                barrier.expected -= if *drop { arrivals } else { 0 };
                barrier.clock.join(&published);
                barrier.settle();
            }
            MbarrierOp::ArriveAfterCopies { no_increment } => {
                // Without .noinc the pending count is raised first, so that the arrival is neutral.
                barrier.clock.join(&published);
                barrier.pending -= u32::from(*no_increment);
                barrier.settle();
            }
            MbarrierOp::ExpectTx { tx } => barrier.tx += i64::from(registers[*tx as usize][lane] as u32),
            MbarrierOp::CompleteTx { tx } => {
                barrier.tx -= i64::from(registers[*tx as usize][lane] as u32);
                barrier.settle();
            }
            MbarrierOp::Wait { state, parity, .. } => {
                let given = registers[*state as usize][lane];
                let waiting_for = if *parity { given & 1 } else { given >> 40 & 1 };
                let done = barrier.phase & 1 != waiting_for;
                if done {
                    let clock = barrier.done_clock.clone();
                    self.warp.clock.join(&clock);
                }
                return Ok(done);
            }
            MbarrierOp::Invalidate => {
                self.ctas[cta].mbarriers.remove(&offset);
                return Ok(true);
            }
            MbarrierOp::Init { .. } => {}
        }
        let word = barrier.word();
        self.ctas[cta].shared.store(offset, 8, word);
        self.warp.clock.own[self.warp.id] += 1;
        if let (MbarrierOp::Arrive { state, .. }, Some(old)) = (op, old)
            && *state != SINK
        {
            self.warp.registers[*state as usize][lane] = old;
        }
        Ok(true)
    }
}
