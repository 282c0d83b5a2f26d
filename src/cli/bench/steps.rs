//! The work that is measured: sequences of random ids that grow together, straight on a device.

use kiln::device::{Batch, BatchSeq, Choice, Device, InputToken, Limits, SampleRow};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{Program, StageCost};
use kiln::runtime::CachePlan;

use super::{CliError, DeviceArgs};

/// What work takes: sequences, and the positions of the longest. Sums of what flags say, so in 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub sequences: u64,
    pub positions: u64,
}

impl Extent {
    /// What both take.
    pub fn or_larger(self, other: Extent) -> Extent {
        Extent { sequences: self.sequences.max(other.sequences), positions: self.positions.max(other.positions) }
    }
}

/// Limits for work of this extent, in steps of up to `step_rows_max` rows.
///
/// # Errors
/// It is more than is possible.
pub fn limits(extent: Extent, step_rows_max: u32, args: &DeviceArgs) -> Result<Limits, CliError> {
    let plan = CachePlan::of(extent.sequences, extent.positions)?;
    Ok(Limits {
        slots_max: plan.slots_max,
        context_tokens_max: plan.context_tokens_max,
        step_rows_max,
        logit_rows_max: plan.slots_max.min(step_rows_max),
        block_tokens: plan.block_tokens,
        num_blocks: plan.num_blocks,
        kv_cache_dtype: args.kv_cache_dtype(),
        threads: args.threads(),
    })
}

/// Sequences that all start empty and grow by the same number of tokens.
pub struct Sequences<'a> {
    device: &'a mut dyn Device,
    program: &'a Program,
    parallel: u32,
    /// Tokens in each sequence's context.
    position: u32,
    cost: StageCost,
    seed: u32,
}

/// One sequence's part of a step.
struct Part {
    slot: u32,
    position_start: u32,
    tokens: Vec<InputToken>,
    sample: bool,
}

impl<'a> Sequences<'a> {
    /// `parallel` empty sequences on a device with `limits` for them.
    pub fn new(device: &'a mut dyn Device, program: &'a Program, parallel: u32) -> Sequences<'a> {
        Sequences { device, program, parallel, position: 0, cost: StageCost::default(), seed: 42 }
    }

    /// What the steps since the last call had to move and compute.
    pub fn take_cost(&mut self) -> StageCost {
        std::mem::take(&mut self.cost)
    }

    /// Adds `tokens` random ids to every sequence, in steps as full as they can be, and samples after each one's last.
    pub fn prefill(&mut self, tokens: u32) -> Result<(), CliError> {
        let rows_max = self.device.limits().step_rows_max;
        let (mut parts, mut rows_left) = (Vec::new(), rows_max);
        for slot in 0..self.parallel {
            let mut done = 0;
            while done < tokens {
                let rows = (tokens - done).min(rows_left);
                let ids = (0..rows).map(|_| InputToken::Id(self.random_id())).collect();
                let position_start = self.position + done;
                done += rows;
                rows_left -= rows;
                parts.push(Part { slot, position_start, tokens: ids, sample: done == tokens });
                if rows_left == 0 {
                    self.step(std::mem::take(&mut parts))?;
                    rows_left = rows_max;
                }
            }
        }
        self.position += tokens;
        if parts.is_empty() { Ok(()) } else { self.step(parts) }
    }

    /// Samples `tokens` tokens for every sequence, each the input of the next step.
    pub fn decode(&mut self, tokens: u32) -> Result<(), CliError> {
        let rows_max = self.device.limits().step_rows_max;
        for index in 0..tokens {
            for first in (0..self.parallel).step_by(rows_max as usize) {
                let slots = first..self.parallel.min(first + rows_max);
                let parts = slots.map(|slot| {
                    let input = if index == 0 { InputToken::Id(self.random_id()) } else { InputToken::LastSampled };
                    Part { slot, position_start: self.position, tokens: vec![input], sample: true }
                });
                let parts = parts.collect();
                self.step(parts)?;
            }
            self.position += 1;
        }
        Ok(())
    }

    fn step(&mut self, parts: Vec<Part>) -> Result<(), CliError> {
        let sampled = parts.iter().filter(|part| part.sample).zip(0..);
        let plain = |(part, logit_row): (&Part, u32)| SampleRow::plain(logit_row, SlotId(part.slot), Choice::Greedy);
        let rows: Vec<SampleRow> = sampled.map(plain).collect();
        let seqs = parts.into_iter().map(|part| self.batch_seq(part)).collect();
        let batch = Batch { starts: Vec::new(), seqs };
        self.cost = self.cost.plus(self.program.cost(&batch.shape(self.device.limits().kv_cache_dtype)));
        self.device.submit(&batch)?;
        if !rows.is_empty() {
            self.device.sample(&rows)?;
        }
        self.device.collect()?;
        Ok(())
    }

    fn batch_seq(&self, part: Part) -> BatchSeq {
        let limits = self.device.limits();
        let rows = part.tokens.len() as u32;
        let first_block = part.slot * limits.context_tokens_max.div_ceil(limits.block_tokens);
        let num_blocks = (part.position_start + rows).div_ceil(limits.block_tokens);
        BatchSeq {
            slot: SlotId(part.slot),
            position_start: part.position_start,
            tokens: part.tokens,
            block_table: (first_block..first_block + num_blocks).map(BlockId).collect(),
            logit_rows: if part.sample { vec![rows - 1] } else { Vec::new() },
        }
    }

    fn random_id(&mut self) -> TokenId {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        TokenId((self.seed >> 8) % self.program.vocab_size)
    }
}
