//! wmma against a scalar product of matrices in memory: every shape, type, layout and state space, with rows apart by more than
//! their length. How a fragment holds its elements is not tested, because the ISA leaves it open; that loads, arithmetic on
//! elements and stores agree is.

mod matrix_support;

use matrix_support::*;
use proptest::prelude::*;
use sim_exec::FindingKind;

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 3],
    ty: &'static str,
    format: Format,
    c: (&'static str, Format),
    d: (&'static str, Format),
    /// 32-bit registers of A and of B; for f64, 64-bit ones (PTX ISA, "Matrix Fragments for WMMA").
    registers: [usize; 2],
    suffix: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |shape, ty, format, c, d, registers| Case { shape, ty, format, c, d, registers, suffix: "" };
    let (f16, f32, s32) = (("f16", F16), ("f32", F32), ("s32", Format::Signed(32)));
    let mut cases = Vec::new();
    for (shape, bf16, bytes) in
        [([16, 16, 16], [4, 4], [2, 2]), ([32, 8, 16], [8, 2], [4, 1]), ([8, 32, 16], [2, 8], [1, 4])]
    {
        for (c, d) in [(f16, f16), (f32, f32), (f16, f32), (f32, f16)] {
            cases.push(case(shape, "f16", F16, c, d, [8, 8]));
        }
        cases.push(case(shape, "bf16", BF16, f32, f32, bf16));
        cases.push(case(shape, "s8", Format::Signed(8), s32, s32, bytes));
        cases.push(case(shape, "u8", Format::Unsigned(8), s32, s32, bytes));
    }
    cases.push(case([16, 16, 8], "tf32", F32, f32, f32, [4, 4]));
    cases.push(case([8, 8, 4], "f64", F64, ("f64", F64), ("f64", F64), [1, 1]));
    cases.push(case([8, 8, 32], "s4", Format::Signed(4), s32, s32, [1, 1]));
    cases.push(case([8, 8, 32], "u4", Format::Unsigned(4), s32, s32, [1, 1]));
    for suffix in [".xor.popc", ".and.popc"] {
        cases.push(Case { suffix, ..case([8, 8, 128], "b1", Format::Unsigned(1), s32, s32, [1, 1]) });
    }
    cases
}

impl Case {
    fn accumulator(&self, (ty, format): (&'static str, Format)) -> (&'static str, usize) {
        let elements = self.shape[0] * self.shape[1] / 32;
        match format.bits() {
            16 => ("b32", elements / 2),
            64 => ("f64", elements),
            _ => (if ty == "f32" { "f32" } else { "b32" }, elements),
        }
    }

    fn model(&self, a: &Matrix, b: &Matrix, c: &Matrix) -> Matrix {
        if self.suffix != ".xor.popc" {
            return product(a, b, c);
        }
        let differ = |i: usize, j: usize| (0..b.len()).filter(|&k| a[i][k] != b[k][j]).count() as i64;
        (0..a.len()).map(|i| (0..8).map(|j| c[i][j] + differ(i, j)).collect()).collect()
    }

    /// A kernel that multiplies, with `between` after the loads; A from shared memory if `shared`, else B by generic address.
    fn kernel(&self, rows: [bool; 4], strides: [usize; 4], shared: Option<usize>, between: &str) -> String {
        let [m, n, k] = self.shape;
        let size = format!("m{m}n{n}k{k}");
        let order = |i: usize| if rows[i] { "row" } else { "col" };
        let wide = if self.ty == "f64" { "f64" } else { "b32" };
        let (c, d) = (self.accumulator(self.c), self.accumulator(self.d));
        let mma_types = match self.ty {
            "f16" => format!("{}.{}", self.d.0, self.c.0),
            ty => format!("{}.{ty}.{ty}.{}", self.d.0, self.c.0),
        };
        let (copy, a_space, a_address) = match shared {
            None => (String::new(), ".global", "%rd1"),
            Some(bytes) => (
                format!(
                    "mov.u64 %rd5, tile; mov.u32 %r1, %tid.x; mul.wide.u32 %rd6, %r1, 4;
                     add.s64 %rd7, %rd1, %rd6; add.s64 %rd6, %rd5, %rd6; mov.u32 %r1, 0;
                     L: ld.global.u32 %r2, [%rd7]; st.shared.u32 [%rd6], %r2;
                     add.s64 %rd7, %rd7, 128; add.s64 %rd6, %rd6, 128; add.u32 %r1, %r1, 128;
                     setp.lt.u32 %p1, %r1, {bytes}; @%p1 bra L; bar.sync 0;"
                ),
                ".shared",
                "%rd5",
            ),
        };
        format!(
            ".version 8.5\n.target sm_90\n.address_size 64
            .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
            .reg .b64 %rd<8>; .reg .b32 %r<4>; .reg .pred %p<2>; .shared .align 128 .b8 tile[{}];
            .reg .{wide} %a<8>, %b<8>; .reg .{} %c<8>; .reg .{} %d<8>;
            ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c]; ld.param.u64 %rd4, [d];
            {copy}
            wmma.load.a.sync.aligned.{}.{size}{a_space}.{ty} {}, [{a_address}], {};
            wmma.load.b.sync.aligned.{}.{size}.{ty} {}, [%rd2], {};
            wmma.load.c.sync.aligned.{}.{size}.global.{} {}, [%rd3], {};
            {between}
            wmma.mma{}.sync.aligned.{}.{}.{size}.{mma_types} {dl}, {al}, {bl}, {cl};
            wmma.store.d.sync.aligned.{}.{size}.global.{} [%rd4], {dl}, {};
            ret; }}",
            shared.unwrap_or(16),
            c.0,
            d.0,
            order(0),
            list("a", self.registers[0]),
            strides[0],
            order(1),
            list("b", self.registers[1]),
            strides[1],
            order(2),
            self.c.0,
            list("c", c.1),
            strides[2],
            self.suffix,
            order(0),
            order(1),
            order(3),
            self.d.0,
            strides[3],
            ty = self.ty,
            dl = list("d", d.1),
            al = list("a", self.registers[0]),
            bl = list("b", self.registers[1]),
            cl = list("c", c.1),
        )
    }

    fn check(&self, seed: u64, truncates: bool) {
        let [m, n, k] = self.shape;
        let mut noise = Noise(seed);
        let mut rows: [bool; 4] = std::array::from_fn(|_| noise.next() & 1 != 0);
        if self.format.bits() < 8 {
            (rows[0], rows[1]) = (true, false);
        }
        let formats = [self.format, self.format, self.c.1, self.d.1];
        let shapes = [[m, k], [k, n], [m, n], [m, n]];
        // Rows start at multiples of 16 bytes; f16 has the most.
        let strides: [usize; 4] = std::array::from_fn(|i| {
            let [r, c] = shapes[i];
            let step = (128 / formats[i].bits() as usize).max(1);
            (if rows[i] { c } else { r }).next_multiple_of(step) + step * (noise.next() % 3) as usize
        });
        let a = matrix(&mut noise, m, k, formats[0]);
        let b = matrix(&mut noise, k, n, formats[1]);
        let c: Matrix = (0..m).map(|_| (0..n).map(|_| Format::Signed(6).fit(noise.next())).collect()).collect();
        let mut buffers: Vec<Vec<u8>> =
            [&a, &b, &c].iter().enumerate().map(|(i, m)| in_memory(m, formats[i], rows[i], strides[i])).collect();
        let padded = buffers[0].len().next_multiple_of(128);
        buffers[0].resize(padded, 0);
        buffers.push(vec![0; (if rows[3] { m } else { n }) * strides[3] * formats[3].bits() as usize / 8]);
        let shared = (noise.next() & 1 != 0).then_some(buffers[0].len());
        let ptx = self.kernel(rows, strides, shared, "");
        let out = run_on(&ptx, 32, truncates, &buffers).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
        let got = from_memory(&out, m, n, formats[3], rows[3], strides[3]);
        assert_eq!(got, self.model(&a, &b, &c), "{ptx}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_shape_is_a_product_of_matrices(seed: u64, truncates: bool) {
        for case in cases() {
            case.check(seed, truncates);
        }
    }
}

