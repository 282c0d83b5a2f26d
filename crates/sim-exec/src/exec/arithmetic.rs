//! Lane-wise operations that are more than a table entry.

use super::warp::{Step, each};
use crate::lanes::bits;
use crate::lanes::{Lane, Lanes, Mask};
use crate::program::{CarryKind, Op, SINK, Slot};

impl Step<'_, '_> {
    pub(super) fn arithmetic(&mut self, op: &Op, active: Mask) {
        let mut out = [0; 32];
        let d = match op {
            Op::Lop3 { d, a, b, c, table, p } => {
                let (x, y, z) = (self.reg(*a), self.reg(*b), self.reg(*c));
                for i in 0..32 {
                    out[i] = bits::lop3(x[i] as u32, y[i] as u32, z[i] as u32, *table).into();
                }
                if let Some((p, q, and)) = p {
                    let nonzero = (0..32).fold(0, |m, i| m | u32::from(out[i] != 0) << i);
                    let q = q.map_or(0, |q| self.pred(q));
                    self.set_pred(*p, active, if *and { nonzero & q } else { nonzero | q });
                }
                d
            }
            Op::Insert { d, a, b, position, count, bits } => {
                let (x, y, p, n) = (self.reg(*a), self.reg(*b), self.reg(*position), self.reg(*count));
                for i in 0..32 {
                    out[i] = bits::insert(x[i], y[i], p[i] as u32, n[i] as u32, *bits);
                }
                d
            }
            Op::Approx { op, d, a, b } => {
                op.run(&mut out, self.reg(*a), self.reg(*b), self.launch.gpu.config.arithmetic.perturb);
                d
            }
            Op::Convert { conversion, d, a } => {
                conversion.run(&mut out, self.reg(*a));
                d
            }
            Op::ConvertPair { conversion, d, a, b, half_bits } => {
                let (x, y) = (self.reg(*a), self.reg(*b));
                for i in 0..32 {
                    out[i] = conversion.lane(x[i]) << half_bits | conversion.lane(y[i]);
                }
                d
            }
            Op::ConvertHalves { conversion, d, a, from_bits, to_bits } => {
                let mask = (1u64 << from_bits) - 1;
                for (o, x) in out.iter_mut().zip(self.reg(*a)) {
                    *o = conversion.lane(x & mask) | conversion.lane(x >> from_bits & mask) << to_bits;
                }
                d
            }
            Op::Set { f, d, a, b, one, combine } => {
                let mask = self.combine(f(self.reg(*a), self.reg(*b)), *combine);
                for (i, o) in out.iter_mut().enumerate() {
                    *o = if mask >> i & 1 != 0 { *one } else { 0 };
                }
                d
            }
            Op::CompareHalves { f, p, q, a, b, combine } => {
                let low = f(self.reg(*a), self.reg(*b));
                let high = f(&upper_halves(self.reg(*a)), &upper_halves(self.reg(*b)));
                let (low, high) = (self.combine(low, *combine), self.combine(high, *combine));
                self.set_pred(*p, active, low);
                self.set_pred(*q, active, high);
                return;
            }
            Op::SetHalves { f, d, a, b, one } => {
                let low = f(self.reg(*a), self.reg(*b));
                let high = f(&upper_halves(self.reg(*a)), &upper_halves(self.reg(*b)));
                let one = u64::from(*one);
                for (i, o) in out.iter_mut().enumerate() {
                    *o = if low >> i & 1 != 0 { one } else { 0 } | if high >> i & 1 != 0 { one << 16 } else { 0 };
                }
                d
            }
            Op::Select { d, a, b, p } => {
                let mask = self.pred(*p);
                let (x, y) = (self.reg(*a), self.reg(*b));
                for i in 0..32 {
                    out[i] = if mask >> i & 1 != 0 { x[i] } else { y[i] };
                }
                d
            }
            Op::SelectBySign { d, a, b, c, float } => {
                let (x, y, z) = (self.reg(*a), self.reg(*b), self.reg(*c));
                for i in 0..32 {
                    let first = if *float { f32::get(z[i]) >= 0.0 } else { z[i] as i32 >= 0 };
                    out[i] = if first { x[i] } else { y[i] };
                }
                d
            }
            Op::Logic { table, d, a, b } => {
                let (x, y) = (self.pred(*a), self.pred(*b));
                let term = |bit: u8, mask: Mask| if table >> bit & 1 != 0 { mask } else { 0 };
                let value = term(0, !x & !y) | term(1, !x & y) | term(2, x & !y) | term(3, x & y);
                self.set_pred(*d, active, value);
                return;
            }
            Op::Pack { d, parts, bits } => {
                let mask = low_bits(*bits);
                for (i, part) in parts.iter().enumerate() {
                    for (o, x) in out.iter_mut().zip(self.reg(*part)) {
                        *o |= (x & mask) << (i as u32 * bits);
                    }
                }
                d
            }
            Op::Unpack { parts, a, bits } => return self.unpack(parts, *a, *bits, active),
            Op::Carry { .. } => return self.carry(op, active),
            Op::ActiveMask { d } => {
                out = [active.into(); 32];
                d
            }
            Op::Clock { d } => {
                // Instructions issued: monotonic, and the same in every run of a seed.
                out = [self.warp.instructions * 4; 32];
                d
            }
            other => panic!("{other:?} is not arithmetic"),
        };
        self.set(*d, active, &out);
    }

    fn unpack(&mut self, parts: &[Slot], a: Slot, bits: u32, active: Mask) {
        let source = *self.reg(a);
        for (i, part) in parts.iter().enumerate().filter(|(_, p)| **p != SINK) {
            let values = source.map(|x| x >> (i as u32 * bits) & low_bits(bits));
            self.set(*part, active, &values);
        }
    }

    fn carry(&mut self, op: &Op, active: Mask) {
        let Op::Carry { kind, bits, carry_in, carry_out, d, a, b, c } = op else {
            panic!("{op:?} has no carry");
        };
        let mut out = [0; 32];
        let mut carries = 0;
        let mask = u128::from(low_bits(*bits));
        for lane in each(active) {
            let value = |slot: Slot| u128::from(self.reg(slot)[lane]) & mask;
            let carry = u128::from(*carry_in && self.warp.carry >> lane & 1 != 0);
            let (x, y) = (value(*a), value(*b));
            let full = match kind {
                CarryKind::Add => x + y + carry,
                // The carry flag holds the borrow.
                CarryKind::Sub => x.wrapping_sub(y).wrapping_sub(carry),
                CarryKind::MadLo => ((x * y) & mask) + value(*c) + carry,
                CarryKind::MadHi { signed } => {
                    let high = if *signed { signed_high(x, y, *bits) } else { (x * y) >> bits };
                    (high & mask) + value(*c) + carry
                }
            };
            out[lane] = (full & mask) as u64;
            carries |= u32::from(full >> bits & 1 != 0) << lane;
        }
        if *carry_out {
            self.warp.carry = self.warp.carry & !active | carries;
        }
        self.set(*d, active, &out);
    }
}

fn signed_high(x: u128, y: u128, bits: u32) -> u128 {
    let extend = |v: u128| (v << (128 - bits)) as i128 >> (128 - bits);
    ((extend(x) * extend(y)) >> bits) as u128
}

fn upper_halves(x: &Lanes) -> Lanes {
    x.map(|x| x >> 16 & 0xffff)
}

fn low_bits(bits: u32) -> u64 {
    if bits == 64 { !0 } else { (1 << bits) - 1 }
}
