//! Lane-wise arithmetic: one pure function per instruction and type, applied to a warp's 32 lanes at a time.
//!
//! A register holds 32 lanes of 64 bits whatever its PTX type; narrower values sit in the low bits, zero-extended.
//! Lowering picks a [`LaneFn`] for each instruction, so that executing arithmetic is one indirect call per warp.

pub mod approx;
pub mod bits;
pub mod compare;
pub mod convert;
pub mod float;
pub mod half2;
pub mod integer;
pub mod rounding;
pub mod vector;

use half::{bf16, f16};
use std::marker::PhantomData;

/// Lanes per warp.
pub const WARP: usize = 32;
/// One register of a warp.
pub type Lanes = [u64; WARP];
/// One bit per lane.
pub type Mask = u32;
/// All lanes.
pub const FULL: Mask = !0;

/// `d = f(a, b, c)` in every lane.
pub type LaneFn = fn(&mut Lanes, &Lanes, &Lanes, &Lanes);
/// `f(a, b)` in every lane, one bit each.
pub type CompareFn = fn(&Lanes, &Lanes) -> Mask;

/// A value that a lane can hold.
pub trait Lane: Copy {
    /// From the low bits of a lane.
    fn get(lane: u64) -> Self;
    /// Zero-extended into a lane.
    fn put(self) -> u64;
}

macro_rules! lane_integers {
    ($($t:ty as $u:ty),*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn get(lane: u64) -> Self { lane as $t }
            #[inline(always)]
            fn put(self) -> u64 { self as $u as u64 }
        }
    )*};
}
lane_integers!(u8 as u8, i8 as u8, u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64);

/// The NaN that f32 arithmetic returns (PTX ISA, "Floating Point Instructions").
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The NaN that f16 and bf16 arithmetic returns.
pub const NAN_HALF: u16 = 0x7fff;

impl Lane for f32 {
    #[inline(always)]
    fn get(lane: u64) -> Self {
        f32::from_bits(lane as u32)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { NAN_F32 } else { self.to_bits() })
    }
}

impl Lane for f64 {
    #[inline(always)]
    fn get(lane: u64) -> Self {
        f64::from_bits(lane)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        if self.is_nan() { 0x7fff_ffff_ffff_ffff } else { self.to_bits() }
    }
}

impl Lane for f16 {
    #[inline(always)]
    fn get(lane: u64) -> Self {
        f16::from_bits(lane as u16)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { NAN_HALF } else { self.to_bits() })
    }
}

impl Lane for bf16 {
    #[inline(always)]
    fn get(lane: u64) -> Self {
        bf16::from_bits(lane as u16)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { NAN_HALF } else { self.to_bits() })
    }
}

/// What an instruction does in one lane.
pub trait LaneOp {
    /// Must be `#[inline(always)]`, see [`vector::Work`].
    fn apply(a: u64, b: u64, c: u64) -> u64;
}

struct Map<'x, O> {
    d: &'x mut Lanes,
    operands: [&'x Lanes; 3],
    op: PhantomData<O>,
}

impl<O: LaneOp> vector::Work for Map<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [a, b, c] = self.operands;
        for i in 0..WARP {
            self.d[i] = O::apply(a[i], b[i], c[i]);
        }
    }
}

/// The [`LaneFn`] of an operation.
pub fn map<O: LaneOp>(d: &mut Lanes, a: &Lanes, b: &Lanes, c: &Lanes) {
    vector::run(Map::<O> { d, operands: [a, b, c], op: PhantomData });
}

/// Makes a [`LaneFn`] from an expression over up to three typed lanes.
macro_rules! lanes {
    (|$a:ident: $ta:ty| $e:expr) => {
        $crate::lanes::lanes!(|$a: $ta, _b: u64, _c: u64| $e)
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty| $e:expr) => {
        $crate::lanes::lanes!(|$a: $ta, $b: $tb, _c: u64| $e)
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty| $e:expr) => {{
        struct Op;
        impl $crate::lanes::LaneOp for Op {
            #[inline(always)]
            fn apply(a: u64, b: u64, c: u64) -> u64 {
                let $a = <$ta as $crate::lanes::Lane>::get(a);
                let $b = <$tb as $crate::lanes::Lane>::get(b);
                let $c = <$tc as $crate::lanes::Lane>::get(c);
                $crate::lanes::Lane::put($e)
            }
        }
        $crate::lanes::map::<Op> as $crate::lanes::LaneFn
    }};
}
pub(crate) use lanes;

/// Calls a [`LaneFn`] on single values: what tests compare with their scalar models.
#[cfg(test)]
pub fn apply(f: LaneFn, a: u64, b: u64, c: u64) -> u64 {
    let mut out = [0; WARP];
    f(&mut out, &[a; WARP], &[b; WARP], &[c; WARP]);
    assert!(out.iter().all(|&x| x == out[0]));
    out[0]
}
