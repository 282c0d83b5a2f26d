//! The two engines, each measured one run at a time.

use super::Workload;
use super::environment::{self, LlamaPython};
use crate::error::Error;
use crate::process;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Tokens per second of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub prefill: f64,
    pub decode: f64,
}

/// `kiln bench`, one process per run.
pub struct Kiln {
    binary: PathBuf,
}

impl Kiln {
    pub fn new(binary: PathBuf) -> Kiln {
        Kiln { binary }
    }

    pub fn measure(&self, file: &Path, workload: Workload) -> Result<Sample, Error> {
        run_bench(&self.binary, &["bench"], file, workload)
    }
}

/// llama.cpp: its own `llama-bench`, or the Python package behind a server that stays alive.
pub enum Llama {
    Bench { binary: PathBuf, loaded: Option<(PathBuf, Workload)>, description: String },
    Package { server: Server, description: String },
}

impl Llama {
    pub fn bench(binary: &Path) -> Result<Llama, Error> {
        if !binary.is_file() {
            let problem = "no such file; --llama-bench takes the path of the binary".to_owned();
            return Err(Error::Compare { subject: binary.display().to_string(), problem });
        }
        let description = "llama.cpp: the llama-bench given".to_owned();
        Ok(Llama::Bench { binary: binary.to_path_buf(), loaded: None, description })
    }

    /// Refuses a llama.cpp that does not use this CPU's extensions: the comparison would flatter kiln.
    pub fn package(python: &LlamaPython) -> Result<Llama, Error> {
        #[derive(Deserialize)]
        struct About {
            package: String,
            system_info: String,
        }
        let mut server = Server::start(python)?;
        let About { package, system_info } = server.ask(&Request::About)?;
        eprintln!("{package}: {system_info}");
        let unused = environment::unused_extensions(&system_info);
        if !unused.is_empty() {
            let problem = format!("built without {}, which this CPU has; remove .venv-llama", unused.join(", "));
            return Err(Error::Compare { subject: package, problem });
        }
        Ok(Llama::Package { server, description: format!("{package}: `{}`", system_info.trim_end_matches([' ', '|'])) })
    }

    pub fn description(&self) -> &str {
        match self {
            Llama::Bench { description, .. } | Llama::Package { description, .. } => description,
        }
    }

    pub fn load(&mut self, file: &Path, workload: Workload) -> Result<(), Error> {
        match self {
            Llama::Bench { loaded, .. } => *loaded = Some((file.to_path_buf(), workload)),
            Llama::Package { server, .. } => {
                let Workload { n_prompt, n_gen, threads } = workload;
                server.ask::<serde_json::Value>(&Request::Load { path: file, threads, n_prompt, n_gen })?;
            }
        }
        Ok(())
    }

    /// One run on the loaded file.
    pub fn measure(&mut self) -> Result<Sample, Error> {
        match self {
            Llama::Bench { binary, loaded, .. } => {
                let (file, workload) = loaded.as_ref().expect("a file is loaded before it is measured");
                run_bench(binary, &[], file, *workload)
            }
            Llama::Package { server, .. } => {
                let prefill = server.ask::<Timing>(&Request::Measure { test: "pp" })?.tokens_per_s();
                let decode = server.ask::<Timing>(&Request::Measure { test: "tg" })?.tokens_per_s();
                Ok(Sample { prefill, decode })
            }
        }
    }
}

/// kiln and llama-bench take the same flags and print the same keys.
fn run_bench(binary: &Path, subcommand: &[&str], file: &Path, workload: Workload) -> Result<Sample, Error> {
    let Workload { n_prompt, n_gen, threads } = workload;
    let mut command = Command::new(binary);
    command.args(subcommand).arg("-m").arg(file);
    for (flag, value) in [("-p", n_prompt), ("-n", n_gen), ("-r", 1), ("-t", threads)] {
        command.arg(flag).arg(value.to_string());
    }
    let json = process::capture(command.args(["-o", "json"]))?;
    sample_from_json(&json, workload).map_err(|problem| Error::Compare {
        subject: process::shown(&command),
        problem: format!("{problem} in:\n{json}"),
    })
}

