//! `cargo xtask`: set-up, demo, tests and lints. Other tasks are passed on to the package in `xtask/tools`, which takes longer to build.

use std::process::ExitCode;
use xtask::args::{self, Task};
use xtask::repo::Repo;
use xtask::{Error, cuda_tools, demo, lint, model, process, references};

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Error> {
    let repo = Repo::locate()?;
    match task {
        Task::Help(text) => {
            println!("{text}");
            Ok(())
        }
        Task::Demo { prompt, device } => demo::run(&repo, &prompt, device.as_deref()),
        Task::Setup => {
            setup(&repo)?;
            process::run(process::cargo(&repo).args(["fetch", "--locked"]))
        }
        Task::Test { cargo_args } => {
            setup(&repo)?;
            process::run(process::cargo(&repo).args(["test", "--workspace"]).args(cargo_args))
        }
        Task::Lint { rules_only } => lint::run(&repo, rules_only),
        Task::Tool { args } => process::run(process::tools(&repo).args(args)),
    }
}

fn setup(repo: &Repo) -> Result<(), Error> {
    for path in [model::ensure_default_model(repo)?, cuda_tools::ensure(repo)?, references::ensure(repo)?] {
        println!("ready: {}", repo.relative(&path));
    }
    Ok(())
}
