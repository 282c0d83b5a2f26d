//! Steps of a device that runs on the host: a step runs when it is collected, so that what depends on pipelining is exercised.

use std::collections::VecDeque;

use crate::device::sampler::SampleRow;
use crate::device::{Batch, BlockCopy, DeviceError};

use super::CallOrder;

/// A step to run now, and what to choose from it.
#[derive(Debug)]
pub struct QueuedStep {
    pub batch: Batch,
    pub samples: Vec<SampleRow>,
}

/// Steps and copies, in order.
#[derive(Debug)]
pub struct HostQueue {
    pub order: CallOrder,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
enum Queued {
    Step(QueuedStep),
    Copies(Vec<BlockCopy>),
}

impl HostQueue {
    pub fn new(order: CallOrder) -> HostQueue {
        HostQueue { order, queue: VecDeque::new() }
    }

    pub fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        self.order.submit(batch)?;
        self.queue.push_back(Queued::Step(QueuedStep { batch: batch.clone(), samples: Vec::new() }));
        Ok(())
    }

    pub fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        self.order.sample(rows)?;
        if let Some(Queued::Step(step)) = self.queue.back_mut() {
            step.samples = rows.to_vec();
        }
        Ok(())
    }

    /// The oldest step. [`HostQueue::settle`] follows once it has run.
    pub fn collect(&mut self) -> Result<QueuedStep, DeviceError> {
        self.order.collect()?;
        match self.queue.pop_front() {
            Some(Queued::Step(step)) => Ok(step),
            _ => unreachable!("copies that wait for no step have been done"),
        }
    }

    /// Does the copies that wait for no step any more.
    pub fn settle(&mut self, mut copy: impl FnMut(&BlockCopy)) {
        while let Some(Queued::Copies(copies)) = self.queue.front() {
            copies.iter().for_each(&mut copy);
            self.queue.pop_front();
        }
    }

    /// Copies behind the steps in flight; now if there are none.
    pub fn copy_blocks(&mut self, copies: &[BlockCopy], copy: impl FnMut(&BlockCopy)) -> Result<(), DeviceError> {
        match self.order.copy_blocks(copies)? {
            true => self.queue.push_back(Queued::Copies(copies.to_vec())),
            false => copies.iter().for_each(copy),
        }
        Ok(())
    }
}
