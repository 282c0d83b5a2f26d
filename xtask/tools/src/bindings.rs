//! `cargo xtask bindings`: `cuda/abi.h` to `src/device/cuda/abi.rs`, with bindgen and a libclang from a Python wheel.
//!
//! libclang is found through a variable that must be set before bindgen looks, so a child process of this program does the work.

use crate::cuda_tools;
use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use std::process::Command;

const HEADER: &str = "cuda/abi.h";
const TARGET: &str = "src/device/cuda/abi.rs";

/// Writes the bindings, or only checks that they are those of the header.
pub fn run(repo: &Repo, check: bool) -> Result<(), Error> {
    let libclang = cuda_tools::ensure(repo)?.join("clang/native");
    let program = std::env::current_exe().map_err(Error::io("finding", "this program".as_ref()))?;
    let text = process::capture(Command::new(program).arg("print-bindings").env("LIBCLANG_PATH", libclang))?;
    let text = formatted(repo, &text)?;
    let target = repo.root().join(TARGET);
    if !check {
        return std::fs::write(&target, text).map_err(Error::io("writing", &target));
    }
    match std::fs::read_to_string(&target).map_err(Error::io("reading", &target))? == text {
        true => Ok(()),
        false => Err(Error::Lint(format!("{TARGET} is not what {HEADER} makes: run `cargo xtask bindings`"))),
    }
}

/// As `cargo fmt` leaves files of this repository.
fn formatted(repo: &Repo, text: &str) -> Result<String, Error> {
    let folder = repo.root().join("target");
    let file = folder.join(format!("abi-{}.rs", std::process::id()));
    std::fs::write(&file, text).map_err(Error::io("writing", &file))?;
    let mut command = Command::new("rustfmt");
    let formatting = process::run(command.args(["--edition", "2024", "--config-path"]).arg(repo.root()).arg(&file));
    let text = std::fs::read_to_string(&file).map_err(Error::io("reading", &file));
    std::fs::remove_file(&file).map_err(Error::io("removing", &file))?;
    formatting?;
    text
}

/// The bindings on standard output; needs LIBCLANG_PATH.
pub fn print(repo: &Repo) -> Result<(), Error> {
    let builder = bindgen::Builder::default()
        .header(repo.root().join(HEADER).display().to_string())
        .allowlist_item("(Kiln|KILN_|kiln_).*")
        .prepend_enum_name(false)
        .derive_default(false)
        .formatter(bindgen::Formatter::Prettyplease)
        .raw_line("//! Made from cuda/abi.h by `cargo xtask bindings`. Do not edit.")
        .raw_line("#![allow(missing_docs, non_camel_case_types, dead_code)]");
    let bindings = builder.generate();
    let bindings =
        bindings.map_err(|error| Error::Compare { subject: HEADER.to_owned(), problem: error.to_string() })?;
    print!("{bindings}");
    Ok(())
}
