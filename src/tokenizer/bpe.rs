//! Byte-pair encoding (`tokenizer.ggml.model = gpt2` or `gemma4`): words, spelled byte by byte or as they are, merged by
//! the model of the `tokenizers` crate.

use super::pretokenize::{Pieces as Spelled, PreTokenizer};
use super::recipes::{Recipe, WholeWords};
use super::vocab::{Vocab, by_text};
use super::{TokenizerError, byte_level};
use crate::ids::TokenId;
use crate::weights::Metadata;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, BpeBuilder};

/// Words, a vocabulary and its merges.
pub(super) struct BytePair {
    words: PreTokenizer,
    model: BPE,
    vocab_size: u32,
    /// What stands for the pieces that merging knows and the vocabulary does not: ids from `vocab_size` on.
    substitutes: Vec<Vec<TokenId>>,
}

impl BytePair {
    pub(super) fn from_metadata(
        metadata: &Metadata,
        vocab: &Vocab,
        words: PreTokenizer,
    ) -> Result<BytePair, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.merges";
        let known = by_text(vocab.texts());
        let mut pieces = Pieces { known: &known, next: vocab.len() as u32, unknown: HashMap::new(), order: Vec::new() };
        let spelled = words.recipe.pieces;
        for byte in 0..=255u8 {
            match spelled {
                Spelled::Bytes => pieces.add(byte_level::char_of(byte).encode_utf8(&mut [0; 4])),
                Spelled::Text => pieces.add(&byte_piece(byte)),
            }
        }
        let lines = metadata.str_array(KEY)?;
        let (mut merges, mut seen) = (Vec::with_capacity(lines.len()), HashSet::with_capacity(lines.len()));
        for (index, line) in lines.iter().enumerate() {
            // A piece may start with a space in the files of some converters; none ends with one.
            let at = line.char_indices().skip(1).find(|&(_, char)| char == ' ').map(|(at, _)| at);
            let Some((left, right)) =
                at.map(|at| (&line[..at], &line[at + 1..])).filter(|(_, right)| !right.is_empty())
            else {
                let expected = "two pieces with a space between them";
                return Err(TokenizerError::invalid(format!("{KEY}[{index}]"), expected, format!("{line:?}")));
            };
            // The first of two equal merges counts.
            if seen.insert(line) {
                pieces.add(left);
                pieces.add(right);
                pieces.add(&format!("{left}{right}"));
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
        let substitutes = pieces.order.iter().map(|text| substitute(text, spelled, &known)).collect();
        let unknown = pieces.unknown;
        let all = known.iter().map(|(&text, &id)| (text.to_owned(), id)).chain(unknown);
        let all = all.collect::<tokenizers::models::bpe::Vocab>();
        // A character that is no piece becomes the pieces `<0xNN>` of its bytes.
        let builder = BpeBuilder::new().vocab_and_merges(all, merges).byte_fallback(spelled == Spelled::Text);
        let model = builder.build();
        let model = model.map_err(|error| TokenizerError::invalid(KEY, "merges of tokens", error))?;
        Ok(BytePair { words, model, vocab_size: vocab.len() as u32, substitutes })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let mut spelled = String::new();
        let Recipe { pieces, whole_words, .. } = self.words.recipe;
        let escaped = match pieces {
            Spelled::Bytes => Cow::Borrowed(text),
            Spelled::Text => Cow::Owned(text.replace(' ', "\u{2581}")),
        };
        for word in self.words.words(&escaped) {
            spelled.clear();
            match pieces {
                Spelled::Bytes => byte_level::encode(word.as_bytes(), &mut spelled),
                Spelled::Text => spelled.push_str(word),
            }
            let may_be_whole = match whole_words {
                WholeWords::None => false,
                WholeWords::All => true,
                WholeWords::LineEnds => word.bytes().all(|byte| byte == b'\n'),
            };
            if may_be_whole && let Some(id) = self.model.token_to_id(&spelled).filter(|&id| id < self.vocab_size) {
                ids.push(TokenId(id));
                continue;
            }
            let tokens = self.model.tokenize(&spelled);
            for token in tokens.map_err(|error| TokenizerError::invalid("a word", "one that merges", error))? {
                match token.id.checked_sub(self.vocab_size) {
                    None => ids.push(TokenId(token.id)),
                    Some(unknown) => ids.extend_from_slice(&self.substitutes[unknown as usize]),
                }
            }
        }
        Ok(())
    }
}

/// Gives ids past the vocabulary to pieces that merging may meet and the vocabulary lacks, so that they keep their place
/// between their neighbours.
struct Pieces<'a> {
    known: &'a HashMap<&'a str, u32>,
    next: u32,
    unknown: HashMap<String, u32>,
    order: Vec<String>,
}

impl Pieces<'_> {
    fn add(&mut self, text: &str) {
        if !self.known.contains_key(text) && !self.unknown.contains_key(text) {
            self.unknown.insert(text.to_owned(), self.next);
            self.order.push(text.to_owned());
            self.next += 1;
        }
    }
}

/// As in llama.cpp, a piece outside the vocabulary is what its bytes are as tokens: often nothing at all where they are
/// spelled as GPT-2's characters, since only ASCII is looked up then.
fn substitute(piece: &str, spelled: Spelled, known: &HashMap<&str, u32>) -> Vec<TokenId> {
    let tokens: Vec<u32> = match spelled {
        Spelled::Bytes => {
            let ascii = piece.char_indices().filter(|(_, char)| char.is_ascii());
            ascii.filter_map(|(at, _)| known.get(&piece[at..=at])).copied().collect()
        }
        // A byte's own piece that is no token is nothing.
        Spelled::Text if is_byte_piece(piece) => Vec::new(),
        Spelled::Text => piece.bytes().filter_map(|byte| known.get(byte_piece(byte).as_str())).copied().collect(),
    };
    tokens.into_iter().map(TokenId).collect()
}

fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn is_byte_piece(piece: &str) -> bool {
    (0..=255).any(|byte| byte_piece(byte) == piece)
}
