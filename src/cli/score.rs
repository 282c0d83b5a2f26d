//! `kiln score`: log-probabilities of given text.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::Args;
use kiln::ids::TokenId;
use kiln::runtime::{Runtime, RuntimeOptions};
use serde::{Deserialize, Serialize};

use super::{CliError, DeviceArgs, TEXT_WITH_BOS};

/// Give the log-probability of every token of given texts (teacher forcing)
///
/// Reads JSON lines from standard input, `{"text": "…"}` or `{"ids": [1, 2]}`, and writes a JSON line for each:
/// `{"ids", "logprobs", "top"}`, with the best tokens of every position as `[id, logprob]` pairs and null at position 0.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// GGUF model file
    #[arg(short, long)]
    model: PathBuf,

    /// Report the N most likely tokens of every position
    #[arg(long = "top", default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    top: u32,

    /// Context length in tokens [default: what the model was trained for]
    #[arg(short, long = "ctx-size")]
    ctx_size: Option<u32>,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: Option<String>,
    ids: Option<Vec<TokenId>>,
}

#[derive(Debug, Serialize)]
struct Scored {
    ids: Vec<TokenId>,
    logprobs: Vec<Option<f32>>,
    top: Vec<Option<Vec<(TokenId, f32)>>>,
}

/// Runs the command.
pub fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let options =
        RuntimeOptions { context_tokens: args.ctx_size, logit_rows_max: 128, ..args.device.runtime_options() };
    let runtime = Runtime::open(&args.model, &options)?;
    let mut out = std::io::stdout().lock();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let at = |message: String| CliError::usage(format!("line {}: {message}", number + 1));
        let parsed: Line = serde_json::from_str(&line).map_err(|e| at(e.to_string()))?;
        let ids = match (parsed.text, parsed.ids) {
            (Some(text), None) => runtime.text().tokenizer().encode(&text, TEXT_WITH_BOS)?,
            (None, Some(ids)) => ids,
            _ => return Err(at("expected either \"text\" or \"ids\"".into())),
        };
        let scored = runtime.score(&ids, args.top).map_err(|e| at(e.to_string()))?;
        let logprobs = scored.iter().map(|s| s.as_ref().map(|s| s.logprob)).collect();
        let top = scored.into_iter().map(|s| s.map(|s| s.top)).collect();
        writeln!(out, "{}", serde_json::to_string(&Scored { ids, logprobs, top })?)?;
        out.flush()?;
    }
    Ok(())
}
