//! Which errors are one request's, and which end the runtime.

use super::RuntimeError;
use crate::engine::EngineError;
use crate::text::Refusal;

impl RuntimeError {
    /// What the request's client is told.
    ///
    /// # Errors
    /// The error itself where it ends the runtime.
    pub fn into_refusal(self) -> Result<Refusal, RuntimeError> {
        let bad_request = |param, code| Refusal { status: 400, message: self.to_string(), param, code };
        Ok(match &self {
            RuntimeError::Tokenizer(_) => bad_request(None, None),
            RuntimeError::Engine(error) => match error {
                EngineError::Param(param) => bad_request(Some(param.name.to_owned()), None),
                EngineError::PromptTooLong { .. } => bad_request(None, Some("context_length_exceeded")),
                EngineError::EmptyPrompt
                | EngineError::UnknownToken { .. }
                | EngineError::NeverFits { .. }
                | EngineError::TooManyBeams { .. }
                | EngineError::Busy => bad_request(None, None),
                EngineError::BadRow(_) => Refusal { status: 500, ..bad_request(None, None) },
                EngineError::Lost { .. } | EngineError::Device(_) | EngineError::Broken | EngineError::Stopped => {
                    return Err(self);
                }
            },
            _ => return Err(self),
        })
    }
}
