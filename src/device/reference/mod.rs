//! The oracle of all tests: naive, slow, and meant to be obviously right.
//!
//! [`Mode::F32`] is the model as mathematics has it: weights dequantised, sums in f64, f32 between stages.
//! [`Mode::Int8`] is the arithmetic that every other device must follow: quantised weights meet activations quantised by
//! [`super::quant`], and linears sum in the one fixed order, so that equal inputs give equal bits on all devices. Norms,
//! RoPE, activations and attention are computed in f64 in both modes; devices match them within tolerances.

mod cache;
mod linear;
mod ops;
mod rows;
mod step;

use crate::ids::TokenId;
use crate::model::{Program, StageOp};
use crate::weights::TensorSource;

use super::host::{BatchRows, CallOrder, HostMemory, HostQueue, QueuedStep, check_limits};
use super::sampler::HostSampler;
use super::{
    Batch, BlockCopy, Checkpoint, Device, DeviceError, InputToken, Limits, MemoryUse, Purpose, SampleRow, StepOutput,
};

use cache::{Cache, Part};
use ops::Op;
use step::{Machine, Rows, Work};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Dequantised weights, f64 sums.
    F32,
    /// Int8 activations wherever the weights are quantised, in the order that all devices share.
    Int8,
}

/// The device.
#[derive(Debug)]
pub struct ReferenceDevice {
    mode: Mode,
    ops: Vec<Op>,
    machine: Machine,
    sampler: HostSampler,
    memory: MemoryUse,
    queue: HostQueue,
    /// The last collected step.
    last: BatchRows<TokenId>,
}

impl ReferenceDevice {
    /// Copies everything that `program` needs out of `weights`.
    ///
    /// # Errors
    /// Tensors that are not as the program says, limits out of range, no memory for the cache.
    pub fn prepare(
        program: &Program,
        weights: &dyn TensorSource,
        limits: &Limits,
        mode: Mode,
    ) -> Result<ReferenceDevice, DeviceError> {
        check_limits(limits)?;
        let mut host = HostMemory::of_system();
        host.take(Purpose::Weights, ops::bytes_of(program, mode))?;
        let ops = Op::load_all(program, weights, mode)?;
        let cache = Cache::new(program, limits, &mut host)?;
        host.take(Purpose::Slots, HostSampler::slot_bytes(limits.slots_max))?;
        host.take(Purpose::Workspace, workspace_bytes(program, limits))?;
        let memory = MemoryUse {
            weights_bytes: ops.iter().map(Op::bytes).sum(),
            kv_arena_bytes: cache.bytes(),
            workspace_bytes: workspace_bytes(program, limits),
        };
        Ok(ReferenceDevice {
            mode,
            ops,
            machine: Machine {
                work: Work::default(),
                cache,
                rope_tables: program.rope_tables.clone(),
                threads: limits.threads as usize,
            },
            sampler: HostSampler::new(limits.slots_max, program.vocab_size),
            memory,
            queue: HostQueue::new(CallOrder::new(limits, program.vocab_size, 1)),
            last: BatchRows::default(),
        })
    }

    /// Accepts `steps` steps before the first is collected (at least 1): how the engine's pipelining is tested.
    pub fn with_steps_in_flight(mut self, steps: usize) -> ReferenceDevice {
        let order = &self.queue.order;
        self.queue = HostQueue::new(CallOrder::new(order.limits(), order.vocab_size(), steps.max(1)));
        self
    }

    fn execute(&mut self, batch: &Batch) {
        for start in &batch.starts {
            self.sampler.start(start);
        }
        let sampler = &self.sampler;
        let step = BatchRows::of(batch, |seq, input| match input {
            InputToken::Id(id) => id,
            // A row that failed has no token; its sequence ends, and what it computes is dropped.
            InputToken::LastSampled => sampler.last_sampled(seq.slot).unwrap_or(TokenId(0)),
        });
        self.machine.run(&self.ops, &step);
        self.last = step;
    }

    fn work_rows(&mut self, checkpoint: Checkpoint) -> Option<&mut Rows> {
        let work = &mut self.machine.work;
        Some(match checkpoint {
            Checkpoint::Residual => &mut work.residual,
            Checkpoint::Delta => &mut work.delta,
            Checkpoint::Query => &mut work.query,
            Checkpoint::AttendOutput => &mut work.attended,
            Checkpoint::GatedOutput => &mut work.gated,
            Checkpoint::Logits => &mut work.logits,
            Checkpoint::Keys { .. } | Checkpoint::Values { .. } => return None,
        })
    }
}

