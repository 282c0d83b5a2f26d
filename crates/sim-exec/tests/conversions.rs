//! Every cvt that the executor takes, with every rounding and saturation, against a model that searches the target's values.
//!
//! The model shares nothing with the executor, which works on significands: it decodes codes by the formula of their format, finds the two
//! values of the target around the source by bisection, and chooses by their exact distances.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use sim_exec::LaunchConfig;

/// Operands per conversion.
const COUNT: usize = 1536;

/// A type: name, bits in a register, and for floats the bits of exponent and fraction and the code of the largest finite value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Type {
    name: &'static str,
    bits: u32,
    signed: bool,
    float: Option<(u32, u32, u64)>,
}

const fn integer(name: &'static str, bits: u32, signed: bool) -> Type {
    Type { name, bits, signed, float: None }
}

const fn float(name: &'static str, bits: u32, exponent: u32, fraction: u32, max: u64) -> Type {
    Type { name, bits, signed: true, float: Some((exponent, fraction, max)) }
}

const INTEGERS: [Type; 8] = [
    integer("u8", 8, false),
    integer("s8", 8, true),
    integer("u16", 16, false),
    integer("s16", 16, true),
    integer("u32", 32, false),
    integer("s32", 32, true),
    integer("u64", 64, false),
    integer("s64", 64, true),
];
const F16: Type = float("f16", 16, 5, 10, 0x7bff);
const BF16: Type = float("bf16", 16, 8, 7, 0x7f7f);
const F32: Type = float("f32", 32, 8, 23, 0x7f7f_ffff);
const F64: Type = float("f64", 64, 11, 52, 0x7fef_ffff_ffff_ffff);
const TF32: Type = float("tf32", 32, 8, 10, 0x3fbff);
const E4M3: Type = float("e4m3", 8, 4, 3, 0x7e);
const E5M2: Type = float("e5m2", 8, 5, 2, 0x7b);
const FLOATS: [Type; 4] = [F16, BF16, F32, F64];

/// An exact source.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exact {
    Nan,
    Infinite(bool),
    /// Of a float; the sign of zero counts.
    Float(f64),
    Integer(i128),
}

fn power(n: i32) -> f64 {
    f64::from_bits(((1023 + n.clamp(-1022, 1023)) as u64) << 52) * 2f64.powi(n - n.clamp(-1022, 1023))
}

/// The magnitude that a code without sign stands for; also of the code above the largest finite one, as if the format went on.
fn magnitude(ty: Type, code: u64) -> f64 {
    let (exponent, fraction, _) = ty.float.unwrap();
    if ty == F64 {
        return f64::from_bits(code);
    }
    let (field, rest) = ((code >> fraction) as i32, (code & ((1 << fraction) - 1)) as f64);
    let bias = (1 << (exponent - 1)) - 1;
    let one = power(fraction as i32);
    if field == 0 { rest / one * power(1 - bias) } else { (1.0 + rest / one) * power(field - bias) }
}

fn decode(ty: Type, bits: u64) -> Exact {
    let Some((exponent, fraction, max)) = ty.float else {
        let shift = 64 - ty.bits;
        let value =
            if ty.signed { i128::from((bits << shift) as i64 >> shift) } else { i128::from(bits << shift >> shift) };
        return Exact::Integer(value);
    };
    let sign = exponent + fraction;
    let (negative, code) = (bits >> sign & 1 == 1, bits & ((1 << sign) - 1));
    if code > max {
        let is_infinite = code == max + 1 && ty != E4M3;
        return if is_infinite { Exact::Infinite(negative) } else { Exact::Nan };
    }
    Exact::Float(if negative { -magnitude(ty, code) } else { magnitude(ty, code) })
}

impl Exact {
    fn is_negative(self) -> bool {
        match self {
            Exact::Nan => false,
            Exact::Infinite(negative) => negative,
            Exact::Float(x) => x.is_sign_negative(),
            Exact::Integer(i) => i < 0,
        }
    }

