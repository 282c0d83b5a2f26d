//! `cargo xtask lint`: the tools everybody knows, then the repository's own rules.

mod imports;
mod text;

use crate::Error;
use crate::process;
use crate::repo::Repo;
use std::path::Path;
use std::process::Command;

pub fn run(repo: &Repo, rules_only: bool) -> Result<(), Error> {
    own_rules(repo)?;
    if rules_only {
        return Ok(());
    }
    process::run(process::cargo(repo).args(["fmt", "--all", "--check"]))?;
    // Clippy builds kernels.
    crate::cuda_tools::ensure_compiler(repo)?;
    process::run(process::cargo(repo).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut doc = process::cargo(repo);
    process::run(doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// One text file of the repository.
struct SourceFile {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

/// A broken rule: where, and what to do about it.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    /// From 1; 0 when the finding is about the whole file.
    line: usize,
    message: String,
}

fn own_rules(repo: &Repo) -> Result<(), Error> {
    let files = text_files(repo)?;
    let mut findings = text::check(&files);
    findings.extend(imports::check(&files));
    if findings.is_empty() {
        println!("own rules: {} files, nothing found", files.len());
        return Ok(());
    }
    for Finding { path, line, message } in &findings {
        println!("{path}:{line}: {message}");
    }
    Err(Error::Lint(format!("{} places break the repository's rules", findings.len())))
}

/// Every file that git tracks or would track, is there, and is UTF-8.
fn text_files(repo: &Repo) -> Result<Vec<SourceFile>, Error> {
    let mut command = Command::new("git");
    command.current_dir(repo.root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listing = process::capture(&mut command)?;
    let paths = listing.split('\0').filter(|path| !path.is_empty());
    Ok(paths.filter_map(|path| read_text(repo.root(), path)).collect())
}

fn read_text(root: &Path, path: &str) -> Option<SourceFile> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(SourceFile { path: path.to_owned(), text })
}
