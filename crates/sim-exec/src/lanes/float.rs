//! f32 and f64 arithmetic: add, sub, mul, fma, div, rcp, sqrt, neg, abs, min, max, copysign, testp.

use super::rounding::{self, Round, flush, saturate};
use super::{Lane, LaneFn, LaneOp, Lanes, WARP, lanes, map};

/// The modifiers of a floating-point instruction that change its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloatMode {
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    /// min and max: NaN if either operand is NaN.
    pub nan: bool,
    /// min and max: compare magnitudes, and negate the result's sign if the operands' signs differ.
    pub xorsign_abs: bool,
    /// fma: negative results become zero.
    pub relu: bool,
}

const RN: u8 = 0;
const RZ: u8 = 1;
const RM: u8 = 2;
const RP: u8 = 3;

const fn round_of(code: u8) -> Round {
    match code {
        RZ => Round::Zero,
        RM => Round::Down,
        RP => Round::Up,
        _ => Round::Nearest,
    }
}

#[inline(always)]
fn input<const FTZ: bool>(lane: u64) -> f32 {
    let x = f32::get(lane);
    if FTZ { flush(x) } else { x }
}

#[inline(always)]
fn output<const FTZ: bool, const SAT: bool>(x: f32) -> u64 {
    let x = if FTZ { flush(x) } else { x };
    (if SAT { saturate(x) } else { x }).put()
}

/// One instruction for every rounding, with and without `.ftz` and `.sat`.
macro_rules! f32_op {
    ($name:ident, |$a:ident, $b:ident, $c:ident, $r:ident| nearest $near:expr, directed $dir:expr) => {
        struct $name<const R: u8, const FTZ: bool, const SAT: bool>;

        impl<const R: u8, const FTZ: bool, const SAT: bool> LaneOp for $name<R, FTZ, SAT> {
            #[inline(always)]
            fn apply(a: u64, b: u64, c: u64) -> u64 {
                let ($a, $b, $c) = (input::<FTZ>(a), input::<FTZ>(b), input::<FTZ>(c));
                let _ = ($b, $c);
                let $r = round_of(R);
                output::<FTZ, SAT>(if R == RN { $near } else { $dir })
            }
        }
    };
}
f32_op!(AddF32, |a, b, _c, r| nearest a + b, directed rounding::add_f32(a, b, r));
f32_op!(SubF32, |a, b, _c, r| nearest a - b, directed rounding::add_f32(a, -b, r));
f32_op!(MulF32, |a, b, _c, r| nearest a * b, directed rounding::narrow(f64::from(a) * f64::from(b), r));
f32_op!(FmaF32, |a, b, c, r| nearest a.mul_add(b, c), directed rounding::fma_f32(a, b, c, r));
f32_op!(DivF32, |a, b, _c, r| nearest a / b, directed rounding::div_f32(a, b, r));
f32_op!(RcpF32, |a, _b, _c, r| nearest 1.0 / a, directed rounding::div_f32(1.0, a, r));
f32_op!(SqrtF32, |a, _b, _c, r| nearest a.sqrt(), directed rounding::sqrt_f32(a, r));

macro_rules! f64_op {
    ($name:ident, |$a:ident, $b:ident, $c:ident, $r:ident| nearest $near:expr, directed $dir:expr) => {
        struct $name<const R: u8>;

        impl<const R: u8> LaneOp for $name<R> {
            #[inline(always)]
            fn apply(a: u64, b: u64, c: u64) -> u64 {
                let ($a, $b, $c) = (f64::get(a), f64::get(b), f64::get(c));
                let _ = ($b, $c);
                let $r = round_of(R);
                (if R == RN { $near } else { $dir }).put()
            }
        }
    };
}
f64_op!(AddF64, |a, b, _c, r| nearest a + b, directed rounding::add_f64(a, b, r));
f64_op!(SubF64, |a, b, _c, r| nearest a - b, directed rounding::add_f64(a, -b, r));
f64_op!(MulF64, |a, b, _c, r| nearest a * b, directed rounding::mul_f64(a, b, r));
f64_op!(DivF64, |a, b, _c, r| nearest a / b, directed rounding::div_f64(a, b, r));
f64_op!(RcpF64, |a, _b, _c, r| nearest 1.0 / a, directed rounding::div_f64(1.0, a, r));
f64_op!(SqrtF64, |a, _b, _c, r| nearest a.sqrt(), directed rounding::sqrt_f64(a, r));

