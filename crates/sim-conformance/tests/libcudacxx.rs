//! libcu++: synchronisation, atomics and the device parts of the standard library.
#![allow(clippy::unwrap_used)]

use sim_conformance::{Argument, Launch, Random, assert_same, conform};

#[test]
fn cuda_barrier_producer_consumer() {
    conform("cuda_barrier_producer_consumer", |sim| {
        let tiles = 1 + sim.seed as usize % 6;
        let x = Random::new(1).list(96 * tiles, |r| r.i32() >> 4);
        let out = sim.room::<i32>(x.len());
        sim.launch("cuda_barrier_producer_consumer", Launch::new(1, 128), &[&sim.buffer(&x), &out, &(tiles as i32)]);
        let expected: Vec<i32> = x.chunks(96).flat_map(|tile| tile.iter().rev().map(|v| 2 * v + 1)).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_barrier_completion() {
    conform("cuda_barrier_completion", |sim| {
        let (phases, out) = (sim.room::<i32>(1), sim.room::<i32>(3 * 48));
        sim.launch("cuda_barrier_completion", Launch::new(1, 64), &[&phases, &out]);
        // Six phases end; the counter is read after every other one.
        assert_eq!(sim.read(&phases), [6]);
        let expected: Vec<i32> = [1, 3, 5].iter().flat_map(|n| [*n; 48]).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_memcpy_async_barrier() {
    conform("cuda_memcpy_async_barrier", |sim| {
        let count = [1, 127, 128, 300][sim.seed as usize % 4];
        let x = Random::new(3).list(count, |r| [r.i32(), r.i32(), r.i32(), r.i32()]);
        let out = sim.room::<[i32; 4]>(count);
        sim.launch("cuda_memcpy_async_barrier", Launch::new(1, 128), &[&sim.buffer(&x), &out, &(count as i32)]);
        let expected: Vec<_> = x.chunks(128).flat_map(|tile| tile.iter().rev().copied()).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_pipeline_block() {
    conform("cuda_pipeline_block", |sim| {
        let tiles = 1 + sim.seed as usize % 7;
        let x = Random::new(4).list(128 * tiles, |r| r.below(100) as i32);
        let out = sim.room::<i32>(128);
        sim.launch("cuda_pipeline_block", Launch::new(1, 128), &[&sim.buffer(&x), &out, &(tiles as i32)]);
        let horner = |t: usize| (0..tiles).fold(0, |sum, tile| sum * 3 + x[tile * 128 + (t + tile) % 128]);
        assert_same(&sim.read(&out), &(0..128).map(horner).collect::<Vec<_>>());
    });
}

#[test]
fn cuda_pipeline_roles() {
    conform("cuda_pipeline_roles", |sim| {
        let tiles = 1 + sim.seed as usize % 5;
        let x = Random::new(5).list(64 * tiles, |r| r.i32());
        let out = sim.room::<i32>(x.len());
        sim.launch("cuda_pipeline_roles", Launch::new(1, 96), &[&sim.buffer(&x), &out, &(tiles as i32)]);
        let expected: Vec<i32> = x.chunks(64).flat_map(|tile| tile.iter().rev().copied()).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_pipeline_thread() {
    conform("cuda_pipeline_thread", |sim| {
        let count = [1, 128, 129, 700][sim.seed as usize % 4];
        let x = Random::new(6).list(count, |r| [r.unit(), r.unit(), r.unit(), r.unit()]);
        let out = sim.room::<[f32; 4]>(count);
        sim.launch("cuda_pipeline_thread", Launch::new(2, 64), &[&sim.buffer(&x), &out, &(count as i32)]);
        assert_same(&sim.read(&out), &x.iter().map(|[a, b, c, d]| [*d, *c, *b, *a]).collect::<Vec<_>>());
    });
}

#[test]
fn cuda_atomic_ref_arithmetic() {
    conform("cuda_atomic_ref_arithmetic", |sim| {
        let x = Random::new(7).list(3 * 64, |r| r.below(2001) as i32 - 1000);
        let ints = sim.buffer(&[0i32, i32::MIN, i32::MAX, 0, 0, -1, 0]);
        let (floats, doubles) = (sim.buffer(&[0.0f32, -1e30]), sim.buffer(&[0.0f64]));
        let longs = sim.buffer(&[0u64, 0]);
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &ints, &floats, &doubles, &longs];
        sim.launch("cuda_atomic_ref_arithmetic", Launch::new(3, 64), &arguments);
        let sum: i32 = x.iter().sum();
        let (least, most) = (x.iter().copied().min(), x.iter().copied().max());
        let bits = x.iter().fold(0, |m, v| m | 1 << (v & 31));
        let parity = x.iter().fold(0, |m, v| m ^ v);
        assert_eq!(sim.read(&ints), [sum, most.unwrap(), least.unwrap(), parity, bits, !bits, -sum]);
        // Sums of small integers and halves are exact in any order.
        assert_eq!(sim.read(&floats), [x.iter().map(|v| v & 7).sum::<i32>() as f32, most.unwrap() as f32]);
        assert_eq!(sim.read(&doubles), [f64::from(sum) * 0.5]);
        let tagged = x.iter().enumerate().map(|(i, v)| u64::from(*v as u32) << 32 | i as u64);
        assert_eq!(sim.read(&longs), [(i64::from(sum) << 20) as u64, tagged.max().unwrap()]);
    });
}

#[test]
fn cuda_atomic_ref_exchange() {
    conform("cuda_atomic_ref_exchange", |sim| {
        let x = Random::new(8).list(2 * 64, |r| 1 + r.below(65_000));
        // Four numbers of 16 bits: the third is changed through the word that holds both.
        let (product, small) = (sim.buffer(&[1u32]), sim.buffer(&[100i16, 200, 300, -9]));
        let owner = sim.buffer(&[-1i32; 7]);
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&x), &product, &small, &owner];
        sim.launch("cuda_atomic_ref_exchange", Launch::new(2, 64), &arguments);
        let expected = x.iter().fold(1u64, |p, v| p * u64::from(*v) % 65521);
        assert_eq!(sim.read(&product), [expected as u32]);
        let sum = |r: i16| (0..128).filter(|i| i % 3 == r).map(|i| i % 5).sum::<i16>() + 100 * (r + 1);
        assert_eq!(sim.read(&small), [sum(0), sum(1), sum(2), -9]);
        assert_eq!(sim.read(&owner), [100, 101, 102, 103, 104, 105, 106]);
    });
}

#[test]
fn cuda_atomic_message() {
    conform("cuda_atomic_message", |sim| {
        let x = Random::new(9).list(12, |r| r.below(1000) as i32);
        let (sums, flags) = (sim.room::<i32>(12 * 32), sim.buffer(&[0i32; 12]));
        // Blocks wait for each other: all must be resident.
        let launch = Launch::new(12, 32).cooperative();
        sim.launch("cuda_atomic_message", launch, &[&sim.buffer(&x), &sums, &flags]);
        let expected = (0..12 * 32).map(|i| x[..=i / 32].iter().sum::<i32>());
        assert_same(&sim.read(&sums), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cuda_atomic_lock() {
    conform("cuda_atomic_lock", |sim| {
        let (lock, fenced) = (sim.buffer(&[0i32, 0]), sim.buffer(&[0i32; 3]));
        let list = sim.buffer(&[0i32; 13]);
        sim.launch("cuda_atomic_lock", Launch::new(4, 96).cooperative(), &[&lock, &list, &fenced]);
        let mut got = sim.read(&list);
        assert_eq!(got[0], 12);
        got[1..].sort_unstable();
        assert_same(&got[1..], &(0..12).collect::<Vec<_>>());
        assert_eq!(sim.read(&fenced), [42, 1, 43]);
    });
}

#[test]
fn cuda_semaphore_latch() {
    conform("cuda_semaphore_latch", |sim| {
        let (most, out) = (sim.room::<i32>(1), sim.room::<i32>(128));
        sim.launch("cuda_semaphore_latch", Launch::new(1, 128), &[&most, &out]);
        let most = sim.read(&most)[0];
        assert!((1..=3).contains(&most), "{most} threads were inside");
        let expected = (0..128).map(|t| 1000 + (t + 1) % 4 * 32 + 7);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cuda_std_complex() {
    conform("cuda_std_complex", |sim| {
        let points = 128;
        let x = Random::new(11).list(points, |r| [r.unit(), r.unit()]);
        let root = |k: usize| std::f64::consts::TAU * k as f64 / points as f64;
        let roots: Vec<[f32; 2]> = (0..points / 2).map(|k| [root(k).cos() as f32, -root(k).sin() as f32]).collect();
        let out = sim.room::<[f32; 2]>(points);
        sim.launch("cuda_std_complex", Launch::new(1, 64), &[&sim.buffer(&x), &out, &sim.buffer(&roots)]);
        for (k, [re, im]) in sim.read(&out).into_iter().enumerate() {
            let (mut sum_re, mut sum_im) = (0.0, 0.0);
            for (j, [a, b]) in x.iter().enumerate() {
                let (sin, cos) = (-root(j * k % points)).sin_cos();
                sum_re += f64::from(*a) * cos - f64::from(*b) * sin;
                sum_im += f64::from(*a) * sin + f64::from(*b) * cos;
            }
            // Seven levels; each rounds values up to the sum of all magnitudes (below 2 * 128) a few times.
            let tolerance = 7.0 * 4.0 * 256.0 * 2f64.powi(-24);
            let error = (f64::from(re) - sum_re).hypot(f64::from(im) - sum_im);
            assert!(error <= tolerance, "point {k}: ({re}, {im}) instead of ({sum_re}, {sum_im})");
        }
    });
}

#[test]
fn cuda_std_containers() {
    conform("cuda_std_containers", |sim| {
        let count = 96;
        let x = Random::new(12).list(count, |r| r.i32() >> 4);
        let out = sim.room::<i64>(6 * count);
        sim.launch("cuda_std_containers", Launch::new(2, 64), &[&sim.buffer(&x), &out, &(count as i32)]);
        let mut expected = Vec::new();
        for i in 0..count {
            let mut row = x[i / 8 * 8..][..8].to_vec();
            row.sort_unstable();
            expected.push(row.iter().filter(|v| **v < x[i]).count() as i64);
            expected.push(i64::from(row[7]) - i64::from(row[0]));
            expected.push(if x[i] % 2 == 0 { x[i].into() } else { -7 });
            expected.push(if i % 3 == 0 { i as i64 % 11 } else { i64::from(x[i]).pow(2) });
            expected.push(row.iter().map(|v| i64::from(*v)).sum());
            let (mut a, mut b) = (row[0] & 0xffff, row[7] & 0xffff);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            expected.push(a.into());
        }
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_std_bit() {
    conform("cuda_std_bit", |sim| {
        let mut x = Random::new(13 + sim.seed).list(64, |r| r.u64() >> r.below(64));
        x[..4].copy_from_slice(&[0, 1, u64::MAX, 1 << 31]);
        let out = sim.room::<u32>(640);
        sim.launch("cuda_std_bit", Launch::new(1, 64), &[&sim.buffer(&x), &out]);
        let mut expected = Vec::new();
        for (i, wide) in x.iter().enumerate() {
            let (narrow, tiny, n) = (*wide as u32, *wide as u16, i as u32);
            expected.extend([
                wide.count_ones(),
                wide.leading_zeros() * 100 + narrow.trailing_zeros(),
                narrow.leading_ones() * 100 + wide.trailing_ones(),
                32 - narrow.leading_zeros(),
                narrow.rotate_left(n),
                tiny.rotate_right(n).into(),
                (narrow >> 1).next_power_of_two(),
                if narrow == 0 { 0 } else { 1 << narrow.ilog2() },
                narrow.swap_bytes(),
                (narrow as f32).to_bits(),
            ]);
        }
        assert_same(&sim.read(&out), &expected);
    });
}
