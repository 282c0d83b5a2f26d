//! Bulk and tensor copies, through libcu++ and CuTe.

use half::f16;
use sim_conformance::{Buffer, Launch, Random, assert_same, conform};
use sim_exec::tensor_map::{Swizzle, TensorMap};

/// The map of a matrix, row by row, and boxes of it.
fn matrix<T>(
    buffer: &Buffer<T>,
    data_type: u32,
    [rows, cols]: [usize; 2],
    [box_rows, box_cols]: [u32; 2],
    swizzle: Swizzle,
) -> [u64; 16] {
    let element_bytes = size_of::<T>() as u32;
    let map = TensorMap {
        address: buffer.address,
        element_bytes,
        dims: vec![cols as u64, rows as u64],
        strides_bytes: vec![cols as u64 * u64::from(element_bytes)],
        box_dims: vec![box_cols, box_rows],
        element_strides: vec![1, 1],
        swizzle,
        fills_nan: false,
        data_type,
    };
    map.encode()
}

/// `CUtensorMapDataType`.
const F16: u32 = 6;
const F32: u32 = 7;

#[test]
fn tma_scale_rows() {
    conform("tma_scale_rows", |sim| {
        let rows = 7 + sim.seed as usize % 3;
        let x = Random::new(1).list(rows * 256, |r| r.unit());
        let out = sim.room::<f32>(x.len());
        sim.launch("tma_scale_rows", Launch::new(2, 96), &[&sim.buffer(&x), &out, &(rows as i32), &3f32]);
        assert_same(&sim.read(&out), &x.iter().map(|x| x * 3.0).collect::<Vec<_>>());
    });
}

