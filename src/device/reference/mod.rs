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

use std::collections::VecDeque;

use crate::ids::TokenId;
use crate::model::{Program, StageOp};
use crate::weights::TensorSource;

use super::sampler::HostSampler;
use super::{Batch, BlockCopy, Checkpoint, Device, DeviceError, InputToken, Limits, MemoryUse, SampleRow, StepOutput};

use cache::{Cache, Part};
use ops::Op;
use step::{Machine, Rows, StepRow, StepRows, Work};

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
    limits: Limits,
    vocab_size: u32,
    ops: Vec<Op>,
    machine: Machine,
    sampler: HostSampler,
    memory: MemoryUse,
    /// Submitted steps; a step runs when it is collected, so that what depends on pipelining is exercised.
    queue: VecDeque<Queued>,
    steps_in_flight_max: usize,
    /// The last collected step.
    last: StepRows,
}

#[derive(Debug)]
enum Queued {
    Step { batch: Batch, samples: Vec<SampleRow> },
    Copy(Vec<BlockCopy>),
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
        let require = |subject: &str, holds: bool, expected: &str, found: u32| match holds {
            true => Ok(()),
            false => Err(DeviceError::Unsupported {
                subject: subject.into(),
                expected: expected.into(),
                found: found.to_string(),
            }),
        };
        let block_tokens = limits.block_tokens;
        require("block_tokens", block_tokens > 0 && block_tokens.is_multiple_of(16), "a multiple of 16", block_tokens)?;
        require("threads", limits.threads > 0, "at least 1", limits.threads)?;
        let ops = Op::load_all(program, weights, mode)?;
        let cache = Cache::new(program, limits)?;
        let memory = MemoryUse {
            weights_bytes: ops.iter().map(Op::bytes).sum(),
            kv_arena_bytes: cache.bytes(),
            workspace_bytes: workspace_bytes(program, limits),
        };
        Ok(ReferenceDevice {
            mode,
            limits: limits.clone(),
            vocab_size: program.vocab_size,
            ops,
            machine: Machine {
                work: Work::default(),
                cache,
                rope_tables: program.rope_tables.clone(),
                threads: limits.threads as usize,
            },
            sampler: HostSampler::new(limits.slots_max, program.vocab_size),
            memory,
            queue: VecDeque::new(),
            steps_in_flight_max: 1,
            last: StepRows::default(),
        })
    }

    /// Accepts `steps` steps before the first is collected (at least 1): how the engine's pipelining is tested.
    pub fn with_steps_in_flight(mut self, steps: usize) -> ReferenceDevice {
        self.steps_in_flight_max = steps.max(1);
        self
    }

    fn execute(&mut self, batch: &Batch) {
        for start in &batch.starts {
            self.sampler.start(start);
        }
        let mut step = StepRows::default();
        for (index, seq) in batch.seqs.iter().enumerate() {
            let first = step.rows.len();
            let start = seq.position_start as usize;
            for (i, token) in seq.tokens.iter().enumerate() {
                let token = match token {
                    InputToken::Id(id) => *id,
                    // A row that failed has no token; its sequence ends, and what it computes is dropped.
                    InputToken::LastSampled => self.sampler.last_sampled(seq.slot).unwrap_or(TokenId(0)),
                };
                step.rows.push(StepRow { seq: index, position: start + i, token });
            }
            step.logit_rows.extend(seq.logit_rows.iter().map(|&row| first + row as usize));
            step.seqs.push((seq.block_table.clone(), start + seq.tokens.len()));
        }
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
        &self.limits
    }

    fn steps_in_flight_max(&self) -> usize {
        self.steps_in_flight_max
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        batch.check(&self.limits, self.vocab_size)?;
        let in_flight = self.queue.iter().filter(|queued| matches!(queued, Queued::Step { .. })).count();
        if in_flight >= self.steps_in_flight_max {
            let limit = self.steps_in_flight_max as u64;
            return Err(DeviceError::Limit { what: "steps in flight", limit, asked: in_flight as u64 + 1 });
        }
        self.queue.push_back(Queued::Step { batch: batch.clone(), samples: Vec::new() });
        Ok(())
    }

    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        let Some(Queued::Step { batch, samples }) = self.queue.back_mut() else {
            return Err(DeviceError::NoCheckpoint("Logits: no step was submitted to sample from".into()));
        };
        let limit = (batch.num_logit_rows() as u64).saturating_sub(1);
        if let Some(row) = rows.iter().find(|row| row.logit_row as usize >= batch.num_logit_rows()) {
            return Err(DeviceError::Limit { what: "sampled logit row", limit, asked: row.logit_row.into() });
        }
        *samples = rows.to_vec();
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        while let Some(queued) = self.queue.pop_front() {
            match queued {
                Queued::Copy(copies) => copies.iter().for_each(|copy| self.machine.cache.copy(copy)),
                Queued::Step { batch, samples } => {
                    self.execute(&batch);
                    let logits = &self.machine.work.logits;
                    let sampler = &mut self.sampler;
                    let sample = |row: &SampleRow| sampler.sample(&logits[row.logit_row as usize], row);
                    return Ok(StepOutput { sampled: samples.iter().map(sample).collect() });
                }
            }
        }
        Ok(StepOutput::default())
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        let num_blocks = self.limits.num_blocks;
        if let Some(block) = copies.iter().flat_map(|c| [c.from, c.to]).find(|block| block.0 >= num_blocks) {
            let limit = u64::from(num_blocks).saturating_sub(1);
            return Err(DeviceError::Limit { what: "block id", limit, asked: block.0.into() });
        }
        self.queue.push_back(Queued::Copy(copies.to_vec()));
        Ok(())
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        let missing = || DeviceError::NoCheckpoint(format!("{checkpoint:?}"));
        if let Some((part, layer, seq)) = cache_part(checkpoint) {
            let (blocks, positions) = self.last.seqs.get(seq).ok_or_else(missing)?;
            self.machine.cache.row_len(layer).ok_or_else(missing)?;
            return Ok((0..*positions).flat_map(|p| self.machine.cache.read(part, layer, blocks, p)).collect());
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
        batch.check(&self.limits, self.vocab_size)?;
        let missing = || DeviceError::NoCheckpoint(format!("{checkpoint:?}"));
        let unsupported = |expected: String| DeviceError::Unsupported {
            subject: format!("values for {checkpoint:?}"),
            expected,
            found: values.len().to_string(),
        };
        if !self.queue.is_empty() {
            return Err(DeviceError::Limit {
                what: "steps in flight while a checkpoint is written",
                limit: 0,
                asked: 1,
            });
        }
        if let Some((part, layer, seq)) = cache_part(checkpoint) {
            let seq = batch.seqs.get(seq).ok_or_else(missing)?;
            let row_len = self.machine.cache.row_len(layer).ok_or_else(missing)?;
            let room = seq.block_table.len() * self.limits.block_tokens as usize;
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
