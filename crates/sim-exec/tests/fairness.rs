//! Lanes of one warp that wait for each other.
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
