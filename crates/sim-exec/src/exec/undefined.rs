//! Values that derive from bytes which nothing has written.
//!
//! Reading such bytes is no mistake yet: a vector load covers the padding of a struct, a merge reads one element past its end
//! and then does not select it, a matrix product has rows that nobody stores. It is one when the value decides something: a
//! branch, an address, what another lane learns, what global memory holds. So each lane of a register or predicate that holds
//! such a value remembers where it was read, arithmetic passes that on, and the finding names the read (the method of Memcheck: Seward and
//! Nethercote, 2005; with lanes of registers in place of bits).

use std::collections::HashMap;
use std::sync::Arc;

use super::between_lanes::shuffle_source;
use super::state::Fault;
use super::warp::{Step, each};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::program::{BarrierKind, BoolOp, Instruction, MbarrierOp, Mma, Op, Pred, PredSlot, SINK, Slot, WgmmaA};

/// The read that an undefined value comes from.
#[derive(Debug)]
struct Read {
    pc: u32,
    lane: usize,
    message: String,
}

/// Lanes that hold undefined values.
#[derive(Clone, Debug, Default)]
struct Lanes {
    mask: Mask,
    /// The read behind one of them; some whenever the mask is not empty.
    read: Option<Arc<Read>>,
}

impl Lanes {
    fn and(self, mask: Mask) -> Lanes {
        Lanes { mask: self.mask & mask, ..self }
    }

    fn or(self, other: Lanes) -> Lanes {
        let read = if self.mask != 0 { self.read } else { other.read };
        Lanes { mask: self.mask | other.mask, read }
    }
}

/// The undefined values of a warp.
#[derive(Debug, Default)]
pub struct Undefined {
    registers: HashMap<Slot, Lanes>,
    preds: HashMap<PredSlot, Lanes>,
    /// Reads of the load that runs: they take effect when its registers are written.
    loaded: Vec<(Slot, Lanes)>,
}

/// What an operation is about to make undefined.
#[derive(Default)]
pub struct Effect {
    registers: Vec<(Slot, Lanes)>,
    preds: Vec<(PredSlot, Lanes)>,
}

impl Undefined {
    /// Whether every value is defined: the usual case, which costs one comparison per instruction.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty() && self.preds.is_empty()
    }

    pub fn define(&mut self, slot: Slot, lanes: Mask) {
        remove(&mut self.registers, slot, lanes);
    }

    pub fn define_pred(&mut self, slot: PredSlot, lanes: Mask) {
        remove(&mut self.preds, slot, lanes);
    }

    /// Notes that lane `lane` of register `slot` is about to be loaded from bytes that nothing has written.
    pub fn load(&mut self, slot: Slot, lane: usize, pc: u32, message: String) {
        if slot == SINK {
            return;
        }
        match self.loaded.iter_mut().find(|(s, _)| *s == slot) {
            Some((_, lanes)) => lanes.mask |= 1 << lane,
            None => {
                let read = Arc::new(Read { pc, lane, message });
                self.loaded.push((slot, Lanes { mask: 1 << lane, read: Some(read) }));
            }
        }
    }

    /// Ends a load.
    pub fn admit_loaded(&mut self) {
        for (slot, lanes) in std::mem::take(&mut self.loaded) {
            insert(&mut self.registers, slot, lanes);
        }
    }

    /// Whether a lane of a register is undefined.
    pub fn holds(&self, slot: Slot, lane: usize) -> bool {
        self.registers.get(&slot).is_some_and(|lanes| lanes.mask >> lane & 1 != 0)
    }

    pub fn apply(&mut self, effect: Effect) {
        for (slot, lanes) in effect.registers {
            insert(&mut self.registers, slot, lanes);
        }
        for (slot, lanes) in effect.preds {
            insert(&mut self.preds, slot, lanes);
        }
    }

    fn register(&self, slot: Slot) -> Lanes {
        self.registers.get(&slot).cloned().unwrap_or_default()
    }

    fn pred(&self, pred: Pred) -> Lanes {
        self.preds.get(&pred.slot).cloned().unwrap_or_default()
    }
}

fn remove(map: &mut HashMap<u16, Lanes>, slot: u16, lanes: Mask) {
    if let Some(entry) = map.get_mut(&slot) {
        entry.mask &= !lanes;
        if entry.mask == 0 {
            map.remove(&slot);
        }
    }
}

fn insert(map: &mut HashMap<u16, Lanes>, slot: u16, lanes: Lanes) {
    if slot != SINK && lanes.mask != 0 {
        let entry = map.entry(slot).or_default();
        *entry = std::mem::take(entry).or(lanes);
    }
}

