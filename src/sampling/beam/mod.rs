//! Beam search as bookkeeping: candidates in, continuations out. No device, no cache, no strings.
//!
//! The rules are those of transformers 5 (`GenerationMixin._beam_search`). Per step, all candidates of all live beams are ranked
//! by the sum of their log-probabilities. One that ends a sequence counts as a result if fewer than `num_beams` candidates are
//! better, and is dropped else; the best `num_beams` others live on. A result's score is its sum of log-probabilities divided by
//! `length ^ length_penalty`, its end included; the best `num_beams` results are kept.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{ParamError, SamplingParams, error, range};
use crate::ids::TokenId;

pub const BEAMS_MAX: u32 = 16;

/// The most ids that may end a beam: so many candidates more a device is asked for.
pub const BEAM_END_IDS_MAX: usize = 100;

/// When to stop once `num_beams` results are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyStopping {
    /// At once: `early_stopping = true`.
    First,
    /// When the best live beam, scored at its present length, is no better than the worst result: `early_stopping = false`.
    Likely,
    /// When no continuation of a live beam can become better than the worst result.
    #[default]
    Never,
}

/// What a request may ask of beam search. The default finds the most probable continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeamParams {
    /// Live beams, 1..=[`BEAMS_MAX`].
    pub num_beams: u32,
    /// Results to return, at most `num_beams`.
    pub num_return: u32,
    /// Exponent of the length that divides a result's log-probability, -10..=10: 0 compares probabilities, more favours length.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
}

impl Default for BeamParams {
    fn default() -> Self {
        BeamParams { num_beams: 1, num_return: 1, length_penalty: 0.0, early_stopping: EarlyStopping::Never }
    }
}

impl BeamParams {
    /// Checks the fields, and that `sampling` asks for nothing that beams do not do. `num_end_ids` can end a beam.
    pub fn validate(&self, sampling: &SamplingParams, num_end_ids: usize) -> Result<(), ParamError> {
        range("num_beams", self.num_beams, 1, BEAMS_MAX)?;
        range("num_return", self.num_return, 1, self.num_beams)?;
        range("length_penalty", self.length_penalty, -10.0, 10.0)?;
        let only = |name, holds: bool, expected: &str, found: &dyn std::fmt::Display| {
            if holds { Ok(()) } else { Err(error(name, format!("{expected} with beams"), found)) }
        };
        let draws = sampling.temperature;
        only("temperature", draws == 0.0 || draws == 1.0, "none (0 or 1)", &draws)?;
        only("top_k", sampling.top_k == 0, "0", &sampling.top_k)?;
        only("top_p", sampling.top_p == 1.0, "1", &sampling.top_p)?;
        only("min_p", sampling.min_p == 0.0, "0", &sampling.min_p)?;
        only("seed", sampling.seed.is_none(), "none", &sampling.seed.unwrap_or(0))?;
        only("stop", sampling.stop.is_empty(), "no strings", &sampling.stop.join(", "))?;
        // It multiplies: on logits, where the samplers apply it, it is not what it is on log-probabilities.
        let penalty = sampling.repetition_penalty;
        only("repetition_penalty", penalty == 1.0, "1", &penalty)?;
        let reported = sampling.logprobs.unwrap_or(0);
        only("logprobs", reported == 0, "0, of the results' own tokens,", &reported)?;
        only("max_tokens", sampling.max_tokens != Some(0), "1 or more", &0)?;
        super::at_most("stop_token_ids", "ids that end a beam, the model's own included", BEAM_END_IDS_MAX, num_end_ids)
    }

    /// Candidates that are needed of every live beam. One beam has at most `num_beams` among the best `num_beams` that do not
    /// end, and `num_end_ids` that do; so these hold all that the best `(1 + num_end_ids) · num_beams` of all beams would give.
    pub fn candidates_per_beam(&self, num_end_ids: usize) -> u32 {
        self.num_beams + num_end_ids as u32
    }
}

/// A token that may follow a live beam. Log-probabilities are natural; of the model's distribution, plus what penalties and
/// biases add, not normalised again. One of -inf is masked and never taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: TokenId,
    pub logprob: f32,
}

/// A live beam after a step: which beam of the step before it continues, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    pub parent: usize,
    pub id: TokenId,
}

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The live beams now, best first; at most `num_beams`, and at least one.
    Live(Vec<Continuation>),
    /// Nothing is left to compute.
    Done,
}

/// One finished beam.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    pub ids: Vec<TokenId>,
    /// One per id.
    pub logprobs: Vec<f32>,
    /// `sum_logprob / ids.len() ^ length_penalty`.
    pub score: f64,
    pub sum_logprob: f64,
    /// Whether an end id is its last, and not the number of tokens its end.
    pub is_stopped: bool,
}

/// A token in the tree of all beams.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// `None` for a first token.
    parent: Option<usize>,
    id: TokenId,
    logprob: f32,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    /// `None` before the first token.
    node: Option<usize>,
    sum: f64,
}

#[derive(Clone, Copy, Debug)]
struct Finished {
    node: usize,
    sum: f64,
    score: f64,
    is_stopped: bool,
}

/// A candidate among those of all beams.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    parent: usize,
    candidate: Candidate,
    sum: f64,
}

/// A beam search under way.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    params: BeamParams,
    end_ids: Vec<TokenId>,
    max_tokens: u32,
    /// Tokens of every live beam.
    length: u32,
    nodes: Vec<Node>,
    /// Best first.
    live: Vec<Live>,
    /// Best first, the earlier one first among equals; at most `num_beams`.
    finished: Vec<Finished>,
}

