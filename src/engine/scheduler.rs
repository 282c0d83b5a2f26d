//! Which sequences run in the next step, and how many of their rows. Knows sequences and blocks, no device.

use std::collections::VecDeque;

use crate::ids::{SeqId, SlotId};
use crate::kv::{BlockManager, BlockTable};

use super::sequence::Sequence;

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub seq: SeqId,
    pub rows: u32,
    /// Whether the last row's logits are sampled: nothing known is left after it.
    pub samples: bool,
}

/// What a sequence gave up while a step that uses it was in flight.
#[derive(Debug)]
struct Retired {
    /// Returned once this step has been collected.
    step: u64,
    table: BlockTable,
    slot: Option<SlotId>,
}

/// Sequences waiting and running, and the blocks and slots they hold.
#[derive(Debug)]
pub struct Scheduler {
    /// Oldest first.
    waiting: VecDeque<Sequence>,
    /// In order of admission: the last is the newest.
    running: Vec<Sequence>,
    blocks: BlockManager,
    free_slots: Vec<SlotId>,
    retired: Vec<Retired>,
    step_rows_max: u32,
    logit_rows_max: u32,
    preemptions: u64,
}

impl Scheduler {
    pub fn new(blocks: BlockManager, slots_max: u32, step_rows_max: u32, logit_rows_max: u32) -> Scheduler {
        Scheduler {
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks,
            free_slots: (0..slots_max).rev().map(SlotId).collect(),
            retired: Vec::new(),
            step_rows_max,
            logit_rows_max,
            preemptions: 0,
        }
    }

    pub fn add(&mut self, seq: Sequence) {
        self.waiting.push_back(seq);
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn blocks(&mut self) -> &mut BlockManager {
        &mut self.blocks
    }

    /// Sequences sent back to waiting for lack of blocks so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    pub fn running_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|s| s.id == id)
    }

    /// A sequence, waiting or running.
    pub fn sequence_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        self.running.iter_mut().chain(self.waiting.iter_mut()).find(|s| s.id == id)
    }

    /// Takes a sequence out. What it held is free after step `last_step`, the last one submitted.
    pub fn remove(&mut self, id: SeqId, last_step: u64) -> Option<Sequence> {
        if let Some(at) = self.waiting.iter().position(|s| s.id == id) {
            return self.waiting.remove(at);
        }
        let at = self.running.iter().position(|s| s.id == id)?;
        let mut seq = self.running.remove(at);
        self.retire(&mut seq, last_step);
        Some(seq)
    }

    /// Returns what sequences gave up up to the collected step `step`.
    pub fn collected(&mut self, step: u64) {
        for mut retired in std::mem::take(&mut self.retired) {
            if retired.step > step {
                self.retired.push(retired);
                continue;
            }
            self.blocks.release(&mut retired.table);
            self.free_slots.extend(retired.slot);
        }
    }

    /// Picks the next step's work: decode rows first, then pieces of prompts, oldest first, then new admissions.
    /// `last_step` is the last step submitted.
    pub fn schedule(&mut self, last_step: u64) -> Vec<Work> {
        let mut work = Vec::new();
        let mut rows_left = self.step_rows_max;
        let mut logit_rows_left = self.logit_rows_max;
        let decodes: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() == 1).map(|s| s.id).collect();
        let prompts: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() > 1).map(|s| s.id).collect();
        for id in decodes.into_iter().chain(prompts) {
            self.take_rows(id, &mut work, &mut rows_left, &mut logit_rows_left, last_step);
        }
        while rows_left > 0 && logit_rows_left > 0 && self.can_admit() {
            let Some(mut seq) = self.waiting.pop_front() else { break };
            seq.slot = self.free_slots.pop();
            let id = seq.id;
            self.running.push(seq);
            let before = work.len();
            self.take_rows(id, &mut work, &mut rows_left, &mut logit_rows_left, last_step);
            if work.len() == before {
                break;
            }
        }
        work
    }

    fn can_admit(&self) -> bool {
        let Some(next) = self.waiting.front() else { return false };
        // A preempted sequence's token in flight must be known before its rows can be computed again.
        next.pending == 0
            && !self.free_slots.is_empty()
            && self.blocks.num_free() >= self.blocks.blocks_for(next.known())
    }

    fn take_rows(
        &mut self,
        id: SeqId,
        work: &mut Vec<Work>,
        rows_left: &mut u32,
        logit_rows_left: &mut u32,
        last_step: u64,
    ) {
        // A sequence that was preempted to make room for an earlier one is not running any more.
        let Some(seq) = self.running_mut(id) else { return };
        let rows = seq.ready_rows().min(*rows_left);
        let samples = rows == seq.ready_rows();
        if rows == 0 || (samples && *logit_rows_left == 0) {
            return;
        }
        if !self.make_room(id, rows, work, last_step) {
            return;
        }
        *rows_left -= rows;
        *logit_rows_left -= u32::from(samples);
        work.push(Work { seq: id, rows, samples });
    }

    /// Grows the sequence's table for `rows` more positions, preempting the newest sequences if it must. False if that
    /// was the sequence itself, or blocks come back only after a step in flight.
    fn make_room(&mut self, id: SeqId, rows: u32, work: &[Work], last_step: u64) -> bool {
        loop {
            let Some(at) = self.running.iter().position(|s| s.id == id) else { return false };
            let seq = &mut self.running[at];
            if self.blocks.grow(&mut seq.table, seq.submitted + rows).is_ok() {
                return true;
            }
            if !self.retired.is_empty() {
                return false;
            }
            // Sequences that already have work in this step keep it.
            let newest = self.running.iter().rposition(|s| !work.iter().any(|w| w.seq == s.id));
            let Some(newest) = newest else { return false };
            let victim = self.running[newest].id;
            self.preempt(newest, last_step);
            if victim == id {
                return false;
            }
        }
    }

    fn preempt(&mut self, at: usize, last_step: u64) {
        let mut seq = self.running.remove(at);
        let in_flight = seq.pending > 0;
        self.retire(&mut seq, last_step);
        if !in_flight {
            // Nothing in flight reads its blocks: they can go to their next owner at once.
            self.collected_now();
        }
        seq.reset();
        self.preemptions += 1;
        self.waiting.push_front(seq);
    }

    fn collected_now(&mut self) {
        if let Some(mut retired) = self.retired.pop() {
            self.blocks.release(&mut retired.table);
            self.free_slots.extend(retired.slot);
        }
    }

    fn retire(&mut self, seq: &mut Sequence, last_step: u64) {
        let table = std::mem::take(&mut seq.table);
        self.retired.push(Retired { step: last_step, table, slot: seq.slot.take() });
    }
}
