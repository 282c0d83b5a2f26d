//! cvt: every conversion through one exact path (integer significands, one rounding), and fast functions for the
//! common ones, which tests hold against the exact path.

use half::{bf16, f16};

use super::{LaneFn, Lanes, NAN_F32, WARP, lanes};

/// A number format that cvt reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Unsigned(u32),
    Signed(u32),
    F16,
    Bf16,
    F32,
    F64,
    Tf32,
    E4m3,
    E5m2,
}

impl Number {
    /// From a PTX type name without the pair suffix.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "u8" | "b8" => Number::Unsigned(8),
            "u16" | "b16" => Number::Unsigned(16),
            "u32" | "b32" => Number::Unsigned(32),
            "u64" | "b64" => Number::Unsigned(64),
            "s8" => Number::Signed(8),
            "s16" => Number::Signed(16),
            "s32" => Number::Signed(32),
            "s64" => Number::Signed(64),
            "f16" => Number::F16,
            "bf16" => Number::Bf16,
            "f32" => Number::F32,
            "f64" => Number::F64,
            "tf32" => Number::Tf32,
            "e4m3" => Number::E4m3,
            "e5m2" => Number::E5m2,
            _ => return None,
        })
    }

    pub fn is_float(self) -> bool {
        !matches!(self, Number::Unsigned(_) | Number::Signed(_))
    }

    /// Exponent bits, significand bits, and the code of the largest finite value.
    fn layout(self) -> (u32, u32, u64) {
        match self {
            Number::F16 => (5, 10, 0x7bff),
            Number::Bf16 => (8, 7, 0x7f7f),
            Number::F32 => (8, 23, 0x7f7f_ffff),
            Number::F64 => (11, 52, 0x7fef_ffff_ffff_ffff),
            Number::Tf32 => (8, 10, 0x3fbff),
            Number::E4m3 => (4, 3, 0x7e),
            Number::E5m2 => (5, 2, 0x7b),
            Number::Unsigned(_) | Number::Signed(_) => panic!("{self:?} has no exponent"),
        }
    }

    fn nan(self) -> u64 {
        match self {
            Number::F16 | Number::Bf16 => 0x7fff,
            Number::F32 | Number::Tf32 => NAN_F32.into(),
            Number::F64 => 0x7fff_ffff_ffff_ffff,
            Number::E4m3 | Number::E5m2 => 0x7f,
            Number::Unsigned(_) | Number::Signed(_) => 0,
        }
    }
}

/// Rounding of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CvtRound {
    NearestEven,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// One conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    pub to: Number,
    pub from: Number,
    pub round: CvtRound,
    /// `.rni`, `.rzi`, `.rmi`, `.rpi`: to an integer, also between floats.
    pub integral: bool,
    pub ftz: bool,
    /// `.sat`: floats to 0..=1, integers to the target's range.
    pub sat: bool,
    /// `.satfinite`: overflow becomes the largest finite value.
    pub satfinite: bool,
    pub relu: bool,
}

/// A value taken apart: `(-1)^negative * significand * 2^exponent`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, significand: u128, exponent: i32 },
}

impl Conversion {
    /// Converts a warp's lanes.
    pub fn run(&self, d: &mut Lanes, a: &Lanes) {
        for i in 0..WARP {
            d[i] = self.lane(a[i]);
        }
    }

