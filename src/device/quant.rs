//! The rules by which activations become int8 or bf16, shared by all devices.
//!
//! Per 32 values: `amax = max |x|`, `scale = amax / 127`, `q = rint(x * (127 / amax))`, ties to even. A block whose
//! `amax` is below [`AMAX_MIN`] is all zeros with scale 0 (the reciprocal would overflow). A block with a value that is not
//! finite has scale NaN, so that what it feeds is NaN as well instead of a plausible number.

/// Values per quantised block.
pub const BLOCK: usize = 32;

/// The smallest maximum that is not flushed to zero.
pub const AMAX_MIN: f32 = 1e-30;

/// Quantises 32 values (fewer at the end of a row: the rest counts as zeros). Returns (scale, sum of q).
pub fn quantise_block(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    let amax_bits = x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
    q.fill(0);
    if amax_bits >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0);
    }
    let amax = f32::from_bits(amax_bits);
    if amax < AMAX_MIN {
        return (0.0, 0);
    }
    let inverse = 127.0 / amax;
    let mut sum = 0;
    for (q, x) in q.iter_mut().zip(x) {
        let v = (x * inverse).round_ties_even() as i32;
        *q = v as i8;
        sum += v;
    }
    (amax / 127.0, sum)
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
