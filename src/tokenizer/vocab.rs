//! The vocabulary of a GGUF file: every token's text, kind and bytes, and which tokens are special.

use super::TokenizerError;
use super::byte_level;
use crate::ids::TokenId;
use crate::weights::{MetaValue, Metadata, StringArray};
use std::collections::HashMap;

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: plain text with U+2581 for spaces, and `<0xNN>` for single bytes.
    SentencePiece,
}

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Undefined,
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    fn from_ggml(number: i32) -> TokenKind {
        match number {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Undefined,
        }
    }
}

/// The defaults of a tokenizer model for what its metadata may leave out; llama.cpp's.
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: AddBos,
}

/// Whether BOS is added to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddBos {
    No,
    Yes,
    /// Even where the file says no.
    Always,
}

/// White space beside a special token that the token swallows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strip {
    pub left: bool,
    pub right: bool,
}

pub(super) struct Vocab {
    texts: StringArray,
    kinds: Vec<TokenKind>,
    /// The bytes that tokens stand for, one after another; token i ends at `byte_ends[i]`.
    bytes: Vec<u8>,
    byte_ends: Vec<usize>,
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub unknown: Option<TokenId>,
    /// Sorted.
    pub ends: Vec<TokenId>,
    pub add_bos: bool,
    strip: StripRule,
}

impl Vocab {
    pub(super) fn from_metadata(
        metadata: &Metadata,
        spelling: Spelling,
        defaults: Defaults,
    ) -> Result<Vocab, TokenizerError> {
        let texts = metadata.str_array("tokenizer.ggml.tokens")?.clone();
        if texts.is_empty() || i32::try_from(texts.len()).is_err() {
            let found = format!("{} tokens", texts.len());
            return Err(TokenizerError::invalid("tokenizer.ggml.tokens", "1 to 2147483647 tokens", found));
        }
        let mut kinds = vec![TokenKind::Normal; texts.len()];
        if let Some(numbers) = metadata.opt_i32_array("tokenizer.ggml.token_type")? {
            if numbers.len() != texts.len() {
                let expected = format!("{} types, one for each token", texts.len());
                return Err(TokenizerError::invalid("tokenizer.ggml.token_type", expected, numbers.len()));
            }
            kinds = numbers.iter().map(|&number| TokenKind::from_ggml(number)).collect();
        }
        let ids = Ids { metadata, by_text: by_text(&texts), count: texts.len() as u32 };
        let ends = ids.ends(&mut kinds, defaults.eos)?;
        let (bytes, byte_ends) = all_bytes(&texts, &kinds, spelling)?;
        let vocab = Vocab {
            bos: ids.special("bos", defaults.bos)?,
            eos: ids.special("eos", defaults.eos)?,
            unknown: ids.special("unknown", defaults.unknown)?,
            ends,
            add_bos: metadata.bool_or("tokenizer.ggml.add_bos_token", defaults.add_bos != AddBos::No)?
                || defaults.add_bos == AddBos::Always,
            strip: StripRule::of(metadata)?,
            texts,
            kinds,
            bytes,
            byte_ends,
        };
        if vocab.add_bos && vocab.bos.is_none() {
            let expected = "a token's id, since BOS is to be added";
            return Err(TokenizerError::invalid("tokenizer.ggml.bos_token_id", expected, "none"));
        }
        Ok(vocab)
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn texts(&self) -> &StringArray {
        &self.texts
    }

    pub(super) fn text(&self, id: TokenId) -> Option<&str> {
        self.texts.get(id.index())
    }

    pub(super) fn kind(&self, id: TokenId) -> Option<TokenKind> {
        self.kinds.get(id.index()).copied()
    }

    pub(super) fn kinds(&self) -> &[TokenKind] {
        &self.kinds
    }

    pub(super) fn strip(&self, id: TokenId) -> Strip {
        self.strip.strip(self.text(id).unwrap_or_default())
    }

    pub(super) fn bytes(&self, id: TokenId) -> Option<&[u8]> {
        let end = *self.byte_ends.get(id.index())?;
        let start = if id.index() == 0 { 0 } else { self.byte_ends[id.index() - 1] };
        Some(&self.bytes[start..end])
    }
}

/// Files do not say which special tokens swallow white space; as in llama.cpp, the model is known by its name.
enum StripRule {
    None,
    /// This token swallows what precedes it.
    Mask(&'static str),
    /// All but a few swallow what follows them.
    Phi3,
}

impl StripRule {
    fn of(metadata: &Metadata) -> Result<StripRule, TokenizerError> {
        let name = metadata.str_or("general.name", "")?.to_ascii_lowercase();
        let pre = metadata.str_or("tokenizer.ggml.pre", "")?;
        Ok(match () {
            () if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|jina| pre.contains(jina)) => {
                StripRule::Mask("<mask>")
            }
            () if name.contains("phi-3") || name.contains("phi3") => StripRule::Phi3,
            () if name.contains("modern-bert") => StripRule::Mask("[MASK]"),
            () => StripRule::None,
        })
    }