const HALF: Case = Case {
    shape: [16, 16, 16],
    ty: "f16",
    format: F16,
    c: ("f32", F32),
    d: ("f32", F32),
    registers: [8, 8],
    suffix: "",
};

fn half_buffers() -> (Matrix, Matrix, Matrix, Vec<Vec<u8>>) {
    let mut noise = Noise(7);
    let (a, b) = (matrix(&mut noise, 16, 16, F16), matrix(&mut noise, 16, 16, F16));
    let c = matrix(&mut noise, 16, 16, F32);
    let buffers =
        vec![in_memory(&a, F16, true, 16), in_memory(&b, F16, true, 16), in_memory(&c, F32, true, 16), vec![0; 1024]];
    (a, b, c, buffers)
}

#[test]
fn arithmetic_on_the_elements_of_fragments_reaches_every_element_once() {
    let (mut a, b, mut c, buffers) = half_buffers();
    // A plus 2 in every element, C times 4.
    let mut between = ".reg .b32 %two; mov.b32 %two, 0x40004000;\n".to_owned();
    for i in 0..8 {
        between += &format!("add.rn.f16x2 %a{i}, %a{i}, %two; mul.f32 %c{i}, %c{i}, 0f40800000;\n");
    }
    let ptx = HALF.kernel([true; 4], [16; 4], None, &between);
    let out = run_on(&ptx, 32, false, &buffers).unwrap();
    a.iter_mut().flatten().for_each(|x| *x += 2);
    c.iter_mut().flatten().for_each(|x| *x *= 4);
    assert_eq!(from_memory(&out, 16, 16, F32, true, 16), product(&a, &b, &c));
}