    /// Converts one lane, exactly.
    pub fn lane(&self, lane: u64) -> u64 {
        let mut value = decode(self.from, lane);
        if self.ftz && self.from == Number::F32 {
            value = flush(value);
        }
        if self.integral {
            value = to_integral(value, self.round);
        }
        match self.to {
            Number::Unsigned(bits) => self.integer(value, 0, (1i128 << bits) - 1, bits),
            Number::Signed(bits) => self.integer(value, -(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1, bits),
            to => self.float(value, to),
        }
    }

    fn integer(&self, value: Value, low: i128, high: i128, bits: u32) -> u64 {
        let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
        let integer = match to_integral(value, self.round) {
            Value::Nan => {
                // PTX ISA, cvt: zero, unless f64 or a 64-bit integer takes part.
                match (self.from == Number::F64 || bits == 64, low) {
                    (false, _) => 0,
                    (true, 0) => 1 << (bits - 1),
                    (true, low) => low,
                }
            }
            Value::Infinite { negative } => {
                if negative {
                    low
                } else {
                    high
                }
            }
            Value::Finite { negative, significand, exponent } => {
                let magnitude = if exponent > 64 { i128::MAX } else { (significand << exponent) as i128 };
                if negative { -magnitude } else { magnitude }
            }
        };
        let integer = if self.from.is_float() || self.sat { integer.clamp(low, high) } else { integer };
        match self.to {
            // A wider register is filled with the sign (PTX ISA, "Operand Size Exceeding Instruction-Type Size").
            Number::Signed(8 | 16) => {
                let unused = 32 - bits;
                u64::from(((integer as i32) << unused >> unused) as u32)
            }
            _ => integer as u64 & mask,
        }
    }

    fn float(&self, value: Value, to: Number) -> u64 {
        let (_, fraction, max) = to.layout();
        let exponent_bits = to.layout().0;
        let sign_shift = exponent_bits + fraction;
        let (negative, code) = match value {
            Value::Nan if self.sat => (false, 0),
            Value::Nan => return to.nan(),
            Value::Infinite { negative } if self.satfinite => (negative, max),
            Value::Infinite { negative } if to == Number::E4m3 => return to.nan() | u64::from(negative) << 7,
            Value::Infinite { negative } => (negative, max + 1),
            Value::Finite { negative, significand, exponent } => {
                let code = encode(to, negative, significand, exponent, self.round);
                let over = code > max;
                (
                    negative,
                    match (over, self.satfinite, to) {
                        (true, true, _) => max,
                        (true, false, Number::E4m3) => 0x7f,
                        _ => code,
                    },
                )
            }
        };
        let mut bits = code | u64::from(negative) << sign_shift;
        if self.relu && negative {
            bits = 0;
        }
        if self.sat {
            let one = u64::from((1u32 << (exponent_bits - 1)) - 1) << fraction;
            bits = if negative { 0 } else { code.min(one) };
        }
        match to {
            Number::F32 if self.ftz && code < 1 << fraction => bits & 0x8000_0000,
            Number::Tf32 => bits << 13,
            _ => bits,
        }
    }
}

fn decode(from: Number, lane: u64) -> Value {
    match from {
        Number::Unsigned(bits) => {
            let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
            Value::Finite { negative: false, significand: u128::from(lane & mask), exponent: 0 }
        }
        Number::Signed(bits) => {
            let value = (lane << (64 - bits)) as i64 >> (64 - bits);
            Value::Finite { negative: value < 0, significand: value.unsigned_abs().into(), exponent: 0 }
        }
        Number::Tf32 => decode(Number::F32, lane),
        _ => decode_float(from, lane),
    }
}

fn decode_float(from: Number, lane: u64) -> Value {
    let (exponent_bits, fraction_bits, max) = from.layout();
    let negative = lane >> (exponent_bits + fraction_bits) & 1 != 0;
    let code = lane & ((1 << (exponent_bits + fraction_bits)) - 1);
    if code > max {
        let infinite = from != Number::E4m3 && code == max + 1;
        return if infinite { Value::Infinite { negative } } else { Value::Nan };
    }
    let (fraction, field) = (code & ((1 << fraction_bits) - 1), (code >> fraction_bits) as i32);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let significand = u128::from(if field == 0 { fraction } else { fraction | 1 << fraction_bits });
    Value::Finite { negative, significand, exponent: field.max(1) - bias - fraction_bits as i32 }
}

fn flush(value: Value) -> Value {
    match value {
        Value::Finite { negative, significand, .. } if significand < 1 << 23 => {
            Value::Finite { negative, significand: 0, exponent: 0 }
        }
        other => other,
    }
}

/// Shifts right with rounding.
fn shift_rounded(significand: u128, shift: u32, negative: bool, round: CvtRound) -> u128 {
    if shift == 0 {
        return significand;
    }
    let (kept, rest, half) = match shift {
        1..128 => (significand >> shift, significand & ((1 << shift) - 1), 1u128 << (shift - 1)),
        _ => (0, significand.min(1), 2),
    };
    let up = match round {
        CvtRound::NearestEven => rest > half || rest == half && kept & 1 != 0,
        CvtRound::NearestAway => rest >= half,
        CvtRound::Zero => false,
        CvtRound::Down => negative && rest != 0,
        CvtRound::Up => !negative && rest != 0,
    };
    kept + u128::from(up)
}

fn to_integral(value: Value, round: CvtRound) -> Value {
    match value {
        Value::Finite { negative, significand, exponent } if exponent < 0 => {
            let significand = shift_rounded(significand, exponent.unsigned_abs(), negative, round);
            Value::Finite { negative, significand, exponent: 0 }
        }
        other => other,
    }
}

/// The code (without sign) of a finite value in format `to`; above the largest finite code on overflow.
fn encode(to: Number, negative: bool, significand: u128, exponent: i32, round: CvtRound) -> u64 {
    let (exponent_bits, fraction_bits, max) = to.layout();
    if significand == 0 {
        return 0;
    }
    let bias = (1i32 << (exponent_bits - 1)) - 1;
    let top = 127 - significand.leading_zeros() as i32 + exponent;
    let smallest = 1 - bias;
    let field = (top - smallest + 1).max(0);
    let quantum = top.max(smallest) - fraction_bits as i32;
    let kept = if quantum > exponent {
        shift_rounded(significand, (quantum - exponent) as u32, negative, round)
    } else {
        significand << (exponent - quantum)
    };
    // A carry out of the fraction runs into the exponent field, which is just what the format wants.
    let code = if field == 0 { kept as u64 } else { ((field as u64 - 1) << fraction_bits) + kept as u64 };
    if code <= max {
        return code;
    }
    let to_max = match round {
        CvtRound::Zero => true,
        CvtRound::Down => !negative,
        CvtRound::Up => negative,
        CvtRound::NearestEven | CvtRound::NearestAway => false,
    };
    if to_max { max } else { max + 1 }
}

/// A direct function for the conversions that kernels run most.
pub fn find_fast(c: &Conversion) -> Option<LaneFn> {
    use Number::{Bf16, F16, F32, Signed, Unsigned};
    if c.sat || c.satfinite || c.relu || c.ftz {
        return None;
    }
    let nearest = c.round == CvtRound::NearestEven && !c.integral;
    Some(match (c.to, c.from) {
        (Unsigned(64) | Signed(64), Unsigned(32)) => lanes!(|a: u32| a),
        (Unsigned(64) | Signed(64), Signed(32)) => lanes!(|a: i32| i64::from(a)),
        (Unsigned(32) | Signed(32), Unsigned(_) | Signed(64) | Signed(32)) => match c.from {
            Unsigned(8) => lanes!(|a: u8| a),
            Unsigned(16) => lanes!(|a: u16| a),
            _ => lanes!(|a: u32| a),
        },
        (Unsigned(32) | Signed(32), Signed(16)) => lanes!(|a: i16| i32::from(a)),
        (Unsigned(32) | Signed(32), Signed(8)) => lanes!(|a: i8| i32::from(a)),
        (Unsigned(16), Unsigned(32) | Signed(32) | Unsigned(64) | Signed(64)) => lanes!(|a: u16| a),
        (Signed(16), Unsigned(32) | Signed(32) | Unsigned(64) | Signed(64)) => lanes!(|a: i16| i32::from(a)),
        (F32, F16) => lanes!(|a: f16| a.to_f32()),
        (F32, Bf16) => lanes!(|a: bf16| a.to_f32()),
        (F16, F32) if nearest => lanes!(|a: f32| f16::from_f32(a)),
        (Bf16, F32) if nearest => lanes!(|a: f32| bf16::from_f32(a)),
        (F32, Signed(32)) if nearest => lanes!(|a: i32| a as f32),
        (F32, Unsigned(32)) if nearest => lanes!(|a: u32| a as f32),
        (Signed(32), F32) if c.round == CvtRound::Zero => lanes!(|a: f32| a as i32),
        (Unsigned(32), F32) if c.round == CvtRound::Zero => lanes!(|a: f32| a as u32),
        (Number::F64, F32) => lanes!(|a: f32| f64::from(a)),
        (F32, Number::F64) if nearest => lanes!(|a: f64| a as f32),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Lane, apply};
    use super::*;
    use proptest::prelude::*;

    const ALL: [Number; 12] = [
        Number::Unsigned(8),
        Number::Unsigned(16),
        Number::Unsigned(32),
        Number::Unsigned(64),
        Number::Signed(8),
        Number::Signed(16),
        Number::Signed(32),
        Number::Signed(64),
        Number::F16,
        Number::Bf16,
        Number::F32,
        Number::F64,
    ];

    fn plain(to: Number, from: Number, round: CvtRound, integral: bool) -> Conversion {
        Conversion { to, from, round, integral, ftz: false, sat: false, satfinite: false, relu: false }
    }

    fn significant(from: Number, bits: u64) -> u64 {
        match from {
            Number::Unsigned(n) | Number::Signed(n) if n < 64 => bits & ((1 << n) - 1),
            Number::F16 | Number::Bf16 => bits & 0xffff,
            Number::F32 => bits & 0xffff_ffff,
            _ => bits,
        }
    }

    proptest! {
        #[test]
        fn fast_conversions_equal_the_exact_path(bits: u64, to in 0usize..12, from in 0usize..12, r in 0usize..4) {
            let round = [CvtRound::NearestEven, CvtRound::Zero, CvtRound::Down, CvtRound::Up][r];
            let c = plain(ALL[to], ALL[from], round, false);
            if let Some(f) = find_fast(&c) {
                let a = significant(c.from, bits);
                prop_assert_eq!(apply(f, a, 0, 0), c.lane(a), "{:?} of {:#x}", c, a);
            }
        }

        #[test]
        fn the_exact_path_equals_the_host(bits: u64, small in -70000i64..70000) {
            let x = f64::from_bits(bits);
            for x in [x, small as f64 / 8.0] {
                let single = x as f32;
                let to = |t, r| plain(t, Number::F64, r, false).lane(x.to_bits());
                prop_assert_eq!(to(Number::F32, CvtRound::NearestEven), single.put());
                prop_assert_eq!(to(Number::F16, CvtRound::NearestEven), f16::from_f64(x).put());
                if !x.is_nan() {
                    prop_assert_eq!(to(Number::Signed(32), CvtRound::Zero) as u32 as i32, x as i32);
                    prop_assert_eq!(to(Number::Unsigned(64), CvtRound::Zero), x as u64);
                    prop_assert_eq!(to(Number::Signed(16), CvtRound::Down) as u16 as i16, x.floor() as i16);
                    let even = x.round_ties_even();
                    prop_assert_eq!(to(Number::Signed(64), CvtRound::NearestEven) as i64, even as i64);
                    let integral = plain(Number::F64, Number::F64, CvtRound::Up, true);
                    prop_assert_eq!(integral.lane(x.to_bits()), x.ceil().put());
                }
            }
        }

        /// fp8 decoding is exact, and encoding picks the nearest representable value.
        #[test]
        fn fp8_rounds_to_the_nearest_value(x in -500f32..500.0) {
            for to in [Number::E4m3, Number::E5m2] {
                let mut c = plain(to, Number::F32, CvtRound::NearestEven, false);
                c.satfinite = true;
                let back = |code: u64| f32::from_bits(plain(Number::F32, to, CvtRound::Zero, false).lane(code) as u32);
                let got = back(c.lane(u64::from(x.to_bits())));
                let best = (0..256).map(back).filter(|v| v.is_finite()).map(|v| (v - x).abs()).fold(f32::MAX, f32::min);
                prop_assert!((got - x).abs() <= best, "{x} became {got}");
            }
        }
    }

    #[test]
    fn nan_becomes_zero_only_in_narrow_conversions() {
        let nan = u64::from(NAN_F32);
        assert_eq!(plain(Number::Signed(32), Number::F32, CvtRound::Zero, false).lane(nan), 0);
        assert_eq!(plain(Number::Signed(64), Number::F32, CvtRound::Zero, false).lane(nan), 1 << 63);
    }
}
