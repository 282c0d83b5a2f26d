//! `cargo xtask context-cost`: what a context's length costs in memory and time, as a table and plots for docs/performance.md.

use crate::compare::environment;
use crate::compare::table::{disturbance_in_words, line};
use crate::error::Error;
use crate::repo::Repo;
use crate::{compare, kiln, markers, model, process, progress};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args)]
pub struct ContextCostArgs {
    /// Context lengths from this one on, all its multiples.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    step: u32,
    /// The longest context.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// Runs of each test; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Replace the table and the plots between the markers of this file, for instance docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Tokens generated in front of the context's end.
const GENERATED: u32 = 32;

/// What a context of `tokens` costs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    tokens: u32,
    /// All of it, as one prompt.
    prefill_s: f64,
    /// One token, at the context's end.
    decode_ms: f64,
    cache_bytes: u64,
    workspace_bytes: u64,
}

/// What is read of `kiln bench -o json`.
#[derive(Deserialize)]
struct Test {
    samples_ns: Vec<u64>,
    kv_arena_bytes: u64,
    workspace_bytes: u64,
}

impl Test {
    fn median_ns(&self) -> f64 {
        compare::table::median(self.samples_ns.iter().map(|&ns| ns as f64))
    }
}

pub fn run(repo: &Repo, args: &ContextCostArgs) -> Result<(), Error> {
    let file = model::ensure_default_model(repo)?;
    let kiln = kiln::build(repo)?;
    let busy_cores = environment::busy_cores(Duration::from_millis(500));
    let lengths: Vec<u32> = (1..=args.max / args.step).map(|i| i * args.step).filter(|&n| n > GENERATED).collect();
    let bar = progress::steps("measuring contexts", lengths.len() as u64);
    let mut costs = Vec::new();
    for tokens in lengths {
        costs.push(measure(&kiln, &file, tokens, args)?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut text = format!("- Machine: {}\n- Command: `{}`\n", environment::machine(), compare::command_line());
    line(&mut text, &format!("- {} threads, medians of {} runs", args.threads, args.reps));
    line(&mut text, &format!("- {}", disturbance_in_words(busy_cores)));
    line(&mut text, "");
    text += &markdown(&costs);
    println!("{text}");
    match &args.write {
        Some(path) => markers::replace(&repo.root().join(path), "context-cost", &text),
        None => Ok(()),
    }
}

/// Two processes, each with a cache for this context and no more.
fn measure(kiln: &Path, file: &Path, tokens: u32, args: &ContextCostArgs) -> Result<Cost, Error> {
    let test = |n_prompt: u32, n_gen: u32, n_depth: u32| -> Result<Test, Error> {
        let mut command = Command::new(kiln);
        command.args(["bench", "--device", "cpu", "-o", "jsonl", "-m"]).arg(file);
        for (flag, value) in [("-p", n_prompt), ("-n", n_gen), ("-d", n_depth), ("-r", args.reps), ("-t", args.threads)]
        {
            command.arg(flag).arg(value.to_string());
        }
        let json = process::capture(&mut command)?;
        let line = json.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(line).map_err(|error| Error::Compare {
            subject: process::shown(&command),
            problem: format!("{error} in:\n{json}"),
        })
    };
    let prefill = test(tokens, 0, 0)?;
    let decode = test(0, GENERATED, tokens - GENERATED)?;
    Ok(Cost {
        tokens,
        prefill_s: prefill.median_ns() / 1e9,
        decode_ms: decode.median_ns() / 1e6 / f64::from(GENERATED),
        cache_bytes: prefill.kv_arena_bytes,
        workspace_bytes: prefill.workspace_bytes,
    })
}

/// The table and a plot of each of its three quantities.
fn markdown(costs: &[Cost]) -> String {
    let mut text =
        "| context | prefill, s | tokens/s | decode, ms per token | cache, MiB | workspace, MiB |\n".to_owned();
    line(&mut text, "|---:|---:|---:|---:|---:|---:|");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for &Cost { tokens, prefill_s, decode_ms, cache_bytes, workspace_bytes } in costs {
        let rate = f64::from(tokens) / prefill_s;
        let (cache, workspace) = (mib(cache_bytes), mib(workspace_bytes));
        let cells = format!("{prefill_s:.3} | {rate:.0} | {decode_ms:.2} | {cache:.1} | {workspace:.1}");
        line(&mut text, &format!("| {tokens} | {cells} |"));
    }
    text += &plot("Prefill of the whole context", "seconds", costs, |cost| cost.prefill_s);
    text += &plot("Decode at the end of the context", "ms per token", costs, |cost| cost.decode_ms);
    text += &plot("Memory: cache and workspace", "MiB", costs, |cost| mib(cost.cache_bytes + cost.workspace_bytes));
    text
}

/// A line chart in Mermaid, which what renders Markdown draws.
fn plot(title: &str, unit: &str, costs: &[Cost], value: impl Fn(&Cost) -> f64) -> String {
    let (Some(first), Some(last)) = (costs.first(), costs.last()) else { return String::new() };
    let top = costs.iter().map(&value).fold(0.0, f64::max);
    let values: Vec<String> = costs.iter().map(|cost| format!("{:.3}", value(cost))).collect();
    format!(
        "\n```mermaid\nxychart-beta\n    title \"{title}\"\n    x-axis \"tokens of context\" {} --> {}\n    y-axis \"{unit}\" 0 --> {top:.3}\n    line [{}]\n```\n",
        first.tokens,
        last.tokens,
        values.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(tokens: u32) -> Cost {
        let bytes = u64::from(tokens) << 20;
        let (prefill_s, decode_ms) = (f64::from(tokens) / 1000.0, f64::from(tokens) / 100.0);
        Cost { tokens, prefill_s, decode_ms, cache_bytes: bytes, workspace_bytes: 1 << 19 }
    }

    #[test]
    fn a_table_and_three_plots() {
        let text = markdown(&[cost(512), cost(1024)]);
        assert!(text.contains("| 512 | 0.512 | 1000 | 5.12 | 512.0 | 0.5 |\n"), "{text}");
        assert_eq!(text.matches("```mermaid").count(), 3);
        assert!(
            text.contains("512 --> 1024\n    y-axis \"ms per token\" 0 --> 10.240\n    line [5.120, 10.240]"),
            "{text}"
        );
    }

    #[test]
    fn what_bench_prints_is_read() {
        let test: Test = serde_json::from_str(
            r#"{"n_prompt":512,"samples_ns":[3,1,2],"weights_bytes":9,"kv_arena_bytes":7,"workspace_bytes":5}"#,
        )
        .unwrap();
        assert_eq!((test.median_ns(), test.kv_arena_bytes, test.workspace_bytes), (2.0, 7, 5));
    }
}
