//! The default model's tokenizer against ids that llama.cpp gave.

use kiln::ids::TokenId;
use kiln::tokenizer::{EncodeOptions, SpecialText, Tokenizer};
use kiln::weights::GgufFile;
use serde::Deserialize;
use std::path::Path;

fn default_model() -> GgufFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run cargo xtask test", path.display());
    GgufFile::open(&path).unwrap()
}

#[derive(Deserialize)]
struct Generation {
    prompt: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    text: String,
}

fn generations() -> Vec<Generation> {
    serde_json::from_str(include_str!("../golden/smollm2-q4_1-greedy.json")).unwrap()
}

#[test]
fn prompts_have_the_ids_that_llama_cpp_gives_them() {
    let tokenizer = Tokenizer::from_metadata(default_model().metadata()).unwrap();
    let generations = generations();
    assert_eq!(generations.len(), 30);
    for Generation { prompt, prompt_ids, .. } in generations {
        assert_eq!(tokenizer.encode(&prompt, EncodeOptions::PROMPT).unwrap(), prompt_ids, "{prompt:?}");
    }
}

#[test]
fn generated_ids_have_the_text_that_llama_cpp_gives_them() {
    let tokenizer = Tokenizer::from_metadata(default_model().metadata()).unwrap();
    for Generation { prompt, output_ids, text, .. } in generations() {
        assert_eq!(tokenizer.decode(&output_ids, SpecialText::Skip), text, "{prompt:?}");
    }
}
