//! The exact, order-free sampler on the host: what `reference` and `cpu` run and what the GPU's must equal bit for bit.

mod mass;
mod philox;
mod select;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::ids::{SlotId, TokenId};

use super::SlotStart;
use mass::{MASS_ONE, total_mass};
use select::{Drawer, Filters, Peaks};

#[cfg(feature = "cuda")]
pub(super) use select::rank;

pub(super) use philox::draw as random;

pub use mass::VOCAB_SIZE_MAX;

/// How one logit row becomes a token. Plain numbers; policy lives in `sampling`.
///
/// What is done to a sequence's logits before a token is chosen (penalties, biases, which ids are masked) does not change while it
/// runs, and came with its [`SlotStart`]. A row says how to choose, and what changes from row to row.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// Index among the batch's logit rows.
    pub logit_row: u32,
    /// Whose counts, penalties, biases and masks apply, and whose last sampled token this becomes.
    pub slot: SlotId,
    pub choice: Choice,
    /// Whether the slot's `ids_masked_before_min` are masked.
    pub before_min_length: bool,
    /// How many of the most likely tokens to report; `None` reports no log-probabilities at all.
    pub logprobs: Option<u32>,
}

impl SampleRow {
    /// A choice without masks and log-probabilities.
    pub fn plain(logit_row: u32, slot: SlotId, choice: Choice) -> SampleRow {
        SampleRow { logit_row, slot, choice, before_min_length: false, logprobs: None }
    }
}

/// What a sequence's own tokens do to their logits from then on. The default does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Subtracted once from tokens of the output (and of the prompt, see `count_prompt`).
    pub presence: f32,
    /// Subtracted per occurrence.
    pub frequency: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition: f32,
    /// Whether presence and frequency count prompt tokens too.
    pub count_prompt: bool,
}

impl Default for Penalties {
    fn default() -> Self {
        Penalties { presence: 0.0, frequency: 0.0, repetition: 1.0, count_prompt: false }
    }
}

impl Penalties {
    /// Whether any of them changes a logit.
    pub fn any(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0 || self.repetition != 1.0
    }
}

/// The choice among the processed logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The largest logit; the lower id wins ties.
    Greedy,
    /// Temperature → top-k (0 = off) → top-p (Q32: `2^32` keeps everything) → min-p → draw keyed by
    /// (seed, choice, output index).
    Draw { temperature: f32, top_k: u32, top_p_q32: u64, min_p: f32, seed: u64, choice_index: u32, output_index: u32 },
    /// This token, whatever the logits say: teacher forcing.
    Forced(TokenId),
    /// No choice: the `count` best of the processed logits go to [`Sampled::top`], for a beam search. Nothing is counted and the
    /// slot's last sampled token stays; `logprobs` must be `None`.
    Candidates { count: u32 },
}

impl Choice {
    /// How many tokens a row of this choice that asks for `logprobs` reports.
    pub fn num_reported(&self, logprobs: Option<u32>) -> u32 {
        if let Choice::Candidates { count } = self { *count } else { logprobs.unwrap_or(0) }
    }
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub slot: SlotId,
    /// `Err` if the raw logits held NaN or ±Inf, or everything was masked. The best of `Choice::Candidates`.
    pub token: Result<TokenId, BadRow>,
    /// Natural log-probability of the chosen token under the model's own distribution; present if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens of that distribution with their log-probabilities, best first, lower id first on ties. Of
    /// `Choice::Candidates`: the best processed logits, less what makes the raw ones log-probabilities. Masked ones are -inf.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a row gives no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    #[error("the model's logits hold NaN or infinity")]
    NotFinite,
    #[error("every token is masked")]
    AllMasked,
}

/// How often a token occurred in a slot's prompt and output.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt: u32,
    output: u32,
}

#[derive(Debug, Default)]
struct Slot {
    counts: HashMap<u32, Counts>,
    penalties: Penalties,
    logit_bias: Vec<(TokenId, f32)>,
    masked_before_min: Vec<TokenId>,
    last_sampled: Option<TokenId>,
}

/// The sampler with its per-slot state.
///
/// Probabilities are integers, `w = rint(exp((l − max) / T) · 2^44)`, so that sums have no order and any number of threads or
/// CTAs gets the same bits. Rows are independent of each other, but for those of one slot.
#[derive(Debug)]
pub struct HostSampler {
    vocab_size: usize,
    slots: Vec<Mutex<Slot>>,
    /// One per thread.
    scratch: Vec<Mutex<Scratch>>,
}

/// The rows of one step, for all threads to choose from.
#[derive(Debug)]
pub struct Sampling<'a> {
    sampler: &'a HostSampler,
    rows: &'a [SampleRow],
    /// Row indices, those of one slot next to each other and ascending.
    by_slot: Vec<usize>,
    /// The next place of `by_slot` that no thread has taken.
    next: AtomicUsize,
    sampled: Vec<OnceLock<Sampled>>,
}

