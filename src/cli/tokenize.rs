//! `kiln tokenize`: text to ids.

use std::io::{IsTerminal, Write};

use clap::Args;
use kiln::tokenizer::{EncodeOptions, Tokenizer};
use kiln::weights::GgufFile;

use super::CliError;
use super::args::ModelArgs;
use super::progress::{Busy, Shown};
use super::streams::read_stdin;

/// Show how a model's tokenizer cuts a text
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// Text; read from standard input, to its last byte, if absent
    text: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    /// Print the ids as one JSON array
    #[arg(long)]
    json: bool,

    /// Take the text of special tokens, such as <|im_start|>, as plain text, and add no BOS
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None if std::io::stdin().is_terminal() => {
            return Err(CliError::usage("no text: give one as the argument or on standard input"));
        }
        None => read_stdin()?,
    };
    let file = GgufFile::open(&args.model.path()?)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let options = if args.plain { EncodeOptions::TEXT } else { EncodeOptions::PROMPT };
    let busy = Busy::with("cutting the text into tokens", Shown::Yes);
    let ids = tokenizer.encode(&text, options)?;
    drop(busy);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    } else {
        for id in ids {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            writeln!(out, "{:>7}  {:?}", id, String::from_utf8_lossy(bytes))?;
        }
    }
    Ok(out.flush()?)
}
