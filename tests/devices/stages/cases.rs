//! One case struct per operation.

use std::sync::atomic::{AtomicUsize, Ordering};

use kiln::device::{Batch, Checkpoint, KvCacheDType};
use kiln::model::{
    Activation, AttendOp, DeltaInput, EmbedOp, Epilogue, LinearOp, Program, Prologue, QkvEpilogue, RopePairing,
    RopeTable, Stage, StageOp, VectorRef,
};
use kiln::weights::DType;

use super::harness::{Case, Tolerance, ragged};
use crate::common::simulated;
use crate::common::synthetic::{Rng, Tensors, rope_table};

const NORM_EPS: f32 = 1e-5;

/// What joins the residual before the norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Post {
    None,
    Plain,
    Normed,
}

/// Token ids → rows. Each element is one weight times the scale: equal bits.
#[derive(Debug)]
pub struct EmbedCase {
    pub dtype: DType,
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub rows: u32,
    pub scale: f32,
}

impl EmbedCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, self.vocab_size) else { return };
        let table = build.tensors.matrix(&mut build.rng, "table", self.dtype, self.vocab_size, self.hidden_size);
        let op = StageOp::Embed(EmbedOp { table, scale: self.scale });
        build.poison(Checkpoint::Residual, self.hidden_size);
        build.outputs.push((Checkpoint::Residual, Tolerance::Bits));
        build.case(format!("{self:?}"), op, self.vocab_size, self.hidden_size, Vec::new()).check();
    }
}

/// `OutProj` or `Down`: f32 rows in, delta out.
#[derive(Debug)]
pub struct DeltaCase {
    pub stage: Stage,
    pub dtype: DType,
    pub cols: u32,
    pub out: u32,
    pub rows: u32,
}

impl DeltaCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, 1) else { return };
        let weights = vec![build.tensors.matrix(&mut build.rng, "w", self.dtype, self.out, self.cols)];
        let (prologue, input) = match self.stage {
            Stage::OutProj => (Prologue::AttendOutput, Checkpoint::AttendOutput),
            _ => (Prologue::GatedOutput, Checkpoint::GatedOutput),
        };
        let mut values = build.rng.values((self.rows * self.cols) as usize, 2.0);
        // A row of zeros and a block of values below the smallest that is quantised are rows like others.
        values[..32].fill(1e-33);
        if self.rows > 1 {
            values[self.cols as usize..2 * self.cols as usize].fill(0.0);
        }
        build.inputs.push((input, values));
        build.poison(Checkpoint::Delta, self.out);
        build.outputs.push((Checkpoint::Delta, sums(self.cols, self.dtype)));
        let op = LinearOp { stage: self.stage, layer: 0, prologue, weights, epilogue: Epilogue::Delta };
        build.case(format!("{self:?}"), StageOp::Linear(op), 1, self.out, Vec::new()).check();
    }
}

/// Norm → projections → bias, norm, RoPE → query and cache.
#[derive(Clone, Debug)]
pub struct QkvCase {
    pub dtypes: [DType; 3],
    pub hidden_size: u32,
    /// Query heads, KV heads.
    pub heads: (u32, u32),
    pub head_dim: u32,
    pub rotary_dims: u32,
    pub pairing: RopePairing,
    pub biases: bool,
    pub norms: bool,
    pub post: Post,
    pub kv_cache_dtype: KvCacheDType,
    pub rows: u32,
}

impl Default for QkvCase {
    /// SmolLM2.
    fn default() -> QkvCase {
        QkvCase {
            dtypes: [DType::Q4_1; 3],
            hidden_size: 576,
            heads: (9, 3),
            head_dim: 64,
            rotary_dims: 64,
            pairing: RopePairing::Adjacent,
            biases: false,
            norms: false,
            post: Post::Plain,
            kv_cache_dtype: KvCacheDType::F16,
            rows: 1,
        }
    }
}

