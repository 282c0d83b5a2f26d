//! What OpenAI's clients speak.

pub mod openai;
