//! Requests and answers as text: what of a model is about text, how token events become answers, and OpenAI's bodies. Immutable after
//! loading and shared by all threads; knows no engine.

mod answers;
mod conversation;
pub mod json;
mod model;
pub mod openai;
mod refusal;

pub use answers::{AnswerCollector, Generation, Received, TextDelta, TokenLogprob};
pub use conversation::Conversation;
pub use model::TextModel;
pub use refusal::Refusal;
