//! What a batch, sample rows and copies must keep, on every device alike. A refused call changes nothing.

use crate::device::sampler::{Choice, SampleRow};
use crate::device::{Batch, BatchSeq, BlockCopy, DeviceError, InputToken, Limits, MalformedError, SlotStart};
use crate::ids::{BlockId, SlotId, TokenId};

/// Biases of one sequence.
pub const LOGIT_BIASES_MAX: usize = 1024;

/// Most likely tokens, or candidates, that one sample row may ask for.
pub const REPORTED_TOKENS_MAX: u32 = 128;

fn at_most(what: &'static str, limit: u64, asked: u64) -> Result<(), DeviceError> {
    if asked <= limit { Ok(()) } else { Err(DeviceError::Limit { what, limit, asked }) }
}

/// `asked` is an index below `count`.
fn below(what: &'static str, count: impl Into<u64>, asked: u32) -> Result<(), DeviceError> {
    let (count, asked) = (count.into(), u64::from(asked));
    if asked < count { Ok(()) } else { Err(DeviceError::Limit { what, limit: count.saturating_sub(1), asked }) }
}

/// What every device needs of its limits.
pub fn check_limits(limits: &Limits) -> Result<(), DeviceError> {
    let require = |subject: &str, holds: bool, expected: &str, found: u32| match holds {
        true => Ok(()),
        false => Err(DeviceError::Unsupported {
            subject: subject.into(),
            expected: expected.into(),
            found: found.to_string(),
        }),
    };
    let block_tokens = limits.block_tokens;
    require("block_tokens", block_tokens > 0 && block_tokens.is_multiple_of(16), "a multiple of 16", block_tokens)?;
    require("threads", limits.threads > 0, "at least 1", limits.threads)
}

impl Batch {
    /// Checks the batch against a device's limits and itself; what devices call before they queue it.
    ///
    /// # Errors
    /// `Limit` for numbers out of range, `Malformed` for what contradicts itself.
    pub fn check(&self, limits: &Limits, vocab_size: u32) -> Result<(), DeviceError> {
        if self.seqs.is_empty() {
            return Err(MalformedError::EmptyBatch.into());
        }
        at_most("rows of a step", limits.step_rows_max.into(), self.num_rows() as u64)?;
        at_most("logit rows of a step", limits.logit_rows_max.into(), self.num_logit_rows() as u64)?;
        self.check_starts(limits, vocab_size)?;
        let mut written: Vec<BlockId> = Vec::with_capacity(self.seqs.len());
        for (index, seq) in self.seqs.iter().enumerate() {
            seq.check(index, limits, vocab_size)?;
            let first = (seq.position_start / limits.block_tokens) as usize;
            let end = seq.position_start as usize + seq.tokens.len();
            written.extend(&seq.block_table[first..end.div_ceil(limits.block_tokens as usize)]);
        }
        match first_repeated(&mut written) {
            Some(block) => Err(MalformedError::BlockWrittenTwice { block }.into()),
            None => Ok(()),
        }
    }

    fn check_starts(&self, limits: &Limits, vocab_size: u32) -> Result<(), DeviceError> {
        self.starts.iter().try_for_each(|start| start.check(limits, vocab_size))?;
        match first_repeated(&mut self.starts.iter().map(|start| start.slot).collect::<Vec<SlotId>>()) {
            Some(slot) => Err(MalformedError::SlotStartsTwice { slot }.into()),
            None => Ok(()),
        }
    }

    /// The slot of every logit row.
    pub(super) fn logit_row_slots(&self) -> Vec<SlotId> {
        self.seqs.iter().flat_map(|seq| seq.logit_rows.iter().map(|_| seq.slot)).collect()
    }
}

