//! How fast the executor runs: an int8 matrix–vector kernel that streams its weights, and a loop of mma, with checks on and off.
//!
//! `cargo bench -p sim-exec` prints time per launch; elements are lane instructions (matvec) and mma instructions (mma).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sim_exec::{Checks, Gpu, GpuConfig, Kernel, LaunchConfig, LoadedModule};

/// One row per warp: 16 weight bytes per lane and step against 16 bytes of x, four dp4a each.
const MATVEC: &str = ".version 8.5\n.target sm_90\n.address_size 64\n
.visible .entry matvec(.param .u64 w, .param .u64 x, .param .u64 y, .param .u32 steps) {
  .reg .b32 %r<40>; .reg .b64 %rd<16>; .reg .pred %p<3>;
  ld.param.u64 %rd1, [w]; ld.param.u64 %rd2, [x]; ld.param.u64 %rd3, [y]; ld.param.u32 %r1, [steps];
  mov.u32 %r2, %tid.x; and.b32 %r3, %r2, 31; shr.u32 %r4, %r2, 5;
  mov.u32 %r5, %ctaid.x; mov.u32 %r6, %ntid.x; shr.u32 %r6, %r6, 5; mad.lo.u32 %r7, %r5, %r6, %r4;
  mul.lo.u32 %r8, %r1, 512; mul.wide.u32 %rd4, %r7, %r8; mul.wide.u32 %rd5, %r3, 16;
  add.s64 %rd6, %rd1, %rd4; add.s64 %rd6, %rd6, %rd5; add.s64 %rd7, %rd2, %rd5;
  mov.u32 %r10, 0; mov.u32 %r9, 0;
L:
  ld.global.nc.v4.u32 {%r20, %r21, %r22, %r23}, [%rd6];
  ld.global.nc.v4.u32 {%r24, %r25, %r26, %r27}, [%rd7];
  dp4a.s32.s32 %r10, %r20, %r24, %r10; dp4a.s32.s32 %r10, %r21, %r25, %r10;
  dp4a.s32.s32 %r10, %r22, %r26, %r10; dp4a.s32.s32 %r10, %r23, %r27, %r10;
  add.s64 %rd6, %rd6, 512; add.s64 %rd7, %rd7, 512; add.u32 %r9, %r9, 1;
  setp.lt.u32 %p1, %r9, %r1; @%p1 bra L;
  shfl.sync.bfly.b32 %r11, %r10, 16, 31, -1; add.s32 %r10, %r10, %r11;
  shfl.sync.bfly.b32 %r11, %r10, 8, 31, -1; add.s32 %r10, %r10, %r11;
  shfl.sync.bfly.b32 %r11, %r10, 4, 31, -1; add.s32 %r10, %r10, %r11;
  shfl.sync.bfly.b32 %r11, %r10, 2, 31, -1; add.s32 %r10, %r10, %r11;
  shfl.sync.bfly.b32 %r11, %r10, 1, 31, -1; add.s32 %r10, %r10, %r11;
  setp.ne.u32 %p2, %r3, 0; @%p2 bra END;
  mul.wide.u32 %rd8, %r7, 4; add.s64 %rd9, %rd3, %rd8; st.global.u32 [%rd9], %r10;
END: ret; }";

const MMA: &str = ".version 8.5\n.target sm_90\n.address_size 64\n
.visible .entry mma(.param .u64 y, .param .u32 steps) {
  .reg .b32 %r<20>; .reg .f32 %f<8>; .reg .b64 %rd<6>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [y]; ld.param.u32 %r1, [steps]; mov.u32 %r2, 0; mov.u32 %r3, %laneid;
  mov.b32 %r4, 0x3c003c00; mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
L:
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r4,%r4,%r4}, {%r4,%r4}, {%f1,%f2,%f3,%f4};
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r4,%r4,%r4}, {%r4,%r4}, {%f1,%f2,%f3,%f4};
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r4,%r4,%r4}, {%r4,%r4}, {%f1,%f2,%f3,%f4};
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r4,%r4,%r4,%r4}, {%r4,%r4}, {%f1,%f2,%f3,%f4};
  add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, %r1; @%p1 bra L;
  mul.wide.u32 %rd2, %r3, 4; add.s64 %rd3, %rd1, %rd2; st.global.f32 [%rd3], %f1;
  ret; }";

fn device(ptx: &str, checks: Checks) -> (Gpu, Kernel) {
    let gpu = Gpu::new(GpuConfig { checks, ..GpuConfig::default() });
    let module = LoadedModule::load(&gpu, ptx, "bench.ptx").expect("the kernel loads");
    let kernel = module.kernels.into_values().next().expect("one kernel");
    (gpu, kernel)
}

fn speed(c: &mut Criterion) {
    for (label, checks) in [("checks on", Checks::ALL), ("checks off", Checks::NONE)] {
        let (gpu, kernel) = device(MATVEC, checks);
        let (rows, steps) = (512u32, 64u32);
        let mut params = Vec::new();
        for bytes in [rows * steps * 512, steps * 512, rows * 4] {
            let address = gpu.memory.alloc(bytes.into(), "buffer").expect("memory");
            gpu.memory.fill(address, &[3], bytes.into()).expect("in bounds");
            params.extend_from_slice(&address.to_le_bytes());
        }
        params.extend_from_slice(&steps.to_le_bytes());
        let launch =
            LaunchConfig { grid: [rows / 8, 1, 1], block: [256, 1, 1], params: &params, ..LaunchConfig::default() };
        let lanes = gpu.launch(&kernel, &launch).expect("runs").counters.active_lanes;
        let mut group = c.benchmark_group("matvec int8, lane instructions");
        group.sample_size(10).throughput(Throughput::Elements(lanes));
        group.bench_function(label, |b| b.iter(|| gpu.launch(&kernel, &launch).expect("runs")));
        group.finish();

        let (gpu, kernel) = device(MMA, checks);
        let address = gpu.memory.alloc(128, "out").expect("memory");
        let mut params = address.to_le_bytes().to_vec();
        params.extend_from_slice(&500u32.to_le_bytes());
        // Every warp writes the same values, which is no race.
        let launch = LaunchConfig { grid: [8, 1, 1], block: [128, 1, 1], params: &params, ..LaunchConfig::default() };
        let mmas = gpu.launch(&kernel, &launch).expect("runs").counters.matrix;
        let mut group = c.benchmark_group("mma m16n8k16 f16");
        group.sample_size(10).throughput(Throughput::Elements(mmas));
        group.bench_function(label, |b| b.iter(|| gpu.launch(&kernel, &launch).expect("runs")));
        group.finish();
    }
}

criterion_group!(benches, speed);
criterion_main!(benches);
