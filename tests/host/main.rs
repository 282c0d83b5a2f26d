//! Files, text, requests and commands, in one program. A file beside this one needs its line here.
#![allow(clippy::unwrap_used)] // A panic is how a test fails, also in its helpers.

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod cli;
mod openai_requests;
mod tokenizer_chat;
mod tokenizer_default_model;
mod tokenizer_goldens;
mod tokenizer_provenance;
mod tokenizer_stream;
mod weights_dequant;
mod weights_gguf;
