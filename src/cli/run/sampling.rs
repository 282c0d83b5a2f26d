//! How tokens are chosen, and how many answers there are, by flags.

use clap::{Args, ValueEnum};
use kiln::sampling::beam::{BeamParams, EarlyStopping};
use kiln::sampling::{Answers, SamplingParams};

use crate::cli::CliError;

/// How tokens are chosen. Values out of range are errors; nothing is clamped.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Tokens to generate at most [default: until the context is full]
    #[arg(short = 'n', long)]
    max_tokens: Option<u32>,

    /// Tokens to generate at least: before that, end of sequence and stop ids cannot be chosen
    #[arg(long, default_value_t = 0)]
    min_tokens: u32,

    /// Temperature; 0 takes the most likely token [default: 0.8; none with --beams]
    #[arg(long = "temperature", visible_alias = "temp", allow_negative_numbers = true)]
    temperature: Option<f32>,

    /// Keep the k most likely tokens; 0 keeps all [default: 40; 0 with --beams]
    #[arg(long)]
    top_k: Option<u32>,

    /// Keep the smallest set of tokens whose probability reaches p [default: 0.95; 1 with --beams]
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f64>,

    /// Keep tokens at least this fraction as likely as the most likely one [default: 0.05; 0 with --beams]
    #[arg(long, allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Subtracted from the logit of every token generated before
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Subtracted from a token's logit per occurrence in the output
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Divides positive and multiplies negative logits of tokens in prompt and output; 1 is off
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
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
    pub logprobs: Option<u32>,
}

/// Several answers to one prompt.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answers")]
pub struct AnswersArgs {
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
    /// How many answers, and how.
    pub fn answers(&self) -> Answers {
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
    /// The parameters; with beams, no draws.
    pub fn params(&self, answers: &Answers) -> SamplingParams {
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

/// Checks what needs no model: ranges, and what excludes what. Ids are compared with the vocabulary once there is one.
///
/// # Errors
/// A value out of its range.
pub fn check(params: &SamplingParams, answers: &Answers) -> Result<(), CliError> {
    params.validate(u32::MAX)?;
    answers.validate()?;
    if let Answers::Beams(beams) = answers {
        beams.validate(params, params.stop_token_ids.len())?;
    }
    Ok(())
}
