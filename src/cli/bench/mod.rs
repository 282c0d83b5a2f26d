//! `kiln bench`: tokens per second against what the machine could do, in the columns of llama-bench and llama-batched-bench.

mod output;
mod parallel;
mod single;
pub(super) mod steps;

use clap::Args;
use kiln::device::{Device, MemoryUse};
use kiln::model::Program;
use kiln::runtime::{LoadedModel, OpenDevice};
use serde::Serialize;

use output::{Format, Output, Row};
use parallel::ParallelTest;
use single::Test;

use steps::Extent;

use super::args::{DeviceArgs, ModelArgs, StepArgs};
use super::progress::{self, Loading, Shown};
use super::{CliError, bandwidth};

/// Measure prefill and decode speed of one sequence, or of many at once
///
/// Each test runs once to warm up and then `-r` times. Sampling (greedy) is inside the measured time; tokenisation is not
/// needed, since prompts are random ids. The table shows mean ± standard deviation, what moved per second, and the share of
/// the floor: the time that the stored weights and the cache take at the read bandwidth measured beside it, or at a GPU's peak.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,

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

    #[command(flatten)]
    step: StepArgs,

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

    /// What people call it.
    fn name(&self) -> String;

    /// What it takes.
    fn extent(&self) -> Extent;

    /// Runs the test once to warm up, then `repetitions` times, telling `on_repetition` before each.
    fn measure(
        self,
        machine: &mut Machine,
        repetitions: u32,
        on_repetition: &dyn Fn(),
    ) -> Result<Self::Result, CliError>;
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
    let extent = tests.iter().map(Measure::extent).fold(Extent::default(), Extent::or_larger);
    let mut machine = Machine::open(args, extent)?;
    let mut out = Output::new(args.output);
    for test in tests {
        // Drawn between repetitions only: a thread that draws would disturb what is measured.
        let template = "{msg}: repetition {pos} of {len}";
        let bar = progress::bar(args.repetitions.into(), template, &test.name(), Shown::Yes);
        bar.tick();
        let result = test.measure(&mut machine, args.repetitions, &|| bar.inc(1));
        bar.finish_and_clear();
        out.add(&result?)?;
    }
    out.end()
}

impl Machine {
    fn open(args: &BenchArgs, extent: Extent) -> Result<Machine, CliError> {
        let path = args.model.path()?;
        let loaded = LoadedModel::open(&path)?;
        let program = Program::of(loaded.spec());
        let device = OpenDevice::open(args.device.choice())?;
        let peak = device.peak_gbytes_per_s();
        let limits = steps::limits(extent, args.step.rows_max(), &args.device)?;
        let loading = Loading::of(&loaded, Shown::Yes);
        let device = loaded.prepare(&program, device, &limits, &|progress| loading.show(progress))?;
        drop(loading);
        // A GPU that cannot run the program leaves it to the CPU.
        let peak = peak.filter(|_| device.name().starts_with("cuda"));
        let subject = Subject {
            build_number: env!("CARGO_PKG_VERSION"),
            cpu_info: super::cpu_model(),
            backends: device.name(),
            model_filename: path.display().to_string(),
            model_type: loaded.description(),
            model_size: loaded.tensor_bytes(),
            model_n_params: loaded.num_parameters(),
            n_batch: args.step.rows_max(),
            n_ubatch: args.step.rows_max(),
            n_threads: limits.threads,
            type_k: limits.kv_cache_dtype.name(),
            type_v: limits.kv_cache_dtype.name(),
            memory: device.memory(),
        };
        let peak_gbytes_per_s = match peak {
            Some(peak) => peak,
            None => bandwidth::read_gbytes_per_s(limits.threads as usize)?,
        };
        Ok(Machine { device, program, subject, peak_gbytes_per_s })
    }
}
