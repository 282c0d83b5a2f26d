//! Every tokenizer against ids that llama.cpp gave a table of odd strings (recorded by `xtask/goldens/tokens.py`).
#![allow(clippy::unwrap_used)]

use kiln::ids::TokenId;
use kiln::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial, Tokenizer};
use kiln::weights::{GgufFile, MetaArray, MetaValue, Metadata};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run cargo xtask test", path.display());
    check("smollm2", &Tokenizer::from_metadata(GgufFile::open(&path).unwrap().metadata()).unwrap());
}

#[test]
fn every_kind_of_tokenizer_encodes_odd_strings_as_llama_cpp_does() {
    for name in VARIANTS {
        check(name, &variant(name));
    }
}
