//! What Triton's compiler makes of kernels in Python, for cuda:80 and cuda:90.

use std::path::Path;

use bytemuck::Pod;
use half::{bf16, f16};
use sim_conformance::{Argument, Buffer, Case, DeviceCode, Launch, Random, Sim, Toolchain, assert_same, conform_ptx};
use sim_exec::tensor_map::{Swizzle, TensorMap};

/// A compiled kernel.
struct Kernel {
    entry: String,
    threads: u32,
    shared_bytes: u32,
    /// Of global memory, for each CTA.
    scratch_bytes: usize,
    descriptors: Vec<serde_json::Value>,
}

impl Kernel {
    /// Launches with the two pointers to scratch memory that every kernel takes last; the second is for profiles.
    fn launch(&self, sim: &Sim, grid: [u32; 3], arguments: &[&dyn Argument]) {
        let launch = Launch::shaped(grid, [self.threads, 1, 1]).shared(self.shared_bytes);
        let scratch = sim.room::<u8>(1.max(self.scratch_bytes * grid.iter().product::<u32>() as usize));
        let arguments: Vec<&dyn Argument> =
            arguments.iter().copied().chain([&scratch as &dyn Argument, &0u64]).collect();
        sim.launch(&self.entry, launch, &arguments);
    }

    /// The map of descriptor `i` of the kernel's arguments, for a matrix.
    fn map<T>(&self, i: usize, matrix: &Buffer<T>, [rows, cols]: [usize; 2]) -> [u64; 16] {
        let facts = &self.descriptors[i];
        let number = |value: &serde_json::Value| value.as_u64().expect("a number") as u32;
        let element_bytes = number(&facts["elem_size"]);
        let swizzles = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];
        let map = TensorMap {
            address: matrix.address,
            element_bytes,
            dims: vec![cols as u64, rows as u64],
            strides_bytes: vec![cols as u64 * u64::from(element_bytes)],
            box_dims: vec![number(&facts["block_size"][1]), number(&facts["block_size"][0])],
            element_strides: vec![1, 1],
            swizzle: swizzles[number(&facts["swizzle"]) as usize],
            fills_nan: false,
            data_type: number(&facts["elem_type"]),
        };
        map.encode()
    }
}

fn conform(name: &str, mut body: impl FnMut(&Sim, &Kernel)) {
    let case = Case::named(name);
    let DeviceCode::Triton { file, kernel, capability } = case.code else { panic!("{name} is not a Triton case") };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/triton").join(file);
    let compiled = Toolchain::find().and_then(|t| t.compile_triton(&script, kernel, capability));
    let (ptx, facts) = compiled.unwrap_or_else(|e| panic!("{name}: {e}"));
    let facts: serde_json::Value = serde_json::from_str(&facts).expect("the script writes JSON");
    let number = |key: &str| facts[key].as_u64().expect("a number") as u32;
    let entry = facts["entry"].as_str().expect("a name").to_owned();
    let kernel = Kernel {
        entry,
        threads: 32 * number("warps"),
        shared_bytes: number("shared_bytes"),
        scratch_bytes: number("scratch_bytes") as usize,
        descriptors: facts["descriptors"].as_array().expect("a list").clone(),
    };
    conform_ptx(case, &ptx, |sim| body(sim, &kernel));
}

#[track_caller]
fn assert_near(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "number of values");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        // Written so that NaN fails.
        assert!(error <= tolerance, "element {i} is {got}, expected {expected} ± {tolerance}");
    }
}

fn vector_add(name: &str) {
    conform(name, |sim, kernel| {
        let count = 1000;
        let mut random = Random::new(1);
        let (x, y) = (random.list(count, |r| r.unit()), random.list(count, |r| r.unit()));
        let out = sim.room::<f32>(count);
        kernel.launch(sim, [4, 1, 1], &[&sim.buffer(&x), &sim.buffer(&y), &out, &(count as i32)]);
        assert_same(&sim.read(&out), &x.iter().zip(&y).map(|(x, y)| x + y).collect::<Vec<_>>());
    });
}

#[test]
fn triton_vector_add_80() {
    vector_add("triton_vector_add_80");
}

#[test]
fn triton_vector_add_90() {
    vector_add("triton_vector_add_90");
}

const ROWS: usize = 3;
const COLS: usize = 200;