fn sample_from_json(json: &str, workload: Workload) -> Result<Sample, String> {
    #[derive(Deserialize)]
    struct Row {
        n_prompt: u32,
        n_gen: u32,
        avg_ts: f64,
    }
    let rows: Vec<Row> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let rate = |n_prompt: u32, n_gen: u32| {
        let row = rows.iter().find(|row| (row.n_prompt, row.n_gen) == (n_prompt, n_gen));
        let rate = row.map(|row| row.avg_ts).filter(|rate| rate.is_finite() && *rate > 0.0);
        rate.ok_or_else(|| format!("no usable row with n_prompt {n_prompt} and n_gen {n_gen}"))
    };
    Ok(Sample { prefill: rate(workload.n_prompt, 0)?, decode: rate(0, workload.n_gen)? })
}

#[derive(Serialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
enum Request<'a> {
    About,
    Load { path: &'a Path, threads: u32, n_prompt: u32, n_gen: u32 },
    Measure { test: &'a str },
}

#[derive(Deserialize)]
struct Timing {
    tokens: u32,
    seconds: f64,
}

impl Timing {
    fn tokens_per_s(&self) -> f64 {
        f64::from(self.tokens) / self.seconds
    }
}

/// A running `llama_bench.py`: a line of JSON in, a line of JSON out.
pub struct Server {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(python: &LlamaPython) -> Result<Server, Error> {
        let mut command = Command::new(python.path());
        command.arg(python.server()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|source| process::start_error(&command, source))?;
        let requests = child.stdin.take().expect("standard input is piped");
        let answers = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Ok(Server { child, requests, answers })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request<'_>) -> Result<T, Error> {
        let failed = |problem: String| Error::Compare { subject: "xtask/compare/llama_bench.py".to_owned(), problem };
        let line = serde_json::to_string(request).map_err(|error| failed(error.to_string()))?;
        writeln!(self.requests, "{line}").map_err(|error| failed(format!("{error} on {line}")))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(|error| failed(format!("{error} on {line}")))?;
        parse_answer(&answer).map_err(|problem| failed(format!("{problem} on {line}")))
    }
}

fn parse_answer<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    if line.is_empty() {
        return Err("it ended without an answer".to_owned());
    }
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if let Some(error) = value.get("error") {
        return Err(error.to_string());
    }
    serde_json::from_value(value).map_err(|error| format!("{error} in {line}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; there is nothing to save in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { n_prompt: 512, n_gen: 128, threads: 2 };

    #[test]
    fn rates_come_from_the_rows_of_the_two_tests() {
        let json = r#"[
            {"n_prompt": 512, "n_gen": 0, "avg_ts": 1500.5, "samples_ts": [1500.5], "model_type": "llama"},
            {"n_prompt": 0, "n_gen": 128, "avg_ts": 250.25, "samples_ts": [250.25]}
        ]"#;
        assert_eq!(sample_from_json(json, WORKLOAD), Ok(Sample { prefill: 1500.5, decode: 250.25 }));
    }

    #[test]
    fn missing_and_meaningless_rates_are_refused() {
        let only_prefill = r#"[{"n_prompt": 512, "n_gen": 0, "avg_ts": 1500.5}]"#;
        assert!(sample_from_json(only_prefill, WORKLOAD).unwrap_err().contains("n_gen 128"));
        let zero = r#"[{"n_prompt": 512, "n_gen": 0, "avg_ts": 0.0}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 1.0}]"#;
        assert!(sample_from_json(zero, WORKLOAD).unwrap_err().contains("n_prompt 512"));
        assert!(sample_from_json("pp512: fast", WORKLOAD).is_err());
    }

    #[test]
    fn the_server_s_errors_and_silence_are_reported() {
        assert!(parse_answer::<Timing>("{\"error\": \"cannot load x\"}\n").err().unwrap().contains("cannot load x"));
        assert!(parse_answer::<Timing>("").err().unwrap().contains("ended"));
        assert_eq!(parse_answer::<Timing>("{\"tokens\": 512, \"seconds\": 0.5}").unwrap().tokens_per_s(), 1024.0);
    }

    #[test]
    fn requests_are_what_the_server_expects() {
        let load = Request::Load { path: Path::new("/m"), threads: 2, n_prompt: 512, n_gen: 128 };
        let expected = r#"{"cmd":"load","path":"/m","threads":2,"n_prompt":512,"n_gen":128}"#;
        assert_eq!(serde_json::to_string(&load).unwrap(), expected);
        assert_eq!(serde_json::to_string(&Request::About).unwrap(), r#"{"cmd":"about"}"#);
    }
}
