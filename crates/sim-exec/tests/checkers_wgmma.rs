//! wgmma's rules: a correct kernel passes under 20 schedules, and the same kernel with one thing broken is caught.

mod common;

use common::{Bench, finding};
use sim_exec::{Finding, FindingKind, GpuConfig, LaunchConfig, LaunchError, LaunchReport};

const SEEDS: u64 = 20;

/// Two products with B of 16 × 8 halves in shared memory, A of 64 × 16 in registers and in shared memory; then the operands' memory
/// is used again. Core matrices lie one after the other, those along K first.
const PRODUCT: &str = "
.visible .entry product(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<24>; .reg .b64 %rd<12>; .reg .f32 %f<12>; .reg .pred %p<3>;
  .shared .align 128 .b8 a[2048]; .shared .align 128 .b8 b[256];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; cvt.u64.u32 %rd3, %r2; add.s64 %rd4, %rd1, %rd3;
  mov.u32 %r3, a; add.u32 %r4, %r3, %r2; mov.u32 %r5, b; and.b32 %r6, %r2, 255; add.u32 %r6, %r5, %r6;
  ld.global.u32 %r10, [%rd4]; ld.global.u32 %r11, [%rd4+512]; ld.global.u32 %r12, [%rd4+1024]; ld.global.u32 %r13, [%rd4+1536];
  st.shared.u32 [%r4], %r10; st.shared.u32 [%r4+512], %r11; st.shared.u32 [%r4+1024], %r12; st.shared.u32 [%r4+1536], %r13;
  setp.lt.u32 %p1, %r1, 64; @%p1 st.shared.u32 [%r6], %r10;
  fence.proxy.async;
  bar.sync 0; // operands
  shr.u32 %r7, %r3, 4; cvt.u64.u32 %rd5, %r7; or.b64 %rd5, %rd5, 0x0000001000080000;
  shr.u32 %r8, %r5, 4; cvt.u64.u32 %rd6, %r8; or.b64 %rd6, %rd6, 0x0000001000080000;
  cvt.rn.f32.u32 %f1, %r1; cvt.rn.f32.u32 %f2, %r2; mov.f32 %f3, %f1; mov.f32 %f4, %f2;
  // before
  wgmma.fence.sync.aligned;
  // fenced
  wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, %rd5, %rd6, 1, 1, 1, 0, 0;
  // between
  wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, {%r10,%r11,%r12,%r13}, %rd6, 1, 1, 1, 0;
  wgmma.commit_group.sync.aligned; // commit
  // pending
  wgmma.wait_group.sync.aligned 0;
  bar.sync 1; // done
  st.shared.u32 [%r4], %r1; @%p1 st.shared.u32 [%r6], %r1;
  mov.u32 %r10, 0;
  add.s64 %rd7, %rd2, %rd3; add.f32 %f5, %f1, %f2; add.f32 %f6, %f3, %f4; add.f32 %f5, %f5, %f6;
  st.global.f32 [%rd7], %f5;
  ret; }";

fn launch(ptx: &str, threads: u32, seed: u64) -> Result<LaunchReport, LaunchError> {
    let mut bench = Bench::with(ptx, GpuConfig { instructions_max: 2_000_000, ..GpuConfig::default() });
    bench.buffer(&(0..512).map(|i| 0x3c00_3800 + i).collect::<Vec<_>>());
    bench.buffer(&[0; 512]);
    bench.launch(LaunchConfig { block: [threads, 1, 1], seed, ..LaunchConfig::default() })
}

