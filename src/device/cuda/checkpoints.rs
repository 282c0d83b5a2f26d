//! Reading and feeding the device at the places where devices are compared.

use half::f16;

use crate::device::quant::{cached_f16, quantise_head};
use crate::device::{Batch, BatchSeq, Checkpoint, Device, DeviceError, KvCacheDType};

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

/// One key or value of one KV head, in bytes from the arena's start.
struct CachedHead {
    elements: u64,
    /// Of an int8 cache.
    scale: u64,
}

impl CudaDevice {
    pub(super) fn read_checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        if let Checkpoint::Keys { layer, seq } | Checkpoint::Values { layer, seq } = checkpoint {
            let missing = || DeviceError::NoCheckpoint(checkpoint);
            let seq = self.last.seqs.get(seq as usize).ok_or_else(missing)?;
            let positions = seq.position_start as usize + seq.tokens.len();
            let (mut out, buffer) = (Vec::new(), &self.plan.kv.buffer);
            self.each_cached(checkpoint, layer, seq, positions, |head, len| {
                match self.limits().kv_cache_dtype {
                    KvCacheDType::F16 => {
                        let bits: Vec<u16> = buffer.download(head.elements, len)?;
                        out.extend(bits.into_iter().map(|bits| f16::from_bits(bits).to_f32()));
                    }
                    KvCacheDType::Int8 => {
                        let (integers, scale): (Vec<i8>, Vec<f32>) =
                            (buffer.download(head.elements, len)?, buffer.download(head.scale, 1)?);
                        out.extend(integers.into_iter().map(|q| f32::from(q) * scale[0]));
                    }
                }
                Ok(())
            })?;
            return Ok(out);
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
            let missing = || DeviceError::NoCheckpoint(checkpoint);
            let seq = batch.seqs.get(seq as usize).ok_or_else(missing)?;
            let kv = self.kv_layer(checkpoint, layer)?;
            let row_len = (kv.kv_heads * kv.head_dim) as usize;
            let positions = values.len() / row_len.max(1);
            let room = seq.block_table.len() * self.limits().block_tokens as usize;
            expect_rows(checkpoint, row_len, room * row_len, values.len())?;
            let (mut at, buffer) = (0, &self.plan.kv.buffer);
            return self.each_cached(checkpoint, layer, seq, positions, |head, len| {
                let x = &values[at..at + len];
                at += len;
                match self.limits().kv_cache_dtype {
                    KvCacheDType::F16 => {
                        let bits: Vec<u16> = x.iter().map(|x| cached_f16(*x).to_bits()).collect();
                        buffer.upload(head.elements, &bits)
                    }
                    KvCacheDType::Int8 => {
                        let mut integers = vec![0; len];
                        let scale = quantise_head(x, &mut integers);
                        buffer.upload(head.elements, &integers)?;
                        buffer.upload(head.scale, &[scale])
                    }
                }
            });
        }
        let buffer = self.row_buffer(checkpoint, 0)?;
        let rows = match checkpoint {
            Checkpoint::Logits => batch.num_logit_rows(),
            _ => batch.num_rows(),
        };
        expect_rows(checkpoint, buffer.cols, rows * buffer.cols, values.len())?;
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
            0 => Err(DeviceError::NoCheckpoint(checkpoint)),
            _ => Ok(buffer),
        }
    }

    fn kv_layer(&self, checkpoint: Checkpoint, layer: u32) -> Result<super::plan::KvLayer, DeviceError> {
        let layer = self.plan.kv.layers.get(layer as usize).copied().flatten();
        layer.ok_or(DeviceError::NoCheckpoint(checkpoint))
    }

    /// Calls `each` with the place and the dimensions of every head of every position, `[position][kv head]`.
    fn each_cached(
        &self,
        checkpoint: Checkpoint,
        layer: u32,
        seq: &BatchSeq,
        positions: usize,
        mut each: impl FnMut(CachedHead, usize) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let kv = self.kv_layer(checkpoint, layer)?;
        let (dtype, block_tokens) = (self.limits().kv_cache_dtype, self.limits().block_tokens as usize);
        let plane_bytes = block_tokens as u64 * dtype.head_bytes(kv.head_dim);
        let (head_bytes, scale_bytes) = match dtype {
            KvCacheDType::F16 => (2 * u64::from(kv.head_dim), 0),
            KvCacheDType::Int8 => (u64::from(kv.head_dim), size_of::<f32>() as u64),
        };
        let part = u64::from(matches!(checkpoint, Checkpoint::Values { .. }));
        for position in 0..positions {
            let block = seq.block_table[position / block_tokens];
            for head in 0..u64::from(kv.kv_heads) {
                let plane =
                    u64::from(block.0) * self.plan.kv.block_stride + kv.offset + (2 * head + part) * plane_bytes;
                let token = (position % block_tokens) as u64;
                let scales = plane + block_tokens as u64 * head_bytes;
                let place = CachedHead { elements: plane + token * head_bytes, scale: scales + token * scale_bytes };
                each(place, kv.head_dim as usize)?;
            }
        }
        Ok(())
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
