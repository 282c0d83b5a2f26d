//! Reading and feeding the device at the places where devices are compared.
#![allow(unsafe_code)]

use crate::device::{Batch, Checkpoint, DeviceError};

use super::CpuDevice;
use super::plan::{Input, Output, PlannedLinear, PlannedOp, padded};
use super::shared::Shared;

impl CpuDevice {
    pub(super) fn read_checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        match checkpoint {
            Checkpoint::Keys { layer, seq } | Checkpoint::Values { layer, seq } => {
                let missing = || DeviceError::NoCheckpoint(checkpoint);
                let kv = self.kv.layers.get(layer as usize).ok_or_else(missing)?;
                let seq = self.last.seqs.get(seq as usize).ok_or_else(missing)?;
                let positions = seq.positions().len();
                let order = self.cache_order(layer as usize, kv.head_dim, checkpoint);
                let mut out = vec![0.0; positions * kv.num_kv_heads * kv.head_dim];
                // A layer without attention keeps nothing.
                for (i, head) in out.chunks_exact_mut(kv.head_dim.max(1)).enumerate() {
                    let slot = self.kv.slot(kv, i % kv.num_kv_heads, &seq.block_table, i / kv.num_kv_heads);
                    for (i, &dim) in order.iter().enumerate() {
                        // SAFETY: no step is running.
                        head[dim] = unsafe {
                            match checkpoint {
                                Checkpoint::Values { .. } => slot.value(self.kv.dtype, i),
                                _ => slot.key(self.kv.dtype, i),
                            }
                        };
                    }
                }
                Ok(out)
            }
            _ => {
                let (buffer, stride, len) = self.row_buffer(checkpoint)?;
                let rows = match checkpoint {
                    Checkpoint::Logits => self.last.logit_rows.len(),
                    _ => self.last.rows.len(),
                };
                let order = self.row_order(checkpoint, len);
                let mut out = Vec::with_capacity(rows * len);
                for row in 0..rows {
                    // SAFETY: no step is running.
                    let values = unsafe { buffer.slice::<f32>(row * stride, stride) };
                    let start = out.len();
                    out.resize(start + len, 0.0);
                    for (i, &dim) in order.iter().enumerate() {
                        out[start + dim] = values[i];
                    }
                }
                Ok(out)
            }
        }
    }

    pub(super) fn write_checkpoint(
        &mut self,
        batch: &Batch,
        checkpoint: Checkpoint,
        values: &[f32],
    ) -> Result<(), DeviceError> {
        match checkpoint {
            Checkpoint::Keys { layer, seq } | Checkpoint::Values { layer, seq } => {
                let missing = || DeviceError::NoCheckpoint(checkpoint);
                let kv = *self.kv.layers.get(layer as usize).ok_or_else(missing)?;
                let seq = batch.seqs.get(seq as usize).ok_or_else(missing)?;
                let order = self.cache_order(layer as usize, kv.head_dim, checkpoint);
                let room = seq.block_table.len() * self.kv.block_tokens * kv.num_kv_heads * kv.head_dim;
                expect_rows(checkpoint, kv.num_kv_heads * kv.head_dim, room, values.len())?;
                let store = match checkpoint {
                    Checkpoint::Values { .. } => self.kernels.store_value(self.kv.dtype),
                    _ => self.kernels.store_key(self.kv.dtype),
                };
                let mut x = vec![0.0; padded(kv.head_dim)];
                for (i, head) in values.chunks_exact(kv.head_dim.max(1)).enumerate() {
                    x.iter_mut().zip(&order).for_each(|(x, &dim)| *x = head[dim]);
                    let slot = self.kv.slot(&kv, i % kv.num_kv_heads, &seq.block_table, i / kv.num_kv_heads);
                    // SAFETY: no step is running, `&mut self` keeps others out, and `prepare` checked the instruction set.
                    unsafe { store(&x, &slot) };
                }
                Ok(())
            }
            _ => {
                let (buffer, stride, len) = self.row_buffer(checkpoint)?;
                expect_rows(checkpoint, len, batch.num_rows() * len, values.len())?;
                let order = self.row_order(checkpoint, len);
                for (row, values) in values.chunks(len).enumerate() {
                    // SAFETY: as above.
                    let out = unsafe { buffer.slice_mut::<f32>(row * stride, stride) };
                    out.fill(0.0);
                    for (i, &dim) in order.iter().enumerate() {
                        out[i] = values[dim];
                    }
                }
                Ok(())
            }
        }
    }

    /// (buffer, stride, elements) of a checkpoint's rows.
    fn row_buffer(&self, checkpoint: Checkpoint) -> Result<(&Shared, usize, usize), DeviceError> {
        let work = &self.work;
        let linear = |find: &dyn Fn(&PlannedLinear) -> Option<usize>| {
            self.ops.iter().rev().find_map(|op| match op {
                PlannedOp::Linear(linear) => find(linear),
                PlannedOp::Embed(_) | PlannedOp::Attend(_) => None,
            })
        };
        let attend = self.ops.iter().rev().find_map(|op| match op {
            PlannedOp::Attend(op) => Some((op.num_heads * op.head_dim) as usize),
            _ => None,
        });
        let query = || {
            attend.or_else(|| {
                linear(&|l| match (&l.output, &l.input) {
                    (Output::Qkv(qkv), _) => Some(qkv.num_heads * qkv.head_dim),
                    (_, Input::Attend) => Some(l.cols),
                    _ => None,
                })
            })
        };
        let gated = || {
            linear(&|l| match (&l.output, &l.input) {
                (Output::Gated(_), _) => Some(l.out_len),
                (_, Input::Gated) => Some(l.cols),
                _ => None,
            })
        };
        let found = match checkpoint {
            Checkpoint::Residual => Some((&work.residual, work.strides.hidden, self.hidden_size)),
            Checkpoint::Delta => Some((&work.delta, work.strides.hidden, self.hidden_size)),
            Checkpoint::Query => query().map(|len| (&work.query, work.strides.query, len)),
            Checkpoint::AttendOutput => query().map(|len| (&work.attended, work.strides.query, len)),
            Checkpoint::GatedOutput => gated().map(|len| (&work.gated, work.strides.gated, len)),
            Checkpoint::Logits => linear(&|l| matches!(l.output, Output::Logits).then_some(l.out_len))
                .map(|len| (&work.logits, work.strides.logits, len)),
            Checkpoint::Keys { .. } | Checkpoint::Values { .. } => None,
        };
        found.ok_or(DeviceError::NoCheckpoint(checkpoint))
    }

    /// The model's element at each device element of a row.
    fn row_order(&self, checkpoint: Checkpoint, len: usize) -> Vec<usize> {
        match (checkpoint, self.head_order(None)) {
            (Checkpoint::Query, Some(order)) => {
                (0..len).map(|i| i / order.len() * order.len() + order[i % order.len()]).collect()
            }
            _ => (0..len).collect(),
        }
    }

    fn cache_order(&self, layer: usize, head_dim: usize, checkpoint: Checkpoint) -> Vec<usize> {
        let order = match checkpoint {
            Checkpoint::Keys { .. } => self.head_order(Some(layer)),
            _ => None,
        };
        order.unwrap_or_else(|| (0..head_dim).collect())
    }

    /// The order of head dimensions of a layer's (or the last) `Qkv`; programs without one keep the model's.
    fn head_order(&self, layer: Option<usize>) -> Option<Vec<usize>> {
        self.ops.iter().rev().find_map(|op| match op {
            PlannedOp::Linear(linear) if layer.is_none_or(|layer| layer == linear.layer) => match &linear.output {
                Output::Qkv(qkv) => Some(qkv.order.clone()),
                _ => None,
            },
            _ => None,
        })
    }
}

/// Whole rows of `len` values, at most `room` values.
fn expect_rows(checkpoint: Checkpoint, len: usize, room: usize, found: usize) -> Result<(), DeviceError> {
    if found <= room && found.is_multiple_of(len.max(1)) {
        return Ok(());
    }
    Err(DeviceError::Unsupported {
        subject: format!("values for {checkpoint:?}"),
        expected: format!("whole rows of {len}, at most {room}"),
        found: found.to_string(),
    })
}
