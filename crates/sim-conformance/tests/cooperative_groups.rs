//! Cooperative groups.

use sim_conformance::{Argument, Launch, Random, assert_same, conform};

const THREADS: usize = 128;

#[test]
fn cg_tiles() {
    conform("cg_tiles", |sim| {
        let size = 1 << (sim.seed % 6);
        let x = Random::new(1).list(2 * THREADS, |r| r.below(1000) as i32 - 500);
        let [sums, scans, largest] = [(); 3].map(|()| sim.room::<i32>(x.len()));
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &sums, &scans, &largest, &size];
        sim.launch("cg_tiles", Launch::new(2, THREADS as u32), &arguments);
        let (mut sum, mut scan, mut most) = (Vec::new(), Vec::new(), Vec::new());
        for tile in x.chunks(size as usize) {
            for i in 0..tile.len() {
                sum.push(tile.iter().sum());
                scan.push(tile[..i].iter().sum());
                most.extend(tile.iter().copied().max());
            }
        }
        assert_same(&sim.read(&sums), &sum);
        assert_same(&sim.read(&scans), &scan);
        assert_same(&sim.read(&largest), &most);
    });
}

#[test]
fn cg_tile_votes() {
    conform("cg_tile_votes", |sim| {
        // The last tile agrees with itself.
        let x: Vec<i32> = (0..THREADS).map(|i| if i >= 120 { 4 } else { (i * i / 3 % 9) as i32 }).collect();
        let [ballots, matches] = [(); 2].map(|()| sim.room::<u32>(THREADS));
        let [any_all, shifted] = [(); 2].map(|()| sim.room::<i32>(THREADS));
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &ballots, &matches, &any_all, &shifted];
        sim.launch("cg_tile_votes", Launch::new(1, THREADS as u32), &arguments);
        let bits = |tile: &[i32], f: &dyn Fn(i32) -> bool| {
            tile.iter().enumerate().fold(0, |mask, (i, v)| mask | u32::from(f(*v)) << i)
        };
        let [mut ballot, mut matched] = [(); 2].map(|()| Vec::new());
        let [mut votes, mut moved] = [(); 2].map(|()| Vec::new());
        for tile in x.chunks(8) {
            for (i, v) in tile.iter().enumerate() {
                ballot.push(bits(tile, &|w| w & 1 != 0));
                matched.push(bits(tile, &|w| w == *v));
                let agree = tile.iter().all(|w| w == v);
                let (any, all) = (tile.iter().any(|w| *w > 5), tile.iter().all(|w| *w > 0));
                votes.push(i32::from(any) * 2 + i32::from(all) + 4 * i32::from(agree));
                let up = tile[i.checked_sub(3).unwrap_or(i)];
                let down = tile[if i + 2 < 8 { i + 2 } else { i }];
                moved.push(up * 100 + down * 10 + tile[5]);
            }
        }
        assert_same(&sim.read(&ballots), &ballot);
        assert_same(&sim.read(&matches), &matched);
        assert_same(&sim.read(&any_all), &votes);
        assert_same(&sim.read(&shifted), &moved);
    });
}

#[test]
fn cg_coalesced() {
    conform("cg_coalesced", |sim| {
        let x = Random::new(3).list(2 * THREADS, |r| r.below(100) as i32);
        let [sums, ranks, slots] = [(); 3].map(|()| sim.room::<i32>(x.len()));
        let counter = sim.buffer(&[0i32]);
        let arguments: [&dyn Argument; 5] = [&sim.buffer(&x), &sums, &ranks, &counter, &slots];
        sim.launch("cg_coalesced", Launch::new(2, THREADS as u32), &arguments);
        let (mut sum, mut rank) = (Vec::new(), Vec::new());
        for warp in x.chunks(32) {
            let total: i32 = warp.iter().filter(|v| *v % 3 == 0).sum();
            let mut before = 0;
            for v in warp {
                let inside = v % 3 == 0;
                sum.push(if inside { total } else { -1 });
                rank.push(if inside { before } else { -1 });
                before += i32::from(inside);
            }
        }
        assert_same(&sim.read(&sums), &sum);
        assert_same(&sim.read(&ranks), &rank);
        // Which warp comes first is open, but every slot is taken once.
        let count = x.iter().filter(|v| *v % 3 == 0).count() as i32;
        assert_eq!(sim.read(&counter), [count]);
        let mut taken: Vec<i32> = sim.read(&slots).into_iter().filter(|s| *s >= 0).collect();
        taken.sort_unstable();
        assert_same(&taken, &(0..count).collect::<Vec<_>>());
    });
}

