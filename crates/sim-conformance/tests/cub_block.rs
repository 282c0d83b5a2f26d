//! CUB's block-wide algorithms.

use sim_conformance::{Launch, Random, conform};

#[test]
fn cub_block_reduce() {
    conform("cub_block_reduce", |sim| {
        let x = Random::new(1).list(5 * 128, |r| r.i32() >> 8);
        let out = sim.room::<i32>(5);
        sim.launch("cub_block_reduce", Launch::new(5, 128), &[&sim.buffer(&x), &out]);
        let expected: Vec<i32> = x.chunks(128).map(|block| block.iter().sum()).collect();
        assert_eq!(sim.read(&out), expected);
    });
}
