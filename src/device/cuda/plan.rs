//! A program as launches: parameter structs with every address filled in, once.

use std::sync::Arc;

use crate::device::{DeviceError, KvCacheDType, Limits};
use crate::model::{
    Activation, DeltaInput, EmbedOp, Epilogue, KvShape, LinearOp, Program, Prologue, QkvEpilogue, RopePairing, Stage,
    StageOp,
};
use crate::weights::TensorSource;

use super::abi::*;
use super::driver::{DeviceBuffer, Gpu, Need};
use super::inputs::StepLayout;
use super::kernels::{FUSED_SHARED_BYTES_MAX, Kernels, attend_kernel};
use super::upload::{WeightPlan, Weights};

/// A stage of the program, for people to find in a profile, with its launches.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    pub stage: Stage,
    /// `None` in front of the first layer and behind the last.
    pub layer: Option<u32>,
    pub launches: Vec<Launch>,
}

/// One launch of a step, but for its grid.
#[derive(Clone, Debug)]
pub enum Launch {
    Embed(KilnEmbedParams),
    Linear(Box<PlannedLinear>),
    /// With the index of the kernel for its cache and head size.
    Attend(Box<KilnAttendParams>, usize),
    /// The attention outputs' int8 blocks, where heads are no whole blocks.
    QuantiseAttended(KilnQuantiseParams),
}

/// A linear and what belongs to it. For one or two rows it is one launch where there is a [`PlannedLinear::fused`]; for more, its norm is a
/// launch of its own in front.
#[derive(Clone, Debug)]
pub struct PlannedLinear {
    /// `params.norm.norm` is 0 if the input rows are there already.
    pub params: KilnFusedParams,
    /// Where the epilogue cannot do it: bias, norms and RoPE of Q, K and V.
    pub finish: Option<KilnFinishQkvParams>,
    /// The fused kernel for one row and for two; `None` if a matrix holds floats, or if the rows do not fit.
    pub fused: Option<[FusedLaunch; 2]>,
    /// Of all matrices; pairs of them if gated.
    pub tiles: u32,
    /// Of a matrix-vector kernel: a warp per segment.
    pub threads: u32,
}

/// How a fused kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct FusedLaunch {
    /// As many as the device holds at once, at most one per tile: each makes its input once.
    pub ctas: u32,
    /// Dynamic.
    pub shared_bytes: u32,
}

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

/// A program, ready.
#[derive(Debug)]
pub struct Plan {
    pub stages: Vec<PlannedStage>,
    pub weights: Weights,
    pub work: Workspace,
    pub kv: KvArena,
    pub inputs: DeviceBuffer,
    pub layout: StepLayout,
}

impl Plan {
    pub fn new(
        gpu: &Arc<Gpu>,
        kernels: &Kernels,
        program: &Program,
        source: &dyn TensorSource,
        limits: &Limits,
        last_sampled: u64,
    ) -> Result<Plan, DeviceError> {
        check(program, limits)?;
        let mut weight_plan = WeightPlan::default();
        plan_weights(program, &mut weight_plan);
        let ropes = plan_ropes(program, limits, &mut weight_plan);
        // The large allocations come before anything is uploaded: what does not fit is known at once.
        let weights = weight_plan.allocate(gpu)?;
        let layout = StepLayout::new(program, limits, gpu.sm_count);
        let inputs = DeviceBuffer::zeroed(gpu, Need::new("step inputs", "--ubatch-size"), layout.bytes)?;
        let kv = kv_arena(gpu, program, limits)?;
        let mut work = workspace(gpu, program, limits, &layout)?;
        weights.upload(gpu, kernels, source)?;
        let mut builder = Builder {
            gpu,
            kernels,
            program,
            limits,
            weights: &weights,
            ropes,
            layout: &layout,
            inputs: &inputs,
            last_sampled,
            kv: &kv,
            work: &work,
            residual: 0,
        };
        let stages = builder.stages()?;
        work.residual_last = builder.residual;
        Ok(Plan { stages, weights, work, kv, inputs, layout })
    }
}

