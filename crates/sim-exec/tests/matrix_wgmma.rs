//! wgmma against a scalar product of matrices: every type, widths from 8 to 256, A in registers and in shared memory, both
//! orders of 16-bit operands, every swizzle, negated inputs, with and without the old accumulator.
//!
//! The images of the operands in shared memory are written from the tables of the PTX ISA ("Shared Memory Matrix Layout",
//! "Swizzling Modes", "Strides"), fragments of registers from its formulas.

mod matrix_support;

use matrix_support::*;
use proptest::prelude::*;

/// Bytes for A's image; B's follows.
const A_BYTES: usize = 16 << 10;
const SHARED_BYTES: usize = 80 << 10;

#[derive(Clone, Copy, Debug)]
struct Case {
    a: (&'static str, Format),
    b: (&'static str, Format),
    d: (&'static str, Format),
    k: usize,
    suffix: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |a, b, d, k| Case { a, b, d, k, suffix: "" };
    let (f16, bf16, tf32, f32) = (("f16", F16), ("bf16", BF16), ("tf32", F32), ("f32", F32));
    let s32 = ("s32", Format::Signed(32));
    let mut cases =
        vec![case(f16, f16, f32, 16), case(f16, f16, f16, 16), case(bf16, bf16, f32, 16), case(tf32, tf32, f32, 8)];
    let fp8 = [("e4m3", E4M3), ("e5m2", E5M2)];
    let bytes = [("s8", Format::Signed(8)), ("u8", Format::Unsigned(8))];
    for i in 0..4 {
        cases.extend([f16, f32].map(|d| case(fp8[i % 2], fp8[i / 2], d, 32)));
        cases.push(case(bytes[i % 2], bytes[i / 2], s32, 32));
    }
    let bit = ("b1", Format::Unsigned(1));
    cases.push(Case { suffix: ".and.popc", ..case(bit, bit, s32, 256) });
    cases
}

/// Where an operand lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Image {
    start: usize,
    /// Bytes per line of the swizzled pattern: 16 (none), 32, 64 or 128.
    width: usize,
    leading: usize,
    stride: usize,
    /// Rows of A (columns of B) lie side by side, instead of the elements along K.
    along_mn: bool,
}

impl Image {
    /// An image of `lines` rows of A (columns of B) at `start`.
    fn new(noise: &mut Noise, start: usize, lines: usize, along_mn: bool) -> Image {
        let width = 16 << (noise.next() % 4);
        let core = 8 * width;
        let gap = |noise: &mut Noise| if noise.next() & 1 != 0 { core } else { 0 };
        // Two groups of core matrices along K; along rows as many as there are.
        let across = if along_mn && width > 16 { lines.div_ceil(width / 2) } else { lines.div_ceil(8) };
        let (near, far) = (core + gap(noise), gap(noise));
        let k_first = noise.next() & 1 != 0;
        let (over_k, over_lines) = if k_first { (near, 2 * near + far) } else { (across * near + far, near) };
        let (leading, stride) = match (along_mn, width) {
            (true, 16) => (over_k, over_lines),
            (true, _) => (over_lines, over_k),
            // Ignored when swizzled.
            (false, 16) => (over_k, over_lines),
            (false, _) => (16, near),
        };
        Image { start, width, leading, stride, along_mn }
    }

    /// Byte of element (row or column `mn`, `k`), `bytes` long each.
    fn address(&self, mn: usize, k: usize, bytes: usize) -> usize {
        let per = 16 / bytes;
        // Line of eight, number of the 16-byte piece in the line, byte in the piece.
        let (line, piece, byte, group) = match (self.along_mn, self.width) {
            (false, 16) => (mn % 8, 0, k % per * bytes, mn / 8 * self.stride + k / per * self.leading),
            (false, _) => (mn % 8, k / per, k % per * bytes, mn / 8 * self.stride),
            (true, 16) => (k % 8, 0, mn % 8 * 2, mn / 8 * self.stride + k / 8 * self.leading),
            (true, w) => (k % 8, mn % (w / 2) / 8, mn % 8 * 2, mn / (w / 2) * self.leading + k / 8 * self.stride),
        };
        // The pattern repeats after eight lines; within it pieces of a line change places.
        let place = match self.width {
            128 => piece ^ line,
            64 => piece ^ (line / 2),
            32 => piece ^ (line / 4),
            _ => piece,
        };
        self.start + group + line * self.width + place * 16 + byte
    }

    fn descriptor(&self) -> u64 {
        let field = |bytes: usize| (bytes as u64 / 16) & 0x3fff;
        let swizzle = match self.width {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        field(self.start) | field(self.leading) << 16 | field(self.stride) << 32 | swizzle << 62
    }

    /// Writes an operand whose element (mn, k) is `element`, with codes of `bits` bits.
    fn write(&self, shared: &mut [u8], lines: usize, k: usize, bits: usize, element: impl Fn(usize, usize) -> u64) {
        for mn in 0..lines {
            if bits == 1 {
                for byte in 0..k / 8 {
                    let code = (0..8).map(|i| element(mn, 8 * byte + i) << i).sum::<u64>();
                    shared[self.address(mn, byte, 1)] = code as u8;
                }
                continue;
            }
            for k in 0..k {
                let at = self.address(mn, k, bits / 8);
                shared[at..at + bits / 8].copy_from_slice(&element(mn, k).to_le_bytes()[..bits / 8]);
            }
        }
    }
}

/// A in registers: as mma's, 16 rows per warp.
fn a_place(bits: u32) -> Place {
    match bits {
        32 => |g, t, i| (if i % 2 == 0 { g } else { g + 8 }, if i < 2 { t } else { t + 4 }),
        16 => |g, t, i| {
            let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
            (row, if i < 4 { t * 2 + (i & 1) } else { t * 2 + (i & 1) + 8 })
        },
        8 => |g, t, i| {
            let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
            (row, if i < 8 { t * 4 + (i & 3) } else { t * 4 + (i & 3) + 16 })
        },
        _ => |g, t, i| {
            let row = if i < 32 || (64..96).contains(&i) { g } else { g + 8 };
            (row, if i < 64 { t * 32 + (i & 31) } else { t * 32 + (i & 31) + 128 })
        },
    }
}

/// Accumulators of a warp: 16 rows.
const D_PLACE: Place = |g, t, i| (if i & 2 == 0 { g } else { g + 8 }, i / 4 * 8 + t * 2 + (i & 1));

/// Fragments of all four warps as words in memory, register after register, thread after thread.
fn words(warps: &[Vec<Lanes>]) -> Vec<u8> {
    let registers = warps[0].len();
    let threads = |r: usize| warps.iter().flat_map(move |w| w[r]).flat_map(|v| (v as u32).to_le_bytes());
    (0..registers).flat_map(threads).collect()
}

fn rows_of(matrix: &Matrix, warp: usize) -> Matrix {
    matrix[16 * warp..][..16].to_vec()
}

struct Setup {
    a_image: Option<Image>,
    b_image: Image,
    negate: [bool; 2],
    accumulate: bool,
    columns: usize,
}

fn kernel(case: &Case, setup: &Setup, registers: usize) -> String {
    let ty = if case.d.0 == "f32" { "f32" } else { "b32" };
    let mut loads = String::new();
    for i in 0..4 {
        loads += &format!("ld.global.b32 %a{i}, [%rd2+{}];\n", 512 * i);
    }
    for i in 0..registers {
        loads += &format!("ld.global.{ty} %d{i}, [%rd3+{}];\n", 512 * i);
    }
    let stores: String = (0..registers).map(|i| format!("st.global.{ty} [%rd4+{}], %d{i};\n", 512 * i)).collect();
    let descriptors = format!(
        "mov.b64 %rd5, {}; mov.b64 %rd6, {};",
        setup.a_image.map_or(0, |i| i.descriptor()),
        setup.b_image.descriptor()
    );
    let sign = |negative: bool| if negative { "-1" } else { "1" };
    let mut operands = if setup.a_image.is_some() { "%rd5".to_owned() } else { list("a", 4) };
    operands += ", %rd6, %p1";
    if case.d.0 != "s32" {
        operands += &format!(", {}, {}", sign(setup.negate[0]), sign(setup.negate[1]));
    }
    if case.a.1.bits() == 16 {
        if let Some(image) = setup.a_image {
            operands += &format!(", {}", u32::from(image.along_mn));
        }
        operands += &format!(", {}", u32::from(setup.b_image.along_mn));
    }
    format!(
        ".version 8.5\n.target sm_90a\n.address_size 64
        .visible .entry k(.param .u64 image, .param .u64 a, .param .u64 c, .param .u64 d) {{
        .reg .b64 %rd<12>; .reg .b32 %r<8>; .reg .pred %p<3>; .reg .b32 %a<4>; .reg .{ty} %d<{registers}>;
        .shared .align 1024 .b8 tile[{SHARED_BYTES}];
        ld.param.u64 %rd1, [image]; ld.param.u64 %rd2, [a]; ld.param.u64 %rd3, [c]; ld.param.u64 %rd4, [d];
        mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; cvt.u64.u32 %rd7, %r2;
        add.s64 %rd2, %rd2, %rd7; add.s64 %rd3, %rd3, %rd7; add.s64 %rd4, %rd4, %rd7; add.s64 %rd8, %rd1, %rd7;
        mov.u32 %r3, tile; add.u32 %r3, %r3, %r2; mov.u32 %r4, 0;
        L: ld.global.u32 %r5, [%rd8]; st.shared.u32 [%r3], %r5;
        add.s64 %rd8, %rd8, 512; add.u32 %r3, %r3, 512; add.u32 %r4, %r4, 512;
        setp.lt.u32 %p2, %r4, {SHARED_BYTES}; @%p2 bra L;
        {loads}
        fence.proxy.async; bar.sync 0;
        {descriptors}
        setp.eq.u32 %p1, 1, {};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n{}k{}{}.{}.{}.{}{} {}, {operands};
        wgmma.commit_group.sync.aligned;
        wgmma.wait_group.sync.aligned 0;
        {stores}
        ret; }}",
        u32::from(setup.accumulate),
        setup.columns,
        case.k,
        "",
        case.d.0,
        case.a.0,
        case.b.0,
        case.suffix,
        list("d", registers),
    )
}

fn check(case: &Case, seed: u64, truncates: bool) {
    let mut noise = Noise(seed);
    let columns = [8, 16, 24, 32, 64, 96, 128, 256][noise.next() as usize % 8];
    let bits = case.a.1.bits();
    let transposable = bits == 16;
    let mut transposed = || transposable && noise.next() & 1 != 0;
    let along_mn = [transposed(), transposed()];
    let a_image = (noise.next() & 1 != 0).then(|| Image::new(&mut noise, 0, 64, along_mn[0]));
    let b_image = Image::new(&mut noise, A_BYTES, columns, along_mn[1]);
    let negate = [(); 2].map(|()| case.d.0 != "s32" && noise.next() & 1 != 0);
    let setup = Setup { a_image, b_image, negate, accumulate: noise.next() & 1 != 0, columns };

    let a = matrix(&mut noise, 64, case.k, case.a.1);
    let b = matrix(&mut noise, case.k, columns, case.b.1);
    let c: Matrix = (0..64).map(|_| (0..columns).map(|_| Format::Signed(6).fit(noise.next())).collect()).collect();
    let junk = if case.a.0 == "tf32" { 0x1fff } else { 0 };
    // Bytes that belong to no operand are noise.
    let mut shared: Vec<u8> = (0..SHARED_BYTES).map(|_| noise.next() as u8).collect();
    if let Some(image) = a_image {
        image.write(&mut shared, 64, case.k, bits as usize, |row, k| case.a.1.encode(a[row][k]) | junk);
    }
    b_image.write(&mut shared, columns, case.k, bits as usize, |column, k| case.b.1.encode(b[k][column]));
    let elements = case.k / 2;
    let a_registers: Vec<_> =
        (0..4).map(|w| fragment(&rows_of(&a, w), elements, case.a.1, bits, 32, a_place(bits))).collect();
    let d_bits = case.d.1.bits();
    let c_registers: Vec<_> =
        (0..4).map(|w| fragment(&rows_of(&c, w), columns / 2, case.d.1, d_bits, 32, D_PLACE)).collect();
    let registers = c_registers[0].len();
    let ptx = kernel(case, &setup, registers);
    let buffers = [shared, words(&a_registers), words(&c_registers), vec![0; 512 * registers]];
    let out = run_on(&ptx, 128, truncates, &buffers).unwrap_or_else(|e| panic!("{e}\n{ptx}"));

    let start = if setup.accumulate { c } else { vec![vec![0; columns]; 64] };
    let flip =
        |m: &Matrix, negative| m.iter().map(|r| r.iter().map(|x| if negative { -x } else { *x }).collect()).collect();
    let want = product(&flip(&a, negate[0]), &flip(&b, negate[1]), &start);
    for warp in 0..4 {
        let lanes = |r: usize| -> Lanes {
            std::array::from_fn(|lane| {
                let at = 512 * r + 4 * (32 * warp + lane);
                u32::from_le_bytes(out[at..at + 4].try_into().expect("four bytes")).into()
            })
        };
        let got: Vec<Lanes> = (0..registers).map(lanes).collect();
        let got = matrix_of(&got, 16, columns, case.d.1, 32, D_PLACE);
        assert_eq!(got, rows_of(&want, warp), "seed {seed} warp {warp}: {a_image:?} {b_image:?}\n{ptx}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_type_and_layout_is_a_product_of_matrices(seed: u64, truncates: bool) {
        for (i, case) in cases().iter().enumerate() {
            check(case, seed.wrapping_add(i as u64), truncates);
        }
    }
}

#[test]
fn what_does_not_exist_is_refused_with_its_line() {
    let operand = |ty, count| Operand { ty, registers: vec![[0; 32]; count] };
    let operands = [operand("b32", 4)];
    let (d, a) = (list("d", 4), list("a", 4));
    for (text, expected) in [
        (format!("wgmma.mma_async.sync.aligned.m64n8k8.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 0;"), "not supported"),
        (format!("wgmma.mma_async.sync.aligned.m64n12k16.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 0;"), "not supported"),
        (format!("wgmma.mma_async.sync.aligned.m64n264k16.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 0;"), "not supported"),
        (format!("wgmma.mma_async.sync.aligned.m64n40k32.s32.s8.s8 {d}, %in, %in, 1;"), "not supported"),
        (format!("wgmma.mma_async.sync.aligned.m64n8k16.f16.bf16.bf16 {d}, %in, %in, 1, 1, 1, 0, 0;"), "not supported"),
        (
            format!("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 0;"),
            "expected 8 registers",
        ),
        (
            format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {d}, {a}, %in, 1, 1, 1, 0, 0;"),
            "expected 7 operands",
        ),
        (
            format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {d}, %in, %in, 1, 2, 1, 0, 0;"),
            "scale of 1 or -1",
        ),
        (format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 2;"), "transposition"),
        (
            format!("wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {d}, %in, %in, 1, 1, 1, 0, 0;"),
            "not supported",
        ),
        ("wgmma.wait_group.sync.aligned %lane;".into(), "number of groups"),
        ("wgmma.fence.sync;".into(), ".sync.aligned"),
    ] {
        let message = refusal(&text, &operands, "f32", 4);
        assert!(message.contains(expected), "{text}: {message}");
    }
}
