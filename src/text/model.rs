//! What of a model is about text.

use super::Conversation;
use crate::ids::TokenId;
use crate::tokenizer::{
    ChatInput, ChatTemplate, EncodeOptions, GenerationPrompt, ParseSpecial, Tokenizer, TokenizerError,
};
use crate::weights::Metadata;

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    chat_template: Result<ChatTemplate, TokenizerError>,
    /// Of conversations: whether their texts may become control tokens.
    parse_special: ParseSpecial,
}

impl TextModel {
    /// What a GGUF file's metadata says of text. A missing or broken chat template is an error only for requests that need it.
    ///
    /// # Errors
    /// A tokenizer that is missing, broken or unknown.
    pub fn from_metadata(metadata: &Metadata) -> Result<TextModel, TokenizerError> {
        let tokenizer = Tokenizer::from_metadata(metadata)?;
        let chat_template = ChatTemplate::from_metadata(metadata, &tokenizer);
        Ok(TextModel { tokenizer, chat_template, parse_special: ParseSpecial::No })
    }

    /// The same model with another chat template.
    ///
    /// # Errors
    /// A template that is not valid.
    pub fn with_chat_template(self, source: &str) -> Result<TextModel, TokenizerError> {
        let chat_template = ChatTemplate::new(source, &self.tokenizer)?;
        Ok(TextModel { chat_template: Ok(chat_template), ..self })
    }

    /// The same model, in whose conversations the texts of messages may become control tokens, or not.
    pub fn with_special_in_texts(self, parse_special: ParseSpecial) -> TextModel {
        TextModel { parse_special, ..self }
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, or why there is none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, &TokenizerError> {
        self.chat_template.as_ref()
    }

    /// The ids of the prompt that a chat template, this model's own or another, makes of a conversation.
    ///
    /// # Errors
    /// What the template refuses, and templates that exceed a limit.
    pub fn chat_prompt(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let generation =
            if conversation.omits_generation_prompt { GenerationPrompt::Omit } else { GenerationPrompt::Add };
        let rendered = template.render(&ChatInput {
            messages: &conversation.messages,
            tools: conversation.tools.as_ref(),
            documents: conversation.documents.as_ref(),
            variables: Some(&conversation.variables),
            generation,
        })?;
        match self.parse_special {
            ParseSpecial::No => self.tokenizer.encode_template(&rendered.text, &rendered.own),
            ParseSpecial::Yes => self.tokenizer.encode(&rendered.text, EncodeOptions::PROMPT),
        }
    }
}
