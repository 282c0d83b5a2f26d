//! Finds special tokens in text.
//!
//! As in llama.cpp, longer tokens are taken out of the whole text before shorter ones, each from left to right. Here that
//! takes O(n log n) for a text of n bytes, whatever the tokens are: for every position the longest token that starts there
//! is found by one walk from the end of the text (Aho and Corasick 1975, over reversed tokens), and the candidates are
//! tried in order. One that a taken token cuts short falls back to the longest that fits, which at least halves the room
//! before the obstacle: no position falls back more than log n times.

use super::occurrences::Occurrences;
use super::positions::Positions;
use super::vocab::{Strip, TokenKind, Vocab};
use crate::ids::TokenId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// A piece of text to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// Which special tokens are looked for in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseSpecial {
    /// All of them: for prompts that mean what they spell.
    Yes,
    /// Only user-defined ones, which are ordinary text to a model; control tokens are encoded as the characters they
    /// are spelled with. For text from somebody who may not speak for the system.
    No,
}

/// The special tokens of a vocabulary.
pub(super) struct SpecialTokens {
    /// Longest text first; the order in which they are taken out of a text.
    tokens: Vec<Special>,
    /// All of them, by their index in `tokens`.
    all: Occurrences,
    /// The user-defined ones: they are matched even where control tokens are not.
    always: Occurrences,
}

struct Special {
    id: TokenId,
    bytes: u32,
    strip: Strip,
}

/// A token taken out of a text, with the white space that goes with it.
struct Taken {
    span: Range<usize>,
    id: TokenId,
}

impl SpecialTokens {
    pub(super) fn of(vocab: &Vocab) -> SpecialTokens {
        let mut found = Vec::new();
        for (id, (text, kind)) in (0..).map(TokenId).zip(vocab.texts().iter().zip(vocab.kinds())) {
            let always = *kind == TokenKind::UserDefined;
            if !text.is_empty() && (always || matches!(kind, TokenKind::Control | TokenKind::Unknown)) {
                found.push((text, id, always));
            }
        }
        found.sort_by_key(|(text, ..)| Reverse(text.len()));
        let texts = |wanted: fn(bool) -> bool| {
            let indexed = (0..).zip(&found).filter(|(_, found)| wanted(found.2));
            Occurrences::of(indexed.map(|(index, found)| (found.0, index)).collect())
        };
        let (all, always) = (texts(|_| true), texts(|always| always));
        let special =
            |&(text, id, _): &(&str, TokenId, bool)| Special { id, bytes: text.len() as u32, strip: vocab.strip(id) };
        SpecialTokens { tokens: found.iter().map(special).collect(), all, always }
    }

