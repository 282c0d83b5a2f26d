//! A model's chat template: messages to the prompt that it was trained on.
//!
//! Templates are programs in files that strangers made. [`sandbox`] holds what keeps a hostile one from taking more than
//! a moment and a few megabytes.

mod budget;
mod functions;
mod sandbox;

use super::{Tokenizer, TokenizerError};
use crate::weights::Metadata;
use minijinja::Value;
use serde::{Deserialize, Serialize};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// Whether the prompt ends with the beginning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    Add,
    Omit,
}

/// A chat template in Jinja, as Hugging Face's transformers run it: blocks trimmed, `raise_exception`, `strftime_now`
/// (in UTC), `tojson` without HTML escapes, Python's methods of strings and dictionaries.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

const KEY: &str = "tokenizer.chat_template";

impl ChatTemplate {
    /// The template of a GGUF file.
    ///
    /// # Errors
    /// A file without one ([`TokenizerError::NoChatTemplate`]: there is no guessing, since a model answers badly in
    /// another model's format), or one that is not valid Jinja.
    pub fn from_metadata(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<ChatTemplate, TokenizerError> {
        let source = metadata.opt_str(KEY)?.ok_or(TokenizerError::NoChatTemplate { key: KEY })?;
        ChatTemplate::new(source, tokenizer)
    }

    /// A template from its source.
    ///
    /// # Errors
    /// A source that is not valid Jinja, or longer than 1 MiB.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TokenizerError> {
        sandbox::check(source)?;
        let text = |id| tokenizer.token_text(id).unwrap_or_default().to_owned();
        Ok(ChatTemplate {
            source: source.to_owned(),
            bos: tokenizer.bos().map(text).unwrap_or_default(),
            eos: tokenizer.eos().map(text).unwrap_or_default(),
        })
    }

    /// Whether the template reads a variable that it does not set itself.
    pub fn reads(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// What the template calls an earlier turn's reasoning, if it reads it.
    pub fn reasoning_name(&self) -> Option<&'static str> {
        ["reasoning_content", "thinking", "reasoning"].into_iter().find(|name| self.source.contains(name))
    }

    /// The prompt for `messages`, to be encoded with [`super::EncodeOptions::PROMPT`].
    ///
    /// # Errors
    /// What the template refuses, for instance an order of roles, and templates that exceed a limit.
    pub fn render(&self, messages: &[Message], generation: GenerationPrompt) -> Result<String, TokenizerError> {
        const MESSAGE_BYTES: usize = size_of::<Message>();
        let bytes_of = |message: &Message| MESSAGE_BYTES + message.role.len() + message.content.len();
        let input_bytes = messages.iter().map(bytes_of).sum();
        let context = Value::from_iter([
            ("messages", Value::from_serialize(messages)),
            ("add_generation_prompt", Value::from(generation == GenerationPrompt::Add)),
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
        ]);
        sandbox::render(&self.source, context, input_bytes)
    }
}
