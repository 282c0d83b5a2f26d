//! Runs one stage on a device and on the oracle and compares what they leave behind.

use kiln::device::reference::Mode;
use kiln::device::{Batch, BatchSeq, Checkpoint, Device, InputToken, KvCacheDType, Limits};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{KvShape, Program};

use crate::common::synthetic::{Rng, Tensors};
use crate::common::{Tested, devices, reference};

pub const BLOCK_TOKENS: u32 = 16;

/// How near two results must be.
#[derive(Clone, Copy, Debug)]
pub enum Tolerance {
    /// Equal bits.
    Bits,
    /// No element further than `max`, all together no further than `mean` on average.
    Near { max: f32, mean: f32 },
    /// Equal bits, but near on tensor cores.
    BitsOrNear { max: f32, mean: f32 },
}

impl Tolerance {
    /// What is asked of a device.
    fn of(self, tested: &Tested) -> Tolerance {
        match self {
            Tolerance::BitsOrNear { max, mean } if tested.has_tensor_cores() => Tolerance::Near { max, mean },
            Tolerance::BitsOrNear { .. } => Tolerance::Bits,
            other => other,
        }
    }
}

/// What an output may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nan {
    Never,
    /// Where the oracle has it too: what was poisoned and must not be touched.
    WhereExpected,
}

/// What a device left at one place.
struct Left {
    what: String,
    tolerance: Tolerance,
    nan: Nan,
    values: Vec<f32>,
}

/// A program of one stage, what it starts from, and what it must leave.
pub struct Case {
    pub name: String,
    pub program: Program,
    pub weights: Tensors,
    pub batch: Batch,
    pub num_blocks: u32,
    pub kv_cache_dtype: KvCacheDType,
    pub inputs: Vec<(Checkpoint, Vec<f32>)>,
    pub outputs: Vec<(Checkpoint, Tolerance)>,
    /// The layer whose whole arena must be as the oracle's: what the step must not touch is NaN.
    pub arena: Option<(u32, Tolerance)>,
}