    /// Cuts `text` into tokens and the text between them. Control and unknown tokens are found only where they lie wholly
    /// inside one of the ranges `own`, which ascend and are disjoint.
    pub(super) fn split<'t>(&self, text: &'t str, own: &[Range<usize>]) -> Vec<Fragment<'t>> {
        let mut taken = self.taken(text.as_bytes(), own);
        taken.sort_unstable_by_key(|taken| taken.span.start);
        let mut fragments = Vec::with_capacity(2 * taken.len() + 1);
        let mut end = 0;
        for Taken { span, id } in taken {
            fragments.extend(Some(&text[end..span.start]).filter(|text| !text.is_empty()).map(Fragment::Text));
            fragments.push(Fragment::Token(id));
            end = span.end;
        }
        fragments.extend(Some(&text[end..]).filter(|text| !text.is_empty()).map(Fragment::Text));
        fragments
    }

    fn taken(&self, text: &[u8], own: &[Range<usize>]) -> Vec<Taken> {
        // For each position where a token starts: the deepest entries of both searches.
        let starts = self.starts(text, own);
        let mut first: Vec<(u32, u32)> = (0u32..)
            .zip(&starts)
            .filter_map(|(index, start)| Some((self.longest(start, usize::MAX)?, index)))
            .collect();
        // Of one token from left to right: `starts` ascends.
        first.sort_unstable();
        let mut first = first.into_iter().peekable();
        let mut again = BinaryHeap::new();
        let mut claims = Claims::new(text);
        let mut taken = Vec::new();
        loop {
            let next = match (first.peek(), again.peek()) {
                (Some(one), Some(Reverse(other))) if other < one => again.pop().map(|Reverse(other)| other),
                (None, Some(_)) => again.pop().map(|Reverse(other)| other),
                _ => first.next(),
            };
            let Some((token, index)) = next else { return taken };
            let start = &starts[index as usize];
            if claims.covered(start.at) {
                continue;
            }
            let Special { id, bytes, strip } = &self.tokens[token as usize];
            let room = claims.room_after(start.at, *bytes as usize);
            if room >= *bytes as usize {
                taken.push(Taken { span: claims.take(start.at..start.at + *bytes as usize, *strip), id: *id });
            } else if let Some(shorter) = self.longest(start, room) {
                again.push(Reverse((shorter, index)));
            }
        }
    }

    fn starts(&self, text: &[u8], own: &[Range<usize>]) -> Vec<Start> {
        let mut starts = Vec::new();
        if !own.is_empty() {
            let mut own = own.iter().rev().peekable();
            self.all.each_start(text, |at, entry| {
                while own.next_if(|range| range.start > at).is_some() {}
                let room = own.peek().map_or(0, |range| range.end.saturating_sub(at));
                if let Some(entry) = self.all.fitting(entry, room) {
                    starts.push(Start { at, all: Some(entry), always: None });
                }
            });
        }
        let whole = own.first().is_some_and(|range| range.start == 0 && range.end == text.len());
        if !whole {
            let mut always = Vec::new();
            self.always.each_start(text, |at, entry| always.push(Start { at, all: None, always: Some(entry) }));
            starts = merged(starts, always);
        }
        // Both walks go from the end of the text to its start.
        starts.reverse();
        starts
    }

    /// The longest token at `start` of at most `room` bytes.
    fn longest(&self, start: &Start, room: usize) -> Option<u32> {
        let all = start.all.and_then(|entry| self.all.fitting(entry, room)).map(|entry| self.all.token(entry));
        let always =
            start.always.and_then(|entry| self.always.fitting(entry, room)).map(|entry| self.always.token(entry));
        // The index is lower for longer texts.
        match (all, always) {
            (Some(all), Some(always)) => Some(all.min(always)),
            (all, always) => all.or(always),
        }
    }
}

/// A position where tokens start, and the longest of either search.
struct Start {
    at: usize,
    all: Option<u32>,
    always: Option<u32>,
}

/// Two lists that descend, as one that does.
fn merged(left: Vec<Start>, right: Vec<Start>) -> Vec<Start> {
    let mut both = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (Some(one), Some(other)) if one.at == other.at => {
                both.extend(left.next().zip(right.next()).map(|(one, other)| Start { always: other.always, ..one }));
            }
            (Some(one), Some(other)) if one.at < other.at => both.extend(right.next()),
            (None, Some(_)) => both.extend(right.next()),
            (Some(_), _) => both.extend(left.next()),
            (None, None) => return both,
        }
    }
}

/// Which bytes of a text are taken.
struct Claims<'t> {
    text: &'t [u8],
    covered: Positions,
    starts: Positions,
}

impl<'t> Claims<'t> {
    fn new(text: &'t [u8]) -> Claims<'t> {
        Claims { text, covered: Positions::new(text.len()), starts: Positions::new(text.len()) }
    }

    fn covered(&self, at: usize) -> bool {
        self.covered.contains(at)
    }

    /// Free bytes from `at` on, up to `most`.
    fn room_after(&self, at: usize, most: usize) -> usize {
        self.starts.next(at).map_or(most, |next| (next - at).min(most))
    }

    /// Marks `span` and the white space around it that the token swallows; returns both together.
    fn take(&mut self, mut span: Range<usize>, strip: Strip) -> Range<usize> {
        let is_space = |byte: u8| byte == b' ' || (b'\t'..=b'\r').contains(&byte);
        if strip.left {
            while span.start > 0 && is_space(self.text[span.start - 1]) && !self.covered(span.start - 1) {
                span.start -= 1;
            }
        }
        if strip.right {
            while span.end < self.text.len() && is_space(self.text[span.end]) && !self.covered(span.end) {
                span.end += 1;
            }
        }
        span.clone().for_each(|at| self.covered.insert(at));
        self.starts.insert(span.start);
        span
    }
}

#[cfg(test)]
mod tests;
