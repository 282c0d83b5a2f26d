//! `cargo xtask compare-batch`: many sequences at once, kiln against llama-batched-bench on the same files with the same threads.

use super::environment;
use super::llama_tools::LlamaTools;
use super::table::{DISTURBED_CORES, compare, disturbance_in_words, line};
use super::{Format, command_line, versions};
use crate::error::Error;
use crate::repo::Repo;
use crate::{kiln, markers, model, process, progress};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args)]
pub struct BatchArgs {
    /// The llama-batched-bench to measure, with llama-quantize beside it; left out, both are built into .venv-llama-tools
    /// from the source that the llama-cpp-python of xtask/compare/requirements.txt carries (several minutes, once).
    #[arg(long, value_name = "PATH")]
    llama_batched_bench: Option<PathBuf>,
    /// Which formats, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum, ignore_case = true, default_value = "Q4_1,Q4_0")]
    formats: Vec<Format>,
    /// Numbers of sequences, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Vec<u32>,
    /// Runs of each engine per format; the medians are compared.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Threads of both engines.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Replace the table between the markers of this file, for instance docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Tokens of each sequence's prompt, and as many are generated.
const TOKENS: u32 = 64;

/// The number of sequences at which DESIGN.md section 8 sets a gate.
const GATED_PARALLEL: u32 = 16;

/// One line of either engine's result: tokens per second over all sequences.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
struct Rates {
    #[serde(alias = "pl")]
    parallel: u32,
    #[serde(alias = "speed_pp")]
    pp_ts: f64,
    #[serde(alias = "speed_tg")]
    tg_ts: f64,
    #[serde(alias = "speed")]
    total_ts: f64,
}

/// What both engines gave for one format and number of sequences, run by run: (kiln, llama.cpp).
struct Measured {
    format: Format,
    parallel: u32,
    pairs: Vec<(Rates, Rates)>,
}

pub fn run(repo: &Repo, args: &BatchArgs) -> Result<(), Error> {
    let source = model::ensure_default_model(repo)?;
    let kiln = kiln::build(repo)?;
    let tools = LlamaTools::ready(repo, args.llama_batched_bench.as_deref())?;
    let bar = progress::steps("comparing", args.formats.len() as u64 * u64::from(args.reps));
    let (mut measured, mut busy_most) = (Vec::new(), 0.0f64);
    for &format in &args.formats {
        bar.set_message(format!("comparing {}", format.name()));
        let file = format_file(repo, &tools, &source, format)?;
        let busy_cores = environment::busy_cores(Duration::from_millis(500));
        if busy_cores > DISTURBED_CORES {
            bar.println(format!("warning: other processes use {busy_cores:.2} cores; the ratios will mean little"));
        }
        busy_most = busy_most.max(busy_cores);
        let mut rounds = Vec::new();
        for rep in 0..args.reps {
            let ours = || run_kiln(&kiln, &file, args);
            let theirs = || run_llama(&tools, &file, args);
            // Every other round llama.cpp goes first.
            rounds.push(if rep.is_multiple_of(2) {
                (ours()?, theirs()?)
            } else {
                let theirs = theirs()?;
                (ours()?, theirs)
            });
            bar.inc(1);
        }
        for (i, &parallel) in args.parallel.iter().enumerate() {
            let pairs = rounds.iter().map(|(kiln, llama)| (kiln[i], llama[i])).collect();
            measured.push(Measured { format, parallel, pairs });
        }
    }
    bar.finish_and_clear();

    let mut text = format!("- Machine: {}\n- Command: `{}`\n", environment::machine(), command_line());
    for version in versions(repo, tools.description())? {
        line(&mut text, &format!("- {version}"));
    }
    let (threads, reps) = (args.threads, args.reps);
    line(&mut text, &format!("- {threads} threads, {reps} interleaved runs of each engine; tokens/s, medians"));
    line(&mut text, &format!("- {}", disturbance_in_words(busy_most)));
    line(&mut text, "");
    let columns = ["prompts", "generation", "both"].map(|what| format!("{what}: kiln | llama.cpp | ratio"));
    line(&mut text, &format!("| format | sequences | {} | gate | met |", columns.join(" | ")));
    line(&mut text, &format!("|---|{}---|", "---:|".repeat(11)));
    for row in &measured {
        line(&mut text, &row.to_markdown());
    }
    println!("{text}");
    match &args.write {
        Some(path) => markers::replace(&repo.root().join(path), "compare-batch", &text),
        None => Ok(()),
    }
}

impl Measured {
    /// Lowest ratio over prompts and generation together, where there is one.
    fn gate(&self) -> Option<f64> {
        match (self.parallel, self.format) {
            (GATED_PARALLEL, Format::Q4_1) => Some(4.0),
            (GATED_PARALLEL, Format::Q4_0) => Some(1.8),
            _ => None,
        }
    }

