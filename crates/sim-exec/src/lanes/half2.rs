//! f16 and bf16 arithmetic, single and in pairs.
//!
//! add, sub and mul are exact in f32 before the one rounding to the narrow type: f32 carries more than 2p+2 bits, so the
//! second rounding cannot differ (Figueroa, "When is double rounding innocuous?"). fma goes through f64 with round to odd.

use half::{bf16, f16};

use super::float::FloatMode;
use super::{Lane, LaneFn, lanes};

/// The 16-bit floats behind one interface.
pub trait Half: Lane {
    fn wide(self) -> f32;
    fn narrow(x: f32) -> Self;
}

impl Half for f16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        f16::from_f32(x)
    }
}

impl Half for bf16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

/// `a * b + c`, rounded once: the f32 sum is rounded to odd so that the second rounding sees what was dropped.
fn fma<H: Half>(a: H, b: H, c: H) -> H {
    let (high, low) = super::rounding::two_sum(f64::from(a.wide()) * f64::from(b.wide()), f64::from(c.wide()));
    if !high.is_finite() || high == 0.0 {
        return H::narrow(high as f32);
    }
    H::narrow(odd_f32(high, low))
}

/// `high + low` as f32 rounded to odd.
fn odd_f32(high: f64, low: f64) -> f32 {
    let down = super::rounding::narrow_pair(high, low, super::rounding::Round::Zero);
    let exact = f64::from(down) == high && low == 0.0;
    if exact || !down.is_finite() { down } else { f32::from_bits(down.to_bits() | 1) }
}

fn extremum<H: Half>(a: H, b: H, max: bool, nan: bool) -> H {
    let (x, y) = (a.wide(), b.wide());
    if x.is_nan() || y.is_nan() {
        return if nan || x.is_nan() && y.is_nan() {
            H::narrow(f32::NAN)
        } else if x.is_nan() {
            b
        } else {
            a
        };
    }
    let a_first = if x == y { x.is_sign_negative() != max } else { (x < y) != max };
    if a_first { a } else { b }
}

fn clamp<H: Half>(x: H) -> H {
    H::narrow(super::rounding::saturate(x.wide()))
}

fn relu<H: Half>(x: H) -> H {
    if x.wide() < 0.0 { H::narrow(0.0) } else { x }
}

/// Both halves of a register.
#[inline(always)]
fn both(f: impl Fn(u64, u64, u64) -> u64, a: u32, b: u32, c: u32) -> u32 {
    let low = f(u64::from(a & 0xffff), u64::from(b & 0xffff), u64::from(c & 0xffff)) as u32;
    let high = f(u64::from(a >> 16), u64::from(b >> 16), u64::from(c >> 16)) as u32;
    low | high << 16
}

macro_rules! half_ops {
    ($find:ident, $h:ty) => {
        fn $find(opcode: &str, mode: FloatMode, pair: bool) -> Option<LaneFn> {
            macro_rules! op {
                (|$a:ident, $b:ident, $c:ident| $e:expr) => {{
                    #[inline(always)]
                    fn one(a: u64, b: u64, c: u64) -> u64 {
                        let ($a, $b, $c) = (<$h>::get(a), <$h>::get(b), <$h>::get(c));
                        let _ = ($b, $c);
                        let out: $h = $e;
                        out.put()
                    }
                    if pair {
                        lanes!(|a: u32, b: u32, c: u32| both(one, a, b, c))
                    } else {
                        lanes!(|a: u64, b: u64, c: u64| one(a, b, c))
                    }
                }};
            }
            Some(match (opcode, mode.sat, mode.relu) {
                ("add", false, _) => op!(|a, b, _c| <$h>::narrow(a.wide() + b.wide())),
                ("add", true, _) => op!(|a, b, _c| clamp(<$h>::narrow(a.wide() + b.wide()))),
                ("sub", false, _) => op!(|a, b, _c| <$h>::narrow(a.wide() - b.wide())),
                ("sub", true, _) => op!(|a, b, _c| clamp(<$h>::narrow(a.wide() - b.wide()))),
                ("mul", false, _) => op!(|a, b, _c| <$h>::narrow(a.wide() * b.wide())),
                ("mul", true, _) => op!(|a, b, _c| clamp(<$h>::narrow(a.wide() * b.wide()))),
                ("fma", false, false) => op!(|a, b, c| fma(a, b, c)),
                ("fma", false, true) => op!(|a, b, c| relu(fma(a, b, c))),
                ("fma", true, _) => op!(|a, b, c| clamp(fma(a, b, c))),
                ("min", ..) if mode.nan => op!(|a, b, _c| extremum(a, b, false, true)),
                ("min", ..) => op!(|a, b, _c| extremum(a, b, false, false)),
                ("max", ..) if mode.nan => op!(|a, b, _c| extremum(a, b, true, true)),
                ("max", ..) => op!(|a, b, _c| extremum(a, b, true, false)),
                ("neg", ..) if pair => lanes!(|a: u32| a ^ 0x8000_8000),
                ("neg", ..) => lanes!(|a: u16| a ^ 0x8000),
                ("abs", ..) if pair => lanes!(|a: u32| a & 0x7fff_7fff),
                ("abs", ..) => lanes!(|a: u16| a & 0x7fff),
                _ => return None,
            })
        }
    };
}
half_ops!(find_f16, f16);
half_ops!(find_bf16, bf16);

/// The lane function of an f16, f16x2, bf16 or bf16x2 instruction.
///
/// `.ftz` on f16 would flush subnormals; kernels use it on f32, and on 16-bit types it is refused.
pub fn find(opcode: &str, mode: FloatMode, ty: &str) -> Option<LaneFn> {
    if mode.xorsign_abs || mode.ftz {
        return None;
    }
    match ty {
        "f16" => find_f16(opcode, mode, false),
        "f16x2" => find_f16(opcode, mode, true),
        "bf16" => find_bf16(opcode, mode, false),
        "bf16x2" => find_bf16(opcode, mode, true),
        _ => None,
    }
}
