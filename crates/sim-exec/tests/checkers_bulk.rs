//! The rules of bulk copies: a correct kernel passes under 20 schedules, and the same kernel with one thing broken is caught.

mod common;

use common::{Bench, finding};
use sim_exec::{Finding, FindingKind, GpuConfig, LaunchConfig, LaunchError, LaunchReport};

const SEEDS: u64 = 20;

/// A kernel over two buffers of 1024 words, the first of which holds their numbers.
struct Case {
    ptx: &'static str,
    block: u32,
    grid: u32,
    cluster: u32,
}

type Edit<'a> = (&'a str, &'a str);

impl Case {
    fn launch(&self, ptx: &str, seed: u64) -> (Result<LaunchReport, LaunchError>, Vec<u32>) {
        let mut bench = Bench::with(ptx, GpuConfig { instructions_max: 2_000_000, ..GpuConfig::default() });
        bench.buffer(&(0..1024).collect::<Vec<_>>());
        let out = bench.buffer(&[0; 1024]);
        let result = bench.launch(LaunchConfig {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            cluster: [self.cluster, 1, 1],
            seed,
            ..LaunchConfig::default()
        });
        (result, bench.words(out, 1024))
    }

    fn edited(&self, edits: &[Edit<'_>]) -> String {
        edits.iter().fold(self.ptx.to_owned(), |ptx, (from, to)| {
            assert_eq!(ptx.matches(from).count(), 1, "`{from}` must occur once");
            ptx.replace(from, to)
        })
    }

    /// With these edits no seed reports anything, and the second buffer begins with `expected`.
    #[track_caller]
    fn passes(&self, edits: &[Edit<'_>], expected: &[u32]) {
        let ptx = self.edited(edits);
        for seed in 0..SEEDS {
            let (result, out) = self.launch(&ptx, seed);
            result.unwrap_or_else(|e| panic!("{edits:?}, seed {seed}: {e}"));
            assert_eq!(&out[..expected.len()], expected, "{edits:?}, seed {seed}");
        }
    }

    /// With these edits every seed reports one of `kinds`; returns the first.
    #[track_caller]
    fn catches(&self, edits: &[Edit<'_>], kinds: &[FindingKind]) -> Finding {
        let ptx = self.edited(edits);
        let found: Vec<Finding> = (0..SEEDS)
            .map(|seed| match self.launch(&ptx, seed).0 {
                Ok(_) => panic!("{edits:?}: seed {seed} passes"),
                result => finding(result),
            })
            .collect();
        found.iter().for_each(|f| assert!(kinds.contains(&f.kind), "{edits:?}: {f}"));
        found[0].clone()
    }
}

use FindingKind::{
    AsyncNotWaited, BadOperand, Deadlock, GlobalRace, Misaligned, MissingProxyFence, OutOfBounds, SharedRace,
    Uninitialised,
};

/// Four times: a bulk load of 64 words, which 64 threads raise by one in place, and a bulk store of them.
const ROUND_TRIP: Case = Case {
    block: 64,
    grid: 1,
    cluster: 1,
    ptx: "
.visible .entry round_trip(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<4>;
  .shared .align 128 .b8 tile[256]; .shared .align 8 .b8 bar[8];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; mov.u64 %rd4, %rd1; mov.u64 %rd5, %rd2;
  mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; mov.u32 %r2, bar; mov.u32 %r3, tile;
  shl.b32 %r6, %r1, 2; add.u32 %r7, %r3, %r6;
  @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;
  @%p1 fence.mbarrier_init.release.cluster;
  bar.sync 0;
  mov.u32 %r4, 0; mov.u32 %r5, 0;
LOOP:
  @!%p1 bra WAIT;
  // before the load
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256; // expected
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 256, [%r2];
  // loading
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], %r4; @!%p2 bra WAIT;
  ld.shared.u32 %r8, [%r7]; add.u32 %r8, %r8, 1; st.shared.u32 [%r7], %r8;
  fence.proxy.async.shared::cta;
  bar.sync 1;
  @!%p1 bra NEXT;
  // before the store
  cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3], 256;
  cp.async.bulk.commit_group;
  // storing
  cp.async.bulk.wait_group.read 0;
NEXT:
  // stored
  xor.b32 %r4, %r4, 1;
  add.s64 %rd1, %rd1, 256; add.s64 %rd2, %rd2, 256; add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 4; @%p3 bra LOOP;
  // done
  ret; }",
};

const LOAD: &str =
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 256, [%r2];\n  // loading";
const STORE: &str = "cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3], 256;";
const WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], %r4; @!%p2 bra WAIT;";
const EXPECTED: &str = "[%r2], 256; // expected";
const FENCE: &str = "fence.proxy.async.shared::cta;";

