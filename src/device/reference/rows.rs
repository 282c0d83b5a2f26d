//! What happens to single rows between projections. Everything is computed in f64 and rounded to f32 once.

use crate::model::{Activation, RopePairing, RopeTable};

/// `x / sqrt(mean(x²) + eps) * weight`, in place. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization".
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    // Elsewhere the sum is f32. One that is not finite there would make a row of zeros: its scale is NaN.
    let squares = if squares <= f64::from(f32::MAX) { squares } else { f64::NAN };
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = (f64::from(*x) * scale * f64::from(*weight)) as f32;
    }
}

/// Turns one head's pairs by the angles of `position`. Source: Su et al., "RoFormer".
pub fn rotate(head: &mut [f32], table: &RopeTable, position: u32) {
    let pairs = table.inv_freq.len();
    for (i, inv_freq) in table.inv_freq.iter().enumerate() {
        let (first, second) = match table.pairing {
            RopePairing::Adjacent => (2 * i, 2 * i + 1),
            RopePairing::Halves => (i, i + pairs),
        };
        let (sin, cos) = (f64::from(position) * inv_freq).sin_cos();
        let (x, y) = (f64::from(head[first]), f64::from(head[second]));
        let magnitude = f64::from(table.magnitude);
        head[first] = (magnitude * (x * cos - y * sin)) as f32;
        head[second] = (magnitude * (x * sin + y * cos)) as f32;
    }
}

/// `activation(gate) * up`.
pub fn gated(activation: Activation, gate: f32, up: f32) -> f32 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    let activated = match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh())
        }
    };
    (activated * up) as f32
}

/// Softmax-weighted sum of `values` by `scores`, both over the keys that the query sees.
pub fn softmax_sum<'a>(scores: &[f64], values: impl Iterator<Item = &'a [f32]>, head_dim: usize) -> Vec<f32> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; head_dim];
    for (weight, value) in weights.iter().zip(values) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * f64::from(*value));
    }
    out.iter().map(|out| (out / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from NumPy in f64: `x / (1 + exp(-x))`, `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    #[test]
    fn activations_have_their_published_values() {
        let cases = [
            (Activation::Silu, 1.0, 0.731_058_6),
            (Activation::Silu, -2.0, -0.238_405_84),
            (Activation::Silu, -200.0, 0.0),
            (Activation::GeluTanh, 1.0, 0.841_192),
            (Activation::GeluTanh, -2.0, -0.045_402_306),
            (Activation::GeluTanh, 0.0, 0.0),
        ];
        for (activation, gate, expected) in cases {
            let found = gated(activation, gate, 2.0) / 2.0;
            assert!((found - expected).abs() <= 1e-7, "{activation:?} {gate}: {found}, expected {expected}");
        }
        assert!(gated(Activation::Silu, f32::NAN, 1.0).is_nan());
    }

    #[test]
    fn pairings_turn_the_pairs_they_name() {
        let inv_freq = vec![std::f64::consts::FRAC_PI_2, std::f64::consts::PI];
        for (pairing, expected) in
            [(RopePairing::Adjacent, [-2.0, 1.0, -3.0, -4.0, 5.0]), (RopePairing::Halves, [-3.0, -2.0, 1.0, -4.0, 5.0])]
        {
            let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
            rotate(&mut head, &RopeTable { pairing, inv_freq: inv_freq.clone(), magnitude: 1.0 }, 1);
            for (found, expected) in head.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-6, "{pairing:?}: {head:?}");
            }
        }
    }

    #[test]
    fn norms_divide_by_the_root_mean_square() {
        let mut x = [3.0, -4.0, 0.0, 0.0];
        rms_norm(&mut x, &[1.0, 2.0, 1.0, 1.0], 0.0);
        assert_eq!(x, [1.2, -3.2, 0.0, 0.0]);
    }
}