impl Step<'_, '_> {
    /// What an instruction makes undefined, looked at before it runs.
    ///
    /// # Errors
    /// If an undefined value would decide something: the place is that of the read.
    pub fn undefined_effect(&self, instruction: &Instruction, lanes: Mask, active: Mask) -> Result<Effect, Fault> {
        if let Some(guard) = instruction.guard {
            let guard = self.warp.undefined.pred(guard).and(lanes);
            self.must_be_defined(guard, "whether an instruction runs")?;
        }
        let mut effect = Effect::default();
        let of = |slot: &Slot| self.warp.undefined.register(*slot).and(active);
        match &instruction.op {
            Op::Compare { f, p, q, a, b, combine } => {
                let compared = of(a).or(of(b));
                let (yes, combine) = (f(self.reg(*a), self.reg(*b)), *combine);
                effect.preds.push((*p, self.combined(yes, &compared, combine).and(active)));
                effect.preds.push((*q, self.combined(!yes, &compared, combine).and(active)));
            }
            Op::Set { f, d, a, b, combine, .. } => {
                let compared = of(a).or(of(b));
                let yes = f(self.reg(*a), self.reg(*b));
                effect.registers.push((*d, self.combined(yes, &compared, *combine).and(active)));
            }
            Op::Logic { table, d, a, b } => {
                let bit = |n: u8, mask: Mask| if table >> n & 1 != 0 { mask } else { 0 };
                let f = |a: Mask, b: Mask| bit(0, !a & !b) | bit(1, !a & b) | bit(2, a & !b) | bit(3, a & b);
                let (x, y) = (self.warp.undefined.pred(*a), self.warp.undefined.pred(*b));
                effect.preds.push((*d, logic(f, (self.pred(*a), &x), (self.pred(*b), &y)).and(active)));
            }
            Op::Select { d, a, b, p } => {
                let (chosen, by) = (self.pred(*p), self.warp.undefined.pred(*p).and(active));
                effect.registers.push((*d, by.or(of(a).and(chosen)).or(of(b).and(!chosen))));
            }
            Op::Shuffle { mode, d, a, b, c, mask, .. } => {
                self.must_be_defined(of(b).or(of(c)).or(of(mask)), "which lane a shuffle reads")?;
                let value = self.warp.undefined.register(*a);
                let (lanes, clamps) = (self.reg(*b), self.reg(*c));
                let moved = each(active).filter(|&lane| {
                    let (from, valid) = shuffle_source(*mode, lane as u32, lanes[lane] as u32, clamps[lane] as u32);
                    value.mask >> if valid { from as usize } else { lane } & 1 != 0
                });
                let mask = moved.fold(0, |m, lane| m | 1 << lane);
                effect.registers.push((*d, Lanes { mask, read: value.read }));
            }
            Op::Mma(mma) => effect.registers = self.product(mma),
            Op::Vote { p, .. } => {
                let vote = self.warp.undefined.pred(*p).and(active);
                self.must_be_defined(vote, "a vote")?;
            }
            op => {
                if let Some((d, sources)) = computed(op) {
                    let from = sources.iter().map(of).reduce(Lanes::or).unwrap_or_default();
                    effect.registers.extend(d.iter().map(|d| (*d, from.clone())));
                } else {
                    for (slots, what) in used(op) {
                        let from = slots.iter().map(of).reduce(Lanes::or).unwrap_or_default();
                        self.must_be_defined(from, what)?;
                    }
                }
            }
        }
        Ok(effect)
    }

