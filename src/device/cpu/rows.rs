//! What happens to single rows between projections: add and norm, RoPE, gating. Memory-resident, a few passes each.
// SAFETY, for this file: kernels are `unsafe fn`s whose callers vouch for the pointers (they come from `prepare`'s buffers and
// `plan`'s offsets) and for the instruction set (`IsaPath::available`). Blocks inside only pass that on.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::eq_op)] // x - x is NaN where x is not finite.

use crate::model::Activation;

use super::simd::{Isa, LANES};

/// One row's `AddNorm`. All rows are padded to lanes, with zeros in the padding.
#[derive(Debug)]
pub struct AddNorm<'a> {
    pub residual: &'a mut [f32],
    /// Added to the residual first, after its own norm if there is one. It is left normalised.
    pub delta: Option<&'a mut [f32]>,
    pub post_norm: Option<&'a [f32]>,
    pub norm: &'a [f32],
    pub norm_eps: f32,
    /// Elements before the padding.
    pub len: usize,
    pub out: &'a mut [f32],
}

/// `residual += delta; out = rmsnorm(residual) * norm`.
#[inline(always)]
pub unsafe fn add_norm<I: Isa>(row: &mut AddNorm<'_>) {
    unsafe {
        let padded = row.residual.len();
        debug_assert!(padded.is_multiple_of(LANES) && row.out.len() >= padded && row.norm.len() == padded);
        if let Some(delta) = &mut row.delta {
            if let Some(weights) = row.post_norm {
                let scale = rms_scale::<I>(delta, row.len, row.norm_eps);
                for (x, w) in delta.iter_mut().zip(weights) {
                    *x = *x * scale * w;
                }
            }
            for (r, d) in row.residual.iter_mut().zip(delta.iter()) {
                *r += d;
            }
        }
        let scale = rms_scale::<I>(row.residual, row.len, row.norm_eps);
        for ((out, x), w) in row.out.iter_mut().zip(row.residual.iter()).zip(row.norm) {
            *out = x * scale * w;
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`: 16 running sums, then the lanes' tree.
#[inline(always)]
pub unsafe fn rms_scale<I: Isa>(x: &[f32], len: usize, eps: f32) -> f32 {
    unsafe {
        let mut sums = I::zero();
        for chunk in x.chunks_exact(LANES) {
            let v = I::load(chunk.as_ptr());
            sums = I::fma(v, v, sums);
        }
        let squares = I::sum(sums);
        // One that is not finite would make a row of zeros: its scale is NaN.
        1.0 / (squares / len as f32 + eps).sqrt() + (squares - squares)
    }
}

/// One head after its projection, dimensions in the device's order (`super::plan`), padded to lanes with zeros.
#[derive(Debug)]
pub struct HeadRow<'a> {
    pub x: &'a mut [f32],
    pub bias: Option<&'a [f32]>,
    pub norm: Option<&'a [f32]>,
    pub norm_eps: f32,
    pub head_dim: usize,
    /// Cosines and sines of the row's position; empty for values.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// Bias → norm → RoPE on halves.
#[inline(always)]
pub unsafe fn finish_head<I: Isa>(row: &mut HeadRow<'_>) {
    unsafe {
        if let Some(bias) = row.bias {
            for (x, b) in row.x.iter_mut().zip(bias) {
                *x += b;
            }
        }
        if let Some(weights) = row.norm {
            let scale = rms_scale::<I>(row.x, row.head_dim, row.norm_eps);
            for (x, w) in row.x.iter_mut().zip(weights) {
                *x = *x * scale * w;
            }
        }
        let half = row.cos.len();
        let (a, b) = row.x[..].split_at_mut(half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(row.cos).zip(row.sin) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = x * sin + y * cos;
        }
    }
}

/// `out = activation(gate) * up` over whole vectors.
#[inline(always)]
pub unsafe fn gate<I: Isa>(activation: Activation, gate: *const f32, up: *const f32, out: *mut f32) {
    unsafe {
        let g = I::load(gate);
        let activated = match activation {
            Activation::Silu => sigmoid_times::<I>(g, g),
            Activation::GeluTanh => {
                // 0.5·(1 + tanh u) = sigmoid(2u), u = sqrt(2/π)·(g + 0.044715·g³).
                let cubic = I::fma(I::mul(I::mul(g, g), I::splat(0.044_715)), g, g);
                sigmoid_times::<I>(g, I::mul(cubic, I::splat(1.595_769)))
            }
        };
        I::store(out, I::mul(activated, I::load(up)));
    }
}

/// `x / (1 + e^-y)`.
#[inline(always)]
unsafe fn sigmoid_times<I: Isa>(x: I::F, y: I::F) -> I::F {
    unsafe {
        // 2^127 stands for everything larger: x / 2^127 is 0 or NaN where it should be.
        let exponent = I::mul(y, I::splat(-std::f32::consts::LOG2_E));
        let capped = I::sub(I::zero(), I::max(I::sub(I::zero(), exponent), I::splat(-127.0)));
        let quotient = I::div(x, I::add(I::splat(1.0), I::exp2(capped)));
        // That is no stand-in for -x of 2^64 and more, where the quotient is 0; and of infinity nothing finite comes.
        let quotient = I::zero_below_min(I::mul(x, I::splat(f32::from_bits((127 - 57) << 23))), quotient);
        I::mul(quotient, I::add(I::splat(1.0), I::sub(x, x)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::IsaPath;
    use super::*;

    #[test]
    fn gates_of_any_size_are_what_they_are_in_f64() {
        let gates =
            [-3e38f32, -1e37, -1e30, -2e19, -1e19, -1e6, -90.0, -88.0, -1.0, -0.0, 0.0, 2.0, 88.0, 1e6, 1e30, 3e38];
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for path in IsaPath::available() {
                let (up, mut out) = ([1f32; LANES], [0f32; LANES]);
                let run = |gates: &[f32; LANES], out: &mut [f32; LANES]| {
                    // SAFETY: sixteen lanes each, on a path that this machine has.
                    unsafe { (path.kernels().gate)(activation, gates.as_ptr(), up.as_ptr(), out.as_mut_ptr()) }
                };
                run(&gates, &mut out);
                for (gate, found) in gates.into_iter().zip(out) {
                    let x = f64::from(gate);
                    let exact = match activation {
                        Activation::Silu => x / (1.0 + (-x).exp()),
                        Activation::GeluTanh => {
                            x / (1.0 + (-1.595_769_121_605_731 * (x + 0.044_715 * x.powi(3))).exp())
                        }
                    };
                    // Weights of the sigmoid end at 2^-127; what is below is nothing beside any other gate.
                    let error = (f64::from(found) - exact).abs();
                    assert!(error <= 2e-6 * exact.abs() + 1e-18, "{} {activation:?} {gate:e}: {found:e}", path.name());
                }
                run(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY].repeat(6)[..LANES].try_into().unwrap(), &mut out);
                assert!(out.iter().all(|x| !x.is_finite()), "{} {activation:?}: {out:?}", path.name());
            }
        }
    }
}