    /// Magnitude less `value`, exactly, as a sign: or of twice the magnitude less the sum of two values.
    fn compare(self, value: f64) -> std::cmp::Ordering {
        match self {
            Exact::Float(x) => x.abs().partial_cmp(&value).unwrap(),
            Exact::Integer(i) => i.abs().cmp(&(value as i128)).then(if value.fract() > 0.0 {
                std::cmp::Ordering::Less
            } else {
                std::cmp::Ordering::Equal
            }),
            Exact::Nan | Exact::Infinite(_) => unreachable!("handled before"),
        }
    }

    /// Which of two neighbours around the magnitude is nearer: `Less` for the lower.
    fn nearer(self, low: f64, high: f64) -> std::cmp::Ordering {
        match self {
            // Both differences are exact: they are multiples of the source's unit and smaller than the target's.
            Exact::Float(x) => (x.abs() - low).partial_cmp(&(high - x.abs())).unwrap(),
            Exact::Integer(i) => (i.abs() - low as i128).cmp(&(high as i128 - i.abs())),
            Exact::Nan | Exact::Infinite(_) => unreachable!("handled before"),
        }
    }
}

/// A conversion's modifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Form {
    round: &'static str,
    ftz: bool,
    sat: bool,
    satfinite: bool,
    relu: bool,
}

impl Form {
    fn text(self) -> String {
        let mut out = String::new();
        for (on, name) in [
            (!self.round.is_empty(), self.round),
            (self.ftz, "ftz"),
            (self.sat, "sat"),
            (self.satfinite, "satfinite"),
            (self.relu, "relu"),
        ] {
            if on {
                out += &format!(".{name}");
            }
        }
        out
    }
}

fn to_integral(x: f64, round: &str) -> f64 {
    match round {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        "rpi" => x.ceil(),
        _ => x,
    }
}

fn model(to: Type, from: Type, form: Form, bits: u64) -> u64 {
    let mut value = decode(from, bits);
    if let Exact::Float(x) = value {
        let is_flushed = form.ftz && from == F32 && x.abs() < power(-126);
        value = Exact::Float(to_integral(if is_flushed { 0f64.copysign(x) } else { x }, form.round));
    }
    match to.float {
        None => to_integer(to, from, form, value),
        Some(_) => to_float(to, form, value),
    }
}

fn to_integer(to: Type, from: Type, form: Form, value: Exact) -> u64 {
    let mask = if to.bits == 64 { !0 } else { (1u64 << to.bits) - 1 };
    let (low, high) = match to.signed {
        true => (-(1i128 << (to.bits - 1)), (1i128 << (to.bits - 1)) - 1),
        false => (0, (1i128 << to.bits) - 1),
    };
    let integer = match value {
        // PTX ISA, cvt, "Floating Point Notes": MININT if a 64-bit integer or an f64 takes part.
        Exact::Nan if to.bits == 64 || from == F64 => return 1 << (to.bits - 1),
        Exact::Nan => 0,
        Exact::Infinite(negative) => {
            if negative {
                low
            } else {
                high
            }
        }
        Exact::Float(x) => (x as i128).clamp(low, high),
        Exact::Integer(i) => {
            if form.sat {
                i.clamp(low, high)
            } else {
                i
            }
        }
    };
    integer as u64 & mask
}

