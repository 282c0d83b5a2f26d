//! `nvcuda::wmma` in every element type.

use bytemuck::Pod;
use half::{bf16, f16};
use sim_conformance::{Argument, Launch, Random, Sim, assert_same, conform};

/// Matrices of `rows` × `columns`, and how they lie in memory.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Rows,
    Columns,
}

/// `x`, given row by row, in the order of `layout`.
fn laid_out<T: Copy>(x: &[T], columns: usize, layout: Layout) -> Vec<T> {
    let rows = x.len() / columns;
    match layout {
        Layout::Rows => x.to_vec(),
        Layout::Columns => (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect(),
    }
}

struct Tiles {
    /// Of one tile: rows and columns of the product.
    tile: [usize; 2],
    layouts: [Layout; 2],
    /// Of the whole product.
    tiles: [usize; 2],
    k: usize,
}

impl Tiles {
    fn m(&self) -> usize {
        self.tile[0] * self.tiles[0]
    }

    fn n(&self) -> usize {
        self.tile[1] * self.tiles[1]
    }

    /// Runs `kernel` on random matrices and returns A, B and C (row by row), and the result.
    fn run<T: Pod, R: Pod>(
        &self,
        sim: &Sim,
        kernel: &str,
        mut input: impl FnMut(&mut Random) -> T,
        mut start: impl FnMut(&mut Random) -> R,
    ) -> (Vec<T>, Vec<T>, Vec<R>, Vec<R>) {
        let mut random = Random::new(1 + sim.seed);
        let (m, n, k) = (self.m(), self.n(), self.k);
        let a = random.list(m * k, &mut input);
        let b = random.list(k * n, &mut input);
        let c = random.list(m * n, &mut start);
        let out = sim.buffer(&c);
        let arguments: [&dyn Argument; 5] = [
            &sim.buffer(&laid_out(&a, k, self.layouts[0])),
            &sim.buffer(&laid_out(&b, n, self.layouts[1])),
            &out,
            &(n as i32),
            &(k as i32),
        ];
        let grid = [self.tiles[1] as u32, self.tiles[0] as u32, 1];
        sim.launch(kernel, Launch::shaped(grid, [32, 1, 1]), &arguments);
        (a, b, c, sim.read(&out))
    }

    /// As `run`, compared with f64; `unit` is the relative error of one rounded addition.
    fn check<T: Pod, R: Pod>(
        &self,
        kernel: &str,
        input: fn(&mut Random) -> T,
        start: fn(&mut Random) -> R,
        to: fn(T) -> f64,
        out: fn(R) -> f64,
        unit: f64,
    ) {
        conform(kernel, |sim| {
            let (a, b, c, got) = self.run(sim, kernel, input, start);
            let (n, k) = (self.n(), self.k);
            for (at, got) in got.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let products = (0..k).map(|i| to(a[row * k + i]) * to(b[i * n + column]));
                let (sum, size) = products.fold((out(c[at]), out(c[at]).abs()), |(s, z), p| (s + p, z + p.abs()));
                // Each of the k additions may round or cut off a partial sum, which is at most the sum of magnitudes.
                let tolerance = unit * size * k as f64;
                assert!((out(*got) - sum).abs() <= tolerance, "{row}, {column}: {} instead of {sum}", out(*got));
            }
        });
    }

    /// As `run`, compared exactly.
    fn check_integers<T: Pod + Into<i32>>(&self, kernel: &str, input: fn(&mut Random) -> T) {
        conform(kernel, |sim| {
            let (a, b, c, got) = self.run(sim, kernel, input, |r| r.i32() >> 8);
            let (n, k) = (self.n(), self.k);
            let expected = (0..got.len()).map(|at| {
                let product = |i: usize| a[at / n * k + i].into() * b[i * n + at % n].into();
                c[at] + (0..k).map(product).sum::<i32>()
            });
            assert_same(&got, &expected.collect::<Vec<_>>());
        });
    }
}

const UNIT_F32: f64 = 1.0 / (1 << 23) as f64;

#[test]
fn wmma_f16() {
    let tiles = Tiles { tile: [16, 16], layouts: [Layout::Rows, Layout::Columns], tiles: [2, 3], k: 48 };
    let input = |r: &mut Random| f16::from_f32(r.unit());
    tiles.check("wmma_f16", input, |r| r.unit(), f16::to_f64, f64::from, UNIT_F32);
}

#[test]
fn wmma_f16_wide() {
    let tiles = Tiles { tile: [8, 32], layouts: [Layout::Columns, Layout::Rows], tiles: [1, 2], k: 32 };
    let input = |r: &mut Random| f16::from_f32(r.unit());
    tiles.check("wmma_f16_wide", input, |r| r.unit(), f16::to_f64, f64::from, UNIT_F32);
}

