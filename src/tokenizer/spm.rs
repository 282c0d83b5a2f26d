//! SentencePiece-style encoding (`tokenizer.ggml.model = llama`): starting from characters, the adjacent pair whose
//! concatenation is the token of highest score is merged, until no concatenation is a token.
//!
//! Method: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", with SentencePiece's scores in
//! place of ranks (Kudo and Richardson 2018). With a queue of candidates it takes O(n log n).

use super::TokenizerError;
use super::vocab::{Vocab, by_text};
use crate::ids::TokenId;
use crate::weights::Metadata;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// Tokens by text, with scores.
pub(super) struct SentencePiece {
    by_text: HashMap<Box<str>, TokenId>,
    /// By id.
    scores: Vec<f32>,
    /// Longer concatenations are no tokens and need no look-up.
    token_bytes_max: usize,
    /// Tokens of single bytes, for characters that are no token.
    bytes: [Option<TokenId>; 256],
}

impl SentencePiece {
    pub(super) fn from_metadata(metadata: &Metadata, vocab: &Vocab) -> Result<SentencePiece, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.scores";
        let scores = match metadata.opt_f32_array(KEY)? {
            // Adding zero makes -0.0 equal to 0.0 in the total order that the queue needs.
            Some(scores) => scores.iter().map(|score| score + 0.0).collect(),
            None => vec![0.0; vocab.len()],
        };
        if scores.len() != vocab.len() {
            let expected = format!("{} scores, one for each token", vocab.len());
            return Err(TokenizerError::invalid(KEY, expected, scores.len()));
        }
        if let Some(index) = scores.iter().position(|score| score.is_nan()) {
            return Err(TokenizerError::invalid(format!("{KEY}[{index}]"), "a number", "NaN"));
        }
        let ids = by_text(vocab.texts());
        let mut bytes = [None; 256];
        for (byte, token) in (0..=255u8).zip(&mut bytes) {
            let spelled = ids.get(format!("<0x{byte:02X}>").as_str());
            let itself = || ids.get(std::str::from_utf8(std::slice::from_ref(&byte)).ok()?);
            *token = spelled.or_else(itself).map(|&id| TokenId(id)).or(vocab.unknown);
        }
        Ok(SentencePiece {
            token_bytes_max: ids.keys().map(|text| text.len()).max().unwrap_or(0),
            by_text: ids.into_iter().map(|(text, id)| (text.into(), TokenId(id))).collect(),
            scores,
            bytes,
        })
    }

    /// Appends the ids of `text`, in which spaces are U+2581 already.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let mut symbols = Symbols::of(text);
        let mut queue = BinaryHeap::new();
        for left in 1..symbols.len.len() {
            self.offer(text, &symbols, left - 1, left, &mut queue);
        }
        while let Some(Candidate { left, right, bytes, .. }) = queue.pop() {
            let (left, right) = (left as usize, right as usize);
            // Either may have been merged since.
            if symbols.len[left] == 0 || symbols.len[right] == 0 || symbols.len[left] + symbols.len[right] != bytes {
                continue;
            }
            symbols.merge(left, right);
            if let Some(previous) = symbols.previous(left) {
                self.offer(text, &symbols, previous, left, &mut queue);
            }
            if let Some(next) = symbols.next(left) {
                self.offer(text, &symbols, left, next, &mut queue);
            }
        }
        for at in (0..symbols.len.len()).filter(|&at| symbols.len[at] > 0) {
            let symbol = symbols.text(text, at);
            match self.by_text.get(symbol) {
                Some(&id) => ids.push(id),
                None => self.encode_bytes(symbol, ids)?,
            }
        }
        Ok(())
    }

    fn offer(&self, text: &str, symbols: &Symbols, left: usize, right: usize, queue: &mut BinaryHeap<Candidate>) {
        let bytes = symbols.len[left] + symbols.len[right];
        if bytes as usize > self.token_bytes_max {
            return;
        }
        let start = symbols.start[left] as usize;
        if let Some(id) = self.by_text.get(&text[start..start + bytes as usize]) {
            let score = self.scores[id.index()];
            queue.push(Candidate { score, left: left as u32, right: right as u32, bytes });
        }
    }

    fn encode_bytes(&self, symbol: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        for byte in symbol.bytes() {
            let expected = || format!("<0x{byte:02X}>, or an unknown token");
            let id = self.bytes[usize::from(byte)];
            ids.push(id.ok_or_else(|| TokenizerError::NoByteToken { byte, expected: expected() })?);
        }
        Ok(())
    }
}

/// Two neighbours whose concatenation is a token.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    /// Of the concatenation when it was offered.
    bytes: u32,
}

impl Ord for Candidate {
    /// The highest score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

const NONE: u32 = u32::MAX;

/// The pieces of a text as a linked list in arrays; a piece of length 0 has been merged into one before it.
struct Symbols {
    start: Vec<u32>,
    len: Vec<u32>,
    previous: Vec<u32>,
    next: Vec<u32>,
}

impl Symbols {
    fn of(text: &str) -> Symbols {
        let start: Vec<u32> = text.char_indices().map(|(at, _)| at as u32).collect();
        let count = start.len() as u32;
        Symbols {
            len: text.chars().map(|char| char.len_utf8() as u32).collect(),
            previous: (0..count).map(|at| at.wrapping_sub(1)).collect(),
            next: (1..=count).map(|at| if at == count { NONE } else { at }).collect(),
            start,
        }
    }

    fn text<'t>(&self, text: &'t str, at: usize) -> &'t str {
        &text[self.start[at] as usize..][..self.len[at] as usize]
    }

    fn previous(&self, at: usize) -> Option<usize> {
        Some(self.previous[at]).filter(|&at| at != NONE).map(|at| at as usize)
    }

    fn next(&self, at: usize) -> Option<usize> {
        Some(self.next[at]).filter(|&at| at != NONE).map(|at| at as usize)
    }

    fn merge(&mut self, left: usize, right: usize) {
        self.len[left] += self.len[right];
        self.len[right] = 0;
        self.next[left] = self.next[right];
        if let Some(next) = self.next(left) {
            self.previous[next] = left as u32;
        }
    }
}
