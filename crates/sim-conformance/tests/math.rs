//! Arithmetic of the compiler's device library and headers, against the host's.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use sim_conformance::{Launch, Random, Sim, conform};

const COUNT: usize = 256;

/// Launches a kernel of two inputs; the results by function.
fn run<T: bytemuck::Pod, R: bytemuck::Pod>(sim: &Sim, kernel: &str, x: &[T], y: &[T], functions: usize) -> Vec<Vec<R>> {
    let out = sim.room::<R>(functions * COUNT);
    sim.launch(kernel, Launch::new(2, 128), &[&sim.buffer(x), &sim.buffer(y), &out, &(COUNT as i32)]);
    sim.read(&out).chunks(COUNT).map(<[R]>::to_vec).collect()
}

/// A function's name, its value, and its error in units in the last place (CUDA C++ Programming Guide, mathematical functions).
type Function = (&'static str, fn(f64, f64) -> f64, f64);

fn ulp_f32(x: f64) -> f64 {
    2f64.powi((x.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() as i32).max(-126) - 23)
}

fn erf(x: f64) -> f64 {
    // All terms have one sign, so nothing cancels (Abramowitz and Stegun, 7.1.6).
    let (mut term, mut sum) = (x, 0.0);
    for n in 1..200 {
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 1);
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

/// Inputs whose products and sums are far from overflow: the first of either sign and at most `most`, the second not near 0.
fn inputs(seed: u64, most: f32) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(seed);
    let x = random.list(COUNT, |r| r.unit() * most);
    let y = random.list(COUNT, |r| (0.01 + (r.unit() + 1.0) * 5.0) * if r.below(2) == 0 { 1.0 } else { -1.0 });
    (x, y)
}

fn check_f32(sim: &Sim, kernel: &str, functions: &[Function], most: f32) {
    let (x, y) = inputs(1, most);
    let results = run::<f32, f32>(sim, kernel, &x, &y, functions.len());
    // Perturbed approximations are anywhere inside the instruction's bound, where hardware's are better.
    let slack = if sim.gpu.config.arithmetic.perturb.is_some() { 4.0 } else { 0.0 };
    for ((name, f, ulps), got) in functions.iter().zip(results) {
        for i in 0..COUNT {
            let expected = f(x[i].into(), y[i].into());
            let error = (f64::from(got[i]) - expected).abs() / ulp_f32(expected);
            // Half a unit more: the bound is stated against the rounded value.
            let bound = if *ulps == 0.0 { 0.5 } else { ulps + 0.5 + slack };
            assert!(error <= bound, "{name}({}, {}) = {}, not {expected}: {error} ulp", x[i], y[i], got[i]);
        }
    }
}

#[test]
fn math_float() {
    let functions: [Function; 21] = [
        ("exp", |a, _| a.exp(), 1.0),
        ("exp2", |a, _| a.exp2(), 2.0),
        ("log", |_, b| b.abs().ln(), 1.0),
        ("log2", |_, b| b.abs().log2(), 1.0),
        ("log1p", |_, b| b.abs().ln_1p(), 1.0),
        ("sin", |a, _| a.sin(), 2.0),
        ("cos", |a, _| a.cos(), 2.0),
        ("tan", |a, _| a.tan(), 4.0),
        ("tanh", |a, _| a.tanh(), 2.0),
        ("erf", |a, _| erf(a), 2.0),
        ("rsqrt", |_, b| 1.0 / b.abs().sqrt(), 2.0),
        ("cbrt", |_, b| b.cbrt(), 1.0),
        ("pow", |a, b| b.abs().powf(a), 4.0),
        ("atan2", |a, b| a.atan2(b), 3.0),
        ("hypot", |a, b| a.hypot(b), 3.0),
        ("fmod", |a, b| a % b, 0.0),
        ("divide", |a, b| a / b, 0.0),
        ("sqrt", |a, _| a.abs().sqrt(), 0.0),
        ("expm1", |a, _| a.exp_m1(), 1.0),
        ("asinh", |a, _| a.asinh(), 3.0),
        ("sin of much", |a, _| f64::from(a as f32 * 1e5).sin(), 2.0),
    ];
    conform("math_float", |sim| check_f32(sim, "math_float", &functions, 4.0));
}

#[test]
fn math_fast() {
    // Near 0 the logarithm and the sine have absolute bounds: these inputs give results where a few ulp cover them.
    let functions: [Function; 9] = [
        ("exp", |a, _| a.exp(), 2.0 + 1.0),
        ("log", |_, b| b.abs().ln(), 300.0),
        ("sin", |a, _| a.sin(), 1e5),
        ("cos", |a, _| a.cos(), 1e5),
        ("divide", |a, b| a / b, 2.0),
        ("rsqrt", |_, b| 1.0 / b.abs().sqrt(), 0.0),
        ("saturate", |a, _| a.clamp(0.0, 1.0), 0.0),
        ("pow", |a, b| b.abs().powf(a), 20.0),
        ("tanh", |a, _| a.tanh(), 2f64.powi(13)),
    ];
    conform("math_fast", |sim| check_f32(sim, "math_fast", &functions, 1.0));
}

/// Units of 2⁻⁵² of a number that is a multiple of it.
fn fixed(x: f32) -> i128 {
    (f64::from(x) * 2f64.powi(52)) as i128
}

/// 2⁻⁵² units to f32: towards zero (0), up (1) or down (-1).
fn rounded(v: i128, direction: i32) -> f32 {
    let bits = 128 - v.unsigned_abs().leading_zeros();
    let shift = bits.saturating_sub(24);
    let towards_zero = v.unsigned_abs() >> shift << shift;
    let away = towards_zero != v.unsigned_abs() && direction == v.signum() as i32;
    let magnitude = towards_zero + if away { 1 << shift } else { 0 };
    (v.signum() as f64 * magnitude as f64 * 2f64.powi(-52)) as f32
}

#[test]
fn math_rounding() {
    conform("math_rounding", |sim| {
        // Exponents from -3 to 3: everything is a multiple of 2^-52.
        let mut random = Random::new(3);
        let value = |r: &mut Random| (1.0 + (r.unit() + 1.0) / 2.0) * 2f32.powi(r.below(7) as i32 - 3);
        let x: Vec<f32> = (0..COUNT).map(|i| value(&mut random) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let y: Vec<f32> = (0..COUNT).map(|i| value(&mut random) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        let results = run::<f32, f32>(sim, "math_rounding", &x, &y, 17);
        for i in 0..COUNT {
            let (a, b) = (x[i], y[i]);
            let (sum, product) = (fixed(a) + fixed(b), (fixed(a) * fixed(b)) >> 52);
            assert_eq!(product << 52, fixed(a) * fixed(b));
            let exact = [
                rounded(sum, 0),
                rounded(sum, 1),
                rounded(sum, -1),
                rounded(product, 0),
                rounded(product, 1),
                results[5][i],
                results[6][i],
                rounded(product + fixed(a), 0),
                a.round_ties_even(),
                a.round(),
                a.trunc(),
                a.floor(),
                a.ceil(),
                if b > a { a.next_up() } else { a.next_down() },
                a.copysign(b),
                (a - b).max(0.0),
                a * 2f32.powi(i as i32 % 60 - 30),
            ];
            for (k, expected) in exact.iter().enumerate() {
                assert_eq!(results[k][i], *expected, "function {k} of {a}, {b}");
            }
            // The largest quotient that is not above the exact one, the smallest root that is not below.
            let (quotient, root) = (results[5][i], results[6][i]);
            let below = |q: f32| (f64::from(q) * f64::from(b) - f64::from(a)) * f64::from(b.signum()) <= 0.0;
            assert!(below(quotient) && !below(quotient.next_up()), "{a} / {b} down is not {quotient}");
            let square = |r: f32| f64::from(r) * f64::from(r);
            let enough = |r: f32| square(r) >= f64::from(a.abs());
            assert!(enough(root) && !enough(root.next_down()), "the root of {a} up is not {root}");
        }
    });
}

#[test]
fn math_double() {
    let functions: [Function; 13] = [
        ("exp", |a, _| a.exp(), 1.0),
        ("log", |_, b| b.abs().ln(), 1.0),
        ("sin", |a, _| a.sin(), 2.0),
        ("cos", |a, _| a.cos(), 2.0),
        ("tanh", |a, _| a.tanh(), 2.0),
        ("pow", |a, b| b.abs().powf(a), 2.0),
        ("divide", |a, b| a / b, 0.0),
        ("sqrt", |a, _| a.abs().sqrt(), 0.0),
        ("rsqrt", |_, b| 1.0 / b.abs().sqrt(), 1.0),
        ("cbrt", |_, b| b.cbrt(), 1.0),
        ("fma", |a, b| a.mul_add(b, a), 0.0),
        ("fmod", |a, b| a % b, 0.0),
        ("atan2", |a, b| a.atan2(b), 2.0),
    ];
    conform("math_double", |sim| {
        let mut random = Random::new(4);
        let x = random.list(COUNT, |r| f64::from(r.unit()) * 3.0 + f64::from(r.unit()) * 1e-9);
        let y = random.list(COUNT, |r| 0.1 + f64::from(r.unit().abs()) * 7.0 + f64::from(r.unit()) * 1e-10);
        let results = run::<f64, f64>(sim, "math_double", &x, &y, functions.len());
        for ((name, f, ulps), got) in functions.iter().zip(results) {
            for i in 0..COUNT {
                let expected = f(x[i], y[i]);
                let error = (got[i] - expected).abs() / 2f64.powi(expected.abs().log2().floor() as i32 - 52);
                // The host's own functions are within one unit.
                let bound = if *ulps == 0.0 { 0.0 } else { ulps + 1.0 };
                assert!(error <= bound, "{name}({}, {}) = {}, not {expected}: {error} ulp", x[i], y[i], got[i]);
            }
        }
    });
}

fn bytes(x: u32, y: u32, f: impl Fn(u8, u8) -> u8) -> u32 {
    let (x, y) = (x.to_le_bytes(), y.to_le_bytes());
    u32::from_le_bytes(std::array::from_fn(|i| f(x[i], y[i])))
}

#[test]
fn math_integer() {
    conform("math_integer", |sim| {
        let mut random = Random::new(5 + sim.seed);
        let mut x = random.list(COUNT, |r| r.u32() >> r.below(32));
        let mut y = random.list(COUNT, |r| r.u32() >> r.below(32));
        x[..6].copy_from_slice(&[0, 1, u32::MAX, 1 << 31, 0x7fff_ffff, 0x8080_8080]);
        y[..6].copy_from_slice(&[0, u32::MAX, u32::MAX, 3, 0x8000_0000, 0x7f7f_7f7f]);
        let results = run::<u32, u32>(sim, "math_integer", &x, &y, 27);
        for i in 0..COUNT {
            let (a, b) = (x[i], y[i]);
            let (sa, sb) = (a as i32, b as i32);
            let selector = 0x5410 ^ a & 0x7777;
            let pool = [a.to_le_bytes(), b.to_le_bytes()].concat();
            let permuted = std::array::from_fn(|n| pool[(selector >> (4 * n) & 7) as usize]);
            let joined = u64::from(b) << 32 | u64::from(a);
            let dot = |f: &dyn Fn(u8) -> i32, c: i32| {
                a.to_le_bytes().iter().zip(b.to_le_bytes()).fold(c, |sum, (p, q)| sum.wrapping_add(f(*p) * f(q)))
            };
            let halves = |v: u32| [v as i16, (v >> 16) as i16];
            let (ha, hb) = (halves(a), halves(b));
            let most = |n: usize| u32::from(ha[n].max(hb[n]) as u16);
            let wide = ((i64::from(sa) << 32 | i64::from(b)) as i128 * (i64::from(sb) << 30) as i128) >> 64;
            let expected = [
                a.reverse_bits(),
                a.leading_zeros(),
                if a == 0 { 0 } else { a.trailing_zeros() + 1 },
                a.count_ones(),
                u32::from_le_bytes(permuted),
                (joined << (a & 31) >> 32) as u32,
                (joined >> (b & 63).min(32)) as u32,
                ((u64::from(a) * u64::from(b)) >> 32) as u32,
                ((i64::from(sa) * i64::from(sb)) >> 32) as u32,
                a.abs_diff(b).wrapping_add(5),
                sa.abs_diff(sb).wrapping_add(9),
                dot(&|v| i32::from(v as i8), 7) as u32,
                dot(&i32::from, 7) as u32,
                (a & 0xffff).wrapping_mul(b & 0xff).wrapping_add((a >> 16) * (b >> 8 & 0xff)).wrapping_add(3),
                ((i64::from(sa) + i64::from(sb)) >> 1) as u32,
                ((u64::from(a) + u64::from(b) + 1) >> 1) as u32,
                bytes(a, b, u8::wrapping_add),
                most(0) | most(1) << 16,
                bytes(a, b, u8::abs_diff),
                bytes(a, b, |p, q| if p > q { 0xff } else { 0 }),
                a / (b | 1),
                sa.wrapping_rem(sb | 1) as u32,
                ((u64::from(a) << 20 | u64::from(b)) / u64::from(b | 1)) as u32,
                ((i64::from(sa) << 20) % (i64::from(sb) | 1)) as u32,
                wide as u32,
                a.wrapping_add(b).max(a),
                sa.min(sb).min(17) as u32,
            ];
            for (k, expected) in expected.iter().enumerate() {
                assert_eq!(results[k][i], *expected, "operation {k} of {a:#x}, {b:#x}");
            }
        }
    });
}

/// The value of an fp8 code; none for NaN (OCP 8-bit floating point, revision 1.0).
fn fp8(code: u8, exponent_bits: u32) -> Option<f64> {
    let mantissa_bits = 7 - exponent_bits;
    let exponent = i32::from(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let sign = if code >> 7 == 0 { 1.0 } else { -1.0 };
    let bias = (1 << (exponent_bits - 1)) - 1;
    match (exponent_bits, code & 0x7f) {
        (4, 0x7f) => None,
        (5, 0x7c) => Some(sign * f64::INFINITY),
        (5, 0x7d..) => None,
        _ if exponent == 0 => Some(sign * mantissa * 2f64.powi(1 - bias)),
        _ => Some(sign * (1.0 + mantissa) * 2f64.powi(exponent - bias)),
    }
}

/// The code of the nearest finite value, the even one of two.
fn to_fp8(x: f64, exponent_bits: u32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let codes = (0..0x7f).filter_map(|c| fp8(c, exponent_bits).filter(|v| v.is_finite()).map(|v| (c, v)));
    let distance = |v: f64| (x.abs() - v).abs();
    let nearest = codes.reduce(|a, b| match distance(a.1).total_cmp(&distance(b.1)) {
        std::cmp::Ordering::Less => a,
        std::cmp::Ordering::Equal if a.0 % 2 == 0 => a,
        _ => b,
    });
    sign | nearest.unwrap().0
}

#[test]
fn math_conversions() {
    conform("math_conversions", |sim| {
        let mut random = Random::new(6);
        let mut x = random.list(COUNT, |r| r.unit() * 2f32.powi(r.below(24) as i32 - 10));
        x[..8].copy_from_slice(&[0.0, -0.0, 0.5, 1.5, 448.0, 464.1, 1e6, -7e4]);
        let out = sim.room::<u32>(15 * COUNT);
        sim.launch("math_conversions", Launch::new(2, 128), &[&sim.buffer(&x), &out, &(COUNT as i32)]);
        let results: Vec<Vec<u32>> = sim.read(&out).chunks(COUNT).map(<[u32]>::to_vec).collect();
        // One step of an f16's or bf16's bits towards zero or up.
        let inwards = |bits: u16| bits - 1;
        let up = |bits: u16| {
            if bits == 0x8000 {
                1
            } else if bits >> 15 == 0 {
                bits + 1
            } else {
                bits - 1
            }
        };
        let down = |bits: u16| {
            if bits == 0 {
                0x8001
            } else if bits >> 15 == 0 {
                bits - 1
            } else {
                bits + 1
            }
        };
        for i in 0..COUNT {
            let a = x[i];
            let (h, b) = (f16::from_f32(a), bf16::from_f32(a));
            let rz = if h.to_f32().abs() > a.abs() { inwards(h.to_bits()) } else { h.to_bits() };
            let ru = if h.to_f32() < a { up(h.to_bits()) } else { h.to_bits() };
            let rd = if b.to_f32() > a { down(b.to_bits()) } else { b.to_bits() };
            let from_fp8 = |bits| fp8(i as u8, bits).map_or(f16::NAN, f16::from_f64);
            let billions = (a * 1e12) as i64;
            let expected = [
                a.round_ties_even() as i32 as u32,
                a.floor() as i32 as u32,
                a.ceil().max(0.0) as u32,
                u32::from(a.clamp(0.0, 255.0) as u8),
                h.to_bits().into(),
                rz.into(),
                ru.into(),
                b.to_bits().into(),
                rd.into(),
                to_fp8(a.into(), 4).into(),
                to_fp8(a.into(), 5).into(),
                from_fp8(4).to_bits().into(),
                from_fp8(5).to_bits().into(),
                ((f64::from(a) * 1e-40) as f32).to_bits(),
                (billions as f32).to_bits(),
            ];
            for (k, expected) in expected.iter().enumerate() {
                let got = results[k][i];
                let both_nan =
                    (11..13).contains(&k) && f16::from_bits(got as u16).is_nan() && from_fp8(k as u32 - 7).is_nan();
                assert!(got == *expected || both_nan, "conversion {k} of {a} (code {i}): {got:#x}, not {expected:#x}");
            }
        }
    });
}

fn check_pairs(sim: &Sim, kernel: &str, to: fn(f64) -> u16, from: fn(u16) -> f64) {
    let mut random = Random::new(7);
    // Exponents from -4 to 4: sums and products are exact in f64.
    let mut values = || {
        random.list(COUNT, |r| {
            let mut value = || to(f64::from(r.unit()) * 2f64.powi(r.below(9) as i32 - 4));
            [value(), value()]
        })
    };
    let (x, y) = (values(), values());
    let results = run::<[u16; 2], [u16; 2]>(sim, kernel, &x, &y, 12);
    for i in 0..COUNT {
        for lane in 0..2 {
            let (a, b) = (from(x[i][lane]), from(y[i][lane]));
            let expected = [
                a + b,
                a - b,
                a * b,
                a.mul_add(b, a),
                a.max(b),
                a.min(b),
                a.abs(),
                -b,
                from(to(a + b)).clamp(0.0, 1.0),
                if a > b { 1.0 } else { 0.0 },
                from(x[i][1 - lane]),
                a.mul_add(b, b).max(0.0),
            ];
            for (k, expected) in expected.iter().enumerate() {
                let got = results[k][i][lane];
                assert_eq!(from(got), from(to(*expected)), "operation {k} of {a}, {b}");
            }
        }
    }
}

#[test]
fn math_half2() {
    let to = |x: f64| f16::from_f64(x).to_bits();
    conform("math_half2", |sim| check_pairs(sim, "math_half2", to, |bits| f16::from_bits(bits).to_f64()));
}

#[test]
fn math_bfloat162() {
    let to = |x: f64| bf16::from_f64(x).to_bits();
    conform("math_bfloat162", |sim| check_pairs(sim, "math_bfloat162", to, |bits| bf16::from_bits(bits).to_f64()));
}

#[test]
fn math_half_functions() {
    let functions: [fn(f64) -> f64; 9] = [
        |a| a.exp(),
        |a| a.abs().ln(),
        |a| a.sin(),
        |a| a.abs().sqrt(),
        |a| 1.0 / a,
        |a| 1.0 / a.abs().sqrt(),
        |a| a.round_ties_even(),
        |a| a.floor(),
        |a| a.tanh(),
    ];
    conform("math_half_functions", |sim| {
        let x = Random::new(8).list(COUNT, |r| f16::from_f32(r.unit() * 3.0 + 0.001));
        let out = sim.room::<f32>(functions.len() * COUNT);
        sim.launch("math_half_functions", Launch::new(2, 128), &[&sim.buffer(&x), &out, &(COUNT as i32)]);
        for (k, (f, got)) in functions.iter().zip(sim.read(&out).chunks(COUNT)).enumerate() {
            for (a, got) in x.iter().zip(got) {
                let expected = f(a.to_f64());
                // Two units in the last place of an f16 (CUDA Math API: 2 ulp or less for these).
                let tolerance = 2.0 * 2f64.powi((expected.abs().log2().floor() as i32).max(-14) - 10);
                assert!((f64::from(*got) - expected).abs() <= tolerance, "function {k} of {a}: {got}, not {expected}");
            }
        }
    });
}
