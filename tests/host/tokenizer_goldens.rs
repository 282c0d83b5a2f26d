//! Every tokenizer against ids that llama.cpp gave a table of odd strings (recorded by `xtask/goldens/tokens.py`).

use kiln::ids::TokenId;
use kiln::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial, Tokenizer};
use kiln::weights::{GgufFile, MetaArray, MetaValue, Metadata};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

const VARIANTS: [&str; 7] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "default", "llama", "llama-no-prefix"];

#[derive(Deserialize)]
struct Recorded {
    ends: Vec<TokenId>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    plain: Vec<TokenId>,
    parsed: Option<Vec<TokenId>>,
    added: Option<Vec<TokenId>>,
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens").join(format!("{name}.json"));
    std::fs::read_to_string(path).unwrap()
}

fn strings() -> Vec<String> {
    serde_json::from_str(&golden("strings")).unwrap()
}

fn default_model() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run cargo xtask test", path.display());
    Tokenizer::from_metadata(GgufFile::open(&path).unwrap().metadata()).unwrap()
}

/// The tokenizer of a recorded variant.
fn variant(name: &str) -> Tokenizer {
    let variant: Value = serde_json::from_str(&golden(name)).unwrap();
    let vocab: Value = serde_json::from_str(&golden(&format!("vocab_{}", variant["vocab"].as_str().unwrap()))).unwrap();
    let pairs = [&variant["metadata"], &vocab].into_iter().flat_map(|object| object.as_object().unwrap());
    let pairs = pairs.map(|(key, value)| (format!("tokenizer.ggml.{key}"), meta_value(value)));
    Tokenizer::from_metadata(&Metadata::from_pairs(pairs).unwrap()).unwrap()
}

fn meta_value(value: &Value) -> MetaValue {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => u32::try_from(number.as_u64().unwrap()).unwrap().into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => MetaValue::Array(match &items[0] {
            Value::String(_) => MetaArray::String(items.iter().map(|item| item.as_str().unwrap()).collect()),
            Value::Number(number) if number.is_f64() => {
                MetaArray::F32(items.iter().map(|item| item.as_f64().unwrap() as f32).collect())
            }
            _ => MetaArray::I32(items.iter().map(|item| item.as_i64().unwrap() as i32).collect()),
        }),
        other => panic!("no metadata: {other}"),
    }
}

/// Every string in every way of encoding; all differences are reported together.
fn check(name: &str, tokenizer: &Tokenizer) {
    let recorded: Recorded = serde_json::from_str(&golden(name)).unwrap();
    let strings = strings();
    assert!(strings.len() >= 100);
    assert_eq!(recorded.cases.len(), strings.len(), "{name}");
    let mut differences = Vec::new();
    for (text, case) in strings.iter().zip(&recorded.cases) {
        for (add_special, parse_special, expected) in [
            (AddSpecial::No, ParseSpecial::No, &case.plain),
            (AddSpecial::No, ParseSpecial::Yes, case.parsed.as_ref().unwrap_or(&case.plain)),
            (AddSpecial::Yes, ParseSpecial::Yes, case.added.as_ref().unwrap_or(&case.plain)),
        ] {
            let found = tokenizer.encode(text, EncodeOptions { add_special, parse_special }).unwrap();
            if found != *expected {
                let spelled = |ids: &[TokenId]| {
                    format!("{:?}", ids.iter().map(|&id| tokenizer.token_text(id)).collect::<Vec<_>>())
                };
                differences.push(format!(
                    "{text:?} (add {add_special:?}, parse {parse_special:?}):\n  expected {}\n  found    {}",
                    spelled(expected),
                    spelled(&found)
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{name}: {} differences\n{}", differences.len(), differences.join("\n"));
    assert_eq!(tokenizer.end_ids(), recorded.ends, "{name}");
    assert!(recorded.ends.iter().all(|&id| tokenizer.is_end(id) && tokenizer.is_special(id)), "{name}");
}

#[test]
fn the_default_model_encodes_odd_strings_as_llama_cpp_does() {
    check("smollm2", &default_model());
}

#[test]
fn every_kind_of_tokenizer_encodes_odd_strings_as_llama_cpp_does() {
    for name in VARIANTS {
        check(name, &variant(name));
    }
}

/// One MiB of each class of characters, in every tokenizer: nothing is quadratic in the length of a word.
#[test]
fn a_mebibyte_of_one_class_of_characters_takes_under_two_seconds() {
    const CLASSES: [(&str, &str); 14] = [
        ("one letter", "a"),
        ("letters", "abcdefghijklmnopqrstuvwxyz"),
        ("digits", "1234567890"),
        ("spaces", " "),
        ("spaces before a letter", "        x"),
        ("newlines", "\n"),
        ("lines of spaces", " \n"),
        ("punctuation", "!?.,-"),
        ("apostrophes", "'s"),
        ("emoji", "😀👩\u{200D}👩"),
        ("CJK", "日本語漢字"),
        ("combining marks", "\u{301}\u{302}"),
        ("control characters", "\0\u{7}"),
        ("special tokens", "<|im_end|>"),
    ];
    // The last variant differs from the one before in its flags only.
    let tokenizers = VARIANTS[..6].iter().map(|name| (*name, variant(name))).chain([("smollm2", default_model())]);
    for (name, tokenizer) in tokenizers {
        for (class, unit) in CLASSES {
            let text = unit.repeat((1 << 20) / unit.len());
            let encode = || {
                let start = Instant::now();
                let options = EncodeOptions { add_special: AddSpecial::No, parse_special: ParseSpecial::Yes };
                let ids = tokenizer.encode(&text, options).unwrap();
                let took = start.elapsed();
                // Nothing got lost: but a vocabulary here lacks one byte, and SentencePiece adds spaces.
                let bytes: usize = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap().len()).sum();
                assert!(
                    bytes >= text.len() / 2 && bytes <= text.len() + text.len() / 10 + 1,
                    "{name}: {class}: {bytes}"
                );
                took.as_secs_f64()
            };
            // Again only where the machine may have been busy with something else: the fastest counts.
            let mut took = encode();
            for _ in 0..3 {
                took = if took < 1.0 { took } else { took.min(encode()) };
            }
            println!("{name}: {class}: {took:.3} s");
            assert!(took < 2.0, "{name}: {class}: {took} s");
        }
    }
}
