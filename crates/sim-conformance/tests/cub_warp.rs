//! CUB's warp-wide algorithms.

use sim_conformance::{Argument, Launch, Random, assert_same, conform};

const THREADS: usize = 128;

fn launch() -> Launch {
    Launch::new(1, THREADS as u32)
}

#[test]
fn cub_warp_reduce() {
    conform("cub_warp_reduce", |sim| {
        let mut random = Random::new(1);
        let (x, y) = (random.list(THREADS, |r| r.unit()), random.list(THREADS, |r| r.unit()));
        let valid = 1 + sim.seed as usize % 8;
        let (sums, largest) = (sim.room::<f32>(4), sim.room::<f32>(16));
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &sums, &sim.buffer(&y), &largest, &(valid as i32)];
        sim.launch("cub_warp_reduce", launch(), &arguments);
        for (warp, got) in x.chunks(32).zip(sim.read(&sums)) {
            let exact: f64 = warp.iter().map(|v| f64::from(*v)).sum();
            // Five levels of additions of values below 32, each rounded to 2^-24 of it.
            let tolerance = 5.0 * 32.0 * 2f64.powi(-24);
            assert!((f64::from(got) - exact).abs() <= tolerance, "{got} instead of {exact}");
        }
        let maximum = |group: &[f32]| group[..valid].iter().copied().fold(f32::MIN, f32::max);
        assert_same(&sim.read(&largest), &y.chunks(8).map(maximum).collect::<Vec<_>>());
    });
}

#[test]
fn cub_warp_reduce_segmented() {
    conform("cub_warp_reduce_segmented", |sim| {
        let mut random = Random::new(2 + sim.seed);
        let x = random.list(THREADS, |r| r.i32() >> 8);
        let heads = random.list(THREADS, |r| i32::from(r.below(5) == 0));
        let out = sim.room::<i32>(THREADS);
        sim.launch("cub_warp_reduce_segmented", launch(), &[&sim.buffer(&x), &sim.buffer(&heads), &out]);
        let mut expected = vec![0; THREADS];
        let mut head = 0;
        for i in 0..THREADS {
            if i % 32 == 0 || heads[i] != 0 {
                head = i;
            }
            expected[head] += x[i];
        }
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cub_warp_scan() {
    conform("cub_warp_scan", |sim| {
        let x = Random::new(3).list(THREADS, |r| r.i32() >> 8);
        let [inclusive, exclusive] = [(); 2].map(|()| sim.room::<i32>(THREADS));
        let totals = sim.room::<i32>(THREADS / 16);
        sim.launch("cub_warp_scan", launch(), &[&sim.buffer(&x), &inclusive, &exclusive, &totals]);
        let (mut with, mut without, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for group in x.chunks(16) {
            with.extend((0..16).map(|i| 100 + group[..=i].iter().sum::<i32>()));
            without.extend((0..16).map(|i| 100 + group[..i].iter().sum::<i32>()));
            sums.push(group.iter().sum::<i32>());
        }
        assert_same(&sim.read(&inclusive), &with);
        assert_same(&sim.read(&exclusive), &without);
        assert_same(&sim.read(&totals), &sums);
    });
}

#[test]
fn cub_warp_scan_custom() {
    conform("cub_warp_scan_custom", |sim| {
        // Small integers: every product and sum is exact.
        let x = Random::new(4).list(THREADS, |r| [[1.0, -1.0, 2.0][r.below(3) as usize], r.below(9) as f32 - 4.0]);
        let out = sim.room::<[f32; 2]>(THREADS);
        sim.launch("cub_warp_scan_custom", launch(), &[&sim.buffer(&x), &out]);
        let got = sim.read(&out);
        for (warp, got) in x.chunks(32).zip(got.chunks(32)) {
            let (mut slope, mut offset) = (1.0f32, 0.0f32);
            for (i, [s, o]) in warp.iter().enumerate() {
                (slope, offset) = (slope * s, offset * s + o);
                assert_eq!(got[i], [slope, offset], "lane {i}");
            }
        }
    });
}

#[test]
fn cub_warp_exchange() {
    conform("cub_warp_exchange", |sim| {
        let x = Random::new(6).list(4 * THREADS, |r| r.i32());
        let [through_memory, by_shuffles] = [(); 2].map(|()| sim.room::<i32>(x.len()));
        sim.launch("cub_warp_exchange", launch(), &[&sim.buffer(&x), &through_memory, &by_shuffles]);
        let striped = |group: usize| -> Vec<i32> {
            let stripes = |part: &[i32]| (0..part.len()).map(|at| part[at % 4 * group + at / 4]).collect::<Vec<_>>();
            x.chunks(4 * group).flat_map(stripes).collect()
        };
        assert_eq!(sim.read(&through_memory), striped(16));
        assert_eq!(sim.read(&by_shuffles), striped(4));
    });
}

#[test]
fn cub_warp_load_store() {
    conform("cub_warp_load_store", |sim| {
        let valid = [1, 31, 33, 95, 96][sim.seed as usize % 5];
        let x = Random::new(7).list(3 * THREADS, |r| f64::from(r.unit()));
        let out = sim.buffer(&vec![7.0f64; x.len()]);
        sim.launch("cub_warp_load_store", launch(), &[&sim.buffer(&x), &out, &(valid as i32)]);
        let expected = (0..x.len()).map(|i| if i % 96 < valid { 2.0 * x[i] } else { 7.0 });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cub_warp_merge_sort() {
    conform("cub_warp_merge_sort", |sim| {
        let x = Random::new(5 + sim.seed).list(3 * THREADS, |r| r.u32());
        let out = sim.room::<u32>(x.len());
        sim.launch("cub_warp_merge_sort", launch(), &[&sim.buffer(&x), &out]);
        let sorted = x.chunks(48).flat_map(|group| {
            let mut group = group.to_vec();
            group.sort_unstable();
            group
        });
        assert_same(&sim.read(&out), &sorted.collect::<Vec<_>>());
    });
}