fn raised() -> Vec<u32> {
    (1..257).collect()
}

#[test]
fn the_correct_round_trip_passes() {
    ROUND_TRIP.passes(&[], &raised());
    // Other spellings of the same.
    ROUND_TRIP.passes(
        &[(WAIT, "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 %p2, [%r2], %r4; @!%p2 bra WAIT;")],
        &raised(),
    );
    ROUND_TRIP.passes(
        &[(WAIT, "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], %r4, 1000; @!%p2 bra WAIT;")],
        &raised(),
    );
    let hint =
        "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r3], [%rd1], 256, [%r2], %rd9;";
    let policy = format!(
        "createpolicy.fractional.L2::evict_first.b64 %rd9; cp.async.bulk.prefetch.L2.global [%rd1], 256; {hint}"
    );
    ROUND_TRIP.passes(&[(LOAD, &policy)], &raised());
    let apart = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 256; mbarrier.arrive.shared::cta.b64 _, [%r2];";
    ROUND_TRIP.passes(&[("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256; // expected", apart)], &raised());
}

#[test]
fn loads_must_be_waited_for() {
    for broken in ["", "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], %r4;"] {
        let found = ROUND_TRIP.catches(&[(WAIT, broken)], &[AsyncNotWaited, SharedRace]);
        assert!(found.place.ptx_line > 0, "{found}");
    }
    // The phase that is already over.
    ROUND_TRIP.catches(&[("xor.b32 %r4, %r4, 1;", "")], &[AsyncNotWaited, SharedRace]);
    ROUND_TRIP.catches(&[("mov.u32 %r4, 0;", "mov.u32 %r4, 1;")], &[AsyncNotWaited, Uninitialised, SharedRace]);
    // A wait that acquires nothing orders nothing.
    let relaxed = "mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 %p2, [%r2], %r4; @!%p2 bra WAIT;";
    ROUND_TRIP.catches(&[(WAIT, relaxed)], &[SharedRace]);
    // Nobody waits at all.
    let found = ROUND_TRIP.catches(&[("// loading", "bra.uni END;"), ("// done", "END:")], &[AsyncNotWaited, Deadlock]);
    assert!(found.kind == Deadlock || found.message.contains("cluster ends"), "{found}");
    let alone = [("@!%p1 bra WAIT;", "@!%p1 bra END;"), ("// loading", "bra.uni END;"), ("// done", "END:")];
    let found = ROUND_TRIP.catches(&alone, &[AsyncNotWaited]);
    assert!(found.message.contains("cluster ends"), "{found}");
}

#[test]
fn mbarriers_count_bytes_and_arrivals() {
    for bytes in ["[%r2], 240;", "[%r2], 272;"] {
        ROUND_TRIP.catches(&[(EXPECTED, bytes)], &[Deadlock]);
    }
    // Nothing is expected, so that the phase ends with the arrival.
    ROUND_TRIP.catches(&[(EXPECTED, "[%r2], 0;")], &[AsyncNotWaited]);
    ROUND_TRIP.catches(
        &[("mbarrier.init.shared::cta.b64 [%r2], 1;", "mbarrier.init.shared::cta.b64 [%r2], 2;")],
        &[Deadlock],
    );
    // Too early: the phase is over before the second load, which nobody waits for.
    let twice = format!(
        "{LOAD}\n cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3+128], [%rd1], 128, [%r2];"
    );
    let half = twice.replacen("[%rd1], 256", "[%rd1], 128", 1);
    ROUND_TRIP.catches(&[(LOAD, &half), (EXPECTED, "[%r2], 128;")], &[AsyncNotWaited, Deadlock, SharedRace]);
    ROUND_TRIP.catches(&[("@%p1 mbarrier.init.shared::cta.b64 [%r2], 1;", "")], &[BadOperand, Uninitialised]);
    ROUND_TRIP.catches(&[(EXPECTED, "[%r2], 1048576;")], &[BadOperand]);
}

