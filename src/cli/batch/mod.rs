//! `kiln batch`: a file of requests to a file of answers.

mod answers;
mod files;
mod requests;
mod summary;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use kiln::engine::{EngineError, Event};
use kiln::runtime::{Delivery, Generating, LoadedModel, Runtime, RuntimeError, RuntimeOptions, Sequences};
use kiln::text::openai::{self, ApiRequest, Endpoint};
use kiln::text::{Generation, Refusal, TextModel};
use kiln::tokenizer::ParseSpecial;
use serde_json::json;
use sha2::{Digest, Sha256};

use answers::{Answered, Answers};
use requests::Line;
use summary::Summary;

use super::CliError;
use super::args::{ContextArgs, DeviceArgs, ModelArgs, StepArgs, TemplateArgs};
use super::interrupt::Interrupt;
use super::progress::{self, Shown};

/// Answer a file of requests in OpenAI's batch format
///
/// Every line of INPUT is `{"custom_id", "method": "POST", "url", "body"}` with the url `/v1/chat/completions` or `/v1/completions`.
/// Sampling fields that a body leaves out have OpenAI's values, which change nothing of the model's distribution (temperature 1, no top-k,
/// top-p or min-p); `kiln run` has defaults of its own. Many requests run at once; an answer is appended to OUTPUT when it is there, so
/// the order may differ. A request's error is its line's answer, and makes the command fail at its end.
///
/// After an interruption, give the same command. Each answer's `request_sha256` is a hash of its request (method, url and body), of the
/// model file and of the options that change answers; a request is done if the last line of its custom_id has its hash and no error.
/// Others are done again. OUTPUT must be new, empty, or written by this command; nothing else is ever changed.
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// JSON lines with the requests; - is standard input
    input: PathBuf,

    /// JSON lines with the answers, appended to; - is standard output, where nothing is known of earlier answers
    output: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Sequences that run at once, answers and beams [default: as many as there is memory for, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Option<u32>,

    #[command(flatten)]
    context: ContextArgs,

    #[command(flatten)]
    step: StepArgs,

    #[command(flatten)]
    template: TemplateArgs,

    /// Show no progress; the summary comes nevertheless
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

/// A request that is to be answered.
#[derive(Debug)]
struct Job {
    line: Line,
    request_sha256: String,
}

/// A line whose prompts are being answered.
#[derive(Debug)]
struct Running {
    job: Job,
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
    let chat_template = args.template.source()?;
    let requests = requests::read(&args.input)?;
    let answers = Answers::open(&args.output, requests.file)?;
    let path = args.model.path()?;
    let mut summary = Summary::of(requests.lines.len());
    let common = common_fingerprint(args, chat_template.as_deref(), &path)?;
    let fingerprinted =
        requests.lines.into_iter().map(|line| Job { request_sha256: fingerprint(&common, &line), line });
    let is_left = |job: &Job| !answers.is_done(&job.line.custom_id, &job.request_sha256);
    let jobs: Vec<Job> = fingerprinted.filter(is_left).collect();
    summary.already_done = summary.requests - jobs.len();
    let name = answers.name().to_owned();
    let mut batch = Batch { answers, summary };
    let result = if jobs.is_empty() { Ok(()) } else { batch.answer_all(args, chat_template, &path, jobs) };
    let summary = batch.summary;
    summary.tell(&name);
    result?;
    match summary.failed {
        0 => Ok(()),
        failed => Err(CliError::usage(format!("{failed} of {} requests failed", summary.requests))),
    }
}

/// A hash of all that changes every answer: the model, and what flags say of numbers.
fn common_fingerprint(args: &BatchArgs, chat_template: Option<&str>, path: &Path) -> Result<Sha256, CliError> {
    let model =
        files::model_fingerprint(path).map_err(|source| CliError::File { path: path.display().to_string(), source })?;
    let options = json!({
        "chat_template": chat_template,
        "ctx_size": args.context.tokens(),
        "parse_special": args.template.parse_special() == ParseSpecial::Yes,
        "kv_cache_dtype": args.device.kv_cache_dtype().name(),
    });
    Ok(Sha256::new().chain_update(b"kiln batch 1\n").chain_update(model).chain_update(options.to_string()))
}

fn fingerprint(common: &Sha256, line: &Line) -> String {
    let request = json!([line.method, line.url, line.body]);
    let hash = common.clone().chain_update(request.to_string()).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A batch under way.
#[derive(Debug)]
struct Batch {
    answers: Answers,
    summary: Summary,
}

impl Batch {
    fn answer_all(
        &mut self,
        args: &BatchArgs,
        chat_template: Option<String>,
        path: &Path,
        jobs: Vec<Job>,
    ) -> Result<(), CliError> {
        let shown = Shown::unless(args.quiet || self.answers.is_terminal());
        let options = RuntimeOptions {
            context_tokens: args.context.tokens(),
            step_rows_max: args.step.rows_max(),
            chat_template,
            parse_special: args.template.parse_special(),
            sequences: args.parallel.and_then(NonZeroU32::new).map_or(Sequences::AsManyAsFit, Sequences::Exactly),
            ..args.device.runtime_options()
        };
        let runtime = progress::ready(&LoadedModel::open(path)?, &options, shown)?;
        let interrupt = Interrupt::watch();
        let template = "{msg} {wide_bar} {pos} of {len}, {eta} left";
        let bar = progress::bar(self.summary.requests as u64, template, "requests", shown);
        bar.set_position(self.summary.already_done as u64);
        bar.reset_eta();
        let (sender, messages) = channel::<Message>();
        let mut running: HashMap<usize, Running> = HashMap::new();
        let mut jobs = jobs.into_iter().enumerate();
        loop {
            // As many wait in the engine as run, so that it never lacks work.
            let open =
                |running: &HashMap<usize, Running>| running.values().map(|line| line.prompts.len()).sum::<usize>();
            while open(&running) < 2 * runtime.facts().limits.slots_max as usize
                && let Some((number, job)) = jobs.next()
            {
                match start(&runtime, number, job, &sender)? {
                    Ok(line) => drop(running.insert(number, line)),
                    Err((job, refusal)) => self.fail(&job, &[], &refusal)?,
                }
            }
            bar.set_position((self.summary.requests - self.summary.left()) as u64);
            if running.is_empty() {
                bar.finish_and_clear();
                return Ok(());
            }
            if interrupt.is_pressed() {
                bar.finish_and_clear();
                return Err(CliError::Interrupted);
            }
            let (number, prompt, delivery) = match messages.recv_timeout(Duration::from_millis(50)) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Err(RuntimeError::from(EngineError::Stopped).into()),
            };
            // A line that has failed already is not there any more.
            let Some(line) = running.get_mut(&number) else { continue };
            let (index, event) = delivery.map_err(RuntimeError::from)?;
            let outcome = line.receive(prompt, index, event);
            if !matches!(outcome, Ok(false))
                && let Some(line) = running.remove(&number)
            {
                match outcome {
                    Ok(_) => self.finish(line, runtime.text())?,
                    Err(error) => self.fail(&line.job, &line.request.ignored, &error.into_refusal()?)?,
                }
            }
        }
    }

    fn finish(&mut self, line: Running, model: &TextModel) -> Result<(), CliError> {
        let answer = |prompt| if let Prompt::Answered(generations) = prompt { generations } else { Vec::new() };
        let answers: Vec<_> = line.prompts.into_iter().map(answer).collect();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kind = if line.request.endpoint == Endpoint::ChatCompletions { "chatcmpl" } else { "cmpl" };
        let id = format!("{kind}-{}", line.job.line.custom_id);
        let body = openai::response(&line.request, &answers, model.tokenizer(), &id, created);
        let ignored = [&line.job.line.ignored[..], &line.request.ignored].concat();
        self.answers.write(line.job.answered(&ignored), 200, &body)?;
        self.summary.answered += 1;
        self.summary.add_ignored(&ignored);
        Ok(())
    }

    fn fail(&mut self, job: &Job, ignored: &[String], refusal: &Refusal) -> Result<(), CliError> {
        let ignored = [&job.line.ignored[..], ignored].concat();
        self.answers.write_error(job.answered(&ignored), refusal)?;
        self.summary.add_failed(&job.line.custom_id, refusal);
        self.summary.add_ignored(&ignored);
        Ok(())
    }
}

impl Job {
    fn answered<'a>(&'a self, ignored: &'a [String]) -> Answered<'a> {
        Answered { custom_id: &self.line.custom_id, request_sha256: &self.request_sha256, ignored }
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

/// Gives a line's prompts to the engine; or what is wrong with it.
fn start(
    runtime: &Runtime,
    number: usize,
    job: Job,
    sender: &Sender<Message>,
) -> Result<Result<Running, (Job, Refusal)>, RuntimeError> {
    let Line { method, url, body, .. } = &job.line;
    let endpoint = Endpoint::at(url).filter(|_| method == "POST").ok_or_else(|| Refusal {
        status: 404,
        message: format!("there is no {method} {url}: POST to /v1/chat/completions or /v1/completions"),
        param: Some("url".to_owned()),
        code: None,
    });
    let request = match endpoint.and_then(|endpoint| openai::parse(endpoint, body.clone(), runtime.text())) {
        Ok(request) => request,
        Err(refusal) => return Ok(Err((job, refusal))),
    };
    let mut prompts = Vec::new();
    for (i, prompt) in request.prompts.iter().enumerate() {
        let sender = sender.clone();
        let sink = move |delivery| drop(sender.send((number, i, delivery)));
        match runtime.submit_to(prompt.clone(), sink) {
            Ok(generating) => prompts.push(Prompt::Open(Box::new(generating))),
            // Those that run are cancelled with their tickets.
            Err(error) => return Ok(Err((job, error.into_refusal()?))),
        }
    }
    Ok(Ok(Running { job, request, prompts }))
}
