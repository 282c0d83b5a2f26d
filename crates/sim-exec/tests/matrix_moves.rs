//! ldmatrix, stmatrix and movmatrix against the ISA's formulas: without `.trans`, lane 4 g + t holds row g, columns 2 t and 2 t + 1
//! of the 8 × 8 matrix of register i, whose row r starts at the address that lane 8 i + r gives.

// Lanes are indices in the formulas.
#![allow(clippy::needless_range_loop)]

mod matrix_support;

use matrix_support::*;
use proptest::prelude::*;
use sim_exec::FindingKind;

/// Bytes of shared memory.
const BYTES: usize = 4096;

/// The elements of a lane's register, from matrix `rows`.
fn register(rows: &[[u16; 8]; 8], lane: usize, transposed: bool) -> u64 {
    let (g, t) = (lane / 4, lane % 4);
    let element = |i: usize| if transposed { rows[2 * t + i][g] } else { rows[g][2 * t + i] };
    u64::from(element(0)) | u64::from(element(1)) << 16
}

/// How the instruction gets its addresses.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    Shared,
    Cta,
    Generic,
}

impl Addresses {
    fn all() -> impl Strategy<Value = Addresses> {
        prop_oneof![Just(Addresses::Shared), Just(Addresses::Cta), Just(Addresses::Generic)]
    }

    fn modifier(self) -> &'static str {
        match self {
            Addresses::Shared => ".shared",
            Addresses::Cta => ".shared::cta",
            Addresses::Generic => "",
        }
    }
}

/// One warp: copies `image` to shared memory, takes each lane's offset, runs `body` with it in `%at`, copies shared memory back to
/// `image` and stores `%d0` to `%d3`.
fn kernel(addresses: Addresses, body: &str) -> String {
    let convert = if matches!(addresses, Addresses::Generic) { "cvta.shared.u64 %at, %at;" } else { "" };
    format!(
        ".version 8.5\n.target sm_90\n.address_size 64
        .visible .entry k(.param .u64 offsets, .param .u64 values, .param .u64 data) {{
        .reg .b64 %rd<12>, %at; .reg .b32 %r<8>, %d<4>, %v<4>; .reg .pred %p<2>; .shared .align 128 .b8 tile[{BYTES}];
        ld.param.u64 %rd1, [offsets]; ld.param.u64 %rd2, [values]; ld.param.u64 %rd3, [data];
        mov.u32 %r1, %laneid; mul.wide.u32 %rd4, %r1, 4;
        add.s64 %rd1, %rd1, %rd4; add.s64 %rd2, %rd2, %rd4; add.s64 %rd3, %rd3, %rd4; mov.u64 %rd5, tile;
        add.s64 %rd6, %rd5, %rd4; mov.u32 %r2, 0; mov.b64 %rd7, %rd3; mov.b64 %rd8, %rd6;
        L: ld.global.u32 %r3, [%rd7]; st.shared.u32 [%rd8], %r3; add.s64 %rd7, %rd7, 128; add.s64 %rd8, %rd8, 128;
        add.u32 %r2, %r2, 128; setp.lt.u32 %p1, %r2, {BYTES}; @%p1 bra L;
        ld.global.u32 %v0, [%rd2]; ld.global.u32 %v1, [%rd2+128]; ld.global.u32 %v2, [%rd2+256]; ld.global.u32 %v3, [%rd2+384];
        mov.b32 %d0, 0; mov.b32 %d1, 0; mov.b32 %d2, 0; mov.b32 %d3, 0;
        ld.global.u32 %r4, [%rd1]; cvt.u64.u32 %at, %r4; add.s64 %at, %at, %rd5; {convert}
        bar.sync 0;
        {body}
        bar.sync 0;
        mov.u32 %r2, 0; mov.b64 %rd7, %rd3; mov.b64 %rd8, %rd6;
        M: ld.shared.u32 %r3, [%rd8]; st.global.u32 [%rd7], %r3; add.s64 %rd7, %rd7, 128; add.s64 %rd8, %rd8, 128;
        add.u32 %r2, %r2, 128; setp.lt.u32 %p1, %r2, {BYTES}; @%p1 bra M;
        st.global.u32 [%rd3+{BYTES}], %d0; st.global.u32 [%rd3+{}], %d1;
        st.global.u32 [%rd3+{}], %d2; st.global.u32 [%rd3+{}], %d3;
        ret; }}",
        BYTES + 128,
        BYTES + 256,
        BYTES + 384
    )
}

