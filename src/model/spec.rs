//! A model as data: sizes, and per layer its tensors and the facts in which architectures differ.

use crate::weights::{DType, TensorSource, TensorView, WeightsError};

use super::kv_cache::KvCacheDType;

/// A matrix by the name of its tensor: `rows` outputs of `cols` inputs, the tensor's first ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixRef {
    pub name: String,
    pub rows: u32,
    /// Rows of the whole tensor; what is above `rows` is padding that no device reads.
    pub tensor_rows: u32,
    pub cols: u32,
    pub dtype: DType,
}

/// A vector of `len` weights by name (norm weights, biases).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorRef {
    pub name: String,
    pub len: u32,
}

impl MatrixRef {
    /// Describes tensor `name` of `source`, which must be `rows` x `cols`.
    pub fn find(source: &dyn TensorSource, name: &str, rows: u32, cols: u32) -> Result<Self, WeightsError> {
        MatrixRef::find_leading(source, name, rows, rows, cols)
    }

    /// Describes the first `rows` rows of tensor `name` of `source`, which must be `tensor_rows` x `cols`.
    pub fn find_leading(
        source: &dyn TensorSource,
        name: &str,
        rows: u32,
        tensor_rows: u32,
        cols: u32,
    ) -> Result<Self, WeightsError> {
        let view = fetch(source, name, tensor_rows, cols)?;
        Ok(MatrixRef { name: name.to_owned(), rows: rows.min(tensor_rows), tensor_rows, cols, dtype: view.dtype })
    }

    /// The matrix's bytes, padding left out, its shape and format checked again.
    pub fn view<'a>(&self, source: &'a dyn TensorSource) -> Result<TensorView<'a>, WeightsError> {
        let view = fetch(source, &self.name, self.tensor_rows, self.cols)?;
        if view.dtype != self.dtype {
            return Err(WeightsError::invalid(format!("tensor {}", self.name), self.dtype, view.dtype));
        }
        Ok(view.leading_rows(u64::from(self.rows)))
    }

    /// Bytes of the matrix as stored in the file, padding left out.
    pub fn stored_bytes(&self) -> u64 {
        self.dtype.row_bytes(u64::from(self.cols)).unwrap_or(0) * u64::from(self.rows)
    }
}

impl VectorRef {
    /// Describes vector `name` of `source`, which must have `len` elements.
    pub fn find(source: &dyn TensorSource, name: &str, len: u32) -> Result<Self, WeightsError> {
        fetch(source, name, 1, len)?;
        Ok(VectorRef { name: name.to_owned(), len })
    }

    /// Like [`VectorRef::find`], but `None` if the file has no such tensor.
    pub fn find_optional(source: &dyn TensorSource, name: &str, len: u32) -> Result<Option<Self>, WeightsError> {
        match source.tensor(name) {
            Some(_) => Self::find(source, name, len).map(Some),
            None => Ok(None),
        }
    }

    /// The vector as f32.
    pub fn values(&self, source: &dyn TensorSource) -> Result<Vec<f32>, WeightsError> {
        let view = fetch(source, &self.name, 1, self.len)?;
        let mut values = vec![0.0; self.len as usize];
        crate::weights::dequantise_row(view.dtype, view.data, &mut values);
        Ok(values)
    }
}

fn fetch<'a>(source: &'a dyn TensorSource, name: &str, rows: u32, cols: u32) -> Result<TensorView<'a>, WeightsError> {
    let view = source
        .tensor(name)
        .ok_or_else(|| WeightsError::MissingTensor { name: name.to_owned(), expected: format!("{rows} x {cols}") })?;
    if (view.rows, view.cols) != (u64::from(rows), u64::from(cols)) {
        return Err(WeightsError::invalid(
            format!("tensor {name}"),
            format!("{rows} x {cols}"),
            format!("{} x {}", view.rows, view.cols),
        ));
    }
    Ok(view)
}

/// Which two elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `2i` and `2i + 1`: GGUF files of the llama family, whose converter permutes the rows of Q and K so.
    Adjacent,
    /// `i` and `i + rotary_dims / 2`: as in the GPT-NeoX lineage and Hugging Face's code.
    Halves,
}

/// One RoPE table. Pair `i` at position `p` turns by `p * inv_freq[i]`; cosine and sine are scaled by `magnitude`.
/// Dimensions from `2 * inv_freq.len()` on are left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    pub pairing: RopePairing,
    pub inv_freq: Vec<f64>,
    pub magnitude: f32,
}

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// The tensors of one decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTensors {
    pub attn_norm: VectorRef,
    pub q: MatrixRef,
    pub k: MatrixRef,
    pub v: MatrixRef,
    pub q_bias: Option<VectorRef>,
    pub k_bias: Option<VectorRef>,
    pub v_bias: Option<VectorRef>,
    /// Per-head RMSNorm weights, `head_dim` long.
    pub q_norm: Option<VectorRef>,
    pub k_norm: Option<VectorRef>,
    pub attn_out: MatrixRef,
    /// Norm of the attention delta before it joins the residual (Gemma).
    pub post_attn_norm: Option<VectorRef>,
    pub ffn_norm: VectorRef,
    pub gate: MatrixRef,
    pub up: MatrixRef,
    pub down: MatrixRef,
    /// Norm of the feed-forward delta before it joins the residual (Gemma).
    pub post_ffn_norm: Option<VectorRef>,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub intermediate_size: u32,
    /// Keys a query sees, itself included; `None` is all.
    pub window: Option<u32>,
    /// Index into [`ModelSpec::rope_tables`].
    pub rope: usize,
    /// Factor on q·k.
    pub score_scale: f32,
    pub activation: Activation,
    pub tensors: LayerTensors,
}

/// Token embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedSpec {
    pub table: MatrixRef,
    /// Factor on embedded rows (1 for llama).
    pub scale: f32,
}

/// Final norm and vocabulary projection. A tied head names the embedding's matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    pub norm: VectorRef,
    pub matrix: MatrixRef,
}

/// A model: everything a device needs to know besides the bytes of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `general.architecture`, such as `llama`.
    pub architecture: String,
    /// `general.name` in printable characters, or the architecture.
    pub name: String,
    /// Tokens that can be read and chosen: the tokenizer's. Matrices of the file may have more rows; nothing computes them, so
    /// that probabilities sum to 1 over these tokens.
    pub vocab_size: u32,
    pub hidden_size: u32,
    /// The context length the model was trained for.
    pub context_tokens_trained: u32,
    pub norm_eps: f32,
    pub embed: EmbedSpec,
    pub layers: Vec<LayerSpec>,
    pub rope_tables: Vec<RopeTable>,
    pub head: HeadSpec,
}

impl ModelSpec {
    /// Whether head and embedding are one matrix.
    pub fn has_tied_head(&self) -> bool {
        self.head.matrix.name == self.embed.table.name
    }

    /// Bytes of keys and values per position over all layers.
    pub fn kv_bytes_per_token(&self, dtype: KvCacheDType) -> u64 {
        self.layers.iter().map(|l| 2 * u64::from(l.num_kv_heads) * dtype.head_bytes(l.head_dim)).sum()
    }
}
