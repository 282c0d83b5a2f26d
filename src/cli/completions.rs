//! `kiln completions`: what a shell needs to complete kiln's command lines.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError};

/// Print a script that makes a shell complete kiln's commands and flags
///
/// For bash: `kiln completions bash > ~/.local/share/bash-completion/completions/kiln`; for zsh a file `_kiln` in a folder of `$fpath`;
/// for fish `kiln completions fish > ~/.config/fish/completions/kiln.fish`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kiln", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
