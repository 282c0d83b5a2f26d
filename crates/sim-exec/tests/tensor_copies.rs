//! Tensor copies of random boxes, against a model that moves single bytes.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Bench, finding};
use proptest::prelude::*;
use sim_exec::tensor_map::{Swizzle, TensorMap};
use sim_exec::{FindingKind, GpuConfig, LaunchConfig};

/// Bytes of shared memory that boxes lie in.
const ROOM_BYTES: u32 = 8192;
/// Bytes before the first element, so that a box which begins before the tensor would show.
const MARGIN_BYTES: u64 = 256;

/// A kernel that fills its shared memory with a pattern, makes one copy, and writes its shared memory out.
fn kernel(rank: usize, copy: &str) -> String {
    let coordinates: Vec<String> = (0..rank).map(|i| format!("%c{i}")).collect();
    let copy = copy.replace("RANK", &rank.to_string()).replace("COORDINATES", &coordinates.join(", "));
    format!(
        "
.visible .entry copies(.param .align 64 .b8 map[128], .param .u64 out, .param .u32 base, .param .u32 bytes,
    .param .u32 s0, .param .u32 s1, .param .u32 s2, .param .u32 s3, .param .u32 s4) {{
  .reg .b32 %r<20>; .reg .b32 %c<5>; .reg .b64 %rd<12>; .reg .pred %p<4>;
  .shared .align 1024 .b8 room[{ROOM_BYTES}]; .shared .align 8 .b8 bar[8];
  mov.b64 %rd1, map; cvta.param.u64 %rd1, %rd1; ld.param.u64 %rd2, [out]; ld.param.u32 %r2, [base]; ld.param.u32 %r3, [bytes];
  ld.param.u32 %c0, [s0]; ld.param.u32 %c1, [s1]; ld.param.u32 %c2, [s2]; ld.param.u32 %c3, [s3]; ld.param.u32 %c4, [s4];
  mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; mov.u32 %r4, room; add.u32 %r5, %r4, %r2; mov.u32 %r6, bar;
  @%p1 mbarrier.init.shared::cta.b64 [%r6], 1;
  shl.b32 %r7, %r1, 2;
FILL: add.u32 %r8, %r4, %r7; mul.lo.u32 %r9, %r7, 0x9e3779b1; st.shared.u32 [%r8], %r9; add.u32 %r7, %r7, 1024;
  setp.lt.u32 %p2, %r7, {ROOM_BYTES}; @%p2 bra FILL;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  @!%p1 bra COPIED;
  {copy}
COPIED:
  bar.sync 1;
  shl.b32 %r7, %r1, 2;
OUT: add.u32 %r8, %r4, %r7; ld.shared.u32 %r9, [%r8]; cvt.u64.u32 %rd3, %r7; add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r9; add.u32 %r7, %r7, 1024; setp.lt.u32 %p2, %r7, {ROOM_BYTES}; @%p2 bra OUT;
  ret; }}"
    )
}

const LOAD: &str = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], %r3;
  cp.async.bulk.prefetch.tensor.RANKd.L2.global.tile [%rd1, {COORDINATES}];
  cp.async.bulk.tensor.RANKd.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r5], [%rd1, {COORDINATES}], [%r6];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r6], 0; @!%p3 bra WAIT;";
const STORE: &str = "cp.async.bulk.tensor.RANKd.global.shared::cta.tile.bulk_group [%rd1, {COORDINATES}], [%r5];
  cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
const ADD: &str = "cp.reduce.async.bulk.tensor.RANKd.global.shared::cta.add.bulk_group [%rd1, {COORDINATES}], [%r5];
  cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";

/// What the kernel fills its shared memory with.
fn pattern() -> Vec<u8> {
    (0..ROOM_BYTES / 4).flat_map(|i| (4 * i).wrapping_mul(0x9e37_79b1).to_le_bytes()).collect()
}

/// A tensor and a box of it; the tensor's address is not known yet.
#[derive(Clone, Debug)]
struct Boxed {
    map: TensorMap,
    start: Vec<i32>,
    base: u32,
    /// From the first element to the end of the last.
    tensor_bytes: u64,
}

