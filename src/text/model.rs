//! What of a model is about text.

use crate::tokenizer::{ChatTemplate, Tokenizer, TokenizerError};
use crate::weights::Metadata;

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    chat_template: Result<ChatTemplate, TokenizerError>,
}

impl TextModel {
    /// What a GGUF file's metadata says of text. A missing or broken chat template is an error only for requests that need it.
    ///
    /// # Errors
    /// A tokenizer that is missing, broken or unknown.
    pub fn from_metadata(metadata: &Metadata) -> Result<TextModel, TokenizerError> {
        let tokenizer = Tokenizer::from_metadata(metadata)?;
        let chat_template = ChatTemplate::from_metadata(metadata, &tokenizer);
        Ok(TextModel { tokenizer, chat_template })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, or why there is none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, &TokenizerError> {
        self.chat_template.as_ref()
    }
}