fn to_float(to: Type, form: Form, value: Exact) -> u64 {
    let (exponent, fraction, max) = to.float.unwrap();
    let (sign, shift) = (exponent + fraction, if to == TF32 { 13 } else { 0 });
    let negative = value.is_negative();
    let overflow = |towards_zero: bool| if form.satfinite || towards_zero { max } else { max + 1 };
    let mut code = match value {
        Exact::Nan if form.sat => return 0,
        Exact::Nan => {
            return if matches!(to.name, "e4m3" | "e5m2") {
                0x7f
            } else {
                ((1 << sign) - 1) << shift | ((1 << shift) - 1)
            };
        }
        Exact::Infinite(_) => overflow(false),
        finite => {
            // The last code whose magnitude is not above the source's.
            let (mut low, mut above) = (0, max + 1);
            while above - low > 1 {
                let middle = low + (above - low) / 2;
                if finite.compare(magnitude(to, middle)).is_lt() { above = middle } else { low = middle }
            }
            let (floor, ceiling) = (magnitude(to, low), magnitude(to, low + 1));
            let goes_up = match form.round {
                _ if finite.compare(floor).is_eq() => false,
                "rz" => false,
                "rm" => negative,
                "rp" => !negative,
                round => match finite.nearer(floor, ceiling) {
                    std::cmp::Ordering::Less => false,
                    std::cmp::Ordering::Equal => round == "rna" || low % 2 == 1,
                    std::cmp::Ordering::Greater => true,
                },
            };
            if low + u64::from(goes_up) > max { overflow(false) } else { low + u64::from(goes_up) }
        }
    };
    if form.ftz && to == F32 && code < 1 << fraction {
        code = 0;
    }
    if form.sat {
        let one = ((1 << (exponent - 1)) - 1) << fraction;
        return if negative { 0 } else { code.min(one) };
    }
    if form.relu && negative { 0 } else { (code | u64::from(negative) << sign) << shift }
}

/// Sources: special codes, all kinds of magnitudes, and values at and beside ties of narrower formats.
fn operands(from: Type, seed: u64) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state ^ state >> 31
    };
    let mask = if from.bits == 64 { !0 } else { (1u64 << from.bits) - 1 };
    let mut out = vec![0, 1, mask, mask >> 1, (mask >> 1) + 1];
    if let Some((exponent, fraction, max)) = from.float {
        let sign = 1u64 << (exponent + fraction);
        out.extend([max, max + 1, max + 2, max | sign, (max + 1) | sign, sign, 1 << fraction, (1 << fraction) - 1]);
    }
    while out.len() < COUNT {
        let bits = noise() & mask;
        out.push(match (noise() % 4, from.float) {
            // Few bits set at the top of the fraction, and one more or less at the bottom.
            (0, Some((_, fraction, _))) => {
                let cut = fraction.saturating_sub(noise() as u32 % 12);
                (bits >> cut << cut).wrapping_add(noise() % 3).wrapping_sub(1) & mask
            }
            // Magnitudes near 1 to 2^40, where integers are.
            (1 | 2, Some((exponent, fraction, _))) if exponent > 4 => {
                let bias = (1u64 << (exponent - 1)) - 1;
                let cut = noise() as u32 % (fraction + 1);
                let field = bias.wrapping_sub(4) + noise() % 44;
                (bits & !(((1 << exponent) - 1) << fraction) | field.min((1 << exponent) - 2) << fraction) >> cut << cut
            }
            (0 | 1, None) => bits >> (noise() as u32 % from.bits),
            _ => bits,
        });
    }
    out
}

/// Runs `text`, which computes %x9 from %x0 (and its narrow parts %t0 and %h0), for every operand.
fn run(text: &str, operands: &[u64]) -> Vec<u64> {
    let mut bench = Bench::new(&format!(
        ".visible .entry k(.param .u64 in, .param .u64 out) {{
          .reg .b64 %x<10>; .reg .b32 %t<10>; .reg .b16 %h<10>;
          ld.param.u64 %x1, [in]; ld.param.u64 %x2, [out];
          mov.u32 %t1, %tid.x; mov.u32 %t2, %ctaid.x; mad.lo.u32 %t1, %t2, 128, %t1; mul.wide.u32 %x3, %t1, 8;
          add.s64 %x1, %x1, %x3; add.s64 %x2, %x2, %x3;
          ld.global.b64 %x0, [%x1]; mov.b64 {{%t0, %t3}}, %x0; mov.b32 {{%h0, %h3}}, %t0; mov.b64 %x9, 0;
          {text}
          st.global.b64 [%x2], %x9; ret; }}"
    ));
    let words: Vec<u32> = operands.iter().flat_map(|v| [*v as u32, (*v >> 32) as u32]).collect();
    bench.buffer(&words);
    let out = bench.room(8 * operands.len() as u64);
    let grid = [(operands.len() / 128) as u32, 1, 1];
    bench
        .launch(LaunchConfig { grid, block: [128, 1, 1], ..LaunchConfig::default() })
        .unwrap_or_else(|e| panic!("{text}: {e}"));
    bench.words(out, 2 * operands.len()).chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect()
}