struct Trial {
    image: Vec<u8>,
    /// Where each lane's row starts.
    offsets: [usize; 32],
    values: Vec<Lanes>,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut noise = Noise(seed);
        let image = (0..BYTES).map(|_| noise.next() as u8).collect();
        // Different rows, in any order.
        let mut rows: Vec<usize> = (0..BYTES / 16).collect();
        let offsets = std::array::from_fn(|_| rows.swap_remove(noise.next() as usize % rows.len()) * 16);
        let values = (0..4).map(|_| std::array::from_fn(|_| noise.next() & 0xffff_ffff)).collect();
        Trial { image, offsets, values }
    }

    /// Memory after the kernel, and its four registers.
    fn run(&self, ptx: &str) -> (Vec<u8>, Vec<Lanes>) {
        let words = |lanes: &mut dyn Iterator<Item = u64>| lanes.flat_map(|v| (v as u32).to_le_bytes()).collect();
        let mut data = self.image.clone();
        data.resize(BYTES + 512, 0);
        let offsets: Vec<u8> = words(&mut self.offsets.iter().map(|&o| o as u64));
        let values: Vec<u8> = words(&mut self.values.iter().flatten().copied());
        let mut out = run_on(ptx, 32, false, &[offsets, values, data]).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
        let tail = out.split_off(BYTES);
        let word = |at: usize| u64::from(u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]));
        (out, (0..4).map(|r| std::array::from_fn(|lane| word(128 * r + 4 * lane))).collect())
    }

    fn matrix(&self, i: usize) -> [[u16; 8]; 8] {
        std::array::from_fn(|row| {
            let at = self.offsets[8 * i + row];
            std::array::from_fn(|c| u16::from_le_bytes([self.image[at + 2 * c], self.image[at + 2 * c + 1]]))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ldmatrix_loads_fragments(seed: u64, size in 0u32..3, transposed: bool, addresses in Addresses::all()) {
        let count = 1 << size;
        let trial = Trial::new(seed);
        let trans = if transposed { ".trans" } else { "" };
        let space = addresses.modifier();
        let body = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {}, [%at];", list("d", count));
        let (image, d) = trial.run(&kernel(addresses, &body));
        prop_assert_eq!(image, trial.image.clone());
        for (i, d) in d[..count].iter().enumerate() {
            let rows = trial.matrix(i);
            let want: Lanes = std::array::from_fn(|lane| register(&rows, lane, transposed));
            prop_assert_eq!(d, &want, "{} register {}", body, i);
        }
    }

    #[test]
    fn stmatrix_stores_fragments(seed: u64, size in 0u32..3, transposed: bool, addresses in Addresses::all()) {
        let count = 1 << size;
        let trial = Trial::new(seed);
        let trans = if transposed { ".trans" } else { "" };
        let space = addresses.modifier();
        let body = format!("stmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 [%at], {};", list("v", count));
        let (image, _) = trial.run(&kernel(addresses, &body));
        let mut want = trial.image.clone();
        for (i, values) in trial.values[..count].iter().enumerate() {
            for lane in 0..32 {
                for half in 0..2 {
                    let (g, place) = (lane / 4, 2 * (lane % 4) + half);
                    let (row, column) = if transposed { (place, g) } else { (g, place) };
                    let at = trial.offsets[8 * i + row] + 2 * column;
                    want[at..at + 2].copy_from_slice(&((values[lane] >> (16 * half)) as u16).to_le_bytes());
                }
            }
        }
        prop_assert!(image == want, "{}", body);
    }

    /// Byte b of register r of 16 × 16 bytes: row 4 t + 2 r + b mod 2, column g + 8 (b div 2).
    #[test]
    fn ldmatrix_loads_transposed_bytes(seed: u64, count in 1usize..3, addresses in Addresses::all()) {
        let trial = Trial::new(seed);
        let space = addresses.modifier();
        let body =
            format!("ldmatrix.sync.aligned.m16n16.x{count}.trans{space}.b8 {}, [%at];", list("d", 2 * count));
        let (image, d) = trial.run(&kernel(addresses, &body));
        prop_assert_eq!(image, trial.image.clone());
        for (i, d) in d[..2 * count].iter().enumerate() {
            for lane in 0..32 {
                for b in 0..4 {
                    let row = 4 * (lane % 4) + 2 * (i % 2) + b % 2;
                    let at = trial.offsets[16 * (i / 2) + row] + lane / 4 + 8 * (b / 2);
                    prop_assert_eq!((d[lane] >> (8 * b)) as u8, trial.image[at], "{} lane {} byte {}", body, lane, b);
                }
            }
        }
    }

    /// Byte b of the register of 16 × 8 bytes, which lie in memory as 8 rows: row 2 t + b mod 2, column g + 8 (b div 2).
    #[test]
    fn stmatrix_stores_transposed_bytes(seed: u64, size in 0u32..3, addresses in Addresses::all()) {
        let count = 1 << size;
        let trial = Trial::new(seed);
        let space = addresses.modifier();
        let body = format!("stmatrix.sync.aligned.m16n8.x{count}.trans{space}.b8 [%at], {};", list("v", count));
        let (image, _) = trial.run(&kernel(addresses, &body));
        let mut want = trial.image.clone();
        for (i, values) in trial.values[..count].iter().enumerate() {
            for lane in 0..32 {
                for b in 0..4 {
                    let row = 2 * (lane % 4) + b % 2;
                    want[trial.offsets[8 * i + row] + lane / 4 + 8 * (b / 2)] = (values[lane] >> (8 * b)) as u8;
                }
            }
        }
        prop_assert!(image == want, "{}", body);
    }

    #[test]
    fn movmatrix_transposes(seed: u64) {
        let trial = Trial::new(seed);
        let (_, d) = trial.run(&kernel(Addresses::Shared, "movmatrix.sync.aligned.m8n8.trans.b16 %d0, %v0;"));
        // Element (row, column) is half column mod 2 of lane 4 row + column / 2.
        let element = |register: &Lanes, row: usize, column: usize| {
            (register[4 * row + column / 2] >> (16 * (column % 2))) as u16
        };
        for row in 0..8 {
            for column in 0..8 {
                prop_assert_eq!(element(&d[0], row, column), element(&trial.values[0], column, row));
            }
        }
    }
}

#[test]
fn matrix_addresses_are_checked() {
    let trial = Trial::new(1);
    let kind = |addresses, body: &str| {
        let ptx = kernel(addresses, body);
        let data = vec![0; BYTES + 512];
        let offsets = trial.offsets.iter().flat_map(|&o| (o as u32).to_le_bytes()).collect();
        run_on(&ptx, 32, false, &[offsets, vec![0; 512], data]).expect_err(body).kind
    };
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%d0,%d1,%d2,%d3}, [%at";
    assert_eq!(kind(Addresses::Shared, &format!("{load}+8];")), FindingKind::Misaligned);
    assert_eq!(kind(Addresses::Shared, &format!("{load}+{BYTES}];")), FindingKind::OutOfBounds);
    let store = "stmatrix.sync.aligned.m8n8.x2.b16 [%at], {%v0,%v1};";
    // A shared offset is no generic address, and a generic one of global memory is not shared.
    assert_eq!(kind(Addresses::Shared, store), FindingKind::OutOfBounds);
    assert_eq!(kind(Addresses::Generic, &store.replace("%at", "%rd3")), FindingKind::OutOfBounds);
    let halves = "setp.lt.u32 %p1, %r1, 16; @%p1 movmatrix.sync.aligned.m8n8.trans.b16 %d0, %v0;";
    assert_eq!(kind(Addresses::Shared, halves), FindingKind::DivergentBarrier);
}

#[test]
fn what_does_not_exist_is_refused_with_its_line() {
    let operand = |ty, count| Operand { ty, registers: vec![[0; 32]; count] };
    let operands = [operand("b32", 4)];
    for (text, expected) in [
        ("ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%d0,%d1,%d2}, [%lane];", ".x1, .x2 or .x4"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%d0}, [%lane];", "expected 2 registers"),
        ("ldmatrix.sync.aligned.m8n8.x1.global.b16 {%d0}, [%in];", "shared or generic"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b32 {%d0}, [%lane];", "not supported"),
        ("ldmatrix.sync.aligned.m16n8.x1.trans.shared.b8 {%d0}, [%lane];", "not supported"),
        ("ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%d0,%d1}, [%lane];", "not supported"),
        ("ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%d0}, [%lane];", "expected 2 registers"),
        ("ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8 {%d0,%d1}, [%lane];", "not supported"),
        ("ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64 {%d0}, [%lane];", "not supported"),
        ("stmatrix.sync.aligned.m8n8.x1.shared.b8 [%lane], {%a0};", "not supported"),
        ("movmatrix.sync.aligned.m8n8.b16 %d0, %a0;", ".trans"),
    ] {
        let message = refusal(text, &operands, "b32", 4);
        assert!(message.contains(expected), "{text}: {message}");
    }
}
