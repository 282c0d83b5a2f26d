//! Log-probabilities in OpenAI's forms. They belong to tokens: two tokens never share an entry by accident of spelling.

use serde_json::{Map, Value, json};

use crate::ids::TokenId;
use crate::text::{Generation, TokenLogprob};
use crate::tokenizer::{Detokenizer, SpecialText, Tokenizer};

/// A token's name: its text, or `bytes:\xNN…` where its bytes are not UTF-8 by themselves.
pub fn token_name(tokenizer: &Tokenizer, id: TokenId) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

/// `logprobs` of a completion's choice.
pub fn of_completion(generation: &Generation, tokens: &[TokenLogprob], tokenizer: &Tokenizer) -> Value {
    let top = |token: &TokenLogprob| -> Map<String, Value> {
        // The chosen token comes first and keeps its name; of the others with one name the likelier one, which comes first.
        let mut values = Map::new();
        for (id, logprob) in std::iter::once((token.id, token.logprob)).chain(token.top.iter().copied()) {
            values.entry(token_name(tokenizer, id)).or_insert_with(|| json!(logprob));
        }
        values
    };
    json!({
        "tokens": tokens.iter().map(|token| token_name(tokenizer, token.id)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": text_offsets(generation, tokens, tokenizer),
    })
}

/// Where in the text each token begins, in characters. A token that begins inside a character has that character's place; what
/// stands behind the text's end, such as a stop string, has the end's.
fn text_offsets(generation: &Generation, tokens: &[TokenLogprob], tokenizer: &Tokenizer) -> Vec<usize> {
    let end = generation.text.chars().count();
    let mut detokenizer = Detokenizer::new(tokenizer, SpecialText::Skip);
    let mut at = 0;
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(at.min(end));
        at += detokenizer.push(token.id).chars().count();
    }
    offsets
}

/// `logprobs` of a chat completion's choice: lists, in which no token is lost.
pub fn of_chat(tokens: &[TokenLogprob], tokenizer: &Tokenizer) -> Value {
    let entry = |id: TokenId, logprob: f32| json!({"token": token_name(tokenizer, id), "logprob": logprob, "bytes": tokenizer.token_bytes(id)});
    let content = |token: &TokenLogprob| {
        let mut object = entry(token.id, token.logprob);
        object["top_logprobs"] = token.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
        object
    };
    json!({"content": tokens.iter().map(content).collect::<Vec<_>>(), "refusal": null})
}