fn softmax(name: &str) {
    conform(name, |sim, kernel| {
        let x = Random::new(2).list(ROWS * COLS, |r| r.unit() * 8.0 - 4.0);
        let out = sim.room::<f32>(x.len());
        kernel.launch(sim, [ROWS as u32, 1, 1], &[&sim.buffer(&x), &out, &(COLS as i32)]);
        let expected = x.chunks(COLS).flat_map(|row| {
            let weights: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(move |w| w / sum)
        });
        // Probabilities below 0.1, each with a few roundings and approximations of 2 units in the last place.
        assert_near(&sim.read(&out), &expected.collect::<Vec<_>>(), 1e-6);
    });
}

#[test]
fn triton_softmax_80() {
    softmax("triton_softmax_80");
}

#[test]
fn triton_softmax_90() {
    softmax("triton_softmax_90");
}

fn layer_norm(name: &str) {
    conform(name, |sim, kernel| {
        let mut random = Random::new(3);
        let x = random.list(ROWS * COLS, |r| r.unit() * 4.0);
        let (weight, bias) = (random.list(COLS, |r| r.unit()), random.list(COLS, |r| r.unit()));
        let out = sim.room::<f32>(x.len());
        let (w, b) = (sim.buffer(&weight), sim.buffer(&bias));
        kernel.launch(sim, [ROWS as u32, 1, 1], &[&sim.buffer(&x), &w, &b, &out, &(COLS as i32), &1e-5f32]);
        let mut expected = Vec::new();
        for row in x.chunks(COLS) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / COLS as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / COLS as f64;
            let scale = 1.0 / (variance + 1e-5).sqrt();
            let ends = row.iter().zip(weight.iter().zip(&bias));
            expected.extend(ends.map(|(x, (w, b))| (f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b)));
        }
        // Values below 3, whose mean and variance are sums of 200 terms in f32.
        assert_near(&sim.read(&out), &expected, 2e-5);
    });
}

#[test]
fn triton_layer_norm_80() {
    layer_norm("triton_layer_norm_80");
}

#[test]
fn triton_layer_norm_90() {
    layer_norm("triton_layer_norm_90");
}

fn sum_atomic(name: &str) {
    conform(name, |sim, kernel| {
        let count = 1000;
        let x = Random::new(4).list(count, |r| r.below(2000) as i32);
        let out = sim.buffer(&[0i32, 0]);
        kernel.launch(sim, [4, 1, 1], &[&sim.buffer(&x), &out, &(count as i32)]);
        assert_same(&sim.read(&out), &[x.iter().sum(), *x.iter().max().expect("some")]);
    });
}

#[test]
fn triton_sum_atomic_80() {
    sum_atomic("triton_sum_atomic_80");
}

#[test]
fn triton_sum_atomic_90() {
    sum_atomic("triton_sum_atomic_90");
}

fn prefix_sum(name: &str) {
    conform(name, |sim, kernel| {
        const BLOCK: usize = 512;
        let x = Random::new(5).list(2 * BLOCK, |r| r.i32() >> 12);
        let out = sim.room::<i32>(x.len());
        kernel.launch(sim, [2, 1, 1], &[&sim.buffer(&x), &out]);
        let sums = x.chunks(BLOCK).flat_map(|block| {
            block.iter().scan(0, |sum, x| {
                *sum += x;
                Some(*sum)
            })
        });
        assert_same(&sim.read(&out), &sums.collect::<Vec<_>>());
    });
}

#[test]
fn triton_prefix_sum_80() {
    prefix_sum("triton_prefix_sum_80");
}

#[test]
fn triton_prefix_sum_90() {
    prefix_sum("triton_prefix_sum_90");
}

