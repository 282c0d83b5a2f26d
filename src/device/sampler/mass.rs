//! Probabilities as integers, and logits as keys that sort like them.

/// The mass of the most likely token.
pub const MASS_ONE: u64 = 1 << 44;

/// Coefficients of e^r on ±ln2/2, highest power first: 1 / k!, k = 6..0.
const EXP: [f32; 7] = [1.388_888_9e-3, 8.333_334e-3, 4.166_667e-2, 1.666_666_7e-1, 0.5, 1.0, 1.0];
/// ln 2 in two parts (Cody & Waite 1980): the first has 9 trailing zero bits, so that `n · LN2_HIGH` is exact for |n| < 512.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `rint(exp(x) · 2^44)` for `x <= 0`, 0 for NaN. Single-precision fused multiply–adds in a fixed order, so that every device
/// can have the same bits; relative error below 2^-21 (tested), and 0 below -31.
#[inline(always)]
pub fn mass(x: f32) -> u64 {
    // exp(-31.25) · 2^44 is under a half.
    let clamped = if x >= -31.25 { x } else { -31.25 };
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p.mul_add(r, *c);
    }
    // p · 2^(44 + n) is exact: n is at least -46.
    let scale = f32::from_bits(((n as i32 + 44 + 127) as u32) << 23);
    let rounded = (p * scale).round_ties_even();
    if x >= -31.25 { rounded as u64 } else { 0 }
}

/// A key that orders as the floats do; equal floats (also 0 and -0) have equal keys. Not for NaN.
#[inline(always)]
pub fn order_key(x: f32) -> u32 {
    // Adding +0 turns -0 into +0.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_are_within_their_error_bound() {
        assert_eq!(mass(0.0), MASS_ONE);
        assert_eq!(mass(f32::NEG_INFINITY), 0);
        assert_eq!(mass(f32::NAN), 0);
        for i in 0..=2_000_000u32 {
            let x = -(i as f32) * 1.6e-5;
            let exact = f64::from(x).exp() * MASS_ONE as f64;
            let error = (mass(x) as f64 - exact).abs();
            assert!(error <= 0.5 + exact * 2f64.powi(-21), "{x}: {} for {exact}", mass(x));
        }
    }

    #[test]
    fn keys_sort_like_floats() {
        let sorted = [f32::NEG_INFINITY, -1e30, -1.0, -1e-40, 0.0, 1e-40, 0.5, 1.0, 1e30, f32::INFINITY];
        assert!(sorted.windows(2).all(|w| order_key(w[0]) < order_key(w[1])));
        assert_eq!(order_key(-0.0), order_key(0.0));
    }
}