impl HostSampler {
    /// A sampler for `slots_max` sequences and rows of `vocab_size` logits, at most [`VOCAB_SIZE_MAX`].
    pub fn new(slots_max: u32, vocab_size: u32) -> HostSampler {
        assert!(vocab_size <= VOCAB_SIZE_MAX, "masses of {vocab_size} tokens may not fit 64 bits");
        HostSampler {
            vocab_size: vocab_size as usize,
            slots: (0..slots_max).map(|_| Mutex::default()).collect(),
            scratch: vec![Mutex::default()],
        }
    }

    /// Bytes of so many slots, before their sequences have counted anything.
    pub fn slot_bytes(slots_max: u32) -> u64 {
        u64::from(slots_max) * size_of::<Mutex<Slot>>() as u64
    }

    /// The same for up to `threads` threads at once.
    pub fn with_threads(mut self, threads: u32) -> HostSampler {
        self.scratch.resize_with(threads as usize, Mutex::default);
        self
    }

    /// Begins a sequence in its slot: what was counted there before is forgotten.
    pub fn start(&self, start: &SlotStart) {
        let mut slot = lock(&self.slots[start.slot.index()]);
        slot.counts.clear();
        for id in &start.prompt_ids {
            slot.counts.entry(id.0).or_default().prompt += 1;
        }
        for id in &start.output_ids {
            slot.counts.entry(id.0).or_default().output += 1;
        }
        slot.penalties = start.penalties;
        slot.logit_bias.clone_from(&start.logit_bias);
        slot.masked_before_min.clone_from(&start.ids_masked_before_min);
        slot.last_sampled = start.output_ids.last().copied();
    }

    /// The token last sampled for `slot`, if any. A row that gives no token leaves it alone.
    pub fn last_sampled(&self, slot: SlotId) -> Option<TokenId> {
        lock(&self.slots[slot.index()]).last_sampled
    }

    /// Rows to choose from.
    pub fn begin<'a>(&'a self, rows: &'a [SampleRow]) -> Sampling<'a> {
        let mut by_slot: Vec<usize> = (0..rows.len()).collect();
        by_slot.sort_by_key(|&row| rows[row].slot);
        Sampling {
            by_slot,
            sampler: self,
            rows,
            next: AtomicUsize::new(0),
            sampled: rows.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// Chooses a token from one row of raw logits and counts it.
    pub fn sample(&self, logits: &[f32], row: &SampleRow) -> Sampled {
        let mut slot = lock(&self.slots[row.slot.index()]);
        lock(&self.scratch[0]).sample(&mut slot, logits, row)
    }
}

impl Sampling<'_> {
    /// Chooses as thread `thread` until no rows are left; rows of one slot one after another. `logits` gives a row's.
    pub fn run<'l>(&self, thread: usize, logits: impl Fn(&SampleRow) -> &'l [f32]) {
        let mut scratch = lock(&self.sampler.scratch[thread]);
        loop {
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&row) = self.by_slot.get(first) else { return };
            let id = self.rows[row].slot;
            if first > 0 && self.rows[self.by_slot[first - 1]].slot == id {
                // The thread that took the slot's first row takes this one as well.
                continue;
            }
            let mut slot = lock(&self.sampler.slots[id.index()]);
            for &index in self.by_slot[first..].iter().take_while(|&&row| self.rows[row].slot == id) {
                let (row, sampled) = (&self.rows[index], &self.sampled[index]);
                let logits = logits(row);
                assert_eq!(logits.len(), self.sampler.vocab_size, "a row of logits is one vocabulary long");
                let is_first = sampled.set(scratch.sample(&mut slot, logits, row)).is_ok();
                debug_assert!(is_first, "two threads chose from one row");
            }
        }
    }

    /// What was chosen, row by row, once every thread is done.
    pub fn finish(self) -> Vec<Sampled> {
        self.sampled.into_iter().map(|sampled| sampled.into_inner().expect("every row was taken")).collect()
    }
}

/// A sampler's state is sound at every point where it could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread works with.
#[derive(Debug, Default)]
struct Scratch {
    /// One row of processed logits.
    scores: Vec<f32>,
    raw_peaks: Peaks,
    peaks: Peaks,
    drawer: Drawer,
}

impl Scratch {
    fn sample(&mut self, slot: &mut Slot, logits: &[f32], row: &SampleRow) -> Sampled {
        let mut sampled = Sampled { slot: row.slot, token: Err(BadRow::NotFinite), logprob: None, top: Vec::new() };
        if !self.raw_peaks.scan(logits) {
            return sampled;
        }
        if let Choice::Candidates { count } = row.choice {
            self.candidates(slot, logits, row, count as usize, &mut sampled);
            return sampled;
        }
        sampled.token = match row.choice {
            Choice::Forced(id) => Ok(id),
            _ => self.choose(slot, logits, row),
        };
        if let Ok(token) = sampled.token {
            slot.counts.entry(token.0).or_default().output += 1;
            slot.last_sampled = Some(token);
            if let Some(n) = row.logprobs {
                self.report(logits, token, n as usize, &mut sampled);
            }
        }
        sampled
    }