#[test]
fn a_fragment_is_checked_like_any_load() {
    let (_, _, _, buffers) = half_buffers();
    let good = HALF.kernel([true; 4], [16; 4], None, "");
    run_on(&good, 32, false, &buffers).unwrap();
    let broken = |from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        run_on(&good.replace(from, to), 32, false, &buffers).unwrap_err()
    };
    let kind = |from, to| broken(from, to).kind;
    // One row further, a stride that leaves the buffer, a stride and an address that are not aligned.
    assert_eq!(kind("[%rd1], 16;", "[%rd1+32], 16;"), FindingKind::OutOfBounds);
    assert_eq!(
        kind(
            "[%rd4], {%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7}, 16;",
            "[%rd4], {%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7}, 32;"
        ),
        FindingKind::OutOfBounds
    );
    assert_eq!(kind("[%rd1], 16;", "[%rd1], 12;"), FindingKind::Misaligned);
    assert_eq!(kind("[%rd1], 16;", "[%rd1+16], 16;"), FindingKind::Misaligned);
    // Lanes that disagree about the address.
    let finding = broken(
        "wmma.load.a",
        "mov.u32 %r1, %laneid; mul.wide.u32 %rd5, %r1, 512; add.s64 %rd1, %rd1, %rd5; wmma.load.a",
    );
    assert_eq!(finding.kind, FindingKind::BadOperand);
    assert!(finding.message.contains("same in all lanes"), "{finding}");
    // Shared memory that nothing has written, and a race with the warp's own stores.
    let unwritten =
        good.replace("global.f16", "shared.f16").replace("[%rd1], 16", "[tile], 16").replace("tile[16]", "tile[512]");
    assert_eq!(run_on(&unwritten, 32, false, &buffers).unwrap_err().kind, FindingKind::Uninitialised);
    let shared = HALF.kernel([true; 4], [16; 4], Some(512), "");
    run_on(&shared, 32, false, &buffers).unwrap();
    assert_eq!(
        run_on(&shared.replace("bar.sync 0;", ""), 32, false, &buffers).unwrap_err().kind,
        FindingKind::SharedRace
    );
    // Half a warp.
    let half = good
        .replace("wmma.load.a", "mov.u32 %r1, %laneid; setp.lt.u32 %p1, %r1, 16; @%p1 bra E; wmma.load.a")
        .replace("ret;", "E: ret;");
    assert_eq!(run_on(&half, 32, false, &buffers).unwrap_err().kind, FindingKind::DivergentBarrier);
}

#[test]
fn what_does_not_exist_is_refused_with_its_line() {
    let operand = |ty, count| Operand { ty, registers: vec![[0; 32]; count] };
    let operands = [operand("b32", 8), operand("b32", 8), operand("b32", 8)];
    let (a, d) = (list("a", 8), list("d", 8));
    for (text, expected) in [
        (format!("wmma.load.a.sync.aligned.row.m16n16k8.f16 {a}, [%in], 16;"), "not supported"),
        (format!("wmma.load.a.sync.aligned.row.m16n8k16.f16 {a}, [%in], 16;"), "not supported"),
        (format!("wmma.load.c.sync.aligned.row.m16n16k16.bf16 {a}, [%in], 16;"), "not supported"),
        (format!("wmma.load.a.sync.aligned.m16n16k16.f16 {a}, [%in], 16;"), ".row or .col"),
        (format!("wmma.load.a.sync.aligned.row.m16n16k16.local.f16 {a}, [%in], 16;"), "global, shared or generic"),
        (format!("wmma.load.a.sync.aligned.row.m16n16k16.s8 {a}, [%in], 16;"), "expected 2 registers"),
        ("wmma.load.a.sync.aligned.col.m8n8k32.s4 {%a0}, [%in], 32;".into(), "A in rows"),
        (format!("wmma.mma.sync.aligned.row.col.m16n16k16.f32.bf16.f16.f32 {d}, {a}, {a}, {d};"), "one for A and B"),
        (format!("wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.s8.s32.popc {d}, {a}, {a}, {d};"), "popc"),
        (format!("wmma.store.a.sync.aligned.row.m16n16k16.f16 [%out], {a}, 16;"), "expected .d"),
    ] {
        let message = refusal(&text, &operands, "b32", 8);
        assert!(message.contains(expected), "{text}: {message}");
    }
}