impl BeamSearch {
    /// A search for at most `max_tokens` tokens, at least 1, that `end_ids` end. It starts with one live beam, the prompt.
    pub fn new(params: BeamParams, end_ids: Vec<TokenId>, max_tokens: u32) -> BeamSearch {
        assert!(max_tokens > 0 && params.num_beams > 0, "a search has a beam and a token to find");
        let live = vec![Live { node: None, sum: 0.0 }];
        BeamSearch { params, end_ids, max_tokens, length: 0, nodes: Vec::new(), live, finished: Vec::new() }
    }

    /// Back to the prompt.
    pub fn restart(&mut self) {
        let (params, end_ids) = (self.params.clone(), std::mem::take(&mut self.end_ids));
        *self = BeamSearch::new(params, end_ids, self.max_tokens);
    }

    /// Candidates that [`BeamSearch::advance`] needs of every live beam.
    pub fn candidates_per_beam(&self) -> u32 {
        self.params.candidates_per_beam(self.end_ids.len())
    }

    pub fn num_live(&self) -> usize {
        self.live.len()
    }

    /// Tokens of every live beam.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The tokens of a live beam.
    pub fn live_ids(&self, beam: usize) -> Vec<TokenId> {
        self.path(self.live[beam].node).iter().map(|node| node.id).collect()
    }

    /// One step. `candidates[b]` are live beam `b`'s most likely tokens, at least [`BeamParams::candidates_per_beam`] or all
    /// there are, in any order.
    pub fn advance<C: AsRef<[Candidate]>>(&mut self, candidates: &[C]) -> Advance {
        assert_eq!(candidates.len(), self.live.len(), "every live beam has its candidates");
        let num_beams = self.params.num_beams as usize;
        let ranked = self.rank(candidates);
        self.length += 1;
        let is_last = self.length >= self.max_tokens;
        let (mut live, mut continuations) = (Vec::with_capacity(num_beams), Vec::with_capacity(num_beams));
        for (rank, ranked) in ranked.iter().enumerate() {
            let is_end = self.end_ids.contains(&ranked.candidate.id);
            if is_end || is_last {
                if rank < num_beams {
                    self.finish(ranked, is_end);
                }
            } else if live.len() < num_beams {
                let node = self.add_node(ranked);
                live.push(Live { node: Some(node), sum: ranked.sum });
                continuations.push(Continuation { parent: ranked.parent, id: ranked.candidate.id });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(num_beams);
        self.live = live;
        if self.is_done() {
            self.live.clear();
            return Advance::Done;
        }
        Advance::Live(continuations)
    }

    /// The best results so far, best first, at most `num_return`.
    pub fn results(&self) -> Vec<Hypothesis> {
        let hypothesis = |finished: &Finished| {
            let path = self.path(Some(finished.node));
            Hypothesis {
                ids: path.iter().map(|node| node.id).collect(),
                logprobs: path.iter().map(|node| node.logprob).collect(),
                score: finished.score,
                sum_logprob: finished.sum,
                is_stopped: finished.is_stopped,
            }
        };
        self.finished.iter().take(self.params.num_return as usize).map(hypothesis).collect()
    }

    /// All candidates that are not masked, best first; among equals, the lower beam's and then the lower id first.
    fn rank<C: AsRef<[Candidate]>>(&self, candidates: &[C]) -> Vec<Ranked> {
        let of_beam = |(parent, (live, candidates)): (usize, (&Live, &C))| {
            let sum = live.sum;
            let ranked =
                move |&candidate: &Candidate| Ranked { parent, candidate, sum: sum + f64::from(candidate.logprob) };
            candidates.as_ref().iter().filter(|c| c.logprob > f32::NEG_INFINITY).map(ranked).collect::<Vec<_>>()
        };
        let mut ranked: Vec<Ranked> = self.live.iter().zip(candidates).enumerate().flat_map(of_beam).collect();
        let key = |r: &Ranked| (r.parent, r.candidate.id);
        ranked.sort_by(|a, b| match b.sum.total_cmp(&a.sum) {
            Ordering::Equal => key(a).cmp(&key(b)),
            order => order,
        });
        ranked
    }

    fn add_node(&mut self, ranked: &Ranked) -> usize {
        let Candidate { id, logprob } = ranked.candidate;
        self.nodes.push(Node { parent: self.live[ranked.parent].node, id, logprob });
        self.nodes.len() - 1
    }

    fn finish(&mut self, ranked: &Ranked, is_stopped: bool) {
        let (node, score) = (self.add_node(ranked), self.score(ranked.sum, self.length));
        self.finished.push(Finished { node, sum: ranked.sum, score, is_stopped });
    }

    fn score(&self, sum: f64, length: u32) -> f64 {
        sum / f64::from(length).powf(self.params.length_penalty)
    }

    fn is_done(&self) -> bool {
        let Some(best) = self.live.first() else { return true };
        let is_full = self.finished.len() >= self.params.num_beams as usize;
        let (true, Some(worst)) = (is_full, self.finished.last()) else { return false };
        let length = match self.params.early_stopping {
            EarlyStopping::First => return true,
            EarlyStopping::Never if self.params.length_penalty > 0.0 => self.max_tokens,
            _ => self.length,
        };
        self.score(best.sum, length) <= worst.score
    }

    /// The nodes from the first token to `node`.
    fn path(&self, node: Option<usize>) -> Vec<Node> {
        let next = |&at: &usize| self.nodes[at].parent;
        let mut path: Vec<Node> = std::iter::successors(node, next).map(|at| self.nodes[at]).collect();
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests;
