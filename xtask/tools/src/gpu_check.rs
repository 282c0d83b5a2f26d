//! `cargo xtask gpu-check`: what is to be found out on a machine with a GPU, in one report: the CUDA tests on the real driver, tokens per
//! second and bandwidth of `kiln bench`, and the benches. `--simulated` proves with a small set that the script works; what it writes says
//! *simulated* and holds no time and no rate.

use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use crate::{cuda_tools, kiln, model, simulated};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub struct GpuCheckArgs {
    /// Run a small set on the simulated GPU, without times, to prove that this works.
    #[arg(long)]
    simulated: bool,
    /// Folder for `report.md` and `report.json`.
    #[arg(long, default_value = "target/gpu-check")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    simulated: bool,
    commit: String,
    device: String,
    driver: String,
    checks: Vec<Check>,
    /// Empty on the simulated GPU.
    rates: Vec<Rate>,
}

/// A command and how it ended.
#[derive(Serialize)]
struct Check {
    what: &'static str,
    command: String,
    passed: bool,
    /// What it printed on standard output, its last lines.
    output: String,
}

/// The columns of `kiln bench -o json` that are reported.
#[derive(Serialize, Deserialize)]
struct Rate {
    #[serde(skip_serializing)]
    backends: String,
    n_prompt: u32,
    n_gen: u32,
    /// Tokens per second.
    avg_ts: f64,
    stddev_ts: f64,
    gbytes_per_s: f64,
    /// Of the GPU's memory, by its clock and width.
    peak_gbytes_per_s: f64,
}

/// Runs all checks, writes the report, and fails if a check failed.
pub fn run(repo: &Repo, args: &GpuCheckArgs) -> Result<(), Error> {
    let model = model::ensure_default_model(repo)?;
    cuda_tools::ensure(repo)?;
    let kiln = kiln::build(repo)?;
    let libraries = args.simulated.then(|| simulated::library_folder(repo, "release")).transpose()?;
    let out = repo.root().join(&args.out);
    fs::create_dir_all(&out).map_err(Error::io("creating", &out))?;
    let runner = Runner { repo, libraries, counted: out.join("counted.jsonl") };
    let (bench, mut rates) = runner.bench(&kiln, &model)?;
    let device = rates.first().map_or_else(|| "none was found".to_owned(), |rate| rate.backends.clone());
    if args.simulated {
        rates.clear();
    }
    let checks = vec![bench, runner.tests()?, runner.benches()?];
    let report = Report {
        simulated: args.simulated,
        commit: commit(repo)?,
        device,
        driver: driver(args.simulated),
        checks,
        rates,
    };
    let json = serde_json::to_string_pretty(&report).map_err(|e| problem("report.json", &e.to_string()))?;
    for (name, text) in [("report.json", json + "\n"), ("report.md", to_markdown(&report))] {
        let path = out.join(name);
        fs::write(&path, text).map_err(Error::io("writing", &path))?;
        println!("written: {}", repo.relative(&path));
    }
    let failed: Vec<&str> = report.checks.iter().filter(|check| !check.passed).map(|check| check.what).collect();
    if failed.is_empty() { Ok(()) } else { Err(problem("failed", &failed.join(", "))) }
}

fn problem(subject: &str, problem: &str) -> Error {
    Error::GpuCheck { subject: subject.to_owned(), problem: problem.to_owned() }
}

/// Where commands find their GPU.
struct Runner<'a> {
    repo: &'a Repo,
    /// The simulated driver's folder.
    libraries: Option<PathBuf>,
    /// Where the simulated GPU counts the work of the benches.
    counted: PathBuf,
}

