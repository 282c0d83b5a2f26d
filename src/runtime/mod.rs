//! A model file, its text side, a device and an engine put together: what commands and servers stand on.

mod capacity;
mod generate;
mod host;
mod loaded;
mod refusal;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use crate::device::KvCacheDType;
use crate::engine::{Engine, EngineError, EngineFacts};
use crate::ids::TokenId;
use crate::model::{ModelSpec, Program};
use crate::text::TextModel;
use crate::tokenizer::{ParseSpecial, TokenizerError};
use crate::weights::WeightsError;

pub use crate::device::{DeviceChoice, OpenDevice};
pub use capacity::CachePlan;
use capacity::{SequenceNeed, limits_of};
pub use generate::{Control, Generating};
pub use host::{Delivery, EngineHandle, Events, Ticket};
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
    /// A chat template in place of the model's own.
    pub chat_template: Option<String>,
    /// Whether texts of messages may become control tokens.
    pub parse_special: ParseSpecial,
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
            chat_template: None,
            parse_special: ParseSpecial::No,
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
    /// The device failed, and with it all requests under way.
    #[error(transparent)]
    Shared(#[from] Arc<EngineError>),
    #[error("a context of {asked} tokens: at least 2 and at most {limit} are possible")]
    Context { asked: u64, limit: u32 },
    #[error("{asked} sequences at once: at most {limit} are possible")]
    Sequences { asked: u64, limit: u32 },
    #[error("the system gives no thread for the engine: {0}")]
    Thread(std::io::Error),
}

impl RuntimeError {
    /// The engine's error in it.
    pub fn engine_error(&self) -> Option<&EngineError> {
        match self {
            RuntimeError::Engine(error) => Some(error),
            RuntimeError::Shared(error) => Some(error),
            _ => None,
        }
    }
}

/// A model ready to generate. Cheap to clone: clones share everything.
#[derive(Clone, Debug)]
pub struct Runtime {
    text: Arc<TextModel>,
    spec: Arc<ModelSpec>,
    engine: EngineHandle,
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
        let mut text = TextModel::from_metadata(loaded.file().metadata())?;
        if let Some(source) = &options.chat_template {
            text = text.with_chat_template(source)?;
        }
        let text = text.with_special_in_texts(options.parse_special);
        let spec = loaded.spec().clone();
        let device = OpenDevice::open(options.device)?;
        let limits = limits_of(
            SequenceNeed::of(&spec, options.kv_cache_dtype),
            options,
            device.room_bytes(loaded.tensor_bytes())?,
        )?;
        let device = loaded.prepare(&Program::of(&spec), device, &limits, on_progress)?;
        let engine = Engine::new(device, spec.vocab_size, text.tokenizer().end_ids().to_vec());
        let engine = EngineHandle::spawn(engine).map_err(RuntimeError::Thread)?;
        Ok(Runtime { text: Arc::new(text), spec: Arc::new(spec), engine })
    }

    /// The text side, which needs no engine.
    pub fn text(&self) -> &Arc<TextModel> {
        &self.text
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The engine, on its thread.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// What the engine is and can.
    pub fn facts(&self) -> &EngineFacts {
        self.engine.facts()
    }

    /// Teacher forcing: every id's log-probability given those before it, with the `top_n` best at its place; nothing for
    /// the first.
    pub fn score(&self, ids: &[TokenId], top_n: u32) -> Result<Vec<Option<ScoredToken>>, RuntimeError> {
        let scored = self.engine.score(ids.to_vec(), top_n)?;
        let token = |sampled: crate::device::Sampled| ScoredToken {
            logprob: sampled.logprob.unwrap_or(f32::NAN),
            top: sampled.top,
        };
        Ok(scored.into_iter().map(|sampled| sampled.map(token)).collect())
    }
}
