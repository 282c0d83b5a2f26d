//! The order of a device's calls: what was submitted, sampled and collected, and what may come next.

use crate::device::sampler::{Choice, SampleRow};
use crate::device::{Batch, BlockCopy, Checkpoint, DeviceError, InputToken, Limits, OrderError};
use crate::ids::SlotId;

use super::check::{check_copies, check_sample_rows};

/// Stands before every call of a device: refuses it with a typed error and changes nothing, or takes note of it.
#[derive(Debug)]
pub struct CallOrder {
    limits: Limits,
    vocab_size: u32,
    steps_max: usize,
    /// Steps submitted and not collected.
    steps: usize,
    last: LastStep,
    /// Whether something was sampled for the slot since it started, or came with its start.
    has_token: Vec<bool>,
    has_collected: bool,
}

/// The step that was submitted last, while nothing came after it but its `sample`.
#[derive(Debug)]
enum LastStep {
    None,
    /// With the slots of its logit rows.
    Submitted(Vec<SlotId>),
    Sampled,
}

impl CallOrder {
    /// For a device of these limits that takes `steps_max` steps before the first is collected.
    pub fn new(limits: &Limits, vocab_size: u32, steps_max: usize) -> CallOrder {
        CallOrder {
            limits: limits.clone(),
            vocab_size,
            steps_max,
            steps: 0,
            last: LastStep::None,
            has_token: vec![false; limits.slots_max as usize],
            has_collected: false,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    pub fn steps_max(&self) -> usize {
        self.steps_max
    }

    /// Before a step is queued.
    pub fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        if self.steps >= self.steps_max {
            return Err(OrderError::TooManySteps { limit: self.steps_max }.into());
        }
        batch.check(&self.limits, self.vocab_size)?;
        self.check_last_sampled(batch)?;
        for start in &batch.starts {
            self.has_token[start.slot.index()] = !start.output_ids.is_empty();
        }
        self.steps += 1;
        self.last = LastStep::Submitted(batch.logit_row_slots());
        Ok(())
    }

    fn check_last_sampled(&self, batch: &Batch) -> Result<(), OrderError> {
        let has_token = |slot: SlotId| match batch.starts.iter().find(|start| start.slot == slot) {
            Some(start) => !start.output_ids.is_empty(),
            None => self.has_token[slot.index()],
        };
        let asks = batch.seqs.iter().filter(|seq| seq.tokens.contains(&InputToken::LastSampled));
        match asks.map(|seq| seq.slot).find(|&slot| !has_token(slot)) {
            Some(slot) => Err(OrderError::NothingSampled { slot }),
            None => Ok(()),
        }
    }

    /// Before tokens are chosen for the step that was just submitted.
    pub fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        let slots = match &self.last {
            LastStep::Submitted(slots) => slots,
            LastStep::Sampled => return Err(OrderError::SampledTwice.into()),
            LastStep::None => return Err(OrderError::NothingToSample.into()),
        };
        check_sample_rows(rows, slots, &self.limits, self.vocab_size)?;
        for row in rows.iter().filter(|row| !matches!(row.choice, Choice::Candidates { .. })) {
            self.has_token[row.slot.index()] = true;
        }
        self.last = LastStep::Sampled;
        Ok(())
    }

    /// Before the oldest step is waited for.
    pub fn collect(&mut self) -> Result<(), DeviceError> {
        if self.steps == 0 {
            return Err(OrderError::NothingInFlight.into());
        }
        self.steps -= 1;
        self.last = LastStep::None;
        self.has_collected = true;
        Ok(())
    }

    /// Before blocks are copied. Whether steps are in flight, behind which the copies belong.
    pub fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<bool, DeviceError> {
        check_copies(copies, &self.limits)?;
        self.last = LastStep::None;
        Ok(self.steps > 0)
    }

    /// Before a checkpoint is read.
    pub fn read(&self, checkpoint: Checkpoint) -> Result<(), DeviceError> {
        self.check_idle()?;
        if self.has_collected { Ok(()) } else { Err(DeviceError::NoCheckpoint(checkpoint)) }
    }

    /// Before a checkpoint is written.
    pub fn write(&self, batch: &Batch) -> Result<(), DeviceError> {
        self.check_idle()?;
        batch.check(&self.limits, self.vocab_size)
    }

    fn check_idle(&self) -> Result<(), OrderError> {
        if self.steps > 0 { Err(OrderError::StepsInFlight { steps: self.steps }) } else { Ok(()) }
    }
}
