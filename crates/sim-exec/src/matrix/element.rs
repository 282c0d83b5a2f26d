//! What a fragment's registers hold: elements of A and B, and accumulators, to and from values that sum.
//!
//! A register of A or B with e elements per lane is an 8 × 4e block: lane 4 g + t holds row g (column g for B), elements e t to
//! e t + e - 1. The lanes in order are the block in row-major order, so unpacking is one pass over them.

// Lanes are indices on both sides of the loops.
#![allow(clippy::needless_range_loop)]

use half::f16;

use super::Summation;
use crate::lanes::{Lane, Lanes, WARP};

/// An 8 × 8 block of accumulators.
pub type Block<T> = [[T; 8]; 8];

/// A value of A or B, and how products of it sum.
pub trait Term: Copy + Default {
    type Sum: Copy + Default;

    /// `sum + a b`.
    fn multiply_add(sum: Self::Sum, a: Self, b: Self) -> Self::Sum;

    /// Adds eight rows of A times eight columns of B.
    #[inline(always)]
    fn accumulate<const K: usize>(
        sums: &mut Block<Self::Sum>,
        a: &[[Self; K]],
        b: &[[Self; 8]; K],
        _summation: Summation,
    ) {
        in_order(sums, a, b);
    }
}

/// One product after the other, k ascending.
#[inline(always)]
fn in_order<T: Term, const K: usize>(sums: &mut Block<T::Sum>, a: &[[T; K]], b: &[[T; 8]; K]) {
    // All rows at once: each row of B is loaded once, and eight chains of sums hide each other's latency.
    let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5, mut s6, mut s7] = *sums;
    let [a0, a1, a2, a3, a4, a5, a6, a7] = a else { panic!("tiles have eight rows") };
    for (k, column) in b.iter().enumerate() {
        macro_rules! step {
            ($($sum:ident += $row:ident;)*) => {$(
                for j in 0..8 {
                    $sum[j] = T::multiply_add($sum[j], $row[k], column[j]);
                }
            )*};
        }
        step! { s0 += a0; s1 += a1; s2 += a2; s3 += a3; s4 += a4; s5 += a5; s6 += a6; s7 += a7; }
    }
    *sums = [s0, s1, s2, s3, s4, s5, s6, s7];
}

impl Term for f32 {
    type Sum = f32;

    #[inline(always)]
    fn multiply_add(sum: f32, a: f32, b: f32) -> f32 {
        a.mul_add(b, sum)
    }

    #[inline(always)]
    fn accumulate<const K: usize>(sums: &mut Block<f32>, a: &[[f32; K]], b: &[[f32; 8]; K], summation: Summation) {
        match summation {
            Summation::InOrder => in_order(sums, a, b),
            Summation::Truncating => truncating(sums, a, b),
        }
    }
}

/// As tensor cores have been observed to add (Fasi et al. 2021): all terms of a block are aligned to the largest exponent, cut to
/// 24 bits plus 2, and added exactly.
#[inline(never)]
fn truncating<const K: usize>(sums: &mut Block<f32>, a: &[[f32; K]], b: &[[f32; 8]; K]) {
    const BLOCK: usize = 8;
    for (sums, row) in sums.iter_mut().zip(a) {
        for (j, sum) in sums.iter_mut().enumerate() {
            for start in (0..K).step_by(BLOCK) {
                let mut terms = [0.0; BLOCK + 1];
                terms[BLOCK] = f64::from(*sum);
                for k in start..K.min(start + BLOCK) {
                    terms[k - start] = f64::from(row[k]) * f64::from(b[k][j]);
                }
                let largest = terms.iter().fold(0f64, |m, t| m.max(t.abs()));
                if largest == 0.0 || !largest.is_finite() || terms.iter().any(|t| t.is_nan()) {
                    *sum = terms.iter().sum::<f64>() as f32;
                    continue;
                }
                let quantum = 2f64.powi(largest.log2().floor() as i32 - 25);
                let exact: f64 = terms.iter().map(|t| (t / quantum).trunc() * quantum).sum();
                *sum = crate::lanes::rounding::narrow(exact, crate::lanes::rounding::Round::Zero);
            }
        }
    }
}

impl Term for f64 {
    type Sum = f64;

    #[inline(always)]
    fn multiply_add(sum: f64, a: f64, b: f64) -> f64 {
        a.mul_add(b, sum)
    }
}

impl Term for i32 {
    type Sum = i32;

