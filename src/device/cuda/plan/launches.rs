//! Launches of every stage, with all addresses.

use std::sync::Arc;

use crate::device::cuda::abi::*;
use crate::device::cuda::driver::{DeviceBuffer, Gpu};
use crate::device::cuda::inputs::StepLayout;
use crate::device::cuda::kernels::{FUSED_SHARED_BYTES_MAX, Kernels, attend_kernel};
use crate::device::cuda::upload::Weights;
use crate::device::{DeviceError, KvCacheDType, Limits};
use crate::model::{
    Activation, DeltaInput, EmbedOp, Epilogue, LinearOp, Program, Prologue, QkvEpilogue, RopePairing, Stage, StageOp,
};

use super::{FusedLaunch, KvArena, Launch, PlannedLinear, PlannedStage, Workspace};

const NO_ACTIVATIONS: KilnActivations = KilnActivations { values: 0, quants: 0, scales: 0, blocks: 0, pad: 0 };
const NO_NORM: KilnNormParams = KilnNormParams {
    step: 0,
    logit_rows: 0,
    residual_in: 0,
    residual_out: 0,
    delta: 0,
    post_norm: 0,
    norm: 0,
    out: NO_ACTIVATIONS,
    cols: 0,
    eps: 0.0,
};
const NO_QKV: KilnFinishQkvParams = KilnFinishQkvParams {
    step: 0,
    rows: 0,
    qkv: 0,
    biases: [0; 3],
    norms: [0; 2],
    cosines: 0,
    sines: 0,
    cache: KilnCache {
        data: 0,
        block_tables: 0,
        block_stride: 0,
        layer_offset: 0,
        blocks_per_seq: 0,
        block_tokens: 0,
        head_dim: 0,
        is_int8: 0,
    },
    heads: 0,
    kv_heads: 0,
    rotary_dims: 0,
    adjacent: 0,
    eps: 0.0,
    pad: 0,
};

/// Fills in launches, op by op.
pub struct Builder<'a> {
    pub gpu: &'a Arc<Gpu>,
    pub kernels: &'a Kernels,
    pub program: &'a Program,
    pub limits: &'a Limits,
    pub weights: &'a Weights,
    pub ropes: Vec<(u64, u64)>,
    pub layout: &'a StepLayout,
    pub inputs: &'a DeviceBuffer,
    pub last_sampled: u64,
    pub kv: &'a KvArena,
    pub work: &'a Workspace,
    /// Which residual is the current one.
    pub residual: usize,
}

/// The same rows with another width.
pub fn with_cols(rows: KilnActivations, cols: u32) -> KilnActivations {
    KilnActivations { blocks: cols.div_ceil(KILN_BLOCK), ..rows }
}

