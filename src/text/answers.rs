//! The answers to one request: token events in, text out.

use serde::Serialize;

use crate::device::{BadRow, MemoryUse};
use crate::ids::TokenId;
use crate::sampling::beam::Hypothesis;
use crate::sampling::{Answers, Event, FinishReason, GenerateRequest, SequenceMetrics};
use crate::tokenizer::{SpecialText, StopText, TextStream, Tokenizer, TokenizerError};

/// One token of an answer as it comes. Beams have none.
#[derive(Clone, Debug, PartialEq)]
pub struct TextDelta {
    /// Which of the request's answers.
    pub index: u32,
    pub id: TokenId,
    /// Text that is final: whole characters, past any possible stop string. May be empty.
    pub text: String,
    /// If asked for.
    pub logprob: Option<TokenLogprob>,
    /// Set on the answer's last token.
    pub finish_reason: Option<FinishReason>,
}

/// A chosen token's log-probability and the best ones at its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    pub id: TokenId,
    pub logprob: f32,
    pub top: Vec<(TokenId, f32)>,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    pub prompt_ids: Vec<TokenId>,
    pub output_ids: Vec<TokenId>,
    pub text: String,
    pub finish_reason: FinishReason,
    /// One per output token, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// The output's log-probability, where it is known: of beams, of the best of several, and with `logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_logprob: Option<f64>,
    /// What answers were compared by: with beams `sum_logprob / length ^ length_penalty`, else the mean log-probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The seed that repeats this generation, as answer `index` of so many. Beams draw nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub index: u32,
    pub timings: SequenceMetrics,
    pub memory: MemoryUse,
}

/// What an event brought.
#[derive(Debug, Default)]
pub struct Received {
    pub delta: Option<TextDelta>,
    /// A stop string is complete: the sequence of this answer is to be cancelled. What still comes of it is dropped.
    pub is_stopped: bool,
}

/// Collects the events of a request's sequences into its answers.
#[derive(Debug)]
pub struct AnswerCollector {
    tokenizer: Tokenizer,
    request: GenerateRequest,
    seed: u64,
    memory: MemoryUse,
    choices: Vec<Choice>,
}

/// One sequence of a request.
#[derive(Debug)]
struct Choice {
    stream: TextStream,
    output_ids: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    text: String,
    found: Vec<Hypothesis>,
    /// Set with the last token, before the sequence's own end comes.
    finish_reason: Option<FinishReason>,
    end: Option<Result<(FinishReason, SequenceMetrics), BadRow>>,
}

impl AnswerCollector {
    /// For `num_sequences` sequences that answer `request`, drawing with `seed`.
    ///
    /// # Errors
    /// Stop strings that are empty.
    pub fn new(
        tokenizer: &Tokenizer,
        request: GenerateRequest,
        num_sequences: usize,
        seed: u64,
        memory: MemoryUse,
    ) -> Result<AnswerCollector, TokenizerError> {
        let params = &request.params;
        let choice = |_| {
            let stop = params.stop.clone();
            let stream = TextStream::new(tokenizer, stop, StopText::Exclude, SpecialText::Skip, params.min_tokens)?;
            Ok(Choice::new(stream))
        };
        let choices = (0..num_sequences).map(choice).collect::<Result<_, TokenizerError>>()?;
        Ok(AnswerCollector { tokenizer: tokenizer.clone(), request, seed, memory, choices })
    }

    /// Takes the next event of sequence `index`.
    pub fn receive(&mut self, index: u32, event: Event) -> Received {
        let reports_logprobs = self.request.params.logprobs.is_some();
        let Some(choice) = self.choices.get_mut(index as usize) else { return Received::default() };
        match event {
            Event::Token { id, logprob, top, ends, .. } if choice.finish_reason.is_none() => {
                let logprob = logprob.map(|logprob| TokenLogprob { id, logprob, top });
                let text = choice.push(id, logprob.clone(), ends);
                let finish_reason = choice.finish_reason;
                let is_stopped = matches!(finish_reason, Some(FinishReason::StopString(_))) && ends.is_none();
                let logprob = logprob.filter(|_| reports_logprobs);
                Received { delta: Some(TextDelta { index, id, text, logprob, finish_reason }), is_stopped }
            }
            Event::Token { .. } => Received::default(),
            Event::Found { results, .. } => {
                choice.found = results;
                Received::default()
            }
            Event::Finished { reason, metrics, .. } => {
                choice.finish(reason, metrics);
                Received::default()
            }
            Event::Failed { error, .. } => {
                choice.end = Some(Err(error));
                Received::default()
            }
        }
    }

