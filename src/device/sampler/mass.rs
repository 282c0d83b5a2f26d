//! Probabilities as integers, and logits as keys that sort like them.

/// The mass of the most likely token.
pub const MASS_ONE: u64 = 1 << 44;

/// The largest vocabulary whose masses can be added in 64 bits.
pub const VOCAB_SIZE_MAX: u32 = (1 << 20) - 1;

/// `rint(exp(x) · 2^44)` for `x <= 0`, 0 for NaN.
///
/// Single-precision multiplications and additions in a fixed order, each rounded on its own and none fused: every x86-64 and
/// every GPU has the same bits for them, eight or more at a time. (A fused multiply–add is a library call where the build
/// may not assume the instruction: 1 ms per row instead of 0.03.) `e^(r + n·ln2) = 2^n · e^r` with `r` in two parts (Cody &
/// Waite 1980) and the best polynomial in relative error, `1 + r + r²·q(r)`. Relative error below 2^-22 (tested), 0 below
/// -31.2.
#[inline(always)]
pub fn mass(x: f32) -> u64 {
    /// 1.5 · 2^23: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// Nine bits, so that its product with an integer up to 2^15 is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// q, lowest power first: Lawson's iteration on |r| <= 0.3475, 2^-27.9 in exact arithmetic.
    const Q: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_408, 0.008_368_897, 0.001_381_420_2];
    /// 2^52: adding it rounds to an integer, ties to even, which is then in the low 52 bits.
    const ROUND_F64: f64 = 4_503_599_627_370_496.0;

    // exp(-32) · 2^44 rounds to 0. NaN becomes -32 as well.
    let x = if x > -32.0 { x } else { -32.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let q = (((Q[4] * r + Q[3]) * r + Q[2]) * r + Q[1]) * r + Q[0];
    let p = r * r * q + r + 1.0;
    // 2^(n + 44): the exponent's field is n + 44 + 127, and n is what ROUND left in the low bits.
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(44 + 127) << 23);
    (f64::from(p * scale) + ROUND_F64).to_bits() & ((1 << 52) - 1)
}

/// Writes the masses of `scores` at `temperature` and returns their sum.
pub fn fill_masses(scores: &[f32], max: f32, temperature: f32, masses: &mut Vec<u64>) -> u64 {
    masses.resize(scores.len(), 0);
    let mut total = 0u64;
    for (out, score) in masses.iter_mut().zip(scores) {
        *out = mass((score - max) / temperature);
        // Cannot wrap below VOCAB_SIZE_MAX; checked additions would not vectorise.
        total = total.wrapping_add(*out);
    }
    total
}

/// The sum of the masses of `logits` at temperature 1.
pub fn total_mass(logits: &[f32], max: f32) -> u64 {
    logits.iter().fold(0u64, |total, logit| total.wrapping_add(mass(logit - max)))
}

/// A key that orders as the floats do; equal floats (also 0 and -0) have equal keys. Not for NaN.
#[inline(always)]
pub fn order_key(x: f32) -> u32 {
    // Adding +0 turns -0 into +0.
    let bits = (x + 0.0).to_bits();
    bits ^ (((bits as i32) >> 31) as u32 | 0x8000_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_are_within_their_error_bound() {
        assert_eq!(mass(0.0), MASS_ONE);
        assert_eq!(mass(-0.0), MASS_ONE);
        assert_eq!(mass(f32::NEG_INFINITY), 0);
        assert_eq!(mass(f32::NAN), 0);
        assert_eq!(mass(-1e-30), MASS_ONE);
        let mut worst = 0f64;
        for i in 0..=4_000_000u32 {
            let x = -(i as f32) * 8.1e-6;
            let exact = f64::from(x).exp() * MASS_ONE as f64;
            let error = (mass(x) as f64 - exact).abs();
            assert!(error <= 0.5 + exact * 2f64.powi(-22), "{x}: {} for {exact}", mass(x));
            worst = worst.max((error - 0.5) / exact);
        }
        assert!(worst > 2f64.powi(-26), "the bound is not vacuous: {worst}");
    }

    #[test]
    fn no_mass_is_above_one() {
        for bits in (-0.0f32).to_bits()..(-0.0f32).to_bits() + 3_000_000 {
            assert!(mass(f32::from_bits(bits)) <= MASS_ONE);
        }
        for i in 0..3_000_000 {
            assert!(mass(f32::from_bits((-1e-9f32).to_bits() + i * 97)) <= MASS_ONE);
        }
    }

    #[test]
    fn sums_are_those_of_the_parts() {
        let scores: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let mut masses = Vec::new();
        let total = fill_masses(&scores, 9.0, 0.7, &mut masses);
        assert_eq!(total, masses.iter().sum::<u64>());
        assert!(masses.iter().zip(&scores).all(|(m, s)| *m == mass((s - 9.0) / 0.7)));
        assert_eq!(total_mass(&scores, 9.0), scores.iter().map(|s| mass(s - 9.0)).sum::<u64>());
        // The largest vocabulary at its largest sum still fits.
        assert!(u64::from(VOCAB_SIZE_MAX).checked_mul(MASS_ONE).is_some());
    }

    #[test]
    fn keys_sort_like_floats() {
        let sorted = [f32::NEG_INFINITY, -1e30, -1.0, -1e-40, 0.0, 1e-40, 0.5, 1.0, 1e30, f32::INFINITY];
        assert!(sorted.windows(2).all(|w| order_key(w[0]) < order_key(w[1])));
        assert_eq!(order_key(-0.0), order_key(0.0));
    }
}