impl Builder<'_> {
    fn step(&self) -> u64 {
        self.inputs.address()
    }

    fn at(&self, offset: u64) -> u64 {
        self.inputs.address() + offset
    }

    /// The launches of all stages.
    pub fn stages(&mut self) -> Result<Vec<PlannedStage>, DeviceError> {
        let program = self.program;
        let planned = program.ops.iter().map(|op| {
            let (layer, launches) = match op {
                StageOp::Embed(op) => (None, vec![self.embed(op)]),
                StageOp::Attend(op) => (Some(op.layer), self.attend(op)),
                StageOp::Linear(op) => {
                    ((op.stage != Stage::Head).then_some(op.layer), vec![Launch::Linear(Box::new(self.linear(op)?))])
                }
            };
            Ok(PlannedStage { stage: op.stage(), layer, launches })
        });
        planned.collect()
    }

    fn embed(&self, op: &EmbedOp) -> Launch {
        Launch::Embed(KilnEmbedParams {
            table: self.weights.matrix(&op.table),
            step: self.step(),
            rows: self.at(self.layout.rows),
            last_sampled: self.last_sampled,
            residual: self.work.residuals[self.residual],
            cols: op.table.cols,
            scale: op.scale,
        })
    }

    fn linear(&mut self, op: &LinearOp) -> Result<PlannedLinear, DeviceError> {
        let of_logits = matches!(op.epilogue, Epilogue::Logits);
        let mut norm = NO_NORM;
        let input = match &op.prologue {
            Prologue::AttendOutput => with_cols(self.work.attended, op.cols()),
            Prologue::GatedOutput => with_cols(self.work.gated, op.cols()),
            Prologue::AddNorm { delta, norm: weights, norm_eps } => {
                let residual_in = self.work.residuals[self.residual];
                self.residual ^= usize::from(!matches!(delta, DeltaInput::None));
                norm = KilnNormParams {
                    step: self.step(),
                    logit_rows: if of_logits { self.at(self.layout.logit_rows) } else { 0 },
                    residual_in,
                    residual_out: self.work.residuals[self.residual],
                    delta: if matches!(delta, DeltaInput::None) { 0 } else { self.work.delta },
                    post_norm: match delta {
                        DeltaInput::PostNormed(norm) => self.weights.vector(norm),
                        _ => 0,
                    },
                    norm: self.weights.vector(weights),
                    out: with_cols(self.work.normed, op.cols()),
                    cols: op.cols(),
                    eps: *norm_eps,
                };
                norm.out
            }
        };
        let mut offsets = [0; 3];
        let mut matrices = [self.weights.matrix(&op.weights[0]); 3];
        let mut offset = 0;
        for (i, matrix) in op.weights.iter().enumerate() {
            (matrices[i], offsets[i]) = (self.weights.matrix(matrix), offset);
            offset += matrix.rows;
        }
        let (mut qkv, mut finish) = (NO_QKV, None);
        let (out, out_stride, epilogue) = match &op.epilogue {
            Epilogue::Qkv(e) => {
                let params = self.finish_qkv(op.layer, e);
                // Pairs must be neighbours in a tile; a norm needs the whole head, and so does the scale of an int8 cache.
                let fuses = params.adjacent != 0
                    && params.norms == [0; 2]
                    && params.cache.head_dim.is_multiple_of(2)
                    && params.cache.is_int8 == 0;
                match fuses {
                    true => qkv = params,
                    false => finish = Some(params),
                }
                (self.work.qkv, op.rows(), if fuses { KILN_QKV } else { KILN_STORE })
            }
            Epilogue::Delta => (self.work.delta, op.rows(), KILN_STORE),
            Epilogue::Logits => (self.work.logits, op.rows(), KILN_STORE),
            Epilogue::Gated(Activation::Silu) => (0, 0, KILN_GATED_SILU),
            Epilogue::Gated(Activation::GeluTanh) => (0, 0, KILN_GATED_GELU),
        };
        let linear = KilnLinearParams {
            matrices,
            offsets,
            num_matrices: op.weights.len() as u32,
            input,
            step: self.step(),
            logit_rows: of_logits.into(),
            epilogue,
            out,
            out_stride,
            pad: 0,
            gated: with_cols(self.work.gated, op.rows() / 2),
            qkv,
        };
        let tiles = match &op.epilogue {
            Epilogue::Gated(_) => matrices[0].tiles,
            _ => matrices[..op.weights.len()].iter().map(|matrix| matrix.tiles).sum(),
        };
        let segment = input.blocks.div_ceil(KILN_SEGMENTS_MAX).max(KILN_SEGMENT_BLOCKS_MIN);
        let threads = 32 * input.blocks.div_ceil(segment);
        let integers = op.weights.iter().all(|matrix| matrix.dtype.is_quantised());
        let fused = if integers { self.fused(input.blocks, norm.norm != 0, tiles, threads)? } else { None };
        let params = KilnFusedParams { linear, norm, tiles, pad: 0 };
        Ok(PlannedLinear { params, finish, fused, tiles, threads })
    }

    /// The fused kernel's launches for rows of that many blocks.
    fn fused(
        &self,
        blocks: u32,
        has_norm: bool,
        tiles: u32,
        threads: u32,
    ) -> Result<Option<[FusedLaunch; 2]>, DeviceError> {
        let per_row = blocks * (KILN_BLOCK + size_of::<KilnActivationScale>() as u32);
        let once = if has_norm { blocks * KILN_BLOCK * 4 } else { 0 };
        if 2 * per_row + once > FUSED_SHARED_BYTES_MAX {
            return Ok(None);
        }
        let launch = |rows: u32| {
            let shared_bytes = rows * per_row + once;
            let kernel = &self.kernels.linear_fused[rows as usize - 1];
            let resident = self.gpu.resident_ctas_with(kernel, threads, shared_bytes)?;
            Ok::<_, DeviceError>(FusedLaunch { ctas: tiles.min(resident), shared_bytes })
        };
        Ok(Some([launch(1)?, launch(2)?]))
    }

    fn finish_qkv(&self, layer: u32, e: &QkvEpilogue) -> KilnFinishQkvParams {
        let table = &self.program.rope_tables[e.rope];
        let (cosines, sines) = self.ropes[e.rope];
        KilnFinishQkvParams {
            step: self.step(),
            rows: self.at(self.layout.rows),
            qkv: self.work.qkv,
            biases: [&e.q_bias, &e.k_bias, &e.v_bias].map(|b| self.weights.optional(b)),
            norms: [&e.q_norm, &e.k_norm].map(|n| self.weights.optional(n)),
            cosines: self.weights.table(cosines),
            sines: self.weights.table(sines),
            cache: self.cache(layer, e.head_dim),
            heads: e.num_heads,
            kv_heads: e.num_kv_heads,
            rotary_dims: 2 * table.inv_freq.len() as u32,
            adjacent: (table.pairing == RopePairing::Adjacent).into(),
            eps: e.norm_eps,
            pad: 0,
        }
    }

    fn cache(&self, layer: u32, head_dim: u32) -> KilnCache {
        KilnCache {
            data: self.kv.buffer.address(),
            block_tables: self.at(self.layout.block_tables),
            block_stride: self.kv.block_stride,
            layer_offset: self.kv.layers[layer as usize].map_or(0, |layer| layer.offset),
            blocks_per_seq: self.layout.blocks_per_seq,
            block_tokens: self.limits.block_tokens,
            head_dim,
            is_int8: (self.limits.kv_cache_dtype == KvCacheDType::Int8).into(),
        }
    }

    fn attend(&self, op: &crate::model::AttendOp) -> Vec<Launch> {
        let cols = op.num_heads * op.head_dim;
        let out = with_cols(self.work.attended, cols);
        let (kernel, _) = attend_kernel(self.limits.kv_cache_dtype, op.head_dim);
        let params = KilnAttendParams {
            step: self.step(),
            rows: self.at(self.layout.rows),
            items: self.at(self.layout.attend_items),
            query: self.work.qkv,
            cache: self.cache(op.layer, op.head_dim),
            out,
            parts: self.work.parts,
            counters: self.work.counters,
            query_stride: (op.num_heads + 2 * op.num_kv_heads) * op.head_dim,
            heads: op.num_heads,
            kv_heads: op.num_kv_heads,
            window: op.window.unwrap_or(u32::MAX),
            scale_log2: op.score_scale * std::f32::consts::LOG2_E,
            pad: 0,
        };
        let mut launches = vec![Launch::Attend(Box::new(params), kernel)];
        if !op.head_dim.is_multiple_of(KILN_BLOCK) {
            launches.push(Launch::QuantiseAttended(KilnQuantiseParams { rows: out, cols, num_rows: 0 }));
        }
        launches
    }
}
