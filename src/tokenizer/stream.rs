//! One sequence's ids to the text its reader sees: whole characters, up to a stop string.
//!
//! Stop strings are looked for in the text with its special tokens spelled out, also where readers are not shown them.

use super::{Detokenizer, SpecialText, Tokenizer, TokenizerError};
use crate::ids::TokenId;
use std::collections::VecDeque;
use std::ops::Range;

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
/// A special token that is not shown counts with its spelling, and only as a whole: a stop string that is or contains this
/// spelling is found, one that is a part of it is not.
/// The match that is complete first in the text wins; of matches that end together, the longest. So the result depends on
/// the text and not on how tokens cut it. A stop string completed before output token `min_tokens` is plain text and is
/// not matched again.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    special: SpecialText,
    detokenizer: Detokenizer,
    stops: Vec<Matcher>,
    stop_text: StopText,
    tokens_min: u32,
    tokens: u32,
    held: Held,
    stopped: Option<usize>,
}

/// The end of the text so far, with special tokens spelled out: what may still become part of a stop string.
#[derive(Clone, Debug, Default)]
struct Held {
    text: String,
    /// Bytes of text before it.
    before: u64,
    /// Where special tokens that are not shown are spelled, in bytes from the start of all text.
    hidden: VecDeque<Range<u64>>,
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
            tokenizer: tokenizer.clone(),
            special,
            detokenizer: Detokenizer::new(tokenizer, special),
            stops: stop.into_iter().map(Matcher::new).collect(),
            stop_text,
            tokens_min: min_tokens,
            tokens: 0,
            held: Held::default(),
            stopped: None,
        })
    }

    /// Takes the next output token. After a stop string, tokens are ignored.
    pub fn push(&mut self, id: TokenId) -> Pushed {
        if self.stopped.is_some() {
            return Pushed { text: String::new(), stopped: self.stopped };
        }
        self.tokens = self.tokens.saturating_add(1);
        let seen = self.held.text.len();
        if self.special == SpecialText::Skip && self.tokenizer.is_special(id) {
            self.held.hide(self.tokenizer.token_text(id).unwrap_or_default());
        } else {
            self.held.text.push_str(&self.detokenizer.push(id));
        }
        for at in seen..self.held.text.len() {
            if let Some(index) = self.advance(at) {
                let stop = &self.stops[index].text;
                let mut text = self.held.release(at + 1 - stop.len());
                if self.stop_text == StopText::Include {
                    text.push_str(stop);
                }
                self.held = Held::default();
                self.stopped = Some(index);
                return Pushed { text, stopped: self.stopped };
            }
        }
        let held_bytes = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let text = self.held.release(self.held.text.len() - held_bytes);
        Pushed { text, stopped: None }
    }

    /// What was held back, when the sequence ends without a stop string; nothing after one.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let mut text = self.held.release(self.held.text.len());
        text.push_str(&self.detokenizer.finish());
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        text
    }

    /// Feeds the byte at `at` of the held text to every matcher; the stop string that it completes, the longest if several.
    fn advance(&mut self, at: usize) -> Option<usize> {
        let byte = self.held.text.as_bytes()[at];
        let mut complete: Option<usize> = None;
        for index in 0..self.stops.len() {
            let stop = &mut self.stops[index];
            let found = stop.advance(byte)
                && self.tokens >= self.tokens_min
                && !self.held.splits_hidden(at + 1 - stop.text.len()..at + 1);
            let longer = complete.is_none_or(|other| self.stops[index].text.len() > self.stops[other].text.len());
            if found && longer {
                complete = Some(index);
            }
        }
        complete
    }
}

impl Held {
    /// Appends a special token's spelling, which readers are not shown.
    fn hide(&mut self, spelling: &str) {
        let start = self.before + self.text.len() as u64;
        self.text.push_str(spelling);
        self.hidden.push_back(start..start + spelling.len() as u64);
    }

    /// Takes the first `bytes` bytes away and returns what of them is shown.
    fn release(&mut self, bytes: usize) -> String {
        let rest = self.text.split_off(bytes);
        let released = std::mem::replace(&mut self.text, rest);
        let (start, end) = (self.before, self.before + bytes as u64);
        self.before = end;
        if self.hidden.is_empty() {
            return released;
        }
        let mut shown = String::new();
        let mut from = start;
        for hidden in &self.hidden {
            // A hidden range may lie before, across, or behind either end.
            let (hidden_start, hidden_end) = (hidden.start.clamp(from, end), hidden.end.clamp(from, end));
            shown.push_str(&released[(from - start) as usize..(hidden_start - start) as usize]);
            from = hidden_end;
        }
        shown.push_str(&released[(from - start) as usize..]);
        while self.hidden.front().is_some_and(|hidden| hidden.end <= end) {
            self.hidden.pop_front();
        }
        shown
    }

    /// Whether this range of the held text has a part of a hidden token without the rest.
    fn splits_hidden(&self, range: Range<usize>) -> bool {
        let (start, end) = (self.before + range.start as u64, self.before + range.end as u64);
        self.hidden.iter().any(|hidden| {
            let overlaps = hidden.start < end && start < hidden.end;
            overlaps && (hidden.start < start || hidden.end > end)
        })
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
