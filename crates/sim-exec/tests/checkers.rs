//! Every checker: a correct kernel passes under 20 schedules, and the same kernel with one thing broken is caught.

mod common;

use common::{Bench, finding};
use sim_exec::{FindingKind, GpuConfig, LaunchConfig, LaunchError, LaunchReport};

const SEEDS: u64 = 20;

/// A kernel over `buffers`, launched with every seed.
struct Case {
    ptx: &'static str,
    block: u32,
    grid: u32,
    cooperative: bool,
}

impl Case {
    fn launch(&self, ptx: &str, seed: u64) -> Result<LaunchReport, LaunchError> {
        let mut bench = Bench::with(ptx, GpuConfig { instructions_max: 2_000_000, ..GpuConfig::default() });
        bench.buffer(&(0..1024).collect::<Vec<_>>());
        bench.buffer(&[0; 1024]);
        bench.launch(LaunchConfig {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            cooperative: self.cooperative,
            seed,
            ..LaunchConfig::default()
        })
    }

    fn passes(&self) {
        for seed in 0..SEEDS {
            self.launch(self.ptx, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }

    /// With `from` replaced by `to`, some seed reports `kind`, and no seed reports anything else.
    fn catches(&self, from: &str, to: &str, kind: FindingKind) {
        self.catches_any(from, to, &[kind]);
    }

    /// Like `catches`, where the schedule decides which of several findings comes first.
    fn catches_any(&self, from: &str, to: &str, kinds: &[FindingKind]) {
        assert_eq!(self.ptx.matches(from).count(), 1, "`{from}` must occur once");
        let broken = self.ptx.replace(from, to);
        let mut caught = 0;
        for seed in 0..SEEDS {
            if let Err(error) = self.launch(&broken, seed) {
                let finding = finding(Err(error));
                assert!(kinds.contains(&finding.kind), "seed {seed}: {finding}");
                caught += 1;
            }
        }
        assert!(caught > 0, "`{from}` → `{to}` was not caught");
    }
}

/// Every thread writes its element and reads its neighbour's in shared memory.
const NEIGHBOUR: Case = Case {
    block: 128,
    grid: 2,
    cooperative: false,
    ptx: "
.visible .entry neighbour(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .pred %p<3>;
  .shared .align 16 .b8 tile[512];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 128, %r1;
  mul.wide.u32 %rd3, %r3, 4; add.s64 %rd4, %rd1, %rd3;
  ld.global.u32 %r4, [%rd4];
  mov.u32 %r5, tile; shl.b32 %r6, %r1, 2; add.u32 %r7, %r5, %r6;
  st.shared.u32 [%r7], %r4;
  bar.sync 0;
  add.u32 %r8, %r1, 1; and.b32 %r8, %r8, 127; shl.b32 %r9, %r8, 2; add.u32 %r10, %r5, %r9;
  ld.shared.u32 %r11, [%r10];
  add.s64 %rd5, %rd2, %rd3; st.global.u32 [%rd5], %r11;
  ret; }",
};

#[test]
fn shared_races_and_unwritten_reads() {
    NEIGHBOUR.passes();
    // Without the barrier, neighbours in other warps are read before or while they are written.
    let broken = NEIGHBOUR.ptx.replace("bar.sync 0;", "");
    let mut kinds = std::collections::HashSet::new();
    for seed in 0..SEEDS {
        kinds.insert(finding(NEIGHBOUR.launch(&broken, seed)).kind);
    }
    assert!(kinds.contains(&FindingKind::SharedRace) || kinds.contains(&FindingKind::Uninitialised), "{kinds:?}");
    assert!(kinds.iter().all(|k| matches!(k, FindingKind::SharedRace | FindingKind::Uninitialised)), "{kinds:?}");
    NEIGHBOUR.catches("st.shared.u32 [%r7], %r4;", "", FindingKind::Uninitialised);
}

#[test]
fn a_second_write_without_a_barrier_is_a_race() {
    // Written with different values again while the neighbour may still read.
    NEIGHBOUR.catches(
        "ld.shared.u32 %r11, [%r10];",
        "ld.shared.u32 %r11, [%r10]; st.shared.u32 [%r7], %r11;",
        FindingKind::SharedRace,
    );
    let fixed = NEIGHBOUR
        .ptx
        .replace("ld.shared.u32 %r11, [%r10];", "ld.shared.u32 %r11, [%r10]; bar.sync 0; st.shared.u32 [%r7], %r11;");
    NEIGHBOUR.launch(&fixed, 1).unwrap();
}

#[test]
fn bounds_and_alignment() {
    NEIGHBOUR.catches("mad.lo.u32 %r3, %r2, 128, %r1;", "mad.lo.u32 %r3, %r2, 1000, %r1;", FindingKind::OutOfBounds);
    NEIGHBOUR.catches("add.u32 %r10, %r5, %r9;", "add.u32 %r10, %r5, 512;", FindingKind::OutOfBounds);
    NEIGHBOUR.catches("mul.wide.u32 %rd3, %r3, 4;", "mul.wide.u32 %rd3, %r3, 2;", FindingKind::Misaligned);
    NEIGHBOUR.catches("add.u32 %r7, %r5, %r6;", "add.u32 %r7, %r5, %r1;", FindingKind::Misaligned);
}

#[test]
fn a_finding_names_kernel_cta_thread_and_lines() {
    let broken = NEIGHBOUR
        .ptx
        .replace("  add.s64 %rd5, %rd2, %rd3;", ".loc 1 42 7\n add.s64 %rd5, %rd2, 4000; add.s64 %rd5, %rd5, %rd3;");
    let broken = format!("{broken}\n.file 1 \"kernel.cu\"\n");
    let f = finding(NEIGHBOUR.launch(&broken, 0));
    assert_eq!((f.kind, f.kernel.as_str()), (FindingKind::OutOfBounds, "neighbour"));
    assert_eq!(f.place.source, Some(("kernel.cu".to_owned(), 42)));
    let thread = f.thread.unwrap();
    // 1024 words: offset 4000 leaves 24 threads of the first CTA inside.
    assert!(f.cta == [0, 0, 0] && thread[0] >= 24 || f.cta == [1, 0, 0], "{f}");
    assert!(f.to_string().contains("kernel.cu:42"), "{f}");
}

#[test]
fn use_after_free() {
    let mut bench = Bench::new(NEIGHBOUR.ptx);
    let x = bench.buffer(&[1; 1024]);
    bench.buffer(&[0; 1024]);
    bench.gpu.memory.free(x).unwrap();
    assert_eq!(finding(bench.run(128)).kind, FindingKind::UseAfterFree);
}

#[test]
fn unwritten_global_memory() {
    let mut bench = Bench::new(NEIGHBOUR.ptx);
    bench.room(4096);
    bench.buffer(&[0; 1024]);
    let f = finding(bench.run(128));
    assert_eq!(f.kind, FindingKind::Uninitialised, "{f}");
}

#[test]
fn divergent_barriers_and_deadlocks() {
    let only_some = "setp.lt.u32 %p1, %r1, 48; @%p1 bar.sync 0; add.u32 %r1, %r1, 0; bar.sync 0;";
    // 48 of 128 threads: warp 1 splits at the barrier.
    NEIGHBOUR.catches("bar.sync 0;", only_some, FindingKind::DivergentBarrier);
    // Whole warps at a barrier that the others never reach, because they wait at another one.
    let two = "setp.lt.u32 %p1, %r1, 64; @%p1 bar.sync 1, 128; @!%p1 bar.sync 2, 128;";
    NEIGHBOUR.catches("bar.sync 0;", two, FindingKind::Deadlock);
    let f = finding(NEIGHBOUR.launch(&NEIGHBOUR.ptx.replace("bar.sync 0;", two), 0));
    assert!(f.message.contains("barrier 1, where 64 of 128 threads arrived"), "{f}");
    assert!(f.message.contains("barrier 2, where 64 of 128 threads arrived"), "{f}");
}

/// Lanes of one warp exchange through shared memory.
const WITHIN_WARP: Case = Case {
    block: 32,
    grid: 1,
    cooperative: false,
    ptx: "
.visible .entry within(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<12>; .reg .b64 %rd<8>;
  .shared .align 16 .b8 tile[128];
  ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x;
  mov.u32 %r5, tile; shl.b32 %r6, %r1, 2; add.u32 %r7, %r5, %r6;
  st.shared.u32 [%r7], %r1;
  bar.warp.sync -1;
  xor.b32 %r8, %r6, 4; add.u32 %r9, %r5, %r8; ld.shared.u32 %r10, [%r9];
  mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r10;
  ret; }",
};

#[test]
fn races_between_lanes_of_a_warp() {
    WITHIN_WARP.passes();
    WITHIN_WARP.catches("bar.warp.sync -1;", "", FindingKind::SharedRace);
}

/// CTA 0 publishes data by a flag; CTA 1 waits for it.
const PUBLISH: Case = Case {
    block: 32,
    grid: 2,
    cooperative: true,
    ptx: "
.visible .entry publish(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<12>; .reg .b64 %rd<8>; .reg .pred %p<4>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra END;
  setp.ne.u32 %p2, %r2, 0; @%p2 bra READER;
  mov.u32 %r3, 77; st.global.u32 [%rd1+64], %r3;
  st.release.gpu.global.u32 [%rd2], %r3; bra END;
READER:
  ld.acquire.gpu.global.u32 %r4, [%rd2]; setp.eq.u32 %p3, %r4, 0; @%p3 bra READER;
  ld.global.u32 %r5, [%rd1+64]; st.global.u32 [%rd2+64], %r5;
END: ret; }",
};

#[test]
fn global_races_between_ctas() {
    PUBLISH.passes();
    PUBLISH.catches("st.release.gpu", "st.relaxed.gpu", FindingKind::GlobalRace);
    PUBLISH.catches("ld.acquire.gpu", "ld.relaxed.gpu", FindingKind::GlobalRace);
    // Fences around relaxed accesses order as well.
    let fenced = PUBLISH
        .ptx
        .replace("st.release.gpu", "fence.acq_rel.gpu; st.relaxed.gpu")
        .replace("ld.acquire.gpu", "ld.relaxed.gpu")
        .replace("ld.global.u32 %r5", "fence.acq_rel.gpu; ld.global.u32 %r5");
    for seed in 0..SEEDS {
        PUBLISH.launch(&fenced, seed).unwrap();
    }
}

#[test]
fn a_flag_that_nobody_sets_is_reported() {
    let broken = PUBLISH.ptx.replace("st.release.gpu.global.u32 [%rd2], %r3;", "");
    let f = finding(PUBLISH.launch(&broken, 0));
    assert!(matches!(f.kind, FindingKind::InstructionLimit | FindingKind::Deadlock), "{f}");
    assert_eq!(f.cta, [1, 0, 0], "{f}");
}

/// Two stages of cp.async, waited for one by one.
const STAGES: Case = Case {
    block: 64,
    grid: 1,
    cooperative: false,
    ptx: "
.visible .entry stages(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<14>; .reg .b64 %rd<8>;
  .shared .align 16 .b8 tile[2048];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3;
  mov.u32 %r2, tile; shl.b32 %r3, %r1, 4; add.u32 %r4, %r2, %r3;
  cp.async.cg.shared.global [%r4], [%rd4], 16; cp.async.commit_group;
  cp.async.ca.shared.global [%r4+1024], [%rd4+1024], 16; cp.async.commit_group;
  cp.async.wait_group 1;
  bar.sync 0;
  xor.b32 %r5, %r3, 512; add.u32 %r6, %r2, %r5; ld.shared.u32 %r7, [%r6];
  cp.async.wait_group 0;
  bar.sync 1;
  ld.shared.u32 %r8, [%r6+1024]; add.u32 %r9, %r7, %r8;
  mul.wide.u32 %rd5, %r1, 4; add.s64 %rd6, %rd2, %rd5; st.global.u32 [%rd6], %r9;
  ret; }",
};

#[test]
fn asynchronous_copies_must_be_waited_for() {
    STAGES.passes();
    STAGES.catches("cp.async.wait_group 1;", "", FindingKind::AsyncNotWaited);
    STAGES.catches("cp.async.wait_group 0;", "cp.async.wait_group 1;", FindingKind::AsyncNotWaited);
    STAGES.catches("cp.async.wait_group 1;", "cp.async.wait_group 2;", FindingKind::AsyncNotWaited);
}

#[test]
fn a_copy_needs_a_barrier_before_others_read() {
    let broken = STAGES.ptx.replace("  bar.sync 0;\n", "");
    // What the reader meets depends on how far the other warp got.
    let possible = [FindingKind::Uninitialised, FindingKind::AsyncNotWaited, FindingKind::SharedRace];
    for seed in 0..SEEDS {
        let f = finding(STAGES.launch(&broken, seed));
        assert!(possible.contains(&f.kind), "seed {seed}: {f}");
    }
}

/// A producer warp fills two slots; a consumer warp empties them; mbarriers hand them over.
const PIPELINE: Case = Case {
    block: 64,
    grid: 1,
    cooperative: false,
    ptx: "
.visible .entry pipeline(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<6>;
  .shared .align 8 .b8 full[8]; .shared .align 8 .b8 empty[8]; .shared .align 16 .b8 slot[128];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mov.u32 %r2, full; mov.u32 %r3, empty; mov.u32 %r4, slot;
  setp.eq.u32 %p1, %r1, 0;
  @%p1 mbarrier.init.shared::cta.b64 [%r2], 32;
  @%p1 mbarrier.init.shared::cta.b64 [%r3], 32;
  bar.sync 0;
  and.b32 %r5, %r1, 31; shl.b32 %r6, %r5, 2; add.u32 %r7, %r4, %r6; mul.wide.u32 %rd3, %r5, 4;
  add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3; mov.u32 %r8, 0;
  setp.ge.u32 %p2, %r1, 32; @%p2 bra CONSUMER;
PRODUCER:
  xor.b32 %r9, %r8, 1;
P_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], %r9; @!%p3 bra P_WAIT;
  ld.global.u32 %r10, [%rd4]; st.shared.u32 [%r7], %r10;
  mbarrier.arrive.shared::cta.b64 _, [%r2];
  add.s64 %rd4, %rd4, 128; xor.b32 %r8, %r8, 1; add.u32 %r12, %r8, 0; add.u32 %r13, %r13, 0;
  setp.lt.u64 %p4, %rd4, %rd6; sub.s64 %rd7, %rd4, %rd1; setp.lt.u64 %p4, %rd7, 1024; @%p4 bra PRODUCER;
  bra END;
CONSUMER:
C_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], %r8; @!%p3 bra C_WAIT;
  xor.b32 %r11, %r6, 64; add.u32 %r11, %r4, %r11; ld.shared.u32 %r10, [%r11]; st.global.u32 [%rd5], %r10;
  mbarrier.arrive.release.cta.shared::cta.b64 _, [%r3];
  add.s64 %rd5, %rd5, 128; xor.b32 %r8, %r8, 1;
  sub.s64 %rd7, %rd5, %rd2; setp.lt.u64 %p4, %rd7, 1024; @%p4 bra CONSUMER;
END: ret; }",
};

#[test]
fn mbarrier_pipelines() {
    PIPELINE.passes();
    // The wrong phase: the producer overwrites what is being read.
    PIPELINE.catches("xor.b32 %r9, %r8, 1;", "mov.u32 %r9, %r8;", FindingKind::Deadlock);
    PIPELINE.catches_any(
        "C_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], %r8; @!%p3 bra C_WAIT;",
        "",
        &[FindingKind::Uninitialised, FindingKind::SharedRace],
    );
    PIPELINE.catches_any(
        "P_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], %r9; @!%p3 bra P_WAIT;",
        "",
        &[FindingKind::SharedRace, FindingKind::Deadlock],
    );
    PIPELINE.catches("[%r2], 32;\n", "[%r2], 33;\n", FindingKind::Deadlock);
}
