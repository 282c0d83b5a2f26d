//! Counters: known kernels have known counts, whatever the schedule and the number of host threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use common::{Bench, HEADER};
use proptest::prelude::*;
use sim_exec::memory::Words;
use sim_exec::{Checks, Counters, Gpu, GpuConfig, LaunchConfig, LoadedModule};

/// y[i] = 2 x[i], one element per thread.
const SCALE: &str = "
.visible .entry scale(.param .u64 x, .param .u64 y) {
  .reg .f32 %f<3>; .reg .b32 %r<6>; .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r1, %r3, %r4, %r5;
  mul.wide.s32 %rd4, %r1, 4; add.s64 %rd5, %rd1, %rd4; add.s64 %rd7, %rd2, %rd4;
  ld.global.f32 %f1, [%rd5];
  add.f32 %f2, %f1, %f1;
  st.global.f32 [%rd7], %f2;
  ret;
}";

/// Every feature whose counting could depend on the schedule: divergence, barriers, cp.async with a wait, bank conflicts,
/// warp synchronisation with lanes apart, atomics, a matrix product.
const MIXED: &str = "
.visible .entry mixed(.param .u64 x, .param .u64 y) {
  .reg .pred %p<4>; .reg .f32 %f<9>; .reg .b32 %r<30>; .reg .b64 %rd<8>;
  .shared .align 16 .b8 tile[8192];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, tile;
  mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3; mad.lo.s32 %r4, %r1, 16, %r3;
  cp.async.cg.shared.global [%r4], [%rd4], 16;
  cp.async.commit_group;
  and.b32 %r5, %r1, 3;
  mov.u32 %r6, 0;
LOOP:
  add.u32 %r6, %r6, 1;
  setp.le.u32 %p1, %r6, %r5;
  @%p1 bra LOOP;
  setp.gt.u32 %p2, %r5, 1;
  @%p2 bra APART;
  bar.warp.sync 0xffffffff;
  bra.uni TOGETHER;
APART:
  bar.warp.sync 0xffffffff;
TOGETHER:
  shfl.sync.bfly.b32 %r7, %r6, 1, 31, 0xffffffff;
  cp.async.wait_group 0;
  bar.sync 0;
  xor.b32 %r8, %r1, 37; shl.b32 %r9, %r8, 5; and.b32 %r9, %r9, 4095; add.u32 %r10, %r3, %r9;
  ld.shared.u32 %r11, [%r10];
  mov.f32 %f1, 0f00000000; mov.b32 %r12, 0x3c003c00;
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r12,%r12,%r12,%r12}, {%r12,%r12}, {%f1,%f1,%f1,%f1};
  add.u32 %r13, %r7, %r11;
  shl.b32 %r14, %r2, 2; cvt.u64.u32 %rd5, %r14; add.s64 %rd6, %rd2, %rd5;
  red.global.add.u32 [%rd6], %r13;
  ret;
}";

/// The counters of a kernel on buffers of `words` words, the first filled and the second zero.
fn count(ptx: &str, words: usize, grid: u32, block: u32, workers: usize, seed: u64) -> Counters {
    let mut bench = Bench::with(ptx, GpuConfig { workers, ..GpuConfig::default() });
    bench.buffer(&(0..words as u32).collect::<Vec<_>>());
    bench.buffer(&vec![0; words]);
    let config = LaunchConfig { grid: [grid, 1, 1], block: [block, 1, 1], seed, ..LaunchConfig::default() };
    bench.launch(config).unwrap_or_else(|e| panic!("{e}")).counters
}

fn classes(c: &Counters) -> u64 {
    let arithmetic = c.integer + c.float + c.double + c.half + c.convert + c.special + c.moves;
    let rest = c.control + c.exchange + c.memory + c.atomics + c.matrix + c.async_copies + c.barriers + c.mbarriers;
    arithmetic + rest
}

#[test]
fn a_streaming_kernel_has_the_counts_that_its_text_says() {
    let warps = 4096 / 32;
    let expected = Counters {
        ctas: 32,
        instructions: 13 * warps,
        active_lanes: 32 * 13 * warps,
        integer: 4 * warps,
        float: warps,
        moves: 3 * warps,
        control: warps,
        memory: 4 * warps,
        param_loads: 2 * warps,
        global_loads: warps,
        global_load_sectors: 4 * warps,
        global_load_sectors_ideal: 4 * warps,
        global_stores: warps,
        global_store_sectors: 4 * warps,
        global_store_sectors_ideal: 4 * warps,
        footprint_bytes: 2 * 4 * 4096,
        dram_read_bytes: 4 * 4096,
        dram_write_bytes: 4 * 4096,
        ..Counters::default()
    };
    assert_eq!(count(SCALE, 4096, 32, 128, 1, 0), expected);
}

