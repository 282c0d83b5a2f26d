//! The exact, order-free sampler on the host: what `reference` and `cpu` run and what the GPU's must equal bit for bit.

use crate::ids::{SlotId, TokenId};

/// How one logit row becomes a token. Plain numbers; policy lives in `sampling`.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// Index among the batch's logit rows.
    pub logit_row: u32,
    /// Whose counts, biases and masks apply, and whose last sampled token this becomes.
    pub slot: SlotId,
    pub choice: Choice,
    /// Subtracted once from tokens generated before (and of the prompt, see `penalise_prompt`).
    pub presence_penalty: f32,
    /// Subtracted per occurrence.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Whether presence and frequency count prompt tokens too.
    pub penalise_prompt: bool,
    /// Whether the slot's `ids_masked_before_min` are masked.
    pub before_min_length: bool,
    /// How many of the most likely tokens to report; `None` reports no log-probabilities at all.
    pub logprobs: Option<u32>,
}

/// The choice among the processed logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The largest logit; the lower id wins ties.
    Greedy,
    /// Temperature → top-k (0 = off) → top-p (Q32: `2^32` keeps everything) → min-p → draw keyed by
    /// (seed, choice, output index).
    Draw { temperature: f32, top_k: u32, top_p_q32: u64, min_p: f32, seed: u64, choice_index: u32, output_index: u32 },
    /// This token, whatever the logits say: teacher forcing.
    Forced(TokenId),
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub slot: SlotId,
    /// `Err` if the raw logits held NaN or ±Inf, or everything was masked.
    pub token: Result<TokenId, BadRow>,
    /// Natural log-probability of the chosen token under the model's own distribution; present if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens of that distribution with their log-probabilities, best first, lower id first on ties.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a row gives no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    #[error("the model's logits hold NaN or infinity")]
    NotFinite,
    #[error("every token is masked")]
    AllMasked,
}
#[derive(Debug)]
pub struct HostSampler;
impl HostSampler {
    pub fn new(_s: u32, _v: u32) -> Self {
        HostSampler
    }
    pub fn start(&mut self, _: &super::SlotStart) {}
    pub fn sample(&mut self, _l: &[f32], _r: &SampleRow) -> Sampled {
        todo!()
    }
    pub fn last_sampled(&self, _s: SlotId) -> Option<TokenId> {
        None
    }
}
