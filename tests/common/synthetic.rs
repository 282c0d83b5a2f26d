//! Random weights of sane size in every format, and small models made of them.

use std::collections::BTreeMap;

use half::{bf16, f16};
use kiln::model::{
    Activation, EmbedSpec, HeadSpec, LayerSpec, LayerTensors, MatrixRef, ModelSpec, RopePairing, RopeTable, VectorRef,
};
use kiln::weights::{DType, TensorSource, TensorView};

/// Steele, Lea and Flood's SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// Uniform in `low..high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next_u64() >> 40) as f32 / (1 << 24) as f32
    }

    pub fn values(&mut self, count: usize, amplitude: f32) -> Vec<f32> {
        (0..count).map(|_| self.uniform(-amplitude, amplitude)).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

struct Stored {
    dtype: DType,
    rows: u64,
    cols: u64,
    data: Vec<u8>,
}

/// Tensors in memory.
#[derive(Default)]
pub struct Tensors(BTreeMap<String, Stored>);

impl TensorSource for Tensors {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (name, stored) = self.0.get_key_value(name)?;
        Some(TensorView::new(name, stored.dtype, stored.rows, stored.cols, &stored.data).unwrap())
    }
}

impl Tensors {
    /// Adds a matrix whose weights are about `1 / sqrt(cols)` in size, so that outputs are as large as inputs.
    pub fn matrix(&mut self, rng: &mut Rng, name: &str, dtype: DType, rows: u32, cols: u32) -> MatrixRef {
        let bytes = dtype.row_bytes(u64::from(cols)).unwrap() * u64::from(rows);
        let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        data.truncate(bytes as usize);
        let size = 1.0 / (cols as f32).sqrt();
        for block in data.chunks_exact_mut(dtype.block_bytes() as usize) {
            set_scales(rng, dtype, block, size);
        }
        let name = name.to_owned();
        self.0.insert(name.clone(), Stored { dtype, rows: rows.into(), cols: cols.into(), data });
        MatrixRef { name, rows, tensor_rows: rows, cols, dtype }
    }

    /// Adds an F32 vector of values within `spread` of `centre`.
    pub fn vector(&mut self, rng: &mut Rng, name: &str, len: u32, centre: f32, spread: f32) -> VectorRef {
        let data = (0..len).flat_map(|_| rng.uniform(centre - spread, centre + spread).to_le_bytes()).collect();
        let name = name.to_owned();
        self.0.insert(name.clone(), Stored { dtype: DType::F32, rows: 1, cols: len.into(), data });
        VectorRef { name, len }
    }
}

impl Tensors {
    /// Multiplies the weights of rows `rows` by `factor`, as far as the format's numbers are finite.
    pub fn scale(&mut self, name: &str, rows: std::ops::Range<u64>, factor: f32) {
        let stored = self.0.get_mut(name).unwrap();
        let (block_bytes, row_bytes) =
            (stored.dtype.block_bytes() as usize, stored.dtype.row_bytes(stored.cols).unwrap() as usize);
        let data = &mut stored.data[rows.start as usize * row_bytes..rows.end as usize * row_bytes];
        for block in data.chunks_exact_mut(block_bytes) {
            let mut half_at = |at: usize| {
                let x = f16::from_le_bytes([block[at], block[at + 1]]).to_f32() * factor;
                block[at..at + 2].copy_from_slice(&f16::from_f32(x.clamp(-65504.0, 65504.0)).to_le_bytes());
            };
            match stored.dtype {
                DType::F16 | DType::Q8_0 => half_at(0),
                DType::Q4_1 => [0, 2].into_iter().for_each(half_at),
                DType::F32 => {
                    let x = f32::from_le_bytes(block.try_into().unwrap()) * factor;
                    block.copy_from_slice(&x.clamp(f32::MIN, f32::MAX).to_le_bytes());
                }
                DType::BF16 => {
                    let x = bf16::from_le_bytes(block.try_into().unwrap()).to_f32() * factor;
                    let most = bf16::MAX.to_f32();
                    block.copy_from_slice(&bf16::from_f32(x.clamp(-most, most)).to_le_bytes());
                }
                other => panic!("{other} has no scale here"),
            }
        }
    }

    /// All tensors: their names, formats and rows.
    pub fn names(&self) -> Vec<(String, DType, u64)> {
        self.0.iter().map(|(name, stored)| (name.clone(), stored.dtype, stored.rows)).collect()
    }
}