    /// Whether every sequence had its last event.
    pub fn is_done(&self) -> bool {
        self.choices.iter().all(|choice| choice.end.is_some())
    }

    /// The answers, best first, or in their own order if all were asked for.
    ///
    /// # Errors
    /// The first sequence's whose logits were unusable.
    pub fn finish(self) -> Result<Vec<Generation>, BadRow> {
        let mut generations = Vec::new();
        let AnswerCollector { tokenizer, request, seed, memory, choices } = self;
        let GenerateRequest { prompt_ids, params, answers } = request;
        let reports_logprobs = params.logprobs.is_some();
        for (index, choice) in (0..).zip(choices) {
            let Some(end) = choice.end else { continue };
            let (finish_reason, timings) = end?;
            let blank = Generation {
                prompt_ids: prompt_ids.clone(),
                output_ids: Vec::new(),
                text: String::new(),
                finish_reason,
                logprobs: None,
                sum_logprob: None,
                score: None,
                seed: None,
                index,
                timings,
                memory,
            };
            if matches!(answers, Answers::Beams(_)) {
                let found = (0..).zip(choice.found);
                generations.extend(found.map(|(index, hypothesis)| {
                    of_beam(hypothesis, &tokenizer, reports_logprobs, Generation { index, ..blank.clone() })
                }));
                continue;
            }
            let sum: f64 = choice.logprobs.iter().map(|token| f64::from(token.logprob)).sum();
            let has_logprobs = !choice.logprobs.is_empty();
            let score = has_logprobs.then_some(sum / choice.output_ids.len() as f64);
            generations.push(Generation {
                output_ids: choice.output_ids,
                text: choice.text,
                logprobs: reports_logprobs.then_some(choice.logprobs),
                sum_logprob: has_logprobs.then_some(sum),
                score,
                seed: Some(seed),
                ..blank
            });
        }
        if let Answers::Sampled { n, best_of } = answers
            && n < best_of
        {
            let score = |generation: &Generation| generation.score.unwrap_or(f64::NEG_INFINITY);
            generations.sort_by(|a, b| score(b).total_cmp(&score(a)));
            generations.truncate(n as usize);
        }
        Ok(generations)
    }
}

impl Choice {
    fn new(stream: TextStream) -> Choice {
        Choice {
            stream,
            output_ids: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            found: Vec::new(),
            finish_reason: None,
            end: None,
        }
    }

    /// One more token; the text that it makes final. A terminating token adds no text.
    fn push(&mut self, id: TokenId, logprob: Option<TokenLogprob>, ends: Option<FinishReason>) -> String {
        self.output_ids.push(id);
        self.logprobs.extend(logprob);
        let mut text = String::new();
        if !ends.is_some_and(FinishReason::is_by_token) {
            let pushed = self.stream.push(id);
            text = pushed.text;
            self.finish_reason = pushed.stopped.map(FinishReason::StopString);
        }
        if self.finish_reason.is_none() && ends.is_some() {
            self.finish_reason = ends;
            text.push_str(&self.stream.finish());
        }
        self.text.push_str(&text);
        text
    }

    /// The sequence's own end, which may come after this answer's. What the engine generated beyond that does not count.
    fn finish(&mut self, reason: FinishReason, metrics: SequenceMetrics) {
        let reason = self.finish_reason.unwrap_or(reason);
        if self.finish_reason.is_none() {
            self.text.push_str(&self.stream.finish());
        }
        let mut metrics = metrics;
        if self.found.is_empty() {
            metrics.output_tokens = self.output_ids.len() as u32;
            metrics.context_tokens_used = metrics.prompt_tokens + metrics.output_tokens;
        }
        self.finish_reason = Some(reason);
        self.end = Some(Ok((reason, metrics)));
    }
}

fn of_beam(found: Hypothesis, tokenizer: &Tokenizer, reports_logprobs: bool, blank: Generation) -> Generation {
    let tokens = std::iter::zip(&found.ids, &found.logprobs);
    let logprobs = tokens.map(|(&id, &logprob)| TokenLogprob { id, logprob, top: Vec::new() });
    let text_ids = &found.ids[..found.ids.len() - usize::from(found.is_stopped)];
    Generation {
        text: tokenizer.decode(text_ids, SpecialText::Skip),
        finish_reason: if found.is_stopped { FinishReason::EndOfSequence } else { FinishReason::Length },
        logprobs: reports_logprobs.then(|| logprobs.collect()),
        sum_logprob: Some(found.sum_logprob),
        score: Some(found.score),
        output_ids: found.ids,
        ..blank
    }
}