    fn strip(&self, text: &str) -> Strip {
        Strip {
            left: matches!(self, StripRule::Mask(mask) if *mask == text),
            right: matches!(self, StripRule::Phi3) && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
        }
    }
}

/// From text to id. Of two tokens with one text the later is found, and an empty text is none.
pub(super) fn by_text(texts: &StringArray) -> HashMap<&str, u32> {
    texts.iter().zip(0..).filter(|(text, _)| !text.is_empty()).collect()
}

/// Texts of tokens that end a generation whatever the metadata says; llama.cpp's list.
const END_TEXTS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle markers: metadata name, texts that stand in for it, and whether it ends a generation.
const FILL_IN_THE_MIDDLE: [(&str, &[&str], bool); 6] = [
    ("fim_pre", &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"], false),
    ("fim_suf", &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"], false),
    ("fim_mid", &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"], false),
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"], true),
    ("fim_sep", &["<|file_sep|>"], true),
];

/// Markers inside an answer that a reader must see although files call them control tokens.
const ALWAYS_SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

struct Ids<'a> {
    metadata: &'a Metadata,
    by_text: HashMap<&'a str, u32>,
    count: u32,
}

impl Ids<'_> {
    /// A special token's id; one outside the vocabulary counts as absent, since files write -1 for "none".
    fn special(&self, name: &str, default: Option<u32>) -> Result<Option<TokenId>, TokenizerError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let default = default.filter(|&id| id < self.count);
        let stored = match self.metadata.get(&key) {
            Some(MetaValue::I32(-1)) => None,
            _ => self.metadata.opt_u32(&key)?,
        };
        match stored {
            Some(id) if id >= self.count => {
                tracing::warn!("{key} is {id}, outside the vocabulary of {} tokens: ignored", self.count);
                Ok(default.map(TokenId))
            }
            Some(id) => Ok(Some(TokenId(id))),
            None => Ok(default.map(TokenId)),
        }
    }

    /// The tokens that end a generation, sorted. Corrects the kinds of tokens whose text says that they are control
    /// tokens.
    fn ends(&self, kinds: &mut [TokenKind], default_eos: Option<u32>) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ends = Vec::new();
        for (name, texts, is_end) in FILL_IN_THE_MIDDLE {
            let stored = self.special(name, None)?;
            let found = texts.iter().filter_map(|text| self.by_text.get(text)).min().map(|&id| TokenId(id));
            if let (None, Some(id)) = (stored, found) {
                kinds[id.index()] = TokenKind::Control;
            }
            ends.extend(stored.or(found).filter(|_| is_end));
        }
        for id in END_TEXTS.iter().filter_map(|text| self.by_text.get(text)) {
            kinds[*id as usize] = TokenKind::Control;
            ends.push(TokenId(*id));
        }
        for id in ALWAYS_SHOWN.iter().filter_map(|text| self.by_text.get(text)) {
            kinds[*id as usize] = TokenKind::UserDefined;
        }
        ends.extend(self.special("eos", default_eos)?);
        ends.extend(self.special("eot", None)?);
        ends.extend(self.special("eom", None)?);
        // In these formats <|end|> and </s> separate parts of one answer.
        let has = |text: &str| self.by_text.get(text).is_some_and(|&id| ends.contains(&TokenId(id)));
        let calls = has("<|call|>") || has("<|calls|>");
        let harmony = calls && (has("<|return|>") || has("<|flush|>"));
        let inner =
            [("<|end|>", harmony, TokenKind::UserDefined), ("</s>", has("<|tool_response>"), TokenKind::Normal)];
        for (text, is_inner, kind) in inner {
            if let (true, Some(&id)) = (is_inner, self.by_text.get(text)) {
                ends.retain(|&end| end != TokenId(id));
                kinds[id as usize] = kind;
            }
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }
}

fn all_bytes(
    texts: &StringArray,
    kinds: &[TokenKind],
    spelling: Spelling,
) -> Result<(Vec<u8>, Vec<usize>), TokenizerError> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(kinds.len()));
    for (index, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        match (kind, spelling) {
            (TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined, _) => {
                bytes.extend_from_slice(text.as_bytes());
            }
            (TokenKind::Normal, Spelling::ByteLevel) => byte_level::decode(text, &mut bytes),
            (TokenKind::Normal, Spelling::SentencePiece) => {
                bytes.extend_from_slice(text.replace('\u{2581}', " ").as_bytes());
            }
            (TokenKind::Byte, _) => bytes.push(byte_of(text).ok_or_else(|| {
                TokenizerError::invalid(format!("token {index}, of type byte"), "<0x00> to <0xFF>", format!("{text:?}"))
            })?),
            (TokenKind::Unused | TokenKind::Undefined, _) => {}
        }
        ends.push(bytes.len());
    }
    Ok((bytes, ends))
}

/// The byte that `<0xNN>` stands for.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
