//! mma.sync in every shape against a scalar product of matrices, with fragments laid out by the formulas of the PTX ISA
//! ("Matrix Fragments for mma"), each written down as the ISA gives it.

mod matrix_support;

use matrix_support::*;
use proptest::prelude::*;

/// Fragments of one shape: elements per lane, and where they lie.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    m: usize,
    k: usize,
    a: (usize, Place),
    b: (usize, Place),
    c: (usize, Place),
}

const C16: (usize, Place) = (4, |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)));
const C8: (usize, Place) = (2, |g, t, i| (g, t * 2 + (i & 1)));

const M16N8K8_HALF: Shape = Shape {
    name: "m16n8k8",
    m: 16,
    k: 8,
    a: (4, |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))),
    b: (2, |g, t, i| (t * 2 + i, g)),
    c: C16,
};
const M16N8K16_HALF: Shape = Shape {
    name: "m16n8k16",
    m: 16,
    k: 16,
    a: (8, |g, t, i| {
        let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
        (row, if i < 4 { t * 2 + (i & 1) } else { t * 2 + (i & 1) + 8 })
    }),
    b: (4, |g, t, i| (if i < 2 { t * 2 + (i & 1) } else { t * 2 + (i & 1) + 8 }, g)),
    c: C16,
};
const M16N8K4_WORD: Shape = Shape {
    name: "m16n8k4",
    m: 16,
    k: 4,
    a: (2, |g, t, i| (if i == 0 { g } else { g + 8 }, t)),
    b: (1, |g, t, _| (t, g)),
    c: C16,
};
const M16N8K8_WORD: Shape = Shape {
    name: "m16n8k8",
    m: 16,
    k: 8,
    a: (4, |g, t, i| (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 })),
    b: (2, |g, t, i| (if i == 0 { t } else { t + 4 }, g)),
    c: C16,
};
const M16N8K16_F64: Shape = Shape {
    name: "m16n8k16",
    m: 16,
    k: 16,
    a: (8, |g, t, i| (if i % 2 == 0 { g } else { g + 8 }, i / 2 * 4 + t)),
    b: (4, |g, t, i| (t + i * 4, g)),
    c: C16,
};
const M8N8K4_F64: Shape =
    Shape { name: "m8n8k4", m: 8, k: 4, a: (1, |g, t, _| (g, t)), b: (1, |g, t, _| (t, g)), c: C8 };
const M8N8K16_BYTE: Shape =
    Shape { name: "m8n8k16", m: 8, k: 16, a: (4, |g, t, i| (g, t * 4 + i)), b: (4, |g, t, i| (t * 4 + i, g)), c: C8 };
const M16N8K16_BYTE: Shape = Shape {
    name: "m16n8k16",
    m: 16,
    k: 16,
    a: (8, |g, t, i| (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3))),
    b: (4, |g, t, i| (t * 4 + i, g)),
    c: C16,
};
const M16N8K32_BYTE: Shape = Shape {
    name: "m16n8k32",
    m: 16,
    k: 32,
    a: (16, |g, t, i| {
        let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
        (row, if i < 8 { t * 4 + (i & 3) } else { t * 4 + (i & 3) + 16 })
    }),
    b: (8, |g, t, i| (if i < 4 { t * 4 + (i & 3) } else { t * 4 + (i & 3) + 16 }, g)),
    c: C16,
};
const M8N8K32_NIBBLE: Shape =
    Shape { name: "m8n8k32", m: 8, k: 32, a: (8, |g, t, i| (g, t * 8 + i)), b: (8, |g, t, i| (t * 8 + i, g)), c: C8 };
const M16N8K32_NIBBLE: Shape = Shape {
    name: "m16n8k32",
    m: 16,
    k: 32,
    a: (16, |g, t, i| (if i < 8 { g } else { g + 8 }, t * 8 + (i & 7))),
    b: (8, |g, t, i| (t * 8 + i, g)),
    c: C16,
};
const M16N8K64_NIBBLE: Shape = Shape {
    name: "m16n8k64",
    m: 16,
    k: 64,
    a: (32, |g, t, i| {
        let row = if i < 8 || (16..24).contains(&i) { g } else { g + 8 };
        (row, if i < 16 { t * 8 + (i & 7) } else { t * 8 + (i & 7) + 32 })
    }),
    b: (16, |g, t, i| (if i < 8 { t * 8 + (i & 7) } else { t * 8 + (i & 7) + 32 }, g)),
    c: C16,
};
const M8N8K128_BIT: Shape = Shape {
    name: "m8n8k128",
    m: 8,
    k: 128,
    a: (32, |g, t, i| (g, t * 32 + i)),
    b: (32, |g, t, i| (t * 32 + i, g)),
    c: C8,
};
const M16N8K128_BIT: Shape = Shape {
    name: "m16n8k128",
    m: 16,
    k: 128,
    a: (64, |g, t, i| (if i < 32 { g } else { g + 8 }, t * 32 + (i & 31))),
    b: (32, |g, t, i| (t * 32 + i, g)),
    c: C16,
};
const M16N8K256_BIT: Shape = Shape {
    name: "m16n8k256",
    m: 16,
    k: 256,
    a: (128, |g, t, i| {
        let row = if i < 32 || (64..96).contains(&i) { g } else { g + 8 };
        (row, if i < 64 { t * 32 + (i & 31) } else { t * 32 + (i & 31) + 128 })
    }),
    b: (64, |g, t, i| (if i < 32 { t * 32 + (i & 31) } else { t * 32 + (i & 31) + 128 }, g)),
    c: C16,
};