impl QkvCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, 1) else { return };
        let prologue = build.add_norm(self.hidden_size, self.post);
        let (q, kv) = (self.heads.0 * self.head_dim, self.heads.1 * self.head_dim);
        let (tensors, rng) = (&mut build.tensors, &mut build.rng);
        let weights: Vec<_> = [("q", q), ("k", kv), ("v", kv)]
            .iter()
            .zip(self.dtypes)
            .map(|((name, rows), dtype)| tensors.matrix(rng, name, dtype, *rows, self.hidden_size))
            .collect();
        let mut vector = |on: bool, name: &str, len: u32, centre: f32| -> Option<VectorRef> {
            on.then(|| tensors.vector(rng, name, len, centre, 0.5))
        };
        let epilogue = QkvEpilogue {
            num_heads: self.heads.0,
            num_kv_heads: self.heads.1,
            head_dim: self.head_dim,
            q_bias: vector(self.biases, "q_bias", q, 0.0),
            k_bias: vector(self.biases, "k_bias", kv, 0.0),
            v_bias: vector(self.biases, "v_bias", kv, 0.0),
            q_norm: vector(self.norms, "q_norm", self.head_dim, 1.0),
            k_norm: vector(self.norms, "k_norm", self.head_dim, 1.0),
            norm_eps: NORM_EPS,
            rope: 0,
        };
        let near = near(self.hidden_size, &self.dtypes);
        // A head's norm divides by a root mean square that is above 1/3 here and multiplies by at most 1.5; a rotation mixes
        // two elements; positions below 1024 turn by angles whose f32 error is below 1e-4.
        let query = widened(near, if self.norms { 6.0 } else { 1.5 }, 2e-4);
        build.poison(Checkpoint::Query, q);
        build.outputs.push((Checkpoint::Query, query));
        // The cache rounds, and values stay below 8: neighbours of a tie end 2^-10 of their value apart in f16, and 8 / 127 in int8, where
        // that is rarer than it is large: as often as the distance of two values, in steps, says.
        build.arena = Some((
            0,
            match (self.kv_cache_dtype, query) {
                (KvCacheDType::Int8, Tolerance::Near { max, mean }) => {
                    Tolerance::Near { max: max + 8.0 / 127.0, mean: 2.0 * mean }
                }
                _ => widened(query, 1.0, 8.0 / 1024.0),
            },
        ));
        build.kv_cache_dtype = self.kv_cache_dtype;
        let weights =
            LinearOp { stage: Stage::Qkv, layer: 0, prologue, weights, epilogue: Epilogue::Qkv(epilogue.into()) };
        let tables = vec![rope_table(self.pairing, self.rotary_dims)];
        build.case(format!("{self:?}"), StageOp::Linear(weights), 1, self.hidden_size, tables).check();
    }
}

/// Rows of f32 → projections → cache, without norms and RoPE: what is cached has equal bits, so what is left of it after rounding, too.
#[derive(Debug)]
pub struct CacheCase {
    pub kv_cache_dtype: KvCacheDType,
    pub dtype: DType,
    pub head_dim: u32,
    pub biases: bool,
    pub rows: u32,
}

