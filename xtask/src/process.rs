//! Child processes: run and wait, with errors that name the command.

use crate::error::Error;
use crate::repo::Repo;
use serde::Deserialize;
use std::path::PathBuf;
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

/// Builds `kiln` in release mode (cargo shows its progress) and returns the binary's path.
pub fn build_kiln(repo: &Repo) -> Result<PathBuf, Error> {
    let mut command = cargo(repo);
    command.args(["build", "--release", "--package", "kiln", "--bin", "kiln"]);
    let messages = capture(command.arg("--message-format=json-render-diagnostics"))?;
    executable_in(&messages).ok_or_else(|| Error::Compare {
        subject: shown(&command),
        problem: "cargo named no executable `kiln`".to_owned(),
    })
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

fn executable_in(cargo_messages: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    cargo_messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargo_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/a/target/release/kiln\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(executable_in(messages), Some(PathBuf::from("/a/target/release/kiln")));
        assert_eq!(executable_in("{\"reason\":\"build-finished\"}"), None);
    }

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