    #[inline(always)]
    fn multiply_add(sum: i32, a: i32, b: i32) -> i32 {
        sum.wrapping_add(a.wrapping_mul(b))
    }
}

/// 32 one-bit elements whose products are exclusive-ors, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct XorBits(u32);

impl Term for XorBits {
    type Sum = i32;

    #[inline(always)]
    fn multiply_add(sum: i32, a: Self, b: Self) -> i32 {
        sum.wrapping_add((a.0 ^ b.0).count_ones() as i32)
    }
}

/// 32 one-bit elements whose products are conjunctions, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct AndBits(u32);

impl Term for AndBits {
    type Sum = i32;

    #[inline(always)]
    fn multiply_add(sum: i32, a: Self, b: Self) -> i32 {
        sum.wrapping_add((a.0 & b.0).count_ones() as i32)
    }
}

/// The type of A's or B's elements.
pub trait Element {
    type Value: Term;
    /// What a value's bits are held in on the way; bits above the element may be set.
    type Bits: Copy + Default;
    /// Values per lane of a register. (A word of one-bit elements counts as one.)
    const PER: usize;

    /// The bits of all values of a register, lane after lane.
    type Register: AsRef<[Self::Bits]>;

    fn bits(register: &Lanes) -> Self::Register;
    /// What a lane holds.
    fn word(lane: u64) -> Self::Bits;
    /// The bits of value `i` of a lane's word.
    fn bits_of_word(word: Self::Bits, i: usize) -> Self::Bits;
    fn value(bits: Self::Bits) -> Self::Value;
}

macro_rules! elements {
    ($($(#[doc = $doc:literal])* $name:ident: $value:ty, $per:literal, |$bits:ident| $convert:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Element for $name {
            type Value = $value;
            type Bits = u32;
            const PER: usize = $per;

            type Register = [u32; WARP * $per];

            #[inline(always)]
            fn bits(register: &Lanes) -> Self::Register {
                let mut out = [0; WARP * $per];
                for lane in 0..WARP {
                    for i in 0..$per {
                        out[lane * $per + i] = Self::bits_of_word(Self::word(register[lane]), i);
                    }
                }
                out
            }

            #[inline(always)]
            fn word(lane: u64) -> u32 {
                lane as u32
            }

            #[inline(always)]
            fn bits_of_word(word: u32, i: usize) -> u32 {
                word >> (32 / $per * i)
            }

            #[inline(always)]
            fn value($bits: u32) -> $value {
                $convert
            }
        }
    )*};
}

elements! {
    /// IEEE half precision.
    F16: f32, 2, |bits| f16_to_f32(bits);
    /// The upper half of an f32.
    Bf16: f32, 2, |bits| f32::from_bits(bits << 16);
    /// An f32 whose lower 13 bits do not count.
    Tf32: f32, 1, |bits| f32::from_bits(bits & 0xffff_e000);
    /// fp8 with 4 exponent bits, without infinities.
    E4m3: f32, 4, |bits| e4m3_to_f32(bits);
    /// fp8 with 5 exponent bits: the upper half of an f16.
    E5m2: f32, 4, |bits| f16_to_f32(bits << 8);
    U8: i32, 4, |bits| i32::from(bits as u8);
    S8: i32, 4, |bits| i32::from(bits as i8);
    U4: i32, 8, |bits| (bits & 15) as i32;
    S4: i32, 8, |bits| (bits << 28) as i32 >> 28;
    /// One-bit elements under exclusive or.
    B1Xor: XorBits, 1, |bits| XorBits(bits);
    /// One-bit elements under conjunction.
    B1And: AndBits, 1, |bits| AndBits(bits);
}

/// Double precision, one per 64-bit register.
#[derive(Debug)]
pub struct F64;

impl Element for F64 {
    type Value = f64;
    type Bits = u64;
    const PER: usize = 1;

    type Register = Lanes;

    #[inline(always)]
    fn bits(register: &Lanes) -> Lanes {
        *register
    }

    #[inline(always)]
    fn word(lane: u64) -> u64 {
        lane
    }

    #[inline(always)]
    fn bits_of_word(word: u64, _: usize) -> u64 {
        word
    }

