//! The committed bindings are those of `cuda/abi.h`.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn bindings_are_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask-tools")).args(["bindings", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
