//! One step on all threads: every thread runs every stage, takes items of it until none are left, and meets the others
//! at one barrier per stage. `linear` and `attend` are the stages, `items` says who takes what.
#![allow(unsafe_code)]

mod attend;
mod items;
mod linear;

use std::sync::atomic::AtomicUsize;

use crate::device::host::{BatchRow, SeqRows};
use crate::ids::TokenId;

use super::cache::KvArena;
use super::kernels::Kernels;
use super::panel::PANEL_COLS;
use super::plan::{self, PlannedEmbed, PlannedOp};
use super::pool::Barrier;
use super::shared::Shared;
use super::workspace::{RopeValues, Workspace};

pub use attend::{AttendItem, Split};
pub use items::OpCounters;

/// A step, as the threads see it.
#[derive(Debug)]
pub struct Step<'a> {
    pub ops: &'a [PlannedOp],
    pub kernels: &'a Kernels,
    pub weights: &'a Shared,
    pub work: &'a Workspace,
    pub kv: &'a KvArena,
    pub rope: &'a [RopeValues],
    pub counters: &'a [OpCounters],
    pub attend_counters: &'a [AtomicUsize],
    pub threads: usize,
    pub rows: &'a [BatchRow<TokenId>],
    pub seqs: &'a [SeqRows],
    /// Batch rows that need logits.
    pub logit_rows: &'a [usize],
    /// Per op; empty unless it is an `Attend`.
    pub attend_items: &'a [Vec<AttendItem>],
}

impl Step<'_> {
    /// Runs thread `thread`'s share. All threads call this with the same step, and meet at `barrier` behind every stage.
    pub fn run(&self, thread: usize, barrier: &Barrier) {
        for (index, op) in self.ops.iter().enumerate() {
            match op {
                PlannedOp::Embed(op) => self.embed(index, op, thread),
                PlannedOp::Linear(op) => self.linear(index, op, thread, barrier),
                PlannedOp::Attend(op) => self.attend(index, op, thread),
            }
            self.prefetch_next(index, thread);
            // Orders what this stage wrote before the next stage's reads, and its reads before later writes.
            barrier.wait();
        }
    }

    /// Asks for the first weights of this thread's share of the next linear, while it waits for the others.
    fn prefetch_next(&self, index: usize, thread: usize) {
        const BYTES_MAX: usize = 24 << 10;
        if self.rows.len() > PANEL_COLS {
            return;
        }
        let next = self.ops[index + 1..].iter().find_map(|op| match op {
            PlannedOp::Linear(linear) => Some(linear),
            _ => None,
        });
        let Some(linear) = next else { return };
        let share = items::share_of(thread, self.threads, linear.units.len());
        let Some(unit) = linear.units.get(share.start) else { return };
        let tile = &linear.tiles[unit.tile];
        let bytes = (unit.tiles * tile.stride()).min(BYTES_MAX);
        // SAFETY: inside the arena.
        unsafe { (self.kernels.prefetch)(self.weights.ptr::<u8>().add(tile.offset), bytes) };
    }

    fn embed(&self, index: usize, op: &PlannedEmbed, thread: usize) {
        let counters = &self.counters[index];
        let stride = self.work.strides.hidden;
        while let Some(row) = counters.next_item(thread, self.rows.len()) {
            let info = &self.rows[row];
            // SAFETY: the weights are not written after `prepare`; each row is taken once.
            let (arena, out) = unsafe {
                (
                    self.weights.slice::<u8>(0, self.weights.bytes() as usize),
                    self.work.residual.slice_mut::<f32>(row * stride, stride),
                )
            };
            plan::read_row(arena, &op.tiles, op.cols, info.token.index(), out);
            if op.scale != 1.0 {
                out[..op.cols].iter_mut().for_each(|x| *x *= op.scale);
            }
        }
    }

    fn scratch(&self, thread: usize) -> *mut f32 {
        // SAFETY: one part per thread, sized in `prepare`.
        unsafe { self.work.scratch.ptr::<f32>().add(thread * self.work.scratch_len) }
    }
}
