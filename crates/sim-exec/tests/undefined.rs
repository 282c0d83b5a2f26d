//! Values read from bytes that nothing has written: harmless until they decide something.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, finding};
use sim_exec::{Finding, FindingKind};

/// Shared words 0..32 are written, word 32 is not. Lane 31 reads it into %r5, does not select it, and stores the selection.
const ONE_PAST: &str = "
.visible .entry one_past(.param .u64 out) {
  .reg .pred %p<6>; .reg .b32 %r<12>; .reg .b64 %rd<6>;
  .shared .align 4 .b8 tile[512];
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2;
  st.shared.u32 [%r4], %r1;
  bar.warp.sync -1;
  ld.shared.u32 %r5, [%r4+4];
  add.s32 %r6, %r5, 100;
  setp.ge.u32 %p1, %r6, 0;
  setp.lt.u32 %p2, %r1, 31;
  and.pred %p3, %p1, %p2;
  selp.b32 %r7, %r6, 7, %p3;
  st.shared.u32 [%r4+256], %r6;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r7;
  ret;
}";

fn run(ptx: &str) -> Bench {
    let mut bench = Bench::new(ptx);
    let out = bench.room(128);
    bench.run(32).unwrap();
    let expected: Vec<u32> = (0..32).map(|i| if i < 31 { i + 101 } else { 7 }).collect();
    assert_eq!(bench.words(out, 32), expected);
    bench
}

fn broken(from: &str, to: &str) -> Finding {
    assert!(ONE_PAST.contains(from), "{from}");
    let mut bench = Bench::new(&ONE_PAST.replace(from, to));
    bench.room(128);
    finding(bench.run(32))
}

#[test]
fn a_value_that_is_not_selected_is_no_finding() {
    run(ONE_PAST);
}

#[test]
fn a_value_that_decides_something_is_a_finding_at_its_read() {
    let select = "selp.b32 %r7, %r6, 7, %p3;";
    let uses = [
        (select, "mov.u32 %r7, %r6;", "what global memory holds"),
        (select, "selp.b32 %r7, %r6, 7, %p1;", "what global memory holds"),
        (select, "selp.b32 %r7, %r6, 7, %p3; @%p1 mov.u32 %r7, 8;", "whether an instruction runs"),
        ("and.pred %p3, %p1, %p2;", "or.pred %p3, %p1, %p2;", "what global memory holds"),
        ("add.s32 %r6, %r5, 100;", "add.s32 %r6, %r5, 100; ld.shared.u32 %r8, [%r6];", "an address"),
        ("add.s32 %r6, %r5, 100;", "add.s32 %r6, %r5, 100; vote.sync.any.pred %p4, %p1, -1;", ""),
        (select, "selp.b32 %r7, %r6, 7, %p3; vote.sync.any.pred %p4, %p1, -1;", "a vote"),
        (select, "selp.b32 %r7, %r6, 7, %p3; match.any.sync.b32 %r8, %r6, -1;", "what lanes match"),
        (select, "shfl.sync.bfly.b32 %r7, %r6, 1, 31, -1;", "what global memory holds"),
        ("ret;", "ld.shared.u32 %r9, [%r4+256]; st.global.u32 [%rd3], %r9; ret;", "what global memory holds"),
    ];
    for (from, to, what) in uses {
        if what.is_empty() {
            // The vote comes before anything undefined reaches its predicate.
            run(&ONE_PAST.replace(from, to));
            continue;
        }
        let f = broken(from, to);
        assert_eq!(f.kind, FindingKind::Uninitialised, "{to}: {f}");
        assert!(f.message.contains(what), "{to}: {f}");
        // The undefined value that passed through shared memory is blamed on the read that brought it back.
        let read_line = if from == "ret;" { 21 } else { 12 };
        assert_eq!((f.place.ptx_line, f.thread), (read_line, Some([31, 0, 0])), "{to}: {f}");
    }
}

/// Three words of a struct are written and read as a vector of four; warp 1 writes the fourth meanwhile.
const PADDED: &str = r#"
.visible .entry padded(.param .u64 out) {
  .reg .pred %p<3>; .reg .b32 %r<12>; .reg .b64 %rd<6>;
  .shared .align 16 .b8 tile[16];
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  setp.ge.u32 %p1, %r1, 32;
  @%p1 bra WARP1;
  mov.u32 %r2, 5;
  st.shared.v2.u32 [tile], {%r2, %r2};
  st.shared.u32 [tile+8], %r2;
  bar.warp.sync -1;
  .pragma "used_bytes_mask 4095";
  ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [tile];
  add.u32 %r7, %r3, %r4; add.u32 %r7, %r7, %r5;
  st.global.u32 [%rd1], %r7;
  ret;
WARP1:
  // NEIGHBOUR
  ret;
}"#;

