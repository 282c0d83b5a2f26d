//! The `kiln` command.

// They panic where a stream is closed or full: `cli::streams` has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