fn swizzles() -> impl Strategy<Value = Swizzle> {
    prop::sample::select(vec![Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128])
}

/// Types with their bytes: u8, u16, u32, f16, f32, f64, bf16.
fn types() -> impl Strategy<Value = (u32, u32)> {
    prop::sample::select(vec![(0, 1), (1, 2), (2, 4), (6, 2), (7, 4), (8, 8), (9, 2)])
}

fn boxes(types: impl Strategy<Value = (u32, u32)>) -> impl Strategy<Value = Boxed> {
    let outer = prop::collection::vec((1u64..7, 1u32..5, 1u32..4, 0u64..3, -4i32..8), 0..5);
    (types, swizzles(), any::<bool>(), 1u32..9, 1u64..100, -20i32..60, 0u32..8, outer).prop_map(
        |((data_type, element_bytes), swizzle, nan, units, width, first, base, outer)| {
            let units = match swizzle {
                Swizzle::None => units,
                Swizzle::Bytes32 => units.min(2),
                Swizzle::Bytes64 => units.min(4),
                Swizzle::Bytes128 => units.min(8),
            };
            let (mut dims, mut box_dims, mut element_strides) =
                (vec![width], vec![16 * units / element_bytes], vec![3]);
            let (mut strides_bytes, mut start) = (vec![], vec![first]);
            let mut end = width * u64::from(element_bytes);
            let mut stride = end.next_multiple_of(16);
            for (dim, box_dim, element_stride, gap, at) in outer {
                stride += 16 * gap;
                strides_bytes.push(stride);
                end += stride * (dim - 1);
                stride *= dim;
                dims.push(dim);
                box_dims.push(box_dim);
                element_strides.push(element_stride);
                start.push(at);
            }
            let map = TensorMap {
                address: 0,
                element_bytes,
                dims,
                strides_bytes,
                box_dims,
                element_strides,
                swizzle,
                fills_nan: nan && data_type >= 6,
                data_type,
            };
            Boxed { map, start, base: 128 * base, tensor_bytes: end }
        },
    )
}

impl Boxed {
    /// Whether the box fits, by the most that it can need.
    fn fits(&self) -> bool {
        let rows: u32 = self.map.box_dims[1..].iter().product();
        rows * 128 + self.base <= ROOM_BYTES
    }

    /// Bytes in the box: for each its place in shared memory, and in the tensor if it lies there, and its place in its element.
    fn bytes(&self) -> Vec<(usize, Option<u64>, usize)> {
        let map = &self.map;
        let mut out = Vec::new();
        let mut index = vec![0u32; map.dims.len()];
        let mut row = 0;
        let row_bytes = match map.swizzle {
            Swizzle::None => map.box_dims[0] * map.element_bytes,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        };
        loop {
            for element in 0..map.box_dims[0] {
                index[0] = element;
                let at = |i: usize| {
                    let step = if i == 0 { 1 } else { map.element_strides[i] };
                    i64::from(self.start[i]) + i64::from(index[i] * step)
                };
                let inside = (0..index.len()).all(|i| (0..map.dims[i] as i64).contains(&at(i)));
                for byte in 0..map.element_bytes {
                    let outer: i64 = (1..index.len()).map(|i| at(i) * map.strides_bytes[i - 1] as i64).sum();
                    let tensor = outer + at(0) * i64::from(map.element_bytes) + i64::from(byte);
                    let shared = self.base + row * row_bytes + element * map.element_bytes + byte;
                    out.push((swizzled(map.swizzle, shared), inside.then_some(tensor as u64), byte as usize));
                }
            }
            row += 1;
            // The next row: dimension 1 counts fastest.
            let mut i = 1;
            loop {
                if i == index.len() {
                    return out;
                }
                index[i] += 1;
                if index[i] * map.element_strides[i] < map.box_dims[i] {
                    break;
                }
                index[i] = 0;
                i += 1;
            }
        }
    }