fn sort(name: &str) {
    conform(name, |sim, kernel| {
        const BLOCK: usize = 128;
        let x = Random::new(6).list(2 * BLOCK, |r| r.unit() - 0.5);
        let out = sim.room::<f32>(x.len());
        kernel.launch(sim, [2, 1, 1], &[&sim.buffer(&x), &out]);
        let mut expected = x;
        expected.chunks_mut(BLOCK).for_each(|block| block.sort_by(f32::total_cmp));
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn triton_sort_80() {
    sort("triton_sort_80");
}

#[test]
fn triton_sort_90() {
    sort("triton_sort_90");
}

/// c = a b of small integers, so that every order and rounding of the sums gives the same result. `tile` is what a CTA makes.
fn matmul<T: Pod, R: Pod + PartialEq + std::fmt::Debug>(
    name: &str,
    tile: [usize; 2],
    encode: fn(i32) -> T,
    sum: fn(i32) -> R,
) {
    conform(name, |sim, kernel| {
        let (m, n, k) = (80, 96, 144);
        let mut random = Random::new(7 + sim.seed);
        let (a, b) = (random.list(m * k, |r| r.below(9) as i32 - 4), random.list(k * n, |r| r.below(9) as i32 - 4));
        let encoded = |x: &[i32]| x.iter().map(|&x| encode(x)).collect::<Vec<T>>();
        let out = sim.room::<R>(m * n);
        let grid = [m.div_ceil(tile[0]) as u32, n.div_ceil(tile[1]) as u32, 1];
        let (x, y) = (sim.buffer(&encoded(&a)), sim.buffer(&encoded(&b)));
        kernel.launch(sim, grid, &[&x, &y, &out, &(m as i32), &(n as i32), &(k as i32)]);
        let dot = |row: usize, col: usize| (0..k).map(|i| a[row * k + i] * b[i * n + col]).sum();
        assert_same(&sim.read(&out), &(0..m * n).map(|i| sum(dot(i / n, i % n))).collect::<Vec<R>>());
    });
}

#[test]
fn triton_matmul_f16_80() {
    matmul("triton_matmul_f16_80", [64, 64], |x| f16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn triton_matmul_f16_90() {
    matmul("triton_matmul_f16_90", [64, 64], |x| f16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn triton_matmul_bf16_80() {
    matmul("triton_matmul_bf16_80", [64, 32], |x| bf16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn triton_matmul_bf16_90() {
    matmul("triton_matmul_bf16_90", [64, 32], |x| bf16::from_f32(x as f32).to_bits(), |x| x as f32);
}

#[test]
fn triton_matmul_s8_80() {
    matmul("triton_matmul_s8_80", [64, 64], |x| x as i8, |x| x);
}

#[test]
fn triton_matmul_s8_90() {
    matmul("triton_matmul_s8_90", [64, 64], |x| x as i8, |x| x);
}

/// A matrix as a descriptor that the host makes: its map, then shape and strides in elements.
struct Descriptor {
    map: [u64; 16],
    shape: [i32; 2],
    strides: [i64; 2],
}

impl Descriptor {
    fn new<T>(kernel: &Kernel, i: usize, matrix: &Buffer<T>, shape: [usize; 2]) -> Self {
        let map = kernel.map(i, matrix, shape);
        Descriptor { map, shape: shape.map(|n| n as i32), strides: [shape[1] as i64, 1] }
    }

    fn arguments(&self) -> [&dyn Argument; 5] {
        [&self.map, &self.shape[0], &self.shape[1], &self.strides[0], &self.strides[1]]
    }
}

#[test]
fn triton_matmul_host_descriptors() {
    conform("triton_matmul_host_descriptors", |sim, kernel| {
        let (m, n, k) = (80, 96, 144);
        let mut random = Random::new(9 + sim.seed);
        let (a, b) = (random.list(m * k, |r| r.below(9) as i32 - 4), random.list(k * n, |r| r.below(9) as i32 - 4));
        let encoded = |x: &[i32]| x.iter().map(|&x| f16::from_f32(x as f32).to_bits()).collect::<Vec<_>>();
        let (x, y, out) = (sim.buffer(&encoded(&a)), sim.buffer(&encoded(&b)), sim.room::<f32>(m * n));
        let descriptors = [
            Descriptor::new(kernel, 0, &x, [m, k]),
            Descriptor::new(kernel, 1, &y, [k, n]),
            Descriptor::new(kernel, 2, &out, [m, n]),
        ];
        let depth = k as i32;
        let arguments: Vec<&dyn Argument> =
            descriptors.iter().flat_map(Descriptor::arguments).chain([&depth as &dyn Argument]).collect();
        kernel.launch(sim, [2, 2, 1], &arguments);
        let dot = |row: usize, col: usize| (0..k).map(|i| a[row * k + i] * b[i * n + col]).sum::<i32>() as f32;
        assert_same(&sim.read(&out), &(0..m * n).map(|i| dot(i / n, i % n)).collect::<Vec<_>>());
    });
}

#[test]
fn triton_matmul_device_descriptors() {
    conform("triton_matmul_device_descriptors", |sim, kernel| {
        let (m, n, k) = (80, 48, 144);
        let mut random = Random::new(10 + sim.seed);
        let (a, b) = (random.list(m * k, |r| r.below(9) as i32 - 4), random.list(k * n, |r| r.below(9) as i32 - 4));
        let encoded = |x: &[i32]| x.iter().map(|&x| bf16::from_f32(x as f32).to_bits()).collect::<Vec<_>>();
        let before = random.list(m * n, |r| r.below(100) as f32);
        let (x, y, out) = (sim.buffer(&encoded(&a)), sim.buffer(&encoded(&b)), sim.buffer(&before));
        kernel.launch(sim, [2, 2, 1], &[&x, &y, &out, &(m as i32), &(n as i32), &(k as i32)]);
        let dot = |row: usize, col: usize| (0..k).map(|i| a[row * k + i] * b[i * n + col]).sum::<i32>() as f32;
        assert_same(&sim.read(&out), &(0..m * n).map(|i| before[i] + dot(i / n, i % n)).collect::<Vec<_>>());
    });
}

const HEADS: usize = 2;
const TOKENS: usize = 128;
const DIM: usize = 64;

/// Causal attention, row by row, and queries, keys and values for it.
fn attention_inputs() -> ([Vec<f16>; 3], Vec<f64>) {
    let mut random = Random::new(8);
    let mut list = || random.list(HEADS * TOKENS * DIM, |r| f16::from_f32(r.unit() * 2.0 - 1.0));
    let (q, k, v) = (list(), list(), list());
    let row = |x: &[f16], head: usize, token: usize| -> Vec<f64> {
        x[(head * TOKENS + token) * DIM..][..DIM].iter().map(|x| x.to_f64()).collect()
    };
    let mut expected = Vec::new();
    for head in 0..HEADS {
        for token in 0..TOKENS {
            let query = row(&q, head, token);
            let weights: Vec<f64> = (0..=token)
                .map(|key| (query.iter().zip(row(&k, head, key)).map(|(q, k)| q * k).sum::<f64>() * 0.125).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            let mut total = vec![0.0; DIM];
            for (key, weight) in weights.iter().enumerate() {
                total.iter_mut().zip(row(&v, head, key)).for_each(|(t, v)| *t += weight / sum * v);
            }
            expected.extend(total);
        }
    }
    ([q, k, v], expected)
}

/// Weights are rounded to f16: relative 2^-11 of values below 1.
const ATTENTION_TOLERANCE: f64 = 1e-3;

#[test]
fn triton_attention_descriptors() {
    let (inputs, expected) = attention_inputs();
    conform("triton_attention_descriptors", |sim, kernel| {
        let buffers = inputs.each_ref().map(|x| sim.buffer(&x.iter().map(|x| x.to_bits()).collect::<Vec<u16>>()));
        let out = sim.room::<f32>(expected.len());
        let shape = [HEADS * TOKENS, DIM];
        let mut descriptors: Vec<Descriptor> =
            buffers.iter().enumerate().map(|(i, x)| Descriptor::new(kernel, i, x, shape)).collect();
        descriptors.push(Descriptor::new(kernel, 3, &out, shape));
        let rest: [&dyn Argument; 2] = [&(TOKENS as i32), &0.125f32];
        let arguments: Vec<&dyn Argument> = descriptors.iter().flat_map(Descriptor::arguments).chain(rest).collect();
        kernel.launch(sim, [(TOKENS / 64) as u32, HEADS as u32, 1], &arguments);
        assert_near(&sim.read(&out), &expected, ATTENTION_TOLERANCE);
    });
}

fn attention(name: &str) {
    let (inputs, expected) = attention_inputs();
    conform(name, |sim, kernel| {
        let buffers = inputs.each_ref().map(|x| sim.buffer(&x.iter().map(|x| x.to_bits()).collect::<Vec<u16>>()));
        let out = sim.room::<f32>(expected.len());
        let arguments: [&dyn Argument; 6] = [&buffers[0], &buffers[1], &buffers[2], &out, &(TOKENS as i32), &0.125f32];
        kernel.launch(sim, [(TOKENS / 64) as u32, HEADS as u32, 1], &arguments);
        assert_near(&sim.read(&out), &expected, ATTENTION_TOLERANCE);
    });
}
#[test]
fn triton_attention_80() {
    attention("triton_attention_80");
}

#[test]
fn triton_attention_90() {
    attention("triton_attention_90");
}