/// Replaces the float fields of a block of random bytes by scales that make weights about `size` large.
fn set_scales(rng: &mut Rng, dtype: DType, block: &mut [u8], size: f32) {
    let size = size * rng.uniform(0.5, 1.5);
    let mut half_at = |at: usize, x: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    // Divisors: the deviation of the format's integers. Minima centre the weights, but for random factors of Q4_K and Q5_K.
    match dtype {
        DType::F32 => block.copy_from_slice(&rng.uniform(-1.7 * size, 1.7 * size).to_le_bytes()),
        DType::F16 => half_at(0, rng.uniform(-1.7 * size, 1.7 * size)),
        DType::BF16 => block.copy_from_slice(&bf16::from_f32(rng.uniform(-1.7 * size, 1.7 * size)).to_le_bytes()),
        DType::Q4_0 => half_at(0, size / 4.6),
        DType::Q5_0 => half_at(0, -size / 9.2),
        DType::Q8_0 => half_at(0, size / 74.0),
        DType::Q4_1 => {
            half_at(0, size / 4.6);
            half_at(2, -7.4 * size / 4.6);
        }
        DType::Q5_1 => {
            half_at(0, size / 9.2);
            half_at(2, -15.4 * size / 9.2);
        }
        DType::Q4_K => {
            half_at(0, size / 4.6 / 36.0);
            half_at(2, 7.5 * size / 4.6 / 36.0);
        }
        DType::Q5_K => {
            half_at(0, size / 9.2 / 36.0);
            half_at(2, 15.5 * size / 9.2 / 36.0);
        }
        DType::Q6_K => half_at(208, size / 18.5 / 74.0),
    }
}

/// RoPE with the usual frequencies over `dims` dimensions.
pub fn rope_table(pairing: RopePairing, dims: u32) -> RopeTable {
    let inv_freq = (0..dims / 2).map(|i| 10_000f64.powf(-2.0 * f64::from(i) / f64::from(dims))).collect();
    RopeTable { pairing, inv_freq, magnitude: 1.0 }
}

/// The sizes of a small model.
#[derive(Clone, Copy)]
pub struct TinyModel {
    pub num_layers: u32,
    pub hidden_size: u32,
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub intermediate_size: u32,
    pub vocab_size: u32,
    pub window: Option<u32>,
    pub dtype: DType,
}

impl TinyModel {
    /// Two layers of grouped heads: whole generations in no time.
    pub const GROUPED: TinyModel = TinyModel {
        num_layers: 2,
        hidden_size: 64,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        intermediate_size: 96,
        vocab_size: 331,
        window: None,
        dtype: DType::Q4_1,
    };

    /// One layer of one head: as little work for the simulated GPU as there can be.
    pub const SMALLEST: TinyModel = TinyModel {
        num_layers: 1,
        hidden_size: 32,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 32,
        intermediate_size: 32,
        vocab_size: 64,
        window: None,
        dtype: DType::Q4_1,
    };

    /// A random model with biases and an untied head.
    pub fn build(&self, seed: u64) -> (ModelSpec, Tensors) {
        let (mut rng, mut tensors) = (Rng(seed), Tensors::default());
        let table = tensors.matrix(&mut rng, "token_embd", DType::F32, self.vocab_size, self.hidden_size);
        let layers = (0..self.num_layers).map(|layer| self.layer(layer, &mut rng, &mut tensors)).collect();
        let norm = tensors.vector(&mut rng, "output_norm", self.hidden_size, 1.0, 0.2);
        let matrix = tensors.matrix(&mut rng, "output", self.dtype, self.vocab_size, self.hidden_size);
        let spec = ModelSpec {
            architecture: "tiny".into(),
            name: "tiny".into(),
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            context_tokens_trained: 1024,
            norm_eps: 1e-5,
            // Rows of about 1: the table's weights are scaled for sums over rows.
            embed: EmbedSpec { table, scale: (self.hidden_size as f32).sqrt() },
            layers,
            rope_tables: vec![rope_table(RopePairing::Adjacent, self.head_dim)],
            head: HeadSpec { norm, matrix },
        };
        (spec, tensors)
    }

    fn layer(&self, layer: u32, rng: &mut Rng, tensors: &mut Tensors) -> LayerSpec {
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let name = |part: &str| format!("blk.{layer}.{part}");
        let tensors = LayerTensors {
            attn_norm: tensors.vector(rng, &name("attn_norm"), hidden, 1.0, 0.2),
            q: tensors.matrix(rng, &name("q"), self.dtype, q, hidden),
            k: tensors.matrix(rng, &name("k"), self.dtype, kv, hidden),
            v: tensors.matrix(rng, &name("v"), self.dtype, kv, hidden),
            q_bias: Some(tensors.vector(rng, &name("q_bias"), q, 0.0, 0.5)),
            k_bias: Some(tensors.vector(rng, &name("k_bias"), kv, 0.0, 0.5)),
            v_bias: None,
            q_norm: None,
            k_norm: None,
            attn_out: tensors.matrix(rng, &name("attn_out"), self.dtype, hidden, q),
            post_attn_norm: None,
            ffn_norm: tensors.vector(rng, &name("ffn_norm"), hidden, 1.0, 0.2),
            gate: tensors.matrix(rng, &name("gate"), self.dtype, ffn, hidden),
            up: tensors.matrix(rng, &name("up"), self.dtype, ffn, hidden),
            down: tensors.matrix(rng, &name("down"), self.dtype, hidden, ffn),
            post_ffn_norm: None,
        };
        LayerSpec {
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            intermediate_size: ffn,
            window: self.window,
            rope: 0,
            score_scale: 1.0 / (self.head_dim as f32).sqrt(),
            activation: Activation::Silu,
            tensors,
        }
    }
}