    /// Runs a kernel with the tensor's bytes in memory. Returns those and shared memory afterwards.
    fn run(&self, copy: &str, tensor: &[u8], seed: u64) -> (Vec<u8>, Vec<u8>) {
        let mut bench = Bench::with(&kernel(self.map.dims.len(), copy), GpuConfig::default());
        let memory = bench.gpu.memory.alloc(MARGIN_BYTES + tensor.len() as u64, "tensor").unwrap();
        bench.gpu.memory.write(memory, &vec![0xee; MARGIN_BYTES as usize]).unwrap();
        bench.gpu.memory.write(memory + MARGIN_BYTES, tensor).unwrap();
        bench.tensor_map(&TensorMap { address: memory + MARGIN_BYTES, ..self.map.clone() });
        let out = bench.room(ROOM_BYTES.into());
        bench.value(self.base);
        bench.value(self.bytes().len() as u32);
        (0..5).for_each(|i| bench.value(self.start.get(i).copied().unwrap_or(0) as u32));
        let report = bench.launch(LaunchConfig { block: [256, 1, 1], seed, ..LaunchConfig::default() });
        let counters = report.unwrap_or_else(|e| panic!("{self:?}: {e}")).counters;
        let moved = self.bytes().iter().filter(|(_, tensor, _)| tensor.is_some()).count() as u64;
        assert_eq!(counters.bulk_load_bytes + counters.bulk_store_bytes, moved);
        let mut bytes = vec![0; tensor.len()];
        bench.gpu.memory.read(memory + MARGIN_BYTES, &mut bytes).unwrap();
        let mut shared = vec![0; ROOM_BYTES as usize];
        bench.gpu.memory.read(out, &mut shared).unwrap();
        (bytes, shared)
    }
}

/// Each bit of a chunk's number on its own.
fn swizzled(swizzle: Swizzle, at: u32) -> usize {
    let bit = |n: u32| at >> n & 1;
    let flips = [
        (4, swizzle != Swizzle::None),
        (5, matches!(swizzle, Swizzle::Bytes64 | Swizzle::Bytes128)),
        (6, swizzle == Swizzle::Bytes128),
    ];
    let flip: u32 = flips.iter().filter(|(_, on)| *on).map(|(n, _)| bit(n + 3) << n).sum();
    (at ^ flip) as usize
}

fn bytes_of(count: u64, seed: u64) -> Vec<u8> {
    (0..count).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 32) as u8).collect()
}

/// NaN of so many bytes, as the simulated GPU fills it in.
fn nan(bytes: u32) -> Vec<u8> {
    let mut nan = vec![0xff; bytes as usize];
    nan[bytes as usize - 1] = 0x7f;
    nan
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn loads_match_a_model_of_single_bytes(boxed in boxes(types()).prop_filter("fits", Boxed::fits), seed in any::<u64>()) {
        let tensor = bytes_of(boxed.tensor_bytes, seed);
        let (after, shared) = boxed.run(LOAD, &tensor, seed);
        prop_assert_eq!(&after, &tensor);
        let fill = if boxed.map.fills_nan { nan(boxed.map.element_bytes) } else { vec![0; 8] };
        let mut expected = pattern();
        for (at, from, byte) in boxed.bytes() {
            expected[at] = from.map_or(fill[byte], |from| tensor[from as usize]);
        }
        prop_assert_eq!(shared, expected);
    }

    #[test]
    fn stores_match_a_model_of_single_bytes(boxed in boxes(types()).prop_filter("fits", Boxed::fits), seed in any::<u64>()) {
        let tensor = bytes_of(boxed.tensor_bytes, seed);
        let (after, shared) = boxed.run(STORE, &tensor, seed);
        prop_assert_eq!(&shared, &pattern());
        let mut expected = tensor;
        for (at, to, _) in boxed.bytes() {
            if let Some(to) = to {
                expected[to as usize] = shared[at];
            }
        }
        prop_assert_eq!(after, expected);
    }

    #[test]
    fn reductions_match_a_model_of_single_elements(
        boxed in boxes(Just((2, 4))).prop_filter("fits", Boxed::fits),
        seed in any::<u64>(),
    ) {
        let tensor = bytes_of(boxed.tensor_bytes, seed);
        let (after, shared) = boxed.run(ADD, &tensor, seed);
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let firsts = boxed.bytes().into_iter().filter(|(_, _, byte)| *byte == 0);
        let added: BTreeMap<usize, u32> = firsts.filter_map(|(at, to, _)| Some((to? as usize, word(&shared, at)))).collect();
        for at in (0..tensor.len()).step_by(4) {
            let expected = word(&tensor, at).wrapping_add(added.get(&at).copied().unwrap_or(0));
            prop_assert_eq!(word(&after, at), expected, "offset {}", at);
        }
    }
}

