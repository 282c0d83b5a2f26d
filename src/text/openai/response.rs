//! Answers as OpenAI's JSON.

use serde_json::{Value, json};

use crate::sampling::FinishReason;
use crate::text::Generation;
use crate::tokenizer::Tokenizer;

use super::{ApiRequest, Endpoint, logprobs};

/// The response to a request: `answers[p]` are those to prompt `p`. `id` names it, `created` is in seconds since 1970.
pub fn response(
    request: &ApiRequest,
    answers: &[Vec<Generation>],
    tokenizer: &Tokenizer,
    id: &str,
    created: u64,
) -> Value {
    let choices = (0..).zip(answers.iter().flatten());
    let (object, choices): (&str, Vec<Value>) = match request.endpoint {
        Endpoint::Completions => {
            ("text_completion", choices.map(|(i, g)| completion_choice(i, g, tokenizer)).collect())
        }
        Endpoint::ChatCompletions => ("chat.completion", choices.map(|(i, g)| chat_choice(i, g, tokenizer)).collect()),
    };
    let prompt_tokens: usize = request.prompts.iter().map(|prompt| prompt.prompt_ids.len()).sum();
    let completion_tokens: usize = answers.iter().flatten().map(|generation| generation.output_ids.len()).sum();
    let cached = |answers: &Vec<Generation>| answers.iter().map(|g| g.timings.prompt_tokens_cached).min().unwrap_or(0);
    json!({
        "id": id,
        "object": object,
        "created": created,
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": answers.iter().map(cached).sum::<u32>()},
        },
    })
}

fn finish_reason(generation: &Generation) -> &'static str {
    match generation.finish_reason {
        FinishReason::Cancelled => FinishReason::EndOfSequence.name(),
        reason => reason.name(),
    }
}

fn completion_choice(index: u32, generation: &Generation, tokenizer: &Tokenizer) -> Value {
    let tokens = generation.logprobs.as_ref();
    json!({
        "text": generation.text,
        "index": index,
        "logprobs": tokens.map(|tokens| logprobs::of_completion(generation, tokens, tokenizer)),
        "finish_reason": finish_reason(generation),
    })
}

fn chat_choice(index: u32, generation: &Generation, tokenizer: &Tokenizer) -> Value {
    let tokens = generation.logprobs.as_ref();
    json!({
        "index": index,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": tokens.map(|tokens| logprobs::of_chat(tokens, tokenizer)),
        "finish_reason": finish_reason(generation),
    })
}