impl CacheCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, 1) else { return };
        let (q, kv) = (4 * self.head_dim, self.head_dim);
        let (tensors, rng) = (&mut build.tensors, &mut build.rng);
        let weights = [("q", q), ("k", kv), ("v", kv)];
        let weights = weights.map(|(name, rows)| tensors.matrix(rng, name, self.dtype, rows, q)).into();
        let mut bias = |name| self.biases.then(|| tensors.vector(rng, name, kv, 0.0, 0.5));
        let epilogue = QkvEpilogue {
            num_heads: 4,
            num_kv_heads: 1,
            head_dim: self.head_dim,
            q_bias: None,
            k_bias: bias("k_bias"),
            v_bias: bias("v_bias"),
            q_norm: None,
            k_norm: None,
            norm_eps: NORM_EPS,
            rope: 0,
        };
        let mut values = build.rng.values((self.rows * q) as usize, 2.0);
        // A head of zeros where there is no bias, and one that is not finite: its scale says so, and its neighbours do not notice.
        if self.rows > 2 {
            values[..q as usize].fill(0.0);
            values[2 * q as usize - 1] = f32::INFINITY;
        }
        build.inputs.push((Checkpoint::AttendOutput, values));
        build.arena = Some((0, Tolerance::Bits));
        build.kv_cache_dtype = self.kv_cache_dtype;
        let (prologue, epilogue) = (Prologue::AttendOutput, Epilogue::Qkv(epilogue.into()));
        let op = LinearOp { stage: Stage::Qkv, layer: 0, prologue, weights, epilogue };
        let tables = vec![rope_table(RopePairing::Adjacent, 0)];
        build.case(format!("{self:?}"), StageOp::Linear(op), 1, q, tables).check();
    }
}

/// Attention of a ragged batch over a cache whose other positions are NaN.
#[derive(Debug)]
pub struct AttendCase {
    pub heads: (u32, u32),
    pub head_dim: u32,
    pub kv_cache_dtype: KvCacheDType,
    pub window: Option<u32>,
    pub rows: u32,
}

impl AttendCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, 1) else { return };
        let q = self.heads.0 * self.head_dim;
        let row_len = (self.heads.1 * self.head_dim) as usize;
        build.random(Checkpoint::Query, self.rows * q, 2.0);
        for seq in 0..build.batch.seqs.len() {
            let positions = build.batch.seqs[seq].position_start as usize + build.batch.seqs[seq].tokens.len();
            for checkpoint in
                [Checkpoint::Keys { layer: 0, seq: seq as u32 }, Checkpoint::Values { layer: 0, seq: seq as u32 }]
            {
                let values = build.rng.values(positions * row_len, 2.0);
                build.inputs.push((checkpoint, values));
            }
        }
        build.poison(Checkpoint::AttendOutput, q);
        build.kv_cache_dtype = self.kv_cache_dtype;
        // Scores are sums of head_dim products below 4, times 1/sqrt(head_dim): their f32 error, at most
        // 4 * sqrt(head_dim) * 2^-24 per rounding and growing as a random walk over head_dim roundings, is below 1e-5 for
        // heads of up to 256; it is the relative error of a weight. Outputs are means of values below 2, so they err by
        // less than 2 * 2e-5 plus the f32 sum's own error.
        build.outputs.push((Checkpoint::AttendOutput, Tolerance::Near { max: 4e-5, mean: 4e-6 }));
        let op = AttendOp {
            layer: 0,
            num_heads: self.heads.0,
            num_kv_heads: self.heads.1,
            head_dim: self.head_dim,
            window: self.window,
            score_scale: 1.0 / (self.head_dim as f32).sqrt(),
        };
        build.case(format!("{self:?}"), StageOp::Attend(op), 1, 32, Vec::new()).check();
    }
}

/// Norm → gate and up → activation.
#[derive(Clone, Debug)]
pub struct GateUpCase {
    pub dtypes: [DType; 2],
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub activation: Activation,
    pub post: Post,
    pub rows: u32,
}

impl Default for GateUpCase {
    fn default() -> GateUpCase {
        GateUpCase {
            dtypes: [DType::Q4_1; 2],
            hidden_size: 576,
            intermediate_size: 352,
            activation: Activation::Silu,
            post: Post::Plain,
            rows: 1,
        }
    }
}

