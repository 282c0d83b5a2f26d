//! What happens to single rows between projections. Everything is computed in f64 and rounded to f32 once.

use crate::model::{Activation, RopePairing, RopeTable};

/// `x / sqrt(mean(x²) + eps) * weight`, in place. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization".
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
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
