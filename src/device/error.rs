//! What can go wrong on a device, for programs to look at. Which flag of which command helps is for those who own the flags to say.

use crate::ids::{BlockId, SlotId};
use crate::weights::WeightsError;

use super::Checkpoint;

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A number in a batch, a sample row or a copy that is beyond what the device was prepared for.
    #[error("{what}: at most {limit}, asked for {asked}")]
    Limit { what: &'static str, limit: u64, asked: u64 },
    /// A call at the wrong time.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A batch, sample rows or copies that contradict themselves.
    #[error(transparent)]
    Malformed(#[from] MalformedError),
    /// The host or the GPU gave no memory.
    #[error("{purpose} take {}, {}: {reason}", Bytes(*asked_bytes), Free(*free_bytes))]
    OutOfMemory {
        purpose: Purpose,
        asked_bytes: u64,
        /// What was free then, if that is known: less than was asked for, or in too small pieces.
        free_bytes: Option<u64>,
        reason: String,
    },
    /// The system started fewer threads than were asked for.
    #[error("{asked} threads were asked for, and the system gave {started}: {reason}")]
    Threads { asked: u32, started: u32, reason: String },
    /// The device cannot run this program.
    #[error("{subject}: expected {expected}, found {found}")]
    Unsupported { subject: String, expected: String, found: String },
    /// There is no GPU to use.
    #[error("no GPU: {reason}")]
    NoGpu { reason: String },
    /// The CUDA driver failed.
    #[error("CUDA: {operation}: {message} ({name})")]
    Cuda { operation: &'static str, name: String, message: String },
    /// The CUDA driver failed in a way that ends its context: every later call fails too.
    #[error("CUDA: {operation}: {message} ({name}); the GPU does no more work for this process: start kiln again")]
    Lost { operation: &'static str, name: String, message: String },
    /// A checkpoint that the last step did not produce.
    #[error("checkpoint {0:?} is not available: the last step did not compute it")]
    NoCheckpoint(Checkpoint),
}

/// A call that does not fit what was called before. It did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("sample: expected a call right after the step's submit, found no step that was just submitted")]
    NothingToSample,
    #[error("sample: expected one call for each step, found a second one")]
    SampledTwice,
    #[error("submit: expected at most {limit} steps that were not collected, found one more")]
    TooManySteps { limit: usize },
    #[error("collect: expected a submitted step, found none")]
    NothingInFlight,
    #[error("reading and writing checkpoints: expected no step in flight, found {steps}")]
    StepsInFlight { steps: usize },
    #[error("slot {slot}: its last sampled token is an input, but nothing was sampled for it since it started")]
    NothingSampled { slot: SlotId },
}

/// Something that no device could do as it was asked for. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedError {
    #[error("the batch has no sequences")]
    EmptyBatch,
    #[error("sequence {seq} of the batch has no rows")]
    EmptySequence { seq: usize },
    #[error("slot {slot} starts twice in one batch")]
    SlotStartsTwice { slot: SlotId },
    #[error("logit rows of sequence {seq} of the batch: expected ascending numbers, found {row} too late")]
    LogitRowsOutOfOrder { seq: usize, row: u32 },
    #[error("block {block} is written for two positions of one batch")]
    BlockWrittenTwice { block: BlockId },
    #[error("sample rows: expected ascending logit rows, found {logit_row} too late")]
    SampleRowsOutOfOrder { logit_row: u32 },
    #[error("sample row of logit row {logit_row}: expected its sequence's slot {expected}, found {found}")]
    SlotOfOtherSequence { logit_row: u32, expected: SlotId, found: SlotId },
    #[error("sample row of logit row {logit_row}: candidates come with their scores, expected no log-probabilities")]
    LogprobsOfCandidates { logit_row: u32 },
    #[error("copies: expected block {block}, which one of them writes, in no other and not as its own source")]
    CopiesOverlap { block: BlockId },
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Weights,
    /// Pinned buffers that weights pass through.
    WeightStaging,
    KvArena,
    /// What stages hand to each other.
    Workspace,
    RopeTables,
    /// What changes from step to step.
    StepInputs,
    /// Counts, masks and biases of all slots.
    Slots,
    /// What the sampler works in, and its results.
    Sampler,
    BlockCopies,
}

/// What a user can choose less of, so that less memory is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The model: a smaller one, or a smaller format.
    Model,
    /// Positions of a sequence.
    Context,
    /// Sequences at once.
    Sequences,
    /// Rows of one step.
    StepRows,
    /// Rows of one step with logits.
    LogitRows,
    Threads,
}

impl Purpose {
    /// What its bytes grow with, most first.
    pub fn grows_with(self) -> &'static [Dimension] {
        use Dimension::*;
        match self {
            Purpose::Weights | Purpose::WeightStaging => &[Model],
            Purpose::KvArena => &[Context, Sequences],
            Purpose::Workspace => &[StepRows, LogitRows, Threads],
            Purpose::RopeTables => &[Context],
            Purpose::StepInputs => &[StepRows, Sequences, Context],
            Purpose::Slots => &[Sequences],
            Purpose::Sampler => &[Sequences, LogitRows],
            Purpose::BlockCopies => &[],
        }
    }

    /// For messages, in the plural.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Weights => "the weights",
            Purpose::WeightStaging => "buffers for loading weights",
            Purpose::KvArena => "keys and values of all sequences",
            Purpose::Workspace => "the rows of a step",
            Purpose::RopeTables => "the tables of positions",
            Purpose::StepInputs => "the inputs of a step",
            Purpose::Slots => "the token counts of all sequences",
            Purpose::Sampler => "the sampler's buffers",
            Purpose::BlockCopies => "copies of cache blocks",
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes as people read them.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1 << 10 {
            return write!(f, "{} bytes", self.0);
        }
        let unit = ((63 - self.0.leading_zeros()) / 10).min(UNITS.len() as u32);
        write!(f, "{:.1} {}", self.0 as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit as usize - 1])
    }
}

struct Free(Option<u64>);

impl std::fmt::Display for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{} are free", Bytes(bytes)),
            None => f.write_str("more than there is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_short_is_told_in_numbers() {
        let error = |asked_bytes, free_bytes| DeviceError::OutOfMemory {
            purpose: Purpose::KvArena,
            asked_bytes,
            free_bytes,
            reason: "Cannot allocate memory".into(),
        };
        assert_eq!(
            error(3 << 40, Some(1536 << 20)).to_string(),
            "keys and values of all sequences take 3.0 TiB, 1.5 GiB are free: Cannot allocate memory"
        );
        assert!(error(1000, None).to_string().contains("take 1000 bytes, more than there is"));
        assert_eq!([Bytes(1023).to_string(), Bytes(1024).to_string()], ["1023 bytes", "1.0 KiB"]);
        assert_eq!(Bytes(u64::MAX).to_string(), "16384.0 PiB");
    }
}
