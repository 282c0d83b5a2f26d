//! Sequences, scheduling and steps: `Engine::step` = schedule → submit → sample → collect → postprocess. Numbers only; stop
//! strings belong to the text layer, which cancels what it has seen enough of.

mod metrics;
pub mod scheduler;
mod sequence;

use std::collections::VecDeque;
use std::time::Instant;

pub use metrics::SequenceMetrics;
pub use sequence::{FinishReason, Request, Sequence};

use crate::device::{
    BadRow, Batch, BatchSeq, BlockCopy, Choice, Device, DeviceError, InputToken, MemoryUse, SampleRow, Sampled,
};
use crate::ids::{SeqId, SlotId, TokenId};
use crate::kv::{BlockManager, BlockTable, CopyOnWrite, KvError};
use crate::sampling::beam::{Advance, Candidate, Hypothesis};
use crate::sampling::{ParamError, SamplingParams};

use scheduler::{Schedule, Scheduler};

/// Why the engine refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    #[error("the prompt has {n_prompt_tokens} tokens, the context {n_ctx}: shorten the prompt or raise --ctx-size")]
    PromptTooLong { n_prompt_tokens: u32, n_ctx: u32 },
    #[error("token id {id} is not in the vocabulary of {vocab_size}")]
    UnknownToken { id: TokenId, vocab_size: u32 },
    #[error(
        "the KV cache has {blocks} blocks of {block_tokens} tokens, the request with its {n_prompt_tokens} prompt tokens \
         (context {n_ctx}) can need {needed}: raise the cache or lower max_tokens"
    )]
    NeverFits { n_prompt_tokens: u32, n_ctx: u32, needed: u32, blocks: u32, block_tokens: u32 },
    #[error("{num_beams} beams run as so many sequences at once, and at most {most} can: raise --parallel")]
    TooManyBeams { num_beams: u32, most: u32 },
    #[error("the device failed before: open the model again")]
    Broken,
    #[error("sequences are running: wait until the engine is idle")]
    Busy,
    #[error("{source}; {sequences} unfinished sequences are lost, with {output_tokens} tokens generated so far")]
    Lost { source: DeviceError, sequences: u32, output_tokens: u64 },
    #[error(transparent)]
    BadRow(#[from] BadRow),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What happened in a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One more output token. Of beams there is none: which tokens they are is known at the end.
    Token { seq: SeqId, id: TokenId, logprob: Option<f32>, top: Vec<(TokenId, f32)> },
    /// What a beam search found, best first, at least one.
    Found { seq: SeqId, results: Vec<Hypothesis> },
    /// The sequence's last event.
    Finished { seq: SeqId, reason: FinishReason, metrics: SequenceMetrics },
    /// The sequence's last event: its logits were unusable.
    Failed { seq: SeqId, error: BadRow },
}

impl Event {
    /// Whose event it is.
    pub fn seq(&self) -> SeqId {
        match *self {
            Event::Token { seq, .. }
            | Event::Found { seq, .. }
            | Event::Finished { seq, .. }
            | Event::Failed { seq, .. } => seq,
        }
    }
}

/// A step that was submitted and not collected: up to which position it computes whom, and who waits for how many sampled rows.
#[derive(Debug)]
struct InFlight {
    step: u64,
    position_ends: Vec<(SeqId, u32)>,
    samples: Vec<(SeqId, usize)>,
}

/// Runs sequences on a device.
pub struct Engine {
    device: Box<dyn Device>,
    scheduler: Scheduler,
    /// Ids that end a sequence.
    end_ids: Vec<TokenId>,
    vocab_size: u32,
    next_seq: u32,
    /// Sequences that had their last event.
    num_ended: u32,
    /// The number of the last submitted step.
    step: u64,
    in_flight: VecDeque<InFlight>,
    events: Vec<Event>,
    /// The device failed in the middle of a step: what its cache and queue hold is unknown.
    is_broken: bool,
}