#[test]
fn tma_transpose() {
    conform("tma_transpose", |sim| {
        // Rows of 76 and 100 floats are multiples of 16 bytes.
        let (rows, cols) = (100, 76);
        let x = Random::new(2).list(rows * cols, |r| r.unit());
        let (from, to) = (sim.buffer(&x), sim.room::<f32>(x.len()));
        let from = matrix(&from, F32, [rows, cols], [32, 32], Swizzle::Bytes128);
        let maps = matrix(&to, F32, [cols, rows], [32, 32], Swizzle::None);
        sim.launch("tma_transpose", Launch::shaped([3, 4, 1], [128, 1, 1]), &[&from, &maps]);
        let expected = (0..x.len()).map(|i| x[i % rows * cols + i / rows]);
        assert_same(&sim.read(&to), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn tma_boxes() {
    conform("tma_boxes", |sim| {
        const DIMS: [usize; 5] = [24, 5, 4, 3, 6];
        const BOX: [usize; 5] = [16, 3, 4, 2, 3];
        const STRIDES: [usize; 5] = [1, 1, 2, 1, 2];
        let taken: [usize; 5] = std::array::from_fn(|i| BOX[i].div_ceil(STRIDES[i]));
        let elements: usize = taken.iter().product();
        let mut random = Random::new(3 + sim.seed);
        let x = random.list(DIMS.iter().product(), |r| f16::from_f32(r.unit()).to_bits());
        let starts: Vec<i32> = (0..20).map(|i| random.below(DIMS[i % 5] as u32 + 4) as i32 - 3).collect();
        let (buffer, out) = (sim.buffer(&x), sim.room::<u16>(4 * elements));
        let map = TensorMap {
            address: buffer.address,
            element_bytes: 2,
            dims: DIMS.map(|d| d as u64).to_vec(),
            strides_bytes: (1..5).map(|i| 2 * DIMS[..i].iter().product::<usize>() as u64).collect(),
            box_dims: BOX.map(|d| d as u32).to_vec(),
            element_strides: STRIDES.map(|d| d as u32).to_vec(),
            swizzle: Swizzle::None,
            fills_nan: true,
            data_type: F16,
        };
        let launch = Launch::new(4, 64);
        sim.launch("tma_boxes", launch, &[&map.encode(), &sim.buffer(&starts), &out, &(elements as i32)]);
        for (i, got) in sim.read(&out).into_iter().enumerate() {
            let start = &starts[i / elements * 5..][..5];
            let (mut rest, mut at, mut stride, mut inside) = (i % elements, 0, 1, true);
            for d in 0..5 {
                let coordinate = start[d] + (rest % taken[d] * STRIDES[d]) as i32;
                rest /= taken[d];
                inside &= (0..DIMS[d] as i32).contains(&coordinate);
                at += coordinate.max(0) as usize * stride;
                stride *= DIMS[d];
            }
            match inside {
                true => assert_eq!(got, x[at], "element {i}"),
                false => assert!(f16::from_bits(got).is_nan(), "element {i} is {got:#x}"),
            }
        }
    });
}

#[test]
fn tma_histogram() {
    conform("tma_histogram", |sim| {
        let x = Random::new(4 + sim.seed).list(3001, |r| (r.u32() >> r.below(32)) as u8);
        let (bins, largest) = (sim.buffer(&[5u32; 256]), sim.buffer(&[0u64; 2]));
        sim.launch("tma_histogram", Launch::new(3, 256), &[&sim.buffer(&x), &bins, &largest, &(x.len() as i32)]);
        let mut expected = vec![5u32; 256];
        x.iter().for_each(|&x| expected[usize::from(x)] += 1);
        assert_same(&sim.read(&bins), &expected);
        let best = |odd: usize| (0..x.len()).filter(|i| i % 2 == odd).map(|i| u64::from(x[i]) << 33 | i as u64).max();
        assert_same(&sim.read(&largest), &[best(0).expect("some"), best(1).expect("some")]);
    });
}

#[test]
fn tma_ring() {
    conform("tma_ring", |sim| {
        let x = Random::new(5 + sim.seed).list(3 * 64, |r| r.below(1000) as i32);
        let out = sim.room::<i32>(12 * 64);
        sim.launch("tma_ring", Launch::new(12, 64).cluster(4), &[&sim.buffer(&x), &out]);
        let expected = (0..12 * 64).map(|i| {
            let (block, lane) = (i / 64, i % 64);
            x[block / 4 * 64 + lane] + 1000 * ((block as i32 + 3) % 4)
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn tma_moved_map() {
    conform("tma_moved_map", |sim| {
        let x = Random::new(6).list(4 * 512, |r| r.unit());
        let (from, room, out) = (sim.buffer(&x), sim.room::<[u64; 16]>(4), sim.room::<f32>(x.len()));
        let map = matrix(&from, F32, [16, 32], [16, 32], Swizzle::None);
        sim.launch("tma_moved_map", Launch::new(4, 64), &[&map, &room, &from, &out]);
        // Block i leaves the last i of its 16 rows out.
        let expected = (0..x.len()).map(|i| if i % 512 / 32 < 16 - i / 512 { x[i] } else { 0.0 });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cute_tma_gemm() {
    conform("cute_tma_gemm", |sim| {
        let (m, n, k) = (128, 64, 64 * (2 + sim.seed as usize % 4));
        let mut random = Random::new(7 + sim.seed);
        // Small integers: every order of the sums gives the same.
        let mut matrix_of = |count| random.list(count, |r| f16::from_f32(r.below(9) as f32 - 4.0));
        let (a, b) = (matrix_of(m * k), matrix_of(n * k));
        let bits = |x: &[f16]| sim.buffer(&x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        let (x, y, out) = (bits(&a), bits(&b), sim.room::<f32>(m * n));
        let maps = [
            matrix(&x, F16, [m, k], [64, 64], Swizzle::Bytes128),
            matrix(&y, F16, [n, k], [32, 64], Swizzle::Bytes128),
            matrix(&out, F32, [m, n], [64, 64], Swizzle::None),
        ];
        let launch = Launch::shaped([2, 1, 1], [256, 1, 1]).cluster(2);
        sim.launch("cute_tma_gemm", launch, &[&maps[0], &maps[1], &maps[2], &(k as i32)]);
        let dot =
            |row: usize, col: usize| (0..k).map(|i| a[row * k + i].to_f32() * b[col * k + i].to_f32()).sum::<f32>();
        assert_same(&sim.read(&out), &(0..m * n).map(|i| dot(i / n, i % n)).collect::<Vec<_>>());
    });
}
