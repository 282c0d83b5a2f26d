//! `kiln bench`: tokens per second against what the machine could do, in the columns of llama-bench and llama-batched-bench.

mod output;
mod parallel;
mod single;
pub(super) mod steps;

use std::path::PathBuf;

use clap::Args;
use kiln::device::{Device, Limits, MemoryUse};
use kiln::model::Program;
use kiln::runtime::{LoadedModel, OpenDevice};
use serde::Serialize;

use output::{Format, Output, Row};
use parallel::ParallelTest;
use single::Test;

use super::{CliError, DeviceArgs, bandwidth};

/// Measure prefill and decode speed of one sequence, or of many at once
///
/// Each test runs once to warm up and then `-r` times. Sampling (greedy) is inside the measured time; tokenisation is not
/// needed, since prompts are random ids. The table shows mean ± standard deviation, what moved per second, and the share of
/// the floor: the time that the stored weights and the cache take at the read bandwidth measured beside it, or at a GPU's peak.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// GGUF model file
    #[arg(short, long)]
    model: PathBuf,

    /// Prompt lengths to test (pp), comma separated; 0 leaves the test out
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,

    /// Generation lengths to test (tg), comma separated; 0 leaves the test out
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,

    /// Tokens already in the context before each test, comma separated
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,

    /// Repetitions of each test
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,

    /// Rows (tokens) of one prefill step
    #[arg(long = "ubatch-size", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8192))]
    ubatch_size: u32,

    /// Numbers of sequences that run at once, comma separated: each first computes a prompt of -p tokens, then samples -n
    #[arg(long, value_delimiter = ',', conflicts_with = "n_depth", value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Vec<u32>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,

    #[command(flatten)]
    device: DeviceArgs,
}

/// What is measured, under llama-bench's keys.
#[derive(Clone, Debug, Serialize)]
struct Subject {
    build_number: &'static str,
    cpu_info: String,
    backends: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    n_batch: u32,
    n_ubatch: u32,
    n_threads: u32,
    type_k: &'static str,
    type_v: &'static str,
    #[serde(flatten)]
    memory: MemoryUse,
}

/// What tests run on.
struct Machine {
    device: Box<dyn Device>,
    program: Program,
    subject: Subject,
    /// A GPU's by its memory's clock and width; else the measured read bandwidth of the same number of threads.
    peak_gbytes_per_s: f64,
}

/// A kind of test.
trait Measure: Copy {
    type Result: Row;

    /// What a device needs for all of `tests`.
    fn limits(tests: &[Self], args: &BenchArgs) -> Limits;

    /// Runs the test once to warm up, then `repetitions` times.
    fn measure(self, machine: &mut Machine, repetitions: u32) -> Result<Self::Result, CliError>;
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    match args.parallel.is_empty() {
        true => measure_all(args, &Test::all(args), "give -p or -n above 0"),
        false => measure_all(args, &ParallelTest::all(args), "--parallel takes -p and -n above 0"),
    }
}

fn measure_all<T: Measure>(args: &BenchArgs, tests: &[T], remedy: &str) -> Result<(), CliError> {
    if tests.is_empty() {
        return Err(CliError::usage(format!("nothing to test: {remedy}")));
    }
    let mut machine = Machine::open(args, &T::limits(tests, args))?;
    let mut out = Output::new(args.output);
    for test in tests {
        out.add(&test.measure(&mut machine, args.repetitions)?)?;
    }
    out.end()
}

impl Machine {
    fn open(args: &BenchArgs, limits: &Limits) -> Result<Machine, CliError> {
        let loaded = LoadedModel::open(&args.model)?;
        let program = Program::of(loaded.spec());
        let device = OpenDevice::open(args.device.choice())?;
        let peak = device.peak_gbytes_per_s();
        let device = loaded.prepare(&program, device, limits, &|_| {})?;
        // A GPU that cannot run the program leaves it to the CPU.
        let peak = peak.filter(|_| device.name().starts_with("cuda"));
        let subject = Subject {
            build_number: env!("CARGO_PKG_VERSION"),
            cpu_info: super::cpu_model(),
            backends: device.name(),
            model_filename: args.model.display().to_string(),
            model_type: loaded.description(),
            model_size: loaded.tensor_bytes(),
            model_n_params: loaded.num_parameters(),
            n_batch: args.ubatch_size,
            n_ubatch: args.ubatch_size,
            n_threads: limits.threads,
            type_k: limits.kv_cache_dtype.name(),
            type_v: limits.kv_cache_dtype.name(),
            memory: device.memory(),
        };
        let peak_gbytes_per_s = peak.unwrap_or_else(|| bandwidth::read_gbytes_per_s(limits.threads as usize));
        Ok(Machine { device, program, subject, peak_gbytes_per_s })
    }
}