fn source(ty: Type) -> &'static str {
    ["%h0", "%h0", "%t0", "%x0"][ty.bits.ilog2() as usize - 3]
}

/// Moves a narrow result into %x9.
fn widened(bits: u32) -> &'static str {
    match bits {
        8 | 16 => "mov.b16 %h8, 0; mov.b32 %t9, {%h9, %h8}; mov.b32 %t8, 0; mov.b64 %x9, {%t9, %t8};",
        32 => "mov.b32 %t8, 0; mov.b64 %x9, {%t9, %t8};",
        _ => "",
    }
}

fn check(to: Type, from: Type, form: Form) {
    let seed = u64::from(to.bits) * 131 + u64::from(from.bits) * 7 + form.text().len() as u64;
    let operands = operands(from, seed);
    let d = ["%h9", "%h9", "%t9", "%x9"][to.bits.ilog2() as usize - 3];
    let cvt = format!("cvt{}.{}.{} {d}, {};", form.text(), to.name, from.name, source(from));
    let got = run(&format!("{cvt} {}", widened(to.bits)), &operands);
    for (&bits, &got) in operands.iter().zip(&got) {
        let expected = model(to, from, form, bits);
        // Results of 8 bits fill a register of 16: with their sign, if they have one.
        let expected = if to.bits == 8 && to.signed { expected as u8 as i8 as u16 as u64 } else { expected };
        assert_eq!(got, expected, "{cvt} of {bits:#x} = {:?}", decode(from, bits));
    }
}

#[test]
fn integers_to_integers() {
    for from in INTEGERS {
        for to in INTEGERS {
            for sat in [false, true] {
                check(to, from, Form { sat, ..Form::default() });
            }
        }
    }
}

/// PTX ISA, "Operand Size Exceeding Instruction-Type Size": a wider register gets the sign, or zeros.
#[test]
fn narrow_results_fill_wider_registers() {
    type Extend = fn(u32) -> u32;
    let cases: [(&str, Extend); 4] =
        [("u8", |x| x & 0xff), ("s8", |x| x as i8 as u32), ("u16", |x| x & 0xffff), ("s16", |x| x as i16 as u32)];
    let operands = operands(INTEGERS[4], 3);
    for (to, extend) in cases {
        let got = run(&format!("cvt.{to}.u32 %t9, %t0; {}", widened(32)), &operands);
        for (&bits, &got) in operands.iter().zip(&got) {
            assert_eq!(got, u64::from(extend(bits as u32)), "cvt.{to}.u32 of {bits:#x} in a register of 32 bits");
        }
    }
}

#[test]
fn integers_to_floats() {
    for from in INTEGERS {
        for to in FLOATS {
            for round in ["rn", "rz", "rm", "rp"] {
                check(to, from, Form { round, ..Form::default() });
                check(to, from, Form { round, sat: to != BF16, ..Form::default() });
            }
        }
    }
}

#[test]
fn floats_to_integers() {
    for from in FLOATS {
        for to in INTEGERS {
            for round in ["rni", "rzi", "rmi", "rpi"] {
                check(to, from, Form { round, ..Form::default() });
                if from == F32 {
                    check(to, from, Form { round, ftz: true, ..Form::default() });
                }
            }
        }
    }
}