impl GateUpCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, 1) else { return };
        let prologue = build.add_norm(self.hidden_size, self.post);
        let weights = [("gate", self.dtypes[0]), ("up", self.dtypes[1])].map(|(name, dtype)| {
            build.tensors.matrix(&mut build.rng, name, dtype, self.intermediate_size, self.hidden_size)
        });
        build.poison(Checkpoint::GatedOutput, self.intermediate_size);
        // Both activations have slopes below 1.13, so an error of e in gate and up becomes at most e * (1.13 |up| + |gate|),
        // with both below 8.
        let near = widened(near(self.hidden_size, &self.dtypes), 17.0, 1e-5);
        build.outputs.push((Checkpoint::GatedOutput, near));
        let epilogue = Epilogue::Gated(self.activation);
        let op = LinearOp { stage: Stage::GateUp, layer: 0, prologue, weights: weights.into(), epilogue };
        build.case(format!("{self:?}"), StageOp::Linear(op), 1, self.hidden_size, Vec::new()).check();
    }
}

/// Norm → logits of some rows.
#[derive(Debug)]
pub struct HeadCase {
    pub dtype: DType,
    pub hidden_size: u32,
    pub vocab_size: u32,
    pub rows: u32,
    pub post: Post,
}

impl HeadCase {
    pub fn check(&self) {
        let Some(mut build) = Build::new(self.rows, self.vocab_size) else { return };
        // All rows of the first sequence, the last of the others, none of the second.
        let first_rows = build.batch.seqs[0].tokens.len() as u32;
        build.batch.seqs[0].logit_rows = (0..first_rows).collect();
        if let Some(second) = build.batch.seqs.get_mut(1) {
            second.logit_rows.clear();
        }
        let prologue = build.add_norm(self.hidden_size, self.post);
        // Only rows that ask are promised to have a finished residual.
        build.outputs.clear();
        let weights = vec![build.tensors.matrix(&mut build.rng, "head", self.dtype, self.vocab_size, self.hidden_size)];
        let logits = build.batch.num_logit_rows() * self.vocab_size as usize;
        build.inputs.push((Checkpoint::Logits, vec![f32::NAN; logits]));
        build.outputs.push((Checkpoint::Logits, near(self.hidden_size, &[self.dtype])));
        let op = LinearOp { stage: Stage::Head, layer: 0, prologue, weights, epilogue: Epilogue::Logits };
        build.case(format!("{self:?}"), StageOp::Linear(op), self.vocab_size, self.hidden_size, Vec::new()).check();
    }
}

/// How near outputs of a norm and a projection of `cols` weights must be; outputs are about 1 in size.
///
/// Devices' norms differ by a few units in the last place. That moves a sum of `cols` products of inputs below 3 and
/// weights below 8 / sqrt(cols) by 24 * sqrt(cols) * 2^-22 at most; and, rarely, a value that is near a tie to the next
/// integer (or bf16), one step of 3 / 127 (2^-8 * 3), times its weight. Two such steps in one row are allowed for. They
/// are rare, so the mean is bound by 1e-3, the share that no misplaced weight would keep.
fn near(cols: u32, dtypes: &[DType]) -> Tolerance {
    let root = (cols as f32).sqrt();
    let rounds = dtypes.iter().any(|dtype| dtype.is_quantised() || *dtype == DType::BF16);
    let steps = if rounds { 2.0 * 8.0 / root * 3.0 / 127.0 } else { 0.0 };
    Tolerance::Near { max: 24.0 * root / (1 << 22) as f32 + steps, mean: if rounds { 1e-3 } else { 1e-5 } }
}

/// How near a projection of f32 rows must be: integers are added exactly, floats in one order but for those of tensor cores.
///
/// These add 16 products at a time, `cols / 16` times in all. Partial sums are below 4, and a truncated one errs by 4 * 2^-23 at most:
/// as a random walk, by no more than 24 * sqrt(cols) * 2^-22 with room for a drift, and by a tenth of 1e-4 on average.
fn sums(cols: u32, dtype: DType) -> Tolerance {
    match dtype {
        DType::F16 | DType::BF16 => {
            Tolerance::BitsOrNear { max: 24.0 * (cols as f32).sqrt() / (1 << 22) as f32, mean: 1e-5 }
        }
        _ => Tolerance::Bits,
    }
}

