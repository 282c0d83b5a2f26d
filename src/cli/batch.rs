//! `kiln batch`: a file of requests to a file of answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kiln::runtime::{Generation, Output, RequestId, Runtime, RuntimeError, RuntimeOptions, Sequences};
use kiln::server::openai::{self, ApiError, ApiRequest, Endpoint};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CliError, DeviceArgs, read_text};

/// Answer a file of requests in OpenAI's batch format
///
/// Every line of INPUT is `{"custom_id", "method": "POST", "url", "body"}` with the url `/v1/chat/completions` or `/v1/completions`.
/// Many run at once; an answer is appended to OUTPUT when it is there, so the order may differ. If OUTPUT exists, requests that it
/// answers are not done again: after an interruption, give the same command. A request's error is its line's answer.
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// JSON lines with the requests
    input: PathBuf,

    /// JSON lines with the answers; appended to
    output: PathBuf,

    /// GGUF model file
    #[arg(short, long)]
    model: PathBuf,

    /// Sequences that run at once, answers and beams [default: as many as there is memory for, up to 64]
    #[arg(long)]
    parallel: Option<NonZeroU32>,

    /// Context length of one sequence in tokens [default: what the model was trained for]
    #[arg(short, long = "ctx-size")]
    ctx_size: Option<u32>,

    /// Rows (tokens) of one step
    #[arg(long = "ubatch-size", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8192))]
    ubatch_size: u32,

    /// Show no progress
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Deserialize)]
struct Line {
    custom_id: String,
    method: String,
    url: String,
    body: Value,
}

/// A line whose prompts are being answered.
#[derive(Debug)]
struct Running {
    custom_id: String,
    request: ApiRequest,
    ids: Vec<RequestId>,
    answers: HashMap<RequestId, Vec<Generation>>,
}

/// Runs the command.
pub fn run(args: &BatchArgs) -> Result<(), CliError> {
    let mut lines = read_requests(&args.input)?;
    let total = lines.len();
    let mut answers = Answers::open(&args.output)?;
    lines.retain(|line| !answers.done.contains(&line.custom_id));
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos} of {len}, {eta} left");
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(total as u64) };
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("requests");
    bar.set_position((total - lines.len()) as u64);
    if lines.is_empty() {
        return Ok(());
    }
    let options = RuntimeOptions {
        context_tokens: args.ctx_size,
        step_rows_max: args.ubatch_size,
        sequences: args.parallel.map_or(Sequences::AsManyAsFit, Sequences::Exactly),
        ..args.device.runtime_options()
    };
    let mut runtime = Runtime::open(&args.model, &options)?;
    let mut running: Vec<Running> = Vec::new();
    let mut lines = VecDeque::from(lines);
    loop {
        // As many wait in the engine as run, so that it never lacks work.
        while runtime.num_open() < 2 * runtime.engine().sequences_max() as usize
            && let Some(line) = lines.pop_front()
        {
            match start(&mut runtime, line)? {
                Ok(line) => running.push(line),
                Err((custom_id, error)) => answers.write_error(&custom_id, &error)?,
            }
        }
        bar.set_position((total - lines.len() - running.len()) as u64);
        if running.is_empty() && lines.is_empty() {
            bar.finish_and_clear();
            return Ok(());
        }
        for output in runtime.step()? {
            let Output::Done { request, result } = output else { continue };
            // A line that has failed already is not there any more.
            let Some(at) = running.iter().position(|line| line.ids.contains(&request)) else { continue };
            match result.map_err(RuntimeError::from) {
                Ok(generations) => drop(running[at].answers.insert(request, generations)),
                Err(error) => {
                    let line = running.swap_remove(at);
                    cancel(&mut runtime, &line.ids);
                    answers.write_error(&line.custom_id, &ApiError::try_from(error)?)?;
                    continue;
                }
            }
            if running[at].answers.len() == running[at].ids.len() {
                answers.write_answer(running.swap_remove(at), &runtime)?;
            }
        }
    }
}

