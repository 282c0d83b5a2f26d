//! Finds special tokens in text.

use super::vocab::{TokenKind, Vocab};
use crate::ids::TokenId;
use std::collections::HashMap;

/// A piece of text to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// Which special tokens are looked for in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseSpecial {
    /// All of them: for rendered chat templates and prompts that mean what they spell.
    Yes,
    /// Only user-defined ones, which are ordinary text to a model; control tokens are encoded as the characters they
    /// are spelled with. For text from somebody who may not speak for the system.
    No,
}

/// The special tokens of a vocabulary.
pub(super) struct SpecialTokens {
    /// Longest text first.
    tokens: Vec<Special>,
    /// Their texts as a trie: from (node, byte) to node.
    edges: HashMap<(u32, u8), u32>,
    /// For each node, the index in `tokens` of the text that ends there.
    ends: Vec<Option<u32>>,
    /// Whether any text starts with the byte: most bytes of most texts need no more than this.
    starts: [bool; 256],
}

struct Special {
    text: String,
    id: TokenId,
    /// User-defined: matched even where control tokens are not.
    always: bool,
}

impl SpecialTokens {
    pub(super) fn of(vocab: &Vocab) -> SpecialTokens {
        let mut tokens = Vec::new();
        for (id, (text, kind)) in (0..).map(TokenId).zip(vocab.texts().iter().zip(vocab.kinds())) {
            let always = *kind == TokenKind::UserDefined;
            if !text.is_empty() && (always || matches!(kind, TokenKind::Control | TokenKind::Unknown)) {
                tokens.push(Special { text: text.to_owned(), id, always });
            }
        }
        tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        let mut special = SpecialTokens { tokens, edges: HashMap::new(), ends: vec![None], starts: [false; 256] };
        special.build_trie();
        special
    }

    fn build_trie(&mut self) {
        for (index, token) in self.tokens.iter().enumerate() {
            self.starts[usize::from(token.text.as_bytes()[0])] = true;
            let mut node = 0;
            for &byte in token.text.as_bytes() {
                let fresh = self.ends.len() as u32;
                node = *self.edges.entry((node, byte)).or_insert(fresh);
                if node == fresh {
                    self.ends.push(None);
                }
            }
            self.ends[node as usize] = Some(index as u32);
        }
    }

    /// Cuts `text` into tokens and the text between them. As in llama.cpp, longer tokens are taken out of the whole text
    /// before shorter ones, each from left to right.
    pub(super) fn split<'t>(&self, text: &'t str, parse: ParseSpecial) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        for index in self.occurring(text) {
            let Special { text: spelling, id, always } = &self.tokens[index];
            if !always && parse == ParseSpecial::No {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                while let Some(at) = rest.find(spelling.as_str()) {
                    if at > 0 {
                        cut.push(Fragment::Text(&rest[..at]));
                    }
                    cut.push(Fragment::Token(*id));
                    rest = &rest[at + spelling.len()..];
                }
                if !rest.is_empty() {
                    cut.push(Fragment::Text(rest));
                }
            }
            fragments = cut;
        }
        fragments
    }

    /// Indices of the tokens whose text occurs, ascending: one walk over the text, since vocabularies have hundreds of
    /// special tokens and texts have few.
    fn occurring(&self, text: &str) -> Vec<usize> {
        let mut found = vec![false; self.tokens.len()];
        let bytes = text.as_bytes();
        for start in (0..bytes.len()).filter(|&at| self.starts[usize::from(bytes[at])]) {
            let mut node = 0;
            for &byte in &bytes[start..] {
                let Some(&next) = self.edges.get(&(node, byte)) else { break };
                node = next;
                if let Some(index) = self.ends[node as usize] {
                    found[index as usize] = true;
                }
            }
        }
        (0..found.len()).filter(|&index| found[index]).collect()
    }
}
