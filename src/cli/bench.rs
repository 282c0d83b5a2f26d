//! `kiln bench`: tokens per second against what the machine could do, in llama-bench's columns.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use kiln::device::{Batch, BatchSeq, Choice, Device, InputToken, Limits, SampleRow};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{Program, StageCost};
use kiln::runtime::LoadedModel;
use serde::Serialize;

use super::{CliError, DeviceArgs, bandwidth};

/// Measure prefill and decode speed of one sequence
///
/// Each test runs once to warm up and then `-r` times. Sampling (greedy) is inside the measured time; tokenisation is not
/// needed, since prompts are random ids. The table shows mean ± standard deviation, what moved per second, and the share of
/// the floor: the time that the stored weights and the cache take at the read bandwidth measured beside it.
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

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Md,
    Csv,
    Json,
    Jsonl,
}

/// One test's result: llama-bench's keys, then kiln's own.
#[derive(Debug, Serialize)]
struct TestResult {
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
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    test_time: u64,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    /// Weights and cache that must move, per second.
    gbytes_per_s: f64,
    /// Measured read bandwidth of the same number of threads.
    peak_gbytes_per_s: f64,
    /// `gbytes_per_s / peak_gbytes_per_s`: how close the test is to the memory floor.
    peak_share: f64,
    /// 10^9 multiply-accumulates per second.
    gmacs_per_s: f64,
    sampling_included: bool,
}

#[derive(Clone, Copy, Debug)]
struct Test {
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
}

impl Test {
    fn name(&self) -> String {
        let kind = if self.n_gen == 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) };
        if self.n_depth == 0 { kind } else { format!("{kind} @ d{}", self.n_depth) }
    }

    fn positions(&self) -> u32 {
        self.n_depth + self.n_prompt + self.n_gen
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    let tests = tests_of(args);
    if tests.is_empty() {
        return Err(CliError::usage("nothing to test: give -p or -n above 0"));
    }
    let loaded = LoadedModel::open(&args.model)?;
    let threads = args.device.threads();
    let positions = tests.iter().map(Test::positions).max().unwrap_or(1);
    const BLOCK_TOKENS: u32 = 16;
    let limits = Limits {
        slots_max: 1,
        context_tokens_max: positions,
        step_rows_max: args.ubatch_size,
        logit_rows_max: 1,
        block_tokens: BLOCK_TOKENS,
        num_blocks: positions.div_ceil(BLOCK_TOKENS),
        threads,
    };
    let program = Program::of(loaded.spec());
    let mut device = loaded.prepare(&program, args.device.choice(), &limits, &|_| {})?;
    let peak = bandwidth::read_gbytes_per_s(threads as usize);
    let mut out = Output { format: args.output, written: 0 };
    for test in tests {
        let result = measure(device.as_mut(), &program, &loaded, args, test, peak)?;
        out.add(&test, &result)?;
    }
    out.end()
}

fn tests_of(args: &BenchArgs) -> Vec<Test> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth {
        for &n_prompt in args.n_prompt.iter().filter(|&&n| n > 0) {
            tests.push(Test { n_prompt, n_gen: 0, n_depth });
        }
        for &n_gen in args.n_gen.iter().filter(|&&n| n > 0) {
            tests.push(Test { n_prompt: 0, n_gen, n_depth });
        }
    }
    tests
}

fn measure(
    device: &mut dyn Device,
    program: &Program,
    loaded: &LoadedModel,
    args: &BenchArgs,
    test: Test,
    peak: f64,
) -> Result<TestResult, CliError> {
    let mut samples_ns = Vec::new();
    let mut cost = StageCost::default();
    for repetition in 0..=args.repetitions {
        let mut run = Run { device: &mut *device, program, cost: StageCost::default(), position: 0, seed: 42 };
        run.prefill(test.n_depth, args.ubatch_size)?;
        run.cost = StageCost::default();
        let start = Instant::now();
        run.prefill(test.n_prompt, args.ubatch_size)?;
        run.decode(test.n_gen)?;
        let elapsed = start.elapsed().as_nanos() as u64;
        cost = run.cost;
        if repetition > 0 {
            samples_ns.push(elapsed.max(1));
        }
    }
    let tokens = f64::from(test.n_prompt + test.n_gen);
    let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| tokens * 1e9 / *ns as f64).collect();
    let (avg_ns, stddev_ns) = mean_and_deviation(samples_ns.iter().map(|&ns| ns as f64));
    let (avg_ts, stddev_ts) = mean_and_deviation(samples_ts.iter().copied());
    let gbytes_per_s = cost.bytes() as f64 / avg_ns;
    Ok(TestResult {
        build_number: env!("CARGO_PKG_VERSION"),
        cpu_info: super::cpu_model(),
        backends: device.name(),
        model_filename: args.model.display().to_string(),
        model_type: loaded.description(),
        model_size: loaded.tensor_bytes(),
        model_n_params: loaded.num_parameters(),
        n_batch: args.ubatch_size,
        n_ubatch: args.ubatch_size,
        n_threads: args.device.threads(),
        type_k: "f16",
        type_v: "f16",
        n_prompt: test.n_prompt,
        n_gen: test.n_gen,
        n_depth: test.n_depth,
        test_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        avg_ns: avg_ns as u64,
        stddev_ns: stddev_ns as u64,
        avg_ts,
        stddev_ts,
        samples_ns,
        samples_ts,
        gbytes_per_s,
        peak_gbytes_per_s: peak,
        peak_share: gbytes_per_s / peak,
        gmacs_per_s: cost.macs as f64 / avg_ns,
        sampling_included: true,
    })
}

