//! The commands, one file each. Only this folder prints.

mod bandwidth;
mod batch;
mod bench;
mod inspect;
mod perplexity;
mod profile;
mod run;
mod score;
mod tokenize;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kiln::device::KvCacheDType;
use kiln::runtime::{DeviceChoice, RuntimeOptions};
use kiln::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial};

/// Generate text with large language models
///
/// kiln runs GGUF models of the llama family with kernels of its own. Start with `kiln run -m MODEL "Why is the sky blue?"`.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Batch(batch::BatchArgs),
    Bench(bench::BenchArgs),
    Profile(profile::ProfileArgs),
    Perplexity(perplexity::PerplexityArgs),
    Score(score::ScoreArgs),
    Tokenize(tokenize::TokenizeArgs),
    Inspect(inspect::InspectArgs),
}

/// What runs the model.
#[derive(Clone, Debug, Args)]
struct DeviceArgs {
    /// Device that runs the model; `auto` takes the fastest one there is
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    device: DeviceName,

    /// Threads of a CPU device [default: all cores]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// Type of the cached keys and values: int8 takes half the memory of f16 and is nearly as exact
    #[arg(long, value_enum, default_value_t = CacheName::F16)]
    kv_cache_dtype: CacheName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CacheName {
    F16,
    /// With a scale per token and KV head
    Int8,
}

impl From<CacheName> for KvCacheDType {
    fn from(name: CacheName) -> KvCacheDType {
        match name {
            CacheName::F16 => KvCacheDType::F16,
            CacheName::Int8 => KvCacheDType::Int8,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    /// A GPU if there is one, else the CPU
    Auto,
    /// A GPU of compute capability 8.0 or newer
    Cuda,
    /// Fast: AVX-512 VNNI, AVX2 or portable code, chosen at run time
    Cpu,
    /// Naive and slow: what all devices are tested against
    Reference,
}

impl DeviceArgs {
    fn threads(&self) -> u32 {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32)
    }

    /// What these flags say of a runtime, and defaults.
    fn runtime_options(&self) -> RuntimeOptions {
        RuntimeOptions {
            device: self.choice(),
            threads: self.threads,
            kv_cache_dtype: self.kv_cache_dtype.into(),
            ..RuntimeOptions::default()
        }
    }

    fn choice(&self) -> DeviceChoice {
        match self.device {
            DeviceName::Auto => DeviceChoice::Auto,
            DeviceName::Cuda => DeviceChoice::Cuda,
            DeviceName::Cpu => DeviceChoice::Cpu,
            DeviceName::Reference => DeviceChoice::Reference,
        }
    }
}

/// Text to be measured: special tokens' names are plain text, BOS comes first if the model wants one.
const TEXT_WITH_BOS: EncodeOptions = EncodeOptions { add_special: AddSpecial::Yes, parse_special: ParseSpecial::No };

/// Why a command failed. Libraries return their own errors; this is where they become one line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),
    /// The reader of our output went away: not worth a message.
    #[error("output closed")]
    OutputClosed,
    #[error(transparent)]
    Io(std::io::Error),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Weights(#[from] kiln::weights::WeightsError),
    #[error(transparent)]
    Device(#[from] kiln::device::DeviceError),
    #[error(transparent)]
    Tokenizer(#[from] kiln::tokenizer::TokenizerError),
    #[error(transparent)]
    Runtime(#[from] kiln::runtime::RuntimeError),
}

impl CliError {
    fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage(message.into())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> CliError {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Io(error),
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
                .with_env_var("KILN_LOG")
                .from_env_lossy(),
        )
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Batch(args) => batch::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::OutputClosed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The processor's name, for reports.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|rest| rest.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, n)| n.trim().to_owned())
}

fn read_text(path: &std::path::Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::File { path: path.display().to_string(), source })
}
