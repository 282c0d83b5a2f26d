//! Ids to text as they come, never half a character.

use super::{SpecialText, Tokenizer};
use crate::ids::TokenId;

/// Turns the ids of one sequence into text, one id at a time. What has been pushed, and then `finish`, make together
/// exactly [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    special: SpecialText,
    /// The beginning of a character whose end has not come yet: at most 3 bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// A detokenizer at the start of a sequence.
    pub fn new(tokenizer: &Tokenizer, special: SpecialText) -> Detokenizer {
        Detokenizer { tokenizer: tokenizer.clone(), special, pending: Vec::new() }
    }

    /// The text that `id` completes. Bytes that can no longer become a character become U+FFFD at once.
    pub fn push(&mut self, id: TokenId) -> String {
        self.pending.extend_from_slice(self.tokenizer.shown_bytes(id, self.special));
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        let unfinished = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(invalid) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[invalid..];
                        }
                        None => break after.len(),
                    }
                }
            }
        };
        self.pending.drain(..self.pending.len() - unfinished);
        text
    }

    /// What is left at the end of the sequence: nothing, or U+FFFD for a character that was never completed.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