#[test]
fn stores_need_a_proxy_fence_after_generic_writes() {
    let found = ROUND_TRIP.catches(&[(FENCE, "")], &[MissingProxyFence]);
    assert!(found.message.contains("without a fence.proxy.async"), "{found}");
    for other in ["membar.cta;", "fence.acq_rel.cta;", "fence.proxy.async.global;", "fence.proxy.alias;"] {
        ROUND_TRIP.catches(&[(FENCE, other)], &[MissingProxyFence]);
    }
    // Too early, or only by the thread that does not know of the writes yet.
    let early = ("ld.shared.u32 %r8, [%r7];", "fence.proxy.async.shared::cta; ld.shared.u32 %r8, [%r7];");
    ROUND_TRIP.catches(&[(FENCE, ""), early], &[MissingProxyFence]);
    ROUND_TRIP.catches(&[(FENCE, "@%p1 fence.proxy.async.shared::cta;")], &[MissingProxyFence]);
    // Anywhere on the way is right.
    ROUND_TRIP.passes(&[(FENCE, "fence.proxy.async;")], &raised());
    ROUND_TRIP.passes(&[(FENCE, ""), ("// before the store", FENCE)], &raised());
    // A write of the thread itself after the fence.
    ROUND_TRIP.catches(&[("// before the store", "st.shared.u32 [%r7], %r5;")], &[MissingProxyFence]);
}

#[test]
fn loads_need_a_proxy_fence_after_generic_writes() {
    // The tile is written before the load overwrites it.
    let written = "st.shared.u32 [%r3], %r5;";
    ROUND_TRIP.catches(&[("// before the load", written)], &[MissingProxyFence]);
    let fenced = format!("{written} {FENCE}");
    ROUND_TRIP.passes(&[("// before the load", &fenced)], &raised());
    // Global memory is written before the load reads it.
    let written = "ld.global.u32 %r9, [%rd1]; add.u32 %r9, %r9, 5; st.global.u32 [%rd1], %r9;";
    let found = ROUND_TRIP.catches(&[("// before the load", written)], &[MissingProxyFence]);
    assert!(found.message.contains("offset 0 of buffer"), "{found}");
    let wrong = format!("{written} {FENCE}");
    ROUND_TRIP.catches(&[("// before the load", &wrong)], &[MissingProxyFence]);
    let early = format!("fence.proxy.async; {written}");
    ROUND_TRIP.catches(&[("// before the load", &early)], &[MissingProxyFence]);
    for fence in ["fence.proxy.async;", "fence.proxy.async.global;"] {
        let mut expected = raised();
        (0..4).for_each(|i| expected[64 * i] += 5);
        ROUND_TRIP.passes(&[("// before the load", &format!("{written} {fence}"))], &expected);
    }
}