macro_rules! choose_f32 {
    ($mode:expr, $name:ident) => {
        match ($mode.round, $mode.ftz, $mode.sat) {
            (Round::Nearest, false, false) => map::<$name<RN, false, false>>,
            (Round::Nearest, true, false) => map::<$name<RN, true, false>>,
            (Round::Nearest, false, true) => map::<$name<RN, false, true>>,
            (Round::Nearest, true, true) => map::<$name<RN, true, true>>,
            (Round::Zero, false, false) => map::<$name<RZ, false, false>>,
            (Round::Zero, true, false) => map::<$name<RZ, true, false>>,
            (Round::Zero, false, true) => map::<$name<RZ, false, true>>,
            (Round::Zero, true, true) => map::<$name<RZ, true, true>>,
            (Round::Down, false, false) => map::<$name<RM, false, false>>,
            (Round::Down, true, false) => map::<$name<RM, true, false>>,
            (Round::Down, false, true) => map::<$name<RM, false, true>>,
            (Round::Down, true, true) => map::<$name<RM, true, true>>,
            (Round::Up, false, false) => map::<$name<RP, false, false>>,
            (Round::Up, true, false) => map::<$name<RP, true, false>>,
            (Round::Up, false, true) => map::<$name<RP, false, true>>,
            (Round::Up, true, true) => map::<$name<RP, true, true>>,
        }
    };
}

macro_rules! choose_f64 {
    ($mode:expr, $name:ident) => {
        match $mode.round {
            Round::Nearest => map::<$name<RN>>,
            Round::Zero => map::<$name<RZ>>,
            Round::Down => map::<$name<RM>>,
            Round::Up => map::<$name<RP>>,
        }
    };
}

/// The lane function of an f32 or f64 instruction. Approximate ones are in [`super::approx`].
pub fn find(opcode: &str, mode: FloatMode, ty: &str) -> Option<LaneFn> {
    Some(match (opcode, ty) {
        ("add", "f32") => choose_f32!(mode, AddF32),
        ("sub", "f32") => choose_f32!(mode, SubF32),
        ("mul", "f32") => choose_f32!(mode, MulF32),
        ("fma" | "mad", "f32") => choose_f32!(mode, FmaF32),
        ("div", "f32") => choose_f32!(mode, DivF32),
        ("rcp", "f32") => choose_f32!(mode, RcpF32),
        ("sqrt", "f32") => choose_f32!(mode, SqrtF32),
        ("add", "f64") => choose_f64!(mode, AddF64),
        ("sub", "f64") => choose_f64!(mode, SubF64),
        ("mul", "f64") => choose_f64!(mode, MulF64),
        ("div", "f64") => choose_f64!(mode, DivF64),
        ("rcp", "f64") => choose_f64!(mode, RcpF64),
        ("sqrt", "f64") => choose_f64!(mode, SqrtF64),
        ("fma" | "mad", "f64") if mode.round == Round::Nearest => lanes!(|a: f64, b: f64, c: f64| a.mul_add(b, c)),
        ("neg", "f32") if mode.ftz => lanes!(|a: f32| -flush(a)),
        ("neg", "f32") => lanes!(|a: u32| a ^ 0x8000_0000),
        ("neg", "f64") => lanes!(|a: u64| a ^ 1 << 63),
        ("abs", "f32") if mode.ftz => lanes!(|a: f32| flush(a).abs()),
        ("abs", "f32") => lanes!(|a: u32| a & 0x7fff_ffff),
        ("abs", "f64") => lanes!(|a: u64| a & !(1 << 63)),
        ("copysign", "f32") => lanes!(|a: u32, b: u32| a & 0x8000_0000 | b & 0x7fff_ffff),
        ("copysign", "f64") => lanes!(|a: u64, b: u64| a & 1 << 63 | b & !(1 << 63)),
        ("min" | "max", "f32") => return min_max_f32(opcode == "max", mode),
        ("min", "f64") => lanes!(|a: f64, b: f64| if ordered(a, b) { a } else { b }),
        ("max", "f64") => lanes!(|a: f64, b: f64| if ordered(-a, -b) { a } else { b }),
        _ => return None,
    })
}