impl Case {
    /// Runs the case on every device.
    pub fn check(&self) {
        let expected = self.run(&reference(Mode::Int8));
        for tested in devices() {
            let found = self.run(&tested);
            for (found, expected) in found.iter().zip(&expected) {
                compare(&format!("{}: {}: {}", tested.name, self.name, found.what), found, &expected.values);
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            slots_max: 8,
            context_tokens_max: (self.num_blocks + 1) * BLOCK_TOKENS,
            step_rows_max: (self.batch.num_rows() as u32).max(1),
            logit_rows_max: (self.batch.num_logit_rows() as u32).max(1),
            block_tokens: BLOCK_TOKENS,
            // One more, for the row that `whole_arena` needs.
            num_blocks: self.num_blocks + 1,
            kv_cache_dtype: self.kv_cache_dtype,
            threads: 2,
        }
    }

    fn run(&self, tested: &Tested) -> Vec<Left> {
        let mut device = tested.ready(&self.program, &self.weights, &self.limits());
        self.poison_arena(device.as_mut());
        for (checkpoint, values) in &self.inputs {
            device.write(&self.batch, *checkpoint, values).unwrap_or_else(|e| panic!("{}: {e}", tested.name));
        }
        device.submit(&self.batch).unwrap();
        device.collect().unwrap();
        let read = |device: &dyn Device, checkpoint| {
            device.read(checkpoint).unwrap_or_else(|e| panic!("{}: {}: {e}", tested.name, self.name))
        };
        let left = |device: &dyn Device, checkpoint: Checkpoint, tolerance: Tolerance, nan| Left {
            what: format!("{checkpoint:?}"),
            tolerance: tolerance.of(tested),
            nan,
            values: read(device, checkpoint),
        };
        let outputs = self.outputs.iter();
        let mut found: Vec<Left> =
            outputs.map(|(checkpoint, tolerance)| left(device.as_ref(), *checkpoint, *tolerance, Nan::Never)).collect();
        if let Some((layer, tolerance)) = self.arena {
            device.submit(&whole_arena(self.num_blocks)).unwrap();
            device.collect().unwrap();
            for checkpoint in [Checkpoint::Keys { layer, seq: 0 }, Checkpoint::Values { layer, seq: 0 }] {
                let mut arena = left(device.as_ref(), checkpoint, tolerance, Nan::WhereExpected);
                let positions = (self.num_blocks * BLOCK_TOKENS) as usize;
                arena.values.truncate(arena.values.len() / (positions + 1) * positions);
                found.push(arena);
            }
        }
        found
    }

    /// Fills the caches of all layers that have one with NaN.
    fn poison_arena(&self, device: &mut dyn Device) {
        let batch = whole_arena(self.num_blocks);
        for (layer, shape) in (0..).zip(self.program.kv_shapes()) {
            let Some(KvShape { num_kv_heads, head_dim }) = shape else { continue };
            let values = vec![f32::NAN; (self.num_blocks * BLOCK_TOKENS * num_kv_heads * head_dim) as usize];
            for checkpoint in [Checkpoint::Keys { layer, seq: 0 }, Checkpoint::Values { layer, seq: 0 }] {
                device.write(&batch, checkpoint, &values).unwrap();
            }
        }
    }
}

/// A batch whose one sequence spans `num_blocks` blocks, and has its one row behind them: for writing and reading the whole arena.
fn whole_arena(num_blocks: u32) -> Batch {
    let seq = BatchSeq {
        slot: SlotId(0),
        position_start: num_blocks * BLOCK_TOKENS,
        tokens: vec![InputToken::Id(TokenId(0))],
        block_table: (0..=num_blocks).map(BlockId).collect(),
        logit_rows: Vec::new(),
    };
    Batch { starts: Vec::new(), seqs: vec![seq] }
}

fn compare(what: &str, left: &Left, expected: &[f32]) {
    let found = &left.values;
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let (mut sum, mut count) = (0.0, 0);
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        if left.nan == Nan::WhereExpected && a.is_nan() && b.is_nan() {
            continue;
        }
        assert!(b.is_finite(), "{what}: element {i}: the oracle has {b}");
        let difference = (a - b).abs();
        let near = match left.tolerance {
            Tolerance::Bits => a.to_bits() == b.to_bits(),
            // Written so that NaN fails.
            Tolerance::Near { max, .. } | Tolerance::BitsOrNear { max, .. } => difference <= max,
        };
        assert!(near, "{what}: element {i}: {a:e}, expected {b:e}, {:?}", left.tolerance);
        sum += difference;
        count += 1;
    }
    assert!(count > 0 || expected.is_empty(), "{what}: nothing was compared");
    if let Tolerance::Near { mean, .. } = left.tolerance {
        let found_mean = sum / count.max(1) as f32;
        assert!(found_mean <= mean, "{what}: mean distance {found_mean}, at most {mean}");
    }
}

/// Prompt rows and decode rows of several sequences, `rows` in all, in blocks that are scattered over the arena and out of
/// order. Returns the batch and the arena's blocks: about twice as many as are in use.
pub fn ragged(rng: &mut Rng, rows: u32, vocab_size: u32) -> (Batch, u32) {
    // (first position, rows): a first chunk of a prompt, decode rows, a later chunk that starts inside a block.
    let shapes: Vec<(u32, u32)> = match rows {
        1 => vec![(37, 1)],
        2 => vec![(0, 1), (300, 1)],
        3..8 => vec![(0, rows - 2), (16, 1), (79, 1)],
        _ => {
            let rest = rows - 3;
            vec![(0, rest / 2), (530, 1), (21, rest - rest / 2), (15, 1), (31, 1)]
        }
    };
    let blocks_of = |&(start, rows): &(u32, u32)| (start + rows).div_ceil(BLOCK_TOKENS);
    let num_blocks = 2 * shapes.iter().map(blocks_of).sum::<u32>() + 1;
    let mut free: Vec<BlockId> = (0..num_blocks).map(BlockId).collect();
    rng.shuffle(&mut free);
    let seqs = shapes.iter().enumerate().map(|(slot, shape)| {
        let blocks = free.split_off(free.len() - blocks_of(shape) as usize);
        let tokens = (0..shape.1).map(|_| InputToken::Id(TokenId(rng.below(vocab_size as usize) as u32))).collect();
        BatchSeq {
            slot: SlotId(slot as u32),
            position_start: shape.0,
            tokens,
            block_table: blocks,
            logit_rows: vec![shape.1 - 1],
        }
    });
    (Batch { starts: Vec::new(), seqs: seqs.collect() }, num_blocks)
}
