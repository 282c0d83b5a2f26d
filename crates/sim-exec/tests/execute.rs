//! Whole kernels: results against the host, for every schedule seed tried.

mod common;

use common::Bench;
use sim_exec::{LaunchConfig, LaunchError, LoadError, LoadedModule};

const SAXPY: &str = "
.visible .entry saxpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n) {
  .reg .pred %p<2>; .reg .f32 %f<5>; .reg .b32 %r<6>; .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.f32 %f1, [a]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r1, %r3, %r4, %r5;
  setp.ge.s32 %p1, %r1, %r2;
  @%p1 bra $done;
  cvta.to.global.u64 %rd3, %rd1; mul.wide.s32 %rd4, %r1, 4; add.s64 %rd5, %rd3, %rd4;
  cvta.to.global.u64 %rd6, %rd2; add.s64 %rd7, %rd6, %rd4;
  ld.global.nc.f32 %f2, [%rd5]; ld.global.f32 %f3, [%rd7];
  fma.rn.f32 %f4, %f2, %f1, %f3;
  st.global.f32 [%rd7], %f4;
$done:
  ret;
}";

#[test]
fn saxpy_handles_odd_lengths() {
    for n in [1usize, 31, 33, 1000] {
        let mut bench = Bench::new(SAXPY);
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.37).collect();
        let y: Vec<f32> = (0..n).map(|i| 5.0 - i as f32).collect();
        bench.buffer(&x.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        let out = bench.buffer(&y.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        bench.value(1.7f32.to_bits());
        bench.value(n as u32);
        let grid = [(n as u32).div_ceil(128), 1, 1];
        let report = bench.launch(LaunchConfig { grid, block: [128, 1, 1], ..LaunchConfig::default() }).unwrap();
        let got = bench.words(out, n);
        for i in 0..n {
            assert_eq!(f32::from_bits(got[i]), x[i].mul_add(1.7, y[i]), "element {i} of {n}");
        }
        assert_eq!(report.counters.ctas, u64::from(grid[0]));
    }
}

/// Tree reduction in shared memory with a barrier per level, then a shuffle reduction.
const REDUCE: &str = "
.visible .entry reduce(.param .u64 x, .param .u64 out) {
  .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
  .shared .align 4 .b8 tile[1024];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3;
  ld.global.u32 %r2, [%rd4];
  shl.b32 %r3, %r1, 2; mov.u32 %r4, tile; add.s32 %r5, %r4, %r3;
  st.shared.u32 [%r5], %r2;
  mov.u32 %r6, 128;
LOOP:
  bar.sync 0;
  setp.ge.u32 %p1, %r1, %r6;
  @%p1 bra SKIP;
  shl.b32 %r7, %r6, 2; add.s32 %r8, %r5, %r7;
  ld.shared.u32 %r9, [%r8]; ld.shared.u32 %r10, [%r5]; add.u32 %r11, %r9, %r10;
  st.shared.u32 [%r5], %r11;
SKIP:
  shr.u32 %r6, %r6, 1;
  setp.gt.u32 %p2, %r6, 16;
  @%p2 bra LOOP;
  bar.sync 0;
  setp.ge.u32 %p3, %r1, 32;
  @%p3 bra DONE;
  ld.shared.u32 %r12, [%r5];
  shfl.sync.bfly.b32 %r13, %r12, 16, 31, -1; add.u32 %r12, %r12, %r13;
  shfl.sync.bfly.b32 %r13, %r12, 8, 31, -1; add.u32 %r12, %r12, %r13;
  shfl.sync.bfly.b32 %r13, %r12, 4, 31, -1; add.u32 %r12, %r12, %r13;
  shfl.sync.bfly.b32 %r13, %r12, 2, 31, -1; add.u32 %r12, %r12, %r13;
  shfl.sync.bfly.b32 %r13, %r12, 1, 31, -1; add.u32 %r12, %r12, %r13;
  st.global.u32 [%rd2], %r12;
DONE:
  ret;
}";

#[test]
fn reduction_is_the_same_for_every_seed() {
    for seed in 0..20 {
        let mut bench = Bench::new(REDUCE);
        let x: Vec<u32> = (0..256).map(|i| i * i).collect();
        bench.buffer(&x);
        let out = bench.room(4);
        bench.launch(LaunchConfig { block: [256, 1, 1], seed, ..LaunchConfig::default() }).unwrap();
        assert_eq!(bench.words(out, 1)[0], x.iter().sum::<u32>(), "seed {seed}");
    }
}

#[test]
fn divergent_loops_reconverge() {
    // Collatz steps: every lane loops a different number of times.
    let mut bench = Bench::new(
        ".visible .entry collatz(.param .u64 out) {
          .reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
          ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; add.u32 %r2, %r1, 1; mov.u32 %r3, 0;
          L: setp.eq.u32 %p1, %r2, 1; @%p1 bra END;
          and.b32 %r4, %r2, 1; setp.eq.u32 %p2, %r4, 0; @%p2 bra EVEN;
          mad.lo.u32 %r2, %r2, 3, 1; bra NEXT;
          EVEN: shr.u32 %r2, %r2, 1;
          NEXT: add.u32 %r3, %r3, 1; bra L;
          END: bar.sync 0;
          mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret; }",
    );
    let out = bench.room(4 * 64);
    let report = bench.run(64).unwrap();
    let host = |n: u32| {
        (0..).try_fold(n, |n, steps| if n == 1 { Err(steps) } else { Ok(if n % 2 == 0 { n / 2 } else { 3 * n + 1 }) })
    };
    for (i, steps) in bench.words(out, 64).into_iter().enumerate() {
        assert_eq!(host(i as u32 + 1), Err(steps as i32), "lane {i}");
    }
    assert!(report.counters.divergent_branches > 0);
}

