//! What an engine takes. All that a request is checked against is constant, so any thread can check one; the engine takes only what
//! has been checked.

use crate::device::{Limits, MemoryUse};
use crate::ids::TokenId;
use crate::kv::blocks_for_lanes;
use crate::sampling::{Answers, GenerateRequest, SamplingParams};

use super::{EngineError, Request};

/// What an engine is and can: constant for its life.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    /// A short name for people, such as `cpu (AVX-512 VNNI, 2 threads)`.
    pub device_name: String,
    pub limits: Limits,
    /// What the device holds.
    pub memory: MemoryUse,
    pub vocab_size: u32,
    /// Ids that end a sequence, unless its request ignores them.
    pub end_ids: Vec<TokenId>,
}

/// A sequence that was checked: an engine with these facts can run it to its end.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub(super) request: Request,
    /// Output tokens at most, from the request and the context.
    pub(super) max_tokens: u32,
}

/// All sequences of one request.
#[derive(Clone, Debug)]
pub struct AdmittedRequest {
    /// The `i`-th is answer `i`; a beam search is one sequence.
    pub sequences: Vec<Admitted>,
    /// The seed that repeats the draws.
    pub seed: u64,
}

impl EngineFacts {
    /// Positions that one sequence can hold.
    pub fn context_tokens_max(&self) -> u32 {
        self.limits.context_tokens_max
    }

    /// Checks a request and makes its sequences.
    ///
    /// # Errors
    /// Parameters out of their range, and what limits or the cache can never hold, with the numbers.
    pub fn admit(&self, request: &GenerateRequest) -> Result<AdmittedRequest, EngineError> {
        request.answers.validate()?;
        let seed = request.params.seed.unwrap_or_else(fresh_seed);
        let mut sequence = Request::new(request.prompt_ids.clone(), request.params.clone(), seed);
        if request.answers.are_ranked() {
            sequence.params.logprobs.get_or_insert(0);
        }
        let num_sequences = match &request.answers {
            Answers::Sampled { best_of, .. } => *best_of,
            Answers::Beams(beams) => {
                sequence.beams = Some(beams.clone());
                1
            }
        };
        // They differ in their draws only.
        let Admitted { request, max_tokens } = self.admit_sequence(sequence)?;
        let answer = |choice_index| Admitted { request: Request { choice_index, ..request.clone() }, max_tokens };
        Ok(AdmittedRequest { sequences: (0..num_sequences).map(answer).collect(), seed })
    }

    /// Checks one sequence.
    ///
    /// # Errors
    /// As [`EngineFacts::admit`].
    pub fn admit_sequence(&self, request: Request) -> Result<Admitted, EngineError> {
        request.params.validate(self.vocab_size)?;
        self.check_ids(&request.prompt_ids)?;
        let n_ctx = self.context_tokens_max();
        let n_prompt_tokens = request.prompt_ids.len() as u32;
        if n_prompt_tokens >= n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt_tokens, n_prompt_tokens_max: n_ctx - 1 });
        }
        self.check_beams(&request)?;
        let Limits { num_blocks, block_tokens, .. } = self.limits;
        // The last token is sampled, not computed. A request that names no number of tokens gets what the context and the cache
        // hold; beams share the prompt's full blocks.
        let (lanes, shared) = (request.lanes_max(), n_prompt_tokens / block_tokens);
        let lane_blocks = shared + num_blocks.saturating_sub(shared) / lanes;
        let lane_tokens = u64::from(lane_blocks) * u64::from(block_tokens) + 1;
        let cache_left = lane_tokens.saturating_sub(u64::from(n_prompt_tokens)).max(1) as u32;
        let max_tokens = request.params.max_tokens.unwrap_or(cache_left).min(n_ctx - n_prompt_tokens);
        let positions = n_prompt_tokens + max_tokens.saturating_sub(1);
        let needed = blocks_for_lanes(block_tokens, lanes, n_prompt_tokens, positions);
        if needed > num_blocks {
            let blocks = num_blocks;
            return Err(EngineError::NeverFits { n_prompt_tokens, n_ctx, needed, blocks, block_tokens });
        }
        Ok(Admitted { request, max_tokens })
    }

    /// Checks ids that a device is to compute: at least one, all in the vocabulary.
    pub(super) fn check_ids(&self, ids: &[TokenId]) -> Result<(), EngineError> {
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        match ids.iter().find(|id| id.0 >= self.vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken { id, vocab_size: self.vocab_size }),
            None => Ok(()),
        }
    }

    /// Checks ids that are to be scored; how, with the `top_n` best told at each.
    pub(super) fn check_scored(&self, ids: &[TokenId], top_n: u32) -> Result<SamplingParams, EngineError> {
        self.check_ids(ids)?;
        let n_ctx = self.context_tokens_max();
        if ids.len() as u64 > u64::from(n_ctx) {
            return Err(EngineError::PromptTooLong { n_prompt_tokens: ids.len() as u32, n_prompt_tokens_max: n_ctx });
        }
        Ok(SamplingParams { logprobs: Some(top_n), ..SamplingParams::default() })
    }

    fn check_beams(&self, request: &Request) -> Result<(), EngineError> {
        let Some(beams) = &request.beams else { return Ok(()) };
        beams.validate(&request.params, request.ends(&self.end_ids).len())?;
        let Limits { slots_max, step_rows_max, logit_rows_max, .. } = self.limits;
        let (num_beams, most) = (beams.num_beams, slots_max.min(step_rows_max).min(logit_rows_max));
        if num_beams > most { Err(EngineError::TooManyBeams { num_beams, most }) } else { Ok(()) }
    }
}

/// A seed that no request chose, from the system's randomness.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // JSON numbers are exact up to 2^53.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}
