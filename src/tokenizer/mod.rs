//! Text to ids and back: tokenizers, chat templates, incremental detokenising and stop strings.

mod bpe;
mod byte_level;
mod chat;
mod detokenizer;
mod error;
mod keys;
mod occurrences;
mod positions;
mod pretokenize;
mod recipes;
mod special;
mod spm;
mod stream;
mod vocab;

pub use chat::{ChatInput, ChatTemplate, GenerationPrompt, Rendered};
pub use detokenizer::Detokenizer;
pub use error::TokenizerError;
pub use special::ParseSpecial;
pub use stream::{Pushed, StopText, TextStream};

use crate::ids::TokenId;
use crate::weights::Metadata;
use bpe::BytePair;
use pretokenize::{Pieces, PreTokenizer};
use special::{Fragment, SpecialTokens};
use spm::SentencePiece;
use std::ops::Range;
use std::sync::Arc;
use vocab::{AddBos, Defaults, Spelling, TokenKind, Vocab};

/// The longest text that is encoded at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 30;

/// Whether BOS is added before a text, where the model wants it (`add_bos_token`). EOS is never added, whatever
/// `add_eos_token` says: a prompt is to be continued, and what is scored ends as it is given. Callers who want one have
/// [`Tokenizer::eos`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    Yes,
    No,
    /// Like `Yes`, without a second one where the text itself starts with BOS, as chat templates do.
    IfMissing,
}

/// How text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    pub add_special: AddSpecial,
    pub parse_special: ParseSpecial,
}

impl EncodeOptions {
    /// A whole prompt, raw or from a chat template whose inputs may spell control tokens: special tokens are read from the
    /// text and BOS is added as the model wants it.
    pub const PROMPT: EncodeOptions =
        EncodeOptions { add_special: AddSpecial::IfMissing, parse_special: ParseSpecial::Yes };
    /// A piece of plain text: nothing is added, and control tokens are ordinary characters.
    pub const TEXT: EncodeOptions = EncodeOptions { add_special: AddSpecial::No, parse_special: ParseSpecial::No };
}

/// What becomes of control and unknown tokens when ids become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialText {
    /// They are shown as they are spelled.
    Keep,
    /// They are left out.
    Skip,
}

/// A model's tokenizer. Ids equal those of llama.cpp. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    vocab: Vocab,
    special: SpecialTokens,
    algorithm: Algorithm,
}