#[test]
fn lanes_of_one_warp_may_wait_for_each_other() {
    // Lane 0 spins on a flag that lane 1 sets further down.
    let mut bench = Bench::new(
        ".visible .entry flag(.param .u64 f, .param .u64 out) {
          .reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
          ld.param.u64 %rd1, [f]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x;
          setp.ne.u32 %p1, %r1, 0; @%p1 bra SET;
          W: ld.acquire.gpu.global.u32 %r2, [%rd1]; setp.eq.u32 %p2, %r2, 0; @%p2 bra W;
          st.global.u32 [%rd2], %r2; bra END;
          SET: mov.u32 %r3, 7; st.release.gpu.global.u32 [%rd1], %r3;
          END: ret; }",
    );
    bench.buffer(&[0]);
    let out = bench.room(4);
    bench.run(2).unwrap();
    assert_eq!(bench.words(out, 1), [7]);
}

#[test]
fn cooperative_ctas_wait_for_each_other() {
    // A grid barrier: every CTA adds one and spins until all have.
    for seed in 0..20 {
        let mut bench = Bench::new(GRID);
        bench.buffer(&[0]);
        bench.room(4 * 16);
        let out = bench.room(4 * 16);
        bench.launch(LaunchConfig { grid: [16, 1, 1], cooperative: true, seed, ..LaunchConfig::default() }).unwrap();
        let want: Vec<u32> = (0..16).map(|i| (i + 1) % 16 * 10).collect();
        assert_eq!(bench.words(out, 16), want);
    }
}

const GRID: &str = ".visible .entry grid(.param .u64 counter, .param .u64 data, .param .u64 out) {
          .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
          ld.param.u64 %rd1, [counter]; ld.param.u64 %rd2, [data]; ld.param.u64 %rd3, [out];
          mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x;
          mul.wide.u32 %rd4, %r1, 4; add.s64 %rd5, %rd2, %rd4; mul.lo.u32 %r3, %r1, 10; st.global.u32 [%rd5], %r3;
          fence.acq_rel.gpu;
          atom.global.add.u32 %r4, [%rd1], 1;
          W: ld.acquire.gpu.global.u32 %r5, [%rd1]; setp.lt.u32 %p1, %r5, %r2; @%p1 bra W;
          add.u32 %r6, %r1, 1; rem.u32 %r7, %r6, %r2; mul.wide.u32 %rd6, %r7, 4; add.s64 %rd7, %rd2, %rd6;
          ld.global.u32 %r8, [%rd7]; add.s64 %rd8, %rd3, %rd4; st.global.u32 [%rd8], %r8; ret; }";

