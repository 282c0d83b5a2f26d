//! Child processes: run and wait, with errors that name the command.

use crate::Error;
use crate::repo::Repo;
use std::process::{Command, Stdio};

const CARGO_REMEDY: &str = "install Rust with its cargo, rustfmt and clippy";
pub const PYTHON_REMEDY: &str = "install Python 3 with pip, or set PYTHON to an interpreter that has it";

/// Runs to the end with this terminal's input and output.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: shown(command), status }) }
}

/// Runs to the end and returns what it printed; its errors go to this terminal.
pub fn capture(command: &mut Command) -> Result<String, Error> {
    printed(command.stderr(Stdio::inherit()))
}

/// Like [`capture`], of a program that talks on standard error: nobody hears it.
pub fn capture_silently(command: &mut Command) -> Result<String, Error> {
    printed(command.stderr(Stdio::null()))
}

fn printed(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|source| start_error(command, source))?;
    if !output.status.success() {
        return Err(Error::Failed { command: shown(command), status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs this task, at the repository's root.
pub fn cargo(repo: &Repo) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repo.root());
    command
}

/// `python3`, or what the variable `PYTHON` names.
pub fn python() -> Command {
    Command::new(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
}

/// The program in `xtask/tools`, which is built first if it has to be; its own arguments are still to be added.
pub fn tools(repo: &Repo) -> Command {
    let mut command = cargo(repo);
    command.args(["run", "--quiet", "--package", "xtask-tools", "--"]);
    command
}

/// pip of [`python`], without what a user's settings may say about where packages go.
pub fn pip(verb: &str) -> Command {
    let mut command = python();
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input", verb, "--no-deps", "--only-binary=:all:"]);
    command.env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_USER", "0");
    command
}

/// How the command would be typed.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub fn start_error(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let remedy = if program.contains("python") {
        PYTHON_REMEDY
    } else if program.contains("cargo") {
        CARGO_REMEDY
    } else {
        "check the path"
    };
    Error::Start { program, source, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_its_arguments() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("exit 3 is a failure");
        assert!(error.to_string().contains("sh -c exit 3") && error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_missing_python_comes_with_a_remedy() {
        let error = run(&mut Command::new("no-such-python")).expect_err("there is no such program");
        assert!(error.to_string().contains("install Python 3"), "{error}");
    }
}