impl BatchSeq {
    fn check(&self, seq: usize, limits: &Limits, vocab_size: u32) -> Result<(), DeviceError> {
        if self.tokens.is_empty() {
            return Err(MalformedError::EmptySequence { seq }.into());
        }
        below("slot", limits.slots_max, self.slot.0)?;
        let end = u64::from(self.position_start) + self.tokens.len() as u64;
        at_most("positions of a sequence", limits.context_tokens_max.into(), end)?;
        let room = self.block_table.len() as u64 * u64::from(limits.block_tokens);
        at_most("positions in the sequence's blocks", room, end)?;
        self.block_table.iter().try_for_each(|block| below("block id", limits.num_blocks, block.0))?;
        for row in &self.logit_rows {
            below("logit row of a sequence", self.tokens.len() as u64, *row)?;
        }
        if let Some(rows) = self.logit_rows.windows(2).find(|rows| rows[0] >= rows[1]) {
            return Err(MalformedError::LogitRowsOutOfOrder { seq, row: rows[1] }.into());
        }
        for token in &self.tokens {
            if let InputToken::Id(id) = token {
                below("token id", vocab_size, id.0)?;
            }
        }
        Ok(())
    }
}

impl SlotStart {
    fn check(&self, limits: &Limits, vocab_size: u32) -> Result<(), DeviceError> {
        below("slot", limits.slots_max, self.slot.0)?;
        at_most("logit biases of a sequence", LOGIT_BIASES_MAX as u64, self.logit_bias.len() as u64)?;
        let ids = [&self.prompt_ids, &self.output_ids, &self.ids_masked_before_min].into_iter().flatten();
        let largest = ids.chain(self.logit_bias.iter().map(|(id, _)| id)).max();
        largest.map_or(Ok(()), |id: &TokenId| below("token id", vocab_size, id.0))
    }
}

/// Checks sample rows against the slots of the step's logit rows.
pub(super) fn check_sample_rows(
    rows: &[SampleRow],
    slots: &[SlotId],
    limits: &Limits,
    vocab_size: u32,
) -> Result<(), DeviceError> {
    at_most("sample rows of a step", limits.logit_rows_max.into(), rows.len() as u64)?;
    for row in rows {
        let logit_row = row.logit_row;
        below("logit row of a sample row", slots.len() as u64, logit_row)?;
        below("slot", limits.slots_max, row.slot.0)?;
        let (expected, found) = (slots[logit_row as usize], row.slot);
        if expected != found {
            return Err(MalformedError::SlotOfOtherSequence { logit_row, expected, found }.into());
        }
        let reported = row.choice.num_reported(row.logprobs);
        at_most("most likely tokens to report", REPORTED_TOKENS_MAX.into(), reported.into())?;
        match row.choice {
            Choice::Forced(id) => below("token id", vocab_size, id.0)?,
            Choice::Candidates { .. } if row.logprobs.is_some() => {
                return Err(MalformedError::LogprobsOfCandidates { logit_row }.into());
            }
            _ => {}
        }
    }
    match rows.windows(2).find(|rows| rows[0].logit_row >= rows[1].logit_row) {
        Some(rows) => Err(MalformedError::SampleRowsOutOfOrder { logit_row: rows[1].logit_row }.into()),
        None => Ok(()),
    }
}

/// Checks block copies, which have no order among themselves: what one of them writes, no other touches.
pub(super) fn check_copies(copies: &[BlockCopy], limits: &Limits) -> Result<(), DeviceError> {
    let ids = copies.iter().flat_map(|copy| [copy.from, copy.to]);
    ids.clone().try_for_each(|block| below("block id", limits.num_blocks, block.0))?;
    let mut targets: Vec<BlockId> = copies.iter().map(|copy| copy.to).collect();
    let twice = first_repeated(&mut targets);
    let read = || copies.iter().map(|copy| copy.from).find(|from| targets.binary_search(from).is_ok());
    match twice.or_else(read) {
        Some(block) => Err(MalformedError::CopiesOverlap { block }.into()),
        None => Ok(()),
    }
}

/// Sorts, and finds what is there twice.
fn first_repeated<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}