#[test]
fn what_bulk_copies_read_may_not_change_before_they_have() {
    // The source of the store is overwritten: by the next load, by the thread, by another.
    let waits = "cp.async.bulk.wait_group.read 0;";
    for broken in ["", "cp.async.bulk.wait_group.read 1;"] {
        ROUND_TRIP.catches(&[(waits, broken)], &[AsyncNotWaited]);
    }
    ROUND_TRIP.catches(&[("cp.async.bulk.commit_group;", "")], &[AsyncNotWaited]);
    let found = ROUND_TRIP.catches(&[("// storing", "st.shared.u32 [%r7], %r5;")], &[AsyncNotWaited]);
    assert!(found.message.contains("source of a bulk copy"), "{found}");
    ROUND_TRIP
        .catches(&[("// stored", "@!%p1 st.shared.u32 [%r7], %r5;")], &[AsyncNotWaited, SharedRace, MissingProxyFence]);
    // Waited for by the thread, and by a barrier.
    let free = format!("bar.sync 2; st.shared.u32 [%r7], %r5; {FENCE} bar.sync 3;");
    ROUND_TRIP.passes(&[("// stored", &free)], &raised());
    // The source of the load is overwritten.
    ROUND_TRIP.catches(&[("// loading", "st.global.u32 [%rd1+64], %r5;")], &[GlobalRace]);
    let found = ROUND_TRIP.catches(
        &[
            ("// loading", ""),
            ("@!%p1 bra WAIT;", "@!%p1 bra OTHER;"),
            ("WAIT:", "bra.uni WAIT; OTHER: st.global.u32 [%rd1+64], %r1; WAIT:"),
        ],
        &[GlobalRace],
    );
    assert!(found.message.contains("offset"), "{found}");
}

#[test]
fn stores_arrive_late() {
    // Read back by the thread: only a wait for the writes will do.
    let back = "ld.global.u32 %r9, [%rd2];";
    ROUND_TRIP.catches(&[("NEXT:", &format!("{back} NEXT:"))], &[GlobalRace]);
    let whole = (
        "cp.async.bulk.wait_group.read 0;",
        "cp.async.bulk.wait_group 0; ld.global.u32 %r9, [%rd2]; st.global.u32 [%rd2+2048], %r9;",
    );
    ROUND_TRIP.passes(&[whole], &raised());
    // By another thread: a barrier after the wait.
    let other = "@!%p1 ld.global.u32 %r9, [%rd2];";
    let full = ("cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;");
    ROUND_TRIP.catches(&[full, ("// stored", other)], &[GlobalRace]);
    ROUND_TRIP.passes(&[full, ("// stored", &format!("bar.sync 2; {other}"))], &raised());
    // The thread exits while shared memory is still being read.
    let last = ("cp.async.bulk.wait_group.read 0;", "setp.lt.u32 %p3, %r5, 3; @%p3 cp.async.bulk.wait_group.read 0;");
    let found = ROUND_TRIP.catches(&[last], &[AsyncNotWaited]);
    assert!(found.message.contains("exits before"), "{found}");
}

#[test]
fn bulk_copies_are_ordered_like_other_accesses() {
    ROUND_TRIP.catches(&[("bar.sync 1;", "")], &[SharedRace, MissingProxyFence]);
    // Unwritten bytes: what a load brings may be unwritten, what a store takes may not.
    ROUND_TRIP.catches(&[("st.shared.u32 [%r7], %r8;", ""), (LOAD, ""), (EXPECTED, "[%r2], 0;")], &[Uninitialised]);
}

#[test]
fn bulk_operands_break_rules() {
    for (from, to) in [
        ("[%rd1], 256, [%r2];\n  // loading", "[%rd1], 264, [%r2];"),
        ("[%rd1], 256, [%r2];\n  // loading", "[%rd1+8], 256, [%r2];"),
        ("[%r3], [%rd1], 256, [%r2];\n  // loading", "[%r3+4], [%rd1], 256, [%r2];"),
        (STORE, "cp.async.bulk.global.shared::cta.bulk_group [%rd2+4], [%r3], 256;"),
        ("[%rd1], 256, [%r2];\n  // loading", "[%rd1], 256, [%r2+4];"),
    ] {
        ROUND_TRIP.catches(&[(from, to)], &[Misaligned]);
    }
    for (from, to) in [
        ("[%rd1], 256, [%r2];\n  // loading", "[%rd1], 4112, [%r2];"),
        ("[%rd1], 256, [%r2];\n  // loading", "[%rd1+4096], 256, [%r2];"),
        (STORE, "cp.async.bulk.global.shared::cta.bulk_group [%rd2+8192], [%r3], 256;"),
        (STORE, "cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3+64], 256;"),
    ] {
        ROUND_TRIP.catches(&[(from, to)], &[OutOfBounds]);
    }
}

