//! Golden files, bindings, counters and comparisons: the tasks of `cargo xtask` that a demo, the tests and the lints do not need.

mod bindings;
mod compare;
mod context_cost;
mod counters;
mod error;
mod goldens;
mod gpu_check;
mod kiln;
mod markers;
mod progress;

use clap::{Parser, Subcommand};
use error::Error;
use repo::Repo;
use std::process::ExitCode;
use xtask::{cuda_tools, model, process, references, repo, simulated};

/// Golden files, bindings, counters and comparisons of kiln.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure kiln against llama.cpp on this machine's CPU: runs interleaved, same file, same threads.
    CompareCpu(compare::CompareArgs),
    /// Measure kiln with many sequences at once against llama-batched-bench on this machine's CPU.
    CompareBatch(compare::batch::BatchArgs),
    /// Measure what context costs on this machine's CPU: memory, prefill and decode at many lengths, as a table and plots.
    ContextCost(context_cost::ContextCostArgs),
    /// What the CUDA device's kernels do, counted on the simulated GPU and in their machine code, with the gate beside each number.
    Counters(counters::CountersArgs),
    /// On a machine with a GPU: run the CUDA tests, measure speed and bandwidth, and write one report.
    GpuCheck(gpu_check::GpuCheckArgs),
    /// Make src/device/cuda/abi.rs from cuda/abi.h again.
    Bindings {
        /// Only check that it is up to date.
        #[arg(long)]
        check: bool,
    },
    #[command(hide = true)]
    PrintBindings,
    /// Record golden files again by running the scripts in xtask/goldens.
    Goldens(goldens::GoldensArgs),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let repo = Repo::locate()?;
    match args.task {
        Task::CompareCpu(args) => compare::run(&repo, &args),
        Task::CompareBatch(args) => compare::batch::run(&repo, &args),
        Task::ContextCost(args) => context_cost::run(&repo, &args),
        Task::Counters(args) => counters::run(&repo, &args),
        Task::GpuCheck(args) => gpu_check::run(&repo, &args),
        Task::Bindings { check } => bindings::run(&repo, check),
        Task::PrintBindings => bindings::print(&repo),
        Task::Goldens(args) => goldens::run(&repo, &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_the_one_that_is_passed_on() {
        let mut command = Args::command();
        command.build();
        let mut names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        names.retain(|name| *name != "help");
        assert_eq!(names, xtask::args::TOOLS);
    }
}
