use super::super::vocab::{AddBos, Defaults, Spelling};
use super::*;
use crate::weights::{MetaArray, MetaValue, Metadata};
use proptest::prelude::*;
use std::time::Instant;

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

fn special(tokens: &[(String, i32)], name: &str) -> SpecialTokens {
    let texts = tokens.iter().map(|(text, _)| text.as_str()).collect();
    let types = tokens.iter().map(|(_, kind)| *kind).collect();
    let pairs = [
        ("general.name", MetaValue::from(name)),
        ("tokenizer.ggml.tokens", MetaValue::Array(MetaArray::String(texts))),
        ("tokenizer.ggml.token_type", MetaValue::Array(MetaArray::I32(types))),
    ];
    let defaults = Defaults { bos: None, eos: None, unknown: None, add_bos: AddBos::No };
    let metadata = Metadata::from_pairs(pairs).unwrap();
    SpecialTokens::of(&Vocab::from_metadata(&metadata, Spelling::SentencePiece, defaults).unwrap())
}

/// The rule as llama.cpp states it: each token in turn, longest first, over all text that is left.
fn naive<'t>(tokens: &[(String, i32)], text: &'t str, own: &[Range<usize>]) -> Vec<Fragment<'t>> {
    let mut order: Vec<usize> = (0..tokens.len()).filter(|&id| !tokens[id].0.is_empty()).collect();
    order.sort_by_key(|&id| Reverse(tokens[id].0.len()));
    let mut left: Vec<(usize, Option<TokenId>, &str)> = vec![(0, None, text)];
    for id in order {
        let (spelling, kind) = &tokens[id];
        let mut next = Vec::new();
        for (base, token, text) in left {
            let (mut from, mut search) = (0, 0);
            while let Some(found) = text[search..].find(spelling.as_str()).filter(|_| token.is_none()) {
                let (start, end) = (search + found, search + found + spelling.len());
                let inside = own.iter().any(|own| own.start <= base + start && base + end <= own.end);
                if *kind == USER_DEFINED || inside {
                    next.push((base + from, None, &text[from..start]));
                    next.push((base + start, Some(TokenId(id as u32)), &text[start..end]));
                    (from, search) = (end, end);
                } else {
                    search = start + text[start..].chars().next().unwrap().len_utf8();
                }
            }
            next.push((base + from, token, &text[from..]));
        }
        left = next;
    }
    let fragment = |(_, token, text)| match token {
        Some(id) => Some(Fragment::Token(id)),
        None => Some(Fragment::Text(text)).filter(|_| !text.is_empty()),
    };
    left.into_iter().filter_map(fragment).collect()
}

fn cut_into_ranges(text: &str, cuts: &[usize]) -> Vec<Range<usize>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_are_those_that_the_rule_takes_one_after_another(
        tokens in prop::collection::vec(("[ab<é]{1,7}|a{1,9}|(ab){1,4}", prop::sample::select(vec![CONTROL, USER_DEFINED])), 1..12),
        text in "[ab<é]{0,60}|a{0,60}|(ab?|b){0,40}",
        cuts in prop::collection::vec(any::<usize>(), 0..7),
    ) {
        let special = special(&tokens, "");
        for own in [Vec::from_iter([0..text.len()]), vec![], cut_into_ranges(&text, &cuts)] {
            prop_assert_eq!(special.split(&text, &own), naive(&tokens, &text, &own), "{:?}", own);
        }
    }
}

fn controls(texts: impl IntoIterator<Item = String>) -> Vec<(String, i32)> {
    texts.into_iter().map(|text| (text, CONTROL)).collect()
}

fn split_in_time(what: &str, tokens: &[(String, i32)], text: &str) -> usize {
    let special = special(tokens, "");
    let whole = [Range { start: 0, end: text.len() }];
    let split = || {
        let start = Instant::now();
        let count = special.split(text, &whole).len();
        (count, start.elapsed().as_secs_f64())
    };
    // The fastest counts: the machine may be busy with something else.
    let runs: Vec<_> = (0..3).map(|_| split()).collect();
    let took = runs.iter().map(|(_, took)| *took).fold(f64::INFINITY, f64::min);
    println!("{what}: {} bytes, {} tokens: {took:.3} s", text.len(), tokens.len());
    // A second when optimised; tests run with checks on.
    assert!(took < 3.0, "{what}: {took} s");
    runs[0].0
}

#[test]
fn no_vocabulary_makes_three_megabytes_slow() {
    const BYTES: usize = 3_000_000;
    let many = controls((0..100_000).map(|n| format!("<|reserved_special_token_{n:06}|>")));
    let near = "<|reserved_special_token_099999|".repeat(BYTES / 32);
    assert_eq!(split_in_time("near matches", &many, &near), 1);
    let hits = "<|reserved_special_token_099999|>".repeat(BYTES / 33);
    assert_eq!(split_in_time("matches", &many, &hits), BYTES / 33);
    let nested = controls((1..=2000).map(|n| "a".repeat(n)));
    assert_eq!(split_in_time("nested", &nested, &"a".repeat(BYTES)), BYTES / 2000);
    let broken = format!("{}b", "a".repeat(1999)).repeat(BYTES / 2000);
    assert_eq!(split_in_time("nested, interrupted", &nested, &broken), 2 * (BYTES / 2000));
    let single = controls(["a".to_owned()]);
    assert_eq!(split_in_time("single characters", &single, &"a".repeat(BYTES)), BYTES);
    let comb = controls((0..1000).map(|n| format!("{}b{}", "a".repeat(n), "a".repeat(1000 - n))));
    split_in_time("overlapping", &comb, &format!("{}b", "a".repeat(700)).repeat(BYTES / 701));
}

#[test]
fn some_tokens_swallow_white_space() {
    let tokens = controls(["<|user|>", "<s>"].map(str::to_owned));
    let text = "a <|user|> \n b <s> c";
    let split = |name: &str| special(&tokens, name).split(text, &[Range { start: 0, end: text.len() }]);
    let (user, bos) = (Fragment::Token(TokenId(0)), Fragment::Token(TokenId(1)));
    let texts = |a, b, c| [Fragment::Text(a), user, Fragment::Text(b), bos, Fragment::Text(c)];
    assert_eq!(split("Some model"), texts("a ", " \n b ", " c"));
    assert_eq!(split("Phi-3 mini"), texts("a ", "b ", " c"));
}