#[test]
fn reductions_add_to_what_is_there() {
    let reduce = "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd5], [%r3], 256;";
    let sums: Vec<u32> = (0..64).map(|i| (0..4).map(|j| i + 64 * j + 1).sum()).collect();
    ROUND_TRIP.passes(&[(STORE, reduce)], &sums);
    ROUND_TRIP.passes(&[(STORE, &reduce.replace("add.u32", "max.s32"))], &(0..64).map(|i| i + 193).collect::<Vec<_>>());
    ROUND_TRIP.catches(&[(STORE, reduce), (FENCE, "")], &[MissingProxyFence]);
    ROUND_TRIP.catches(&[(STORE, reduce), ("// done", "ld.global.u32 %r9, [%rd5];")], &[GlobalRace]);
}

/// A producer's bulk loads and a consumer warp, with an mbarrier each way.
const PIPELINE: Case = Case {
    block: 64,
    grid: 1,
    cluster: 1,
    ptx: "
.visible .entry pipeline(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<20>; .reg .b64 %rd<12>; .reg .pred %p<6>;
  .shared .align 128 .b8 slots[256]; .shared .align 8 .b8 full[16]; .shared .align 8 .b8 empty[16];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; mov.u32 %r2, full; mov.u32 %r3, empty; mov.u32 %r4, slots;
  @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; @%p1 mbarrier.init.shared::cta.b64 [%r2+8], 1;
  @%p1 mbarrier.init.shared::cta.b64 [%r3], 32; @%p1 mbarrier.init.shared::cta.b64 [%r3+8], 32;
  bar.sync 0;
  mov.u32 %r5, 0; and.b32 %r6, %r1, 31; shl.b32 %r6, %r6, 2; cvt.u64.u32 %rd3, %r6; add.s64 %rd4, %rd2, %rd3;
  setp.lt.u32 %p2, %r1, 32; @%p2 bra PRODUCER; bra.uni CONSUMER;
PRODUCER:
  @!%p1 bra END;
P_NEXT:
  and.b32 %r7, %r5, 1; shl.b32 %r8, %r7, 3; add.u32 %r9, %r2, %r8; add.u32 %r10, %r3, %r8;
  shl.b32 %r8, %r7, 7; add.u32 %r11, %r4, %r8; shr.u32 %r12, %r5, 1; and.b32 %r12, %r12, 1; xor.b32 %r12, %r12, 1;
P_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], %r12; @!%p3 bra P_WAIT;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 128;
  cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r11], [%rd1], 128, [%r9];
  add.s64 %rd1, %rd1, 128; add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 8; @%p4 bra P_NEXT;
  bra END;
CONSUMER:
  and.b32 %r7, %r5, 1; shl.b32 %r8, %r7, 3; add.u32 %r9, %r2, %r8; add.u32 %r10, %r3, %r8;
  shl.b32 %r8, %r7, 7; add.u32 %r11, %r4, %r8; add.u32 %r11, %r11, %r6; shr.u32 %r12, %r5, 1; and.b32 %r12, %r12, 1;
C_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], %r12; @!%p3 bra C_WAIT;
  ld.shared.u32 %r13, [%r11]; st.global.u32 [%rd4], %r13;
  mbarrier.arrive.shared::cta.b64 _, [%r10];
  add.s64 %rd4, %rd4, 128; add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 8; @%p4 bra CONSUMER;
END: ret; }",
};