#[test]
fn functions_and_printf_work() {
    let mut bench = Bench::new(
        ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
         .global .align 1 .b8 text[14] = {116, 105, 100, 32, 37, 100, 32, 45, 62, 32, 37, 100, 10};
         .func (.param .b32 ret) square(.param .b32 x) {
           .reg .b32 %r<3>; ld.param.b32 %r1, [x]; mul.lo.s32 %r2, %r1, %r1; st.param.b32 [ret], %r2; ret; }
         .visible .entry say() {
          .local .align 8 .b8 depot[8]; .reg .b64 %rd<6>; .reg .b32 %r<6>;
          mov.u64 %rd1, depot; cvta.local.u64 %rd2, %rd1; mov.u32 %r1, %tid.x;
          { .param .b32 p0; st.param.b32 [p0+0], %r1; .param .b32 q0; call.uni (q0), square, (p0); ld.param.b32 %r2, [q0+0]; }
          st.local.u32 [%rd1], %r1; st.local.u32 [%rd1+4], %r2;
          mov.u64 %rd3, text; cvta.global.u64 %rd4, %rd3;
          { .param .b64 p0; st.param.b64 [p0+0], %rd4; .param .b64 p1; st.param.b64 [p1+0], %rd2; .param .b32 q0;
            call.uni (q0), vprintf, (p0, p1); ld.param.b32 %r3, [q0+0]; }
          ret; }",
    );
    let report = bench.run(3).unwrap();
    assert_eq!(report.output, "tid 0 -> 0\ntid 1 -> 1\ntid 2 -> 4\n");
    let _ = bench.buffer(&[0]);
}

#[test]
fn unknown_instructions_are_errors_at_load() {
    let gpu = sim_exec::Gpu::new(sim_exec::GpuConfig::default());
    for (text, wanted) in [
        ("frobnicate.u32 %r1, %r1;", "frobnicate.u32"),
        ("add.purple.u32 %r1, %r1, %r1;", ".purple"),
        ("add.u32 %r1, %r9, %r1;", "%r9"),
        ("bra NOWHERE;", "NOWHERE"),
    ] {
        let ptx = format!("{}.entry k() {{\n.reg .b32 %r<2>;\n{text}\nret; }}", common::HEADER);
        let error = LoadedModule::load(&gpu, &ptx, "bad.ptx").map(|_| ()).unwrap_err();
        let LoadError::Unsupported { file, line, message } = &error else { panic!("{error:?}") };
        assert_eq!((file.as_str(), *line), ("bad.ptx", 6), "{error}");
        assert!(message.contains(wanted), "{error}");
    }
}

#[test]
fn launches_that_a_driver_refuses_are_refused() {
    let mut bench = Bench::new(SAXPY);
    bench.value(0);
    assert!(matches!(bench.run(32), Err(LaunchError::Invalid(_))), "parameters of the wrong size");
    assert!(matches!(bench.run(2048), Err(LaunchError::Invalid(_))), "too many threads");
}

