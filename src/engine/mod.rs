//! Sequences, scheduling and steps: `Engine::step` = schedule → submit → sample → collect → postprocess. Numbers only; stop
//! strings belong to the text layer, which cancels what it has seen enough of.

mod metrics;
pub mod scheduler;
mod sequence;

use std::collections::VecDeque;
use std::time::Instant;

pub use metrics::SequenceMetrics;
pub use sequence::{FinishReason, Request, Sequence};

use crate::device::{BadRow, Batch, BatchSeq, Choice, Device, DeviceError, InputToken, MemoryUse, Sampled};
use crate::ids::{SeqId, SlotId, TokenId};
use crate::kv::{BlockManager, BlockTable, KvError};
use crate::sampling::{ParamError, SamplingParams};

use scheduler::{Scheduler, Work};

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
    #[error("the device failed before: open the model again")]
    Broken,
    #[error("sequences are running: score when the engine is idle")]
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
    /// One more output token.
    Token { seq: SeqId, id: TokenId, logprob: Option<f32>, top: Vec<(TokenId, f32)> },
    /// The sequence's last event.
    Finished { seq: SeqId, reason: FinishReason, metrics: SequenceMetrics },
    /// The sequence's last event: its logits were unusable.
    Failed { seq: SeqId, error: BadRow },
}

/// A step that was submitted and not collected: up to which position it computes whom, and who waits for which sampled row.
#[derive(Debug)]
struct InFlight {
    step: u64,
    position_ends: Vec<(SeqId, u32)>,
    samples: Vec<SeqId>,
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
        let (blocks, block_tokens) = (self.device.limits().num_blocks, self.device.limits().block_tokens);
        // The last token is sampled, not computed. Who names no number of tokens gets what the context and the cache hold.
        let cache_tokens = u64::from(blocks) * u64::from(block_tokens) + 1;
        let cache_left = cache_tokens.saturating_sub(u64::from(n_prompt_tokens)).max(1) as u32;
        let max_tokens = request.params.max_tokens.unwrap_or(cache_left).min(n_ctx - n_prompt_tokens);
        let needed = self.scheduler.blocks().blocks_for(n_prompt_tokens + max_tokens.saturating_sub(1));
        if needed > blocks {
            return Err(EngineError::NeverFits { n_prompt_tokens, n_ctx, needed, blocks, block_tokens });
        }
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        let seq = Sequence::new(id, request, max_tokens);
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
            let work = self.scheduler.schedule();
            if !work.is_empty() {
                self.submit(&work)?;
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
                let mut row = params.sample_row(SlotId(0), i as u32, 0, 0);
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

    fn submit(&mut self, work: &[Work]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        let (mut rows, mut waiters, mut position_ends) = (Vec::new(), Vec::new(), Vec::new());
        for item in work {
            let Some(seq) = self.scheduler.running_mut(item.seq) else { continue };
            let Some(slot) = seq.slot else { continue };
            let params = &seq.request.params;
            if std::mem::take(&mut seq.needs_start) {
                batch.starts.push(params.slot_start(slot, &seq.request.prompt_ids, &seq.output_ids, &self.end_ids));
            }
            let positions = seq.submitted..seq.submitted + item.rows;
            batch.seqs.push(BatchSeq {
                slot,
                position_start: seq.submitted,
                tokens: positions.map(|position| seq.input(position)).collect(),
                block_table: seq.table.blocks().to_vec(),
                logit_rows: if item.samples { vec![item.rows - 1] } else { Vec::new() },
            });
            seq.submitted += item.rows;
            position_ends.push((seq.id, seq.submitted));
            seq.last_step = self.step + 1;
            seq.times.first_submitted.get_or_insert_with(Instant::now);
            if item.samples {
                let output_index = seq.output_ids.len() as u32 + seq.pending;
                rows.push(params.sample_row(slot, rows.len() as u32, output_index, seq.request.seed));
                seq.pending += 1;
                waiters.push(seq.id);
            }
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
        assert_eq!(output.sampled.len(), step.samples.len(), "a device answers every sample row");
        for (id, position_end) in step.position_ends {
            self.scheduler.publish(id, position_end);
        }
        self.scheduler.collected(step.step);
        for (id, sampled) in step.samples.into_iter().zip(output.sampled) {
            self.receive(id, sampled);
        }
        Ok(())
    }

    /// One sampled token. Sequences that ended while it was in flight are gone: that was overshoot.
    fn receive(&mut self, id: SeqId, sampled: Sampled) {
        let Some(seq) = self.scheduler.sequence_mut(id) else { return };
        seq.pending -= 1;
        let token = match sampled.token {
            Ok(token) => token,
            Err(error) => {
                self.scheduler.remove(id);
                self.end(Event::Failed { seq: id, error });
                return;
            }
        };
        debug_assert!(token.0 < self.vocab_size, "devices sample from the vocabulary");
        let now = Instant::now();
        seq.output_ids.push(token);
        seq.times.first_token.get_or_insert(now);
        seq.times.last_token = Some(now);
        let params = &seq.request.params;
        let is_end = !params.ignore_eos && self.end_ids.contains(&token);
        let stops = is_end || params.stop_token_ids.contains(&token);
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

#[cfg(test)]
mod tests;
