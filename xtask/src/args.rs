//! The command line, read without clap, which would take longer to compile than the rest of this package.

use crate::Error;
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Task {
    /// Print this text.
    Help(&'static str),
    Demo {
        prompt: String,
        device: Option<String>,
    },
    Setup,
    /// Everything behind `test` is for cargo.
    Test {
        cargo_args: Vec<OsString>,
    },
    Lint {
        rules_only: bool,
    },
    /// For the program in `xtask/tools`, the task's name included.
    Tool {
        args: Vec<OsString>,
    },
}

/// The tasks of `xtask/tools`; a test there compares them with its command line.
pub const TOOLS: [&str; 8] =
    ["compare-cpu", "compare-batch", "context-cost", "counters", "gpu-check", "bindings", "print-bindings", "goldens"];

pub const HELP: &str = "\
Set-up, demo, tests, lints, golden files and comparisons of kiln.

Usage: cargo xtask TASK [ARGUMENTS]      (cargo xtask TASK --help explains one)

  demo [PROMPT]   fetch the default model if it is missing, build what this machine can use, and stream an answer
  setup           fetch and check what the tests need: the default model, CUDA's compiler, reference data
  test [ARGS]     the set-up, then `cargo test --workspace [ARGS]`
  lint            formatting, clippy, documentation, and the repository's own rules

These take longer to build:

  compare-cpu     measure kiln against llama.cpp on this machine's CPU
  compare-batch   measure kiln with many sequences at once against llama-batched-bench
  context-cost    measure what context costs: memory, prefill and decode at many lengths
  counters        count what the CUDA kernels do, simulated and in their machine code, and hold it against gates
  gpu-check       on a machine with a GPU: CUDA tests, speed and bandwidth, in one report
  bindings        make src/device/cuda/abi.rs from cuda/abi.h again
  goldens         record golden files again with the scripts in xtask/goldens";

const DEMO_HELP: &str = "\
Fetch the default model if it is missing, build what this machine can use, and stream an answer.

Usage: cargo xtask demo [--device DEVICE] [PROMPT]

  PROMPT            what to ask [default: Why is the sky blue?]
  --device DEVICE   cpu, cuda or reference, as `kiln run` takes it; left out, kiln chooses. `sim` is `cuda` on the
                    simulated GPU: slow, a minute or more";

const SETUP_HELP: &str = "\
Fetch and check what the tests need: the default model, the CUDA compiler from Python wheels, the templates and vocabularies
that tests compare with, and the crates. Fetches nothing that is there; afterwards no network is needed.

Usage: cargo xtask setup";

const TEST_HELP: &str = "\
The set-up, then all tests.

Usage: cargo xtask test [ARGS]

  ARGS   passed on to `cargo test --workspace`, for instance a test's name";

const LINT_HELP: &str = "\
Formatting, clippy, documentation, and the repository's own rules (import directions, unsafe files, lengths).

Usage: cargo xtask lint [--rules-only]

  --rules-only   only the repository's own rules: no cargo commands";

/// Reads what stands behind `cargo xtask`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Task, Error> {
    let mut args = args.into_iter();
    let Some(name) = args.next() else { return Ok(Task::Help(HELP)) };
    let (name, rest): (String, Vec<OsString>) = (name.to_string_lossy().into_owned(), args.collect());
    match name.as_str() {
        "-h" | "--help" | "help" => Ok(Task::Help(HELP)),
        "demo" => demo(rest),
        "setup" => no_arguments(rest),
        "test" if asks_for_help(&rest) => Ok(Task::Help(TEST_HELP)),
        "test" => Ok(Task::Test { cargo_args: rest }),
        "lint" => lint(rest),
        name if TOOLS.contains(&name) => Ok(Task::Tool { args: [vec![name.into()], rest].concat() }),
        name => Err(Error::Usage(format!("there is no task `{name}`; `cargo xtask` lists them"))),
    }
}

/// Behind `--` cargo and the tests have flags of their own.
fn asks_for_help(args: &[OsString]) -> bool {
    args.first().is_some_and(|arg| arg == "--help" || arg == "-h")
}

fn demo(args: Vec<OsString>) -> Result<Task, Error> {
    let (mut prompt, mut device) = (None, None);
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Task::Help(DEMO_HELP)),
            Arg::Long("device") => device = Some(parser.value()?.string()?),
            Arg::Value(value) if prompt.is_none() => prompt = Some(value.string()?),
            Arg::Value(_) => {
                return Err(Error::Usage("`demo` takes one prompt: put it into quotation marks".to_owned()));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Task::Demo { prompt: prompt.unwrap_or_else(|| "Why is the sky blue?".to_owned()), device })
}

fn no_arguments(args: Vec<OsString>) -> Result<Task, Error> {
    match Parser::from_args(args).next()? {
        None => Ok(Task::Setup),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Task::Help(SETUP_HELP)),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn lint(args: Vec<OsString>) -> Result<Task, Error> {
    let mut rules_only = false;
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Task::Help(LINT_HELP)),
            Arg::Long("rules-only") => rules_only = true,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Task::Lint { rules_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Task, Error> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn demo_asks_about_the_sky_unless_told_otherwise() {
        let demo = |prompt: &str, device: Option<&str>| Task::Demo {
            prompt: prompt.to_owned(),
            device: device.map(str::to_owned),
        };
        assert_eq!(parsed(&["demo"]).unwrap(), demo("Why is the sky blue?", None));
        assert_eq!(parsed(&["demo", "Who?", "--device", "sim"]).unwrap(), demo("Who?", Some("sim")));
        assert_eq!(parsed(&["demo", "--device=cpu", "--", "-h"]).unwrap(), demo("-h", Some("cpu")));
    }

    #[test]
    fn test_passes_flags_on_to_cargo() {
        let Task::Test { cargo_args } = parsed(&["test", "--lib", "weights::", "--", "--help"]).unwrap() else {
            panic!("not test")
        };
        assert_eq!(cargo_args, ["--lib", "weights::", "--", "--help"]);
    }

    #[test]
    fn other_tasks_are_passed_on_with_their_arguments() {
        let Task::Tool { args } = parsed(&["counters", "--check"]).unwrap() else { panic!("not a tool") };
        assert_eq!(args, ["counters", "--check"]);
    }

    #[test]
    fn every_task_is_in_the_help_and_explains_itself() {
        assert_eq!(parsed(&[]).unwrap(), Task::Help(HELP));
        for name in ["demo", "setup", "test", "lint"] {
            let Task::Help(text) = parsed(&[name, "--help"]).unwrap() else { panic!("{name}") };
            assert!(text.contains(&format!("cargo xtask {name}")) && HELP.contains(&format!("\n  {name} ")), "{name}");
        }
        for name in TOOLS.iter().filter(|name| **name != "print-bindings") {
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let cases: [(&[&str], &str); 5] = [
            (&["dmeo"], "dmeo"),
            (&["demo", "a", "b"], "quotation marks"),
            (&["demo", "--devise", "cpu"], "--devise"),
            (&["setup", "now"], "now"),
            (&["lint", "--fix"], "--fix"),
        ];
        for (words, named) in cases {
            let error = parsed(words).expect_err(named).to_string();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }
}