    fn to_markdown(&self) -> String {
        let rates: [fn(&Rates) -> f64; 3] = [|r| r.pp_ts, |r| r.tg_ts, |r| r.total_ts];
        let comparisons = rates.map(|rate| compare(&self.pairs, rate));
        let (gate, met) = match self.gate() {
            Some(gate) => (format!("{gate:.1}"), if comparisons[2].ratio >= gate { "yes" } else { "no" }),
            None => ("–".to_owned(), "–"),
        };
        let cells = comparisons.map(|comparison| comparison.to_cells()).join(" | ");
        format!("| {} | {} | {cells} | {gate} | {met} |", self.format.name(), self.parallel)
    }
}

fn run_kiln(kiln: &Path, file: &Path, args: &BatchArgs) -> Result<Vec<Rates>, Error> {
    let mut command = Command::new(kiln);
    command.args(["bench", "--device", "cpu", "-r", "1", "-o", "jsonl", "-m"]).arg(file);
    for (flag, value) in [("-p", TOKENS), ("-n", TOKENS), ("-t", args.threads)] {
        command.arg(flag).arg(value.to_string());
    }
    command.arg("--parallel").arg(comma_separated(&args.parallel));
    rates(&mut command, &args.parallel)
}

/// With the settings that `kiln bench` shares: steps of up to 512 rows, an f16 cache, flash attention where llama.cpp has it.
fn run_llama(tools: &LlamaTools, file: &Path, args: &BatchArgs) -> Result<Vec<Rates>, Error> {
    let mut command = Command::new(tools.batched_bench());
    command.args(["--output-format", "jsonl", "-b", "2048", "-ub", "512", "-m"]).arg(file);
    let context = args.parallel.iter().max().unwrap_or(&1) * 2 * TOKENS;
    let threads = args.threads;
    for (flag, value) in [("-c", context), ("-npp", TOKENS), ("-ntg", TOKENS), ("-t", threads), ("-tb", threads)] {
        command.arg(flag).arg(value.to_string());
    }
    command.arg("-npl").arg(comma_separated(&args.parallel));
    rates(&mut command, &args.parallel)
}

fn rates(command: &mut Command, parallel: &[u32]) -> Result<Vec<Rates>, Error> {
    let text = process::capture_silently(command)?;
    parse(&text, parallel).map_err(|problem| Error::Compare {
        subject: process::shown(command),
        problem: format!("{problem} in:\n{text}"),
    })
}

/// The lines of JSON of either engine, one per number of sequences and in this order.
fn parse(text: &str, parallel: &[u32]) -> Result<Vec<Rates>, String> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rates: Vec<Rates> = lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if !rates.iter().map(|rates| &rates.parallel).eq(parallel) {
        return Err(format!("results for {parallel:?} sequences were expected"));
    }
    let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
    match rates.iter().all(|r| is_rate(r.pp_ts) && is_rate(r.tg_ts) && is_rate(r.total_ts)) {
        true => Ok(rates),
        false => Err("a rate is no positive number".to_owned()),
    }
}

fn comma_separated(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The default model in its own format, else a file made from it by llama-quantize, every matrix in the named type, and kept in
/// `weights/formats` under the name that `make_formats.py` gives it.
fn format_file(repo: &Repo, tools: &LlamaTools, source: &Path, format: Format) -> Result<PathBuf, Error> {
    if format == Format::DEFAULT_MODEL {
        return Ok(source.to_path_buf());
    }
    let folder = repo.weights().join("formats");
    let file = folder.join(format!("SmolLM2-135M-Instruct-{}.gguf", format.name()));
    if file.is_file() {
        return Ok(file);
    }
    fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
    let partial = file.with_extension("part");
    let mut command = Command::new(tools.quantize());
    command.args(["--allow-requantize", "--pure"]).arg(source).arg(&partial).arg(format.llama_name());
    process::capture_silently(&mut command)?;
    fs::rename(&partial, &file).map_err(Error::io("renaming", &partial))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILN: &str =
        r#"{"model_type":"llama Q4_1","parallel":16,"n_prompt":64,"pp_ts":900.5,"tg_ts":500.0,"total_ts":640.0}"#;
    const LLAMA: &str = r#"{"n_kv_max": 8192, "pl": 16, "speed_pp": 100.5, "speed_tg": 90.0, "speed": 95.0, "t": 0.1}"#;

    #[test]
    fn both_engines_lines_are_read() {
        let (kiln, llama) = (parse(KILN, &[16]).unwrap(), parse(&format!("loading\n{LLAMA}\n"), &[16]).unwrap());
        assert_eq!(kiln, [Rates { parallel: 16, pp_ts: 900.5, tg_ts: 500.0, total_ts: 640.0 }]);
        assert_eq!(llama, [Rates { parallel: 16, pp_ts: 100.5, tg_ts: 90.0, total_ts: 95.0 }]);
    }

    #[test]
    fn what_is_missing_is_an_error() {
        assert!(parse(LLAMA, &[1, 16]).unwrap_err().contains("[1, 16]"));
        assert!(parse(&LLAMA.replace("95.0", "0.0"), &[16]).unwrap_err().contains("positive"));
        parse(r#"{"pl": 16}"#, &[16]).unwrap_err();
    }

    #[test]
    fn a_row_shows_ratios_and_the_gate_of_16_sequences() {
        let pairs = vec![(parse(KILN, &[16]).unwrap()[0], parse(LLAMA, &[16]).unwrap()[0])];
        let row = |format, parallel| Measured { format, parallel, pairs: pairs.clone() }.to_markdown();
        assert!(
            row(Format::Q4_1, 16).ends_with("| 640 | 95 | **6.74** (6.74–6.74) | 4.0 | yes |"),
            "{}",
            row(Format::Q4_1, 16)
        );
        assert!(row(Format::Q4_1, 4).ends_with("| – | – |"));
    }
}