    /// What a matrix product leaves undefined: rows of it through A, columns through B, single elements through C.
    ///
    /// Which lanes hold them, the product itself knows: it multiplies a matrix that is positive where an operand is undefined
    /// and zero elsewhere with one that is positive everywhere.
    fn product(&self, mma: &Mma) -> Vec<(Slot, Lanes)> {
        // The bytes 0x3c3c… are positive in every element type; as pairs of 4-bit integers their squares are.
        const POSITIVE: [u64; 32] = [0x3c3c_3c3c_3c3c_3c3c; 32];
        const ZERO: [u64; 32] = [0; 32];
        let of = |slots: &[Slot]| -> Vec<Lanes> { slots.iter().map(|s| self.warp.undefined.register(*s)).collect() };
        let (a, b, c) = (of(&mma.a), of(&mma.b), of(&mma.c));
        let all = |operand: &[Lanes]| operand.iter().cloned().reduce(Lanes::or).unwrap_or_default();
        let marks = |operand: &[Lanes]| -> Vec<[u64; 32]> {
            let mark = |lanes: &Lanes, lane: usize| if lanes.mask >> lane & 1 != 0 { POSITIVE[lane] } else { 0 };
            operand.iter().map(|lanes| std::array::from_fn(|lane| mark(lanes, lane))).collect()
        };
        let positive = |out: &[[u64; 32]]| -> Vec<Mask> {
            out.iter().map(|out| (0..32).fold(0, |m, lane| m | u32::from(out[lane] != 0) << lane)).collect()
        };
        let multiply = |a: &[[u64; 32]], b: &[[u64; 32]]| {
            let mut out = vec![ZERO; mma.d.len()];
            let (a, b): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
            (mma.tile.multiply)(&mut out, &a, &b, &vec![&ZERO; mma.c.len()], self.summation());
            positive(&out)
        };
        let full = |operand: &[Slot]| vec![POSITIVE; operand.len()];
        let mut effect = vec![Lanes::default(); mma.d.len()];
        let mut add = |masks: Vec<Mask>, read: &Lanes| {
            for (lanes, mask) in effect.iter_mut().zip(masks) {
                *lanes = std::mem::take(lanes).or(Lanes { mask, read: read.read.clone() });
            }
        };
        // Exclusive or is not zero where one operand is: nothing can be told apart.
        let tells = multiply(&vec![ZERO; mma.a.len()], &full(&mma.b)).iter().all(|mask| *mask == 0);
        for (operand, masks) in [(&a, 0), (&b, 1)] {
            let source = all(operand);
            match masks {
                _ if source.mask == 0 => {}
                _ if !tells => add(vec![!0; mma.d.len()], &source),
                0 => add(multiply(&marks(&a), &full(&mma.b)), &source),
                _ => add(multiply(&full(&mma.a), &marks(&b)), &source),
            }
        }
        if c.len() == mma.d.len() {
            add(c.iter().map(|lanes| lanes.mask).collect(), &all(&c));
        } else if all(&c).mask != 0 {
            add(vec![!0; mma.d.len()], &all(&c));
        }
        mma.d.iter().copied().zip(effect).collect()
    }

    /// Faults if lane `lane` of a register that is stored to global memory is undefined.
    pub fn stored_must_be_defined(&self, slot: Slot, lane: usize) -> Result<(), Fault> {
        let lanes = self.warp.undefined.register(slot).and(1 << lane);
        self.must_be_defined(lanes, "what global memory holds")
    }

    /// Faults if a register is undefined in any lane.
    pub fn registers_must_be_defined(&self, slots: &[Slot], what: &str) -> Result<(), Fault> {
        slots.iter().try_for_each(|slot| self.must_be_defined(self.warp.undefined.register(*slot), what))
    }

    fn combined(&self, compared: Mask, undefined: &Lanes, combine: Option<(BoolOp, Pred)>) -> Lanes {
        let Some((op, p)) = combine else { return undefined.clone() };
        let f = |a: Mask, b: Mask| match op {
            BoolOp::And => a & b,
            BoolOp::Or => a | b,
            BoolOp::Xor => a ^ b,
        };
        logic(f, (compared, undefined), (self.pred(p), &self.warp.undefined.pred(p)))
    }

    fn must_be_defined(&self, lanes: Lanes, what: &str) -> Result<(), Fault> {
        let (true, Some(read)) = (lanes.mask != 0, lanes.read) else { return Ok(()) };
        let user = self.launch.program.places.get(self.pc as usize).map(ToString::to_string).unwrap_or_default();
        let message = format!("{}; it decides {what} at {user}", read.message);
        Err(Fault { pc: Some(read.pc), ..Fault::new(FindingKind::Uninitialised, Some(read.lane), message) })
    }
}

/// The lanes in which `f` depends on an operand that is undefined there.
fn logic(f: impl Fn(Mask, Mask) -> Mask, (a, ua): (Mask, &Lanes), (b, ub): (Mask, &Lanes)) -> Lanes {
    let at = |x: Mask, y: Mask| f(x, y);
    let (a0, a1, b0, b1) = (a & !ua.mask, a | ua.mask, b & !ub.mask, b | ub.mask);
    let first = at(a0, b0);
    let mask = (first ^ at(a0, b1)) | (first ^ at(a1, b0)) | (first ^ at(a1, b1));
    ua.clone().or(ub.clone()).and(mask)
}

