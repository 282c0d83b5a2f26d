//! What a request says stays text: control tokens come only from where the template itself speaks.

use kiln::ids::TokenId;
use kiln::tokenizer::{EncodeOptions, Tokenizer};
use kiln::weights::{MetaArray, MetaValue, Metadata};
use proptest::prelude::*;

const TOKENS: [(&str, i32); 6] =
    [("<s>", 3), ("<|user|>", 3), ("<|eos|>", 3), ("<think>", 4), ("<|unknown|>", 2), ("ab", 1)];
const BOS: TokenId = TokenId(256);
const USER: TokenId = TokenId(257);
const EOS: TokenId = TokenId(258);
const THINK: TokenId = TokenId(259);

/// SentencePiece with a token for each byte and those above; the file asks for BOS and EOS.
fn tokenizer() -> Tokenizer {
    let tokens = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).chain(TOKENS.map(|(text, _)| text.to_owned()));
    let types = std::iter::repeat_n(6, 256).chain(TOKENS.map(|(_, kind)| kind)).collect();
    let pairs = [
        ("tokenizer.ggml.model", MetaValue::from("llama")),
        ("tokenizer.ggml.tokens", MetaValue::Array(MetaArray::String(tokens.collect()))),
        ("tokenizer.ggml.token_type", MetaValue::Array(MetaArray::I32(types))),
        ("tokenizer.ggml.bos_token_id", MetaValue::from(BOS.0)),
        ("tokenizer.ggml.eos_token_id", MetaValue::from(EOS.0)),
        ("tokenizer.ggml.add_bos_token", MetaValue::from(true)),
        ("tokenizer.ggml.add_eos_token", MetaValue::from(true)),
        ("tokenizer.ggml.add_space_prefix", MetaValue::from(false)),
    ];
    Tokenizer::from_metadata(&Metadata::from_pairs(pairs).unwrap()).unwrap()
}

/// `[…]` marks what the template says.
fn encode(marked: &str) -> Vec<TokenId> {
    let (mut text, mut own) = (String::new(), Vec::new());
    for (index, part) in marked.split(['[', ']']).enumerate() {
        let start = text.len();
        text.push_str(part);
        if index % 2 == 1 {
            own.push(start..text.len());
        }
    }
    tokenizer().encode_template(&text, &own).unwrap()
}

fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| TokenId(byte.into())).collect()
}

#[test]
fn a_control_token_is_found_only_where_the_template_says_all_of_it() {
    assert_eq!(encode("[<s><|user|>]x<|eos|>[<|eos|>]"), [vec![BOS, USER], bytes("x<|eos|>"), vec![EOS]].concat());
    for marked in ["[<s>]<|us[er|>]", "[<s><|us]er|>", "[<s><|]u[ser|>]", "[<s>]<|user|>"] {
        assert_eq!(encode(marked), [vec![BOS], bytes("<|user|>")].concat(), "{marked}");
    }
    assert_eq!(encode("[<s>]a<|unknown|>"), [vec![BOS], bytes("a<|unknown|>")].concat());
}

#[test]
fn user_defined_tokens_are_found_everywhere_and_words_cross_borders() {
    assert_eq!(encode("[<s>]x<think>"), [vec![BOS], bytes("x"), vec![THINK]].concat());
    assert_eq!(encode("[<s>]<th[ink>]"), [BOS, THINK]);
    assert_eq!(encode("[<s>a]b"), [BOS, TokenId(261)]);
}

#[test]
fn bos_comes_once_and_eos_never() {
    let tokenizer = tokenizer();
    assert_eq!(encode("x"), [BOS, TokenId(u32::from(b'x'))]);
    assert_eq!(encode("[<s>]x"), encode("x"));
    assert_eq!(tokenizer.encode("<s>x", EncodeOptions::PROMPT).unwrap(), encode("x"));
    assert_eq!(tokenizer.encode("x<|eos|>", EncodeOptions::PROMPT).unwrap().last(), Some(&EOS));
    // A message that spells BOS is not the beginning of the prompt.
    assert_eq!(encode("<s>"), [vec![BOS], bytes("<s>")].concat());
    assert_eq!(tokenizer.encode("x", EncodeOptions::TEXT).unwrap(), bytes("x"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_own_text_there_are_no_control_tokens_and_with_only_own_text_all(
        parts in prop::collection::vec("<s>|<\\|user\\|>|<\\|eos\\|>|<think>|[ab<|>é]{0,3}", 0..12),
    ) {
        let (tokenizer, text) = (tokenizer(), parts.concat());
        let none = tokenizer.encode_template(&text, &[]).unwrap();
        prop_assert!(none.iter().skip(1).all(|&id| !tokenizer.is_special(id)));
        let whole = std::iter::once(0..text.len()).collect::<Vec<_>>();
        let all = tokenizer.encode_template(&text, &whole).unwrap();
        prop_assert_eq!(all, tokenizer.encode(&text, EncodeOptions::PROMPT).unwrap());
    }
}
