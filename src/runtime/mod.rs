//! A model file, a tokenizer, a device and an engine put together: what commands and servers stand on.

mod capacity;
mod loaded;

use std::num::NonZeroU32;
use std::path::Path;

use serde::Serialize;

use crate::device::MemoryUse;
use crate::engine::{Engine, EngineError, Event, FinishReason, Request, SequenceMetrics};
use crate::ids::TokenId;
use crate::model::{ModelSpec, Program};
use crate::sampling::SamplingParams;
use crate::tokenizer::{ChatTemplate, Pushed, SpecialText, StopText, TextStream, Tokenizer, TokenizerError};
use crate::weights::WeightsError;

use capacity::{SequenceNeed, limits_of};
pub use loaded::{LoadedModel, OnProgress, OpenDevice, Progress};

/// What runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest device there is.
    #[default]
    Auto,
    /// A GPU of at least compute capability 8.0.
    Cuda,
    Cpu,
    Reference,
}

/// How many sequences may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    /// At most 1,024.
    Exactly(NonZeroU32),
    /// What a GPU has room for beside the weights; on the host within 4 GiB of cache. At most 64.
    AsManyAsFit,
}

/// How to open a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeOptions {
    pub device: DeviceChoice,
    /// Threads of a CPU device; all cores by default.
    pub threads: Option<u32>,
    /// Positions per sequence; the trained context by default, within 4 GiB of cache.
    pub context_tokens: Option<u32>,
    /// Each has the whole context.
    pub sequences: Sequences,
    /// Rows of one prefill step.
    pub step_rows_max: u32,
    /// Rows of one step with logits: 1 for generation, more to score.
    pub logit_rows_max: u32,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            device: DeviceChoice::Auto,
            threads: None,
            context_tokens: None,
            sequences: Sequences::Exactly(NonZeroU32::MIN),
            step_rows_max: 512,
            logit_rows_max: 1,
        }
    }
}

/// Why a model cannot be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the tokenizer has {tokenizer} tokens, the model {model}: the file does not fit together")]
    VocabularyMismatch { tokenizer: usize, model: u32 },
    #[error("the context needs {asked} tokens, at least 2 and at most {limit} are possible: change --ctx-size")]
    Context { asked: u32, limit: u32 },
    #[error("{asked} sequences at once were asked for, at most {limit} are possible: lower --parallel")]
    Sequences { asked: u32, limit: u32 },
}

/// A model ready to generate.
pub struct Runtime {
    tokenizer: Tokenizer,
    chat_template: Result<ChatTemplate, TokenizerError>,
    spec: ModelSpec,
    engine: Engine,
}

/// One piece of a generation as it comes.
#[derive(Clone, Debug, PartialEq)]
pub struct TextDelta<'a> {
    /// Text that is final: whole characters, past any possible stop string. May be empty.
    pub text: &'a str,
    pub id: TokenId,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    Stop,
}

/// A chosen token's log-probability and the best ones at its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    pub id: TokenId,
    pub logprob: f32,
    pub top: Vec<(TokenId, f32)>,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    pub prompt_ids: Vec<TokenId>,
    pub output_ids: Vec<TokenId>,
    pub text: String,
    pub finish_reason: FinishReason,
    /// One per output token, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// The seed that repeats this generation.
    pub seed: u64,
    pub timings: SequenceMetrics,
    pub memory: MemoryUse,
}

/// One position of a scored text.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    pub logprob: f32,
    pub top: Vec<(TokenId, f32)>,
}

impl Runtime {
    /// Opens `path`, prepares its program on a device and closes the file.
    pub fn open(path: &Path, options: &RuntimeOptions) -> Result<Runtime, RuntimeError> {
        Runtime::of(&LoadedModel::open(path)?, options, &|_| {})
    }

