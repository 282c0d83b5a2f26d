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
    slots_max: u32,
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
            slots_max,
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

    /// Sequences waiting and running.
    pub fn num_sequences(&self) -> u32 {
        (self.waiting.len() + self.running.len()) as u32
    }

    /// Sequences waiting and running, and the tokens that they have generated.
    pub fn unfinished(&self) -> (u32, u64) {
        let output_tokens = self.waiting.iter().chain(&self.running).map(|seq| seq.output_ids.len() as u64).sum();
        (self.num_sequences(), output_tokens)
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

    /// The rows of a running sequence before `position_end` have been computed: others may start with its full blocks.
    pub fn publish(&mut self, id: SeqId, position_end: u32) {
        let Some(seq) = self.running.iter_mut().find(|s| s.id == id) else { return };
        let mut table = std::mem::take(&mut seq.table);
        let duplicates = self.blocks.publish(&mut table, seq.ids().take(position_end as usize));
        seq.table = table;
        if !duplicates.blocks().is_empty() {
            self.retired.push(Retired { step: seq.last_step, table: duplicates, slot: None });
        }
    }

    /// Asserts what must hold between steps: every block and slot has the owners it counts, and no block that a sequence
    /// will write has a second one.
    pub fn assert_consistent(&self) {
        let tables = self.running.iter().map(|seq| &seq.table);
        self.blocks.assert_consistent(tables.chain(self.retired.iter().map(|retired| &retired.table)));
        let retired_slots = self.retired.iter().filter(|retired| retired.slot.is_some()).count();
        let num_slots = self.free_slots.len() + self.running.len() + retired_slots;
        assert_eq!(num_slots, self.slots_max as usize, "slots are free, running or retired");
        for seq in &self.running {
            let unpublished = seq.table.unpublished();
            assert!(unpublished.iter().all(|b| self.blocks.is_writable(*b)), "{} writes to shared blocks", seq.id);
        }
        assert!(self.waiting.iter().all(|seq| seq.table.blocks().is_empty()), "who waits holds no blocks");
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
        while rows_left > 0 && logit_rows_left > 0 {
            let Some(id) = self.admit() else { break };
            let before = work.len();
            self.take_rows(id, &mut work, &mut rows_left, &mut logit_rows_left);
            if work.len() == before {
                break;
            }
        }
        work
    }

    /// Starts the sequence that waits longest behind the blocks that hold what it starts with, if there is a slot and room
    /// for what it knows.
    fn admit(&mut self) -> Option<SeqId> {
        let next = self.waiting.front()?;
        // A preempted sequence's token in flight must be known before its rows can be computed again.
        if next.last_step > self.collected_step || self.free_slots.is_empty() {
            return None;
        }
        let known = next.known();
        // The last row must be computed for its logits.
        let mut table = self.blocks.reuse(next.ids().take(known as usize - 1));
        if self.blocks.blocks_for(known) - table.blocks().len() as u32 > self.blocks.num_available() {
            self.blocks.release(&mut table);
            return None;
        }
        let mut seq = self.waiting.pop_front()?;
        let id = seq.id;
        seq.slot = self.free_slots.pop();
        seq.start(table, self.blocks.block_tokens());
        self.running.push(seq);
        Some(id)
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