/// A 16×16 tile times a 16×8 tile: cp.async, ldmatrix, mma.
const TILE: &str = "
.visible .entry tile(.param .u64 a, .param .u64 b, .param .u64 c) {
  .reg .b32 %r<30>; .reg .f32 %f<9>; .reg .b64 %rd<12>; .reg .pred %p<3>;
  .shared .align 16 .b8 sa[512]; .shared .align 16 .b8 sb[256];
  ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];
  mov.u32 %r1, %tid.x; mov.u32 %r2, sa; mov.u32 %r3, sb; shl.b32 %r4, %r1, 4; cvt.u64.u32 %rd4, %r4;
  add.s64 %rd5, %rd1, %rd4; add.s64 %rd6, %rd2, %rd4; add.u32 %r5, %r2, %r4; add.u32 %r6, %r3, %r4;
  cp.async.cg.shared.global [%r5], [%rd5], 16;
  setp.lt.u32 %p1, %r1, 16; @%p1 cp.async.cg.shared.global [%r6], [%rd6], 16;
  cp.async.wait_all; bar.warp.sync -1;
  and.b32 %r7, %r1, 15; shl.b32 %r7, %r7, 5; and.b32 %r8, %r1, 16; add.u32 %r9, %r7, %r8; add.u32 %r9, %r9, %r2;
  ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r9];
  and.b32 %r14, %r1, 7; shl.b32 %r14, %r14, 5; and.b32 %r15, %r1, 8; shl.b32 %r15, %r15, 1; add.u32 %r16, %r14, %r15; add.u32 %r16, %r16, %r3;
  ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r17, %r18}, [%r16];
  mov.f32 %f1, 0f3F800000;
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f5,%f6,%f7,%f8}, {%r10,%r11,%r12,%r13}, {%r17,%r18}, {%f1,%f1,%f1,%f1};
  shr.u32 %r20, %r1, 2; and.b32 %r21, %r1, 3; shl.b32 %r20, %r20, 5; shl.b32 %r21, %r21, 3; add.u32 %r22, %r20, %r21;
  cvt.u64.u32 %rd7, %r22; add.s64 %rd8, %rd3, %rd7;
  st.global.v2.f32 [%rd8], {%f5, %f6}; st.global.v2.f32 [%rd8+256], {%f7, %f8};
  ret; }";

#[test]
fn a_tile_goes_through_copies_fragments_and_mma() {
    let value = |i: usize| (i * 7 % 13) as f32 - 6.0;
    let pack = |n: usize, shift: usize| -> Vec<u32> {
        let half = |i: usize| u32::from(half::f16::from_f32(value(i + shift)).to_bits());
        (0..n / 2).map(|i| half(2 * i) | half(2 * i + 1) << 16).collect()
    };
    let mut bench = Bench::new(TILE);
    bench.buffer(&pack(256, 0));
    bench.buffer(&pack(128, 5));
    let c = bench.room(4 * 128);
    let report = bench.run(32).unwrap();
    let got = bench.words(c, 128);
    for row in 0..16 {
        for col in 0..8 {
            // Small integers: every order of the sum is exact.
            let want = 1.0 + (0..16).map(|k| value(row * 16 + k) * value(col * 16 + k + 5)).sum::<f32>();
            assert_eq!(f32::from_bits(got[row * 8 + col]), want, "row {row} column {col}");
        }
    }
    assert_eq!((report.counters.matrix, report.counters.multiply_adds_f16), (1, 2048));
}

#[test]
fn clusters_read_each_others_shared_memory() {
    let mut bench = Bench::new(
        ".visible .entry pair(.param .u64 out) {
          .reg .b32 %r<12>; .reg .b64 %rd<6>; .shared .align 4 .b8 s[128];
          ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, %ctaid.x;
          mov.u32 %r4, s; shl.b32 %r5, %r1, 2; add.u32 %r6, %r4, %r5; mad.lo.u32 %r7, %r3, 100, %r1; st.shared.u32 [%r6], %r7;
          barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
          xor.b32 %r8, %r2, 1; mapa.shared::cluster.u32 %r9, %r6, %r8; ld.shared::cluster.u32 %r10, [%r9];
          mad.lo.u32 %r11, %r3, 32, %r1; mul.wide.u32 %rd2, %r11, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r10;
          barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; ret; }",
    );
    let out = bench.room(4 * 128);
    bench
        .launch(LaunchConfig { grid: [4, 1, 1], block: [32, 1, 1], cluster: [2, 1, 1], ..LaunchConfig::default() })
        .unwrap();
    let want: Vec<u32> = (0..128).map(|i| ((i / 32) ^ 1) * 100 + i % 32).collect();
    assert_eq!(bench.words(out, 128), want);
}

#[test]
fn the_alignment_of_what_a_parameter_points_to_is_not_its_own() {
    let bench = Bench::new(
        ".visible .entry k(.param .u32 n, .param .u64 .ptr .global .align 1 x, .param .align 64 .b8 map[128]) { ret; }",
    );
    let offsets: Vec<u32> = bench.module.kernels["k"].params.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, [0, 8, 64]);
}