/// The requests of a file. Each must have an id of its own, since answers are found by it.
fn read_requests(path: &Path) -> Result<Vec<Line>, CliError> {
    let (text, mut ids) = (read_text(path)?, HashSet::new());
    let mut lines = Vec::new();
    for (number, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let at = |message: String| CliError::usage(format!("{} line {number}: {message}", path.display()));
        let line: Line = serde_json::from_str(text).map_err(|error| at(error.to_string()))?;
        if !ids.insert(line.custom_id.clone()) {
            return Err(at(format!("custom_id {:?} is there twice", line.custom_id)));
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Gives a line's prompts to the runtime; or its id and what is wrong with it.
fn start(runtime: &mut Runtime, line: Line) -> Result<Result<Running, (String, ApiError)>, RuntimeError> {
    let Line { custom_id, method, url, body } = line;
    let endpoint = Endpoint::at(&url).filter(|_| method == "POST").ok_or_else(|| ApiError {
        status: 404,
        message: format!("there is no {method} {url}: POST to /v1/chat/completions or /v1/completions"),
        param: Some("url".to_owned()),
    });
    let request = match endpoint.and_then(|endpoint| openai::parse(endpoint, body, runtime)) {
        Ok(request) => request,
        Err(error) => return Ok(Err((custom_id, error))),
    };
    let mut ids = Vec::new();
    for prompt in &request.prompts {
        match runtime.add(prompt.clone()) {
            Ok(id) => ids.push(id),
            Err(error) => {
                cancel(runtime, &ids);
                return Ok(Err((custom_id, ApiError::try_from(error)?)));
            }
        }
    }
    Ok(Ok(Running { custom_id, request, ids, answers: HashMap::new() }))
}

fn cancel(runtime: &mut Runtime, ids: &[RequestId]) {
    for id in ids {
        runtime.cancel(*id);
    }
}

/// The file of answers.
#[derive(Debug)]
struct Answers {
    path: PathBuf,
    file: File,
    /// Requests that it answers.
    done: HashSet<String>,
}

impl Answers {
    /// Opens the file to append to it. What an interruption left of a last line is cut off.
    fn open(path: &Path) -> Result<Answers, CliError> {
        let failed = |source| CliError::File { path: path.display().to_string(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let text = std::fs::read(path).map_err(failed)?;
        let whole_bytes = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut done = HashSet::new();
        for (number, line) in (1..).zip(text[..whole_bytes].split_inclusive(|&byte| byte == b'\n')) {
            #[derive(Deserialize)]
            struct Done {
                custom_id: String,
            }
            let answer: Done = serde_json::from_slice(line).map_err(|error| {
                CliError::usage(format!("{} line {number} is no answer: {error}; name another file", path.display()))
            })?;
            done.insert(answer.custom_id);
        }
        if whole_bytes < text.len() {
            file.set_len(whole_bytes as u64).map_err(failed)?;
        }
        Ok(Answers { path: path.to_owned(), file, done })
    }

    fn write_answer(&mut self, mut line: Running, runtime: &Runtime) -> Result<(), CliError> {
        let answers: Vec<_> = line.ids.iter().filter_map(|id| line.answers.remove(id)).collect();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kind = if line.request.endpoint == Endpoint::ChatCompletions { "chatcmpl" } else { "cmpl" };
        let id = format!("{kind}-{}", line.custom_id);
        let body = openai::response(&line.request, &answers, runtime.tokenizer(), &id, created);
        self.write(&line.custom_id, 200, body)
    }

    fn write_error(&mut self, custom_id: &str, error: &ApiError) -> Result<(), CliError> {
        self.write(custom_id, error.status, error.body())
    }

    /// One line, in one write.
    fn write(&mut self, custom_id: &str, status_code: u16, body: Value) -> Result<(), CliError> {
        let line = json!({
            "id": format!("batch_req_{custom_id}"),
            "custom_id": custom_id,
            "response": {"status_code": status_code, "request_id": format!("req_{custom_id}"), "body": body},
            "error": null,
        });
        let failed = |source| CliError::File { path: self.path.display().to_string(), source };
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed)
    }
}
