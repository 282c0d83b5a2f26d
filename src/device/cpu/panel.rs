//! Activation panels: up to 12 rows side by side, quantised or f32, as the linear kernels read them.
//!
//! A quantised panel of `S` columns is, per 32 elements of K, `[8 groups][S]` words of four int8 and `[5][S]` words of
//! [`Meta`]. A float panel is `[k][S]` f32, a bf16 panel `[k / 2][S]` pairs.

#![allow(unsafe_code)]

use crate::device::quant;

use super::simd::{Isa, LANES};

/// Columns of a full panel.
pub const PANEL_COLS: usize = 12;

/// The words that go with a quantised block and column, after its integers.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// `da`, f32.
    Scale = 0,
    /// `da · Σq`, f32.
    ScaledSum = 1,
    /// `−Σq`, i32, over all 32, the first and the last 16 values.
    NegativeSum = 2,
    NegativeSumLow = 3,
    NegativeSumHigh = 4,
}

/// Rows of [`Meta`].
pub const META_ROWS: usize = 5;

/// Words of one block of a quantised panel with `cols` columns.
pub const fn record_words(cols: usize) -> usize {
    (8 + META_ROWS) * cols
}

/// Words of a panel of `cols` columns over `k` elements.
pub const fn panel_words(k: usize, cols: usize) -> usize {
    k.div_ceil(quant::BLOCK) * record_words(cols)
}

/// The kernel's column count for `rows` rows: the next of 1, 2, 4, 8, 12.
pub const fn padded_cols(rows: usize) -> usize {
    match rows {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 4,
        5..=8 => 8,
        _ => PANEL_COLS,
    }
}

/// Quantises `row` into column `column` of a panel of `cols` columns, by the rule of [`quant::quantise_block`].
///
/// # Safety
/// `panel` holds [`panel_words`] words, and nobody else uses this column. Other columns may be written meanwhile. The machine
/// has what `I` needs.
#[inline(always)]
pub unsafe fn quantise_column<I: Isa>(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
    for (block, x) in row.chunks(quant::BLOCK).enumerate() {
        // SAFETY: 32 values each; inside the panel by contract.
        unsafe {
            let words = match x.len() {
                quant::BLOCK => quantise::<I>(x.as_ptr()),
                len => {
                    let mut padded = [0f32; quant::BLOCK];
                    padded[..len].copy_from_slice(x);
                    quantise::<I>(padded.as_ptr())
                }
            };
            let out = panel.add(block * record_words(cols) + column);
            for (i, word) in words.into_iter().enumerate() {
                *out.add(i * cols) = word;
            }
        }
    }
}

/// The words of a column's block from 32 values at `x`.
#[inline(always)]
unsafe fn quantise<I: Isa>(x: *const f32) -> [u32; 8 + META_ROWS] {
    let mut words = [0u32; 8 + META_ROWS];
    // SAFETY: 32 values by contract; `q` is as long.
    unsafe {
        let (a, b) = (I::load(x), I::load(x.add(LANES)));
        let amax_bits = I::max_magnitude_bits(a, b);
        let amax = f32::from_bits(amax_bits);
        if amax_bits >= f32::INFINITY.to_bits() {
            words[8 + Meta::Scale as usize] = f32::NAN.to_bits();
            words[8 + Meta::ScaledSum as usize] = f32::NAN.to_bits();
        } else if amax >= quant::AMAX_MIN {
            let inverse = I::splat(127.0 / amax);
            let (a, b) = (I::round(I::mul(a, inverse)), I::round(I::mul(b, inverse)));
            let mut q = [0i8; quant::BLOCK];
            I::store_i8(q.as_mut_ptr(), a);
            I::store_i8(q.as_mut_ptr().add(LANES), b);
            for (word, q) in words.iter_mut().zip(q.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(q.map(|q| q as u8));
            }
            // Sums of integers this small are exact in f32, in any order.
            let (low, high) = (I::sum(a) as i32, I::sum(b) as i32);
            let (scale, sum) = (amax / 127.0, low + high);
            words[8 + Meta::Scale as usize] = scale.to_bits();
            words[8 + Meta::ScaledSum as usize] = (scale * sum as f32).to_bits();
            words[8 + Meta::NegativeSum as usize] = -sum as u32;
            words[8 + Meta::NegativeSumLow as usize] = -low as u32;
            words[8 + Meta::NegativeSumHigh as usize] = -high as u32;
        }
    }
    words
}

