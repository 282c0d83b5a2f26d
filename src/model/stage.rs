//! A model as a short program of fused stages, five per layer, and what each stage must cost.

use super::kv_cache::{KvCacheDType, KvShape};
use super::spec::{Activation, MatrixRef, ModelSpec, RopeTable, VectorRef};

/// The seven names of the program's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Embed,
    Qkv,
    Attend,
    OutProj,
    GateUp,
    Down,
    Head,
}

/// One entry of a program. Three kinds; [`StageOp::stage`] gives its name.
#[derive(Clone, Debug, PartialEq)]
pub enum StageOp {
    Embed(EmbedOp),
    Linear(LinearOp),
    Attend(AttendOp),
}

/// Token ids → residual rows: `residual = table[id] * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedOp {
    pub table: MatrixRef,
    pub scale: f32,
}

/// A projection of rows, with what happens to them before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOp {
    pub stage: Stage,
    /// The decoder layer; the number of layers for `Head`.
    pub layer: u32,
    pub prologue: Prologue,
    /// Projections of the same input, their outputs side by side: `[q, k, v]`, `[gate, up]` or one matrix.
    pub weights: Vec<MatrixRef>,
    pub epilogue: Epilogue,
}

/// Where a linear's input rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Prologue {
    /// `residual += delta`; input = `rmsnorm(residual) * norm`.
    AddNorm { delta: DeltaInput, norm: VectorRef, norm_eps: f32 },
    /// The rows that `Attend` wrote.
    AttendOutput,
    /// The rows that `GateUp` wrote.
    GatedOutput,
}

/// What the previous linear left to be added to the residual.
#[derive(Clone, Debug, PartialEq)]
pub enum DeltaInput {
    /// The residual comes straight from `Embed`.
    None,
    Plain,
    /// `delta = rmsnorm(delta) * norm` first.
    PostNormed(VectorRef),
}

/// What happens to a linear's output rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Epilogue {
    Qkv(Box<QkvEpilogue>),
    /// Rows are the next stage's delta.
    Delta,
    /// `activation(gate) * up`, in the rows' first and second half.
    Gated(Activation),
    /// Rows are logits, of the rows that asked for them.
    Logits,
}

/// Bias → per-head norm → RoPE → K and V into the cache, q for `Attend`.
#[derive(Clone, Debug, PartialEq)]
pub struct QkvEpilogue {
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub q_bias: Option<VectorRef>,
    pub k_bias: Option<VectorRef>,
    pub v_bias: Option<VectorRef>,
    pub q_norm: Option<VectorRef>,
    pub k_norm: Option<VectorRef>,
    pub norm_eps: f32,
    /// Index into [`Program::rope_tables`].
    pub rope: usize,
}

/// Causal (or windowed) attention of every query row over its own sequence's blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendOp {
    pub layer: u32,
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub window: Option<u32>,
    pub score_scale: f32,
}

/// A model as devices see it. Tests build programs of single stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub rope_tables: Vec<RopeTable>,
    pub ops: Vec<StageOp>,
}

impl StageOp {
    pub fn stage(&self) -> Stage {
        match self {
            StageOp::Embed(_) => Stage::Embed,
            StageOp::Linear(linear) => linear.stage,
            StageOp::Attend(_) => Stage::Attend,
        }
    }
}

impl LinearOp {
    /// Elements of an input row.
    pub fn cols(&self) -> u32 {
        self.weights.first().map_or(0, |w| w.cols)
    }

    /// Elements of an output row, before the epilogue.
    pub fn rows(&self) -> u32 {
        self.weights.iter().map(|w| w.rows).sum()
    }
}

impl Program {
    /// The program of `spec`: embed, five stages per layer, head.
    pub fn of(spec: &ModelSpec) -> Program {
        let mut ops = vec![StageOp::Embed(EmbedOp { table: spec.embed.table.clone(), scale: spec.embed.scale })];
        let delta = |post_norm: &Option<VectorRef>| match post_norm {
            Some(norm) => DeltaInput::PostNormed(norm.clone()),
            None => DeltaInput::Plain,
        };
        let add_norm =
            |delta, norm: &VectorRef| Prologue::AddNorm { delta, norm: norm.clone(), norm_eps: spec.norm_eps };
        let mut pending = DeltaInput::None;
        for (index, layer) in spec.layers.iter().enumerate() {
            let t = &layer.tensors;
            let index = index as u32;
            let linear = |stage, prologue, weights, epilogue| {
                StageOp::Linear(LinearOp { stage, layer: index, prologue, weights, epilogue })
            };
            ops.push(linear(
                Stage::Qkv,
                add_norm(pending, &t.attn_norm),
                vec![t.q.clone(), t.k.clone(), t.v.clone()],
                Epilogue::Qkv(Box::new(QkvEpilogue {
                    num_heads: layer.num_heads,
                    num_kv_heads: layer.num_kv_heads,
                    head_dim: layer.head_dim,
                    q_bias: t.q_bias.clone(),
                    k_bias: t.k_bias.clone(),
                    v_bias: t.v_bias.clone(),
                    q_norm: t.q_norm.clone(),
                    k_norm: t.k_norm.clone(),
                    norm_eps: spec.norm_eps,
                    rope: layer.rope,
                })),
            ));
            ops.push(StageOp::Attend(AttendOp {
                layer: index,
                num_heads: layer.num_heads,
                num_kv_heads: layer.num_kv_heads,
                head_dim: layer.head_dim,
                window: layer.window,
                score_scale: layer.score_scale,
            }));
            ops.push(linear(Stage::OutProj, Prologue::AttendOutput, vec![t.attn_out.clone()], Epilogue::Delta));
            ops.push(linear(
                Stage::GateUp,
                add_norm(delta(&t.post_attn_norm), &t.ffn_norm),
                vec![t.gate.clone(), t.up.clone()],
                Epilogue::Gated(layer.activation),
            ));
            ops.push(linear(Stage::Down, Prologue::GatedOutput, vec![t.down.clone()], Epilogue::Delta));
            pending = delta(&t.post_ffn_norm);
        }
        ops.push(StageOp::Linear(LinearOp {
            stage: Stage::Head,
            layer: spec.layers.len() as u32,
            prologue: add_norm(pending, &spec.head.norm),
            weights: vec![spec.head.matrix.clone()],
            epilogue: Epilogue::Logits,
        }));
        Program {
            vocab_size: spec.vocab_size,
            hidden_size: spec.hidden_size,
            rope_tables: spec.rope_tables.clone(),
            ops,
        }
    }

