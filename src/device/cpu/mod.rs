//! The fast device for CPUs: repacked weights, integer dot products, a pool of threads with one barrier per stage.
//!
//! `plan` makes a program ready, `workspace` is what it works in, `step` runs it, `linear`, `attend` and `cache` are the kernels, compiled once per
//! instruction set by `kernels`.
#![allow(unsafe_code)]

mod attend;
mod cache;
mod checkpoints;
mod crowding;
mod kernels;
mod linear;
mod panel;
mod plan;
mod pool;
mod rows;
mod shared;
mod simd;
mod step;
mod tile;
mod worklist;
mod workspace;

use std::sync::atomic::AtomicUsize;

use crate::ids::TokenId;
use crate::model::{AttendOp, Program};
use crate::weights::TensorSource;

use super::host::{BatchRows, CallOrder, HostMemory, HostQueue, QueuedStep, SeqRows, check_limits};
use super::sampler::{HostSampler, SampleRow};
use super::{Batch, BlockCopy, Checkpoint, Device, DeviceError, InputToken, Limits, MemoryUse, Purpose, StepOutput};

pub use kernels::IsaPath;

use cache::KvArena;
use plan::PlannedOp;
use pool::Pool;
use shared::Shared;
use step::{AttendItem, OpCounters, Step};
use worklist::{PARTIALS_MAX, attend_list};
use workspace::{RopeValues, Workspace};

/// The device.
#[derive(Debug)]
pub struct CpuDevice {
    path: IsaPath,
    kernels: kernels::Kernels,
    ops: Vec<PlannedOp>,
    weights: Shared,
    work: Workspace,
    kv: KvArena,
    rope: Vec<RopeValues>,
    counters: Vec<OpCounters>,
    attend_counters: Vec<AtomicUsize>,
    pool: Pool,
    sampler: HostSampler,
    vocab_size: usize,
    hidden_size: usize,
    /// A step runs when it is collected, on the caller's thread and the pool's.
    queue: HostQueue,
    /// The last collected step, for checkpoints.
    last: BatchRows<TokenId>,
}

impl CpuDevice {
    /// Prepares `program` on the fastest instruction set of this machine.
    pub fn prepare(program: &Program, weights: &dyn TensorSource, limits: &Limits) -> Result<CpuDevice, DeviceError> {
        CpuDevice::prepare_on(program, weights, limits, IsaPath::available()[0])
    }

    /// Prepares `program` for one of [`IsaPath::available`].
    pub fn prepare_on(
        program: &Program,
        weights: &dyn TensorSource,
        limits: &Limits,
        path: IsaPath,
    ) -> Result<CpuDevice, DeviceError> {
        check_limits(limits)?;
        if !IsaPath::available().contains(&path) {
            return Err(DeviceError::Unsupported {
                subject: "instruction set".into(),
                expected: format!("one of {:?}", IsaPath::available()),
                found: path.name().into(),
            });
        }
        let threads = limits.threads as usize;
        let mut pool = Pool::new(threads)?;
        let mut host = HostMemory::of_system();
        let (ops, weights) = plan::plan(program, weights, &mut pool, &mut host)?;
        let kv = KvArena::new(program, limits, &mut host)?;
        let work = workspace::workspace(program, &ops, limits, &mut host)?;
        let rope = workspace::rope_values(program, limits, &mut host)?;
        host.take(Purpose::Slots, HostSampler::slot_bytes(limits.slots_max))?;
        Ok(CpuDevice {
            path,
            kernels: path.kernels(),
            counters: ops.iter().map(|_| OpCounters::new(threads)).collect(),
            attend_counters: (0..PARTIALS_MAX).map(|_| AtomicUsize::new(0)).collect(),
            ops,
            weights,
            work,
            kv,
            rope,
            pool,
            sampler: HostSampler::new(limits.slots_max, program.vocab_size).with_threads(limits.threads),
            vocab_size: program.vocab_size as usize,
            hidden_size: program.hidden_size as usize,
            queue: HostQueue::new(CallOrder::new(limits, program.vocab_size, 1)),
            last: BatchRows::default(),
        })
    }