/// One repetition: a sequence that grows.
struct Run<'a> {
    device: &'a mut dyn Device,
    program: &'a Program,
    cost: StageCost,
    position: u32,
    seed: u32,
}

impl Run<'_> {
    fn prefill(&mut self, tokens: u32, rows_max: u32) -> Result<(), CliError> {
        let mut left = tokens;
        while left > 0 {
            let rows = left.min(rows_max);
            left -= rows;
            let ids = (0..rows).map(|_| InputToken::Id(self.random_id())).collect();
            self.step(ids, left == 0)?;
        }
        Ok(())
    }

    fn decode(&mut self, tokens: u32) -> Result<(), CliError> {
        let mut input = InputToken::Id(self.random_id());
        for _ in 0..tokens {
            self.step(vec![input], true)?;
            input = InputToken::LastSampled;
        }
        Ok(())
    }

    fn step(&mut self, tokens: Vec<InputToken>, sample: bool) -> Result<(), CliError> {
        let rows = tokens.len() as u32;
        let end = self.position + rows;
        let batch = Batch {
            starts: Vec::new(),
            seqs: vec![BatchSeq {
                slot: SlotId(0),
                position_start: self.position,
                tokens,
                block_table: (0..end.div_ceil(self.device.limits().block_tokens)).map(BlockId).collect(),
                logit_rows: if sample { vec![rows - 1] } else { Vec::new() },
            }],
        };
        self.cost = self.cost.plus(self.program.cost(&batch.shape()));
        self.device.submit(&batch)?;
        if sample {
            self.device.sample(&[greedy_row()])?;
        }
        self.device.collect()?;
        self.position = end;
        Ok(())
    }

    fn random_id(&mut self) -> TokenId {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        TokenId((self.seed >> 8) % self.program.vocab_size)
    }
}

fn greedy_row() -> SampleRow {
    SampleRow {
        logit_row: 0,
        slot: SlotId(0),
        choice: Choice::Greedy,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        repetition_penalty: 1.0,
        penalise_prompt: false,
        before_min_length: false,
        logprobs: None,
    }
}

fn mean_and_deviation(samples: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = samples.clone().count() as f64;
    let mean = samples.clone().sum::<f64>() / count;
    if count < 2.0 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

/// Writes results as they come.
struct Output {
    format: Format,
    written: usize,
}

impl Output {
    fn add(&mut self, test: &Test, result: &TestResult) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Md => {
                if self.written == 0 {
                    let peak = result.peak_gbytes_per_s;
                    writeln!(
                        out,
                        "| model | size | params | backend | threads | test | t/s | GB/s | of {peak:.1} GB/s read |\n\
                         | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
                    )?;
                }
                writeln!(
                    out,
                    "| {} | {:.2} MiB | {:.2} M | {} | {} | {} | {:.2} ± {:.2} | {:.2} | {:.0} % |",
                    result.model_type,
                    result.model_size as f64 / f64::from(1 << 20),
                    result.model_n_params as f64 / 1e6,
                    result.backends,
                    result.n_threads,
                    test.name(),
                    result.avg_ts,
                    result.stddev_ts,
                    result.gbytes_per_s,
                    100.0 * result.peak_share,
                )?;
            }
            Format::Csv => self.add_csv(&mut out, result)?,
            Format::Json => {
                let start = if self.written == 0 { "[" } else { "," };
                write!(out, "{start}\n{}", serde_json::to_string_pretty(result)?)?;
            }
            Format::Jsonl => writeln!(out, "{}", serde_json::to_string(result)?)?,
        }
        self.written += 1;
        out.flush()?;
        Ok(())
    }

    /// Every field of the JSON form but the raw samples.
    fn add_csv(&self, out: &mut impl Write, result: &TestResult) -> Result<(), CliError> {
        let serde_json::Value::Object(mut fields) = serde_json::to_value(result)? else { return Ok(()) };
        fields.retain(|_, value| !value.is_array());
        if self.written == 0 {
            writeln!(out, "{}", fields.keys().cloned().collect::<Vec<_>>().join(","))?;
        }
        writeln!(out, "{}", fields.values().map(ToString::to_string).collect::<Vec<_>>().join(","))?;
        Ok(())
    }

    fn end(self) -> Result<(), CliError> {
        match self.format {
            Format::Json => println!("\n]"),
            Format::Md => eprintln!("\nSampling (greedy) is inside the measured time."),
            Format::Csv | Format::Jsonl => {}
        }
        Ok(())
    }
}