/// The most that rows between stages take.
fn workspace_bytes(program: &Program, limits: &Limits) -> u64 {
    let widest = |op: &StageOp| match op {
        StageOp::Linear(op) => u64::from(op.rows().max(op.cols())),
        StageOp::Embed(op) => u64::from(op.table.cols),
        StageOp::Attend(op) => u64::from(op.num_heads) * u64::from(op.head_dim),
    };
    let row = program.ops.iter().map(widest).max().unwrap_or(0);
    // Residual, delta, query, attention's and the gate's rows; logits.
    let rows = 5 * u64::from(limits.step_rows_max) * row;
    4 * (rows + u64::from(limits.logit_rows_max) * u64::from(program.vocab_size))
}

/// Keys or values of a checkpoint, its layer and its sequence.
fn cache_part(checkpoint: Checkpoint) -> Option<(Part, u32, usize)> {
    match checkpoint {
        Checkpoint::Keys { layer, seq } => Some((Part::Keys, layer, seq as usize)),
        Checkpoint::Values { layer, seq } => Some((Part::Values, layer, seq as usize)),
        _ => None,
    }
}

impl Device for ReferenceDevice {
    fn name(&self) -> String {
        let mode = if self.mode == Mode::F32 { "f32" } else { "int8" };
        format!("reference ({mode})")
    }

    fn memory(&self) -> MemoryUse {
        self.memory
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
        self.execute(&batch);
        let (logits, sampler) = (&self.machine.work.logits, &self.sampler);
        let sample = |row: &SampleRow| sampler.sample(&logits[row.logit_row as usize], row);
        let sampled = samples.iter().map(sample).collect();
        self.queue.settle(|copy| self.machine.cache.copy(copy));
        Ok(StepOutput { sampled })
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        self.queue.copy_blocks(copies, |copy| self.machine.cache.copy(copy))
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        self.queue.order.read(checkpoint)?;
        let missing = || DeviceError::NoCheckpoint(checkpoint);
        if let Some((part, layer, seq)) = cache_part(checkpoint) {
            let seq = self.last.seqs.get(seq).ok_or_else(missing)?;
            self.machine.cache.row_len(layer).ok_or_else(missing)?;
            let read = |position| self.machine.cache.read(part, layer, &seq.block_table, position);
            return Ok(seq.positions().flat_map(read).collect());
        }
        let work = &self.machine.work;
        let rows = match checkpoint {
            Checkpoint::Residual => &work.residual,
            Checkpoint::Delta => &work.delta,
            Checkpoint::Query => &work.query,
            Checkpoint::AttendOutput => &work.attended,
            Checkpoint::GatedOutput => &work.gated,
            _ => &work.logits,
        };
        let expected = if checkpoint == Checkpoint::Logits { self.last.logit_rows.len() } else { self.last.rows.len() };
        if rows.len() == expected { Ok(rows.concat()) } else { Err(missing()) }
    }

    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError> {
        self.queue.order.write(batch)?;
        let missing = || DeviceError::NoCheckpoint(checkpoint);
        let unsupported = |expected: String| DeviceError::Unsupported {
            subject: format!("values for {checkpoint:?}"),
            expected,
            found: values.len().to_string(),
        };
        if let Some((part, layer, seq)) = cache_part(checkpoint) {
            let seq = batch.seqs.get(seq).ok_or_else(missing)?;
            let row_len = self.machine.cache.row_len(layer).ok_or_else(missing)?;
            let room = seq.block_table.len() * self.limits().block_tokens as usize;
            if !values.len().is_multiple_of(row_len) || values.len() / row_len > room {
                return Err(unsupported(format!("rows of {row_len}, at most {room}")));
            }
            for (position, row) in values.chunks_exact(row_len).enumerate() {
                self.machine.cache.write(part, layer, &seq.block_table, position, row);
            }
            return Ok(());
        }
        let num_rows = if checkpoint == Checkpoint::Logits { batch.num_logit_rows() } else { batch.num_rows() };
        if num_rows == 0 || !values.len().is_multiple_of(num_rows) || values.is_empty() {
            return Err(unsupported(format!("{num_rows} rows of equal length")));
        }
        let rows = values.chunks_exact(values.len() / num_rows).map(<[f32]>::to_vec).collect();
        *self.work_rows(checkpoint).ok_or_else(missing)? = rows;
        Ok(())
    }
}
