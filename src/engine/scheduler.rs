//! Which sequences run in the next step, and how many of their rows. Knows sequences and blocks, no device.

use std::collections::VecDeque;

use crate::ids::{BlockId, SeqId, SlotId};
use crate::kv::{BlockManager, BlockTable, CopyOnWrite};
use crate::sampling::beam::Continuation;

use super::sequence::Sequence;

/// The next step's work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    pub work: Vec<Work>,
    /// To be done before the step.
    pub copies: Vec<CopyOnWrite>,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub seq: SeqId,
    /// Of each lane.
    pub rows: u32,
    /// Whether the last row's logits are sampled: nothing known is left after it.
    pub samples: bool,
}

/// What a sequence gave up while a step that uses it was in flight.
#[derive(Debug)]
struct Retired {
    /// Returned once this step has been collected.
    step: u64,
    tables: Vec<BlockTable>,
    slots: Vec<SlotId>,
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
        let output_tokens = self.waiting.iter().chain(&self.running).map(|seq| u64::from(seq.output_tokens())).sum();
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
            retired.tables.iter_mut().for_each(|table| self.blocks.release(table));
            self.free_slots.extend(retired.slots);
        }
    }

    /// The rows of a running sequence before `position_end` have been computed: others may start with its full blocks.
    pub fn publish(&mut self, id: SeqId, position_end: u32) {
        let Some(seq) = self.running.iter_mut().find(|s| s.id == id) else { return };
        let mut tables = std::mem::take(&mut seq.tables);
        for (lane, table) in tables.iter_mut().enumerate() {
            let output = seq.output(lane);
            let ids = seq.request.prompt_ids.iter().chain(output.iter()).copied();
            let duplicates = self.blocks.publish(table, ids.take(position_end as usize));
            if !duplicates.blocks().is_empty() {
                self.retired.push(Retired { step: seq.last_step, tables: vec![duplicates], slots: Vec::new() });
            }
        }
        seq.tables = tables;
    }

    /// The lanes of a running sequence of which no step is in flight become those that go on from them.
    pub fn branch(&mut self, id: SeqId, continuations: &[Continuation]) {
        let Some(seq) = self.running.iter_mut().find(|s| s.id == id) else { return };
        let mut tables = std::mem::take(&mut seq.tables);
        seq.tables = continuations.iter().map(|c| self.blocks.fork(&tables[c.parent], seq.submitted)).collect();
        tables.iter_mut().for_each(|table| self.blocks.release(table));
        seq.restart_slots();
    }

    /// Asserts what must hold between steps: every block and slot has the owners it counts, and no block that a sequence
    /// will write has a second one.
    pub fn assert_consistent(&self) {
        let tables = self.running.iter().flat_map(|seq| &seq.tables);
        self.blocks.assert_consistent(tables.chain(self.retired.iter().flat_map(|retired| &retired.tables)));
        let running_slots: usize = self.running.iter().map(|seq| seq.slots.len()).sum();
        let retired_slots: usize = self.retired.iter().map(|retired| retired.slots.len()).sum();
        let num_slots = self.free_slots.len() + running_slots + retired_slots;
        assert_eq!(num_slots, self.slots_max as usize, "slots are free, running or retired");
        for seq in &self.running {
            assert!((1..=seq.slots.len()).contains(&seq.tables.len()), "{} has a slot for every lane", seq.id);
            // Its own lanes may share a block: they get copies before they write.
            let unpublished: Vec<BlockId> = seq.tables.iter().flat_map(BlockTable::unpublished).copied().collect();
            let lanes_of = |block: BlockId| unpublished.iter().filter(|&&other| other == block).count() as u32;
            let is_own = |&block: &BlockId| self.blocks.is_held_only_by(block, lanes_of(block));
            assert!(unpublished.iter().all(is_own), "{} writes to shared blocks", seq.id);
        }
        assert!(self.waiting.iter().all(|seq| seq.tables.is_empty()), "who waits holds no blocks");
    }

    /// Picks the next step's work: decode rows first, then pieces of prompts, oldest first, then new admissions.
    pub fn schedule(&mut self) -> Schedule {
        let mut schedule = Schedule::default();
        let mut rows_left = self.step_rows_max;
        let mut logit_rows_left = self.logit_rows_max;
        let decodes: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() == 1).map(|s| s.id).collect();
        let prompts: Vec<SeqId> = self.running.iter().filter(|s| s.ready_rows() > 1).map(|s| s.id).collect();
        for id in decodes.into_iter().chain(prompts) {
            self.take_rows(id, &mut schedule, &mut rows_left, &mut logit_rows_left);
        }
        while rows_left > 0 && logit_rows_left > 0 {
            let Some(id) = self.admit() else { break };
            let before = schedule.work.len();
            self.take_rows(id, &mut schedule, &mut rows_left, &mut logit_rows_left);
            if schedule.work.len() == before {
                break;
            }
        }
        schedule
    }

    /// Starts the sequence that waits longest behind the blocks that hold what it starts with, if there are slots and room
    /// for what it knows. It waits for another one that computes the same prompt.
    fn admit(&mut self) -> Option<SeqId> {
        let next = self.waiting.front()?;
        // A preempted sequence's token in flight must be known before its rows can be computed again.
        let lanes = next.request.lanes_max();
        let slots_left = self.free_slots.len().checked_sub(lanes as usize)?;
        if next.last_step > self.collected_step {
            return None;
        }
        let (known, prompt_ids, output) = (next.known(), &next.request.prompt_ids, next.output(0));
        let block_tokens = self.blocks.block_tokens();
        let full_blocks = (prompt_ids.len() as u32 - 1) / block_tokens;
        let is_computed = |seq: &Sequence| seq.tables.iter().all(|table| table.num_published() >= full_blocks);
        if self.running.iter().any(|seq| seq.request.prompt_ids == *prompt_ids && !is_computed(seq)) {
            return None;
        }
        // The last row must be computed for its logits.
        let mut table = self.blocks.reuse(prompt_ids.iter().chain(output.iter()).copied().take(known as usize - 1));
        // Beams part behind the prompt: with room for that, they are not preempted as soon as they do.
        let tokens = if lanes == 1 { known } else { (known + 1).min(next.tokens_max() - 1) };
        let needed = self.blocks.blocks_for_lanes(lanes, known, tokens) - table.blocks().len() as u32;
        if needed > self.blocks.num_available() {
            self.blocks.release(&mut table);
            return None;
        }
        drop(output);
        let mut seq = self.waiting.pop_front()?;
        let id = seq.id;
        seq.start(self.free_slots.drain(slots_left..).rev(), table, block_tokens);
        self.running.push(seq);
        Some(id)
    }

    /// All lanes of a sequence get rows, or none does.
    fn take_rows(&mut self, id: SeqId, schedule: &mut Schedule, rows_left: &mut u32, logit_rows_left: &mut u32) {
        // A sequence that was preempted to make room for an earlier one is not running any more.
        let Some(seq) = self.running_mut(id) else { return };
        let lanes = seq.tables.len() as u32;
        let rows = seq.ready_rows().min(*rows_left / lanes);
        let samples = rows == seq.ready_rows();
        if rows == 0 || (samples && *logit_rows_left < lanes) {
            return;
        }
        let Some(copies) = self.make_room(id, rows, &schedule.work) else { return };
        *rows_left -= rows * lanes;
        *logit_rows_left -= if samples { lanes } else { 0 };
        schedule.work.push(Work { seq: id, rows, samples });
        schedule.copies.extend(copies);
    }

    /// Makes room for `rows` more positions of each of the sequence's lanes, preempting the newest sequences if it must. `None`
    /// if that was the sequence itself, or blocks come back only after a step in flight.
    fn make_room(&mut self, id: SeqId, rows: u32, work: &[Work]) -> Option<Vec<CopyOnWrite>> {
        loop {
            let seq = self.running.iter_mut().find(|s| s.id == id)?;
            if let Ok(copies) = self.blocks.extend(&mut seq.tables, seq.submitted, seq.submitted + rows) {
                return Some(copies);
            }
            if !self.retired.is_empty() {
                return None;
            }
            // Sequences that already have work in this step keep it.
            let newest = self.running.iter().rposition(|s| !work.iter().any(|w| w.seq == s.id))?;
            let victim = self.running[newest].id;
            self.preempt(newest);
            if victim == id {
                return None;
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

    /// Frees a sequence's blocks and slots, or leaves them to the step in flight that uses them.
    fn give_back(&mut self, seq: &mut Sequence) {
        let tables = std::mem::take(&mut seq.tables);
        let slots = seq.slots.drain(..).map(|slot| slot.id).collect();
        self.retired.push(Retired { step: seq.last_step, tables, slots });
        self.collected(self.collected_step);
    }
}