/// Destinations and sources of an operation whose result is as undefined as what it is computed from.
fn computed(op: &Op) -> Option<(Vec<Slot>, Vec<Slot>)> {
    Some(match op {
        Op::Lanes { d, a, b, c, .. } | Op::Lop3 { d, a, b, c, .. } | Op::SelectBySign { d, a, b, c, .. } => {
            (vec![*d], vec![*a, *b, *c])
        }
        Op::Carry { d, a, b, c, .. } => (vec![*d], vec![*a, *b, *c]),
        Op::Insert { d, a, b, position, count, .. } => (vec![*d], vec![*a, *b, *position, *count]),
        Op::Approx { d, a, b, .. } | Op::ConvertPair { d, a, b, .. } | Op::SetHalves { d, a, b, .. } => {
            (vec![*d], vec![*a, *b])
        }
        Op::Convert { d, a, .. } | Op::ConvertHalves { d, a, .. } => (vec![*d], vec![*a]),
        Op::Pack { d, parts, .. } => (vec![*d], parts.to_vec()),
        Op::Unpack { parts, a, .. } => (parts.to_vec(), vec![*a]),
        _ => return None,
    })
}

/// Registers that must be defined, and what they decide.
fn used(op: &Op) -> Vec<(Vec<Slot>, &'static str)> {
    let address = |a: &crate::program::Address| (a.base.into_iter().collect(), "an address");
    match op {
        Op::Load(access) | Op::Store(access) => vec![address(&access.address)],
        Op::Atomic(atomic) => {
            let values = atomic.value.iter().copied().chain(atomic.swap).collect();
            vec![address(&atomic.address), (values, "what an atomic operation writes")]
        }
        Op::LoadMatrix(load) => vec![address(&load.address)],
        Op::StoreMatrix(store) => vec![address(&store.address), (store.registers.to_vec(), "a stored matrix")],
        Op::LoadFragment(fragment) | Op::StoreFragment(fragment) => {
            vec![address(&fragment.address), (vec![fragment.stride], "an address")]
        }
        Op::Wgmma(wgmma) => match &wgmma.a {
            WgmmaA::Registers(a) => vec![(vec![wgmma.b], "an address"), (a.to_vec(), "a matrix product")],
            WgmmaA::Memory(a, _) => vec![(vec![*a, wgmma.b], "an address")],
        },
        Op::MoveMatrix { a, .. } => vec![(vec![*a], "a moved matrix")],
        Op::CopyAsync { to, from, from_bytes, .. } => {
            vec![address(to), address(from), (from_bytes.iter().copied().collect(), "the length of a copy")]
        }
        Op::Mbarrier { op, address: a, .. } => {
            let numbers = match &**op {
                MbarrierOp::Init { count } => vec![*count],
                MbarrierOp::Arrive { count, tx, .. } => count.iter().chain(tx).copied().collect(),
                MbarrierOp::ExpectTx { tx } | MbarrierOp::CompleteTx { tx } => vec![*tx],
                MbarrierOp::Wait { state, .. } => vec![*state],
                MbarrierOp::Invalidate | MbarrierOp::ArriveAfterCopies { .. } => vec![],
            };
            vec![address(a), (numbers, "an mbarrier")]
        }
        Op::Bulk(bulk) => vec![(bulk.registers().collect(), "a bulk copy")],
        Op::ReplaceInMap { address: a, value, .. } => vec![address(a), (vec![*value], "a tensor map")],
        Op::CopyMap { to, from } => vec![address(to), address(from)],
        Op::CompareHalves { a, b, .. } => vec![(vec![*a, *b], "a comparison")],
        Op::Match { a, mask, .. } => vec![(vec![*a, *mask], "what lanes match")],
        Op::Redux { a, mask, .. } => vec![(vec![*a, *mask], "a reduction between lanes")],
        Op::Elect { mask, .. } | Op::WarpSync { mask } => vec![(vec![*mask], "which lanes take part")],
        Op::BranchIndexed { index, .. } => vec![(vec![*index], "a branch")],
        Op::CheckFunction { address } => vec![(vec![*address], "a call")],
        Op::MapShared { a, rank, .. } => vec![(vec![*a, *rank], "an address")],
        Op::ClusterRank { a, .. } | Op::IsSpace { a, .. } => vec![(vec![*a], "an address")],
        Op::Barrier(barrier) => {
            let counted = match barrier.kind {
                BarrierKind::Sync | BarrierKind::Arrive => "a barrier",
                _ => "a barrier's reduction",
            };
            vec![([barrier.id].into_iter().chain(barrier.threads).collect(), counted)]
        }
        Op::Printf { format, arguments, .. } => vec![(vec![*format, *arguments], "what is printed")],
        _ => vec![],
    }
}
