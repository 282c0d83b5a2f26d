//! The fast device for CPUs: repacked weights, integer dot products, a pool of threads with one barrier per stage.
//!
//! `plan` makes a program ready, `step` runs it, `linear`, `attend` and `cache` are the kernels, compiled once per
//! instruction set by `kernels`.
#![allow(unsafe_code)]

mod attend;
mod cache;
mod checkpoints;
mod kernels;
mod linear;
mod panel;
mod plan;
mod pool;
mod prepare;
mod rows;
mod shared;
mod simd;
mod step;
mod tile;
mod worklist;

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use crate::ids::TokenId;
use crate::model::{AttendOp, Program};
use crate::weights::TensorSource;

use super::sampler::{HostSampler, SampleRow};
use super::{Batch, BlockCopy, Checkpoint, Device, DeviceError, InputToken, Limits, MemoryUse, StepOutput};

pub use kernels::IsaPath;

use cache::KvArena;
use plan::PlannedOp;
use pool::{Barrier, Pool};
use shared::Shared;
use step::{AttendItem, OpCounters, RopeValues, Step, StepRow, StepSeq, Workspace};
use worklist::{PARTIALS_MAX, attend_list};

/// The device.
#[derive(Debug)]
pub struct CpuDevice {
    limits: Limits,
    path: IsaPath,
    kernels: kernels::Kernels,
    ops: Vec<PlannedOp>,
    weights: Shared,
    work: Workspace,
    kv: KvArena,
    rope: Vec<RopeValues>,
    barrier: Barrier,
    counters: Vec<OpCounters>,
    attend_counters: Vec<AtomicUsize>,
    pool: Pool,
    sampler: HostSampler,
    vocab_size: usize,
    hidden_size: usize,
    /// Submitted steps; a step runs when it is collected, on the caller's thread and the pool's.
    queue: VecDeque<Queued>,
    /// The last collected step, for checkpoints.
    last: LastStep,
}

#[derive(Debug)]
enum Queued {
    Step { batch: Batch, samples: Vec<SampleRow> },
    Copy(Vec<BlockCopy>),
}

#[derive(Debug, Default)]
struct LastStep {
    rows: Vec<StepRow>,
    seqs: Vec<StepSeq>,
    logit_rows: Vec<usize>,
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
        prepare::check_limits(limits)?;
        if !IsaPath::available().contains(&path) {
            return Err(DeviceError::Unsupported {
                subject: "instruction set".into(),
                expected: format!("one of {:?}", IsaPath::available()),
                found: path.name().into(),
            });
        }
        let threads = limits.threads as usize;
        let (ops, weights) = plan::plan(program, weights, threads)?;
        let kv = KvArena::new(program, limits)?;
        let work = prepare::workspace(program, &ops, limits)?;
        let pool = Pool::new(threads).map_err(|e| DeviceError::Unsupported {
            subject: "threads".into(),
            expected: format!("{threads} from the system"),
            found: e.to_string(),
        })?;
        Ok(CpuDevice {
            limits: limits.clone(),
            path,
            kernels: path.kernels(),
            counters: ops.iter().map(|_| OpCounters::new(threads)).collect(),
            attend_counters: (0..PARTIALS_MAX).map(|_| AtomicUsize::new(0)).collect(),
            ops,
            weights,
            work,
            kv,
            rope: prepare::rope_values(program, limits),
            barrier: Barrier::new(limits.threads),
            pool,
            sampler: HostSampler::new(limits.slots_max, program.vocab_size).with_threads(limits.threads),
            vocab_size: program.vocab_size as usize,
            hidden_size: program.hidden_size as usize,
            queue: VecDeque::new(),
            last: LastStep::default(),
        })
    }

    /// How often all threads have met at the barrier since `prepare`.
    pub fn barrier_crossings(&self) -> usize {
        self.barrier.crossings()
    }

    /// Runs a step and chooses from its rows.
    fn execute(&mut self, batch: &Batch, rows: &[SampleRow]) -> Result<StepOutput, DeviceError> {
        for start in &batch.starts {
            self.sampler.start(start);
        }
        let step = self.flatten(batch)?;
        let items: Vec<Vec<AttendItem>> = self.attend_items(&step);
        self.counters.iter().for_each(OpCounters::reset);
        let shared = Step {
            ops: &self.ops,
            kernels: &self.kernels,
            weights: &self.weights,
            work: &self.work,
            kv: &self.kv,
            rope: &self.rope,
            barrier: &self.barrier,
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
        self.pool.run(&|thread| {
            shared.run(thread);
            sampling.run(thread, logits);
        });
        let sampled = sampling.finish();
        self.last = step;
        Ok(StepOutput { sampled })
    }

    fn flatten(&self, batch: &Batch) -> Result<LastStep, DeviceError> {
        let mut step = LastStep::default();
        for (index, seq) in batch.seqs.iter().enumerate() {
            let row_start = step.rows.len();
            for (i, token) in seq.tokens.iter().enumerate() {
                let token = match token {
                    InputToken::Id(id) => *id,
                    // A row that failed has no token; its sequence ends, and what it computes is dropped.
                    InputToken::LastSampled => self.sampler.last_sampled(seq.slot).unwrap_or(TokenId(0)),
                };
                step.rows.push(StepRow { seq: index, position: seq.position_start as usize + i, token });
            }
            step.logit_rows.extend(seq.logit_rows.iter().map(|&row| row_start + row as usize));
            step.seqs.push(StepSeq {
                row_start,
                rows: seq.tokens.len(),
                position_start: seq.position_start as usize,
                block_table: seq.block_table.clone(),
            });
        }
        Ok(step)
    }

    /// The work list of every `Attend`, longest first. Layers are mostly alike: a list is made once per geometry.
    fn attend_items(&self, step: &LastStep) -> Vec<Vec<AttendItem>> {
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
                _ => attend_list(step, op, self.pool.threads()),
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
        &self.limits
    }

    fn steps_in_flight_max(&self) -> usize {
        1
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        batch.check(&self.limits, self.vocab_size as u32)?;
        self.queue.push_back(Queued::Step { batch: batch.clone(), samples: Vec::new() });
        Ok(())
    }

    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        if let Some(Queued::Step { samples, .. }) = self.queue.back_mut() {
            *samples = rows.to_vec();
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        loop {
            match self.queue.pop_front() {
                None => return Ok(StepOutput::default()),
                Some(Queued::Copy(copies)) => self.copy_now(&copies),
                Some(Queued::Step { batch, samples }) => return self.execute(&batch, &samples),
            }
        }
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        let num_blocks = self.limits.num_blocks;
        if let Some(bad) = copies.iter().flat_map(|c| [c.from, c.to]).find(|b| b.0 >= num_blocks) {
            return Err(DeviceError::Limit { what: "block id", limit: u64::from(num_blocks) - 1, asked: bad.0.into() });
        }
        self.queue.push_back(Queued::Copy(copies.to_vec()));
        Ok(())
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        self.read_checkpoint(checkpoint)
    }

    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError> {
        self.write_checkpoint(batch, checkpoint, values)
    }
}
