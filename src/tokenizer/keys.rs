//! The tokenizer's metadata keys that no code reads, and at which values they leave token ids as they are. Keys that are neither
//! read nor listed are checked for their structure only: `remove_extra_whitespaces`, for one, is of Unigram vocabularies, which are
//! refused by name; in others every space counts, as in llama.cpp.

use super::TokenizerError;
use crate::weights::Neutral::{Empty, Flag};
use crate::weights::{KeyRule, Metadata};

const PREFIX: &str = "tokenizer.ggml.";

#[rustfmt::skip]
const UNREAD: &[KeyRule] = &[
    KeyRule { key: "precompiled_charsmap", neutral: Empty, why: "text is not normalised before it is tokenised" },
    KeyRule { key: "escape_whitespaces", neutral: Flag(true), why: "SentencePiece vocabularies spell a space as U+2581" },
    KeyRule { key: "treat_whitespace_as_suffix", neutral: Flag(false), why: "a space belongs to the word behind it" },
    KeyRule { key: "normalizer.lowercase", neutral: Flag(false), why: "text is not normalised before it is tokenised" },
    KeyRule { key: "normalizer.strip_accents", neutral: Flag(false), why: "text is not normalised before it is tokenised" },
    KeyRule { key: "add_sep_token", neutral: Flag(false), why: "separators between texts are not supported" },
    KeyRule { key: "suppress_tokens", neutral: Empty, why: "all tokens can be chosen" },
];

/// Refuses values that would change ids.
pub(super) fn refuse_unread(metadata: &Metadata) -> Result<(), TokenizerError> {
    for rule in UNREAD {
        let key = format!("{PREFIX}{}", rule.key);
        if let Some(value) = metadata.get(&key) {
            rule.check(&key, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{MetaArray, MetaValue};

    #[test]
    fn what_would_change_ids_is_refused_by_name() {
        let cases: [(&str, MetaValue, MetaValue); 7] = [
            ("precompiled_charsmap", MetaArray::U8(vec![]).into(), MetaArray::U8(vec![1]).into()),
            ("escape_whitespaces", true.into(), false.into()),
            ("treat_whitespace_as_suffix", false.into(), MetaValue::RawBool(2)),
            ("normalizer.lowercase", false.into(), true.into()),
            ("normalizer.strip_accents", false.into(), 1u32.into()),
            ("add_sep_token", false.into(), true.into()),
            ("suppress_tokens", MetaArray::I32(vec![]).into(), MetaArray::I32(vec![3]).into()),
        ];
        assert_eq!(cases.len(), UNREAD.len());
        for (key, fine, wrong) in cases {
            let check = |value: MetaValue| {
                refuse_unread(&Metadata::from_pairs([(format!("tokenizer.ggml.{key}"), value)]).unwrap())
            };
            check(fine).unwrap();
            let error = check(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("metadata key tokenizer.ggml.{key}: expected ")), "{error}");
        }
    }
}
