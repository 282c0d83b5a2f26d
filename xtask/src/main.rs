//! `cargo xtask`: set-up, tests, lints, golden files and comparisons. Everything a contributor runs besides `kiln`.

mod bindings;
mod compare;
mod context_cost;
mod counters;
mod cuda_tools;
mod error;
mod goldens;
mod gpu_check;
mod lint;
mod markers;
mod model;
mod process;
mod progress;
mod references;
mod repo;
mod simulated;

use clap::{Parser, Subcommand};
use error::Error;
use repo::Repo;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Set-up, tests, lints, golden files and comparisons of kiln.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch the default model if it is missing, build kiln in release mode and stream an answer.
    Demo {
        /// What to ask.
        #[arg(default_value = "Why is the sky blue?")]
        prompt: String,
        /// Passed to `kiln run --device`; left out, kiln chooses. `sim` is `cuda` on the simulated GPU: slow, a minute or more.
        #[arg(long)]
        device: Option<String>,
    },
    /// Fetch and check what the tests and the demo need: the default model, the CUDA compiler from Python wheels, and the
    /// templates and vocabularies that tests compare with. Does nothing when all is there.
    Setup,
    /// Set up what the tests need, then run all of them (`cargo test --workspace`).
    Test {
        /// Passed on to `cargo test`, for instance a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        cargo_args: Vec<OsString>,
    },
    /// Formatting, clippy, documentation, and the repository's own rules (import directions, unsafe files, lengths).
    Lint {
        /// Only the repository's own rules: no cargo commands.
        #[arg(long)]
        rules_only: bool,
    },
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
        Task::Demo { prompt, device } => demo(&repo, &prompt, device.as_deref()),
        Task::Setup => setup(&repo),
        Task::Test { cargo_args } => test(&repo, &cargo_args),
        Task::Lint { rules_only } => lint::run(&repo, rules_only),
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

fn setup(repo: &Repo) -> Result<(), Error> {
    for path in [model::ensure_default_model(repo)?, cuda_tools::ensure(repo)?, references::ensure(repo)?] {
        println!("ready: {}", repo.relative(&path));
    }
    Ok(())
}

fn demo(repo: &Repo, prompt: &str, device: Option<&str>) -> Result<(), Error> {
    let model = model::ensure_default_model(repo)?;
    cuda_tools::ensure(repo)?;
    let kiln = process::build_kiln(repo)?;
    let mut command = Command::new(kiln);
    command.current_dir(repo.root()).arg("run").arg("-m").arg(PathBuf::from(repo.relative(&model)));
    match device {
        Some("sim") => {
            let libraries = simulated::library_folder(repo)?;
            command.args(["--device", "cuda", "-n", "16", "--ctx-size", "512"]).env("LD_LIBRARY_PATH", libraries);
        }
        Some(device) => {
            command.args(["--device", device]);
        }
        None => {}
    }
    // A prompt may start with a hyphen.
    process::run(command.arg("--").arg(prompt))
}

fn test(repo: &Repo, cargo_args: &[OsString]) -> Result<(), Error> {
    model::ensure_default_model(repo)?;
    cuda_tools::ensure(repo)?;
    references::ensure(repo)?;
    process::run(process::cargo(repo).args(["test", "--workspace"]).args(cargo_args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn demo_asks_about_the_sky_unless_told_otherwise() {
        let Task::Demo { prompt, device } = Args::parse_from(["xtask", "demo"]).task else { panic!("not demo") };
        assert_eq!((prompt.as_str(), device), ("Why is the sky blue?", None));
    }

    #[test]
    fn test_passes_flags_on_to_cargo() {
        let args = Args::parse_from(["xtask", "test", "--lib", "weights::"]);
        let Task::Test { cargo_args } = args.task else { panic!("not test") };
        assert_eq!(cargo_args, ["--lib", "weights::"]);
    }
}