impl Runner<'_> {
    /// Prefill and decode of the default model.
    fn bench(&self, kiln: &Path, model: &Path) -> Result<(Check, Vec<Rate>), Error> {
        let mut command = Command::new(kiln);
        let size: &[&str] = if self.libraries.is_some() {
            &["-p", "4", "-n", "1", "-r", "1"]
        } else {
            &["-p", "512", "-n", "128", "-r", "5"]
        };
        command.args(["bench", "--device", "cuda", "-o", "json"]).args(size).arg("--model").arg(model);
        let mut check = self.check("prefill and decode of the default model", command)?;
        let rates: Vec<Rate> = serde_json::from_str(&check.output).unwrap_or_default();
        check.passed &= !rates.is_empty();
        check.output.clear();
        Ok((check, rates))
    }

    /// The tests that compare the CUDA device with the oracle, in this process's own view of the GPU.
    fn tests(&self) -> Result<Check, Error> {
        let mut command = process::cargo(self.repo);
        command.args(["test", "--quiet", "--test", "devices", "--"]);
        match self.libraries {
            Some(_) => command.args(["--exact", "stages::embed_gives_the_rows_of_its_tokens"]),
            None => {
                command.args(["stages::", "engine_on_devices::", "sampler_on_devices::", "row_invariance::"]);
                // The device under test is the process's GPU: neither the simulated one nor the CPU.
                command.args([
                    "--skip",
                    "on_the_simulated_gpu",
                    "--skip",
                    "cpu_",
                    "--skip",
                    "on_the_cpu",
                    "--skip",
                    "reference_",
                ])
            }
        };
        command.args(["--test-threads=1"]).env("KILN_TEST_CUDA", "1").env("KILN_TEST_DTYPE", "Q4_1");
        self.check("tests of the CUDA device", command)
    }

    fn benches(&self) -> Result<Check, Error> {
        let mut command = process::cargo(self.repo);
        command.args(["bench", "--quiet", "--bench", "stages", "--"]);
        match self.libraries {
            Some(_) => command.arg("linear/cuda/smollm2/Q4_1/1").env("KILN_SIM_REPORT", &self.counted),
            None => command.arg("/cuda/"),
        };
        self.check("benches of stages and decode steps", command)
    }

    fn check(&self, what: &'static str, mut command: Command) -> Result<Check, Error> {
        const LINES_MAX: usize = 400;
        if let Some(folder) = &self.libraries {
            command.env("LD_LIBRARY_PATH", folder);
        }
        // As it would be typed at the repository's root.
        let name = process::shown(&command).replace(&format!("{}/", self.repo.root().display()), "");
        let name = name.replace(&*process::cargo(self.repo).get_program().to_string_lossy(), "cargo");
        println!("{what}: {name}");
        let output =
            command.stderr(Stdio::inherit()).output().map_err(|source| process::start_error(&command, source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        let output_tail = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
        Ok(Check { what, command: name, passed: output.status.success(), output: output_tail })
    }
}

/// The commit, and whether the tree differs from it.
fn commit(repo: &Repo) -> Result<String, Error> {
    let git = |args: &[&str]| process::capture(Command::new("git").current_dir(repo.root()).args(args));
    let changed = if git(&["status", "--porcelain"])?.is_empty() { "" } else { " with changes" };
    Ok(format!("{}{changed}", git(&["rev-parse", "HEAD"])?.trim()))
}

/// What `nvidia-smi` says of driver and GPU.
fn driver(simulated: bool) -> String {
    if simulated {
        return "simulated".to_owned();
    }
    let query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit";
    let output = Command::new("nvidia-smi").args([query, "--format=csv,noheader"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown: nvidia-smi does not run".to_owned(),
    }
}

fn to_markdown(report: &Report) -> String {
    let mut text = String::from("# GPU check\n\n");
    if report.simulated {
        text +=
            "***Simulated***: this ran on the simulated GPU, to prove that the check works. It measures nothing.\n\n";
    }
    let _ = write!(
        text,
        "- device: {}\n- driver: {}\n- commit: {}\n\n| check | passed | command |\n|---|---|---|\n",
        report.device, report.driver, report.commit
    );
    for Check { what, command, passed, .. } in &report.checks {
        let _ = writeln!(text, "| {what} | {} | `{command}` |", if *passed { "yes" } else { "**no**" });
    }
    if !report.rates.is_empty() {
        text += "\n| test | tokens/s | GB/s | of peak |\n|---|---:|---:|---:|\n";
    }
    for rate in &report.rates {
        let test = if rate.n_gen == 0 { format!("pp{}", rate.n_prompt) } else { format!("tg{}", rate.n_gen) };
        let share = 100.0 * rate.gbytes_per_s / rate.peak_gbytes_per_s;
        let _ = writeln!(
            text,
            "| {test} | {:.1} ± {:.1} | {:.1} | {share:.1} % of {:.0} |",
            rate.avg_ts, rate.stddev_ts, rate.gbytes_per_s, rate.peak_gbytes_per_s
        );
    }
    for Check { what, output, .. } in report.checks.iter().filter(|check| !check.output.is_empty()) {
        let _ = write!(text, "\n## {what}\n\n```\n{output}\n```\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(simulated: bool, rates: Vec<Rate>) -> Report {
        let check = |what, passed| Check { what, command: "cargo test".into(), passed, output: "1 passed".into() };
        let checks = vec![check("tests", true), check("benches", false)];
        Report { simulated, commit: "abc".into(), device: "cuda (X)".into(), driver: "1.2".into(), checks, rates }
    }

    #[test]
    fn a_report_names_device_driver_commit_and_what_failed() {
        let rates = r#"[{"backends": "cuda (X)", "n_prompt": 0, "n_gen": 128, "avg_ts": 1000.0, "stddev_ts": 2.0,
            "gbytes_per_s": 750.0, "peak_gbytes_per_s": 1000.0, "other": 1}]"#;
        let text = to_markdown(&report(false, serde_json::from_str(rates).unwrap()));
        for words in ["cuda (X)", "1.2", "abc", "| tests | yes |", "| benches | **no** |", "75.0 % of 1000", "tg128"] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(!text.to_lowercase().contains("simulated"), "{text}");
    }

    #[test]
    fn a_simulated_report_says_so_and_has_no_rates() {
        let text = to_markdown(&report(true, Vec::new()));
        assert!(text.contains("***Simulated***") && !text.contains("tokens/s"), "{text}");
    }
}
