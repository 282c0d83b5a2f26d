//! Recursive calls: each lane has a stack of what its waiting activations hold.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::CODE_WINDOW;
use crate::program::{Op, ParamCopy, Recursion, Slot};

/// Activations per lane: more is taken for a recursion without end.
const DEPTH_MAX: usize = 4096;

/// What one lane's waiting activation holds.
#[derive(Debug)]
pub struct Frame {
    /// The call, and the first instruction of the body that it entered.
    call: u32,
    start: u32,
    registers: Vec<u64>,
    preds: Vec<bool>,
    local: Vec<u8>,
    local_written: Vec<bool>,
    /// Parameters and results of the activation, which live outside its own local memory.
    shared: Vec<(usize, Vec<u8>)>,
}

impl Step<'_, '_> {
    pub(super) fn call_again(&mut self, again: &Recursion, active: Mask) -> Result<Flow, Fault> {
        let frames = &mut self.warp.frames;
        frames.resize_with(32, Vec::new);
        if let Some(lane) = each(active).find(|&lane| frames[lane].len() >= DEPTH_MAX) {
            let message = format!("a function has called itself {DEPTH_MAX} times");
            return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
        }
        for lane in each(active) {
            let own = self.local_range(lane, again.locals.start, again.locals.len() as u32);
            let formals = again.arguments.iter().chain(&again.results);
            let shared = formals.map(|copy| self.local_range(lane, copy.callee, copy.bytes));
            let frame = Frame {
                call: self.pc,
                start: again.target,
                registers: again.slots.clone().map(|slot| self.reg(slot)[lane]).collect(),
                preds: again.preds.clone().map(|slot| self.warp.preds[slot as usize] >> lane & 1 != 0).collect(),
                local: self.warp.local[own.clone()].to_vec(),
                local_written: self.warp.local_written[own].to_vec(),
                shared: shared.map(|range| (range.start, self.warp.local[range].to_vec())).collect(),
            };
            for copy in &again.arguments {
                self.copy_local(lane, copy.caller, copy.callee, copy.bytes);
            }
            self.warp.frames[lane].push(frame);
        }
        Ok(Flow::Branch(again.target))
    }

    pub(super) fn return_again(&mut self, start: u32, end: u32, active: Mask) -> Flow {
        let mut groups: Vec<(u32, Mask)> = Vec::new();
        for lane in each(active) {
            let stack = self.warp.frames.get_mut(lane);
            let target = match stack.and_then(|stack| stack.pop_if(|frame| frame.start == start)) {
                Some(frame) => self.leave_frame(lane, frame),
                None => end,
            };
            match groups.iter_mut().find(|(t, _)| *t == target) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => groups.push((target, 1 << lane)),
            }
        }
        Flow::BranchLanes(groups.into())
    }

    /// Restores what the caller held, hands it the results and returns where it goes on.
    fn leave_frame(&mut self, lane: usize, frame: Frame) -> u32 {
        let program = self.launch.program;
        let Op::CallAgain(again) = &program.instructions[frame.call as usize].op else {
            panic!("a frame was made by no call");
        };
        let bytes = |copy: &ParamCopy| self.warp.local[self.local_range(lane, copy.callee, copy.bytes)].to_vec();
        let results: Vec<Vec<u8>> = again.results.iter().map(bytes).collect();
        for (slot, value) in again.slots.clone().zip(frame.registers) {
            self.warp.registers[slot as usize][lane] = value;
            self.warp.undefined.define(slot, 1 << lane);
        }
        for (slot, value) in again.preds.clone().zip(frame.preds) {
            let pred = &mut self.warp.preds[slot as usize];
            *pred = *pred & !(1 << lane) | u32::from(value) << lane;
            self.warp.undefined.define_pred(slot, 1 << lane);
        }
        let own = self.local_range(lane, again.locals.start, again.locals.len() as u32);
        self.warp.local[own.clone()].copy_from_slice(&frame.local);
        self.warp.local_written[own].copy_from_slice(&frame.local_written);
        for (at, bytes) in frame.shared {
            self.warp.local[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        for (copy, bytes) in again.results.iter().zip(results) {
            let range = self.local_range(lane, copy.caller, copy.bytes);
            self.warp.local[range.clone()].copy_from_slice(&bytes);
            self.warp.local_written[range].fill(true);
        }
        frame.call + 1
    }

    pub(super) fn check_function(&self, address: Slot, active: Mask) -> Result<Flow, Fault> {
        let addresses = self.reg(address);
        match each(active).find(|&lane| addresses[lane] < CODE_WINDOW) {
            None => Ok(Flow::Next),
            Some(lane) => {
                let message = format!("a call of {:#x}, which is no function", addresses[lane]);
                Err(Fault::new(FindingKind::BadOperand, Some(lane), message))
            }
        }
    }

    fn copy_local(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        let (from, to) = (self.local_range(lane, from, bytes), self.local_range(lane, to, bytes));
        self.warp.local.copy_within(from.clone(), to.start);
        self.warp.local_written.copy_within(from, to.start);
    }

    /// Bytes of a lane's local memory.
    fn local_range(&self, lane: usize, at: u32, bytes: u32) -> std::ops::Range<usize> {
        let start = lane * self.launch.program.local_bytes as usize + at as usize;
        start..start + bytes as usize
    }
}
