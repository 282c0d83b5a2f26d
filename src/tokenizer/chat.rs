//! A model's chat template: messages to the prompt that it was trained on.
//!
//! The `jinja` crate runs templates; here is what transformers calls the variables that it gives them.

use super::{Tokenizer, TokenizerError};
use crate::weights::Metadata;
use jinja::{Instant, Template, Variable};
use serde_json::{Map, Value};
use std::sync::Arc;

pub use jinja::Rendered;

/// Whether the prompt ends with the beginning of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GenerationPrompt {
    #[default]
    Add,
    Omit,
}

/// What a chat template is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChatInput<'c> {
    /// Objects with a `role`, and whatever else the template reads, in the client's order.
    pub messages: &'c [Map<String, Value>],
    pub tools: Option<&'c Value>,
    pub documents: Option<&'c Value>,
    /// Further variables of the template.
    pub variables: Option<&'c Map<String, Value>>,
    pub generation: GenerationPrompt,
}

/// A chat template in Jinja, as Hugging Face's transformers run it.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: Arc<Template>,
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
    /// A source that is not valid Jinja, or longer than 1 MiB; the message names the line.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TokenizerError> {
        let text = |id| tokenizer.token_text(id).unwrap_or_default().to_owned();
        Ok(ChatTemplate {
            template: Arc::new(Template::compile(source).map_err(failure)?),
            bos: tokenizer.bos().map(text).unwrap_or_default(),
            eos: tokenizer.eos().map(text).unwrap_or_default(),
        })
    }

    /// Whether the template reads a variable that it does not set itself.
    pub fn reads(&self, name: &str) -> bool {
        self.template.reads().contains(name)
    }

    /// What the template calls an earlier turn's reasoning, if it reads it.
    pub fn reasoning_name(&self) -> Option<&'static str> {
        ["reasoning_content", "thinking", "reasoning"].into_iter().find(|name| self.template.reads_field(name))
    }

    /// The prompt, to be encoded with [`Tokenizer::encode_template`]. The template's own text, BOS and EOS may spell
    /// control tokens; nothing of `input` may.
    ///
    /// # Errors
    /// What the template refuses, for instance an order of roles, and templates that exceed a limit.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<Rendered, TokenizerError> {
        let add_generation_prompt = Value::Bool(input.generation == GenerationPrompt::Add);
        let further =
            input.variables.into_iter().flatten().map(|(name, value)| (name.as_str(), Variable::Input(value)));
        // transformers passes tools and documents that are not there as None. Of equal names the last one counts.
        let mut variables = vec![
            ("tools", Variable::Input(input.tools.unwrap_or(&Value::Null))),
            ("documents", Variable::Input(input.documents.unwrap_or(&Value::Null))),
        ];
        variables.extend(further);
        variables.extend([
            ("messages", Variable::Objects(input.messages)),
            ("add_generation_prompt", Variable::Input(&add_generation_prompt)),
            ("bos_token", Variable::Own(self.bos.as_str())),
            ("eos_token", Variable::Own(self.eos.as_str())),
        ]);
        self.template.render(&variables, Instant::now()).map_err(failure)
    }
}

fn failure(error: jinja::Error) -> TokenizerError {
    TokenizerError::Template(error.to_string())
}