/// Copies `row` into column `column` of a float panel.
///
/// # Safety
/// As for [`quantise_column`]; the panel holds `row.len() * cols` words.
#[inline(always)]
pub unsafe fn float_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
    for (k, x) in row.iter().enumerate() {
        // SAFETY: inside the panel by contract.
        unsafe { *panel.add(k * cols + column) = x.to_bits() };
    }
}

/// Rounds `row` to bf16 into column `column` of a panel of pairs: `[k / 2][cols]` words, k in the high half.
///
/// # Safety
/// As for [`quantise_column`]; the panel holds `row.len().div_ceil(2) * cols` words.
#[inline(always)]
pub unsafe fn bf16_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
    for (pair, x) in row.chunks(2).enumerate() {
        let low = x.get(1).map_or(0, |&x| quant::round_bf16(x));
        let word = u32::from(quant::round_bf16(x[0])) << 16 | u32::from(low);
        // SAFETY: inside the panel by contract.
        unsafe { *panel.add(pair * cols + column) = word };
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::IsaPath;
    use super::*;

    #[test]
    fn columns_hold_what_the_shared_rule_gives() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        };
        for case in 0..400 {
            let magnitude = [1.0, 1e-20, 1e-31, 1e30, 127.0][case % 5];
            let mut row: Vec<f32> = (0..[64, 80, 41][case % 3]).map(|_| next() * magnitude).collect();
            match case % 7 {
                1 => row[3] = f32::NAN,
                2 => row[40] = f32::NEG_INFINITY,
                3 => row.fill(0.0),
                4 => row.iter_mut().for_each(|x| *x = (*x * 127.0).round() + 0.5),
                _ => {}
            }
            for path in IsaPath::available() {
                for (cols, column) in [(1, 0), (4, 2), (12, 11)] {
                    let mut panel = vec![0u32; panel_words(row.len(), cols)];
                    // SAFETY: the panel is as long as `panel_words` says.
                    unsafe { (path.kernels().quantise_column)(&row, panel.as_mut_ptr(), column, cols) };
                    assert_column(&row, &panel, column, cols, &format!("case {case}, {}", path.name()));
                }
            }
        }
    }

    fn assert_column(row: &[f32], panel: &[u32], column: usize, cols: usize, what: &str) {
        for (x, record) in row.chunks(32).zip(panel.chunks(record_words(cols))) {
            let mut q = [0i8; 32];
            let (scale, sum) = quant::quantise_block(x, &mut q);
            let got: Vec<i8> = (0..8).flat_map(|g| record[g * cols + column].to_le_bytes().map(|b| b as i8)).collect();
            let meta = |m: Meta| record[(8 + m as usize) * cols + column];
            assert_eq!(got, q, "{what}");
            assert_eq!(meta(Meta::Scale), scale.to_bits(), "{what}");
            assert_eq!(meta(Meta::ScaledSum), (scale * sum as f32).to_bits(), "{what}");
            assert_eq!(meta(Meta::NegativeSum) as i32, -sum, "{what}");
            let low: i32 = q[..16].iter().map(|&q| i32::from(q)).sum();
            assert_eq!(meta(Meta::NegativeSumLow) as i32, -low, "{what}");
            assert_eq!(meta(Meta::NegativeSumHigh) as i32, low - sum, "{what}");
        }
    }
}
