//! The commands, one file or folder each. Only this folder prints, and only here flags have names.

mod advice;
mod args;
mod bandwidth;
mod batch;
mod bench;
mod completions;
mod inspect;
mod interrupt;
mod perplexity;
mod profile;
mod progress;
mod run;
mod score;
mod streams;
mod tokenize;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kiln::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial};
use kiln::weights::printable;
use tracing_subscriber::EnvFilter;

use streams::say;

/// Generate text with large language models
///
/// kiln runs GGUF models of the llama family with kernels of its own. Start with `kiln run "Why is the sky blue?"`.
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
    Completions(completions::CompletionsArgs),
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
    /// Ctrl-C ended the work; the command has told what came of it.
    #[error("interrupted")]
    Interrupted,
    #[error("standard output: {0}")]
    Output(std::io::Error),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    /// Where in an input an error belongs.
    #[error("{place}: {source}")]
    At { place: String, source: Box<CliError> },
    #[error("the output is no JSON: {0}")]
    Json(serde_json::Error),
    #[error(transparent)]
    Weights(#[from] kiln::weights::WeightsError),
    #[error(transparent)]
    Device(#[from] kiln::device::DeviceError),
    #[error(transparent)]
    Tokenizer(#[from] kiln::tokenizer::TokenizerError),
    #[error(transparent)]
    Param(#[from] kiln::sampling::ParamError),
    #[error(transparent)]
    Runtime(#[from] kiln::runtime::RuntimeError),
}

impl CliError {
    fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage(message.into())
    }

    fn at(self, place: impl Into<String>) -> CliError {
        CliError::At { place: place.into(), source: Box::new(self) }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Interrupted => ExitCode::from(interrupt::EXIT_CODE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Of writing to standard output: everything else is read and written under a name.
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> CliError {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Output(error),
        }
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> CliError {
        if error.is_io() { std::io::Error::from(error).into() } else { CliError::Json(error) }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return show_usage(&error),
    };
    start_log();
    // What is still buffered belongs to the command's output.
    let result = run(command).and_then(|()| Ok(std::io::stdout().flush()?));
    let Err(error) = result else { return ExitCode::SUCCESS };
    if !matches!(error, CliError::OutputClosed | CliError::Interrupted) {
        let advice = advice::on(&error).map(|advice| format!(": {advice}")).unwrap_or_default();
        say(format_args!("error: {}{advice}", printable(&error.to_string())));
    }
    error.exit_code()
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Batch(args) => batch::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Help, the version, or what is wrong with a command line.
fn show_usage(error: &clap::Error) -> ExitCode {
    let shown = error.print().and_then(|()| std::io::stdout().flush());
    match (u8::try_from(error.exit_code()), shown) {
        (Ok(0), Err(_)) | (Err(_), _) => ExitCode::FAILURE,
        (Ok(code), _) => ExitCode::from(code),
    }
}

/// Warnings, and what `KILN_LOG` asks for, on standard error.
fn start_log() {
    const VARIABLE: &str = "KILN_LOG";
    let (filter, problem) = match std::env::var(VARIABLE) {
        Ok(wanted) => match log_filter(&wanted) {
            Ok(filter) => (filter, None),
            Err(problem) => (EnvFilter::new("warn"), Some(problem)),
        },
        Err(std::env::VarError::NotPresent) => (EnvFilter::new("warn"), None),
        Err(std::env::VarError::NotUnicode(_)) => (EnvFilter::new("warn"), Some("it is no UTF-8".to_owned())),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        // Where standard error is closed or full, there is nobody to tell that.
        .log_internal_errors(false)
        .init();
    if let Some(problem) = problem {
        say(format_args!(
            "warning: {VARIABLE}: {}; expected a level such as info, or kiln::engine=debug; only warnings are shown",
            printable(&problem)
        ));
    }
}

/// A list of levels, and of modules with levels. A bare word would be taken for a module's name: it must be one of ours.
fn log_filter(wanted: &str) -> Result<EnvFilter, String> {
    let is_known = |part: &str| {
        let is_level = ["off", "error", "warn", "info", "debug", "trace"].iter().any(|l| part.eq_ignore_ascii_case(l));
        part.is_empty() || is_level || part == "kiln" || part.starts_with("kiln::") || part.contains(['=', '['])
    };
    if let Some(unknown) = wanted.split(',').map(str::trim).find(|part| !is_known(part)) {
        return Err(format!("found {unknown:?}"));
    }
    let builder = EnvFilter::builder().with_default_directive(tracing::level_filters::LevelFilter::WARN.into());
    builder.parse(wanted).map_err(|error| format!("found {wanted:?} ({error})"))
}

/// The processor's name, for reports.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|rest| rest.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, n)| n.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_log_level_that_is_none_is_reported() {
        for wanted in ["", "info", "WARN", "kiln=debug", "kiln::engine", "error,kiln::runtime=trace"] {
            assert!(log_filter(wanted).is_ok(), "{wanted}");
        }
        for wanted in ["loud", "verbose,info", "kiln=loud", "5"] {
            assert!(log_filter(wanted).is_err_and(|problem| problem.contains("found")), "{wanted}");
        }
    }
}
