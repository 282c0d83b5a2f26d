//! `kiln run`: text from a prompt.

mod sampling;
mod statistics;

use std::io::{IsTerminal, Write};
use std::num::NonZeroU32;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use kiln::engine::EngineError;
use kiln::runtime::{Runtime, RuntimeError, RuntimeOptions, Sequences};
use kiln::sampling::{Answers, CHOICES_MAX, GenerateRequest};
use kiln::text::{Conversation, Generation, TextModel};
use kiln::tokenizer::{EncodeOptions, TokenizerError};

use sampling::{AnswersArgs, SamplingArgs};

use super::CliError;
use super::args::{ContextArgs, DeviceArgs, ModelArgs, StepArgs, TemplateArgs};
use super::interrupt::Interrupt;
use super::progress::{self, Busy, Shown};
use super::streams::{read_stdin, say, without_last_newline};

/// Generate text from a prompt, streaming it to standard output
///
/// The prompt is the argument, or standard input (without the newline that ends it) if there is none. It is put into the model's chat
/// template unless `--raw` is given. Statistics go to standard error. `--json` prints one object for each answer instead of streaming.
/// Tokens are drawn at temperature 0.8 with top-k, top-p and min-p; `kiln batch` has OpenAI's defaults, which change nothing of the
/// model's distribution. Ctrl-C ends the answer where it is.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Prompt; read from standard input if absent
    prompt: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    /// System message for the chat template [default: the template's own]
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,

    /// Take the prompt as it is: no chat template
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    template: TemplateArgs,

    /// Print a JSON object, one line for each answer: prompt_ids, output_ids, text, finish_reason, logprobs, sum_logprob, score,
    /// timings, memory
    #[arg(long)]
    json: bool,

    /// Do not print statistics after the text
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    context: ContextArgs,

    #[command(flatten)]
    step: StepArgs,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    answers: AnswersArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// What came of a request.
#[derive(Debug)]
struct Outcome {
    generations: Vec<Generation>,
    /// Bytes of the text that are printed.
    printed_bytes: usize,
    is_interrupted: bool,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), CliError> {
    if args.sampling.logprobs.is_some() && !args.json {
        return Err(CliError::usage("--logprobs prints into the JSON object: add --json"));
    }
    let answers = args.answers.answers();
    let params = args.sampling.params(&answers);
    sampling::check(&params, &answers)?;
    if args.raw && args.template.is_given() {
        return Err(CliError::usage("--raw takes the prompt as it is: leave --chat-template and --parse-special out"));
    }
    let prompt = prompt(args)?;
    let runtime = open(args, &answers)?;
    let prompt_ids = prompt_ids(runtime.text(), args, &prompt)?;
    let streams = !args.json && answers == Answers::ONE;
    let outcome = generate(&runtime, GenerateRequest { prompt_ids, params, answers }, streams)?;
    print(args, &outcome, streams)?;
    if outcome.generations.is_empty() {
        say("interrupted: the search had found nothing yet");
    }
    if let (false, false, Some(best)) = (args.json, args.quiet, outcome.generations.first()) {
        statistics::print(&runtime, best);
    }
    if outcome.is_interrupted { Err(CliError::Interrupted) } else { Ok(()) }
}

/// The prompt, from the argument or standard input.
fn prompt(args: &RunArgs) -> Result<String, CliError> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if std::io::stdin().is_terminal() => {
            return Err(CliError::usage(
                "no prompt: give one as the argument, as in `kiln run \"Why is the sky blue?\"`, or on standard input",
            ));
        }
        None => without_last_newline(read_stdin()?),
    };
    if prompt.is_empty() {
        return Err(CliError::usage("the prompt is empty: give some text as the argument or on standard input"));
    }
    Ok(prompt)
}

fn open(args: &RunArgs, answers: &Answers) -> Result<Runtime, CliError> {
    let at_once = NonZeroU32::new(answers.sequences_max().min(CHOICES_MAX)).unwrap_or(NonZeroU32::MIN);
    let options = RuntimeOptions {
        sequences: Sequences::Exactly(at_once),
        context_tokens: args.context.tokens(),
        step_rows_max: args.step.rows_max(),
        chat_template: args.template.source()?,
        parse_special: args.template.parse_special(),
        ..args.device.runtime_options()
    };
    progress::open_runtime(&args.model.path()?, &options, Shown::Yes)
}

fn prompt_ids(model: &TextModel, args: &RunArgs, prompt: &str) -> Result<Vec<kiln::ids::TokenId>, CliError> {
    let _busy = Busy::with("cutting the prompt into tokens", Shown::Yes);
    let tokenizer = model.tokenizer();
    if args.raw {
        return Ok(tokenizer.encode(prompt, EncodeOptions::PROMPT)?);
    }
    let prompt = Conversation::of_user(args.system.as_deref(), prompt);
    Ok(model.chat_prompt(model.chat_template().map_err(no_template)?, &prompt)?)
}

fn no_template(error: &TokenizerError) -> CliError {
    CliError::usage(format!("{error}; --raw takes the prompt as it is, --chat-template FILE another template"))
}

/// Generates until all answers have ended or Ctrl-C ends them. Text is printed as it comes if `streams`.
fn generate(runtime: &Runtime, request: GenerateRequest, streams: bool) -> Result<Outcome, CliError> {
    let interrupt = Interrupt::watch();
    let (prompt_tokens, mut output_tokens) = (request.prompt_ids.len(), 0u64);
    let (sender, deliveries) = channel();
    let mut generating = runtime.submit_to(request, move |delivery| drop(sender.send(delivery)))?;
    let mut busy = Some(Busy::with(format!("computing {prompt_tokens} prompt tokens"), Shown::Yes));
    let (mut printed_bytes, mut is_interrupted) = (0, false);
    while !generating.is_done() {
        if interrupt.is_pressed() && !is_interrupted {
            is_interrupted = true;
            generating.cancel();
        }
        let (index, event) = match deliveries.recv_timeout(Duration::from_millis(50)) {
            Ok(delivery) => delivery.map_err(RuntimeError::from)?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Err(RuntimeError::from(EngineError::Stopped).into()),
        };
        let Some(delta) = generating.receive(index, event) else { continue };
        output_tokens += 1;
        if !streams {
            busy.iter().for_each(|busy| busy.say(|| format!("generating, {output_tokens} tokens so far")));
            continue;
        }
        // Text is progress enough; the spinner must be gone before it.
        busy = None;
        let mut out = std::io::stdout().lock();
        out.write_all(delta.text.as_bytes()).and_then(|()| out.flush())?;
        printed_bytes += delta.text.len();
    }
    Ok(Outcome { generations: generating.finish()?, printed_bytes, is_interrupted })
}

fn print(args: &RunArgs, outcome: &Outcome, streams: bool) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    for (number, generation) in (1..).zip(&outcome.generations) {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(generation)?)?;
            continue;
        }
        if outcome.generations.len() > 1 {
            let score = generation.score.map(|score| format!(" (score {score:.4})")).unwrap_or_default();
            writeln!(out, "--- answer {number}{score}")?;
        }
        // Of an answer that was streamed, what was held back for a stop string that did not come.
        let printed_bytes = if streams { outcome.printed_bytes } else { 0 };
        writeln!(out, "{}", generation.text.get(printed_bytes..).unwrap_or_default())?;
    }
    Ok(out.flush()?)
}
