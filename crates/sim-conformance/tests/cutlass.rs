//! CUTLASS's GEMM kernels and products put together from CuTe.

use bytemuck::Pod;
use half::{bf16, f16};
use sim_conformance::{Argument, Launch, Random, Sim, assert_same, conform};

/// One rounded or truncated addition in f32, relative.
const UNIT: f64 = 1.0 / (1 << 23) as f64;

/// A product's shape, and element (row, column) of its operands.
struct Product<'a> {
    n: usize,
    k: usize,
    a: &'a dyn Fn(usize, usize) -> f64,
    b: &'a dyn Fn(usize, usize) -> f64,
}

impl Product<'_> {
    /// Element `at`, counted row by row, of A B, and the sum of its terms' magnitudes.
    fn exact(&self, at: usize) -> (f64, f64) {
        let terms = (0..self.k).map(|i| (self.a)(at / self.n, i) * (self.b)(i, at % self.n));
        terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
    }
}

/// Threads and bytes of shared memory of the n-th CUTLASS kernel.
fn launch(sim: &Sim, kernel: usize, m: usize, n: usize) -> Launch {
    let needs = sim.room::<i32>(8);
    sim.launch("cutlass_gemm_needs", Launch::new(1, 1), &[&needs]);
    let needs = sim.read(&needs);
    let grid = [m.div_ceil(64) as u32, n.div_ceil(64) as u32, 1];
    Launch::shaped(grid, [needs[2 * kernel] as u32, 1, 1]).shared(needs[2 * kernel + 1] as u32)
}

#[allow(clippy::too_many_arguments)]
fn run<T: Pod, R: Pod, S: Pod>(
    sim: &Sim,
    name: &str,
    launch: Launch,
    [m, n, k]: [usize; 3],
    (a, b, c): (&[T], &[T], &[R]),
    [alpha, beta]: [S; 2],
) -> Vec<R> {
    let out = sim.room::<R>(m * n);
    let arguments: [&dyn Argument; 9] =
        [&(m as i32), &(n as i32), &(k as i32), &sim.buffer(a), &sim.buffer(b), &sim.buffer(c), &out, &alpha, &beta];
    sim.launch(name, launch, &arguments);
    sim.read(&out)
}

/// Sizes that are no multiples of a tile, but of 16 bytes.
fn shape(seed: u64) -> [usize; 3] {
    [[64, 64, 32], [100, 72, 40], [33, 8, 104], [128, 64, 64]][seed as usize % 4]
}

#[test]
fn cutlass_gemm_f16() {
    conform("cutlass_gemm_f16", |sim| {
        let [m, n, k] = shape(sim.seed);
        let mut random = Random::new(1);
        let mut matrix = |count| random.list(count, |r| f16::from_f32(r.unit()));
        let (a, b, c) = (matrix(m * k), matrix(n * k), matrix(m * n));
        let launch = launch(sim, 0, m, n);
        let got = run(sim, "cutlass_gemm_f16", launch, [m, n, k], (&a, &b, &c), [0.5f32, -2.0]);
        let product =
            Product { n, k, a: &|row, i| a[row * k + i].to_f64(), b: &|i, column| b[column * k + i].to_f64() };
        for (at, got) in got.iter().enumerate() {
            let (sum, size) = product.exact(at);
            let expected = 0.5 * sum - 2.0 * c[at].to_f64();
            // The sum, then one rounding to f16.
            let tolerance = UNIT * size * k as f64 + expected.abs() / 2048.0 + 2f64.powi(-25);
            assert!((got.to_f64() - expected).abs() <= tolerance, "{at}: {got} instead of {expected}");
        }
    });
}

#[test]
fn cutlass_gemm_bf16_relu() {
    conform("cutlass_gemm_bf16_relu", |sim| {
        let [m, n, k] = [[64, 64, 32], [104, 72, 41], [32, 8, 100], [128, 64, 64]][sim.seed as usize % 4];
        let mut random = Random::new(2);
        let mut matrix = |count| random.list(count, |r| bf16::from_f32(r.unit()));
        let (a, b) = (matrix(m * k), matrix(n * k));
        let c = random.list(m * n, |r| r.unit());
        let launch = launch(sim, 1, m, n);
        let got = run(sim, "cutlass_gemm_bf16_relu", launch, [m, n, k], (&a, &b, &c), [2.0f32, 1.0]);
        let product =
            Product { n, k, a: &|row, i| a[i * m + row].to_f64(), b: &|i, column| b[i * n + column].to_f64() };
        for (at, got) in got.iter().enumerate() {
            let (sum, size) = product.exact(at);
            let expected = (2.0 * sum + f64::from(c[at])).max(0.0);
            let tolerance = UNIT * 2.0 * (size + 1.0) * (k + 2) as f64;
            assert!((f64::from(*got) - expected).abs() <= tolerance, "{at}: {got} instead of {expected}");
        }
    });
}