/// 16 × 16 words in boxes of 8 rows, 128-byte swizzle.
fn plain() -> Boxed {
    Boxed {
        map: TensorMap {
            address: 0,
            element_bytes: 4,
            dims: vec![32, 16],
            strides_bytes: vec![128],
            box_dims: vec![32, 8],
            element_strides: vec![1, 1],
            swizzle: Swizzle::Bytes128,
            fills_nan: false,
            data_type: 2,
        },
        start: vec![0, 4],
        base: 0,
        tensor_bytes: 2048,
    }
}

/// The finding of a launch with a map and a change to the kernel.
fn caught(boxed: &Boxed, copy: &str, memory_bytes: u64) -> sim_exec::Finding {
    let mut bench = Bench::with(&kernel(boxed.map.dims.len(), copy), GpuConfig::default());
    let memory = bench.gpu.memory.alloc(memory_bytes, "tensor").unwrap();
    bench.gpu.memory.fill(memory, &[1], memory_bytes).unwrap();
    bench.tensor_map(&TensorMap { address: memory, ..boxed.map.clone() });
    bench.room(ROOM_BYTES.into());
    bench.value(boxed.base);
    bench.value(boxed.bytes().len() as u32);
    (0..5).for_each(|i| bench.value(boxed.start.get(i).copied().unwrap_or(0) as u32));
    finding(bench.launch(LaunchConfig { block: [256, 1, 1], ..LaunchConfig::default() }))
}

#[test]
fn broken_tensor_copies_are_caught() {
    use FindingKind::{AsyncNotWaited, BadOperand, Misaligned, OutOfBounds};
    let kind = |boxed: &Boxed, copy: &str, bytes: u64| caught(boxed, copy, bytes).kind;
    let good = plain();
    good.run(LOAD, &bytes_of(2048, 1), 1);
    // A tensor that is larger than its memory.
    assert_eq!(kind(&good, LOAD, 1500), OutOfBounds);
    assert_eq!(kind(&good, STORE, 1500), OutOfBounds);
    // A box that shared memory does not hold, or that begins where no tensor copy may.
    assert_eq!(kind(&Boxed { base: ROOM_BYTES, ..good.clone() }, LOAD, 2048), OutOfBounds);
    assert_eq!(kind(&Boxed { base: 64, ..good.clone() }, LOAD, 2048), Misaligned);
    // No wait, no map, a map elsewhere, a map of another rank.
    let wait = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r6], 0; @!%p3 bra WAIT;";
    assert_eq!(kind(&good, &LOAD.replace(wait, ""), 2048), AsyncNotWaited);
    assert_eq!(kind(&good, &LOAD.replace("[%r5], [%rd1,", "[%r5], [%rd2,"), 2048), BadOperand);
    let moved = LOAD.replace("cp.async.bulk.tensor", "add.s64 %rd1, %rd1, 32; cp.async.bulk.tensor");
    assert_eq!(kind(&good, &moved, 2048), Misaligned);
    let flat = LOAD.replace("RANKd", "1d").replace("COORDINATES", "%c0");
    assert_eq!(kind(&good, &flat, 2048), BadOperand);
    // Elements that no reduction takes.
    let bytes =
        Boxed { map: TensorMap { data_type: 0, element_bytes: 1, box_dims: vec![128, 8], ..good.map.clone() }, ..good };
    assert_eq!(kind(&bytes, ADD, 2048), BadOperand);
}

#[test]
fn a_wrong_swizzle_shows_in_the_data() {
    // No rule is broken: only what is read differs.
    let good = plain();
    let tensor = bytes_of(2048, 7);
    let (_, right) = good.run(LOAD, &tensor, 1);
    let wrong = Boxed { map: TensorMap { swizzle: Swizzle::None, ..good.map.clone() }, ..good };
    assert_ne!(wrong.run(LOAD, &tensor, 1).1, right);
}
