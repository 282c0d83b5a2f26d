//! Steps of models on the simulated GPU, as its report tells of them.

use super::problem;
use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use crate::simulated;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The steps that are counted.
pub struct Steps {
    pub smollm2: Step,
    /// One layer of Llama-3-8B's shape, by format.
    pub llama: Vec<(&'static str, Step)>,
    /// A prompt through one layer of SmolLM2's shape, and through a narrow one with Llama-3-8B's heads.
    pub prefills: [Step; 2],
}

/// One step: its launches, in order.
pub struct Step {
    pub launches: Vec<Launch>,
    pub graph_launches: u64,
    pub sm_count: u32,
    /// Weights, keys and values that it must move.
    pub floor_bytes: u64,
}

#[derive(Deserialize)]
pub struct Launch {
    pub kernel: String,
    /// CTAs.
    pub grid: [u32; 3],
    /// Those that are not zero.
    counters: HashMap<String, u64>,
}

impl Launch {
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

impl Step {
    /// A counter summed over the kernels whose names start so.
    pub fn sum(&self, kernel: &str, counter: &str) -> f64 {
        self.of(kernel).map(|launch| launch.counter(counter)).sum::<u64>() as f64
    }

    pub fn of<'a>(&'a self, kernel: &'a str) -> impl Iterator<Item = &'a Launch> {
        self.launches.iter().filter(move |launch| launch.kernel.starts_with(kernel))
    }
}

impl Steps {
    pub fn run(repo: &Repo, model: &Path) -> Result<Steps, Error> {
        let runner = Runner::build(repo)?;
        let model = repo.relative(model);
        let llama = |format| Ok::<_, Error>((format, runner.step("decode", &format!("llama-3-8b:{format}"))?));
        Ok(Steps {
            smollm2: runner.step("decode", &model)?,
            llama: vec![llama("Q4_1")?, llama("Q4_K")?],
            prefills: [runner.step("prefill", "smollm2:Q4_1")?, runner.step("prefill", "narrow:Q4_K")?],
        })
    }
}

/// `examples/counted.rs` and the library that it finds as its driver.
struct Runner<'a> {
    repo: &'a Repo,
    program: PathBuf,
    libraries: PathBuf,
}

/// What the program prints.
#[derive(Deserialize)]
struct Floor {
    bytes: u64,
}

/// One line of a report.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Device {
        sm_count: u32,
    },
    Launch(Launch),
    GraphLaunch {},
    #[serde(other)]
    Other,
}

impl Runner<'_> {
    /// In the profile and with the features of the tests, so that these find everything built.
    fn build(repo: &Repo) -> Result<Runner<'_>, Error> {
        process::run(process::cargo(repo).args(["build", "--workspace", "--example", "counted"]))?;
        let target = repo.built()?.join("debug");
        let libraries = simulated::link(repo, &target.join("deps/libkiln_simcuda.so"))?;
        Ok(Runner { repo, program: target.join("examples/counted"), libraries })
    }

    fn step(&self, step: &str, model: &str) -> Result<Step, Error> {
        let path = self.repo.root().join("target/counters.jsonl");
        let mut command = std::process::Command::new(&self.program);
        command.current_dir(self.repo.root()).args([step, model]);
        command.env("LD_LIBRARY_PATH", &self.libraries).env("KILN_SIM_REPORT", &path);
        // The tests run with checkers; numbers do not depend on them.
        command.env("KILN_SIM_CHECKS", "none");
        let printed = process::capture(&mut command)?;
        let floor: Floor =
            serde_json::from_str(&printed).map_err(|e| problem(&process::shown(&command), &e.to_string()))?;
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        parse(&text, floor.bytes).map_err(|e| problem(&path.display().to_string(), &e.to_string()))
    }
}

/// The report from the step's first kernel on.
fn parse(report: &str, floor_bytes: u64) -> Result<Step, serde_json::Error> {
    let mut step = Step { launches: Vec::new(), graph_launches: 0, sm_count: 0, floor_bytes };
    for line in report.lines() {
        match serde_json::from_str(line)? {
            Line::Device { sm_count } => step.sm_count = sm_count,
            Line::GraphLaunch {} => step.graph_launches += 1,
            Line::Launch(launch) if launch.kernel == "kiln_embed" || !step.launches.is_empty() => {
                step.launches.push(launch)
            }
            Line::Launch(_) | Line::Other => {}
        }
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_starts_with_its_first_kernel() {
        let report = concat!(
            "{\"event\":\"device\",\"compute_capability\":[9,0],\"sm_count\":132,\"l2_bytes\":1}\n",
            "{\"event\":\"launch\",\"kernel\":\"kiln_repack\",\"grid\":[1,1,1],\"counters\":{\"instructions\":9}}\n",
            "{\"event\":\"graph_launch\",\"nodes\":2}\n",
            "{\"event\":\"copy\",\"direction\":\"host_to_device\",\"bytes\":9}\n",
            "{\"event\":\"launch\",\"kernel\":\"kiln_embed\",\"grid\":[1,1,1],\"counters\":{\"instructions\":3}}\n",
            "{\"event\":\"launch\",\"kernel\":\"kiln_attend_64\",\"grid\":[4,1,1],\"counters\":{\"instructions\":4}}\n",
        );
        let step = parse(report, 7).unwrap();
        assert_eq!((step.sm_count, step.graph_launches, step.launches.len()), (132, 1, 2));
        assert_eq!((step.sum("kiln_", "instructions"), step.sum("kiln_attend", "instructions")), (7.0, 4.0));
        assert_eq!(step.launches[1].counter("matrix"), 0);
    }
}
