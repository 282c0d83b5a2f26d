//! Calls through registers, recursion, and functions that are called from several places.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, finding};
use sim_exec::{Finding, FindingKind};

/// fib calls itself twice; every lane has its own depth.
const FIB: &str = "
.func (.param .b32 result) fib(.param .b32 n) {
  .reg .pred %p<2>; .reg .b32 %r<6>;
  ld.param.u32 %r1, [n];
  setp.lt.u32 %p1, %r1, 2;
  @%p1 bra SMALL;
  { .param .b32 a; .param .b32 b; sub.u32 %r2, %r1, 1; st.param.b32 [a], %r2; call (b), fib, (a); ld.param.b32 %r3, [b]; }
  // The parameter is read again after the call.
  ld.param.u32 %r4, [n];
  { .param .b32 a; .param .b32 b; sub.u32 %r4, %r4, 2; st.param.b32 [a], %r4; call (b), fib, (a); ld.param.b32 %r5, [b]; }
  add.u32 %r1, %r3, %r5;
SMALL:
  st.param.b32 [result], %r1;
  ret;
}
.visible .entry kernel(.param .u64 out) {
  .reg .b32 %r<4>; .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 15;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r2; call (b), fib, (a); ld.param.b32 %r3, [b]; }
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r3;
  ret;
}";

fn run(ptx: &str) -> Vec<u32> {
    let mut bench = Bench::new(ptx);
    let out = bench.room(256);
    bench.run(64).unwrap();
    bench.words(out, 64)
}

fn broken(ptx: &str, from: &str, to: &str) -> Finding {
    assert!(ptx.contains(from), "{from}");
    let mut bench = Bench::new(&ptx.replace(from, to));
    bench.room(256);
    finding(bench.run(64))
}

#[test]
fn a_function_may_call_itself() {
    let mut fib = vec![0, 1];
    for i in 2..16 {
        fib.push(fib[i - 1] + fib[i - 2]);
    }
    let expected: Vec<u32> = (0..64).map(|i| fib[i % 16]).collect();
    assert_eq!(run(FIB), expected);
}

#[test]
fn recursion_without_end_is_a_finding() {
    let f = broken(FIB, "setp.lt.u32 %p1, %r1, 2;", "setp.lt.u32 %p1, %r1, 0;");
    assert_eq!(f.kind, FindingKind::OutOfBounds, "{f}");
    assert!(f.message.contains("called itself"), "{f}");
}

/// even and odd call each other.
const PARITY: &str = "
.func (.param .b32 result) odd(.param .b32 n);
.func (.param .b32 result) even(.param .b32 n) {
  .reg .pred %p<2>; .reg .b32 %r<4>;
  ld.param.u32 %r1, [n]; mov.u32 %r2, 1; setp.eq.u32 %p1, %r1, 0;
  @%p1 bra DONE;
  { .param .b32 a; .param .b32 b; sub.u32 %r3, %r1, 1; st.param.b32 [a], %r3; call (b), odd, (a); ld.param.b32 %r2, [b]; }
DONE:
  st.param.b32 [result], %r2; ret;
}
.func (.param .b32 result) odd(.param .b32 n) {
  .reg .pred %p<2>; .reg .b32 %r<4>;
  ld.param.u32 %r1, [n]; mov.u32 %r2, 0; setp.eq.u32 %p1, %r1, 0;
  @%p1 bra DONE;
  { .param .b32 a; .param .b32 b; sub.u32 %r3, %r1, 1; st.param.b32 [a], %r3; call (b), even, (a); ld.param.b32 %r2, [b]; }
DONE:
  st.param.b32 [result], %r2; ret;
}
.visible .entry kernel(.param .u64 out) {
  .reg .b32 %r<4>; .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call (b), even, (a); ld.param.b32 %r3, [b]; }
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r3;
  ret;
}";

#[test]
fn functions_may_call_each_other() {
    assert_eq!(run(PARITY), (0..64).map(|i| u32::from(i & 1 == 0)).collect::<Vec<_>>());
}

/// Each lane calls the function that a table names.
const TABLE: &str = "
.func (.param .b32 result) double(.param .b32 n) {
  .reg .b32 %r<2>;
  ld.param.u32 %r1, [n]; shl.b32 %r1, %r1, 1; st.param.b32 [result], %r1; ret;
}
.func (.param .b32 result) negate(.param .b32 n) {
  .reg .b32 %r<2>;
  ld.param.u32 %r1, [n]; neg.s32 %r1, %r1; st.param.b32 [result], %r1; ret;
}
.global .align 8 .u64 table[3] = {double, negate, 0};
.visible .entry kernel(.param .u64 out) {
  .reg .b32 %r<6>; .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  and.b32 %r2, %r1, 1; mul.wide.u32 %rd2, %r2, 8; mov.u64 %rd3, table; add.s64 %rd3, %rd3, %rd2; ld.global.u64 %rd4, [%rd3];
  {
    .param .b32 a; .param .b32 b; st.param.b32 [a], %r1;
    prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
    call (b), %rd4, (a), prototype;
    ld.param.b32 %r3, [b];
  }
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r3;
  ret;
}";

#[test]
fn a_register_may_name_the_function() {
    let expected = |i: u32| if i.is_multiple_of(2) { 2 * i } else { i.wrapping_neg() };
    assert_eq!(run(TABLE), (0..64).map(expected).collect::<Vec<_>>());
    let f = broken(TABLE, "and.b32 %r2, %r1, 1;", "and.b32 %r2, %r1, 2;");
    assert_eq!(f.kind, FindingKind::BadOperand, "{f}");
    assert!(f.message.contains("a call of 0x0"), "{f}");
}

/// A function keeps its argument in its own shared variable and returns what was there before.
const KEEP: &str = "
.func (.param .b32 result) keep(.param .b32 n) {
  .reg .b32 %r<3>; .shared .align 4 .u32 kept;
  ld.param.u32 %r1, [n]; ld.shared.u32 %r2, [kept]; st.shared.u32 [kept], %r1; st.param.b32 [result], %r2; ret;
}
.visible .entry kernel(.param .u64 out) {
  .reg .b32 %r<3>; .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [out];
  { .param .b32 a; .param .b32 b; st.param.b32 [a], 7; call (b), keep, (a); ld.param.b32 %r1, [b]; }
  { .param .b32 a; .param .b32 b; st.param.b32 [a], 8; call (b), keep, (a); ld.param.b32 %r2, [b]; }
  st.global.u32 [%rd1], %r2;
  ret;
}";

#[test]
fn a_shared_variable_of_a_function_exists_once() {
    let mut bench = Bench::new(KEEP);
    let out = bench.room(4);
    bench.run(1).unwrap();
    assert_eq!(bench.words(out, 1), [7]);
    assert_eq!(bench.module.kernels["kernel"].static_shared_bytes, 4);
}
