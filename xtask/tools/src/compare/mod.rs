//! `cargo xtask compare-cpu`: kiln against llama.cpp on this machine, on the same files with the same threads.
//!
//! Runs alternate (A B, B A, A B, …), so that a machine that slows down or warms up slows both; medians are compared.
//! `docs/performance.md` explains the method.

mod bandwidth;
pub mod batch;
mod engines;
pub mod environment;
mod llama_tools;
pub mod table;

use crate::error::Error;
use crate::process;
use crate::progress;
use crate::repo::Repo;
use crate::{kiln, markers, model};
use bandwidth::ReadBandwidth;
use clap::ValueEnum;
use engines::{Kiln, Llama, Sample};
use environment::LlamaPython;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use table::{DISTURBED_CORES, Measured, Report, Round};

#[derive(clap::Args)]
pub struct CompareArgs {
    /// Measure llama.cpp with this llama-bench instead of the llama-cpp-python package.
    #[arg(long, value_name = "PATH")]
    llama_bench: Option<PathBuf>,
    /// An interpreter that has the packages of xtask/compare/requirements.txt; left out, they are installed into
    /// .venv-llama, llama.cpp built for this machine (several minutes, once).
    #[arg(long, value_name = "PATH")]
    llama_python: Option<PathBuf>,
    /// Which formats, separated by commas (default: all).
    #[arg(long, value_delimiter = ',', value_enum, ignore_case = true)]
    formats: Vec<Format>,
    /// Runs of each engine per format; the medians are compared.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Threads of both engines.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Replace the table between the markers of this file, for instance docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// A block format of weights, named as in GGUF.
#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
pub enum Format {
    #[value(name = "F32")]
    F32,
    #[value(name = "F16")]
    F16,
    #[value(name = "BF16")]
    BF16,
    #[value(name = "Q4_0")]
    Q4_0,
    #[value(name = "Q4_1")]
    Q4_1,
    #[value(name = "Q5_0")]
    Q5_0,
    #[value(name = "Q5_1")]
    Q5_1,
    #[value(name = "Q8_0")]
    Q8_0,
    #[value(name = "Q4_K")]
    Q4K,
    #[value(name = "Q5_K")]
    Q5K,
    #[value(name = "Q6_K")]
    Q6K,
}

/// Ratios kiln / llama.cpp that must be reached (DESIGN.md section 8).
#[derive(Clone, Copy)]
pub struct Gate {
    pub prefill: f64,
    pub decode: f64,
}

impl Format {
    /// The format that the default model comes in.
    const DEFAULT_MODEL: Format = Format::Q4_1;

    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What llama-quantize calls it: of the mixtures of K-quants, the one that is named after its smallest.
    fn llama_name(self) -> String {
        match self {
            Format::Q4K | Format::Q5K => self.name() + "_S",
            _ => self.name(),
        }
    }

