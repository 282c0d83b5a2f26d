//! `cargo xtask counters`: the CUDA rows of the design's table of numbers, from the simulated GPU's counters, `ptxas -v` and the
//! disassembler. None of them is a time, and all are the same on every machine: `--check` fails when one gets worse.

mod llama;
mod machine;
mod report;
mod rows;

use crate::error::Error;
use crate::repo::Repo;
use crate::{cuda_tools, markers, model};
use llama::LlamaCounters;
use machine::MachineCode;
use rows::Row;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The committed numbers, by name.
const BASELINE: &str = "xtask/counters.json";
const PAGE: &str = "docs/performance.md";

#[derive(clap::Args)]
pub struct CountersArgs {
    /// Fail if a number is worse than the committed one.
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Commit to these numbers: replaces xtask/counters.json and the table in docs/performance.md.
    #[arg(long)]
    write: bool,
    /// First run llama.cpp's kernels, from an unpacked source package of llama-cpp-python, and replace xtask/llama_counters.json.
    #[arg(long, value_name = "FOLDER")]
    record_llama: Option<PathBuf>,
}

pub fn run(repo: &Repo, args: &CountersArgs) -> Result<(), Error> {
    let tools = cuda_tools::ensure(repo)?;
    if let Some(package) = &args.record_llama {
        llama::record(repo, &tools, package)?;
    }
    let llama = LlamaCounters::read(repo)?;
    let model = model::ensure_default_model(repo)?;
    // The compiler and the simulated GPU side by side: each leaves cores idle.
    let (machine, steps) = std::thread::scope(|scope| {
        let machine = scope.spawn(|| MachineCode::compile(repo, &tools));
        let steps = report::Steps::run(repo, &model);
        (machine.join(), steps)
    });
    let machine = machine.map_err(|_| problem("machine code", "its thread panicked"))??;
    let rows = rows::all(&steps?, &machine, &llama)?;
    let table = to_markdown(&rows);
    println!("{table}");
    let path = repo.root().join(BASELINE);
    if args.write {
        write_baseline(&path, &rows)?;
        markers::replace(&repo.root().join(PAGE), "counters", &table)?;
    }
    if args.check {
        let worse = worse_than(&read_baseline(&path)?, &rows);
        if !worse.is_empty() {
            return Err(problem(BASELINE, &worse.join("\n  ")));
        }
    }
    Ok(())
}

fn problem(subject: &str, problem: &str) -> Error {
    Error::Counters { subject: subject.to_owned(), problem: problem.to_owned() }
}

fn to_markdown(rows: &[Row]) -> String {
    let mut text = String::from("| what | from | number | gate | met |\n|---|---|---:|---:|---|\n");
    for row in rows {
        let gate = row.gate.map_or_else(|| "–".to_owned(), |gate| format!("{} {}", row.better.sign(), row.shown(gate)));
        let met = row.meets_gate().map_or("–", |met| if met { "yes" } else { "**no**" });
        let _ =
            writeln!(text, "| {} | *{}* | {} | {gate} | {met} |", row.name, row.source.name(), row.shown(row.value));
    }
    text
}

fn write_baseline(path: &Path, rows: &[Row]) -> Result<(), Error> {
    let numbers: BTreeMap<&str, f64> = rows.iter().map(|row| (row.name.as_str(), row.value)).collect();
    let text = serde_json::to_string_pretty(&numbers).map_err(|e| problem(BASELINE, &e.to_string()))?;
    fs::write(path, text + "\n").map_err(Error::io("writing", path))
}

fn read_baseline(path: &Path) -> Result<BTreeMap<String, f64>, Error> {
    let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
    serde_json::from_str(&text).map_err(|e| problem(BASELINE, &e.to_string()))
}

/// A line for each number that is worse than before, new, or gone.
fn worse_than(before: &BTreeMap<String, f64>, rows: &[Row]) -> Vec<String> {
    const REMEDY: &str = "if that is meant, `cargo xtask counters --write`";
    let mut lines = Vec::new();
    for row in rows {
        match before.get(&row.name) {
            None => lines.push(format!("{}: not in the file; {REMEDY}", row.name)),
            Some(&old) if row.is_worse_than(old) => {
                lines.push(format!("{}: was {}, is {}; {REMEDY}", row.name, row.shown(old), row.shown(row.value)));
            }
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|name| !rows.iter().any(|row| row.name == **name));
    lines.extend(gone.map(|name| format!("{name}: counted no more; {REMEDY}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use rows::{Better, Source, Unit};

    fn row(name: &str, value: f64, better: Better) -> Row {
        Row { name: name.to_owned(), value, better, gate: Some(1.0), unit: Unit::Ratio, source: Source::Static }
    }

    #[test]
    fn worse_new_and_missing_numbers_are_named() {
        let before = [("a", 1.0), ("b", 1.0), ("gone", 1.0)].map(|(name, value)| (name.to_owned(), value)).into();
        let rows = [row("a", 1.1, Better::Lower), row("b", 1.1, Better::Higher), row("new", 1.0, Better::Lower)];
        let names: Vec<String> =
            worse_than(&before, &rows).iter().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
        assert_eq!(names, ["a", "new", "gone"]);
        assert_eq!(worse_than(&before, &[row("a", f64::NAN, Better::Lower)]).len(), 3, "NaN is worse than anything");
    }

    #[test]
    fn a_row_says_whether_its_gate_is_met() {
        let table = to_markdown(&[row("a", 1.25, Better::Lower), row("b", 1.25, Better::Higher)]);
        assert!(table.contains("| a | *static* | 1.250 | ≤ 1.000 | **no** |"), "{table}");
        assert!(table.contains("| b | *static* | 1.250 | ≥ 1.000 | yes |"), "{table}");
    }
}