#[test]
fn floats_to_floats() {
    for from in FLOATS {
        for to in FLOATS {
            let widens = from.bits < to.bits;
            let roundings: &[&str] = match (widens, from == to) {
                (true, _) => &[""],
                (_, true) => &["", "rni", "rzi", "rmi", "rpi"],
                _ => &["rn", "rz", "rm", "rp"],
            };
            // A move of a type to itself without a modifier is no conversion.
            for &round in roundings.iter().filter(|r| from != to || !r.is_empty()) {
                check(to, from, Form { round, ..Form::default() });
                check(to, from, Form { round, sat: true, ..Form::default() });
                if from == F32 || to == F32 {
                    check(to, from, Form { round, ftz: true, ..Form::default() });
                    check(to, from, Form { round, ftz: true, sat: true, ..Form::default() });
                }
            }
        }
    }
    for to in [F16, BF16] {
        for round in ["rn", "rz"] {
            for (relu, satfinite) in [(true, false), (false, true), (true, true)] {
                check(to, F32, Form { round, relu, satfinite, ..Form::default() });
            }
        }
    }
}

#[test]
fn f32_to_tf32() {
    for round in ["rna", "rn", "rz"] {
        for relu in [false, round != "rna"] {
            for satfinite in [false, true] {
                check(TF32, F32, Form { round, relu, satfinite, ..Form::default() });
            }
        }
    }
}

/// Two sources in one result: the first in the upper half.
#[test]
fn pairs_of_f32_to_narrow_pairs() {
    let first = operands(F32, 5);
    // The two sources are an operand's halves.
    let pairs: Vec<u64> = first.iter().zip(operands(F32, 6)).map(|(a, b)| a | b << 32).collect();
    for (to, rounds) in [(F16, &["rn", "rz"][..]), (BF16, &["rn", "rz"]), (E4M3, &["rn"]), (E5M2, &["rn"])] {
        for &round in rounds {
            for relu in [false, true] {
                let satfinite = to.bits == 8;
                let form = Form { round, relu, satfinite, ..Form::default() };
                let d = if to.bits == 8 { "%h9" } else { "%t9" };
                let cvt = format!("cvt{}.{}x2.f32 {d}, %t0, %t3;", form.text(), to.name);
                let got = run(&format!("{cvt} {}", widened(2 * to.bits)), &pairs);
                for (&pair, &got) in pairs.iter().zip(&got) {
                    let [a, b] = [pair & 0xffff_ffff, pair >> 32].map(|x| model(to, F32, form, x));
                    assert_eq!(got, a << to.bits | b, "{cvt} of {pair:#x}");
                }
            }
        }
    }
}

#[test]
fn fp8_pairs_to_and_from_f16_pairs() {
    for ty in [E4M3, E5M2] {
        // Every pair of neighbouring codes, in both places.
        let codes: Vec<u64> = (0..COUNT as u64).map(|i| (i & 0xff) | ((i * 7 + 1) & 0xff) << 8).collect();
        for relu in [false, true] {
            let form = Form { relu, ..Form::default() };
            let name = ty.name;
            let cvt = format!("cvt.rn{}.f16x2.{name}x2 %t9, %h0;", form.text());
            let got = run(&format!("{cvt} {}", widened(32)), &codes);
            for (&pair, &got) in codes.iter().zip(&got) {
                let [low, high] = [pair & 0xff, pair >> 8].map(|x| model(F16, ty, form, x));
                assert_eq!(got, high << 16 | low, "{cvt} of {pair:#x}");
            }
            let halves: Vec<u64> = operands(F16, 7).iter().zip(operands(F16, 8)).map(|(a, b)| a | b << 16).collect();
            let form = Form { round: "rn", satfinite: true, relu, ..Form::default() };
            let cvt = format!("cvt{}.{name}x2.f16x2 %h9, %t0;", form.text());
            let got = run(&format!("{cvt} {}", widened(16)), &halves);
            for (&pair, &got) in halves.iter().zip(&got) {
                let [low, high] = [pair & 0xffff, pair >> 16].map(|x| model(ty, F16, form, x));
                assert_eq!(got, high << 8 | low, "{cvt} of {pair:#x}");
            }
        }
    }
}
