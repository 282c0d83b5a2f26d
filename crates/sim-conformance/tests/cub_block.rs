//! CUB's block-wide algorithms but sorts.

use sim_conformance::{Launch, Random, assert_same, conform};

const THREADS: usize = 128;
const TILE: usize = THREADS * 4;
const BLOCKS: usize = 3;

fn launch() -> Launch {
    Launch::new(BLOCKS as u32, THREADS as u32)
}

#[test]
fn cub_block_reduce() {
    conform("cub_block_reduce", |sim| {
        let x = Random::new(1).list(BLOCKS * THREADS, |r| r.i32() >> 8);
        let out = sim.room::<i32>(BLOCKS);
        sim.launch("cub_block_reduce", launch(), &[&sim.buffer(&x), &out]);
        let expected: Vec<i32> = x.chunks(THREADS).map(|block| block.iter().sum()).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cub_block_reduce_raking() {
    conform("cub_block_reduce_raking", |sim| {
        let x = Random::new(2).list(BLOCKS * THREADS, |r| r.unit() * 100.0);
        let valid = [1, 31, 33, 100, 128][sim.seed as usize % 5];
        let out = sim.room::<f32>(BLOCKS);
        sim.launch("cub_block_reduce_raking", launch(), &[&sim.buffer(&x), &out, &(valid as i32)]);
        let largest = |block: &[f32]| block[..valid].iter().copied().fold(f32::MIN, f32::max);
        assert_same(&sim.read(&out), &x.chunks(THREADS).map(largest).collect::<Vec<_>>());
    });
}

#[test]
fn cub_block_reduce_commutative() {
    conform("cub_block_reduce_commutative", |sim| {
        let x = Random::new(3).list(BLOCKS * THREADS, |r| r.u32());
        let out = sim.room::<u32>(BLOCKS);
        sim.launch("cub_block_reduce_commutative", launch(), &[&sim.buffer(&x), &out]);
        let expected: Vec<u32> = x.chunks(THREADS).map(|block| block.iter().fold(0, |a, b| a ^ b)).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cub_block_scan() {
    conform("cub_block_scan", |sim| {
        let x = Random::new(4).list(BLOCKS * TILE, |r| r.i32() >> 12);
        let (out, totals) = (sim.room::<i32>(x.len()), sim.room::<i32>(BLOCKS));
        sim.launch("cub_block_scan", launch(), &[&sim.buffer(&x), &out, &totals]);
        let mut expected = Vec::new();
        for block in x.chunks(TILE) {
            expected.extend((0..TILE).map(|i| block[..i].iter().sum::<i32>()));
        }
        assert_same(&sim.read(&out), &expected);
        assert_same(&sim.read(&totals), &x.chunks(TILE).map(|block| block.iter().sum()).collect::<Vec<i32>>());
    });
}

#[test]
fn cub_block_scan_raking() {
    conform("cub_block_scan_raking", |sim| {
        let x = Random::new(5).list(BLOCKS * TILE, |r| r.i32());
        let out = sim.room::<i32>(x.len());
        sim.launch("cub_block_scan_raking", launch(), &[&sim.buffer(&x), &out]);
        let got = sim.read(&out);
        for (block, got) in x.chunks(TILE).zip(got.chunks(TILE)) {
            let expected: Vec<i32> = (0..TILE).filter_map(|i| block[..=i].iter().copied().max()).collect();
            assert_same(got, &expected);
        }
    });
}

#[test]
fn cub_block_scan_prefix() {
    conform("cub_block_scan_prefix", |sim| {
        let count = [1, 511, 512, 513, 2000][sim.seed as usize % 5];
        let x = Random::new(6).list(count, |r| r.i32() >> 14);
        let out = sim.room::<i32>(count);
        sim.launch("cub_block_scan_prefix", Launch::new(1, THREADS as u32), &[&sim.buffer(&x), &out, &(count as i32)]);
        let mut sum = 0;
        let expected: Vec<i32> = x.iter().map(|v| (sum += v, sum).1).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

/// Item `i` of thread `t` is `x[i * threads + t]` when blocked items become striped.
fn striped<T: Copy>(x: &[T], threads: usize) -> Vec<T> {
    let items = x.len() / threads;
    (0..x.len()).map(|at| x[at % items * threads + at / items]).collect()
}

#[test]
fn cub_block_exchange() {
    conform("cub_block_exchange", |sim| {
        let mut random = Random::new(7);
        let x = random.list(TILE, |r| r.i32());
        let mut ranks: Vec<i32> = (0..TILE as i32).collect();
        for i in (1..TILE).rev() {
            ranks.swap(i, random.below(i as u32 + 1) as usize);
        }
        let [stripes, back, scattered] = [(); 3].map(|()| sim.room::<i32>(TILE));
        let one = Launch::new(1, THREADS as u32);
        let arguments: [&dyn sim_conformance::Argument; 5] =
            [&sim.buffer(&x), &stripes, &back, &sim.buffer(&ranks), &scattered];
        sim.launch("cub_block_exchange", one, &arguments);
        assert_eq!(sim.read(&stripes), striped(&x, THREADS));
        assert_same(&sim.read(&back), &x);
        let got = sim.read(&scattered);
        for (value, rank) in x.iter().zip(ranks) {
            assert_eq!(got[rank as usize], *value);
        }
    });
}

#[test]
fn cub_block_exchange_warp() {
    conform("cub_block_exchange_warp", |sim| {
        let x = Random::new(8).list(BLOCKS * TILE, |r| f64::from(r.unit()));
        let (stripes, back) = (sim.room::<f64>(x.len()), sim.room::<f64>(x.len()));
        sim.launch("cub_block_exchange_warp", launch(), &[&sim.buffer(&x), &stripes, &back]);
        let expected: Vec<f64> = x.chunks(32 * 4).flat_map(|warp| striped(warp, 32)).collect();
        assert_same(&sim.read(&stripes), &expected);
        assert_same(&sim.read(&back), &x);
    });
}

#[test]
fn cub_block_load_store() {
    conform("cub_block_load_store", |sim| {
        let valid = [1, 31, 130, 511, 512][sim.seed as usize % 5];
        let x = Random::new(9).list(valid, |r| (r.u32() >> 18) as i16);
        let out = sim.buffer(&[-7i16; 4 * TILE]);
        let one = Launch::new(1, THREADS as u32);
        sim.launch("cub_block_load_store", one, &[&sim.buffer(&x), &out, &(valid as i32)]);
        for (algorithm, got) in sim.read(&out).chunks(TILE).enumerate() {
            let expected: Vec<i16> = (0..TILE).map(|i| x.get(i).map_or(-7, |v| v + i as i16)).collect();
            assert_eq!(got, expected, "algorithm {algorithm}, {valid} items");
        }
    });
}

#[test]
fn cub_block_load_store_vector() {
    conform("cub_block_load_store_vector", |sim| {
        let x = Random::new(10).list(BLOCKS * TILE, |r| r.i32());
        let out = sim.room::<i32>(x.len());
        sim.launch("cub_block_load_store_vector", launch(), &[&sim.buffer(&x), &out]);
        assert_same(&sim.read(&out), &x.iter().map(|v| !v).collect::<Vec<_>>());
    });
}

fn check_histogram(kernel: &str) {
    conform(kernel, |sim| {
        let mut random = Random::new(11 + sim.seed);
        // Few values in some runs: many threads then add to one bin.
        let values = [256, 3, 1][sim.seed as usize % 3];
        let x = random.list(BLOCKS * TILE, |r| r.below(values) as u8);
        let out = sim.room::<u32>(BLOCKS * 256);
        sim.launch(kernel, launch(), &[&sim.buffer(&x), &out]);
        let got = sim.read(&out);
        for (block, got) in x.chunks(TILE).zip(got.chunks(256)) {
            let count = |bin: usize| block.iter().filter(|v| usize::from(**v) == bin).count() as u32;
            assert_eq!(got, (0..256).map(count).collect::<Vec<_>>());
        }
    });
}

#[test]
fn cub_block_histogram_atomic() {
    check_histogram("cub_block_histogram_atomic");
}

#[test]
fn cub_block_histogram_sort() {
    check_histogram("cub_block_histogram_sort");
}

#[test]
fn cub_block_discontinuity() {
    conform("cub_block_discontinuity", |sim| {
        let x = Random::new(13).list(BLOCKS * TILE, |r| r.below(3) as i32);
        let (heads, tails) = (sim.room::<i32>(x.len()), sim.room::<i32>(x.len()));
        sim.launch("cub_block_discontinuity", launch(), &[&sim.buffer(&x), &heads, &tails]);
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        for block in x.chunks(TILE) {
            head.extend((0..TILE).map(|i| i32::from(i == 0 || block[i] != block[i - 1])));
            tail.extend((0..TILE).map(|i| i32::from(i == TILE - 1 || block[i] != block[i + 1])));
        }
        assert_same(&sim.read(&heads), &head);
        assert_same(&sim.read(&tails), &tail);
    });
}

#[test]
fn cub_block_adjacent_difference() {
    conform("cub_block_adjacent_difference", |sim| {
        let x = Random::new(14).list(BLOCKS * TILE, |r| r.i32() >> 2);
        let (left, right) = (sim.room::<i32>(x.len()), sim.room::<i32>(x.len()));
        sim.launch("cub_block_adjacent_difference", launch(), &[&sim.buffer(&x), &left, &right]);
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        for block in x.chunks(TILE) {
            lefts.extend((0..TILE).map(|i| if i == 0 { block[0] } else { block[i] - block[i - 1] }));
            rights.extend((0..TILE).map(|i| if i == TILE - 1 { block[i] } else { block[i] - block[i + 1] }));
        }
        assert_same(&sim.read(&left), &lefts);
        assert_same(&sim.read(&right), &rights);
    });
}

#[test]
fn cub_block_run_length_decode() {
    conform("cub_block_run_length_decode", |sim| {
        let mut random = Random::new(15 + sim.seed);
        let values = random.list(2 * THREADS, |r| r.i32());
        // Runs of no items may only come last.
        let lengths: Vec<u32> = (0..2 * THREADS).map(|i| if i < 250 { 1 + random.below(9) } else { 0 }).collect();
        let (mut decoded, mut places) = (Vec::new(), Vec::new());
        for (value, length) in values.iter().zip(&lengths) {
            decoded.extend((0..*length).map(|_| *value));
            places.extend(0..*length);
        }
        let (out, offsets) = (sim.room::<i32>(decoded.len()), sim.room::<u32>(decoded.len()));
        let total = sim.room::<u32>(1);
        let arguments: [&dyn sim_conformance::Argument; 5] =
            [&sim.buffer(&values), &sim.buffer(&lengths), &out, &offsets, &total];
        sim.launch("cub_block_run_length_decode", Launch::new(1, THREADS as u32), &arguments);
        assert_eq!(sim.read(&total), [decoded.len() as u32]);
        assert_same(&sim.read(&out), &decoded);
        assert_same(&sim.read(&offsets), &places);
    });
}

#[test]
fn cub_block_shuffle() {
    conform("cub_block_shuffle", |sim| {
        let x = Random::new(16).list(BLOCKS * TILE, |r| r.i32());
        let (up, down, last) = (sim.room::<i32>(x.len()), sim.room::<i32>(x.len()), sim.room::<i32>(BLOCKS));
        sim.launch("cub_block_shuffle", launch(), &[&sim.buffer(&x), &up, &down, &last]);
        let (mut ups, mut downs, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        for block in x.chunks(TILE) {
            ups.extend((0..TILE).map(|i| if i == 0 { -1 } else { block[i - 1] }));
            downs.extend((0..TILE).map(|i| block.get(i + 1).copied().unwrap_or(-1)));
            lasts.push(block[TILE - 1]);
        }
        assert_same(&sim.read(&up), &ups);
        assert_same(&sim.read(&down), &downs);
        assert_same(&sim.read(&last), &lasts);
    });
}