#[test]
fn bytes_that_a_load_does_not_use_are_not_checked() {
    let run = |ptx: &str| {
        let mut bench = Bench::new(ptx);
        let out = bench.room(4);
        bench.run(64).map(|_| bench.words(out, 1))
    };
    assert_eq!(run(PADDED).unwrap(), [15]);
    let neighbour = PADDED.replace("// NEIGHBOUR", "st.shared.u32 [tile+12], 9;");
    assert_eq!(run(&neighbour).unwrap(), [15]);
    let all_used = neighbour.replace(".pragma \"used_bytes_mask 4095\";", "");
    let f = finding(run(&all_used).map(|_| Default::default()));
    assert_eq!(f.kind, FindingKind::SharedRace, "{f}");
    let fourth = PADDED.replace("st.global.u32 [%rd1], %r7;", "st.global.u32 [%rd1], %r6;");
    assert_eq!(
        run(&fourth.replace("4095", "65535")).map(|_| ()).map_err(|e| e.to_string().contains("Uninit")),
        Err(true)
    );
}

/// A 16 × 16 tile whose row 5 is never written goes through ldmatrix and mma with a matrix of ones; %r20 in lanes 0 to 3, its
/// column 0, comes from ROW. Elements of the product for which %p2 (columns 2t) and %p3 (columns 2t + 1) hold are stored.
const PRODUCT: &str = "
.visible .entry product(.param .u64 out) {
  .reg .pred %p<6>; .reg .b32 %r<32>; .reg .f32 %f<5>; .reg .b64 %rd<4>;
  .shared .align 16 .b8 tile[512]; .shared .align 16 .b8 column[128];
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0x3c003c00;
  shr.u32 %r3, %r1, 1; setp.ne.u32 %p1, %r3, 5;
  shl.b32 %r4, %r1, 4; mov.u32 %r5, tile; add.u32 %r6, %r5, %r4;
  @%p1 st.shared.v4.b32 [%r6], {%r2, %r2, %r2, %r2};
  mov.u32 %r7, column; shl.b32 %r8, %r1, 2; add.u32 %r7, %r7, %r8;
  setp.gt.u32 %p4, %r1, COLUMN; @%p4 st.shared.b32 [%r7], %r2;
  bar.warp.sync -1;
  and.b32 %r9, %r1, 15; shl.b32 %r9, %r9, 5; and.b32 %r10, %r1, 16; add.u32 %r9, %r9, %r10; add.u32 %r9, %r5, %r9;
  ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r11, %r12, %r13, %r14}, [%r9];
  ld.shared.b32 %r20, [%r7];
  mov.f32 %f1, 0f00000000;
  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r11, %r12, %r13, %r14}, {%r20, %r2}, {%f1, %f1, %f1, %f1};
  shr.u32 %r21, %r1, 2; and.b32 %r22, %r1, 3;
  STORED
  mul.wide.u32 %rd2, %r1, 8; add.s64 %rd3, %rd1, %rd2;
  @%p2 st.global.f32 [%rd3], %f1; @%p3 st.global.f32 [%rd3+4], %f2;
  ret;
}";

#[test]
fn a_product_is_undefined_where_its_operands_are() {
    let run = |column: &str, stored: &str| {
        let mut bench = Bench::new(&PRODUCT.replace("COLUMN", column).replace("STORED", stored));
        bench.room(256);
        bench.run(32)
    };
    let row = "setp.ne.u32 %p2, %r21, 5; setp.ne.u32 %p3, %r21, 5;";
    let row_and_column = "setp.ne.u32 %p3, %r21, 5; setp.ne.and.u32 %p2, %r22, 0, %p3;";
    let all = "setp.ge.u32 %p2, %r21, 0; setp.ge.u32 %p3, %r21, 0;";
    run("3", row_and_column).unwrap();
    for stored in [row, all] {
        let f = finding(run("3", stored));
        assert_eq!(f.kind, FindingKind::Uninitialised, "{f}");
        assert!(f.message.contains("what global memory holds"), "{f}");
    }
    let defined = PRODUCT.replace("setp.gt.u32 %p4, %r1, COLUMN; @%p4 st", "st").replace("STORED", row);
    let mut bench = Bench::new(&defined);
    bench.room(256);
    bench.run(32).unwrap();
}
