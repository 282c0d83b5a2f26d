//! kiln as it is measured: built in release mode.

use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use serde::Deserialize;
use std::path::PathBuf;

/// Builds `kiln` in release mode (cargo shows its progress) and returns the binary's path.
pub fn build(repo: &Repo) -> Result<PathBuf, Error> {
    let mut command = process::cargo(repo);
    command.args(["build", "--release", "--package", "kiln", "--bin", "kiln"]);
    let messages = process::capture(command.arg("--message-format=json-render-diagnostics"))?;
    executable_in(&messages).ok_or_else(|| Error::Compare {
        subject: process::shown(&command),
        problem: "cargo named no executable `kiln`".to_owned(),
    })
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
}
