//! Every tokenizer against ids that llama.cpp gave tables of odd strings: recorded by `xtask/goldens/tokens.py` and
//! `xtask/goldens/pretokenizers.py`, and those that come with llama.cpp's own vocabularies.

use kiln::ids::TokenId;
use kiln::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial, Tokenizer};
use kiln::weights::{GgufFile, MetaArray, MetaValue, Metadata};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
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
    let adds_eos = serde_json::from_str::<Value>(&golden(name)).unwrap()["metadata"]["add_eos_token"] == true;
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
            // llama.cpp appends EOS where a file asks for it; kiln never does.
            let eos = tokenizer.eos().filter(|_| adds_eos && add_special == AddSpecial::Yes);
            let expected = match (expected.split_last(), eos) {
                (Some((last, rest)), Some(eos)) if *last == eos => rest.to_vec(),
                _ => expected.clone(),
            };
            let found = tokenizer.encode(text, EncodeOptions { add_special, parse_special }).unwrap();
            if found != expected {
                let spelled = |ids: &[TokenId]| {
                    format!("{:?}", ids.iter().map(|&id| tokenizer.token_text(id)).collect::<Vec<_>>())
                };
                differences.push(format!(
                    "{text:?} (add {add_special:?}, parse {parse_special:?}):\n  expected {}\n  found    {}",
                    spelled(&expected),
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

/// What `pretokenizers.json` holds; its script says what it means.
#[derive(Deserialize)]
struct PreTokenizers {
    strings: Vec<String>,
    names: BTreeMap<String, Named>,
    recipes: Vec<Recipe>,
    ids_bpe: Vec<Vec<Vec<TokenId>>>,
    ids_raw: Vec<Vec<Vec<TokenId>>>,
}

#[derive(Deserialize)]
struct Named {
    recipe: usize,
    bos: i64,
    add_bos: bool,
}

#[derive(Deserialize)]
struct Recipe {
    vocab: String,
    of: Vec<usize>,
}

fn with_pre(vocab: &Value, pre: &str) -> Tokenizer {
    let vocab = vocab.as_object().unwrap().iter().map(|(key, value)| (key.as_str(), meta_value(value)));
    let pairs = vocab.chain([("model", "gpt2".into()), ("pre", pre.into()), ("eos_token_id", 0u32.into())]);
    let pairs = pairs.map(|(key, value): (&str, MetaValue)| (format!("tokenizer.ggml.{key}"), value));
    Tokenizer::from_metadata(&Metadata::from_pairs(pairs).unwrap()).unwrap()
}

/// Compares every name; the rows of the table in `docs/tokenizers.md`, and the differences in words.
fn compare_names(recorded: &PreTokenizers) -> (String, Vec<String>) {
    let vocab = |name| serde_json::from_str::<Value>(&golden(name)).unwrap();
    let (bpe, raw) = (vocab("vocab_bpe"), vocab("vocab_raw"));
    let mut rows: BTreeMap<usize, (Vec<&str>, usize)> = BTreeMap::new();
    let mut differences = Vec::new();
    for (name, Named { recipe, bos, add_bos }) in &recorded.names {
        let Recipe { vocab, of } = &recorded.recipes[*recipe];
        let (vocab, ids) = if vocab == "raw" { (&raw, &recorded.ids_raw) } else { (&bpe, &recorded.ids_bpe) };
        let tokenizer = with_pre(vocab, name);
        assert_eq!(tokenizer.add_bos(), *add_bos, "{name}");
        assert_eq!(tokenizer.bos().map_or(-1, |bos| i64::from(bos.0)), *bos, "{name}");
        let (names, differing) = rows.entry(*recipe).or_default();
        names.push(name);
        for ((text, choices), choice) in recorded.strings.iter().zip(ids).zip(of) {
            let (found, expected) = (tokenizer.encode(text, EncodeOptions::TEXT).unwrap(), &choices[*choice]);
            if found != *expected {
                let texts =
                    |ids: &[TokenId]| ids.iter().map(|&id| tokenizer.token_text(id).unwrap()).collect::<Vec<_>>();
                let (expected, found) = (texts(expected), texts(&found));
                differences.push(format!("{name}: {text:?}\n  expected {expected:?}\n  found    {found:?}"));
                *differing += 1;
            }
        }
    }
    let mut table = String::from("| names | strings | differ |\n|---|---:|---:|\n");
    for (names, differing) in rows.values() {
        let strings = recorded.strings.len();
        writeln!(table, "| {} | {strings} | {differing} |", names.join(", ")).unwrap();
    }
    (table, differences)
}

/// `KILN_WRITE_DOCS=1` writes the table; otherwise it must be there already.
fn in_docs(marker: &str, table: &str) {
    let path = root().join("docs/tokenizers.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {marker}: begin -->\n"), format!("<!-- {marker}: end -->"));
    let start = text.find(&begin).expect("a marker in docs/tokenizers.md") + begin.len();
    let stop = text.find(&end).expect("a marker in docs/tokenizers.md");
    if std::env::var_os("KILN_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &text[..start], &text[stop..])).unwrap();
    } else {
        assert_eq!(&text[start..stop], table, "docs/tokenizers.md is stale: run this test with KILN_WRITE_DOCS=1");
    }
}

#[test]
fn every_pre_tokenizer_gives_the_ids_that_llama_cpp_gives_under_its_name() {
    let recorded: PreTokenizers = serde_json::from_str(&golden("pretokenizers")).unwrap();
    assert!(recorded.names.len() >= 90 && recorded.strings.len() >= 60);
    let (table, differences) = compare_names(&recorded);
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
    in_docs("pre-tokenizers", &table);
}

/// The vocabularies of real models in llama.cpp's repository: kind of tokenizer, and whether strings with ids come with it.
const VOCABULARIES: [(&str, &str, bool); 17] = [
    ("aquila", "byte pairs", false),
    ("baichuan", "SentencePiece", false),
    ("command-r", "byte pairs", true),
    ("deepseek-coder", "byte pairs", true),
    ("deepseek-llm", "byte pairs", true),
    ("falcon", "byte pairs", true),
    ("gemma-4", "byte pairs", true),
    ("gpt-2", "byte pairs", true),
    ("gpt-neox", "byte pairs", false),
    ("llama-bpe", "byte pairs", true),
    ("llama-spm", "SentencePiece", true),
    ("mpt", "byte pairs", true),
    ("phi-3", "SentencePiece", true),
    ("qwen2", "byte pairs", true),
    ("qwen35", "byte pairs", true),
    ("refact", "byte pairs", true),
    ("starcoder", "byte pairs", true),
];

#[test]
fn vocabularies_of_real_models_give_the_ids_recorded_beside_them() {
    let folder = root().join("target/references/llama.cpp/models");
    assert!(folder.exists(), "{} is missing: run cargo xtask setup", folder.display());
    let mut table = String::from("| vocabulary | tokenizer | tokens | strings | differ |\n|---|---|---:|---:|---:|\n");
    for (name, kind, recorded) in VOCABULARIES {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::from_metadata(GgufFile::open(&path).unwrap().metadata()).unwrap();
        let (mut strings, mut differences) = (0, Vec::new());
        if recorded {
            let read = |ending: &str| std::fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
            let (inputs, outputs) = (read("inp"), read("out"));
            // Most files end with a separator.
            let separator = "\n__ggml_vocab_test__\n";
            let inputs: Vec<&str> = inputs.strip_suffix(separator).unwrap_or(&inputs).split(separator).collect();
            let outputs: Vec<&str> = outputs.lines().collect();
            assert_eq!(inputs.len(), outputs.len(), "{name}");
            for (text, ids) in inputs.iter().zip(outputs) {
                let expected: Vec<TokenId> = ids.split_whitespace().map(|id| TokenId(id.parse().unwrap())).collect();
                let found = tokenizer.encode(text, EncodeOptions::TEXT).unwrap();
                strings += 1;
                differences.extend((found != expected).then(|| format!("{text:?}: {expected:?}, {found:?}")));
            }
        }
        assert!(differences.is_empty(), "{name}: {}", differences.join("\n"));
        let tokens = tokenizer.vocab_size();
        writeln!(table, "| {name} | {kind} | {tokens} | {strings} | {} |", differences.len()).unwrap();
    }
    in_docs("vocabularies", &table);
}

#[test]
fn tokenizers_that_kiln_lacks_are_refused_by_name() {
    let folder = root().join("target/references/llama.cpp/models");
    for name in ["bert-bge", "nomic-bert-moe"] {
        let file = GgufFile::open(&folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
        let error = Tokenizer::from_metadata(file.metadata()).unwrap_err().to_string();
        assert!(error.contains("gpt2, gemma4 or llama"), "{error}");
    }
}