    pub fn gate(self) -> Gate {
        match self {
            Format::Q4_1 => Gate { prefill: 4.5, decode: 1.4 },
            Format::Q4_0 => Gate { prefill: 1.5, decode: 1.1 },
            _ => Gate { prefill: 1.0, decode: 1.0 },
        }
    }
}

/// What both engines do in one run.
#[derive(Clone, Copy)]
pub struct Workload {
    pub n_prompt: u32,
    pub n_gen: u32,
    pub threads: u32,
}

/// A model file as `make_formats.py` reports it.
#[derive(Deserialize)]
struct FormatFile {
    path: PathBuf,
    /// How many tensors have which type: K-quants fall back where rows are no multiple of 256.
    tensor_types: BTreeMap<String, u32>,
    /// Of all tensors. With a tied head, as here, a decoded token reads each of them once.
    tensor_bytes: u64,
}

pub fn run(repo: &Repo, args: &CompareArgs) -> Result<(), Error> {
    let source = model::ensure_default_model(repo)?;
    let kiln = Kiln::new(kiln::build(repo)?);
    let python = LlamaPython::ready(repo, args.llama_python.as_deref())?;
    let mut llama = match &args.llama_bench {
        Some(path) => Llama::bench(path)?,
        None => Llama::package(&python)?,
    };
    let formats = if args.formats.is_empty() { Format::value_variants() } else { &args.formats };
    let workload = Workload { n_prompt: 512, n_gen: 128, threads: args.threads };

    let bandwidth = ReadBandwidth::new(args.threads);
    let bar = progress::steps("comparing", formats.len() as u64 * u64::from(args.reps));
    let mut rows = Vec::new();
    for &format in formats {
        bar.set_message(format!("comparing {}: making the file", format.name()));
        let file = format_file(repo, &python, &source, format)?;
        bar.set_message(format!("comparing {}", format.name()));
        llama.load(&file.path, workload)?;
        let busy_cores = environment::busy_cores(Duration::from_millis(500));
        if busy_cores > DISTURBED_CORES {
            bar.println(format!("warning: other processes use {busy_cores:.2} cores; the ratios will mean little"));
        }
        let mut rounds = Vec::new();
        for rep in 0..args.reps {
            let (kiln, llama) = neighbours(&kiln, &mut llama, &file.path, workload, rep)?;
            rounds.push(Round { kiln, llama, read_bytes_per_s: bandwidth.measure_bytes_per_s() });
            bar.inc(1);
        }
        let FormatFile { tensor_types, tensor_bytes, .. } = file;
        rows.push(Measured { format, tensor_types, tensor_bytes, busy_cores, rounds });
    }
    bar.finish_and_clear();

    let report = Report {
        command: command_line(),
        versions: versions(repo, llama.description())?,
        workload,
        reps: args.reps,
        rows,
    };
    let markdown = report.to_markdown();
    println!("{markdown}");
    match &args.write {
        Some(path) => markers::replace(&repo.root().join(path), "compare-cpu", &markdown),
        None => Ok(()),
    }
}

/// A run of kiln and one of llama.cpp right after each other; every other round llama.cpp goes first.
fn neighbours(
    kiln: &Kiln,
    llama: &mut Llama,
    file: &Path,
    workload: Workload,
    rep: u32,
) -> Result<(Sample, Sample), Error> {
    if rep.is_multiple_of(2) {
        let ours = kiln.measure(file, workload)?;
        Ok((ours, llama.measure()?))
    } else {
        let theirs = llama.measure()?;
        Ok((kiln.measure(file, workload)?, theirs))
    }
}

/// The default model itself in its own format, else a file made from it and kept in `weights/formats`.
fn format_file(repo: &Repo, python: &LlamaPython, source: &Path, format: Format) -> Result<FormatFile, Error> {
    let mut command = Command::new(python.path());
    command.arg(repo.root().join("xtask/compare/make_formats.py")).arg("--source").arg(source);
    command.arg("--out").arg(repo.weights().join("formats")).args(["--formats", &format.name()]);
    let line = process::capture(command.args(["--source-format", &Format::DEFAULT_MODEL.name()]))?;
    serde_json::from_str(&line)
        .map_err(|error| Error::Compare { subject: process::shown(&command), problem: format!("{error} in {line:?}") })
}

/// How this run was started. Of absolute paths only the file name: the table must not name one machine's folders.
pub fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| match Path::new(&word) {
        path if path.is_absolute() => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        _ => word,
    });
    format!("cargo xtask {}", words.collect::<Vec<_>>().join(" "))
}

fn versions(repo: &Repo, llama: &str) -> Result<Vec<String>, Error> {
    let git = |args: &[&str]| process::capture(Command::new("git").current_dir(repo.root()).args(args));
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=10"])?;
    let rustc = process::capture(Command::new("rustc").arg("--version"))?;
    Ok(vec![format!("kiln at {} ({})", commit.trim(), rustc.trim()), llama.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_carry_their_gguf_names() {
        let names: Vec<String> = Format::value_variants().iter().map(|format| format.name()).collect();
        assert_eq!(names.join(" "), "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K");
    }

    #[test]
    fn a_format_file_is_read_from_the_script_s_line() {
        let line = r#"{"format": "Q4_K", "path": "/a/b.gguf", "tensor_types": {"Q5_0": 181, "F32": 61, "Q4_K": 30}, "tensor_bytes": 9}"#;
        let file: FormatFile = serde_json::from_str(line).unwrap();
        assert_eq!((file.path, file.tensor_types["Q4_K"]), (PathBuf::from("/a/b.gguf"), 30));
    }
}