enum Algorithm {
    BytePair(Box<BytePair>),
    SentencePiece {
        model: Box<SentencePiece>,
        /// Text at the start and after a special token is encoded as if a space preceded it.
        add_space_prefix: bool,
    },
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's `tokenizer.ggml.*` keys describe.
    ///
    /// # Errors
    /// Missing keys, keys of other types, an algorithm or pre-tokenizer that kiln lacks, and vocabularies whose parts do
    /// not fit together.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let (vocab, algorithm) = match metadata.str("tokenizer.ggml.model")? {
            "gpt2" => {
                // GPT-2's <|endoftext|> has this id in a vocabulary of 12 tokens or more.
                byte_pair(metadata, metadata.str_or("tokenizer.ggml.pre", "default")?, Some(11))?
            }
            "gemma4" => byte_pair(metadata, "gemma4", None)?,
            "llama" => sentence_piece(metadata)?,
            found => {
                return Err(TokenizerError::UnknownModel {
                    expected: "gpt2, gemma4 or llama",
                    found: found.to_owned(),
                });
            }
        };
        keys::refuse_unread(metadata)?;
        Ok(Tokenizer(Arc::new(Inner { special: SpecialTokens::of(&vocab), vocab, algorithm })))
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// A text above [`TEXT_BYTES_MAX`], or a byte that the vocabulary cannot spell.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, TokenizerError> {
        let whole = Range { start: 0, end: text.len() };
        let own = match options.parse_special {
            ParseSpecial::Yes => std::slice::from_ref(&whole),
            ParseSpecial::No => &[],
        };
        self.encode_where(text, own, options.add_special)
    }

    /// The ids of a rendered chat template, in which only the template itself may speak for the system: control and
    /// unknown tokens are found only where they lie wholly inside one of the byte ranges `own`, which ascend, are disjoint
    /// and do not touch. Elsewhere they are the characters they are spelled with. All else is as with
    /// [`EncodeOptions::PROMPT`]: words may cross the borders of ranges.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_template(&self, text: &str, own: &[Range<usize>]) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode_where(text, own, AddSpecial::IfMissing)
    }

    fn encode_where(
        &self,
        text: &str,
        own: &[Range<usize>],
        add_special: AddSpecial,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), bytes_max: TEXT_BYTES_MAX });
        }
        let vocab = &self.0.vocab;
        let mut ids: Vec<TokenId> = Vec::new();
        let mut after_special = true;
        for fragment in self.0.special.split(text, own) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => self.0.algorithm.encode(text, after_special, &mut ids)?,
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        let present = add_special == AddSpecial::IfMissing && ids.first() == vocab.bos.as_ref();
        if add_special != AddSpecial::No && vocab.add_bos && !present {
            ids.splice(0..0, vocab.bos);
        }
        Ok(ids)
    }

    /// The text of `ids`: their bytes one after another, with U+FFFD for what is not UTF-8. A SentencePiece model's
    /// leading space is part of the text, since ids usually continue something. Ids outside the vocabulary are nothing.
    pub fn decode(&self, ids: &[TokenId], special: SpecialText) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.shown_bytes(id, special));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for: any part of UTF-8 text, or a special token's spelling. None outside the
    /// vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.0.vocab.bytes(id)
    }

    /// The token as the vocabulary spells it.
    pub fn token_text(&self, id: TokenId) -> Option<&str> {
        self.0.vocab.text(id)
    }

    /// Whether it is a control or unknown token, which readers are not shown.
    pub fn is_special(&self, id: TokenId) -> bool {
        matches!(self.0.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.0.vocab.bos
    }

    /// The token that ends a text. A generation ends at any of [`Tokenizer::end_ids`].
    pub fn eos(&self) -> Option<TokenId> {
        self.0.vocab.eos
    }

    /// Whether the model wants BOS before a prompt.
    pub fn add_bos(&self) -> bool {
        self.0.vocab.add_bos
    }

    /// Whether a generation ends here: the metadata's end of sequence, turn or message, or a token known by its text.
    pub fn is_end(&self, id: TokenId) -> bool {
        self.0.vocab.ends.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, ascending.
    pub fn end_ids(&self) -> &[TokenId] {
        &self.0.vocab.ends
    }

    fn shown_bytes(&self, id: TokenId, special: SpecialText) -> &[u8] {
        if special == SpecialText::Skip && self.is_special(id) {
            return &[];
        }
        self.token_bytes(id).unwrap_or_default()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithm = match self.0.algorithm {
            Algorithm::BytePair(_) => "byte pairs",
            Algorithm::SentencePiece { .. } => "SentencePiece",
        };
        f.debug_struct("Tokenizer").field("model", &algorithm).field("vocab_size", &self.vocab_size()).finish()
    }
}

impl Algorithm {
    fn encode(&self, text: &str, after_special: bool, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        match self {
            Algorithm::BytePair(model) => model.encode(text, ids),
            Algorithm::SentencePiece { model, add_space_prefix } => {
                let prefix = if *add_space_prefix && after_special { "\u{2581}" } else { "" };
                model.encode(&format!("{prefix}{}", text.replace(' ', "\u{2581}")), ids)
            }
        }
    }
}

fn byte_pair(metadata: &Metadata, pre: &str, default_bos: Option<u32>) -> Result<(Vocab, Algorithm), TokenizerError> {
    let words = PreTokenizer::named(pre)?;
    let recipe = words.recipe;
    let defaults = Defaults {
        bos: default_bos.filter(|_| recipe.default_bos),
        eos: default_bos,
        unknown: None,
        add_bos: recipe.add_bos,
    };
    let spelling = match recipe.pieces {
        Pieces::Bytes => Spelling::ByteLevel,
        Pieces::Text => Spelling::SentencePiece,
    };
    let vocab = Vocab::from_metadata(metadata, spelling, defaults)?;
    let model = BytePair::from_metadata(metadata, &vocab, words)?;
    Ok((vocab, Algorithm::BytePair(Box::new(model))))
}

fn sentence_piece(metadata: &Metadata) -> Result<(Vocab, Algorithm), TokenizerError> {
    let defaults = Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: AddBos::Yes };
    let vocab = Vocab::from_metadata(metadata, Spelling::SentencePiece, defaults)?;
    let model = Box::new(SentencePiece::from_metadata(metadata, &vocab)?);
    let add_space_prefix = metadata.bool_or("tokenizer.ggml.add_space_prefix", true)?;
    Ok((vocab, Algorithm::SentencePiece { model, add_space_prefix }))
}
