//! One sequence's ids to the text its reader sees: whole characters, up to a stop string.

use super::{Detokenizer, SpecialText, Tokenizer, TokenizerError};
use crate::ids::TokenId;

/// Whether a stop string that was found is part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopText {
    Include,
    Exclude,
}

/// What one token adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Text that is certain: whole characters that can no longer be part of a stop string.
    pub text: String,
    /// The stop string, by its index, that this token or an earlier one completed. Nothing follows it.
    pub stopped: Option<usize>,
}

/// Turns the output ids of one sequence into text and looks for stop strings in it.
///
/// Stop strings may begin and end anywhere, in one token or across several; text that may still become one is held back.
/// The match that is complete first in the text wins; of matches that end together, the longest. So the result depends on
/// the text and not on how tokens cut it. A stop string completed before output token `min_tokens` is plain text and is
/// not matched again.
#[derive(Clone, Debug)]
pub struct TextStream {
    detokenizer: Detokenizer,
    stops: Vec<Matcher>,
    stop_text: StopText,
    tokens_min: u32,
    tokens: u32,
    /// Held back: the longest end of the text so far that begins a stop string.
    held: String,
    stopped: Option<usize>,
}

impl TextStream {
    /// A stream at the start of a sequence's output. `min_tokens` counts output tokens: with 0 or 1, the first may
    /// already complete a stop string.
    ///
    /// # Errors
    /// An empty stop string.
    pub fn new(
        tokenizer: &Tokenizer,
        stop: Vec<String>,
        stop_text: StopText,
        special: SpecialText,
        min_tokens: u32,
    ) -> Result<TextStream, TokenizerError> {
        if let Some(index) = stop.iter().position(String::is_empty) {
            return Err(TokenizerError::EmptyStop { index });
        }
        Ok(TextStream {
            detokenizer: Detokenizer::new(tokenizer, special),
            stops: stop.into_iter().map(Matcher::new).collect(),
            stop_text,
            tokens_min: min_tokens,
            tokens: 0,
            held: String::new(),
            stopped: None,
        })
    }

    /// Takes the next output token. After a stop string, tokens are ignored.
    pub fn push(&mut self, id: TokenId) -> Pushed {
        if self.stopped.is_some() {
            return Pushed { text: String::new(), stopped: self.stopped };
        }
        self.tokens = self.tokens.saturating_add(1);
        let fresh = self.detokenizer.push(id);
        let mut text = std::mem::take(&mut self.held);
        let seen = text.len();
        text.push_str(&fresh);
        for (at, &byte) in text.as_bytes().iter().enumerate().skip(seen) {
            let complete = self.advance(byte);
            if let Some(index) = complete.filter(|_| self.tokens >= self.tokens_min) {
                let end = at + 1;
                let kept = match self.stop_text {
                    StopText::Include => end,
                    StopText::Exclude => end - self.stops[index].text.len(),
                };
                text.truncate(kept);
                self.stopped = Some(index);
                return Pushed { text, stopped: self.stopped };
            }
        }
        let held_bytes = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        self.held = text.split_off(text.len() - held_bytes);
        Pushed { text, stopped: None }
    }

    /// What was held back, when the sequence ends without a stop string; nothing after one.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(&self.detokenizer.finish());
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        text
    }

    /// Feeds one byte to every matcher; the stop string that it completes, the longest if several.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut complete: Option<usize> = None;
        for index in 0..self.stops.len() {
            let longer = complete.is_none_or(|other| self.stops[index].text.len() > self.stops[other].text.len());
            if self.stops[index].advance(byte) && longer {
                complete = Some(index);
            }
        }
        complete
    }
}

/// One stop string and how much of it the text ends with (Knuth, Morris and Pratt 1977).
#[derive(Clone, Debug)]
struct Matcher {
    text: String,
    /// For each length of a matched prefix, the length of the longest shorter prefix that it ends with.
    shorter: Vec<usize>,
    /// Bytes of `text` that the text so far ends with; fewer than all.
    matched: usize,
}

impl Matcher {
    fn new(text: String) -> Matcher {
        let bytes = text.as_bytes();
        let mut shorter = vec![0; bytes.len() + 1];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[matched] != bytes[at] {
                matched = shorter[matched];
            }
            matched += usize::from(bytes[matched] == bytes[at]);
            shorter[at + 1] = matched;
        }
        Matcher { text, shorter, matched: 0 }
    }

    /// Whether `byte` completes the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        let complete = self.matched == bytes.len();
        if complete {
            self.matched = self.shorter[self.matched];
        }
        complete
    }
}
