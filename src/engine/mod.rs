//! Sequences, scheduling and steps: `Engine::step` = schedule → submit → sample → collect → postprocess. Numbers only; stop
//! strings belong to the text layer, which cancels what it has seen enough of.

mod admission;
mod metrics;
pub mod scheduler;
mod sequence;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

pub use crate::sampling::{Event, FinishReason, SequenceMetrics};
pub use admission::{Admitted, AdmittedRequest, EngineFacts};
pub use sequence::{Request, Sequence};

use crate::device::{BadRow, Batch, BatchSeq, BlockCopy, Choice, Device, DeviceError, InputToken, SampleRow, Sampled};
use crate::ids::{SeqId, SlotId, TokenId};
use crate::kv::{BlockManager, BlockTable, CopyOnWrite, KvError};
use crate::sampling::beam::{Advance, Candidate};
use crate::sampling::{ParamError, SamplingParams};

use scheduler::{Schedule, Scheduler};

/// Why the engine refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    // Agents look for these words, and shorten their conversation.
    #[error("prompt is too long: {n_prompt_tokens} tokens > {n_prompt_tokens_max} maximum")]
    PromptTooLong { n_prompt_tokens: u32, n_prompt_tokens_max: u32 },
    #[error("token id {id} is not in the vocabulary of {vocab_size}")]
    UnknownToken { id: TokenId, vocab_size: u32 },
    #[error(
        "the KV cache has {blocks} blocks of {block_tokens} tokens, the request with its {n_prompt_tokens} prompt tokens \
         (context {n_ctx}) can need {needed}"
    )]
    NeverFits { n_prompt_tokens: u32, n_ctx: u32, needed: u32, blocks: u32, block_tokens: u32 },
    #[error("{num_beams} beams run as so many sequences at once, and at most {most} can")]
    TooManyBeams { num_beams: u32, most: u32 },
    #[error("the device failed before: open the model again")]
    Broken,
    #[error("the engine's thread has ended")]
    Stopped,
    #[error("sequences are running: wait until the engine is idle")]
    Busy,
    #[error("{source}; {sequences} unfinished sequences are lost, with {output_tokens} tokens generated so far")]
    Lost { source: DeviceError, sequences: u32, output_tokens: u64 },
    #[error(transparent)]
    BadRow(#[from] BadRow),
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    facts: Arc<EngineFacts>,
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
        let scheduler = Scheduler::new(blocks, limits.slots_max, limits.step_rows_max, limits.logit_rows_max);
        let (device_name, memory) = (device.name(), device.memory());
        let facts = EngineFacts { device_name, limits, memory, vocab_size, end_ids };
        Engine {
            scheduler,
            device,
            facts: Arc::new(facts),
            next_seq: 0,
            num_ended: 0,
            step: 0,
            in_flight: VecDeque::new(),
            events: Vec::new(),
            is_broken: false,
        }
    }

    /// What this engine is and can.
    pub fn facts(&self) -> &Arc<EngineFacts> {
        &self.facts
    }

    /// Accepts a request, or refuses it at once with the numbers.
    pub fn add(&mut self, request: Request) -> Result<SeqId, EngineError> {
        let admitted = self.facts.admit_sequence(request)?;
        self.start(admitted)
    }

    /// Accepts a sequence that was checked against this engine's facts.
    ///
    /// # Errors
    /// `Broken`: the device has failed.
    pub fn start(&mut self, admitted: Admitted) -> Result<SeqId, EngineError> {
        self.check_device()?;
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        let seq = Sequence::new(id, admitted, &self.facts.end_ids);
        if seq.max_tokens == 0 {
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
        let params = self.facts.check_scored(ids, top_n)?;
        let n_ctx = self.facts.context_tokens_max();
        let (n_prompt_tokens, block_tokens) = (ids.len() as u32, self.facts.limits.block_tokens);
        let mut table = BlockTable::default();
        let never_fits = |e: KvError| {
            let (needed, blocks) = (e.asked, e.total);
            EngineError::NeverFits { n_prompt_tokens, n_ctx, needed, blocks, block_tokens }
        };
        self.scheduler.blocks().grow(&mut table, n_prompt_tokens - 1).map_err(never_fits)?;
        let scored = self.score_rows(ids, &params, &table);
        self.scheduler.blocks().release(&mut table);
        self.is_broken |= matches!(scored, Err(EngineError::Device(_)));
        scored
    }

    fn score_rows(
        &mut self,
        ids: &[TokenId],
        params: &SamplingParams,
        table: &BlockTable,
    ) -> Result<Vec<Option<Sampled>>, EngineError> {
        let limits = self.device.limits();
        let rows_max = limits.step_rows_max.min(limits.logit_rows_max) as usize;
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
                    batch.starts.push(params.slot_start(slot, prompt_ids, &output, &self.facts.end_ids));
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
        let end =
            best.ids.last().filter(|_| best.is_stopped).and_then(|&id| seq.request.end_of(id, &self.facts.end_ids));
        let reason = end.unwrap_or(FinishReason::Length);
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
        debug_assert!(token.0 < self.facts.vocab_size, "devices sample from the vocabulary");
        let now = Instant::now();
        seq.output_ids.push(token);
        seq.times.first_token.get_or_insert(now);
        seq.times.last_token = Some(now);
        let is_full = seq.output_ids.len() as u32 >= seq.max_tokens;
        let end = seq.request.end_of(token, &self.facts.end_ids);
        let ends = end.or(is_full.then_some(FinishReason::Length));
        self.events.push(Event::Token { seq: id, id: token, logprob: sampled.logprob, top: sampled.top, ends });
        if let Some(reason) = ends {
            self.finish(id, reason);
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
        metrics::metrics_of(seq, self.facts.context_tokens_max())
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
