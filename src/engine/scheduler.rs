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
    /// The last step that was collected.
    collected_step: u64,
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
            collected_step: 0,
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

    /// Takes a sequence out. What it held is free once no step in flight uses it.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        if let Some(at) = self.waiting.iter().position(|s| s.id == id) {
            return self.waiting.remove(at);
        }
        let at = self.running.iter().position(|s| s.id == id)?;
        let mut seq = self.running.remove(at);
        self.give_back(&mut seq);
        Some(seq)
    }

    /// Forgets all sequences, whatever the device still does with them.
    pub fn clear(&mut self) {
        self.waiting.clear();
        for mut seq in std::mem::take(&mut self.running) {
            self.give_back(&mut seq);
        }
        self.collected(u64::MAX);
    }

    /// Returns what sequences gave up that steps up to `step` were still using.
    pub fn collected(&mut self, step: u64) {
        self.collected_step = step;
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
    pub fn schedule(&mut self) -> Vec<Work> {
        let mut work = Vec::new();
        let mut rows_left = self.step_rows_max;
        let mut logit_rows_left = self.logit_rows_max;
        let decodes: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() == 1).map(|s| s.id).collect();
        let prompts: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() > 1).map(|s| s.id).collect();
        for id in decodes.into_iter().chain(prompts) {
            self.take_rows(id, &mut work, &mut rows_left, &mut logit_rows_left);
        }
        while rows_left > 0 && logit_rows_left > 0 && self.can_admit() {
            let Some(mut seq) = self.waiting.pop_front() else { break };
            seq.slot = self.free_slots.pop();
            let id = seq.id;
            self.running.push(seq);
            let before = work.len();
            self.take_rows(id, &mut work, &mut rows_left, &mut logit_rows_left);
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

    fn take_rows(&mut self, id: SeqId, work: &mut Vec<Work>, rows_left: &mut u32, logit_rows_left: &mut u32) {
        // A sequence that was preempted to make room for an earlier one is not running any more.
        let Some(seq) = self.running_mut(id) else { return };
        let rows = seq.ready_rows().min(*rows_left);
        let samples = rows == seq.ready_rows();
        if rows == 0 || (samples && *logit_rows_left == 0) {
            return;
        }
        if !self.make_room(id, rows, work) {
            return;
        }
        *rows_left -= rows;
        *logit_rows_left -= u32::from(samples);
        work.push(Work { seq: id, rows, samples });
    }

    /// Grows the sequence's table for `rows` more positions, preempting the newest sequences if it must. False if that
    /// was the sequence itself, or blocks come back only after a step in flight.
    fn make_room(&mut self, id: SeqId, rows: u32, work: &[Work]) -> bool {
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
            self.preempt(newest);
            if victim == id {
                return false;
            }
        }
    }

    fn preempt(&mut self, at: usize) {
        let mut seq = self.running.remove(at);
        self.give_back(&mut seq);
        seq.reset();
        self.preemptions += 1;
        self.waiting.push_front(seq);
    }

    /// Frees a sequence's blocks and slot, or leaves them to the step in flight that uses them.
    fn give_back(&mut self, seq: &mut Sequence) {
        let table = std::mem::take(&mut seq.table);
        self.retired.push(Retired { step: seq.last_step, table, slot: seq.slot.take() });
        self.collected(self.collected_step);
    }
}