fn unsupported(subject: &str, expected: &str, found: impl ToString) -> DeviceError {
    DeviceError::Unsupported { subject: subject.into(), expected: expected.into(), found: found.to_string() }
}

fn check(program: &Program, limits: &Limits) -> Result<(), DeviceError> {
    if limits.block_tokens == 0 || !limits.block_tokens.is_multiple_of(16) {
        return Err(unsupported("block_tokens", "a multiple of 16", limits.block_tokens));
    }
    // 16 bytes are copied at once.
    let dims = if limits.kv_cache_dtype == KvCacheDType::Int8 { 16 } else { 8 };
    for op in &program.ops {
        match op {
            StageOp::Attend(op) if !op.head_dim.is_multiple_of(dims) || op.head_dim > KILN_HEAD_DIM_MAX => {
                let expected =
                    format!("a multiple of {dims} with an {} cache, at most 256", limits.kv_cache_dtype.name());
                return Err(unsupported("head_dim", &expected, op.head_dim));
            }
            StageOp::Linear(op) if matches!(op.epilogue, Epilogue::Delta) && op.rows() != program.hidden_size => {
                return Err(unsupported("rows of a delta", &program.hidden_size.to_string(), op.rows()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn plan_weights(program: &Program, plan: &mut WeightPlan) {
    for op in &program.ops {
        match op {
            StageOp::Embed(op) => plan.add_matrix(&op.table),
            StageOp::Attend(_) => {}
            StageOp::Linear(op) => {
                op.weights.iter().for_each(|matrix| plan.add_matrix(matrix));
                if let Prologue::AddNorm { delta, norm, .. } = &op.prologue {
                    plan.add_vector(norm);
                    if let DeltaInput::PostNormed(norm) = delta {
                        plan.add_vector(norm);
                    }
                }
                if let Epilogue::Qkv(e) = &op.epilogue {
                    let vectors = [&e.q_bias, &e.k_bias, &e.v_bias, &e.q_norm, &e.k_norm];
                    vectors.into_iter().flatten().for_each(|vector| plan.add_vector(vector));
                }
            }
        }
    }
}

/// Offsets of cosines and sines, `[position][pair]`, computed in f64.
fn plan_ropes(program: &Program, limits: &Limits, plan: &mut WeightPlan) -> Vec<(u64, u64)> {
    let table = |table: &crate::model::RopeTable, f: fn(f64) -> f64| {
        let angles = (0..limits.context_tokens_max)
            .flat_map(|position| table.inv_freq.iter().map(move |inv_freq| f64::from(position) * inv_freq));
        angles.map(|angle| (f(angle) * f64::from(table.magnitude)) as f32).collect()
    };
    let tables = program.rope_tables.iter();
    tables.map(|t| (plan.add_table(table(t, f64::cos)), plan.add_table(table(t, f64::sin)))).collect()
}

fn kv_arena(gpu: &Arc<Gpu>, program: &Program, limits: &Limits) -> Result<KvArena, DeviceError> {
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
    let buffer = DeviceBuffer::zeroed(gpu, Need::new("the KV arena", "--ctx-size or --parallel"), bytes)?;
    Ok(KvArena { buffer, block_stride, layers })
}

/// Largest widths over all ops, and those of the last layer for checkpoints.
fn workspace(
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
    let buffer = DeviceBuffer::zeroed(gpu, Need::new("the workspace", "--ubatch-size or --ctx-size"), bytes)?;
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

struct Builder<'a> {
    gpu: &'a Arc<Gpu>,
    kernels: &'a Kernels,
    program: &'a Program,
    limits: &'a Limits,
    weights: &'a Weights,
    ropes: Vec<(u64, u64)>,
    layout: &'a StepLayout,
    inputs: &'a DeviceBuffer,
    last_sampled: u64,
    kv: &'a KvArena,
    work: &'a Workspace,
    /// Which residual is the current one.
    residual: usize,
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

    fn stages(&mut self) -> Result<Vec<PlannedStage>, DeviceError> {
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