#[test]
fn cutlass_gemm_s8() {
    conform("cutlass_gemm_s8", |sim| {
        let [m, n, k] = [[64, 64, 64], [100, 72, 80], [33, 8, 144], [128, 64, 128]][sim.seed as usize % 4];
        let mut random = Random::new(3);
        let mut matrix = |count| random.list(count, |r| r.u32() as i8);
        let (a, b) = (matrix(m * k), matrix(n * k));
        let c = random.list(m * n, |r| r.i32() >> 12);
        let got = run(sim, "cutlass_gemm_s8", launch(sim, 2, m, n), [m, n, k], (&a, &b, &c), [1i32, -1]);
        let expected = (0..m * n).map(|at| {
            let term = |i: usize| i32::from(a[at / n * k + i]) * i32::from(b[at % n * k + i]);
            (0..k).map(term).sum::<i32>() - c[at]
        });
        assert_same(&got, &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cutlass_gemm_tf32() {
    conform("cutlass_gemm_tf32", |sim| {
        let [m, n, k] = [[64, 64, 16], [100, 72, 40], [33, 8, 60], [128, 64, 32]][sim.seed as usize % 4];
        // Eleven bits: exact in tf32, however it is rounded.
        let mut random = Random::new(4);
        let mut matrix = |count| random.list(count, |r| (r.below(2047) as f32 - 1023.0) / 1024.0);
        let (a, b, c) = (matrix(m * k), matrix(n * k), matrix(m * n));
        let launch = launch(sim, 3, m, n);
        let got = run(sim, "cutlass_gemm_tf32", launch, [m, n, k], (&a, &b, &c), [1.0f32, 1.0]);
        let product = Product { n, k, a: &|row, i| a[row * k + i].into(), b: &|i, column| b[i * n + column].into() };
        for (at, got) in got.iter().enumerate() {
            let (sum, size) = product.exact(at);
            let expected = sum + f64::from(c[at]);
            let tolerance = UNIT * (size + 1.0) * (k + 1) as f64;
            assert!((f64::from(*got) - expected).abs() <= tolerance, "{at}: {got} instead of {expected}");
        }
    });
}

#[test]
fn cute_gemm_sm80() {
    conform("cute_gemm_sm80", |sim| {
        let [m, n, k] = [[64, 64, 32], [128, 64, 96], [64, 128, 160]][sim.seed as usize % 3];
        let mut random = Random::new(5);
        let mut matrix = |count| random.list(count, |r| f16::from_f32(r.unit()));
        let (a, b, out) = (matrix(m * k), matrix(n * k), sim.room::<f32>(m * n));
        let arguments: [&dyn Argument; 6] =
            [&sim.buffer(&a), &sim.buffer(&b), &out, &(m as i32), &(n as i32), &(k as i32)];
        let grid = [m as u32 / 64, n as u32 / 64, 1];
        sim.launch("cute_gemm_sm80", Launch::shaped(grid, [128, 1, 1]), &arguments);
        let product =
            Product { n, k, a: &|row, i| a[row * k + i].to_f64(), b: &|i, column| b[column * k + i].to_f64() };
        for (at, got) in sim.read(&out).into_iter().enumerate() {
            let (sum, size) = product.exact(at);
            assert!((f64::from(got) - sum).abs() <= UNIT * size * k as f64, "{at}: {got} instead of {sum}");
        }
    });
}

#[test]
fn cute_transpose() {
    conform("cute_transpose", |sim| {
        let (rows, columns) = (64, 96);
        let x = Random::new(6).list(rows * columns, |r| r.unit());
        let out = sim.room::<f32>(x.len());
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&x), &out, &(rows as i32), &(columns as i32)];
        sim.launch("cute_transpose", Launch::shaped([2, 3, 1], [128, 1, 1]), &arguments);
        let expected = (0..x.len()).map(|i| x[i % rows * columns + i / rows]);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

fn check_wgmma<T: Pod>(name: &str, value: fn(&mut Random) -> T, to: fn(T) -> f64, unit: f64) {
    conform(name, |sim| {
        let (m, n, k) = (128, 64, 64 * (1 + sim.seed as usize % 2));
        let mut random = Random::new(7);
        let (a, b) = (random.list(m * k, value), random.list(n * k, value));
        let out = sim.room::<f32>(m * n);
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&a), &sim.buffer(&b), &out, &(k as i32)];
        sim.launch(name, Launch::new(1, 256), &arguments);
        let product = Product { n, k, a: &|row, i| to(a[row * k + i]), b: &|i, column| to(b[column * k + i]) };
        for (at, got) in sim.read(&out).into_iter().enumerate() {
            let (sum, size) = product.exact(at);
            assert!((f64::from(got) - sum).abs() <= unit * size * k as f64, "{at}: {got} instead of {sum}");
        }
    });
}

#[test]
fn cute_wgmma_f16() {
    check_wgmma("cute_wgmma_f16", |r| f16::from_f32(r.unit()), f16::to_f64, UNIT);
}

#[test]
fn cute_wgmma_bf16() {
    check_wgmma("cute_wgmma_bf16", |r| bf16::from_f32(r.unit()), bf16::to_f64, UNIT);
}

/// The value of an e4m3 code that is not NaN (OCP 8-bit floating point, revision 1.0).
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-6),
        e => (1.0 + mantissa) * 2f64.powi(e - 7),
    };
    if code >> 7 == 0 { magnitude } else { -magnitude }
}

#[test]
fn cute_wgmma_e4m3() {
    // No NaN; 8-bit products may be summed with fewer bits than f32 has.
    let value = |r: &mut Random| (r.below(2) << 7 | r.below(0x60)) as u8;
    check_wgmma("cute_wgmma_e4m3", value, e4m3, 1.0 / (1 << 13) as f64);
}
