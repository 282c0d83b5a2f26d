//! A model file, a tokenizer, a device and an engine put together: what commands and servers stand on.

mod capacity;
mod generate;
mod loaded;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::Path;

use crate::device::KvCacheDType;
use crate::engine::{Engine, EngineError};
use crate::ids::{SeqId, TokenId};
use crate::model::{ModelSpec, Program};
use crate::tokenizer::{ChatTemplate, Tokenizer, TokenizerError};
use crate::weights::WeightsError;

pub use crate::device::{DeviceChoice, OpenDevice};
use capacity::{SequenceNeed, limits_of};
pub use generate::{Answers, CHOICES_MAX, GenerateRequest, Generation, Output, RequestId, TextDelta, TokenLogprob};
pub use loaded::{LoadedModel, OnProgress, Progress};

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
    pub kv_cache_dtype: KvCacheDType,
    /// Answers, and beams. Each has the whole context.
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
            kv_cache_dtype: KvCacheDType::F16,
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
    /// Requests under way, and the sequences that are theirs.
    open: BTreeMap<RequestId, generate::Open>,
    by_seq: HashMap<SeqId, RequestId>,
    next_request: u64,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    Stop,
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
        let limits = limits_of(
            SequenceNeed::of(&spec, options.kv_cache_dtype),
            options,
            device.room_bytes(loaded.tensor_bytes())?,
        )?;
        let device = loaded.prepare(&Program::of(&spec), device, &limits, on_progress)?;
        let engine = Engine::new(device, spec.vocab_size, tokenizer.end_ids().to_vec());
        let (open, by_seq) = (BTreeMap::new(), HashMap::new());
        Ok(Runtime { tokenizer, chat_template, spec, engine, open, by_seq, next_request: 0 })
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

    /// Generates what one request asks for, telling `on` about every token as it comes. Nothing else may be under way.
    pub fn generate(
        &mut self,
        request: GenerateRequest,
        on: &mut dyn FnMut(&TextDelta) -> Control,
    ) -> Result<Vec<Generation>, RuntimeError> {
        if !self.engine.is_idle() {
            return Err(EngineError::Busy.into());
        }
        let id = self.add(request)?;
        let mut answers = None;
        // Steps that an ended sequence left in flight are collected, too.
        while answers.is_none() || !self.engine.is_idle() {
            for output in self.step()? {
                match output {
                    Output::Delta(delta) => {
                        if on(&delta) == Control::Stop {
                            self.cancel(id);
                        }
                    }
                    Output::Done { result, .. } => answers = Some(result),
                }
            }
        }
        Ok(answers.unwrap_or(Ok(Vec::new()))?)
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
}

/// A seed nobody chose, from the system's randomness.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // JSON numbers are exact up to 2^53.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}