fn passes(ptx: &str) {
    for seed in 0..SEEDS {
        launch(ptx, 128, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{ptx}"));
    }
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(PRODUCT.to_owned(), |ptx, (from, to)| {
        assert_eq!(ptx.matches(from).count(), 1, "`{from}` must occur once");
        ptx.replace(from, to)
    })
}

/// With these edits every seed reports one of `kinds`; returns the first.
fn catches(edits: &[(&str, &str)], kinds: &[FindingKind]) -> Finding {
    let ptx = edited(edits);
    let found: Vec<Finding> = (0..SEEDS).map(|seed| finding(launch(&ptx, 128, seed))).collect();
    found.iter().for_each(|f| assert!(kinds.contains(&f.kind), "{edits:?}: {f}"));
    found[0].clone()
}

const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const NOT_WAITED: &[FindingKind] = &[FindingKind::AsyncNotWaited];
const NOT_FENCED: &[FindingKind] = &[FindingKind::MissingWgmmaFence];

#[test]
fn the_correct_kernel_passes() {
    passes(PRODUCT);
}

#[test]
fn sums_may_not_be_read_before_they_are_waited_for() {
    // The read comes after other findings if the wait is just gone, so the memory is left alone here.
    let alone = ("st.shared.u32 [%r4], %r1; @%p1 st.shared.u32 [%r6], %r1;\n  mov.u32 %r10, 0;", "");
    for broken in
        [(WAIT, ""), (WAIT, "wgmma.wait_group.sync.aligned 1;"), ("wgmma.commit_group.sync.aligned; // commit", "")]
    {
        let finding = catches(&[alone, broken], NOT_WAITED);
        assert!(finding.message.contains("read of an accumulator"), "{finding}");
    }
    let finding = catches(&[("// pending", "st.global.f32 [%rd2], %f3;")], NOT_WAITED);
    assert!(finding.message.contains("read of an accumulator"), "{finding}");
    catches(&[("// between", "setp.lt.f32 %p2, %f1, 0f00000000;")], NOT_WAITED);
    catches(&[("// pending", "mov.f32 %f7, %f1; mov.f32 %f8, %f7; add.f32 %f9, %f8, %f8;")], NOT_WAITED);
}

#[test]
fn registers_in_use_may_not_be_written() {
    let sum = catches(&[("// pending", "add.f32 %f1, %f9, %f9;")], NOT_WAITED);
    assert!(sum.message.contains("write of an accumulator"), "{sum}");
    catches(&[("// pending", "mov.f32 %f2, 0f00000000;")], NOT_WAITED);
    let a = catches(&[("// pending", "add.u32 %r10, %r10, 1;")], NOT_WAITED);
    assert!(a.message.contains("still reads A"), "{a}");
    catches(&[("// pending", "ld.global.u32 %r13, [%rd4];")], NOT_WAITED);
    // Reading A's registers is allowed.
    passes(&edited(&[("// pending", "add.u32 %r20, %r10, 1;")]));
}

#[test]
fn sums_may_be_renamed_while_they_are_pending() {
    let names = [
        ("// between", "mov.f32 %f7, %f1; mov.f32 %f8, %f2;"),
        ("{%f1,%f2,%f3,%f4}, {%r10", "{%f7,%f8,%f3,%f4}, {%r10"),
        ("add.f32 %f5, %f1, %f2;", "add.f32 %f5, %f7, %f8;"),
    ];
    passes(&edited(&names));
    let copies = edited(&[("// pending", "mov.f32 %f7, %f1;"), ("add.f32 %f5, %f1, %f2;", "add.f32 %f5, %f7, %f2;")]);
    passes(&copies);
}

#[test]
fn registers_written_since_the_last_fence_are_caught() {
    let first = catches(&[("wgmma.fence.sync.aligned;", "")], NOT_FENCED);
    assert!(first.message.contains("before the first"), "{first}");
    let sum = catches(&[("// fenced", "add.f32 %f2, %f9, %f9;")], NOT_FENCED);
    assert!(sum.message.contains("accumulator was written"), "{sum}");
    let a = catches(&[("// fenced", "add.u32 %r11, %r11, 1;")], NOT_FENCED);
    assert!(a.message.contains("register of A"), "{a}");
    catches(&[("// fenced", "ld.global.u32 %r20, [%rd4]; mov.u32 %r11, %r20;")], NOT_FENCED);
    // Written again after a wait, used again without a fence.
    let again = "wgmma.wait_group.sync.aligned 0; add.f32 %f1, %f1, %f1;
        wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, %rd5, %rd6, 1, 1, 1, 0, 0;";
    catches(&[("// between", &format!("wgmma.commit_group.sync.aligned; {again}"))], NOT_FENCED);
    let fenced = again.replace("%f1, %f1, %f1;", "%f1, %f1, %f1; wgmma.fence.sync.aligned;");
    passes(&edited(&[("// between", &format!("wgmma.commit_group.sync.aligned; {fenced}"))]));
}

#[test]
fn operands_in_use_may_not_be_overwritten() {
    // Another warp that has waited already frees the operands, but not for who has not.
    let kinds = &[FindingKind::AsyncNotWaited, FindingKind::SharedRace];
    // By the same warp, and by others that a barrier puts after it.
    let own = "shl.b32 %r20, %r1, 4; add.u32 %r20, %r3, %r20; st.shared.u32 [%r20], %r1;";
    let own = catches(&[("// pending", own)], kinds);
    assert!(own.message.contains("a wgmma"), "{own}");
    catches(&[("// pending", "bar.sync 2; st.shared.u32 [%r4], %r1;")], kinds);
    catches(&[("// pending", "bar.sync 2; @%p1 st.shared.u32 [%r6], %r1;")], kinds);
    catches(&[("// pending", "bar.sync 2; cp.async.ca.shared.global [%r4], [%rd4], 4;")], kinds);
    // After the wait all warps of the warpgroup have read.
    passes(&edited(&[("bar.sync 1; // done", "")]));
    // Other memory may be written.
    let elsewhere =
        [(".b8 b[256];", ".b8 b[256]; .shared .b8 free[512];"), ("// pending", "st.shared.u32 [free], %r3;")];
    passes(&edited(&elsewhere));
}

#[test]
fn operands_are_read_like_any_shared_memory() {
    let kinds = [FindingKind::SharedRace, FindingKind::Uninitialised];
    catches(&[("bar.sync 0; // operands", "")], &kinds);
    catches(&[("@%p1 st.shared.u32 [%r6], %r10;", "")], &[FindingKind::Uninitialised]);
    catches(
        &[("mov.u32 %r5, b;", "mov.u32 %r5, 2048;"), ("shr.u32 %r8, %r5, 4;", "mov.u32 %r8, 140;")],
        &[FindingKind::OutOfBounds],
    );
}

#[test]
fn operands_that_were_written_generically_need_a_proxy_fence() {
    const FENCE: &str = "fence.proxy.async;";
    let missing = &[FindingKind::MissingProxyFence];
    let found = catches(&[(FENCE, "")], missing);
    assert!(found.message.contains("without a fence.proxy.async"), "{found}");
    for other in ["fence.proxy.async.global;", "membar.cta;", "fence.proxy.alias;", "wgmma.fence.sync.aligned;"] {
        catches(&[(FENCE, other)], missing);
    }
    // The fence of one thread knows only what came before.
    catches(&[(FENCE, "setp.eq.u32 %p2, %r1, 0; @%p2 fence.proxy.async;")], missing);
    catches(&[("// before", "st.shared.u32 [%r4], %r10; bar.sync 3;")], missing);
    // In every warp that issues, after the barrier, is as good.
    passes(&edited(&[(FENCE, ""), ("// before", FENCE)]));
    passes(&edited(&[(FENCE, "fence.proxy.async.shared::cta;")]));
    // What cp.async writes needs none.
    let copied = "cp.async.ca.shared.global [%r4], [%rd4], 4; cp.async.wait_all; bar.sync 3;";
    passes(&edited(&[("// before", copied)]));
}

#[test]
fn operands_break_rules() {
    let bad = &[FindingKind::BadOperand];
    let differs = "setp.ne.u32 %p2, %r1, 5; @%p2 add.s64 %rd6, %rd6, 0; @!%p2 add.s64 %rd6, %rd6, 1;";
    catches(&[("// before", differs)], bad);
    catches(&[("// before", "or.b64 %rd6, %rd6, 0x0002000000000000;")], bad);
    catches(
        &[
            ("// before", "and.b32 %r20, %r1, 1; setp.eq.u32 %p2, %r20, 1;"),
            ("%rd5, %rd6, 1, 1, 1, 0, 0;", "%rd5, %rd6, %p2, 1, 1, 0, 0;"),
        ],
        bad,
    );
    // Two warps are no warpgroup.
    let two = edited(&[(
        "setp.lt.u32 %p1, %r1, 64;",
        "st.shared.u32 [%r4+256], %r10; st.shared.u32 [%r4+768], %r10; st.shared.u32 [%r4+1280], %r10; st.shared.u32 [%r4+1792], %r10; setp.lt.u32 %p1, %r1, 64;",
    )]);
    assert_eq!(finding(launch(&two, 64, 1)).kind, FindingKind::BadOperand);
    // A shape that is not the pending one.
    let other = "wgmma.mma_async.sync.aligned.m64n16k16.f16.f16.f16 {%f1,%f2,%f3,%f4}, %rd5, %rd5, 1, 1, 1, 0, 0;";
    let shape = catches(&[("// between", other)], NOT_WAITED);
    assert!(shape.message.contains("another shape"), "{shape}");
    // An accumulator as A.
    catches(&[("{%r10,%r11,%r12,%r13}", "{%r10,%r11,%r12,%f1}")], NOT_WAITED);
}

#[test]
fn all_warps_of_a_warpgroup_issue_the_same_products() {
    let first_two = "setp.lt.u32 %p2, %r1, 64;";
    let second = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1,%f2,%f3,%f4}, {%r10";
    let guarded = format!("@%p2 {second}");
    let fewer = catches(&[("// before", first_two), (second, &guarded)], &[FindingKind::DivergentBarrier]);
    assert!(fewer.message.contains("[2, 2, 1, 1]"), "{fewer}");
    // Half of the warps run a copy of the second product.
    let rest = "{%r10,%r11,%r12,%r13}, %rd6, 1, 1, 1, 0;";
    let both = format!("{rest} @!%p2 {}", second.replace("{%r10", rest));
    let other = catches(
        &[("// before", first_two), (second, &guarded), (&rest["{%r10".len()..], &both["{%r10".len()..])],
        &[FindingKind::DivergentBarrier],
    );
    assert!(other.message.contains("in place of this one"), "{other}");
}
