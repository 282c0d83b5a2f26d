//! Directed rounding from round-to-nearest plus the sign of the exact error.

/// PTX rounding of a floating-point result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Round {
    /// `.rn`: nearest, ties to even.
    #[default]
    Nearest,
    /// `.rz`
    Zero,
    /// `.rm`: towards minus infinity.
    Down,
    /// `.rp`: towards plus infinity.
    Up,
}

macro_rules! step {
    ($name:ident, $t:ty) => {
        /// Moves `nearest`, the round-to-nearest result, to the directed result, given the sign of `exact - nearest`.
        pub fn $name(nearest: $t, error: f64, round: Round) -> $t {
            if nearest.is_nan() || error == 0.0 || error.is_nan() {
                return nearest;
            }
            let above = error < 0.0;
            match round {
                Round::Nearest => nearest,
                Round::Down if above => nearest.next_down(),
                Round::Up if !above => nearest.next_up(),
                Round::Zero if above && nearest > 0.0 => nearest.next_down(),
                Round::Zero if !above && nearest < 0.0 => nearest.next_up(),
                _ => nearest,
            }
        }
    };
}
step!(step_f32, f32);
step!(step_f64, f64);

/// `a + b` as a rounded sum and its exact error (Knuth's TwoSum).
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let bb = sum - a;
    (sum, (a - (sum - bb)) + (b - bb))
}

/// Rounds the exact value `high + low` (`|low|` at most half an ulp of `high`) to f32.
pub fn narrow_pair(high: f64, low: f64, round: Round) -> f32 {
    // Round to odd first: a sticky last bit makes the second rounding see everything that the first dropped.
    let odd = if low != 0.0 && low.is_finite() && high.to_bits() & 1 == 0 {
        if (low > 0.0) == (high > 0.0) {
            f64::from_bits(high.to_bits() + 1)
        } else {
            f64::from_bits((high.to_bits() - 1) | 1)
        }
    } else {
        high
    };
    narrow(odd, round)
}

/// Rounds an f64 to f32.
pub fn narrow(exact: f64, round: Round) -> f32 {
    let nearest = exact as f32;
    if nearest.is_infinite() && exact.is_finite() {
        let towards_zero = matches!(round, Round::Zero)
            || matches!(round, Round::Down) && exact > 0.0
            || matches!(round, Round::Up) && exact < 0.0;
        return if towards_zero { f32::MAX.copysign(nearest) } else { nearest };
    }
    step_f32(nearest, exact - f64::from(nearest), round)
}

/// `a + b`.
pub fn add_f32(a: f32, b: f32, round: Round) -> f32 {
    let (high, low) = two_sum(a.into(), b.into());
    if high == 0.0 && low == 0.0 {
        return exact_zero_sum(a, b, round);
    }
    narrow_pair(high, low, round)
}

/// `a * b + c`.
pub fn fma_f32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let (high, low) = two_sum(product, c.into());
    if !high.is_finite() {
        return high as f32;
    }
    if high == 0.0 && low == 0.0 {
        return exact_zero_sum(product as f32, c, round);
    }
    narrow_pair(high, low, round)
}

fn exact_zero_sum(a: f32, b: f32, round: Round) -> f32 {
    if a.is_sign_negative() && b.is_sign_negative()
        || round == Round::Down && a.is_sign_negative() != b.is_sign_negative()
    {
        -0.0
    } else {
        0.0
    }
}

/// `a / b`.
pub fn div_f32(a: f32, b: f32, round: Round) -> f32 {
    let quotient = f64::from(a) / f64::from(b);
    if !quotient.is_finite() || quotient == 0.0 {
        return quotient as f32;
    }
    let remainder = (-quotient).mul_add(f64::from(b), f64::from(a));
    narrow_pair(quotient, if b < 0.0 { -remainder } else { remainder }, round)
}

/// The square root.
pub fn sqrt_f32(a: f32, round: Round) -> f32 {
    let root = f64::from(a).sqrt();
    if !root.is_finite() || root == 0.0 {
        return root as f32;
    }
    narrow_pair(root, (-root).mul_add(root, a.into()), round)
}

/// `a + b` in f64.
pub fn add_f64(a: f64, b: f64, round: Round) -> f64 {
    let (sum, error) = two_sum(a, b);
    if sum == 0.0 && a != 0.0 && round == Round::Down { -0.0 } else { step_f64(sum, error, round) }
}

/// `a * b` in f64.
pub fn mul_f64(a: f64, b: f64, round: Round) -> f64 {
    let product = a * b;
    step_f64(product, a.mul_add(b, -product), round)
}

/// `a / b` in f64.
pub fn div_f64(a: f64, b: f64, round: Round) -> f64 {
    let quotient = a / b;
    let remainder = (-quotient).mul_add(b, a);
    step_f64(quotient, if b < 0.0 { -remainder } else { remainder }, round)
}

/// The square root in f64.
pub fn sqrt_f64(a: f64, round: Round) -> f64 {
    let root = a.sqrt();
    step_f64(root, (-root).mul_add(root, a), round)
}

/// Subnormal inputs and results become zero of the same sign (`.ftz`).
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Clamps to 0..=1, NaN to 0 (`.sat`).
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nearest rounding through the directed path equals the host's own arithmetic, and directed results bracket it.
        #[test]
        fn directed_results_bracket_the_nearest(a: u32, b: u32, c: u32) {
            let (a, b, c) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            let cases: [(&dyn Fn(Round) -> f32, f32); 4] = [
                (&|r| add_f32(a, b, r), a + b),
                (&|r| fma_f32(a, b, c, r), a.mul_add(b, c)),
                (&|r| div_f32(a, b, r), a / b),
                (&|r| sqrt_f32(a, r), a.sqrt()),
            ];
            for (f, host) in cases {
                let nearest = f(Round::Nearest);
                prop_assert!(nearest == host || nearest.is_nan() && host.is_nan(), "{nearest} {host}");
                if !host.is_nan() {
                    let (down, up, zero) = (f(Round::Down), f(Round::Up), f(Round::Zero));
                    prop_assert!(down <= host && host <= up);
                    prop_assert!(up == down || up == down.next_up());
                    let towards_zero = if down.abs() <= up.abs() { down } else { up };
                    prop_assert!(zero == towards_zero);
                }
            }
        }

        #[test]
        fn doubles_bracket_the_nearest(a in -1e9f64..1e9, b in -1e9f64..1e9) {
            for f in [add_f64, mul_f64, div_f64] {
                let (down, near, up) = (f(a, b, Round::Down), f(a, b, Round::Nearest), f(a, b, Round::Up));
                prop_assert!(down <= near && near <= up);
                prop_assert!(up == down || up == down.next_up());
            }
        }
    }
}
