//! kiln generates text with large language models: hand-written kernels, a small runtime, no machine-learning
//! framework in between. `ARCHITECTURE.md` is the map of this crate.

pub mod device;
pub mod engine;
pub mod ids;
pub mod kv;
pub mod model;
pub mod runtime;
pub mod sampling;
pub mod text;
pub mod tokenizer;
pub mod weights;
