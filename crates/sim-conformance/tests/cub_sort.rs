//! CUB's block-wide sorts and selections.

use sim_conformance::{Argument, Launch, Random, assert_same, conform};

const THREADS: usize = 128;
const TILE: usize = THREADS * 5;
const BLOCKS: usize = 2;

fn launch() -> Launch {
    Launch::new(BLOCKS as u32, THREADS as u32)
}

#[test]
fn cub_block_radix_sort() {
    conform("cub_block_radix_sort", |sim| {
        let mut x = Random::new(1).list(BLOCKS * TILE, |r| f32::from_bits(r.u32() & 0xbf7f_ffff));
        x[3..9].copy_from_slice(&[0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-42, f32::MIN, f32::MAX]);
        let out = sim.room::<f32>(x.len());
        sim.launch("cub_block_radix_sort", launch(), &[&sim.buffer(&x), &out]);
        for (block, got) in x.chunks(TILE).zip(sim.read(&out).chunks(TILE)) {
            let mut expected = block.to_vec();
            expected.sort_by(f32::total_cmp);
            assert_same(got, &expected);
        }
    });
}

#[test]
fn cub_block_radix_sort_pairs() {
    conform("cub_block_radix_sort_pairs", |sim| {
        let x = Random::new(2).list(BLOCKS * TILE, |r| r.below(40) as i32 - 20);
        let (keys, values) = (sim.room::<i32>(x.len()), sim.room::<u16>(x.len()));
        sim.launch("cub_block_radix_sort_pairs", launch(), &[&sim.buffer(&x), &keys, &values]);
        let (keys, values) = (sim.read(&keys), sim.read(&values));
        for (b, block) in x.chunks(TILE).enumerate() {
            let mut order: Vec<u16> = (0..TILE as u16).collect();
            order.sort_by_key(|i| std::cmp::Reverse(block[usize::from(*i)]));
            assert_eq!(values[b * TILE..][..TILE], order);
            let sorted: Vec<i32> = order.iter().map(|i| block[usize::from(*i)]).collect();
            assert_eq!(keys[b * TILE..][..TILE], sorted);
        }
    });
}

#[test]
fn cub_block_radix_rank() {
    conform("cub_block_radix_rank", |sim| {
        // Some digits never occur.
        let x = Random::new(3).list(TILE, |r| r.u32() & !(1 << 5));
        let (ranks, first) = (sim.room::<i32>(TILE), sim.room::<i32>(64));
        sim.launch("cub_block_radix_rank", Launch::new(1, THREADS as u32), &[&sim.buffer(&x), &ranks, &first]);
        let digit = |at: usize| x[at] >> 3 & 63;
        let mut order: Vec<usize> = (0..TILE).collect();
        order.sort_by_key(|at| digit(*at));
        let got = sim.read(&ranks);
        for (rank, at) in order.iter().enumerate() {
            assert_eq!(got[*at], rank as i32, "key {at}");
        }
        let below = |bin: u32| (0..TILE).filter(|at| digit(*at) < bin).count() as i32;
        assert_same(&sim.read(&first), &(0..64).map(below).collect::<Vec<_>>());
    });
}

#[test]
fn cub_block_merge_sort() {
    conform("cub_block_merge_sort", |sim| {
        let valid = [1, 31, 333, 639, 640][sim.seed as usize % 5];
        let x = Random::new(4).list(TILE, |r| r.below(200) as i32 - 100);
        let (keys, values) = (sim.room::<i32>(TILE), sim.room::<i32>(TILE));
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&x), &keys, &values, &(valid as i32)];
        sim.launch("cub_block_merge_sort", Launch::new(1, THREADS as u32), &arguments);
        let mut order: Vec<usize> = (0..valid).collect();
        order.sort_by_key(|at| x[*at].abs());
        let sorted: Vec<i32> = order.iter().map(|at| x[*at]).collect();
        assert_eq!(sim.read(&keys)[..valid], sorted);
        assert_eq!(sim.read(&values)[..valid], order.iter().map(|at| *at as i32).collect::<Vec<_>>());
    });
}

#[test]
fn cub_block_topk() {
    conform("cub_block_topk", |sim| {
        let (k, valid) = [(1, 1), (5, 640), (100, 300), (299, 333), (640, 640)][sim.seed as usize % 5];
        let x = Random::new(5 + sim.seed).list(TILE, |r| r.unit());
        let (keys, values) = (sim.room::<f32>(k), sim.room::<i32>(k));
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &keys, &values, &(k as i32), &(valid as i32)];
        sim.launch("cub_block_topk", Launch::new(1, THREADS as u32), &arguments);
        // The order of the results is not defined.
        let mut got: Vec<(f32, i32)> = sim.read(&keys).into_iter().zip(sim.read(&values)).collect();
        got.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut expected: Vec<(f32, i32)> = (0..valid).map(|i| (x[i], i as i32)).collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0));
        assert_eq!(got, expected[..k]);
    });
}
