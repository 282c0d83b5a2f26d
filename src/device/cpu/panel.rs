//! Activation panels: up to 12 rows side by side, quantised or f32, as the linear kernels read them.
//!
//! A quantised panel of `S` columns is, per 32 elements of K, `[8 groups][S]` words of four int8 and `[5][S]` words of
//! [`Meta`]. A float panel is `[k][S]` f32, a bf16 panel `[k / 2][S]` pairs.

#![allow(unsafe_code)]

use crate::device::quant;

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

/// Quantises `row` into column `column` of a panel of `cols` columns.
///
/// # Safety
/// `panel` holds [`panel_words`] words, and nobody else uses this column. Other columns may be written meanwhile.
#[inline(always)]
pub unsafe fn quantise_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
    for (block, x) in row.chunks(quant::BLOCK).enumerate() {
        let mut q = [0i8; quant::BLOCK];
        let (scale, low, high) = quantise(x, &mut q);
        let sum = low + high;
        let mut words = [0u32; 8 + META_ROWS];
        for g in 0..8 {
            words[g] = u32::from_le_bytes([q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3]].map(|q| q as u8));
        }
        words[8 + Meta::Scale as usize] = scale.to_bits();
        words[8 + Meta::ScaledSum as usize] = (scale * sum as f32).to_bits();
        words[8 + Meta::NegativeSum as usize] = (-sum) as u32;
        words[8 + Meta::NegativeSumLow as usize] = (-low) as u32;
        words[8 + Meta::NegativeSumHigh as usize] = (-high) as u32;
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: inside the panel by contract.
            unsafe { *panel.add(block * record_words(cols) + i * cols + column) = word };
        }
    }
}

/// `quant::quantise_block`, written so that it vectorises. Returns the scale and the sums of both halves.
#[inline(always)]
fn quantise(x: &[f32], q: &mut [i8; quant::BLOCK]) -> (f32, i32, i32) {
    let mut v = [0f32; quant::BLOCK];
    v[..x.len()].copy_from_slice(x);
    let mut amax_bits = 0;
    for v in &v {
        amax_bits = (v.to_bits() & 0x7fff_ffff).max(amax_bits);
    }
    if amax_bits >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0, 0);
    }
    let amax = f32::from_bits(amax_bits);
    if amax < quant::AMAX_MIN {
        return (0.0, 0, 0);
    }
    let inverse = 127.0 / amax;
    let mut n = [0i32; quant::BLOCK];
    for (n, v) in n.iter_mut().zip(&v) {
        // Adding 1.5 · 2^23 rounds to an integer, ties to even, in the low bits of the sum: |v · inverse| <= 127.00002.
        const MAGIC: f32 = 12_582_912.0;
        *n = (v * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
    }
    let (mut low, mut high) = (0, 0);
    for (l, h) in n[..16].iter().zip(&n[16..]) {
        low += l;
        high += h;
    }
    for (q, n) in q.iter_mut().zip(&n) {
        *q = *n as i8;
    }
    (amax / 127.0, low, high)
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
            let mut row: Vec<f32> = (0..64).map(|_| next() * magnitude).collect();
            match case % 7 {
                1 => row[3] = f32::NAN,
                2 => row[40] = f32::NEG_INFINITY,
                3 => row.fill(0.0),
                4 => row.iter_mut().for_each(|x| *x = (*x * 127.0).round() + 0.5),
                _ => {}
            }
            for (cols, column) in [(1, 0), (4, 2), (12, 11)] {
                let mut panel = vec![0u32; panel_words(64, cols)];
                // SAFETY: the panel is as long as `panel_words` says.
                unsafe { quantise_column(&row, panel.as_mut_ptr(), column, cols) };
                for (x, record) in row.chunks(32).zip(panel.chunks(record_words(cols))) {
                    let mut q = [0i8; 32];
                    let (scale, sum) = quant::quantise_block(x, &mut q);
                    let got: Vec<i8> =
                        (0..8).flat_map(|g| record[g * cols + column].to_le_bytes().map(|b| b as i8)).collect();
                    let meta = |m: Meta| record[(8 + m as usize) * cols + column];
                    assert_eq!(got, q, "case {case}");
                    assert_eq!(meta(Meta::Scale), scale.to_bits(), "case {case}");
                    assert_eq!(meta(Meta::ScaledSum), (scale * sum as f32).to_bits(), "case {case}");
                    assert_eq!(meta(Meta::NegativeSum) as i32, -sum, "case {case}");
                    let low: i32 = q[..16].iter().map(|&q| i32::from(q)).sum();
                    assert_eq!(meta(Meta::NegativeSumLow) as i32, -low, "case {case}");
                    assert_eq!(meta(Meta::NegativeSumHigh) as i32, low - sum, "case {case}");
                }
            }
        }
    }
}