    /// How often all threads have met at the barrier since `prepare`.
    pub fn barrier_crossings(&self) -> usize {
        self.pool.barrier_crossings()
    }

    /// Runs a step and chooses from its rows.
    fn execute(&mut self, batch: &Batch, rows: &[SampleRow]) -> StepOutput {
        for start in &batch.starts {
            self.sampler.start(start);
        }
        let sampler = &self.sampler;
        let step = BatchRows::of(batch, |seq, input| match input {
            InputToken::Id(id) => id,
            // A row that failed has no token; its sequence ends, and what it computes is dropped.
            InputToken::LastSampled => sampler.last_sampled(seq.slot).unwrap_or(TokenId(0)),
        });
        let items: Vec<Vec<AttendItem>> = self.attend_items(&step.seqs);
        self.counters.iter().for_each(OpCounters::reset);
        let shared = Step {
            ops: &self.ops,
            kernels: &self.kernels,
            weights: &self.weights,
            work: &self.work,
            kv: &self.kv,
            rope: &self.rope,
            counters: &self.counters,
            attend_counters: &self.attend_counters,
            threads: self.pool.threads(),
            rows: &step.rows,
            seqs: &step.seqs,
            logit_rows: &step.logit_rows,
            attend_items: &items,
        };
        let (stride, vocab_size) = (self.work.strides.logits, self.vocab_size);
        // SAFETY: a thread gets here behind the step's last barrier, from where on logits are only read.
        let logits =
            |row: &SampleRow| unsafe { shared.work.logits.slice::<f32>(row.logit_row as usize * stride, vocab_size) };
        let sampling = self.sampler.begin(rows);
        self.pool.run_step(&|thread, barrier| {
            shared.run(thread, barrier);
            sampling.run(thread, logits);
        });
        let sampled = sampling.finish();
        self.last = step;
        StepOutput { sampled }
    }

    /// The work list of every `Attend`, longest first. Layers are mostly alike: a list is made once per geometry.
    fn attend_items(&self, seqs: &[SeqRows]) -> Vec<Vec<AttendItem>> {
        let mut lists: Vec<Vec<AttendItem>> = Vec::with_capacity(self.ops.len());
        let mut last: Option<(&AttendOp, usize)> = None;
        for (index, op) in self.ops.iter().enumerate() {
            let PlannedOp::Attend(op) = op else {
                lists.push(Vec::new());
                continue;
            };
            let alike = |other: &AttendOp| {
                (other.num_heads, other.num_kv_heads, other.window) == (op.num_heads, op.num_kv_heads, op.window)
            };
            let list = match last {
                Some((other, at)) if alike(other) => lists[at].clone(),
                _ => attend_list(seqs, op, self.pool.threads()),
            };
            last = Some((op, index));
            lists.push(list);
        }
        lists
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        let threads = self.pool.threads();
        format!("cpu ({}, {threads} thread{})", self.path.name(), if threads == 1 { "" } else { "s" })
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weights_bytes: self.weights.bytes(),
            kv_arena_bytes: self.kv.data.bytes(),
            workspace_bytes: self.work.bytes() + self.rope.iter().map(RopeValues::bytes).sum::<u64>(),
        }
    }

    fn limits(&self) -> &Limits {
        self.queue.order.limits()
    }

    fn steps_in_flight_max(&self) -> usize {
        self.queue.order.steps_max()
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        self.queue.submit(batch)
    }

    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        self.queue.sample(rows)
    }

    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        let QueuedStep { batch, samples } = self.queue.collect()?;
        let output = self.execute(&batch, &samples);
        self.queue.settle(|copy| self.kv.copy(copy));
        Ok(output)
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        self.queue.copy_blocks(copies, |copy| self.kv.copy(copy))
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        self.queue.order.read(checkpoint)?;
        self.read_checkpoint(checkpoint)
    }

    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError> {
        self.queue.order.write(batch)?;
        self.write_checkpoint(batch, checkpoint, values)
    }
}
