//! What can be wrong with a tokenizer, a text or a chat template.

use crate::weights::WeightsError;

/// A tokenizer or template that cannot be used, or text that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Metadata(#[from] WeightsError),
    /// `tokenizer.ggml.model` names an algorithm that kiln does not have.
    #[error("tokenizer.ggml.model: expected {expected}, found {found:?}; kiln has no other tokenizers yet")]
    UnknownModel { expected: &'static str, found: String },
    /// `tokenizer.ggml.pre` names a way of cutting text into words that kiln does not have.
    #[error("tokenizer.ggml.pre: expected one of {expected}, found {found:?}; ids would be wrong with any other")]
    UnknownPreTokenizer { expected: String, found: String },
    /// The vocabulary contradicts itself.
    #[error("{subject}: expected {expected}, found {found}")]
    Invalid { subject: String, expected: String, found: String },
    #[error("the text has {bytes} bytes, and at most {bytes_max} can be tokenised at once")]
    TextTooLong { bytes: usize, bytes_max: usize },
    /// A byte of the text for which a SentencePiece vocabulary has neither a byte token nor an unknown token.
    #[error("the vocabulary has no token for byte 0x{byte:02X}: expected {expected}")]
    NoByteToken { byte: u8, expected: String },
    /// A stop string that would match everywhere.
    #[error("stop string {index} is empty: expected at least one character")]
    EmptyStop { index: usize },
    #[error("the model has no chat template (metadata key {key}): expected one; give the prompt as raw text instead")]
    NoChatTemplate { key: &'static str },
    /// The chat template is not valid, refuses these messages (`raise_exception`), or exceeds a limit.
    #[error("chat template: {0}")]
    Template(String),
}

impl TokenizerError {
    pub(super) fn invalid(subject: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        TokenizerError::Invalid {
            subject: printable(&subject.to_string()),
            expected: printable(&expected.to_string()),
            found: printable(&found.to_string()),
        }
    }
}

/// Control characters of files shown escaped.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}
