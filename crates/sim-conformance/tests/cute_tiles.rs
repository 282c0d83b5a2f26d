//! CuTe's wgmma atoms over its shared-memory layouts. The inputs are small integers, so that every order and rounding of the sums
//! gives the same result.

use bytemuck::Pod;
use half::{bf16, f16};
use sim_conformance::{Launch, Random, assert_same, conform};

const TILE: usize = 128;
/// Bytes of a row of A and of a column of B.
const DEPTH_BYTES: usize = 128;

/// Runs a kernel for c = a bᵀ and compares it with sums of integers.
fn check<T: Pod, R: Pod + PartialEq + std::fmt::Debug>(kernel: &str, encode: fn(i32) -> T, sum: fn(i32) -> R) {
    conform(kernel, |sim| {
        let depth = DEPTH_BYTES / size_of::<T>();
        let mut random = Random::new(1 + sim.seed);
        let mut matrix = || random.list(TILE * depth, |r| r.below(9) as i32 - 4);
        let (a, b) = (matrix(), matrix());
        let encoded = |m: &[i32]| m.iter().map(|&x| encode(x)).collect::<Vec<T>>();
        let out = sim.room::<R>(TILE * TILE);
        let launch = Launch::new(1, 128).shared(2 * (TILE * DEPTH_BYTES) as u32);
        sim.launch(kernel, launch, &[&sim.buffer(&encoded(&a)), &sim.buffer(&encoded(&b)), &out]);
        let dot = |row: usize, column: usize| (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]).sum();
        let expected: Vec<R> = (0..TILE * TILE).map(|i| sum(dot(i / TILE, i % TILE))).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

fn check_f16(kernel: &str) {
    check(kernel, |x| f16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn cute_tiles_f16() {
    check_f16("cute_tiles_f16");
}

#[test]
fn cute_tiles_plain() {
    check_f16("cute_tiles_plain");
}

#[test]
fn cute_tiles_swizzles() {
    check_f16("cute_tiles_swizzles");
}

#[test]
fn cute_tiles_a_transposed() {
    check_f16("cute_tiles_a_transposed");
}

#[test]
fn cute_tiles_b_transposed() {
    check_f16("cute_tiles_b_transposed");
}

#[test]
fn cute_tiles_transposed() {
    check_f16("cute_tiles_transposed");
}

#[test]
fn cute_tiles_narrow() {
    check_f16("cute_tiles_narrow");
}

#[test]
fn cute_tiles_bf16() {
    check("cute_tiles_bf16", |x| bf16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn cute_tiles_tf32() {
    check("cute_tiles_tf32", |x| x as f32, |x| x as f32);
}

#[test]
fn cute_tiles_s8() {
    check("cute_tiles_s8", |x| x as i8, |x| x);
}

#[test]
fn cute_tiles_registers() {
    check_f16("cute_tiles_registers");
}

#[test]
fn cute_tiles_registers_s8() {
    check("cute_tiles_registers_s8", |x| x as i8, |x| x);
}
