//! Reading and feeding the device at the places where devices are compared.

use half::f16;

use crate::device::{Batch, BatchSeq, Checkpoint, DeviceError};

use super::CudaDevice;
use super::abi::*;
use super::plan::with_cols;

/// Rows of f32 in the workspace.
struct RowBuffer {
    address: u64,
    /// Elements from one row to the next, and elements that count.
    stride: usize,
    cols: usize,
}

impl CudaDevice {
    pub(super) fn read_checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        if self.open.is_some() || !self.queue.is_empty() {
            return Err(DeviceError::NoCheckpoint(format!("{checkpoint:?}: a later step is in flight")));
        }
        if let Checkpoint::Keys { layer, seq } | Checkpoint::Values { layer, seq } = checkpoint {
            let missing = || DeviceError::NoCheckpoint(format!("{checkpoint:?}"));
            let seq = self.last.seqs.get(seq as usize).ok_or_else(missing)?;
            let positions = seq.position_start as usize + seq.tokens.len();
            let mut out = Vec::new();
            self.each_cached(checkpoint, layer, seq, positions, |offset, len| {
                out.extend(self.plan.kv.buffer.download::<u16>(offset, len)?);
                Ok(())
            })?;
            return Ok(out.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect());
        }
        let buffer = self.row_buffer(checkpoint, self.plan.work.residual_last)?;
        let rows = match checkpoint {
            Checkpoint::Logits => self.last.num_logit_rows(),
            _ => self.last.num_rows(),
        };
        let work = &self.plan.work.buffer;
        let all: Vec<f32> = work.download(buffer.address - work.address(), rows * buffer.stride)?;
        Ok(all.chunks(buffer.stride.max(1)).flat_map(|row| &row[..buffer.cols]).copied().collect())
    }

    pub(super) fn write_checkpoint(
        &mut self,
        batch: &Batch,
        checkpoint: Checkpoint,
        values: &[f32],
    ) -> Result<(), DeviceError> {
        if let Checkpoint::Keys { layer, seq } | Checkpoint::Values { layer, seq } = checkpoint {
            let missing = || DeviceError::NoCheckpoint(format!("{checkpoint:?}"));
            let seq = batch.seqs.get(seq as usize).ok_or_else(missing)?;
            let kv = self.kv_layer(checkpoint, layer)?;
            let row_len = (kv.kv_heads * kv.head_dim) as usize;
            let positions = values.len() / row_len.max(1);
            let room = seq.block_table.len() * self.limits.block_tokens as usize;
            expect_at_most(checkpoint, room, positions)?;
            let bits: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            let mut at = 0;
            return self.each_cached(checkpoint, layer, seq, positions, |offset, len| {
                self.plan.kv.buffer.upload(offset, &bits[at..at + len])?;
                at += len;
                Ok(())
            });
        }
        let buffer = self.row_buffer(checkpoint, 0)?;
        let rows = match checkpoint {
            Checkpoint::Logits => batch.num_logit_rows(),
            _ => batch.num_rows(),
        };
        expect_at_most(checkpoint, rows * buffer.cols, values.len())?;
        let work = &self.plan.work;
        for (row, values) in values.chunks(buffer.cols.max(1)).enumerate() {
            work.buffer.upload(buffer.address - work.buffer.address() + 4 * (row * buffer.stride) as u64, values)?;
        }
        let quantised = match checkpoint {
            Checkpoint::AttendOutput => with_cols(work.attended, work.attended_cols),
            Checkpoint::GatedOutput => with_cols(work.gated, work.gated_cols),
            _ => return Ok(()),
        };
        let params = KilnQuantiseParams { rows: quantised, cols: buffer.cols as u32, num_rows: rows as u32 };
        self.gpu.launch(&self.kernels.quantise, [rows as u32, 1, 1], 256, &params)
    }

    /// `residual`: which of the two.
    fn row_buffer(&self, checkpoint: Checkpoint, residual: usize) -> Result<RowBuffer, DeviceError> {
        let work = &self.plan.work;
        let plain = |address, cols: usize| RowBuffer { address, stride: cols, cols };
        let activations = |rows: KilnActivations, cols: u32| RowBuffer {
            address: rows.values,
            stride: cols.next_multiple_of(KILN_BLOCK) as usize,
            cols: cols as usize,
        };
        let buffer = match checkpoint {
            Checkpoint::Residual => plain(work.residuals[residual], self.hidden_size),
            Checkpoint::Delta => plain(work.delta, self.hidden_size),
            Checkpoint::Query => {
                RowBuffer { address: work.qkv, stride: work.qkv_cols as usize, cols: work.query_cols as usize }
            }
            Checkpoint::AttendOutput => activations(work.attended, work.attended_cols),
            Checkpoint::GatedOutput => activations(work.gated, work.gated_cols),
            Checkpoint::Logits => plain(work.logits, self.vocab_size),
            Checkpoint::Keys { .. } | Checkpoint::Values { .. } => plain(0, 0),
        };
        match buffer.cols {
            0 => Err(DeviceError::NoCheckpoint(format!("{checkpoint:?}"))),
            _ => Ok(buffer),
        }
    }

    fn kv_layer(&self, checkpoint: Checkpoint, layer: u32) -> Result<super::plan::KvLayer, DeviceError> {
        let layer = self.plan.kv.layers.get(layer as usize).copied().flatten();
        layer.ok_or_else(|| DeviceError::NoCheckpoint(format!("{checkpoint:?}")))
    }

    /// Calls `each` with byte offset and length in elements of every run of one head of one position, `[position][kv head]`.
    fn each_cached(
        &self,
        checkpoint: Checkpoint,
        layer: u32,
        seq: &BatchSeq,
        positions: usize,
        mut each: impl FnMut(u64, usize) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let kv = self.kv_layer(checkpoint, layer)?;
        let block_tokens = self.limits.block_tokens as usize;
        let part = u64::from(matches!(checkpoint, Checkpoint::Values { .. }));
        for position in 0..positions {
            let block = seq.block_table[position / block_tokens];
            for head in 0..u64::from(kv.kv_heads) {
                let token = (2 * head + part) * block_tokens as u64 + (position % block_tokens) as u64;
                let element =
                    u64::from(block.0) * self.plan.kv.block_stride + kv.offset + token * u64::from(kv.head_dim);
                each(2 * element, kv.head_dim as usize)?;
            }
        }
        Ok(())
    }
}

fn expect_at_most(checkpoint: Checkpoint, room: usize, found: usize) -> Result<(), DeviceError> {
    if found <= room {
        return Ok(());
    }
    Err(DeviceError::Unsupported {
        subject: format!("{checkpoint:?}"),
        expected: format!("at most {room} values"),
        found: found.to_string(),
    })
}