#[test]
fn classes_add_up_and_a_mixed_kernel_counts_what_it_does() {
    let (ctas, warps) = (4, 8);
    let c = count(MIXED, 1024, ctas, 256, 2, 7);
    let all = u64::from(ctas) * warps;
    assert_eq!(classes(&c), c.instructions);
    assert_eq!((c.async_copies, c.barriers, c.exchange, c.matrix, c.atomics), (all, all, all, all, all));
    assert_eq!(c.multiply_adds_f16, all * 16 * 8 * 16);
    // cp.async: 512 contiguous bytes per warp. The loop splits a warp three times, the branch after it once.
    assert_eq!((c.global_loads, c.global_load_sectors, c.global_load_sectors_ideal), (all, 16 * all, 16 * all));
    assert_eq!(c.divergent_branches, 4 * all);
    assert_eq!((c.shared_stores, c.shared_store_replays), (all, 0));
    // Lanes read words 8 apart: four banks serve eight words each.
    assert_eq!((c.shared_loads, c.shared_load_replays), (all, 7 * all));
    assert_eq!((c.global_atomics, c.global_atomic_sectors), (all, all));
    // Every CTA copies the same 4 KiB; their four sums share one sector.
    assert_eq!((c.dram_read_bytes, c.dram_write_bytes), (4096 + 32, 32));
}

#[test]
fn counts_do_not_depend_on_seed_or_host_threads() {
    for (ptx, words) in [(SCALE, 2048), (MIXED, 1024)] {
        let first = count(ptx, words, 8, 256, 1, 0);
        for seed in 0..20 {
            for workers in [1, 2] {
                assert_eq!(count(ptx, words, 8, 256, workers, seed), first, "seed {seed}, {workers} workers");
            }
        }
    }
}

#[test]
fn counts_do_not_depend_on_the_checkers() {
    let run = |checks| {
        let mut bench = Bench::with(MIXED, GpuConfig { checks, ..GpuConfig::default() });
        bench.buffer(&[1; 1024]);
        bench.buffer(&[0; 4]);
        bench.launch(LaunchConfig { grid: [4, 1, 1], block: [256, 1, 1], ..LaunchConfig::default() }).unwrap().counters
    };
    assert_eq!(run(Checks::ALL), run(Checks::NONE));
}

#[test]
fn lines_add_up_to_the_launch() {
    let mut bench = Bench::new(MIXED);
    bench.buffer(&[1; 1024]);
    bench.buffer(&[0; 4]);
    let config = LaunchConfig { grid: [4, 1, 1], block: [256, 1, 1], ..LaunchConfig::default() };
    let report = bench.launch(config).unwrap();
    let lines = report.by_ptx_line(&bench.module.kernels["mixed"]);
    let mut sum = Counters::default();
    lines.iter().for_each(|line| sum += line.counters);
    let launch = report.counters;
    let whole = Counters {
        ctas: launch.ctas,
        footprint_bytes: launch.footprint_bytes,
        dram_read_bytes: launch.dram_read_bytes,
        dram_write_bytes: launch.dram_write_bytes,
        ..sum
    };
    assert_eq!(whole, launch);
    let line_of = |text: &str| {
        let all = format!("{HEADER}{MIXED}");
        all.lines().position(|l| l.contains(text)).unwrap() as u32 + 1
    };
    let counters = |text| lines.iter().find(|l| l.line == line_of(text)).unwrap().counters;
    assert_eq!(counters("ld.shared.u32").shared_load_replays, launch.shared_load_replays);
    assert_eq!(counters("@%p1 bra LOOP").divergent_branches, 3 * 32);
}