    /// The best processed logits, as log-probabilities of the raw ones' distribution.
    fn candidates(&mut self, slot: &Slot, logits: &[f32], row: &SampleRow, count: usize, sampled: &mut Sampled) {
        let model = Distribution::new(self.raw_peaks.max, total_mass(logits, self.raw_peaks.max));
        let (scores, peaks) = match self.process(slot, logits, row) {
            true => (&self.scores[..], &mut self.peaks),
            false => (logits, &mut self.raw_peaks),
        };
        if peaks.max == f32::NEG_INFINITY {
            sampled.token = Err(BadRow::AllMasked);
            return;
        }
        sampled.token = Ok(TokenId(peaks.argmax(scores)));
        let best = peaks.best(scores, count, &mut self.drawer);
        sampled.top = best.into_iter().map(|id| (TokenId(id), model.log_probability(scores[id as usize]))).collect();
    }

    /// Log-probabilities of the model's own distribution. The sum has integer terms, so no order to depend on.
    fn report(&mut self, logits: &[f32], token: TokenId, n: usize, sampled: &mut Sampled) {
        let model = Distribution::new(self.raw_peaks.max, total_mass(logits, self.raw_peaks.max));
        let log_probability = |id: u32| model.log_probability(logits[id as usize]);
        sampled.logprob = Some(log_probability(token.0));
        let best = self.raw_peaks.best(logits, n, &mut self.drawer);
        sampled.top = best.into_iter().map(|id| (TokenId(id), log_probability(id))).collect();
    }

    /// Bias → repetition → presence and frequency → minimum length → choice.
    fn choose(&mut self, slot: &Slot, logits: &[f32], row: &SampleRow) -> Result<TokenId, BadRow> {
        let (scores, peaks) = match self.process(slot, logits, row) {
            true => (&self.scores[..], &mut self.peaks),
            false => (logits, &mut self.raw_peaks),
        };
        if peaks.max == f32::NEG_INFINITY {
            return Err(BadRow::AllMasked);
        }
        match row.choice {
            Choice::Greedy => Ok(TokenId(peaks.argmax(scores))),
            Choice::Forced(id) => Ok(id),
            Choice::Candidates { .. } => unreachable!("candidates are not chosen from"),
            Choice::Draw { temperature, top_k, top_p_q32, min_p, seed, choice_index, output_index } => {
                let filters = Filters { temperature, top_k, top_p_q32, min_mass: min_mass(min_p) };
                let random = random(seed, choice_index, output_index);
                Ok(TokenId(self.drawer.draw(scores, peaks, &filters, random)))
            }
        }
    }

    /// Processed logits in `scores` and `peaks`; false if nothing changes them.
    fn process(&mut self, slot: &Slot, logits: &[f32], row: &SampleRow) -> bool {
        let penalises = slot.penalties.any() && !slot.counts.is_empty();
        let masks = row.before_min_length && !slot.masked_before_min.is_empty();
        if !penalises && !masks && slot.logit_bias.is_empty() {
            return false;
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        for (id, bias) in &slot.logit_bias {
            let score = &mut self.scores[id.index()];
            *score = saturate(*score + bias);
        }
        if penalises {
            for (&id, counts) in &slot.counts {
                penalise(&mut self.scores[id as usize], counts, &slot.penalties);
            }
        }
        if masks {
            for id in &slot.masked_before_min {
                self.scores[id.index()] = f32::NEG_INFINITY;
            }
        }
        self.peaks.scan(&self.scores);
        true
    }
}

/// The least mass of tokens at least `min_p` times as likely as the best. Exact: 24 bits of `min_p` times a power of two.
pub(super) fn min_mass(min_p: f32) -> u64 {
    (f64::from(min_p) * MASS_ONE as f64).ceil() as u64
}

/// The model's own distribution, as far as log-probabilities need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution {
    max: f32,
    log_sum: f64,
}

impl Distribution {
    /// `max` is the largest logit, and `total_mass` the sum of the masses of `logit - max`.
    pub fn new(max: f32, total_mass: u64) -> Distribution {
        Distribution { max, log_sum: (total_mass as f64 / MASS_ONE as f64).ln() }
    }

    /// Natural logarithm of the probability of a token with this logit.
    pub fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.max) - self.log_sum) as f32
    }
}

/// `l / r` or `l · r`, then `l − (presence + frequency · count)`, each operation rounded to f32.
fn penalise(score: &mut f32, counts: &Counts, penalties: &Penalties) {
    let Penalties { presence, frequency, repetition, count_prompt } = *penalties;
    if repetition != 1.0 {
        *score = if *score > 0.0 { *score / repetition } else { *score * repetition };
    }
    let count = counts.output + if count_prompt { counts.prompt } else { 0 };
    if count > 0 {
        *score -= presence + frequency * count as f32;
    }
    *score = saturate(*score);
}

/// Infinity is for masks: a finite logit stays finite whatever is added or multiplied.
fn saturate(score: f32) -> f32 {
    score.clamp(f32::MIN, f32::MAX)
}

#[cfg(test)]
mod tests;
