//! One step's work, as numbers.

use crate::ids::{BlockId, SlotId, TokenId};
use crate::model::{BatchShape, KvCacheDType};

use super::sampler::{Penalties, Sampled};

/// What a device is prepared for. Everything is allocated for these limits, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Running sequences.
    pub slots_max: u32,
    /// Positions of one sequence.
    pub context_tokens_max: u32,
    /// Rows (tokens) of one step.
    pub step_rows_max: u32,
    /// Rows of one step that need logits.
    pub logit_rows_max: u32,
    /// Positions per KV-cache block; a multiple of 16.
    pub block_tokens: u32,
    /// KV-cache blocks in the arena.
    pub num_blocks: u32,
    /// What the arena keeps of keys and values.
    pub kv_cache_dtype: KvCacheDType,
    /// Host threads (CPU devices).
    pub threads: u32,
}

/// Where a row's token id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputToken {
    Id(TokenId),
    /// The token last sampled for the sequence's slot, which the host may not know yet.
    LastSampled,
}

/// The rows of one sequence in a batch: consecutive positions `position_start..position_start + row_count`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSeq {
    pub slot: SlotId,
    pub position_start: u32,
    /// One token per row, at least one.
    pub tokens: Vec<InputToken>,
    /// Blocks of positions `0..`, at least as many as the last row's position needs.
    pub block_table: Vec<BlockId>,
    /// Rows of this sequence that need logits, counted from its first row, ascending, each once. Usually the last or none.
    pub logit_rows: Vec<u32>,
}

/// A slot that starts (or restarts) with a sequence: what does not change while that runs, and what its penalties count from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotStart {
    pub slot: SlotId,
    pub prompt_ids: Vec<TokenId>,
    /// Tokens generated before a preemption; empty for a new sequence.
    pub output_ids: Vec<TokenId>,
    pub penalties: Penalties,
    /// Added to raw logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Masked while a row says that the minimum length is not reached: end of sequence and stop ids.
    pub ids_masked_before_min: Vec<TokenId>,
}

/// One step: prompt rows and decode rows of many sequences, ragged. Batch rows are the sequences' rows in order. There is at least one
/// sequence, and each has at least one row; no two rows are written to the same place of the cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub starts: Vec<SlotStart>,
    pub seqs: Vec<BatchSeq>,
}

impl Batch {
    /// Rows over all sequences.
    pub fn num_rows(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }

    /// Logit rows over all sequences.
    pub fn num_logit_rows(&self) -> usize {
        self.seqs.iter().map(|s| s.logit_rows.len()).sum()
    }

    /// The shape that costs depend on, with a cache of this type.
    pub fn shape(&self, kv_cache_dtype: KvCacheDType) -> BatchShape {
        let mut shape = BatchShape {
            rows: self.num_rows() as u64,
            logit_rows: self.num_logit_rows() as u64,
            kv_cache_dtype,
            ..BatchShape::default()
        };
        for seq in &self.seqs {
            let (start, rows) = (u64::from(seq.position_start), seq.tokens.len() as u64);
            shape.kv_tokens += start + rows;
            shape.attended_pairs += rows * start + rows * (rows + 1) / 2;
        }
        shape
    }
}

/// What comes back from a step: one entry per [`super::SampleRow`], in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    pub sampled: Vec<Sampled>,
}

/// Bytes a device holds, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    pub weights_bytes: u64,
    pub kv_arena_bytes: u64,
    pub workspace_bytes: u64,
}

impl MemoryUse {
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.kv_arena_bytes + self.workspace_bytes
    }
}