/// A PTX type with its format.
type Type = (&'static str, Format);

struct Case {
    shape: Shape,
    a: Type,
    b: Type,
    c: Type,
    suffix: &'static str,
}

fn case(shape: Shape, a: Type, b: Type, c: Type) -> Case {
    Case { shape, a, b, c, suffix: "" }
}

fn cases() -> Vec<Case> {
    let (f16, bf16, tf32, f32, f64) = (("f16", F16), ("bf16", BF16), ("tf32", F32), ("f32", F32), ("f64", F64));
    let s32 = ("s32", Format::Signed(32));
    let bytes = [("s8", Format::Signed(8)), ("u8", Format::Unsigned(8))];
    let nibbles = [("s4", Format::Signed(4)), ("u4", Format::Unsigned(4))];
    let fp8 = [("e4m3", E4M3), ("e5m2", E5M2)];
    let mut cases = vec![
        case(M16N8K8_HALF, bf16, bf16, f32),
        case(M16N8K16_HALF, bf16, bf16, f32),
        case(M16N8K4_WORD, tf32, tf32, f32),
        case(M16N8K8_WORD, tf32, tf32, f32),
        case(M8N8K4_F64, f64, f64, f64),
        case(M16N8K4_WORD, f64, f64, f64),
        case(M16N8K8_WORD, f64, f64, f64),
        case(M16N8K16_F64, f64, f64, f64),
    ];
    for c in [f16, f32] {
        cases.extend([M16N8K8_HALF, M16N8K16_HALF].map(|shape| case(shape, f16, f16, c)));
        for (a, b) in [(fp8[0], fp8[0]), (fp8[0], fp8[1]), (fp8[1], fp8[0]), (fp8[1], fp8[1])] {
            cases.extend([M16N8K16_BYTE, M16N8K32_BYTE].map(|shape| case(shape, a, b, c)));
        }
    }
    for i in 0..4 {
        let bytes = (bytes[i % 2], bytes[i / 2]);
        cases.extend([M8N8K16_BYTE, M16N8K16_BYTE, M16N8K32_BYTE].map(|shape| case(shape, bytes.0, bytes.1, s32)));
        let nibbles = (nibbles[i % 2], nibbles[i / 2]);
        let shapes = [M8N8K32_NIBBLE, M16N8K32_NIBBLE, M16N8K64_NIBBLE];
        cases.extend(shapes.map(|shape| case(shape, nibbles.0, nibbles.1, s32)));
    }
    let bit = ("b1", Format::Unsigned(1));
    for suffix in [".xor.popc", ".and.popc"] {
        let shapes = [M8N8K128_BIT, M16N8K128_BIT, M16N8K256_BIT];
        cases.extend(shapes.map(|shape| Case { suffix, ..case(shape, bit, bit, s32) }));
    }
    cases
}

/// PTX type and width of the registers of a fragment.
fn register(ty: Type, accumulator: bool) -> (&'static str, u32) {
    match ty.0 {
        "f64" => ("f64", 64),
        "f32" if accumulator => ("f32", 32),
        _ => ("b32", 32),
    }
}

/// A product of numbers as the instruction defines it.
fn model(case: &Case, a: &Matrix, b: &Matrix, c: &Matrix) -> Matrix {
    match case.suffix {
        ".xor.popc" => {
            let differ = |i: usize, j: usize| (0..b.len()).filter(|&k| a[i][k] != b[k][j]).count() as i64;
            (0..a.len()).map(|i| (0..8).map(|j| c[i][j] + differ(i, j)).collect()).collect()
        }
        _ => product(a, b, c),
    }
}

fn check(case: &Case, seed: u64, truncates: bool) {
    let (shape, mut noise) = (case.shape, Noise(seed));
    let a = matrix(&mut noise, shape.m, shape.k, case.a.1);
    let b = matrix(&mut noise, shape.k, 8, case.b.1);
    // Sums stay below 2^31, and below 2^11 in f16.
    let c: Matrix = (0..shape.m).map(|_| (0..8).map(|_| Format::Signed(7).fit(noise.next())).collect()).collect();
    let operand = |m: &Matrix, ty: Type, (elements, place): (usize, Place), accumulator| {
        let (name, width) = register(ty, accumulator);
        Operand { ty: name, registers: fragment(m, elements, ty.1, ty.1.bits(), width, place) }
    };
    let mut operands =
        [operand(&a, case.a, shape.a, false), operand(&b, case.b, shape.b, false), operand(&c, case.c, shape.c, true)];
    if case.a.0 == "tf32" {
        // The lower 13 bits of a tf32 do not count.
        for lane in operands[..2].iter_mut().flat_map(|o| o.registers.iter_mut().flatten()) {
            *lane |= noise.next() & 0x1fff;
        }
    }
    let (ty, width) = register(case.c, true);
    let count = operands[2].registers.len();
    let body = format!(
        "mma.sync.aligned.{}.row.col.{d}.{}.{}.{d}{} {}, {}, {}, {};",
        shape.name,
        case.a.0,
        case.b.0,
        case.suffix,
        list("d", count),
        list("a", operands[0].registers.len()),
        list("b", operands[1].registers.len()),
        list("c", count),
        d = case.c.0
    );
    let got = run(&body, &operands, ty, count, truncates);
    let got = matrix_of(&got, shape.m, 8, case.c.1, width, shape.c.1);
    assert_eq!(got, model(case, &a, &b, &c), "{body}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_shape_is_a_product_of_matrices(seed: u64, truncates: bool) {
        for case in cases() {
            check(&case, seed, truncates);
        }
    }
}

/// m16n8k16 with all registers given, A of one type.
fn with_constants(body: &str, a: u64, b: u64, c: u64, truncates: bool) -> u64 {
    let operand = |ty, count, value| Operand { ty, registers: vec![[value; 32]; count] };
    run(body, &[operand("b32", 4, a), operand("b32", 2, b), operand("b32", 4, c)], "b32", 4, truncates)[0][0]
}

#[test]
fn integer_sums_wrap_or_clamp() {
    let registers = "{%d0,%d1,%d2,%d3}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};";
    let text = |clamp: &str| format!("mma.sync.aligned.m16n8k32.row.col{clamp}.s32.s8.u8.s32 {registers}");
    // 32 products of 127 and 1, on the largest number.
    let got = |clamp| with_constants(&text(clamp), 0x7f7f_7f7f, 0x0101_0101, 0x7fff_ffff, false) as u32;
    assert_eq!(got(""), 0x7fff_ffffu32.wrapping_add(32 * 127));
    assert_eq!(got(".satfinite"), 0x7fff_ffff);
    let got = |clamp| with_constants(&text(clamp), 0x8080_8080, 0x0101_0101, 0x8000_0000, false) as u32;
    assert_eq!(got(".satfinite"), 0x8000_0000);
}

#[test]
fn the_two_summations_differ_where_the_isa_leaves_it_open() {
    let text = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%d0,%d1,%d2,%d3}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};";
    // 16 products of 3/4 on 2^24: one by one each is lost, aligned and cut to half units each adds 1/2.
    let (half, one_and_half, big) = (0x3800_3800, 0x3e00_3e00, (2f32.powi(24)).to_bits().into());
    let f32 = |bits: u64| f32::from_bits(bits as u32);
    assert_eq!(f32(with_constants(text, half, one_and_half, big, false)), 2f32.powi(24));
    assert_eq!(f32(with_constants(text, half, one_and_half, big, true)), 2f32.powi(24) + 8.0);
    // Infinities and NaN.
    let (infinity, zero) = (0x7c00_7c00, 0);
    assert_eq!(f32(with_constants(text, infinity, half, big, false)), f32::INFINITY);
    assert_eq!(with_constants(text, infinity, zero, big, false), 0x7fff_ffff);
    assert_eq!(with_constants(text, infinity, zero, big, true), 0x7fff_ffff);
}

