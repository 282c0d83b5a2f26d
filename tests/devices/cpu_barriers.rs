//! How often the CPU device's threads wait for all others.

use std::path::Path;

use kiln::device::cpu::CpuDevice;
use kiln::device::{Batch, BatchSeq, Device, InputToken, KvCacheDType, Limits};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{Program, build_spec};
use kiln::weights::GgufFile;

/// Five stages per layer, one barrier each, whatever the batch; one for `Embed`, one for `Head`.
#[test]
fn threads_meet_five_times_per_layer() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = GgufFile::open(&path).expect("the default model: run `cargo xtask setup`");
    let spec = build_spec(file.metadata(), &file).expect("the default model has a spec");
    let limits = Limits {
        slots_max: 1,
        context_tokens_max: 128,
        step_rows_max: 100,
        logit_rows_max: 1,
        block_tokens: 16,
        num_blocks: 8,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 2,
    };
    let mut device = CpuDevice::prepare(&Program::of(&spec), &file, &limits).expect("the device prepares it");
    let mut before = 0;
    for rows in [1u32, 2, 13, 100] {
        let seq = BatchSeq {
            slot: SlotId(0),
            position_start: 0,
            tokens: (0..rows).map(|i| InputToken::Id(TokenId(i))).collect(),
            block_table: (0..8).map(BlockId).collect(),
            logit_rows: vec![rows - 1],
        };
        device.submit(&Batch { starts: Vec::new(), seqs: vec![seq] }).expect("the batch keeps the limits");
        device.collect().expect("the step runs");
        let crossings = device.barrier_crossings();
        assert_eq!(crossings - before, 2 + 5 * spec.layers.len(), "{rows} rows");
        before = crossings;
    }
}