#[test]
fn pipelines_of_bulk_loads() {
    PIPELINE.passes(&[], &(0..256).collect::<Vec<_>>());
    let p_wait = "P_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], %r12; @!%p3 bra P_WAIT;";
    PIPELINE.catches(&[(p_wait, "")], &[SharedRace, AsyncNotWaited, BadOperand]);
    let c_wait = "C_WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], %r12; @!%p3 bra C_WAIT;";
    PIPELINE.catches(&[(c_wait, "")], &[AsyncNotWaited, Uninitialised, SharedRace]);
    PIPELINE.catches(&[("xor.b32 %r12, %r12, 1;", "")], &[Deadlock]);
    PIPELINE.catches(&[("mbarrier.arrive.shared::cta.b64 _, [%r10];", "")], &[Deadlock]);
    PIPELINE.catches(
        &[("mbarrier.arrive.shared::cta.b64 _, [%r10];", "mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%r10];")],
        &[SharedRace],
    );
    // The consumer frees the slot before it has read it.
    let (read, free) = ("ld.shared.u32 %r13, [%r11];", "mbarrier.arrive.shared::cta.b64 _, [%r10];");
    PIPELINE.catches(&[(free, ""), (read, &format!("{free} {read}"))], &[SharedRace, AsyncNotWaited]);
    PIPELINE.catches(&[("[%r9], 128;\n", "[%r9], 112;\n")], &[Deadlock]);
}

/// Two CTAs of a cluster: the first loads for both, then each gives its words to the other, raised by one.
const CLUSTER: Case = Case {
    block: 32,
    grid: 2,
    cluster: 2,
    ptx: "
.visible .entry exchange(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<24>; .reg .b16 %rs<3>; .reg .b64 %rd<12>; .reg .pred %p<6>;
  .shared .align 128 .b8 mine[128]; .shared .align 128 .b8 theirs[128];
  .shared .align 8 .b8 full[8]; .shared .align 8 .b8 given[8];
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0; xor.b32 %r3, %r2, 1;
  mov.u32 %r4, mine; mov.u32 %r5, theirs; mov.u32 %r6, full; mov.u32 %r7, given; shl.b32 %r8, %r1, 2;
  @%p1 mbarrier.init.shared::cta.b64 [%r6], 1; @%p1 mbarrier.init.shared::cta.b64 [%r7], 1;
  @%p1 fence.mbarrier_init.release.cluster;
  @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], 128; // load
  @%p1 mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r7], 128; // gift
  add.u32 %r9, %r4, %r8; add.u32 %r10, %r5, %r8; // rows
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // ready
  setp.eq.u32 %p2, %r2, 0; and.pred %p2, %p2, %p1; mov.u16 %rs1, 3;
  @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r4], [%rd1], 128, [%r6], %rs1;
FULL: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r6], 0; @!%p3 bra FULL;
  ld.shared.u32 %r11, [%r9]; add.u32 %r11, %r11, 1; add.u32 %r11, %r11, %r2; st.shared.u32 [%r9], %r11;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  mapa.shared::cluster.u32 %r12, %r5, %r3; mapa.shared::cluster.u32 %r13, %r7, %r3;
  @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r12], [%r4], 128, [%r13];
  // given
GIVEN: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r7], 0; @!%p3 bra GIVEN;
  ld.shared.u32 %r14, [%r10]; mad.lo.u32 %r15, %r2, 32, %r1; mul.wide.u32 %rd3, %r15, 4; add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r14;
  // end
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // over
  ret; }",
};

