//! What comes of a sequence, as numbers: its tokens, why it ended, and what it took.

use serde::{Serialize, Serializer};

use super::beam::Hypothesis;
use crate::device::BadRow;
use crate::ids::{SeqId, TokenId};

/// Why an output ended. Decided once: by the engine for tokens, lengths and cancelling, by the text layer for stop strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the model's own end-of-sequence tokens.
    EndOfSequence,
    /// One of the request's `stop_token_ids`.
    StopToken,
    /// The request's stop string of this index. The engine knows no strings and never says so.
    StopString(usize),
    /// `max_tokens` or the context's end.
    Length,
    /// The caller took it back.
    Cancelled,
}

impl FinishReason {
    /// The name that interfaces know: `stop`, `length` or `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::EndOfSequence | FinishReason::StopToken | FinishReason::StopString(_) => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }

    /// Whether the output's last token only ends it, and adds no text.
    pub fn is_by_token(self) -> bool {
        matches!(self, FinishReason::EndOfSequence | FinishReason::StopToken)
    }
}

impl Serialize for FinishReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What happened to a sequence in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One more output token, and whether the sequence ends with it. Beams have none: their tokens are known at the end.
    Token { seq: SeqId, id: TokenId, logprob: Option<f32>, top: Vec<(TokenId, f32)>, ends: Option<FinishReason> },
    /// What a beam search found, best first, at least one.
    Found { seq: SeqId, results: Vec<Hypothesis> },
    /// The sequence's last event.
    Finished { seq: SeqId, reason: FinishReason, metrics: SequenceMetrics },
    /// The sequence's last event: its logits were unusable.
    Failed { seq: SeqId, error: BadRow },
}

impl Event {
    /// The sequence that it happened to.
    pub fn seq(&self) -> SeqId {
        match *self {
            Event::Token { seq, .. }
            | Event::Found { seq, .. }
            | Event::Finished { seq, .. }
            | Event::Failed { seq, .. } => seq,
        }
    }

    /// Whether it is the sequence's last one.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Finished { .. } | Event::Failed { .. })
    }
}

/// The four numbers of a generation, and what they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SequenceMetrics {
    pub prompt_tokens: u32,
    /// Those whose rows were in the cache already.
    pub prompt_tokens_cached: u32,
    /// With beams, those of the longest.
    pub output_tokens: u32,
    /// From the request's arrival to its first token.
    pub time_to_first_token_ms: f64,
    /// Mean over the tokens after the first; 0 with fewer than two.
    pub time_per_output_token_ms: f64,
    /// Prompt tokens that were computed over the time from submission to the first token.
    pub prompt_tokens_per_s: f64,
    /// Output tokens after the first over their time.
    pub output_tokens_per_s: f64,
    /// Arrival to last token.
    pub total_ms: f64,
    pub context_tokens_used: u32,
    pub context_tokens_max: u32,
}