    /// Like `open`, of a file that is open, with a word about progress now and then.
    pub fn of(
        loaded: &LoadedModel,
        options: &RuntimeOptions,
        on_progress: &OnProgress<'_>,
    ) -> Result<Runtime, RuntimeError> {
        let metadata = loaded.file().metadata();
        let tokenizer = Tokenizer::from_metadata(metadata)?;
        // A missing or broken template matters only to those who ask for it.
        let chat_template = ChatTemplate::from_metadata(metadata, &tokenizer);
        let spec = loaded.spec().clone();
        if tokenizer.vocab_size() > spec.vocab_size as usize {
            return Err(RuntimeError::VocabularyMismatch { tokenizer: tokenizer.vocab_size(), model: spec.vocab_size });
        }
        let device = OpenDevice::open(options.device)?;
        let limits = limits_of(SequenceNeed::of(&spec), options, device.room_bytes(loaded.tensor_bytes())?)?;
        let device = loaded.prepare(&Program::of(&spec), device, &limits, on_progress)?;
        let engine = Engine::new(device, spec.vocab_size, tokenizer.end_ids().to_vec());
        Ok(Runtime { tokenizer, chat_template, spec, engine })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template, or why there is none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, &TokenizerError> {
        self.chat_template.as_ref()
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Generates from `prompt_ids`, telling `on` about every token as it comes.
    pub fn generate(
        &mut self,
        prompt_ids: &[TokenId],
        params: &SamplingParams,
        on: &mut dyn FnMut(&TextDelta<'_>) -> Control,
    ) -> Result<Generation, RuntimeError> {
        params.validate(self.spec.vocab_size).map_err(EngineError::from)?;
        let seed = params.seed.unwrap_or_else(fresh_seed);
        let request = Request::new(prompt_ids.to_vec(), params.clone(), seed);
        let mut stream = TextStream::new(
            &self.tokenizer,
            params.stop.clone(),
            StopText::Exclude,
            SpecialText::Skip,
            params.min_tokens,
        )?;
        let seq = self.engine.add(request)?;
        let mut out = Collected::default();
        let mut stopped = false;
        let (reason, timings) = 'steps: loop {
            for event in self.engine.step()? {
                match event {
                    Event::Token { id, logprob, top, .. } if !stopped => {
                        let ends = self.tokenizer.is_end(id) || params.stop_token_ids.contains(&id);
                        out.add(id, logprob, top);
                        let pushed = if ends { Pushed::default() } else { stream.push(id) };
                        out.text.push_str(&pushed.text);
                        let control = on(&TextDelta { text: &pushed.text, id });
                        if pushed.stopped.is_some() || control == Control::Stop {
                            stopped = true;
                            self.engine.cancel(seq);
                        }
                    }
                    // A token that came after the stop string.
                    Event::Token { .. } | Event::Found { .. } => {}
                    Event::Finished { reason, metrics, .. } => break 'steps (reason, metrics),
                    Event::Failed { error, .. } => {
                        self.drain()?;
                        return Err(EngineError::BadRow(error).into());
                    }
                }
            }
        };
        self.drain()?;
        let finish_reason = if stopped { FinishReason::Stop } else { reason };
        if !stopped {
            let rest = stream.finish();
            if let (false, Some(&id)) = (rest.is_empty(), out.output_ids.last()) {
                on(&TextDelta { text: &rest, id });
            }
            out.text.push_str(&rest);
        }
        Ok(Generation {
            prompt_ids: prompt_ids.to_vec(),
            output_ids: out.output_ids,
            text: out.text,
            finish_reason,
            logprobs: params.logprobs.map(|_| out.logprobs),
            seed,
            timings,
            memory: self.engine.memory(),
        })
    }

    /// Teacher forcing: every id's log-probability given those before it, with the `top_n` best at its place; nothing for
    /// the first.
    pub fn score(&mut self, ids: &[TokenId], top_n: u32) -> Result<Vec<Option<ScoredToken>>, RuntimeError> {
        let scored = self.engine.score(ids, top_n)?;
        let token = |sampled: crate::device::Sampled| ScoredToken {
            logprob: sampled.logprob.unwrap_or(f32::NAN),
            top: sampled.top,
        };
        Ok(scored.into_iter().map(|sampled| sampled.map(token)).collect())
    }

    /// Collects steps that a stopped sequence left in flight.
    fn drain(&mut self) -> Result<(), RuntimeError> {
        while !self.engine.is_idle() {
            self.engine.step()?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Collected {
    output_ids: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    text: String,
}

impl Collected {
    fn add(&mut self, id: TokenId, logprob: Option<f32>, top: Vec<(TokenId, f32)>) {
        self.output_ids.push(id);
        if let Some(logprob) = logprob {
            self.logprobs.push(TokenLogprob { id, logprob, top });
        }
    }
}

/// A seed nobody chose, from the system's randomness.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // JSON numbers are exact up to 2^53.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}
