//! The rules by which activations, keys and values become int8 or bf16, shared by all devices.
//!
//! Per block, which is 32 activations, or the key or value of one token and KV head: `amax = max |x|`, `scale = amax / 127`, `q = rint(x * (127 / amax))`, ties to even. A block whose
//! `amax` is below [`AMAX_MIN`] is all zeros with scale 0 (the reciprocal would overflow). A block with a value that is not
//! finite has scale NaN, so that what it feeds is NaN as well instead of a plausible number.

use half::f16;

/// Activations per quantised block.
pub const BLOCK: usize = 32;

/// The smallest maximum that is not flushed to zero.
pub const AMAX_MIN: f32 = 1e-30;

/// The magnitude from which on f16 rounds to infinity. Keys, values and scaled queries of attention from here on count as overflow on every
/// device and with either cache, and are NaN to whatever reads them.
pub const CACHE_OVERFLOW: f32 = 65520.0;

/// A block's scale, and how its values become integers.
#[derive(Clone, Copy, Debug)]
pub struct Quantiser {
    pub scale: f32,
    inverse: f32,
}

impl Quantiser {
    /// For a block of these values.
    #[inline]
    pub fn of(x: &[f32]) -> Quantiser {
        let amax_bits = x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
        let amax = f32::from_bits(amax_bits);
        match amax_bits >= f32::INFINITY.to_bits() {
            true => Quantiser { scale: f32::NAN, inverse: 0.0 },
            false if amax < AMAX_MIN => Quantiser { scale: 0.0, inverse: 0.0 },
            false => Quantiser { scale: amax / 127.0, inverse: 127.0 / amax },
        }
    }

    /// For the key or value of one token and KV head, which must be in the range of f16.
    #[inline]
    pub fn of_head(x: &[f32]) -> Quantiser {
        match x.iter().all(|x| x.abs() < CACHE_OVERFLOW) {
            true => Quantiser::of(x),
            false => Quantiser { scale: f32::NAN, inverse: 0.0 },
        }
    }

    /// One of the block's values; its product with the scale is what is left of it. Zeros where the block is not finite.
    #[inline]
    pub fn integer(&self, x: f32) -> i8 {
        (x * self.inverse).round_ties_even() as i8
    }
}

/// Quantises 32 values (fewer at the end of a row: the rest counts as zeros). Returns (scale, sum of q).
pub fn quantise_block(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    let quantiser = Quantiser::of(x);
    q.fill(0);
    q.iter_mut().zip(x).for_each(|(q, x)| *q = quantiser.integer(*x));
    (quantiser.scale, q.iter().map(|q| i32::from(*q)).sum())
}

/// Quantises the key or value of one token and KV head for an int8 cache. Returns the scale.
pub fn quantise_head(x: &[f32], q: &mut [i8]) -> f32 {
    let quantiser = Quantiser::of_head(x);
    q.iter_mut().zip(x).for_each(|(q, x)| *q = quantiser.integer(*x));
    quantiser.scale
}

/// A key's or value's element in an f16 cache: infinity becomes NaN, because products with it may be -inf, which is what masked scores are.
pub fn cached_f16(x: f32) -> f16 {
    let rounded = f16::from_f32(x);
    if rounded.is_infinite() { f16::NAN } else { rounded }
}

/// Blocks per segment of a row of `num_blocks` blocks of 32 weights: segment sums are formed in block order and then added
/// in segment order (row invariance, `ARCHITECTURE.md`).
pub fn segment_blocks(num_blocks: usize) -> usize {
    num_blocks.div_ceil(16).max(4)
}

/// The one rule by which activations meet bf16 weights: rounded to bf16, to nearest even, subnormals to zero (the
/// hardware's dot product reads them so). Returns the bits.
pub fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > f32::INFINITY.to_bits() {
        return (bits >> 16) as u16 | 0x40;
    }
    if magnitude < f32::MIN_POSITIVE.to_bits() {
        return (bits >> 16) as u16 & 0x8000;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// [`round_bf16`] as a value.
pub fn bf16_value(x: f32) -> f32 {
    f32::from_bits(u32::from(round_bf16(x)) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_times_scales_are_the_values_to_half_a_step() {
        // An exact step, ties to even, both signs of the largest magnitude.
        let exact = [127.0, -127.0, 0.5, 1.5, -2.5, 63.0];
        let quantiser = Quantiser::of(&exact);
        assert_eq!((quantiser.scale, exact.map(|x| quantiser.integer(x))), (1.0, [127, -127, 0, 2, -2, 63]));
        for magnitude in [1e-29, 3e-5, 1.0, 7.7e4, 3e38] {
            let x: Vec<f32> = (0..80).map(|i| magnitude * (i as f32 * 0.37).sin()).collect();
            let quantiser = Quantiser::of(&x);
            for x in &x {
                let error = (f32::from(quantiser.integer(*x)) * quantiser.scale - x).abs();
                assert!(error <= 0.5001 * quantiser.scale, "{x:e} is off by {error:e}");
            }
        }
    }

    #[test]
    fn keys_and_values_beyond_f16_are_nan_in_either_cache() {
        for (x, fits) in [(65504.0, true), (-65519.9, true), (65520.0, false), (-1e6, false), (f32::NAN, false)] {
            assert_eq!(cached_f16(x).is_finite(), fits, "{x}");
            assert_eq!(cached_f16(x).is_nan(), !fits, "{x}");
            let mut integers = [0; 2];
            assert_eq!(quantise_head(&[1.0, x], &mut integers).is_nan(), !fits, "{x}");
        }
    }

    #[test]
    fn blocks_that_are_not_finite_stay_so_and_tiny_ones_are_zeros() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let x = [1.0, bad, -3.0];
            let quantiser = Quantiser::of(&x);
            assert!(quantiser.scale.is_nan() && x.iter().all(|x| quantiser.integer(*x) == 0), "{bad}");
        }
        let tiny = Quantiser::of(&[9e-31, -1e-38, 0.0]);
        assert_eq!((tiny.scale, tiny.integer(9e-31)), (0.0, 0));
    }

    #[test]
    fn bf16_rounds_like_the_half_crate_but_for_subnormals() {
        for i in 0..=u32::MAX / 4099 {
            let x = f32::from_bits(i * 4099);
            let want = half::bf16::from_f32(x);
            if x.is_subnormal() {
                assert_eq!(round_bf16(x) & 0x7fff, 0);
            } else if x.is_nan() {
                assert!(half::bf16::from_bits(round_bf16(x)).is_nan());
            } else {
                assert_eq!(round_bf16(x), want.to_bits(), "{x:e}");
            }
        }
    }
}
