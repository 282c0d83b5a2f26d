//! `sim`: runs one kernel on the simulated GPU, shows what the checkers find and what the counters say.

mod annotate;
mod argument;
mod error;
mod image;
mod list;
mod report;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use error::Error;

/// Run, check and count CUDA kernels on a simulated GPU
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    List(list::ListArgs),
    Report(report::ReportArgs),
}

/// How a command ended, if nothing prevented it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Clean,
    /// A checker found something.
    Findings,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => list::list(&args).map(|()| Verdict::Clean),
        Command::Report(args) => report::report(&args).map(|()| Verdict::Clean),
    };
    match result {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Findings) => ExitCode::from(1),
        // Whoever reads the output has seen enough.
        Err(Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Reads `9.0`.
fn capability(text: &str) -> Result<(u32, u32), String> {
    let known = ["8.0", "8.9", "9.0", "10.0", "12.0"];
    let (major, minor) = text.split_once('.').filter(|_| known.contains(&text)).unwrap_or(("", ""));
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => Err(format!("expected one of {}", known.join(", "))),
    }
}
