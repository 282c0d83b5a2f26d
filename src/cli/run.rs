//! `kiln run`: text from a prompt.

use std::io::{IsTerminal, Read, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kiln::runtime::{Control, LoadedModel, Progress, Runtime, RuntimeOptions, Sequences};
use kiln::sampling::beam::{BeamParams, EarlyStopping};
use kiln::sampling::{Answers, CHOICES_MAX, GenerateRequest, SamplingParams};
use kiln::text::{Conversation, Generation, TextModel};
use kiln::tokenizer::EncodeOptions;

use super::{CliError, DeviceArgs};

/// Generate text from a prompt, streaming it to standard output
///
/// The prompt is the argument, or standard input if there is none. It is put into the model's chat template unless `--raw` is
/// given. Statistics go to standard error. `--json` prints one object for each answer instead of streaming.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Prompt; read from standard input if absent
    prompt: Option<String>,

    /// GGUF model file
    #[arg(short, long)]
    model: PathBuf,

    /// System message for the chat template [default: the template's own]
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,

    /// Take the prompt as it is: no chat template
    #[arg(long)]
    raw: bool,

    /// Print a JSON object, one line for each answer: prompt_ids, output_ids, text, finish_reason, logprobs, sum_logprob, score,
    /// timings, memory
    #[arg(long)]
    json: bool,

    /// Do not print statistics after the text
    #[arg(long)]
    quiet: bool,

    /// Context length in tokens [default: what the model was trained for]
    #[arg(short, long = "ctx-size")]
    ctx_size: Option<u32>,

    /// Rows (tokens) of one prefill step
    #[arg(long = "ubatch-size", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8192))]
    ubatch_size: u32,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    answers: AnswersArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// How tokens are chosen. Values out of range are errors; nothing is clamped.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Tokens to generate at most [default: until the context is full]
    #[arg(short = 'n', long)]
    max_tokens: Option<u32>,

    /// Tokens to generate at least: before that, end of sequence and stop ids cannot be chosen
    #[arg(long, default_value_t = 0)]
    min_tokens: u32,

    /// Temperature; 0 takes the most likely token [default: 0.8; none with --beams]
    #[arg(long = "temperature", visible_alias = "temp")]
    temperature: Option<f32>,

    /// Keep the k most likely tokens; 0 keeps all [default: 40; 0 with --beams]
    #[arg(long)]
    top_k: Option<u32>,

    /// Keep the smallest set of tokens whose probability reaches p [default: 0.95; 1 with --beams]
    #[arg(long)]
    top_p: Option<f64>,

    /// Keep tokens at least this fraction as likely as the most likely one [default: 0.05; 0 with --beams]
    #[arg(long)]
    min_p: Option<f32>,

    /// Subtracted from the logit of every token generated before
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Subtracted from a token's logit per occurrence in the output
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Divides positive and multiplies negative logits of tokens in prompt and output; 1 is off
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,

    /// Let presence and frequency penalties count the prompt's tokens too
    #[arg(long)]
    penalise_prompt: bool,

    /// Added to a token's logit, as ID=BIAS; may be repeated
    #[arg(long, value_parser = parse_bias, value_name = "ID=BIAS")]
    logit_bias: Vec<(u32, f32)>,

    /// Stop at this text, which is not printed; may be repeated
    #[arg(long)]
    stop: Vec<String>,

    /// Stop at this token id; may be repeated
    #[arg(long = "stop-token-id", value_name = "ID")]
    stop_token_ids: Vec<u32>,

    /// Do not stop at the end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,

    /// Seed of the random draws [default: a fresh one, which is reported]
    #[arg(short, long)]
    seed: Option<u64>,

    /// Report log-probabilities of the chosen tokens and of the N most likely ones (with --json)
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,
}

/// Several answers to one prompt.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answers")]
struct AnswersArgs {
    /// Answers to print, best first
    #[arg(long, default_value_t = 1)]
    n: u32,

    /// Answers to generate, of which the n with the best mean log-probability per token are printed [default: n]
    #[arg(long, conflicts_with = "beams")]
    best_of: Option<u32>,

    /// Search for the most likely answers with so many beams instead of drawing
    #[arg(long, visible_alias = "num-beams")]
    beams: Option<u32>,

    /// Compare beams by log-probability / length ^ X: 0 takes the most likely, more favours long answers
    #[arg(long, value_name = "X", default_value_t = 0.0, requires = "beams", allow_negative_numbers = true)]
    length_penalty: f64,

