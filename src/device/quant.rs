//! The one rule by which activations become int8, shared by all devices.
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