#[test]
fn wmma_f16_accumulate() {
    let tiles = Tiles { tile: [32, 8], layouts: [Layout::Rows, Layout::Rows], tiles: [2, 1], k: 32 };
    let value = |r: &mut Random| f16::from_f32(r.unit());
    tiles.check("wmma_f16_accumulate", value, value, f16::to_f64, f16::to_f64, 1.0 / 1024.0);
}

#[test]
fn wmma_bf16() {
    let tiles = Tiles { tile: [16, 16], layouts: [Layout::Columns, Layout::Columns], tiles: [1, 2], k: 64 };
    let input = |r: &mut Random| bf16::from_f32(r.unit() * 1e10);
    tiles.check("wmma_bf16", input, |r| r.unit(), bf16::to_f64, f64::from, UNIT_F32);
}

#[test]
fn wmma_s8() {
    let tiles = Tiles { tile: [16, 16], layouts: [Layout::Rows, Layout::Columns], tiles: [2, 2], k: 64 };
    tiles.check_integers("wmma_s8", |r| r.u32() as i8);
}

#[test]
fn wmma_u8() {
    let tiles = Tiles { tile: [32, 8], layouts: [Layout::Rows, Layout::Rows], tiles: [1, 2], k: 32 };
    tiles.check_integers("wmma_u8", |r| r.u32() as u8);
}

#[test]
fn wmma_tf32() {
    let tiles = Tiles { tile: [16, 16], layouts: [Layout::Rows, Layout::Rows], tiles: [1, 2], k: 24 };
    // 11 significant bits survive the rounding, to nearest and away from zero at ties.
    let tf32 = |x: f32| f64::from(f32::from_bits((x.to_bits() + 0x1000) & !0x1fff));
    tiles.check("wmma_tf32", |r| r.unit(), |r| r.unit(), tf32, f64::from, UNIT_F32);
}

#[test]
fn wmma_f64() {
    let tiles = Tiles { tile: [8, 8], layouts: [Layout::Rows, Layout::Columns], tiles: [2, 2], k: 16 };
    let value = |r: &mut Random| f64::from(r.unit()) + f64::from(r.unit()) * 1e-9;
    tiles.check("wmma_f64", value, value, |x| x, |x| x, f64::EPSILON);
}

#[test]
fn wmma_fragment_elements() {
    conform("wmma_fragment_elements", |sim| {
        // Small integers: everything is exact.
        let mut random = Random::new(9);
        let mut matrix = || random.list(256, |r| f16::from_f32(r.below(9) as f32 - 4.0));
        let (a, b, out) = (matrix(), matrix(), sim.room::<f32>(256));
        sim.launch("wmma_fragment_elements", Launch::new(1, 32), &[&sim.buffer(&a), &sim.buffer(&b), &out]);
        let expected = (0..256).map(|at| {
            let product = |i: usize| a[at / 16 * 16 + i].to_f32() * b[i * 16 + at % 16].to_f32();
            2.0 * (0..16).map(product).sum::<f32>() + 0.5
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn wmma_b1() {
    conform("wmma_b1", |sim| {
        let mut random = Random::new(10);
        let (a, b) = (random.list(32, Random::u32), random.list(32, Random::u32));
        let out = sim.room::<i32>(64);
        sim.launch("wmma_b1", Launch::new(1, 32), &[&sim.buffer(&a), &sim.buffer(&b), &out]);
        let expected = (0..64).map(|at| {
            let words = a[at / 8 * 4..][..4].iter().zip(&b[at % 8 * 4..][..4]);
            words.map(|(x, y)| (x ^ y).count_ones() + (x & y).count_ones()).sum::<u32>() as i32
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn wmma_s4() {
    conform("wmma_s4", |sim| {
        let mut random = Random::new(11);
        let (a, b) = (random.list(32, Random::u32), random.list(32, Random::u32));
        let out = sim.room::<i32>(64);
        sim.launch("wmma_s4", Launch::new(1, 32), &[&sim.buffer(&a), &sim.buffer(&b), &out]);
        // Element `i` of a row of 32: four bits, sign-extended.
        let element = |x: &[u32], row: usize, i: usize| (x[row * 4 + i / 8] << (28 - i % 8 * 4)) as i32 >> 28;
        let expected = (0..64).map(|at| {
            let product = |i: usize| element(&a, at / 8, i) * element(&b, at % 8, i);
            3 + (0..32).map(product).sum::<i32>()
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}