    /// What each layer caches, if anything, by its index.
    pub fn kv_shapes(&self) -> Vec<Option<KvShape>> {
        let mut shapes = vec![None; self.num_layers()];
        for op in &self.ops {
            let (layer, num_kv_heads, head_dim) = match op {
                StageOp::Attend(op) => (op.layer, op.num_kv_heads, op.head_dim),
                StageOp::Linear(op) => match &op.epilogue {
                    Epilogue::Qkv(e) => (op.layer, e.num_kv_heads, e.head_dim),
                    _ => continue,
                },
                StageOp::Embed(_) => continue,
            };
            shapes[layer as usize] = Some(KvShape { num_kv_heads, head_dim });
        }
        shapes
    }

    /// Decoder layers: one more than the largest index of an op inside a layer.
    pub fn num_layers(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                StageOp::Attend(a) => a.layer as usize + 1,
                StageOp::Linear(l) if l.stage != Stage::Head => l.layer as usize + 1,
                _ => 0,
            })
            .max()
            .unwrap_or(0)
    }
}

/// The shape of a batch, as far as cost depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows in the step.
    pub rows: u64,
    /// Rows that need logits.
    pub logit_rows: u64,
    /// Sum over sequences of the positions whose keys and values are read at least once.
    pub kv_tokens: u64,
    /// Sum over rows of the positions that the row attends to.
    pub attended_pairs: u64,
    pub kv_cache_dtype: KvCacheDType,
}

/// What a stage must move and do, whatever the device: the floor that times are printed against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCost {
    /// Stored weight bytes, each read once.
    pub weight_bytes: u64,
    /// Keys and values read and written, with their scales.
    pub kv_bytes: u64,
    /// Multiply–accumulates.
    pub macs: u64,
}

impl StageCost {
    /// The sum of two costs.
    pub fn plus(self, other: StageCost) -> StageCost {
        StageCost {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            kv_bytes: self.kv_bytes + other.kv_bytes,
            macs: self.macs + other.macs,
        }
    }

    /// Weights, keys and values.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes
    }
}

impl StageOp {
    /// The floor of this stage for one step of `shape`. Activations are left out: they stay in caches.
    pub fn cost(&self, shape: &BatchShape) -> StageCost {
        let token_bytes =
            |kv_heads: u32, head_dim: u32| 2 * u64::from(kv_heads) * shape.kv_cache_dtype.head_bytes(head_dim);
        match self {
            StageOp::Embed(op) => StageCost {
                weight_bytes: shape.rows * op.table.dtype.row_bytes(u64::from(op.table.cols)).unwrap_or(0),
                ..StageCost::default()
            },
            StageOp::Linear(op) => {
                let rows = if op.stage == Stage::Head { shape.logit_rows } else { shape.rows };
                let weights: u64 = op.weights.iter().map(|w| u64::from(w.rows) * u64::from(w.cols)).sum();
                let kv_bytes = match &op.epilogue {
                    Epilogue::Qkv(e) => rows * token_bytes(e.num_kv_heads, e.head_dim),
                    _ => 0,
                };
                StageCost {
                    weight_bytes: if rows == 0 { 0 } else { op.weights.iter().map(MatrixRef::stored_bytes).sum() },
                    kv_bytes,
                    macs: rows * weights,
                }
            }
            StageOp::Attend(op) => StageCost {
                weight_bytes: 0,
                kv_bytes: shape.kv_tokens * token_bytes(op.num_kv_heads, op.head_dim),
                macs: shape.attended_pairs * 2 * u64::from(op.num_heads) * u64::from(op.head_dim),
            },
        }
    }
}

impl Program {
    /// The floor of one whole step.
    pub fn cost(&self, shape: &BatchShape) -> StageCost {
        self.ops.iter().fold(StageCost::default(), |sum, op| sum.plus(op.cost(shape)))
    }
}