#[test]
fn cg_partitions() {
    conform("cg_partitions", |sim| {
        let x = Random::new(4 + sim.seed).list(THREADS, |r| r.below(50) as i32);
        let [binary, labeled, scan] = [(); 3].map(|()| sim.room::<i32>(THREADS));
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&x), &binary, &labeled, &scan];
        sim.launch("cg_partitions", Launch::new(1, THREADS as u32), &arguments);
        let (mut most, mut places, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for warp in x.chunks(32) {
            for (i, v) in warp.iter().enumerate() {
                most.extend(warp.iter().filter(|w| *w & 1 == v & 1).max());
                let same = |w: &&i32| *w % 4 == v % 4;
                let before = warp[..i].iter().filter(same).count();
                places.push((warp.iter().filter(same).count() * 100 + before) as i32);
                sums.push(warp[..=i].iter().filter(same).sum());
            }
        }
        assert_same(&sim.read(&binary), &most);
        assert_same(&sim.read(&labeled), &places);
        assert_same(&sim.read(&scan), &sums);
    });
}

#[test]
fn cg_multi_warp_tile() {
    conform("cg_multi_warp_tile", |sim| {
        let x = Random::new(5).list(THREADS, |r| r.below(1000) as i32);
        let out = sim.room::<i32>(2 * THREADS);
        sim.launch("cg_multi_warp_tile", Launch::new(1, THREADS as u32), &[&sim.buffer(&x), &out]);
        let sum = |tile: usize| x[64 * tile..][..64].iter().sum::<i32>() + 1_000_000 * tile as i32;
        let sums = (0..THREADS).map(|i| sum(i / 64));
        let lasts = (0..THREADS).map(|i| x[i / 64 * 64 + 63]);
        assert_same(&sim.read(&out), &sums.chain(lasts).collect::<Vec<_>>());
    });
}

#[test]
fn cg_grid_sync() {
    conform("cg_grid_sync", |sim| {
        let (count, steps) = (1000, 1 + sim.seed as i32 % 5);
        let mut x = Random::new(6).list(count, |r| r.unit());
        let (a, b) = (sim.buffer(&x), sim.room::<f32>(count));
        let launch = Launch::new(5, THREADS as u32).cooperative();
        sim.launch("cg_grid_sync", launch, &[&a, &b, &(count as i32), &steps]);
        for _ in 0..steps {
            x = (0..count).map(|i| 0.5 * (x[(i + count - 1) % count] + x[(i + 1) % count])).collect();
        }
        assert_same(&sim.read(if steps % 2 == 0 { &a } else { &b }), &x);
    });
}

#[test]
fn cg_cluster_histogram() {
    conform("cg_cluster_histogram", |sim| {
        let (per_block, bins_per_block, cluster) = (300, 48, [2, 4][sim.seed as usize % 2]);
        let bins = bins_per_block * cluster;
        let x = Random::new(7).list(8 * per_block, |r| r.below(bins as u32) as i32);
        let out = sim.buffer(&vec![0i32; bins]);
        let launch = Launch::new(8, THREADS as u32).cluster(cluster as u32).shared(4 * bins_per_block as u32);
        let arguments: [&dyn Argument; 4] = [&sim.buffer(&x), &(per_block as i32), &out, &(bins_per_block as i32)];
        sim.launch("cg_cluster_histogram", launch, &arguments);
        let count = |bin: usize| x.iter().filter(|v| **v == bin as i32).count() as i32;
        assert_same(&sim.read(&out), &(0..bins).map(count).collect::<Vec<_>>());
    });
}

#[test]
fn cg_cluster_ring() {
    conform("cg_cluster_ring", |sim| {
        let x: Vec<i32> = (0..12).map(|i| 7 * i + 3).collect();
        let out = sim.room::<i32>(12);
        sim.launch("cg_cluster_ring", Launch::new(12, 64).cluster(4), &[&sim.buffer(&x), &out]);
        let expected = (0..12).map(|i| x[i / 4 * 4 + (i + 1) % 4] * 10 + i as i32 % 4);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cg_split_barrier() {
    conform("cg_split_barrier", |sim| {
        let x = Random::new(9).list(THREADS, |r| r.i32() >> 8);
        let out = sim.room::<i32>(THREADS);
        sim.launch("cg_split_barrier", Launch::new(1, THREADS as u32), &[&sim.buffer(&x), &out]);
        let expected = (0..THREADS).map(|i| x[127 - i] - 3 * x[i]);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn cg_memcpy_async() {
    conform("cg_memcpy_async", |sim| {
        let count = [1, 255, 256, 1000][sim.seed as usize % 4];
        let x = Random::new(10).list(count, |r| r.i32());
        let out = sim.room::<i32>(count);
        sim.launch("cg_memcpy_async", Launch::new(1, THREADS as u32), &[&sim.buffer(&x), &out, &(count as i32)]);
        let reversed: Vec<i32> = x.chunks(256).flat_map(|tile| tile.iter().rev().copied()).collect();
        assert_same(&sim.read(&out), &reversed);
    });
}
