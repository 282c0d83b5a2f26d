//! What a request may ask, checked before anything runs, and what comes of it. Numbers only, but for the stop strings that
//! travel with the parameters.

pub mod beam;
mod outcome;
mod request;

pub use outcome::{Event, FinishReason, SequenceMetrics};
pub use request::{Answers, CHOICES_MAX, GenerateRequest};

use serde::{Deserialize, Serialize};

use crate::device::{Choice, Penalties, SampleRow, SlotStart};
use crate::ids::{SlotId, TokenId};

/// A parameter out of its range. Nothing is clamped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name}: expected {expected}, found {found}")]
pub struct ParamError {
    pub name: &'static str,
    pub expected: String,
    pub found: String,
}

/// Sampling parameters of a request, named as in vLLM's and OpenAI's interfaces. The default is the model's own
/// distribution, as there; `kiln run` has defaults of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// 0 is greedy; else logits are divided by it.
    pub temperature: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Probability mass kept, 0..=1.
    pub top_p: f64,
    /// Least probability kept, relative to the most likely token's, 0..=1.
    pub min_p: f32,
    /// Subtracted from tokens that occurred, -2..=2.
    pub presence_penalty: f32,
    /// Subtracted per occurrence, -2..=2.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 0.01..=100, 1 is off.
    pub repetition_penalty: f32,
    /// Whether presence and frequency count the prompt as well as the output.
    pub penalise_prompt: bool,
    /// Added to logits, -100..=100 each, at most [`LOGIT_BIAS_MAX`].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens generated at most; `None` is until the context is full.
    pub max_tokens: Option<u32>,
    /// Tokens generated before the end of the sequence or a stop may come.
    pub min_tokens: u32,
    /// Texts that end the output, at most [`STOPS_MAX`] of [`STOP_BYTES_MAX`] bytes.
    pub stop: Vec<String>,
    /// Token ids that end the output.
    pub stop_token_ids: Vec<TokenId>,
    /// Go on after the end-of-sequence token.
    pub ignore_eos: bool,
    /// Fixes the draws; `None` takes a fresh one.
    pub seed: Option<u64>,
    /// Log-probabilities of the chosen token and of so many most likely ones, at most [`LOGPROBS_MAX`].
    pub logprobs: Option<u32>,
}

pub const LOGIT_BIAS_MAX: usize = 1024;
pub const STOPS_MAX: usize = 16;
pub const STOP_BYTES_MAX: usize = 256;
pub const LOGPROBS_MAX: u32 = 20;

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            penalise_prompt: false,
            logit_bias: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            seed: None,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(max_tokens: u32) -> SamplingParams {
        SamplingParams { temperature: 0.0, max_tokens: Some(max_tokens), ..SamplingParams::default() }
    }

    /// Checks every field against its range and ids against the vocabulary.
    pub fn validate(&self, vocab_size: u32) -> Result<(), ParamError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(error("temperature", "a finite number, 0 (greedy) or more", self.temperature));
        }
        range("top_p", self.top_p, 0.0, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        at_most("logit_bias", "entries", LOGIT_BIAS_MAX, self.logit_bias.len())?;
        for (id, bias) in &self.logit_bias {
            below_vocab("logit_bias", *id, vocab_size)?;
            range("logit_bias", *bias, -100.0, 100.0)?;
        }
        for id in &self.stop_token_ids {
            below_vocab("stop_token_ids", *id, vocab_size)?;
        }
        at_most("stop", "strings", STOPS_MAX, self.stop.len())?;
        for stop in &self.stop {
            at_most("stop", "bytes in a string", STOP_BYTES_MAX, stop.len())?;
            if stop.is_empty() {
                return Err(error("stop", "strings that are not empty", "an empty one"));
            }
        }
        if self.max_tokens.is_some_and(|max| max < self.min_tokens) {
            let found = format!("{} above max_tokens {}", self.min_tokens, self.max_tokens.unwrap_or(0));
            return Err(error("min_tokens", "at most max_tokens", found));
        }
        at_most("logprobs", "tokens", LOGPROBS_MAX as usize, self.logprobs.unwrap_or(0) as usize)
    }

    /// How a device starts this request's slot. `end_ids` end a sequence of this model.
    pub fn slot_start(
        &self,
        slot: SlotId,
        prompt_ids: &[TokenId],
        output_ids: &[TokenId],
        end_ids: &[TokenId],
    ) -> SlotStart {
        let ends = if self.ignore_eos { &[][..] } else { end_ids };
        SlotStart {
            slot,
            prompt_ids: prompt_ids.to_vec(),
            output_ids: output_ids.to_vec(),
            penalties: Penalties {
                presence: self.presence_penalty,
                frequency: self.frequency_penalty,
                repetition: self.repetition_penalty,
                count_prompt: self.penalise_prompt,
            },
            logit_bias: self.logit_bias.clone(),
            ids_masked_before_min: ends.iter().chain(&self.stop_token_ids).copied().collect(),
        }
    }

    /// How a device selects the `count` best candidates for output token `output_index`, for a beam search.
    pub fn candidates_row(&self, slot: SlotId, logit_row: u32, output_index: u32, count: u32) -> SampleRow {
        let row = self.sample_row(slot, logit_row, output_index, (0, 0));
        SampleRow { choice: Choice::Candidates { count }, logprobs: None, ..row }
    }

    /// How a device chooses output token `output_index` of this request, whose draws a seed and the number of the answer fix.
    pub fn sample_row(
        &self,
        slot: SlotId,
        logit_row: u32,
        output_index: u32,
        (seed, choice_index): (u64, u32),
    ) -> SampleRow {
        let choice = if self.temperature == 0.0 {
            Choice::Greedy
        } else {
            Choice::Draw {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p_q32: (self.top_p * (1u64 << 32) as f64).ceil() as u64,
                min_p: self.min_p,
                seed,
                choice_index,
                output_index,
            }
        };
        SampleRow {
            logit_row,
            slot,
            choice,
            before_min_length: output_index < self.min_tokens,
            logprobs: self.logprobs,
        }
    }
}