#[test]
fn clusters_exchange_in_bulk() {
    let expected: Vec<u32> = (0..32).map(|i| i + 2).chain((0..32).map(|i| i + 1)).collect();
    CLUSTER.passes(&[], &expected);
    let full = "FULL: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r6], 0; @!%p3 bra FULL;";
    CLUSTER.catches(&[(full, "")], &[AsyncNotWaited, SharedRace, Uninitialised]);
    let given = "GIVEN: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r7], 0; @!%p3 bra GIVEN;";
    CLUSTER.catches(&[(given, "")], &[AsyncNotWaited, SharedRace, Uninitialised]);
    CLUSTER.catches(&[("fence.proxy.async.shared::cta;", "")], &[MissingProxyFence]);
    CLUSTER.catches(&[("bar.sync 0;", "")], &[SharedRace]);
    // The other CTA's mbarrier must be there.
    let ready = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; // ready";
    CLUSTER.catches(&[(ready, "")], &[SharedRace, BadOperand, Uninitialised]);
    for (from, to) in [("[%r6], 128; // load", "[%r6], 256;"), ("[%r7], 128; // gift", "[%r7], 64;")] {
        CLUSTER.catches(&[(from, to)], &[Deadlock]);
    }
    CLUSTER.catches(&[("mov.u16 %rs1, 3;", "mov.u16 %rs1, 1;")], &[Deadlock]);
    for mask in ["mov.u16 %rs1, 7;", "mov.u16 %rs1, 0;"] {
        CLUSTER.catches(&[("mov.u16 %rs1, 3;", mask)], &[BadOperand]);
    }
    // An mbarrier of the wrong CTA.
    CLUSTER.catches(&[("[%r12], [%r4], 128, [%r13];", "[%r12], [%r4], 128, [%r7];")], &[BadOperand]);
    // The source is written again before the other CTA has it.
    CLUSTER.catches(&[("// given", "st.shared.u32 [%r9], %r1;")], &[AsyncNotWaited, SharedRace]);
    // Both must know that the gifts have arrived.
    CLUSTER.catches(&[("// end", "st.shared.u32 [%r9], %r1;")], &[AsyncNotWaited, SharedRace]);
    let over = ("// over", "\n st.shared.u32 [%r9], %r1;");
    CLUSTER.passes(&[over], &expected);
}

#[test]
fn clusters_reduce_in_bulk() {
    let reduce = "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r12]";
    let copy = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r12]";
    // What is added to: the lane's number.
    let filled = ("// rows", "\n st.shared.u32 [%r10], %r1; fence.proxy.async;");
    let expected: Vec<u32> = (0..32).map(|i| 2 * i + 2).chain((0..32).map(|i| 2 * i + 1)).collect();
    CLUSTER.passes(&[(copy, reduce), filled], &expected);
    CLUSTER.catches(&[(copy, reduce)], &[Uninitialised]);
    let early = ("// given", "st.shared.u32 [%r10], %r1;");
    CLUSTER.catches(&[(copy, reduce), filled, early], &[SharedRace]);
}

#[test]
fn remote_arrivals_order_memory() {
    // The second CTA waits for the first, which arrives at its mbarrier after it has written to it.
    const REMOTE: Case = Case {
        block: 32,
        grid: 2,
        cluster: 2,
        ptx: "
.visible .entry remote(.param .u64 x, .param .u64 y) {
  .reg .b32 %r<24>; .reg .b64 %rd<12>; .reg .pred %p<6>;
  .shared .align 8 .b8 ready[8]; .shared .align 128 .b8 words[128];
  ld.param.u64 %rd2, [y]; mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0;
  mov.u32 %r3, ready; mov.u32 %r4, words; shl.b32 %r5, %r1, 2; add.u32 %r6, %r4, %r5;
  @%p1 mbarrier.init.shared::cta.b64 [%r3], 32;
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  setp.ne.u32 %p2, %r2, 0; @%p2 bra WAIT;
  mov.u32 %r7, 1; mapa.shared::cluster.u32 %r8, %r6, %r7; mapa.shared::cluster.u32 %r9, %r3, %r7;
  st.shared::cluster.u32 [%r8], %r1;
  mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r9];
  bra.uni END;
WAIT:
  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra WAIT;
  xor.b32 %r10, %r6, 4; ld.shared.u32 %r11, [%r10]; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r11;
END:
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  ret; }",
    };
    REMOTE.passes(&[], &(0..32).map(|i| i ^ 1).collect::<Vec<_>>());
    REMOTE.catches(&[("mbarrier.arrive.release.cluster", "mbarrier.arrive.relaxed.cluster")], &[SharedRace]);
    REMOTE.catches(&[("try_wait.parity.acquire", "try_wait.parity.relaxed")], &[SharedRace]);
    REMOTE.catches(&[("[%r3], 32;", "[%r3], 33;")], &[Deadlock]);
    REMOTE.catches(&[("_, [%r9];", "_, [%r3];")], &[Deadlock]);
}
