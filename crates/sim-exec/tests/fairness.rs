//! Lanes of one warp that wait for each other, and CTAs that pass each other more than a word at a time.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use sim_exec::{GpuConfig, LaunchConfig};

/// A lock with the waiting loop before the critical section in the text, and another waiting loop after it: the lane that holds
/// the lock has neither the smallest nor the largest program counter.
const LOCK: &str = "
.visible .entry lock(.param .u64 words) {
  .reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [words];
AGAIN:
  atom.acquire.gpu.global.cas.b32 %r1, [%rd1], 0, 1;
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra INSIDE;
WAIT:
  ld.relaxed.gpu.global.u32 %r2, [%rd1];
  setp.ne.u32 %p2, %r2, 0;
  @%p2 bra WAIT;
  bra.uni AGAIN;
INSIDE:
  ld.global.u32 %r3, [%rd1+4];
  add.u32 %r3, %r3, 1;
  st.global.u32 [%rd1+4], %r3;
  st.release.gpu.global.u32 [%rd1], 0;
  red.release.gpu.global.add.u32 [%rd1+8], 1;
ALL:
  ld.acquire.gpu.global.u32 %r4, [%rd1+8];
  setp.lt.u32 %p3, %r4, 64;
  @%p3 bra ALL;
  ret;
}";

#[test]
fn every_lane_gets_its_turn() {
    for seed in 0..5 {
        let mut bench = Bench::with(LOCK, GpuConfig { instructions_max: 2_000_000, ..GpuConfig::default() });
        let words = bench.buffer(&[0, 0, 0]);
        bench.launch(LaunchConfig { block: [64, 1, 1], seed, ..LaunchConfig::default() }).unwrap();
        assert_eq!(bench.words(words, 3), [0, 64, 64]);
    }
}

/// The lanes of CTA 0 write pairs of equal words, those of CTA 1 count the pairs they see that are not equal.
const PAIRS: &str = "
.visible .entry pairs(.param .u64 words) {
  .reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [words];
  mov.u32 %r1, %tid.x;
  mad.wide.u32 %rd1, %r1, 16, %rd1;
  mov.u32 %r1, %ctaid.x;
  setp.ne.u32 %p1, %r1, 0;
  mov.u32 %r2, 0;
  mov.u32 %r6, 0;
  @%p1 bra READ;
WRITE:
  add.u32 %r2, %r2, 1;
  STORE
  setp.lt.u32 %p2, %r2, 5000;
  @%p2 bra WRITE;
  ret;
READ:
  LOAD
  setp.ne.u32 %p3, %r3, %r4;
  @%p3 add.u32 %r6, %r6, 1;
  setp.lt.u32 %p2, %r3, 5000;
  @%p2 bra READ;
  st.global.u32 [%rd1+8], %r6;
  ret;
}";

#[test]
fn strong_accesses_to_two_words_are_single_steps() {
    let vector = ("st.relaxed.gpu.v2.u32 [%rd1], {%r2, %r2};", "ld.relaxed.gpu.v2.u32 {%r3, %r4}, [%rd1];");
    let wide = (
        "mov.b64 %rd2, {%r2, %r2}; st.release.gpu.u64 [%rd1], %rd2;",
        "ld.acquire.gpu.u64 %rd2, [%rd1]; mov.b64 {%r3, %r4}, %rd2;",
    );
    let atomic = ("mov.b64 %rd2, {%r2, %r2}; atom.global.exch.b64 %rd3, [%rd1], %rd2;", wide.1);
    for (store, load) in [vector, wide, atomic] {
        let ptx = PAIRS.replace("STORE", store).replace("LOAD", load);
        let mut bench = Bench::with(&ptx, GpuConfig { instructions_max: 20_000_000, ..GpuConfig::default() });
        let words = bench.buffer(&[0; 4 * 32]);
        bench.launch(LaunchConfig { grid: [2, 1, 1], block: [32, 1, 1], ..LaunchConfig::default() }).unwrap();
        assert_eq!(bench.words(words, 4 * 32), [5000, 5000, 0, 0].repeat(32), "{store}");
    }
}