fn error(name: &'static str, expected: impl ToString, found: impl ToString) -> ParamError {
    ParamError { name, expected: expected.to_string(), found: found.to_string() }
}

fn range<T: PartialOrd + std::fmt::Display>(name: &'static str, value: T, low: T, high: T) -> Result<(), ParamError> {
    // NaN is in no range.
    if value >= low && value <= high {
        return Ok(());
    }
    Err(error(name, format!("{low} to {high}"), value))
}

fn at_most(name: &'static str, what: &str, limit: usize, found: usize) -> Result<(), ParamError> {
    if found <= limit { Ok(()) } else { Err(error(name, format!("at most {limit} {what}"), found)) }
}

fn below_vocab(name: &'static str, id: TokenId, vocab_size: u32) -> Result<(), ParamError> {
    if id.0 < vocab_size { Ok(()) } else { Err(error(name, format!("token ids below {vocab_size}"), id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let ok = SamplingParams::default();
        let cases = [
            ("temperature", SamplingParams { temperature: -0.1, ..ok.clone() }),
            ("temperature", SamplingParams { temperature: f32::NAN, ..ok.clone() }),
            ("temperature", SamplingParams { temperature: f32::INFINITY, ..ok.clone() }),
            ("top_p", SamplingParams { top_p: 1.01, ..ok.clone() }),
            ("min_p", SamplingParams { min_p: -0.5, ..ok.clone() }),
            ("presence_penalty", SamplingParams { presence_penalty: 2.5, ..ok.clone() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: f32::NAN, ..ok.clone() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..ok.clone() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: f32::NAN, ..ok.clone() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(TokenId(1), f32::NAN)], ..ok.clone() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(TokenId(100), 0.0)], ..ok.clone() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(TokenId(1), 101.0)], ..ok.clone() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(TokenId(1), 1.0); 1025], ..ok.clone() }),
            ("stop", SamplingParams { stop: vec![String::new()], ..ok.clone() }),
            ("stop", SamplingParams { stop: vec!["x".repeat(257)], ..ok.clone() }),
            ("stop", SamplingParams { stop: vec!["x".into(); 17], ..ok.clone() }),
            ("stop_token_ids", SamplingParams { stop_token_ids: vec![TokenId(100)], ..ok.clone() }),
            ("min_tokens", SamplingParams { min_tokens: 5, max_tokens: Some(4), ..ok.clone() }),
            ("logprobs", SamplingParams { logprobs: Some(21), ..ok.clone() }),
        ];
        for (name, params) in cases {
            assert_eq!(params.validate(100).map_err(|e| e.name), Err(name), "{params:?}");
        }
        assert_eq!(ok.validate(100), Ok(()));
        assert_eq!(SamplingParams::greedy(4).validate(100), Ok(()));
    }

    #[test]
    fn errors_name_what_was_expected_and_found() {
        let text = |params: SamplingParams| params.validate(100).unwrap_err().to_string();
        let ok = SamplingParams::default();
        assert_eq!(text(SamplingParams { top_p: 1.5, ..ok.clone() }), "top_p: expected 0 to 1, found 1.5");
        assert_eq!(
            text(SamplingParams { temperature: -1.0, ..ok.clone() }),
            "temperature: expected a finite number, 0 (greedy) or more, found -1"
        );
        assert_eq!(
            text(SamplingParams { stop_token_ids: vec![TokenId(100)], ..ok }),
            "stop_token_ids: expected token ids below 100, found 100"
        );
    }

    #[test]
    fn parameters_become_sample_rows() {
        let params =
            SamplingParams { min_tokens: 2, top_p: 0.5, stop_token_ids: vec![TokenId(7)], ..Default::default() };
        let row = |index| params.sample_row(SlotId(3), 1, index, (99, 4));
        let Choice::Draw { top_p_q32, seed, choice_index, output_index, .. } = row(5).choice else { panic!("a draw") };
        assert_eq!((top_p_q32, seed, choice_index, output_index), (1 << 31, 99, 4, 5));
        let masked: Vec<bool> = (0..4).map(|index| row(index).before_min_length).collect();
        assert_eq!(masked, [true, true, false, false]);
        assert_eq!(SamplingParams::greedy(1).sample_row(SlotId(0), 0, 0, (0, 0)).choice, Choice::Greedy);

        let masked =
            |params: &SamplingParams| params.slot_start(SlotId(3), &[], &[], &[TokenId(2)]).ids_masked_before_min;
        assert_eq!(masked(&params), [TokenId(2), TokenId(7)]);
        // An end that is ignored is text like any other, also before the minimum length.
        assert_eq!(masked(&SamplingParams { ignore_eos: true, ..params.clone() }), [TokenId(7)]);
    }

    #[test]
    fn unknown_fields_are_rejected() {
        let parsed: Result<SamplingParams, _> = serde_json::from_str(r#"{"temperatur": 1.0}"#);
        assert!(parsed.is_err_and(|e| e.to_string().contains("temperatur")));
    }
}