/// Whether `a` is the minimum: not NaN and below `b` (−0 below +0), or `b` is NaN.
fn ordered(a: f64, b: f64) -> bool {
    !a.is_nan() && (b.is_nan() || a < b || a == b && a.is_sign_negative())
}

#[inline(always)]
fn extremum<const MAX: bool, const FTZ: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let (a, b) = if FTZ { (flush(a), flush(b)) } else { (a, b) };
    if a.is_nan() || b.is_nan() {
        return if NAN {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == b {
        // −0 is below +0.
        return if a.is_sign_negative() != MAX { a } else { b };
    }
    if (a < b) != MAX { a } else { b }
}

struct Extremum<const MAX: bool, const FTZ: bool, const NAN: bool>;

impl<const MAX: bool, const FTZ: bool, const NAN: bool> LaneOp for Extremum<MAX, FTZ, NAN> {
    #[inline(always)]
    fn apply(a: u64, b: u64, _: u64) -> u64 {
        extremum::<MAX, FTZ, NAN>(f32::get(a), f32::get(b)).put()
    }
}

fn min_max_f32(max: bool, mode: FloatMode) -> Option<LaneFn> {
    if mode.xorsign_abs {
        return Some(match (max, mode.nan) {
            (true, false) => lanes!(|a: f32, b: f32| xorsign(a, b, extremum::<true, false, false>)),
            (true, true) => lanes!(|a: f32, b: f32| xorsign(a, b, extremum::<true, false, true>)),
            (false, false) => lanes!(|a: f32, b: f32| xorsign(a, b, extremum::<false, false, false>)),
            (false, true) => lanes!(|a: f32, b: f32| xorsign(a, b, extremum::<false, false, true>)),
        });
    }
    Some(match (max, mode.ftz, mode.nan) {
        (false, false, false) => map::<Extremum<false, false, false>>,
        (false, false, true) => map::<Extremum<false, false, true>>,
        (false, true, false) => map::<Extremum<false, true, false>>,
        (false, true, true) => map::<Extremum<false, true, true>>,
        (true, false, false) => map::<Extremum<true, false, false>>,
        (true, false, true) => map::<Extremum<true, false, true>>,
        (true, true, false) => map::<Extremum<true, true, false>>,
        (true, true, true) => map::<Extremum<true, true, true>>,
    })
}

fn xorsign(a: f32, b: f32, pick: fn(f32, f32) -> f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let magnitude = pick(a.abs(), b.abs());
    if magnitude.is_nan() { magnitude } else { f32::from_bits(magnitude.to_bits() | sign) }
}

/// `testp`: the class test of one value.
pub fn find_test(class: &str, ty: &str) -> Option<super::CompareFn> {
    macro_rules! test {
        ($t:ty, |$x:ident| $e:expr) => {{
            fn f(a: &Lanes, _: &Lanes) -> u32 {
                (0..WARP).fold(0, |m, i| {
                    let $x = <$t>::get(a[i]);
                    m | u32::from($e) << i
                })
            }
            f as super::CompareFn
        }};
    }
    Some(match (class, ty) {
        ("finite", "f32") => test!(f32, |x| x.is_finite()),
        ("infinite", "f32") => test!(f32, |x| x.is_infinite()),
        ("number", "f32") => test!(f32, |x| !x.is_nan()),
        ("notanumber", "f32") => test!(f32, |x| x.is_nan()),
        ("normal", "f32") => test!(f32, |x| x.is_normal()),
        ("subnormal", "f32") => test!(f32, |x| x.is_subnormal()),
        ("finite", "f64") => test!(f64, |x| x.is_finite()),
        ("infinite", "f64") => test!(f64, |x| x.is_infinite()),
        ("number", "f64") => test!(f64, |x| !x.is_nan()),
        ("notanumber", "f64") => test!(f64, |x| x.is_nan()),
        ("normal", "f64") => test!(f64, |x| x.is_normal()),
        ("subnormal", "f64") => test!(f64, |x| x.is_subnormal()),
        _ => return None,
    })
}
