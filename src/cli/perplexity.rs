//! `kiln perplexity`: how well a model predicts a text.

use std::path::PathBuf;

use clap::Args;
use kiln::runtime::RuntimeOptions;
use serde_json::json;

use super::args::{DeviceArgs, ModelArgs};
use super::progress::{self, Busy, Shown};
use super::streams::{print_line, read_text};
use super::{CliError, TEXT_WITH_BOS};

/// Measure perplexity over a text file, as llama-perplexity does
///
/// The text is cut into chunks of the context's length, each computed on its own. The second half of every chunk counts, so
/// that each counted token has at least half a context before it. If the model wants a BOS token, it replaces each chunk's
/// first one.
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// Text file
    file: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Context length in tokens: the size of a chunk
    #[arg(short, long = "ctx", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    ctx: u32,

    /// Chunks to measure at most [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: &PerplexityArgs) -> Result<(), CliError> {
    let text = read_text(&args.file)?;
    let options =
        RuntimeOptions { context_tokens: Some(args.ctx), logit_rows_max: 128, ..args.device.runtime_options() };
    let runtime = progress::open_runtime(&args.model.path()?, &options, Shown::Yes)?;
    let tokenizer = runtime.text().tokenizer();
    let busy = Busy::with("cutting the text into tokens", Shown::Yes);
    let ids = tokenizer.encode(&text, TEXT_WITH_BOS)?;
    drop(busy);
    let ctx = args.ctx as usize;
    let chunks = (ids.len() / ctx).min(args.chunks.map_or(usize::MAX, |n| n as usize));
    if chunks == 0 {
        return Err(CliError::usage(format!(
            "{}: expected at least {ctx} tokens, a chunk, found {}: give a longer text or a smaller --ctx",
            args.file.display(),
            ids.len()
        )));
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let bar = progress::bar(chunks as u64, "{bar:40} {pos}/{len} chunks  {msg}", "", Shown::Yes);
    let (mut nll, mut squares, mut count) = (0.0f64, 0.0f64, 0u64);
    for chunk in ids.chunks_exact(ctx).take(chunks) {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let scored = runtime.score(&chunk, 0)?;
        for token in scored[ctx / 2 + 1..].iter().flatten() {
            let loss = -f64::from(token.logprob);
            nll += loss;
            squares += loss * loss;
            count += 1;
        }
        bar.inc(1);
        bar.set_message(format!("perplexity {:.4}", (nll / count as f64).exp()));
    }
    bar.finish_and_clear();
    let mean = nll / count as f64;
    let perplexity = mean.exp();
    // Standard error of the mean loss, carried through the exponential.
    let variance = (squares / count as f64 - mean * mean).max(0.0);
    let error = if count > 1 { (variance / (count - 1) as f64).sqrt() * perplexity } else { 0.0 };
    if args.json {
        let all = json!({"perplexity": perplexity, "error": error, "tokens": count, "chunks": chunks, "ctx": ctx});
        return print_line(all);
    }
    print_line(format_args!("perplexity {perplexity:.4} ± {error:.4} over {count} tokens in {chunks} chunks of {ctx}"))
}
