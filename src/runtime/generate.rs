//! Requests for text, many at once: what they ask, what comes back, and where each of them is.

use serde::Serialize;

use crate::device::{BadRow, MemoryUse};
use crate::engine::{EngineError, Event, FinishReason, Request, SequenceMetrics};
use crate::ids::{SeqId, TokenId};
use crate::sampling::beam::{BeamParams, Hypothesis};
use crate::sampling::{ParamError, SamplingParams};
use crate::tokenizer::{Pushed, SpecialText, StopText, TextStream, Tokenizer};

use super::{Runtime, RuntimeError};

/// The most answers to one prompt.
pub const CHOICES_MAX: u32 = 16;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    pub prompt_ids: Vec<TokenId>,
    pub params: SamplingParams,
    pub answers: Answers,
}

/// How many answers to look for, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// `best_of` independent ones, at most [`CHOICES_MAX`], and the `n` best of them by mean log-probability per token. All of
    /// them come in their own order.
    Sampled { n: u32, best_of: u32 },
    /// Those of a beam search.
    Beams(BeamParams),
}

impl Answers {
    pub const ONE: Answers = Answers::Sampled { n: 1, best_of: 1 };

    /// Sequences that run at once for one prompt.
    pub fn sequences_max(&self) -> u32 {
        match self {
            Answers::Sampled { best_of, .. } => *best_of,
            Answers::Beams(beams) => beams.num_beams,
        }
    }

    fn validate(&self) -> Result<(), ParamError> {
        let Answers::Sampled { n, best_of } = *self else { return Ok(()) };
        let error = |name, expected: &str, found: u32| ParamError {
            name,
            expected: expected.to_owned(),
            found: found.to_string(),
        };
        if !(1..=CHOICES_MAX).contains(&best_of) {
            return Err(error("best_of", &format!("1 to {CHOICES_MAX}"), best_of));
        }
        if !(1..=best_of).contains(&n) {
            return Err(error("n", &format!("1 to best_of, {best_of}"), n));
        }
        Ok(())
    }
}

/// A request, unique for the life of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a step brought.
#[derive(Debug)]
pub enum Output {
    Delta(TextDelta),
    /// The request's last output: its answers, best first, or in their own order if all were asked for.
    Done {
        request: RequestId,
        result: Result<Vec<Generation>, EngineError>,
    },
}

/// One piece of an answer as it comes. Beams have none.
#[derive(Clone, Debug, PartialEq)]
pub struct TextDelta {
    pub request: RequestId,
    /// Which of the request's answers.
    pub index: u32,
    pub id: TokenId,
    /// Text that is final: whole characters, past any possible stop string. May be empty.
    pub text: String,
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

/// A request under way.
#[derive(Debug)]
pub(super) struct Open {
    request: GenerateRequest,
    seed: u64,
    choices: Vec<Choice>,
}

/// One sequence of a request.
#[derive(Debug)]
struct Choice {
    seq: SeqId,
    stream: TextStream,
    output_ids: Vec<TokenId>,
    logprobs: Vec<TokenLogprob>,
    text: String,
    found: Vec<Hypothesis>,
    /// A stop string was found; what comes after it is dropped.
    is_stopped: bool,
    end: Option<Result<(FinishReason, SequenceMetrics), BadRow>>,
}

impl Runtime {
    /// Accepts a request, or refuses it at once.
    pub fn add(&mut self, request: GenerateRequest) -> Result<RequestId, RuntimeError> {
        let GenerateRequest { prompt_ids, params, answers } = &request;
        params.validate(self.spec.vocab_size).map_err(EngineError::from)?;
        answers.validate().map_err(EngineError::from)?;
        let seed = params.seed.unwrap_or_else(super::fresh_seed);
        let mut engine_request = Request::new(prompt_ids.clone(), params.clone(), seed);
        let num_choices = match answers {
            Answers::Beams(beams) => {
                engine_request.beams = Some(beams.clone());
                1
            }
            Answers::Sampled { n, best_of } => {
                if best_of > n {
                    engine_request.params.logprobs.get_or_insert(0);
                }
                *best_of
            }
        };
        let mut choices = Vec::new();
        for choice_index in 0..num_choices {
            let stop = params.stop.clone();
            let stream =
                TextStream::new(&self.tokenizer, stop, StopText::Exclude, SpecialText::Skip, params.min_tokens)?;
            // Only the first can be refused: they are all alike.
            let seq = self.engine.add(Request { choice_index, ..engine_request.clone() })?;
            choices.push(Choice::new(seq, stream));
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.by_seq.extend(choices.iter().map(|choice| (choice.seq, id)));
        self.open.insert(id, Open { request, seed, choices });
        Ok(id)
    }

    /// Ends a request's answers where they are. False if it is not under way.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(open) = self.open.get(&id) else { return false };
        for choice in &open.choices {
            self.engine.cancel(choice.seq);
        }
        true
    }

    /// Requests under way.
    pub fn num_open(&self) -> usize {
        self.open.len()
    }