/// The counters of one warp that runs `body`, with `%r1` the thread, `%rd1` and `%rd2` two buffers of 4 KiB, `tile` 8 KiB of
/// shared memory and `%r2` its address.
fn one_warp(functions: &str, body: &str) -> Counters {
    let ptx = format!(
        "{functions}
.visible .entry k(.param .u64 x, .param .u64 y) {{
  .reg .pred %p<4>; .reg .f32 %f<9>; .reg .b32 %r<30>; .reg .b64 %rd<12>;
  .shared .align 128 .b8 tile[8192];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x; mov.u32 %r2, tile;
  {body}
  ret; }}"
    );
    let config = GpuConfig { checks: Checks { uninitialised: false, races: true }, ..GpuConfig::default() };
    let mut bench = Bench::with(&ptx, config);
    bench.buffer(&[1; 1024]);
    bench.buffer(&[0; 1024]);
    bench.run(32).unwrap_or_else(|e| panic!("{body}: {e}")).counters
}

#[test]
fn accesses_count_where_they_go() {
    let lane = |bytes: u32| format!("mul.lo.u32 %r3, %r1, {bytes}; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd3, %r3;");
    let c = one_warp("", &format!("{} add.s64 %rd4, %rd1, %rd3; ld.u32 %r5, [%rd4];", lane(4)));
    assert_eq!((c.global_loads, c.shared_loads, c.param_loads), (1, 0, 2), "a generic address of global memory");
    let c =
        one_warp("", &format!("{} cvt.u64.u32 %rd4, %r4; cvta.shared.u64 %rd4, %rd4; st.u32 [%rd4], %r1;", lane(4)));
    assert_eq!(
        (c.global_stores, c.shared_stores, c.shared_store_replays),
        (0, 1, 0),
        "a generic address of shared memory"
    );
    let c =
        one_warp("", ".local .align 4 .b8 a[8]; mov.u64 %rd3, a; st.local.u32 [%rd3], %r1; ld.local.u32 %r3, [%rd3];");
    assert_eq!((c.local_stores, c.local_loads, c.memory), (1, 1, 4), "local memory");
    let c = one_warp("", "ld.global.u32 %r3, [%rd1];");
    assert_eq!((c.global_load_sectors, c.global_load_sectors_ideal), (1, 1), "one word for all lanes");
    let c = one_warp("", &format!("{} add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r1;", lane(128)));
    assert_eq!((c.global_store_sectors, c.global_store_sectors_ideal), (32, 4), "a word in each line");
    assert_eq!((c.dram_read_bytes, c.dram_write_bytes), (0, 32 * 32));
    let c = one_warp("", "red.shared.add.u32 [%r2], 1; red.global.add.u32 [%rd2], 1;");
    assert_eq!((c.atomics, c.global_atomics, c.global_atomic_sectors), (2, 1, 1), "atomics");
    assert_eq!((c.dram_read_bytes, c.dram_write_bytes), (32, 32));
}

#[test]
fn lanes_whose_predicate_is_false_access_nothing() {
    let half = "setp.lt.u32 %p1, %r1, 16; mul.wide.u32 %rd3, %r1, 32; add.s64 %rd4, %rd1, %rd3;";
    let c = one_warp("", &format!("{half} @%p1 ld.global.u32 %r3, [%rd4];"));
    assert_eq!((c.global_load_sectors, c.global_load_sectors_ideal), (16, 2));
    assert_eq!(c.active_lanes, 32 * c.instructions - 16);
    let c = one_warp("", &format!("{half} setp.gt.u32 %p1, %r1, 31; @%p1 ld.global.u32 %r3, [%rd4];"));
    assert_eq!((c.global_loads, c.memory, c.divergent_branches), (0, 3, 0));
    assert_eq!(c.active_lanes, 32 * c.instructions - 32);
}

#[test]
fn banks_serve_vectors_and_matrices_in_groups() {
    for (bytes, load, replays) in [
        (16, "ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r4];", 0),
        // Of eight lanes, those four apart meet in their banks.
        (32, "ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r4];", 4),
        (8, "ld.shared.v2.u32 {%r5, %r6}, [%r4];", 0),
        (16, "ld.shared.v2.u32 {%r5, %r6}, [%r4];", 2),
        (1, "ld.shared.u8 %r5, [%r4];", 0),
        (128, "ld.shared.u8 %r5, [%r4];", 31),
        (128, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4];", 28),
        (144, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4];", 0),
        // One matrix: the rows of the first eight lanes.
        (128, "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r4];", 7),
    ] {
        let c = one_warp("", &format!("mul.lo.u32 %r3, %r1, {bytes}; add.u32 %r4, %r2, %r3; {load}"));
        assert_eq!((c.shared_loads, c.shared_load_replays), (1, replays), "{load} {bytes} bytes apart");
    }
    let store = "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r4], {%r1, %r1};";
    let c = one_warp("", &format!("shl.b32 %r3, %r1, 7; add.u32 %r4, %r2, %r3; {store}"));
    assert_eq!((c.shared_stores, c.shared_store_replays, c.memory), (1, 14, 3));
}