    /// When to stop with as many finished answers as beams
    #[arg(long, value_enum, default_value_t = Stopping::Never, requires = "beams")]
    early_stopping: Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stopping {
    /// At once
    True,
    /// When the best live beam is no better, at its length, than the worst answer
    False,
    /// When no live beam can become better than the worst answer
    Never,
}

impl AnswersArgs {
    fn answers(&self) -> Answers {
        let Some(num_beams) = self.beams else {
            return Answers::Sampled { n: self.n, best_of: self.best_of.unwrap_or(self.n) };
        };
        let early_stopping = match self.early_stopping {
            Stopping::True => EarlyStopping::First,
            Stopping::False => EarlyStopping::Likely,
            Stopping::Never => EarlyStopping::Never,
        };
        let length_penalty = self.length_penalty;
        Answers::Beams(BeamParams { num_beams, num_return: self.n, length_penalty, early_stopping })
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, such as 42=-5")?;
    let id = id.trim().parse().map_err(|e| format!("token id {id:?}: {e}"))?;
    let bias = bias.trim().parse().map_err(|e| format!("bias {bias:?}: {e}"))?;
    Ok((id, bias))
}

impl SamplingArgs {
    fn params(&self, answers: &Answers) -> SamplingParams {
        use kiln::ids::TokenId;
        let neutral = SamplingParams::default();
        let draws = SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..neutral.clone() };
        let default = if matches!(answers, Answers::Beams(_)) { neutral } else { draws };
        SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            penalise_prompt: self.penalise_prompt,
            logit_bias: self.logit_bias.iter().map(|&(id, bias)| (TokenId(id), bias)).collect(),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.iter().copied().map(TokenId).collect(),
            ignore_eos: self.ignore_eos,
            seed: self.seed,
            logprobs: self.logprobs,
        }
    }
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), CliError> {
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => read_stdin()?,
    };
    if args.logprobs_without_json() {
        return Err(CliError::usage("--logprobs prints into the JSON object: add --json"));
    }
    let answers = args.answers.answers();
    // More are refused with the request.
    let at_once = NonZeroU32::new(answers.sequences_max().min(CHOICES_MAX)).unwrap_or(NonZeroU32::MIN);
    let options = RuntimeOptions {
        sequences: Sequences::Exactly(at_once),
        context_tokens: args.ctx_size,
        step_rows_max: args.ubatch_size,
        ..args.device.runtime_options()
    };
    let loaded = LoadedModel::open(&args.model)?;
    let bar = byte_bar(&format!("loading {}", args.model.display()), loaded.tensor_bytes());
    let opened = Runtime::of(&loaded, &options, &|progress| show(progress, &bar));
    bar.finish_and_clear();
    drop(loaded);
    let runtime = opened?;
    let prompt_ids = prompt_ids(runtime.text(), args, &prompt)?;
    let params = args.sampling.params(&answers);
    let streams = !args.json && answers == Answers::ONE;
    let mut output_error = None;
    let request = GenerateRequest { prompt_ids, params, answers };
    let generations = runtime.generate(request, &mut |delta| {
        if !streams {
            return Control::Continue;
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(delta.text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Control::Continue,
            Err(error) => {
                output_error = Some(error);
                Control::Stop
            }
        }
    })?;
    if let Some(error) = output_error {
        return Err(error.into());
    }
    let mut out = std::io::stdout().lock();
    for (number, generation) in (1..).zip(&generations) {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(generation)?)?;
            continue;
        }
        if generations.len() > 1 {
            let score = generation.score.map(|score| format!(" (score {score:.4})")).unwrap_or_default();
            writeln!(out, "--- answer {number}{score}")?;
        }
        writeln!(out, "{}", if streams { "" } else { &generation.text })?;
    }
    if let (false, false, Some(best)) = (args.json, args.quiet, generations.first()) {
        print_statistics(&runtime, best);
    }
    Ok(())
}

impl RunArgs {
    fn logprobs_without_json(&self) -> bool {
        self.sampling.logprobs.is_some() && !self.json
    }
}

fn prompt_ids(model: &TextModel, args: &RunArgs, prompt: &str) -> Result<Vec<kiln::ids::TokenId>, CliError> {
    let tokenizer = model.tokenizer();
    if args.raw {
        return Ok(tokenizer.encode(prompt, EncodeOptions::PROMPT)?);
    }
    let template = model.chat_template();
    let template = template.map_err(|error| CliError::usage(format!("{error}; --raw takes the prompt as it is")))?;
    Ok(model.chat_prompt(template, &Conversation::of_user(args.system.as_deref(), prompt))?)
}

fn read_stdin() -> Result<String, CliError> {
    if std::io::stdin().is_terminal() {
        return Err(CliError::usage("no prompt: give one as the argument or on standard input"));
    }
    let mut prompt = String::new();
    std::io::stdin().read_to_string(&mut prompt)?;
    Ok(prompt)
}

/// Shown on a terminal while bytes are read.
fn byte_bar(message: &str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}");
    let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(progress: Progress, bar: &ProgressBar) {
    match progress {
        Progress::TensorBytes(bytes) => bar.set_position(bytes),
        Progress::Graphs { captured, total } => {
            let style = ProgressStyle::with_template("capturing decode steps {wide_bar} {pos} of {len}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_length(total.into());
            bar.set_position(captured.into());
        }
    }
}

fn print_statistics(runtime: &Runtime, generation: &Generation) {
    let t = &generation.timings;
    let m = &generation.memory;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    eprintln!(
        "\n{}\n\
         time to first token   {:.1} ms ({} prompt tokens, {:.0} tokens/s)\n\
         time per output token {:.2} ms ({} tokens, {:.1} tokens/s)\n\
         memory                {:.1} MiB weights, {:.1} MiB KV arena, {:.1} MiB workspace\n\
         context               {} of {} tokens\n\
         finish                {}{}{}",
        runtime.facts().device_name,
        t.time_to_first_token_ms,
        t.prompt_tokens,
        t.prompt_tokens_per_s,
        t.time_per_output_token_ms,
        t.output_tokens,
        t.output_tokens_per_s,
        mib(m.weights_bytes),
        mib(m.kv_arena_bytes),
        mib(m.workspace_bytes),
        t.context_tokens_used,
        t.context_tokens_max,
        generation.finish_reason.name(),
        generation.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default(),
        generation.sum_logprob.map(|sum| format!(", log-probability {sum:.4}")).unwrap_or_default(),
    );
}