#[test]
fn what_does_not_exist_is_refused_with_its_line() {
    let operand = |ty, count| Operand { ty, registers: vec![[0; 32]; count] };
    let operands = [operand("b32", 4), operand("b32", 2), operand("b32", 4)];
    let four = "{%d0,%d1,%d2,%d3}, {%a0,%a1,%a2,%a3}, {%b0,%b1}, {%c0,%c1,%c2,%c3};";
    for (text, expected) in [
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32", "not supported"),
        ("mma.sync.aligned.m16n8k16.row.col.bf16.bf16.bf16.bf16", "not supported"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16", "not supported"),
        ("mma.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32", "not supported"),
        ("mma.sync.aligned.m8n8k16.row.col.f32.f16.f16.f32", "not supported"),
        ("mma.sync.aligned.m16n16k16.row.col.f32.f16.f16.f32", "not supported"),
        ("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32", "not supported"),
        ("mma.sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32", "not supported"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32", "row.col"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32.sparse", "sparse"),
        ("mma.sync.aligned.row.col.f32.f16.f16.f32", "shape"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", "expected 2 registers for A, found 4"),
    ] {
        let message = refusal(&format!("{text} {four}"), &operands, "b32", 4);
        assert!(message.contains(expected), "{text}: {message}");
    }
}