    #[inline(always)]
    fn value(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
}

/// The f16 in the low half to f32, without branches and in 32-bit steps, so that whole rows convert together: the exponent is
/// rebased by a multiplication, which also normalises subnormals.
#[inline(always)]
fn f16_to_f32(bits: u32) -> f32 {
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// Like [`f16_to_f32`], with bias 7 and a NaN where the largest magnitude would be.
#[inline(always)]
fn e4m3_to_f32(bits: u32) -> f32 {
    let magnitude = f32::from_bits((bits & 0x7f) << 20) * f32::from_bits(0x7b80_0000);
    let special = if bits & 0x7f == 0x7f { 0x7fc0_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x80) << 24)
}

/// The type of C's or D's elements. Element i of a block's row pair lies in lane 4 g + t at row g, column 2 t + i.
pub trait Accumulator {
    type Value: Copy + Default;
    /// Registers per 8 × 8 block.
    const REGISTERS: usize;
    /// The sum is clamped instead of wrapped.
    const SATURATES: bool = false;

    fn unpack(registers: &[&Lanes]) -> Block<Self::Value>;
    fn pack(block: &Block<Self::Value>, registers: &mut [Lanes]);

    /// `c + sum`, clamped.
    fn saturating_add(_c: Self::Value, sum: Self::Value) -> Self::Value {
        sum
    }
}

macro_rules! word_accumulator {
    ($name:ident, $value:ty) => {
        type Value = $value;
        const REGISTERS: usize = 2;

        #[inline(always)]
        fn unpack(registers: &[&Lanes]) -> Block<$value> {
            let mut block = [[Default::default(); 8]; 8];
            let flat = block.as_flattened_mut();
            for lane in 0..WARP {
                flat[2 * lane] = <$value as Lane>::get(registers[0][lane]);
                flat[2 * lane + 1] = <$value as Lane>::get(registers[1][lane]);
            }
            block
        }

        #[inline(always)]
        fn pack(block: &Block<$value>, registers: &mut [Lanes]) {
            let flat = block.as_flattened();
            let [even, odd] = registers else { panic!("{} has two registers per block", stringify!($name)) };
            for lane in 0..WARP {
                even[lane] = flat[2 * lane].put();
                odd[lane] = flat[2 * lane + 1].put();
            }
        }
    };
}

/// Single-precision accumulators.
#[derive(Debug)]
pub struct AccF32;
impl Accumulator for AccF32 {
    word_accumulator!(AccF32, f32);
}

/// Double-precision accumulators.
#[derive(Debug)]
pub struct AccF64;
impl Accumulator for AccF64 {
    word_accumulator!(AccF64, f64);
}

/// Integer accumulators that wrap.
#[derive(Debug)]
pub struct AccS32;
impl Accumulator for AccS32 {
    word_accumulator!(AccS32, i32);
}

/// Integer accumulators that clamp (`.satfinite`).
#[derive(Debug)]
pub struct AccS32Clamped;
impl Accumulator for AccS32Clamped {
    word_accumulator!(AccS32Clamped, i32);
    const SATURATES: bool = true;

    #[inline(always)]
    fn saturating_add(c: i32, sum: i32) -> i32 {
        c.saturating_add(sum)
    }
}

/// Half-precision accumulators, two per register; sums are kept in f32 and rounded once.
#[derive(Debug)]
pub struct AccF16;
impl Accumulator for AccF16 {
    type Value = f32;
    const REGISTERS: usize = 1;

    #[inline(always)]
    fn unpack(registers: &[&Lanes]) -> Block<f32> {
        let mut block = [[0.0; 8]; 8];
        for (value, bits) in block.as_flattened_mut().iter_mut().zip(F16::bits(registers[0])) {
            *value = F16::value(bits);
        }
        block
    }

    #[inline(always)]
    fn pack(block: &Block<f32>, registers: &mut [Lanes]) {
        let flat = block.as_flattened();
        for lane in 0..WARP {
            let half = |i: usize| f16::from_f32(flat[2 * lane + i]).put();
            registers[0][lane] = half(0) | half(1) << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_fp8_converts() {
        let same = |got: f32, want: f32| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        for bits in 0..=u16::MAX {
            assert!(same(f16_to_f32(bits.into()), f16::from_bits(bits).to_f32()), "{bits:#x}");
        }
        for code in 0..=u8::MAX {
            // By the definition of the format: sign, 4 bits of exponent with bias 7, 3 of fraction.
            let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
            let magnitude = match exponent {
                15 if code & 7 == 7 => f32::NAN,
                0 => fraction * 2f32.powi(-9),
                e => (8.0 + fraction) * 2f32.powi(e - 10),
            };
            let want = if code & 0x80 != 0 { -magnitude } else { magnitude };
            assert!(same(e4m3_to_f32(code.into()), want), "{code:#x}");
        }
    }
}