    /// One step of all requests.
    ///
    /// # Errors
    /// The device failed. All requests are gone.
    pub fn step(&mut self) -> Result<Vec<Output>, RuntimeError> {
        let events = self.engine.step().inspect_err(|_| {
            self.open.clear();
            self.by_seq.clear();
        })?;
        let mut outputs = Vec::new();
        for event in events {
            self.receive(event, &mut outputs);
        }
        Ok(outputs)
    }

    fn receive(&mut self, event: Event, outputs: &mut Vec<Output>) {
        let seq = event.seq();
        let Some(&id) = self.by_seq.get(&seq) else { return };
        let Some(open) = self.open.get_mut(&id) else { return };
        let Some(index) = open.choices.iter().position(|choice| choice.seq == seq) else { return };
        let choice = &mut open.choices[index];
        let mut delta = |id_text: Option<(TokenId, String)>| {
            let delta = |(token, text)| Output::Delta(TextDelta { request: id, index: index as u32, id: token, text });
            outputs.extend(id_text.map(delta));
        };
        match event {
            Event::Token { id: token, logprob, top, .. } if !choice.is_stopped => {
                let ends = self.tokenizer.is_end(token) || open.request.params.stop_token_ids.contains(&token);
                let logprob = logprob.map(|logprob| TokenLogprob { id: token, logprob, top });
                delta(Some((token, choice.push(token, logprob, ends))));
                if choice.is_stopped {
                    self.engine.cancel(seq);
                }
            }
            Event::Token { .. } => {}
            Event::Found { results, .. } => choice.found = results,
            Event::Finished { reason, metrics, .. } => {
                delta(choice.finish());
                let reason = if choice.is_stopped { FinishReason::Stop } else { reason };
                choice.end = Some(Ok((reason, metrics)));
            }
            Event::Failed { error, .. } => choice.end = Some(Err(error)),
        }
        if open.choices.iter().all(|choice| choice.end.is_some())
            && let Some(open) = self.open.remove(&id)
        {
            for choice in &open.choices {
                self.by_seq.remove(&choice.seq);
            }
            let result = open.answers(&self.tokenizer, self.engine.memory());
            outputs.push(Output::Done { request: id, result: result.map_err(EngineError::BadRow) });
        }
    }
}

impl Choice {
    fn new(seq: SeqId, stream: TextStream) -> Choice {
        Choice {
            seq,
            stream,
            output_ids: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            found: Vec::new(),
            is_stopped: false,
            end: None,
        }
    }

    /// One more token; the text that it makes final. What ends the output is no text.
    fn push(&mut self, token: TokenId, logprob: Option<TokenLogprob>, ends: bool) -> String {
        self.output_ids.push(token);
        self.logprobs.extend(logprob);
        let pushed = if ends { Pushed::default() } else { self.stream.push(token) };
        self.text.push_str(&pushed.text);
        self.is_stopped = pushed.stopped.is_some();
        pushed.text
    }

    /// The text that was held back, with the last token.
    fn finish(&mut self) -> Option<(TokenId, String)> {
        let rest = if self.is_stopped { String::new() } else { self.stream.finish() };
        self.text.push_str(&rest);
        let last = self.output_ids.last().copied();
        last.filter(|_| !rest.is_empty()).map(|token| (token, rest))
    }
}

impl Open {
    /// The answers, all of which ended.
    fn answers(self, tokenizer: &Tokenizer, memory: MemoryUse) -> Result<Vec<Generation>, BadRow> {
        let mut generations = Vec::new();
        let Open { request: GenerateRequest { prompt_ids, params, answers }, seed, choices } = self;
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
            let asked = params.logprobs.is_some();
            if matches!(answers, Answers::Beams(_)) {
                let found = (0..).zip(choice.found);
                generations.extend(
                    found.map(|(index, h)| of_beam(h, tokenizer, asked, Generation { index, ..blank.clone() })),
                );
                continue;
            }
            let sum: f64 = choice.logprobs.iter().map(|token| f64::from(token.logprob)).sum();
            let has_logprobs = !choice.logprobs.is_empty();
            let score = has_logprobs.then_some(sum / choice.output_ids.len() as f64);
            generations.push(Generation {
                output_ids: choice.output_ids,
                text: choice.text,
                logprobs: asked.then_some(choice.logprobs),
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

fn of_beam(found: Hypothesis, tokenizer: &Tokenizer, reports_logprobs: bool, blank: Generation) -> Generation {
    let tokens = std::iter::zip(&found.ids, &found.logprobs);
    let logprobs = tokens.map(|(&id, &logprob)| TokenLogprob { id, logprob, top: Vec::new() });
    let text_ids = &found.ids[..found.ids.len() - usize::from(found.is_stopped)];
    Generation {
        text: tokenizer.decode(text_ids, SpecialText::Skip),
        finish_reason: if found.is_stopped { FinishReason::Stop } else { FinishReason::Length },
        logprobs: reports_logprobs.then(|| logprobs.collect()),
        sum_logprob: Some(found.sum_logprob),
        score: Some(found.score),
        output_ids: found.ids,
        ..blank
    }
}