/// Errors multiplied by `factor`, and `more` added to each.
fn widened(tolerance: Tolerance, factor: f32, more: f32) -> Tolerance {
    match tolerance {
        Tolerance::Bits | Tolerance::BitsOrNear { .. } => tolerance,
        Tolerance::Near { max, mean } => Tolerance::Near { max: max * factor + more, mean: mean * factor + more },
    }
}

/// A case under construction.
struct Build {
    rng: Rng,
    tensors: Tensors,
    batch: Batch,
    num_blocks: u32,
    kv_cache_dtype: KvCacheDType,
    inputs: Vec<(Checkpoint, Vec<f32>)>,
    outputs: Vec<(Checkpoint, Tolerance)>,
    arena: Option<(u32, Tolerance)>,
}

impl Build {
    /// Nothing if it is another process's turn.
    fn new(rows: u32, vocab_size: u32) -> Option<Build> {
        static CASES: AtomicUsize = AtomicUsize::new(0);
        if !simulated::has_share(CASES.fetch_add(1, Ordering::Relaxed)) {
            return None;
        }
        let mut rng = Rng(u64::from(rows) << 32 | u64::from(vocab_size));
        let (batch, num_blocks) = ragged(&mut rng, rows, vocab_size);
        let tensors = Tensors::default();
        Some(Build {
            rng,
            tensors,
            batch,
            num_blocks,
            kv_cache_dtype: KvCacheDType::F16,
            inputs: Vec::new(),
            outputs: Vec::new(),
            arena: None,
        })
    }

    fn random(&mut self, checkpoint: Checkpoint, count: u32, amplitude: f32) {
        let values = self.rng.values(count as usize, amplitude);
        self.inputs.push((checkpoint, values));
    }

    /// Fills what the stage must overwrite with NaN.
    fn poison(&mut self, checkpoint: Checkpoint, row_len: u32) {
        let count = self.batch.num_rows() * row_len as usize;
        self.inputs.push((checkpoint, vec![f32::NAN; count]));
    }

    /// A norm over a random residual, and the residual it leaves: a sum of two f32, unless the delta is normed.
    fn add_norm(&mut self, hidden_size: u32, post: Post) -> Prologue {
        let rows = self.batch.num_rows() as u32;
        self.random(Checkpoint::Residual, rows * hidden_size, 1.5);
        match post {
            Post::None => self.poison(Checkpoint::Delta, hidden_size),
            _ => self.random(Checkpoint::Delta, rows * hidden_size, 1.5),
        }
        let norm = self.tensors.vector(&mut self.rng, "norm", hidden_size, 1.0, 0.2);
        let delta = match post {
            Post::None => DeltaInput::None,
            Post::Plain => DeltaInput::Plain,
            Post::Normed => {
                DeltaInput::PostNormed(self.tensors.vector(&mut self.rng, "post_norm", hidden_size, 1.0, 0.2))
            }
        };
        let residual = match post {
            Post::None | Post::Plain => Tolerance::Bits,
            // Values below 4, a few units in the last place apart.
            Post::Normed => Tolerance::Near { max: 4e-6, mean: 1e-6 },
        };
        self.outputs.push((Checkpoint::Residual, residual));
        Prologue::AddNorm { delta, norm, norm_eps: NORM_EPS }
    }

    fn case(self, name: String, op: StageOp, vocab_size: u32, hidden_size: u32, rope_tables: Vec<RopeTable>) -> Case {
        Case {
            name,
            program: Program { vocab_size, hidden_size, rope_tables, ops: vec![op] },
            weights: self.tensors,
            batch: self.batch,
            num_blocks: self.num_blocks,
            kv_cache_dtype: self.kv_cache_dtype,
            inputs: self.inputs,
            outputs: self.outputs,
            arena: self.arena,
        }
    }
}