impl Engine {
    /// An engine on a prepared device. `end_ids` end sequences, unless a request ignores them.
    pub fn new(device: Box<dyn Device>, vocab_size: u32, end_ids: Vec<TokenId>) -> Engine {
        let limits = device.limits().clone();
        let blocks = BlockManager::new(limits.num_blocks, limits.block_tokens);
        Engine {
            scheduler: Scheduler::new(blocks, limits.slots_max, limits.step_rows_max, limits.logit_rows_max),
            device,
            end_ids,
            vocab_size,
            next_seq: 0,
            num_ended: 0,
            step: 0,
            in_flight: VecDeque::new(),
            events: Vec::new(),
            is_broken: false,
        }
    }

    /// Accepts a request, or refuses it at once with the numbers.
    pub fn add(&mut self, request: Request) -> Result<SeqId, EngineError> {
        self.check_device()?;
        request.params.validate(self.vocab_size)?;
        let n_ctx = self.device.limits().context_tokens_max;
        let n_prompt_tokens = request.prompt_ids.len() as u32;
        self.check_ids(&request.prompt_ids)?;
        if n_prompt_tokens >= n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt_tokens, n_ctx });
        }
        self.check_beams(&request)?;
        let (blocks, block_tokens) = (self.device.limits().num_blocks, self.device.limits().block_tokens);
        // The last token is sampled, not computed. Who names no number of tokens gets what the context and the cache hold;
        // beams share the prompt's full blocks.
        let (lanes, shared) = (request.lanes_max(), n_prompt_tokens / block_tokens);
        let lane_blocks = shared + blocks.saturating_sub(shared) / lanes;
        let lane_tokens = u64::from(lane_blocks) * u64::from(block_tokens) + 1;
        let cache_left = lane_tokens.saturating_sub(u64::from(n_prompt_tokens)).max(1) as u32;
        let max_tokens = request.params.max_tokens.unwrap_or(cache_left).min(n_ctx - n_prompt_tokens);
        let positions = n_prompt_tokens + max_tokens.saturating_sub(1);
        let needed = self.scheduler.blocks().blocks_for_lanes(lanes, n_prompt_tokens, positions);
        if needed > blocks {
            return Err(EngineError::NeverFits { n_prompt_tokens, n_ctx, needed, blocks, block_tokens });
        }
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        let seq = Sequence::new(id, request, max_tokens, &self.end_ids);
        if max_tokens == 0 {
            let metrics = self.metrics_of(&seq);
            self.end(Event::Finished { seq: id, reason: FinishReason::Length, metrics });
        } else {
            self.scheduler.add(seq);
        }
        Ok(id)
    }

    /// Ends a sequence now. Its blocks are free once no step in flight uses them. False if there is none of that id.
    pub fn cancel(&mut self, id: SeqId) -> bool {
        let found = self.scheduler.sequence_mut(id).is_some();
        if found {
            self.finish(id, FinishReason::Cancelled);
        }
        found
    }

    /// Whether there is nothing to do and nothing to tell.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.in_flight.is_empty() && self.events.is_empty()
    }

    pub fn memory(&self) -> MemoryUse {
        self.device.memory()
    }

    pub fn device_name(&self) -> String {
        self.device.name()
    }

    /// Positions that one sequence can hold.
    pub fn context_tokens_max(&self) -> u32 {
        self.device.limits().context_tokens_max
    }

    /// Sequences that can run at once; beams count as so many.
    pub fn sequences_max(&self) -> u32 {
        self.device.limits().slots_max
    }

    /// Sequences computed again for lack of blocks.
    pub fn preemptions(&self) -> u64 {
        self.scheduler.preemptions()
    }

    /// Submits the next step if there is work, collects the oldest one if the device is full or nothing else is left, and
    /// returns what happened.
    ///
    /// # Errors
    /// `Lost`: the device failed. All sequences are gone, without further events, and the engine takes no more.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        let before = (self.step, self.in_flight.len());
        if let Err(error) = self.advance() {
            let (sequences, output_tokens) = self.scheduler.unfinished();
            self.is_broken = true;
            self.in_flight.clear();
            self.events.clear();
            self.scheduler.clear();
            return Err(match error {
                EngineError::Device(source) => EngineError::Lost { source, sequences, output_tokens },
                other => other,
            });
        }
        if cfg!(debug_assertions) && !self.is_broken {
            self.assert_consistent(before);
        }
        Ok(std::mem::take(&mut self.events))
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        let steps_max = self.device.steps_in_flight_max();
        if self.in_flight.len() < steps_max {
            let schedule = self.scheduler.schedule();
            if !schedule.work.is_empty() {
                self.submit(&schedule)?;
                if self.in_flight.len() < steps_max {
                    return Ok(());
                }
            }
        }
        self.collect()
    }

    /// Teacher forcing: the log-probability of every id given those before it, with the `top_n` best at its place. The
    /// first id has none. The engine must be idle.
    pub fn score(&mut self, ids: &[TokenId], top_n: u32) -> Result<Vec<Option<Sampled>>, EngineError> {
        self.check_device()?;
        if !self.is_idle() {
            return Err(EngineError::Busy);
        }
        self.check_ids(ids)?;
        let n_ctx = self.device.limits().context_tokens_max;
        if ids.len() as u32 > n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt_tokens: ids.len() as u32, n_ctx });
        }
        let (n_prompt_tokens, block_tokens) = (ids.len() as u32, self.device.limits().block_tokens);
        let mut table = BlockTable::default();
        let never_fits = |e: KvError| {
            let (needed, blocks) = (e.asked, e.total);
            EngineError::NeverFits { n_prompt_tokens, n_ctx, needed, blocks, block_tokens }
        };
        self.scheduler.blocks().grow(&mut table, n_prompt_tokens - 1).map_err(never_fits)?;
        let scored = self.score_rows(ids, top_n, &table);
        self.scheduler.blocks().release(&mut table);
        self.is_broken |= matches!(scored, Err(EngineError::Device(_)));
        scored
    }

    fn score_rows(
        &mut self,
        ids: &[TokenId],
        top_n: u32,
        table: &BlockTable,
    ) -> Result<Vec<Option<Sampled>>, EngineError> {
        let limits = self.device.limits();
        let rows_max = limits.step_rows_max.min(limits.logit_rows_max) as usize;
        let params = SamplingParams { logprobs: Some(top_n), ..SamplingParams::default() };
        let mut scored = vec![None];
        let mut starts = vec![params.slot_start(SlotId(0), &[], &[], &[])];
        for start in (0..ids.len() - 1).step_by(rows_max) {
            let inputs = &ids[start..(start + rows_max).min(ids.len() - 1)];
            let batch = Batch {
                starts: std::mem::take(&mut starts),
                seqs: vec![BatchSeq {
                    slot: SlotId(0),
                    position_start: start as u32,
                    tokens: inputs.iter().map(|&id| InputToken::Id(id)).collect(),
                    block_table: table.blocks().to_vec(),
                    logit_rows: (0..inputs.len() as u32).collect(),
                }],
            };
            let forced = |i: usize| {
                let mut row = params.sample_row(SlotId(0), i as u32, 0, (0, 0));
                row.choice = Choice::Forced(ids[start + i + 1]);
                row
            };
            self.device.submit(&batch)?;
            self.device.sample(&(0..inputs.len()).map(forced).collect::<Vec<_>>())?;
            for sampled in self.device.collect()?.sampled {
                sampled.token?;
                scored.push(Some(sampled));
            }
        }
        Ok(scored)
    }

    fn check_device(&self) -> Result<(), EngineError> {
        if self.is_broken { Err(EngineError::Broken) } else { Ok(()) }
    }

    fn check_ids(&self, ids: &[TokenId]) -> Result<(), EngineError> {
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        match ids.iter().find(|id| id.0 >= self.vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken { id, vocab_size: self.vocab_size }),
            None => Ok(()),
        }
    }

    fn check_beams(&self, request: &Request) -> Result<(), EngineError> {
        let Some(beams) = &request.beams else { return Ok(()) };
        let ends = self.end_ids.iter().chain(&request.params.stop_token_ids);
        beams.validate(&request.params, ends.filter(|&&id| request.ends_with(id, &self.end_ids)).count())?;
        let limits = self.device.limits();
        let most = limits.slots_max.min(limits.step_rows_max).min(limits.logit_rows_max);
        let num_beams = beams.num_beams;
        if num_beams > most { Err(EngineError::TooManyBeams { num_beams, most }) } else { Ok(()) }
    }

    fn submit(&mut self, schedule: &Schedule) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        let (mut rows, mut waiters, mut position_ends) = (Vec::new(), Vec::new(), Vec::new());
        for item in &schedule.work {
            let Some(seq) = self.scheduler.running_mut(item.seq) else { continue };
            let lanes = seq.tables.len();
            for lane in 0..lanes {
                let needs_start = std::mem::take(&mut seq.slots[lane].needs_start);
                let (slot, output) = (seq.slots[lane].id, seq.output(lane));
                if needs_start {
                    let Request { prompt_ids, params, .. } = &seq.request;
                    batch.starts.push(params.slot_start(slot, prompt_ids, &output, &self.end_ids));
                }
                let positions = seq.submitted..seq.submitted + item.rows;
                batch.seqs.push(BatchSeq {
                    slot,
                    position_start: seq.submitted,
                    tokens: positions.map(|position| seq.input(&output, position)).collect(),
                    block_table: seq.tables[lane].blocks().to_vec(),
                    logit_rows: if item.samples { vec![item.rows - 1] } else { Vec::new() },
                });
                if item.samples {
                    rows.push(sample_row(seq, slot, rows.len() as u32));
                }
            }
            seq.submitted += item.rows;
            position_ends.push((seq.id, seq.submitted));
            seq.last_step = self.step + 1;
            seq.times.first_submitted.get_or_insert_with(Instant::now);
            if item.samples {
                seq.pending += 1;
                waiters.push((seq.id, lanes));
            }
        }
        if !schedule.copies.is_empty() {
            let copy = |&CopyOnWrite { from, to }: &CopyOnWrite| BlockCopy { from, to };
            self.device.copy_blocks(&schedule.copies.iter().map(copy).collect::<Vec<_>>())?;
        }
        self.device.submit(&batch)?;
        self.device.sample(&rows)?;
        self.step += 1;
        self.in_flight.push_back(InFlight { step: self.step, position_ends, samples: waiters });
        Ok(())
    }

    fn collect(&mut self) -> Result<(), EngineError> {
        let Some(step) = self.in_flight.pop_front() else { return Ok(()) };
        let output = self.device.collect()?;
        let num_samples: usize = step.samples.iter().map(|(_, lanes)| lanes).sum();
        assert_eq!(output.sampled.len(), num_samples, "a device answers every sample row");
        for (id, position_end) in step.position_ends {
            self.scheduler.publish(id, position_end);
        }
        self.scheduler.collected(step.step);
        let mut sampled = output.sampled.into_iter();
        for (id, lanes) in step.samples {
            let of_lanes = sampled.by_ref().take(lanes);
            match self.scheduler.sequence_mut(id) {
                // It ended while they were in flight: that was overshoot.
                None => of_lanes.for_each(drop),
                Some(seq) if seq.search.is_some() => self.receive_candidates(id, of_lanes.collect()),
                Some(_) => of_lanes.for_each(|sampled| self.receive(id, sampled)),
            }
        }
        Ok(())
    }

    /// What may follow each lane of a beam search. Candidates for one that was preempted meanwhile are of no use.
    fn receive_candidates(&mut self, id: SeqId, sampled: Vec<Sampled>) {
        let Some(seq) = self.scheduler.running_mut(id) else { return };
        let Some(search) = &mut seq.search else { return };
        seq.pending -= 1;
        let candidates = sampled.into_iter().map(|sampled| match sampled.token {
            Err(BadRow::NotFinite) => Err(BadRow::NotFinite),
            // Nothing follows this beam; others may go on.
            Err(BadRow::AllMasked) => Ok(Vec::new()),
            Ok(_) => Ok(sampled.top.into_iter().map(|(id, logprob)| Candidate { id, logprob }).collect()),
        });
        let candidates: Vec<Vec<Candidate>> = match candidates.collect() {
            Ok(candidates) => candidates,
            Err(error) => return self.fail(id, error),
        };
        let now = Instant::now();
        seq.times.first_token.get_or_insert(now);
        seq.times.last_token = Some(now);
        if let Advance::Live(continuations) = search.advance(&candidates) {
            return self.scheduler.branch(id, &continuations);
        }
        let results = search.results();
        let Some(best) = results.first() else { return self.fail(id, BadRow::AllMasked) };
        let reason = if best.is_stopped { FinishReason::Stop } else { FinishReason::Length };
        self.events.push(Event::Found { seq: id, results });
        self.finish(id, reason);
    }

    /// One sampled token.
    fn receive(&mut self, id: SeqId, sampled: Sampled) {
        let Some(seq) = self.scheduler.sequence_mut(id) else { return };
        seq.pending -= 1;
        let token = match sampled.token {
            Ok(token) => token,
            Err(error) => return self.fail(id, error),
        };
        debug_assert!(token.0 < self.vocab_size, "devices sample from the vocabulary");
        let now = Instant::now();
        seq.output_ids.push(token);
        seq.times.first_token.get_or_insert(now);
        seq.times.last_token = Some(now);
        let stops = seq.request.ends_with(token, &self.end_ids);
        let is_full = seq.output_ids.len() as u32 >= seq.max_tokens;
        self.events.push(Event::Token { seq: id, id: token, logprob: sampled.logprob, top: sampled.top });
        if stops {
            self.finish(id, FinishReason::Stop);
        } else if is_full {
            self.finish(id, FinishReason::Length);
        }
    }

    fn finish(&mut self, id: SeqId, reason: FinishReason) {
        if let Some(seq) = self.scheduler.remove(id) {
            let metrics = self.metrics_of(&seq);
            self.end(Event::Finished { seq: id, reason, metrics });
        }
    }

    fn fail(&mut self, id: SeqId, error: BadRow) {
        self.scheduler.remove(id);
        self.end(Event::Failed { seq: id, error });
    }

    fn end(&mut self, event: Event) {
        self.num_ended += 1;
        self.events.push(event);
    }

    /// Asserts what must hold after every step; `before` it, so many steps were submitted and so many in flight.
    fn assert_consistent(&self, before: (u64, usize)) {
        self.scheduler.assert_consistent();
        let num_open = self.next_seq - self.num_ended;
        assert_eq!(self.scheduler.num_sequences(), num_open, "each sequence ends with one event");
        let progressed = (self.step, self.in_flight.len()) != before || !self.events.is_empty();
        assert!(progressed || self.is_idle(), "{num_open} sequences wait for nothing");
    }

    fn metrics_of(&self, seq: &Sequence) -> SequenceMetrics {
        SequenceMetrics::of(seq, self.context_tokens_max())
    }
}

/// How the device chooses what follows a lane's last row.
fn sample_row(seq: &Sequence, slot: SlotId, logit_row: u32) -> SampleRow {
    let Request { params, seed, choice_index, .. } = &seq.request;
    let output_index = seq.output_tokens() + seq.pending;
    match &seq.search {
        Some(search) => params.candidates_row(slot, logit_row, output_index, search.candidates_per_beam()),
        None => params.sample_row(slot, logit_row, output_index, (*seed, *choice_index)),
    }
}

#[cfg(test)]
mod tests;
