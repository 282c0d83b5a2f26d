//! `kiln tokenize`: text to ids.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::Args;
use kiln::tokenizer::{EncodeOptions, Tokenizer};
use kiln::weights::GgufFile;

use super::CliError;

/// Show how a model's tokenizer cuts a text
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// Text; read from standard input if absent
    text: Option<String>,

    /// GGUF model file
    #[arg(short, long)]
    model: PathBuf,

    /// Print the ids as one JSON array
    #[arg(long)]
    json: bool,

    /// Take the text of special tokens, such as <|im_start|>, as plain text, and add no BOS
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let file = GgufFile::open(&args.model)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
    };
    let options = if args.plain { EncodeOptions::TEXT } else { EncodeOptions::PROMPT };
    let ids = tokenizer.encode(&text, options)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
        return Ok(());
    }
    for id in ids {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        writeln!(out, "{:>7}  {:?}", id, String::from_utf8_lossy(bytes))?;
    }
    Ok(())
}