#[test]
fn copies_count_what_they_read() {
    // Lanes 0 to 15 copy 16 bytes each, the others fill with zeros.
    let c = one_warp(
        "",
        "shl.b32 %r3, %r1, 4; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd3, %r3; add.s64 %rd4, %rd1, %rd3;
         setp.lt.u32 %p1, %r1, 16; selp.u32 %r5, 16, 0, %p1;
         cp.async.cg.shared.global [%r4], [%rd4], 16, %r5; cp.async.wait_all;",
    );
    assert_eq!((c.async_copies, c.global_loads, c.global_load_sectors), (1, 1, 8));
    assert_eq!((c.shared_stores, c.shared_store_replays, c.dram_read_bytes), (1, 0, 256));
}

/// Parameters of calls are registers in machine code.
#[test]
fn calls_pass_parameters_by_moves() {
    let twice = ".func (.param .b32 out) twice(.param .b32 in) {
  .reg .b32 %r<3>; ld.param.b32 %r1, [in]; add.u32 %r2, %r1, %r1; st.param.b32 [out], %r2; ret; }";
    let call = "{ .param .b32 in; .param .b32 out; st.param.b32 [in], %r1; call.uni (out), twice, (in);
  ld.param.b32 %r3, [out]; }";
    let c = one_warp(twice, call);
    assert_eq!((c.memory, c.param_loads, c.local_loads, c.local_stores), (2, 2, 0, 0));
    assert_eq!((c.moves, c.integer), (6, 1));
}

/// Writes to `y`, waits for the CTA, reads `y` back: what the launch wrote itself does not come from DRAM.
#[test]
fn what_a_launch_wrote_is_not_read_from_dram() {
    let ptx = "
.visible .entry k(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<6>; .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r1;
  bar.sync 0;
  xor.b32 %r2, %r1, 96; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd2, %rd3;
  ld.global.u32 %r3, [%rd4];
  add.s64 %rd4, %rd1, %rd3;
  ld.global.u32 %r4, [%rd4]; add.u32 %r4, %r4, %r3;
  st.global.u32 [%rd4], %r4;
  ret; }";
    for seed in 0..10 {
        let c = count(ptx, 128, 1, 128, 1, seed);
        assert_eq!((c.dram_read_bytes, c.dram_write_bytes, c.footprint_bytes), (512, 1024, 1024));
    }
}

#[test]
fn mapped_host_memory_is_counted_apart_from_dram() {
    let gpu = Gpu::new(GpuConfig::default());
    let module = LoadedModule::load(&gpu, &format!("{HEADER}{SCALE}"), "scale.ptx").unwrap();
    let words: Arc<[AtomicU32]> = (0..256).map(AtomicU32::new).collect();
    let host = gpu.memory.map_host(Words::Shared(words), 1024, None, "host").unwrap();
    let device = gpu.memory.alloc(1024, "device").unwrap();
    let params: Vec<u8> = [device, host].iter().flat_map(|a| a.to_le_bytes()).collect();
    gpu.memory.fill(device, &[0], 1024).unwrap();
    let config = LaunchConfig { grid: [2, 1, 1], block: [128, 1, 1], params: &params, ..LaunchConfig::default() };
    let c = gpu.launch(&module.kernels["scale"], &config).unwrap().counters;
    assert_eq!((c.mapped_load_bytes, c.mapped_store_bytes), (0, 1024));
    assert_eq!((c.dram_read_bytes, c.dram_write_bytes), (1024, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any streaming launch reads the bytes of its input and writes those of its output, in whole sectors.
    #[test]
    fn streaming_moves_the_bytes_of_the_buffers(ctas in 1u32..12, warps in 1u32..5, workers in 1usize..3, seed: u64) {
        let words = (ctas * warps * 32) as usize;
        let c = count(SCALE, words, ctas, warps * 32, workers, seed);
        prop_assert_eq!((c.dram_read_bytes, c.dram_write_bytes), (4 * words as u64, 4 * words as u64));
        prop_assert_eq!(c.global_load_sectors * 32, 4 * words as u64);
    }
}
