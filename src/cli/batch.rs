//! `kiln batch`: a file of requests to a file of answers.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kiln::engine::{EngineError, Event};
use kiln::runtime::{Delivery, Generating, Runtime, RuntimeError, RuntimeOptions, Sequences};
use kiln::text::openai::{self, ApiRequest, Endpoint};
use kiln::text::{Generation, Refusal, TextModel};
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
    prompts: Vec<Prompt>,
}

#[derive(Debug)]
enum Prompt {
    Open(Box<Generating>),
    Answered(Vec<Generation>),
}

/// What the engine's thread sends: an event of a line's prompt.
type Message = (usize, usize, Delivery);

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
    let runtime = Runtime::open(&args.model, &options)?;
    let (sender, messages) = channel::<Message>();
    let mut running: HashMap<usize, Running> = HashMap::new();
    let mut lines = lines.into_iter().enumerate();
    loop {
        // As many wait in the engine as run, so that it never lacks work.
        let open = |running: &HashMap<usize, Running>| running.values().map(|line| line.prompts.len()).sum::<usize>();
        while open(&running) < 2 * runtime.facts().limits.slots_max as usize
            && let Some((number, line)) = lines.next()
        {
            match start(&runtime, number, line, &sender)? {
                Ok(line) => drop(running.insert(number, line)),
                Err((custom_id, refusal)) => answers.write_error(&custom_id, &refusal)?,
            }
        }
        bar.set_position((total - lines.len() - running.len()) as u64);
        if running.is_empty() {
            bar.finish_and_clear();
            return Ok(());
        }
        let (number, prompt, delivery) = messages.recv().map_err(|_| RuntimeError::from(EngineError::Stopped))?;
        // A line that has failed already is not there any more.
        let Some(line) = running.get_mut(&number) else { continue };
        let (index, event) = delivery.map_err(RuntimeError::from)?;
        let outcome = line.receive(prompt, index, event);
        if !matches!(outcome, Ok(false))
            && let Some(line) = running.remove(&number)
        {
            match outcome {
                Ok(_) => answers.write_answer(line, runtime.text())?,
                Err(error) => answers.write_error(&line.custom_id, &error.into_refusal()?)?,
            }
        }
    }
}

impl Running {
    /// Takes the next event of one of the line's prompts. True when all are answered.
    fn receive(&mut self, prompt: usize, index: u32, event: Event) -> Result<bool, RuntimeError> {
        let Prompt::Open(generating) = &mut self.prompts[prompt] else { return Ok(false) };
        generating.receive(index, event);
        if !generating.is_done() {
            return Ok(false);
        }
        if let Prompt::Open(generating) = std::mem::replace(&mut self.prompts[prompt], Prompt::Answered(Vec::new())) {
            self.prompts[prompt] = Prompt::Answered(generating.finish()?);
        }
        Ok(self.prompts.iter().all(|prompt| matches!(prompt, Prompt::Answered(_))))
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

/// Gives a line's prompts to the engine; or its id and what is wrong with it.
fn start(
    runtime: &Runtime,
    number: usize,
    line: Line,
    sender: &Sender<Message>,
) -> Result<Result<Running, (String, Refusal)>, RuntimeError> {
    let Line { custom_id, method, url, body } = line;
    let endpoint = Endpoint::at(&url).filter(|_| method == "POST").ok_or_else(|| Refusal {
        status: 404,
        message: format!("there is no {method} {url}: POST to /v1/chat/completions or /v1/completions"),
        param: Some("url".to_owned()),
        code: None,
    });
    let request = match endpoint.and_then(|endpoint| openai::parse(endpoint, body, runtime.text())) {
        Ok(request) => request,
        Err(refusal) => return Ok(Err((custom_id, refusal))),
    };
    let mut prompts = Vec::new();
    for (i, prompt) in request.prompts.iter().enumerate() {
        let sender = sender.clone();
        let sink = move |delivery| drop(sender.send((number, i, delivery)));
        match runtime.submit_to(prompt.clone(), sink) {
            Ok(generating) => prompts.push(Prompt::Open(Box::new(generating))),
            // Those that run are cancelled with their tickets.
            Err(error) => return Ok(Err((custom_id, error.into_refusal()?))),
        }
    }
    Ok(Ok(Running { custom_id, request, prompts }))
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

    fn write_answer(&mut self, line: Running, model: &TextModel) -> Result<(), CliError> {
        let answer = |prompt| if let Prompt::Answered(generations) = prompt { generations } else { Vec::new() };
        let answers: Vec<_> = line.prompts.into_iter().map(answer).collect();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kind = if line.request.endpoint == Endpoint::ChatCompletions { "chatcmpl" } else { "cmpl" };
        let id = format!("{kind}-{}", line.custom_id);
        let body = openai::response(&line.request, &answers, model.tokenizer(), &id, created);
        self.write(&line.custom_id, 200, body)
    }

    fn write_error(&mut self, custom_id: &str, refusal: &Refusal) -> Result<(), CliError> {
        self.write(custom_id, refusal.status, openai::error_body(refusal))
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
