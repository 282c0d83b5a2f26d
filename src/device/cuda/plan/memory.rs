//! What steps work in: rows between stages, and the KV cache.

use std::sync::Arc;

use crate::device::cuda::abi::*;
use crate::device::cuda::driver::{DeviceBuffer, Gpu};
use crate::device::cuda::inputs::StepLayout;
use crate::device::{DeviceError, Limits, Purpose};
use crate::model::{Epilogue, KvShape, Program, Prologue, StageOp};

/// Everything that a step works in; allocated once, cleared once.
#[derive(Debug)]
pub struct Workspace {
    pub buffer: DeviceBuffer,
    /// Additions go from one to the other.
    pub residuals: [u64; 2],
    /// Which of them the program's last addition leaves.
    pub residual_last: usize,
    pub delta: u64,
    pub qkv: u64,
    pub logits: u64,
    pub normed: KilnActivations,
    pub attended: KilnActivations,
    pub gated: KilnActivations,
    pub parts: u64,
    pub counters: u64,
    /// Columns of the rows of `Query`, of one whole `qkv` row, of `AttendOutput` and of `GatedOutput`, in the last layer.
    pub query_cols: u32,
    pub qkv_cols: u32,
    pub attended_cols: u32,
    pub gated_cols: u32,
}

/// One layer's place in a cache block.
#[derive(Clone, Copy, Debug)]
pub struct KvLayer {
    /// Bytes from the block's start.
    pub offset: u64,
    pub kv_heads: u32,
    pub head_dim: u32,
}

/// The cache: `[block][layer]`, each layer as in `KilnCache`.
#[derive(Debug)]
pub struct KvArena {
    pub buffer: DeviceBuffer,
    /// Bytes from one block to the next.
    pub block_stride: u64,
    pub layers: Vec<Option<KvLayer>>,
}

impl KvArena {
    /// Allocates the arena of all layers.
    pub fn new(gpu: &Arc<Gpu>, program: &Program, limits: &Limits) -> Result<KvArena, DeviceError> {
        let mut block_stride = 0;
        let layer = |shape: Option<KvShape>| {
            let KvShape { num_kv_heads, head_dim } = shape?;
            let offset = block_stride;
            let token_bytes = 2 * u64::from(num_kv_heads) * limits.kv_cache_dtype.head_bytes(head_dim);
            block_stride += u64::from(limits.block_tokens) * token_bytes;
            Some(KvLayer { offset, kv_heads: num_kv_heads, head_dim })
        };
        let layers = program.kv_shapes().into_iter().map(layer).collect();
        let bytes = block_stride * u64::from(limits.num_blocks);
        let buffer = DeviceBuffer::zeroed(gpu, Purpose::KvArena, bytes)?;
        Ok(KvArena { buffer, block_stride, layers })
    }
}

impl Workspace {
    /// Largest widths over all ops, and those of the last layer for checkpoints.
    pub fn new(
        gpu: &Arc<Gpu>,
        program: &Program,
        limits: &Limits,
        layout: &StepLayout,
    ) -> Result<Workspace, DeviceError> {
        let (mut query_cols, mut qkv_cols, mut attended_cols, mut gated_cols) = (0, 0, 0, 0);
        let (mut qkv_max, mut attended_max, mut gated_max, mut normed_max) = (0, 0, 0, program.hidden_size);
        for op in &program.ops {
            match op {
                StageOp::Embed(_) => {}
                StageOp::Attend(op) => {
                    (query_cols, attended_cols) = (op.num_heads * op.head_dim, op.num_heads * op.head_dim);
                    qkv_cols = (op.num_heads + 2 * op.num_kv_heads) * op.head_dim;
                }
                StageOp::Linear(op) => {
                    match &op.epilogue {
                        Epilogue::Qkv(e) => {
                            query_cols = e.num_heads * e.head_dim;
                            qkv_cols = (e.num_heads + 2 * e.num_kv_heads) * e.head_dim;
                        }
                        Epilogue::Gated(_) => gated_cols = op.rows() / 2,
                        Epilogue::Delta | Epilogue::Logits => {}
                    }
                    match op.prologue {
                        Prologue::AddNorm { .. } => normed_max = normed_max.max(op.cols()),
                        Prologue::AttendOutput => attended_cols = op.cols(),
                        Prologue::GatedOutput => gated_cols = op.cols(),
                    }
                }
            }
            qkv_max = qkv_max.max(qkv_cols);
            attended_max = attended_max.max(attended_cols);
            gated_max = gated_max.max(gated_cols);
        }
        let (rows, logit_rows) = (u64::from(limits.step_rows_max), u64::from(limits.logit_rows_max));
        let mut bytes = 0;
        let mut take = |size: u64| {
            let at = bytes;
            bytes += size.next_multiple_of(256);
            at
        };
        let activation_offsets = |take: &mut dyn FnMut(u64) -> u64, rows: u64, cols: u32| {
            let blocks = u64::from(cols.div_ceil(KILN_BLOCK));
            let scales = rows * blocks * size_of::<KilnActivationScale>() as u64;
            (take(4 * rows * blocks * 32), take(rows * blocks * 32), take(scales), blocks as u32)
        };
        let residuals = [(); 2].map(|()| take(4 * rows * u64::from(program.hidden_size)));
        let delta = take(4 * rows * u64::from(program.hidden_size));
        let qkv = take(4 * rows * u64::from(qkv_max));
        let logits = take(4 * logit_rows * u64::from(program.vocab_size));
        let normed = activation_offsets(&mut take, rows.max(logit_rows), normed_max);
        let attended = activation_offsets(&mut take, rows, attended_max);
        let gated = activation_offsets(&mut take, rows, gated_max);
        let parts = take(4 * layout.part_floats(program, limits.kv_cache_dtype));
        let counters = take(4 * layout.counters(program));
        let buffer = DeviceBuffer::zeroed(gpu, Purpose::Workspace, bytes)?;
        let base = buffer.address();
        let activations = |(values, quants, scales, blocks): (u64, u64, u64, u32)| KilnActivations {
            values: base + values,
            quants: base + quants,
            scales: base + scales,
            blocks,
            pad: 0,
        };
        Ok(Workspace {
            residuals: residuals.map(|offset| base + offset),
            residual_last: 0,
            delta: base + delta,
            qkv: base + qkv,
            logits: base + logits,
            normed: activations(normed),
            attended: activations(attended),
            gated: activations(gated),
            parts: base + parts,
            counters: base + counters,
            query_cols,
            qkv_cols,
            attended_cols,
            gated_cols,
            buffer,
        })
    }
}
