//! mbarrier objects. Their state lives beside shared memory; the 64-bit word holds a copy that kernels treat as opaque.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::check::clock::Clock;
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, MbarrierOp, SINK};

/// The most bytes that an mbarrier counts (PTX ISA, "Tracking asynchronous operations by the mbarrier object").
const TX_MAX: u32 = (1 << 20) - 1;

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

    /// A bulk copy's bytes have arrived, as tick `tick` of warp `proxy`; returns what a kernel sees now.
    pub fn complete(&mut self, bytes: u32, proxy: usize, tick: u32) -> u64 {
        self.tx -= i64::from(bytes);
        let known = &mut self.clock.own[proxy];
        *known = tick.max(*known);
        self.settle();
        self.word()
    }

    /// What a kernel sees in the object.
    fn word(&self) -> u64 {
        self.phase << 40 | u64::from(self.expected) << 20 | u64::from(self.pending)
    }
}

impl Step<'_, '_> {
    pub(super) fn mbarrier(&mut self, op: &MbarrierOp, address: &Address, active: Mask) -> Result<Flow, Fault> {
        let addresses = self.addresses(address);
        let (mut passed, mut awaited) = (0, None);
        for lane in each(active) {
            let (cta, offset) = self.mbarrier_at(addresses[lane], lane)?;
            let passes = self.mbarrier_lane(op, cta, offset, lane)?;
            passed |= u32::from(passes) << lane;
            awaited = if passes { awaited } else { Some((cta, offset)) };
        }
        let MbarrierOp::Wait { d, .. } = op else { return Ok(Flow::Next) };
        self.set_pred(*d, active, passed);
        let arrived = awaited.map_or(Ok(false), |(cta, offset)| self.deliver(cta, offset))?;
        self.warp.spinning = passed != active && !arrived;
        Ok(if passed == active { Flow::Next } else { Flow::Yield })
    }

    /// The CTA, in its cluster, and the offset of an mbarrier.
    pub(super) fn mbarrier_at(&self, at: u64, lane: usize) -> Result<(usize, u32), Fault> {
        let at = if at >= SHARED_WINDOW { at - SHARED_WINDOW } else { at };
        if !at.is_multiple_of(8) {
            let message = format!("mbarrier at {at:#x}, which is not a multiple of 8");
            return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
        }
        self.shared_at(at, 8, lane)
    }

    /// Returns whether a wait passed.
    fn mbarrier_lane(&mut self, op: &MbarrierOp, cta: usize, offset: u32, lane: usize) -> Result<bool, Fault> {
        let operand = |step: &Self, slot: u16| step.reg(slot)[lane] as u32;
        if let MbarrierOp::Init { count } = op {
            let expected = operand(self, *count);
            let empty = Clock::empty(self.warp.clock.own.len());
            let new =
                Mbarrier { expected, pending: expected, tx: 0, phase: 0, clock: empty.clone(), done_clock: empty };
            // Operations on the object are atomic towards each other, but not towards this.
            self.check_shared_write(cta, offset, 8, lane, false, new.word())?;
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
        let bytes = |slot: u16| match registers[slot as usize][lane] as u32 {
            tx @ 0..=TX_MAX => Ok(i64::from(tx)),
            tx => {
                let message = format!("{tx} bytes at an mbarrier, which counts up to {TX_MAX}");
                Err(Fault::new(FindingKind::BadOperand, Some(lane), message))
            }
        };
        match op {
            MbarrierOp::Arrive { count, tx, drop, releases, .. } => {
                let arrivals = count.map_or(1, |c| registers[c as usize][lane] as u32);
                barrier.tx += tx.map_or(Ok(0), bytes)?;
                if barrier.pending < arrivals {
                    let message = format!("{arrivals} arrivals at an mbarrier that awaits {}", barrier.pending);
                    return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
                }
                old = Some(barrier.word());
                barrier.pending -= arrivals;
                barrier.expected -= if *drop { arrivals } else { 0 };
                if *releases {
                    barrier.clock.join(&published);
                }
                barrier.settle();
            }
            MbarrierOp::ArriveAfterCopies { no_increment } => {
                // Without .noinc the pending count is raised first, so that the arrival is neutral.
                barrier.clock.join(&published);
                barrier.pending -= u32::from(*no_increment);
                barrier.settle();
            }
            MbarrierOp::ExpectTx { tx } => barrier.tx += bytes(*tx)?,
            MbarrierOp::CompleteTx { tx } => {
                barrier.tx -= bytes(*tx)?;
                barrier.settle();
            }
            MbarrierOp::Wait { state, parity, acquires, .. } => {
                let given = registers[*state as usize][lane];
                let waiting_for = if *parity { given & 1 } else { given >> 40 & 1 };
                let done = barrier.phase & 1 != waiting_for;
                if done && *acquires {
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
