//! shfl, vote, match, redux and elect.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::lanes::Mask;
use crate::program::{Op, Redux, Shuffle, Vote};

impl Step<'_, '_> {
    pub(super) fn between_lanes(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        let mut out = [0; 32];
        match op {
            Op::Shuffle { mode, d, p, a, b, c, .. } => {
                let (values, lanes, clamps) = (self.reg(*a), self.reg(*b), self.reg(*c));
                let mut inside = 0;
                for lane in each(active) {
                    let (source, valid) = shuffle_source(*mode, lane as u32, lanes[lane] as u32, clamps[lane] as u32);
                    inside |= u32::from(valid) << lane;
                    out[lane] = values[if valid { source as usize } else { lane }];
                }
                self.set(*d, active, &out);
                self.set_pred(*p, active, inside);
            }
            Op::Vote { mode, d, dp, p, mask } => {
                for lane in each(active) {
                    let members = active & self.reg(*mask)[lane] as u32;
                    let votes = self.pred(*p) & members;
                    let truth = match mode {
                        Vote::All => votes == members,
                        Vote::Any => votes != 0,
                        Vote::Uniform => votes == 0 || votes == members,
                        Vote::Ballot => true,
                    };
                    out[lane] = if *mode == Vote::Ballot { votes.into() } else { u64::from(truth) };
                }
                if *mode == Vote::Ballot {
                    self.set(*d, active, &out);
                } else {
                    let bits = (0..32).fold(0, |m, l| m | (out[l] as u32) << l);
                    self.set_pred(*dp, active, bits);
                }
            }
            Op::Match { all, wide, d, p, a, mask } => {
                let low = if *wide { !0 } else { 0xffff_ffff };
                let values = self.reg(*a).map(|v| v & low);
                let mut agree = 0;
                for lane in each(active) {
                    let members = active & self.reg(*mask)[lane] as u32;
                    let equal = each(members).filter(|&l| values[l] == values[lane]).fold(0u32, |m, l| m | 1 << l);
                    let everyone = equal == members;
                    agree |= u32::from(everyone) << lane;
                    out[lane] = if *all && !everyone { 0 } else { equal.into() };
                }
                self.set(*d, active, &out);
                self.set_pred(*p, active, agree);
            }
            Op::Redux { op, d, a, mask } => {
                for lane in each(active) {
                    let members = active & self.reg(*mask)[lane] as u32;
                    let values = each(members).map(|l| self.reg(*a)[l] as u32);
                    out[lane] = reduce(*op, values).into();
                }
                self.set(*d, active, &out);
            }
            Op::Elect { d, p, mask } => {
                let mut elected = 0;
                for lane in each(active) {
                    let leader = (active & self.reg(*mask)[lane] as u32).trailing_zeros();
                    out[lane] = leader.into();
                    elected |= 1 << leader;
                }
                self.set(*d, active, &out);
                self.set_pred(*p, active, elected);
            }
            other => panic!("{other:?} works within a lane"),
        }
        Ok(Flow::Next)
    }
}

/// The lane that `shfl` reads, and whether it is in range (PTX ISA, shfl.sync: pseudo-code).
pub fn shuffle_source(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    match mode {
        Shuffle::Up => {
            let source = lane as i32 - b as i32;
            (source.max(0) as u32, source >= max as i32)
        }
        Shuffle::Down => (lane + b, lane + b <= max),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= max),
        Shuffle::Index => {
            let source = min | b & !segment;
            (source, source <= max)
        }
    }
}

fn reduce(op: Redux, values: impl Iterator<Item = u32>) -> u32 {
    let f: fn(u32, u32) -> u32 = match op {
        Redux::Add => u32::wrapping_add,
        Redux::MinU => u32::min,
        Redux::MaxU => u32::max,
        Redux::MinS => |a, b| (a as i32).min(b as i32) as u32,
        Redux::MaxS => |a, b| (a as i32).max(b as i32) as u32,
        Redux::And => |a, b| a & b,
        Redux::Or => |a, b| a | b,
        Redux::Xor => |a, b| a ^ b,
    };
    values.reduce(f).unwrap_or(0)
}
