//! The kernels behind CUB's device-wide algorithms, launched as the library's host code launches them.

use bytemuck::{Pod, Zeroable};
use sim_conformance::{Argument, Launch, Random, Sim, assert_same, conform};

/// Tiles of these many items, as the library tuned them: scan, reduce, sort, select.
fn tile_items(sim: &Sim) -> [usize; 4] {
    let tiles = sim.room::<i32>(4);
    sim.launch("cub_device_tiles", Launch::new(1, 1), &[&tiles]);
    let tiles = sim.read(&tiles);
    std::array::from_fn(|i| tiles[i] as usize)
}

/// An empty struct: a functor.
const FUNCTOR: u8 = 0;

/// Words that stand before the first tile's status, so that a whole warp may look back from it.
const STATUS_PADDING: usize = 32;

#[test]
fn cub_device_scan() {
    conform("cub_device_scan", |sim| {
        let tile = tile_items(sim)[0];
        let count = 3 * tile + [0, 1, tile / 2][sim.seed as usize % 3];
        let tiles = count.div_ceil(tile);
        let x = Random::new(1).list(count, |r| r.below(100) as i32 - 30);
        let out = sim.room::<i32>(count);
        // The address of the tiles' status, in a union with the state of another algorithm.
        let status = [sim.room::<u64>(tiles + STATUS_PADDING).address, 0];
        let init = Launch::new((tiles as u32).div_ceil(128), 128);
        sim.launch("DeviceScanInitKernel", init, &[&status, &(tiles as i32)]);
        let start = [0i32, 0, 0, 0];
        let arguments: [&dyn Argument; 8] =
            [&sim.buffer(&x), &out, &status, &0i32, &FUNCTOR, &start, &(count as u32), &1i32];
        sim.launch("DeviceScanKernel", Launch::new(tiles as u32, 320), &arguments);
        let mut sum = 0;
        let expected: Vec<i32> = x.iter().map(|v| (sum += v, sum - v).1).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

/// How tiles are shared among blocks (cub::GridEvenShare).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EvenShare {
    total_tiles: i32,
    big_shares: i32,
    big_share_items: u32,
    normal_share_items: u32,
    normal_base_offset: u32,
    num_items: u32,
    grid_size: i32,
    block_offset: u32,
    block_end: u32,
    block_stride: u32,
}

#[test]
fn cub_device_reduce() {
    conform("cub_device_reduce", |sim| {
        let tile = tile_items(sim)[1];
        let count = 3 * tile + [0, 1, tile / 2][sim.seed as usize % 3];
        let x = Random::new(2 + sim.seed).list(count, |r| r.unit() * 10.0);
        let total_tiles = count.div_ceil(tile);
        let blocks = 2;
        let share = total_tiles / blocks;
        let even = EvenShare {
            total_tiles: total_tiles as i32,
            big_shares: (total_tiles % blocks) as i32,
            big_share_items: ((share + 1) * tile) as u32,
            normal_share_items: (share * tile) as u32,
            normal_base_offset: (total_tiles % blocks * tile) as u32,
            num_items: count as u32,
            grid_size: blocks as i32,
            block_offset: count as u32,
            block_end: count as u32,
            block_stride: 0,
        };
        let (partial, out) = (sim.room::<f32>(blocks), sim.room::<f32>(1));
        let arguments: [&dyn Argument; 7] =
            [&sim.buffer(&x), &partial, &(count as u32), &even, &FUNCTOR, &-1f32, &FUNCTOR];
        sim.launch("DeviceReduceKernel", Launch::new(blocks as u32, 256), &arguments);
        let arguments: [&dyn Argument; 6] = [&partial, &out, &(blocks as i32), &FUNCTOR, &-1f32, &FUNCTOR];
        sim.launch("PfSE_iS8_", Launch::new(1, 256), &arguments);
        assert_same(&sim.read(&out), &[x.iter().copied().fold(-1.0, f32::max)]);
    });
}

#[test]
fn cub_device_radix_sort() {
    conform("cub_device_radix_sort", |sim| {
        const DIGITS: usize = 256;
        const PASSES: usize = 4;
        let tile = tile_items(sim)[2];
        let count = tile + [1, tile / 2, tile][sim.seed as usize % 3];
        let blocks = count.div_ceil(tile);
        // Many equal keys: the order of their values shows that every pass is stable.
        let x = Random::new(3).list(count, |r| r.u32() & [0xffff_ffff, 0xf00f_00f0, 3][r.below(3) as usize]);
        let values: Vec<i32> = (0..count as i32).collect();
        let bins = sim.buffer(&[0u32; DIGITS * PASSES]);
        let mut keys = [sim.buffer(&x), sim.room::<u32>(count)];
        let mut items = [sim.buffer(&values), sim.room::<i32>(count)];
        let arguments: [&dyn Argument; 6] = [&bins, &keys[0], &(count as u32), &0i32, &32i32, &FUNCTOR];
        sim.launch("DeviceRadixSortHistogramKernel", Launch::new(2, 128), &arguments);
        sim.launch("DeviceRadixSortExclusiveSumKernel", Launch::new(PASSES as u32, DIGITS as u32), &[&bins]);
        let counters = sim.buffer(&[0i32; PASSES]);
        for pass in 0..PASSES {
            let lookback = sim.buffer(&vec![0i32; blocks * DIGITS]);
            let (counter, bins_in) = (counters.address + 4 * pass as u64, bins.address + (4 * DIGITS * pass) as u64);
            let bit = 8 * pass as i32;
            let [from, to] = &keys;
            let [values_in, values_out] = &items;
            let arguments: [&dyn Argument; 12] = [
                &lookback,
                &counter,
                &0u64,
                &bins_in,
                to,
                from,
                values_out,
                values_in,
                &(count as i32),
                &bit,
                &8i32,
                &FUNCTOR,
            ];
            sim.launch("DeviceRadixSortOnesweepKernel", Launch::new(blocks as u32, 384), &arguments);
            keys.swap(0, 1);
            items.swap(0, 1);
        }
        let mut order = values;
        order.sort_by_key(|i| x[*i as usize]);
        assert_same(&sim.read(&items[0]), &order);
        assert_same(&sim.read(&keys[0]), &order.iter().map(|i| x[*i as usize]).collect::<Vec<_>>());
    });
}

/// Which part of a long input a launch works on (cub::detail::select::streaming_context_t).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Streaming {
    first_partition: u8,
    last_partition: u8,
    padding: [u8; 6],
    total_items: i64,
    previous_items: i64,
    selected_in: u64,
    selected_out: u64,
}

#[test]
fn cub_device_select() {
    conform("cub_device_select", |sim| {
        let tile = tile_items(sim)[3];
        let count = 3 * tile + [0, 1, tile / 2][sim.seed as usize % 3];
        let tiles = count.div_ceil(tile);
        let x = Random::new(4 + sim.seed).list(count, |r| r.below(1000) as i32);
        let expected: Vec<i32> = x.iter().copied().filter(|v| v % 2 == 1).collect();
        let (out, selected) = (sim.room::<i32>(expected.len()), sim.room::<i32>(1));
        let status = sim.room::<u64>(tiles + STATUS_PADDING);
        let init = Launch::new((tiles as u32).div_ceil(128), 128);
        sim.launch("DeviceCompactInitKernel", init, &[&status, &(tiles as i32), &selected]);
        let context = Streaming {
            first_partition: 1,
            last_partition: 1,
            padding: [0; 6],
            total_items: count as i64,
            previous_items: 0,
            selected_in: 0,
            selected_out: 0,
        };
        let arguments: [&dyn Argument; 11] = [
            &sim.buffer(&x),
            &0u64,
            &out,
            &selected,
            &status,
            &FUNCTOR,
            &FUNCTOR,
            &(count as i32),
            &(tiles as i32),
            &context,
            &0u64,
        ];
        sim.launch("DeviceSelectSweepKernel", Launch::new(tiles as u32, 256), &arguments);
        assert_same(&sim.read(&selected), &[expected.len() as i32]);
        assert_same(&sim.read(&out), &expected);
    });
}
