//! Approximate instructions: computed in f64, rounded once, and on request moved inside the error that the PTX ISA allows.

use half::{bf16, f16};

use super::rounding::flush;
use super::{Lane, Lanes, WARP};

/// An approximate instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approx {
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    Rcp,
    Rsqrt,
    Sqrt,
    Div,
}

/// The operand type of an approximate instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApproxType {
    F32,
    F64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
}

/// An approximate instruction with its type and mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApproxOp {
    pub op: Approx,
    pub ty: ApproxType,
    pub ftz: bool,
}

impl Approx {
    fn exact(self, a: f64, b: f64) -> f64 {
        match self {
            Approx::Ex2 => a.exp2(),
            Approx::Lg2 => a.log2(),
            Approx::Sin => a.sin(),
            Approx::Cos => a.cos(),
            Approx::Tanh => a.tanh(),
            Approx::Rcp => 1.0 / a,
            Approx::Rsqrt => 1.0 / a.sqrt(),
            Approx::Sqrt => a.sqrt(),
            Approx::Div => a / b,
        }
    }

    /// The relative error that the PTX ISA documents for f32 (for sin, cos and lg2 the absolute error near zero).
    fn relative_error(self) -> f64 {
        match self {
            Approx::Ex2 | Approx::Lg2 => 2f64.powi(-22),
            Approx::Sin | Approx::Cos => 2f64.powf(-20.5),
            Approx::Tanh => 2f64.powi(-11),
            Approx::Rsqrt => 2f64.powf(-22.9),
            Approx::Rcp | Approx::Sqrt => 2f64.powi(-23),
            Approx::Div => 2f64.powi(-22),
        }
    }
}

impl ApproxOp {
    /// Runs the instruction on a warp. `noise` is a seed for the perturbation, or none.
    pub fn run(self, d: &mut Lanes, a: &Lanes, b: &Lanes, noise: Option<u64>) {
        for i in 0..WARP {
            d[i] = self.lane(a[i], b[i], noise);
        }
    }

    fn lane(self, a: u64, b: u64, noise: Option<u64>) -> u64 {
        let wiggle = |x: f64, a: u64| match noise {
            // Powers of two with whole exponents are exact: the vendor's own library builds on it.
            Some(_) if self.op == Approx::Ex2 && f64::from(x as f32) == x => x,
            Some(seed) => x * (1.0 + self.op.relative_error() * (unit(seed ^ a) * 2.0 - 1.0)),
            None => x,
        };
        match self.ty {
            ApproxType::F32 => {
                let (x, y) = (f32::get(a), f32::get(b));
                let (x, y) = if self.ftz { (flush(x), flush(y)) } else { (x, y) };
                let out = wiggle(self.op.exact(x.into(), y.into()), a) as f32;
                (if self.ftz { flush(out) } else { out }).put()
            }
            // A gross approximation: of the operand and of the result only the upper half counts.
            ApproxType::F64 if self.ftz => {
                let upper = |bits: u64| if bits >> 52 & 0x7ff == 0 { bits & 1 << 63 } else { bits >> 32 << 32 };
                upper(wiggle(self.op.exact(f64::get(upper(a)), 1.0), a).put())
            }
            ApproxType::F64 => self.op.exact(f64::get(a), f64::get(b)).put(),
            ApproxType::F16 => self.half(a),
            ApproxType::Bf16 => self.brain(a),
            ApproxType::F16x2 => self.half(a & 0xffff) | self.half(a >> 16 & 0xffff) << 16,
            ApproxType::Bf16x2 => self.brain(a & 0xffff) | self.brain(a >> 16 & 0xffff) << 16,
        }
    }

    fn half(self, a: u64) -> u64 {
        f16::from_f64(self.op.exact(f16::get(a).to_f64(), 1.0)).put()
    }

    fn brain(self, a: u64) -> u64 {
        bf16::from_f64(self.op.exact(bf16::get(a).to_f64(), 1.0)).put()
    }
}

/// A number in 0..1 that depends on nothing but `seed` (SplitMix64).
fn unit(seed: u64) -> f64 {
    (crate::rng::mix(seed) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: Approx, ty: ApproxType, ftz: bool, a: u64, seed: u64) -> u64 {
        ApproxOp { op, ty, ftz }.lane(a, a, Some(seed))
    }

    #[test]
    fn perturbed_results_stay_within_their_error_and_whole_powers_are_exact() {
        for seed in 0..200 {
            for n in -126..128 {
                let power = run(Approx::Ex2, ApproxType::F32, true, (n as f32).put(), seed);
                assert_eq!(f32::get(power), 2f32.powi(n));
            }
            let x = 1.0 + unit(seed) as f32;
            let got = f64::from(f32::get(run(Approx::Rsqrt, ApproxType::F32, false, x.put(), seed)));
            let exact = 1.0 / f64::from(x).sqrt();
            assert!((got / exact - 1.0).abs() <= 2f64.powf(-22.9) + 2f64.powi(-24), "{x}: {got}");
        }
    }

    #[test]
    fn gross_approximations_have_twenty_bits() {
        for seed in 0..200 {
            let x = 1.0 + 7.0 * unit(seed);
            let bits = run(Approx::Rcp, ApproxType::F64, true, x.put(), seed);
            assert_eq!(bits & 0xffff_ffff, 0);
            assert!((f64::get(bits) * x - 1.0).abs() < 2f64.powi(-18), "{x}");
        }
        assert_eq!(f64::get(run(Approx::Rcp, ApproxType::F64, true, 1e-310f64.put(), 0)), f64::INFINITY);
    }
}
