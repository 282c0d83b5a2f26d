//! Architectures: one file each, which reads a model's metadata and names its tensors. To add one, write its `build` with
//! the helpers here and give it a line in [`build_spec`].

mod llama;

use crate::weights::{Metadata, TensorSource, WeightsError};

use super::spec::{EmbedSpec, HeadSpec, MatrixRef, ModelSpec, RopePairing, RopeTable, VectorRef};

const LAYERS_MAX: u32 = 1 << 10;
const HIDDEN_SIZE_MAX: u32 = 1 << 17;
const INTERMEDIATE_SIZE_MAX: u32 = 1 << 20;
const HEADS_MAX: u32 = 1 << 10;
const HEAD_DIM_MAX: u32 = 1 << 10;
const CONTEXT_TOKENS_MAX: u32 = 1 << 26;
const VOCAB_SIZE_MAX: u32 = (1 << 20) - 1;

/// The spec of the model that `metadata` and `tensors` describe, chosen by `general.architecture`.
///
/// # Errors
/// An architecture that kiln does not know, a key that is missing, of another type or out of range, a tensor that is
/// missing or has another shape than the metadata say.
pub fn build_spec(metadata: &Metadata, tensors: &dyn TensorSource) -> Result<ModelSpec, WeightsError> {
    match metadata.str("general.architecture")? {
        "llama" => llama::build(metadata, tensors),
        other => Err(WeightsError::invalid("metadata key general.architecture", "llama", other)),
    }
}

/// Metadata keys below the architecture's name: `block_count` is `llama.block_count`.
struct ArchKeys<'a> {
    architecture: &'a str,
    metadata: &'a Metadata,
}

impl<'a> ArchKeys<'a> {
    fn new(metadata: &'a Metadata) -> Result<ArchKeys<'a>, WeightsError> {
        Ok(ArchKeys { architecture: metadata.str("general.architecture")?, metadata })
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A size in `1..=max`.
    fn size(&self, key: &str, max: u32) -> Result<u32, WeightsError> {
        let value = self.metadata.u32(&self.key(key))?;
        self.require(key, (1..=max).contains(&value), format!("1 to {max}"), value)?;
        Ok(value)
    }

    fn size_or(&self, key: &str, max: u32, default: u32) -> Result<u32, WeightsError> {
        match self.metadata.get(&self.key(key)) {
            Some(_) => self.size(key, max),
            None => Ok(default),
        }
    }

    /// A finite float above zero.
    fn positive(&self, key: &str) -> Result<f32, WeightsError> {
        let value = self.metadata.f32(&self.key(key))?;
        self.require(key, value.is_finite() && value > 0.0, "a finite number above 0", value)?;
        Ok(value)
    }

    fn positive_or(&self, key: &str, default: f32) -> Result<f32, WeightsError> {
        match self.metadata.get(&self.key(key)) {
            Some(_) => self.positive(key),
            None => Ok(default),
        }
    }

    /// Refuses a feature that would change the numbers and that this architecture's builder does not read.
    fn refuse(&self, key: &str, why: &str) -> Result<(), WeightsError> {
        match self.metadata.opt_u32(&self.key(key))? {
            None | Some(0) => Ok(()),
            Some(value) => Err(self.invalid(key, format!("none ({why})"), value)),
        }
    }

    fn require(
        &self,
        key: &str,
        holds: bool,
        expected: impl ToString,
        found: impl ToString,
    ) -> Result<(), WeightsError> {
        if holds { Ok(()) } else { Err(self.invalid(key, expected, found)) }
    }

    fn invalid(&self, key: &str, expected: impl ToString, found: impl ToString) -> WeightsError {
        WeightsError::invalid(format!("metadata key {}", self.key(key)), expected, found)
    }
}

/// The sizes that all decoders share, checked against each other.
struct Sizes {
    num_layers: u32,
    hidden_size: u32,
    intermediate_size: u32,
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    context_tokens: u32,
    norm_eps: f32,
}

impl Sizes {
    fn read(keys: &ArchKeys) -> Result<Sizes, WeightsError> {
        let hidden_size = keys.size("embedding_length", HIDDEN_SIZE_MAX)?;
        let num_heads = keys.size("attention.head_count", HEADS_MAX)?;
        let num_kv_heads = keys.size_or("attention.head_count_kv", HEADS_MAX, num_heads)?;
        keys.require(
            "attention.head_count_kv",
            num_heads.is_multiple_of(num_kv_heads),
            format!("a divisor of {num_heads} heads"),
            num_kv_heads,
        )?;
        let head_dim = match keys.metadata.get(&keys.key("attention.key_length")) {
            Some(_) => keys.size("attention.key_length", HEAD_DIM_MAX)?,
            None => {
                let divides = hidden_size.is_multiple_of(num_heads) && hidden_size / num_heads <= HEAD_DIM_MAX;
                let expected = format!("a multiple of {num_heads} heads of at most {HEAD_DIM_MAX}");
                keys.require("embedding_length", divides, expected, hidden_size)?;
                hidden_size / num_heads
            }
        };
        keys.require("attention.key_length", head_dim.is_multiple_of(2), "an even number", head_dim)?;
        let value_dim = keys.size_or("attention.value_length", HEAD_DIM_MAX, head_dim)?;
        keys.require("attention.value_length", value_dim == head_dim, head_dim, value_dim)?;
        Ok(Sizes {
            num_layers: keys.size("block_count", LAYERS_MAX)?,
            hidden_size,
            intermediate_size: keys.size("feed_forward_length", INTERMEDIATE_SIZE_MAX)?,
            num_heads,
            num_kv_heads,
            head_dim,
            context_tokens: keys.size("context_length", CONTEXT_TOKENS_MAX)?,
            norm_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
        })
    }

    fn q_size(&self) -> u32 {
        self.num_heads * self.head_dim
    }

    fn kv_size(&self) -> u32 {
        self.num_kv_heads * self.head_dim
    }
}

/// RoPE from the keys `rope.*`: base, rotated dimensions, linear scaling, and the divisors of each pair's frequency in
/// `rope_freqs.weight` (Llama 3.1's extension, computed by the converter).
fn rope_table(
    keys: &ArchKeys,
    tensors: &dyn TensorSource,
    head_dim: u32,
    pairing: RopePairing,
) -> Result<RopeTable, WeightsError> {
    let dims = keys.size_or("rope.dimension_count", head_dim, head_dim)?;
    keys.require("rope.dimension_count", dims.is_multiple_of(2), "an even number", dims)?;
    let base = f64::from(keys.positive_or("rope.freq_base", 10_000.0)?);
    let scaling = keys.metadata.str_or(&keys.key("rope.scaling.type"), "linear")?.to_owned();
    let linear = match scaling.as_str() {
        "none" => 1.0,
        // The second key is what files of before August 2023 have.
        "linear" => f64::from(keys.positive_or("rope.scaling.factor", keys.positive_or("rope.scale_linear", 1.0)?)?),
        other => return Err(keys.invalid("rope.scaling.type", "none or linear", other)),
    };
    let mut inv_freq: Vec<f64> =
        (0..dims / 2).map(|i| base.powf(-2.0 * f64::from(i) / f64::from(dims)) / linear).collect();
    if let Some(divisors) = VectorRef::find_optional(tensors, "rope_freqs.weight", dims / 2)? {
        for (frequency, divisor) in inv_freq.iter_mut().zip(divisors.values(tensors)?) {
            if !(divisor.is_finite() && divisor > 0.0) {
                return Err(WeightsError::invalid("tensor rope_freqs.weight", "finite numbers above 0", divisor));
            }
            *frequency /= f64::from(divisor);
        }
    }
    Ok(RopeTable { pairing, inv_freq, magnitude: 1.0 })
}

/// The token embedding, whose rows are the vocabulary.
fn embedding(tensors: &dyn TensorSource, hidden_size: u32, scale: f32) -> Result<EmbedSpec, WeightsError> {
    let name = "token_embd.weight";
    let view = tensors.tensor(name).ok_or_else(|| WeightsError::MissingTensor {
        name: name.into(),
        expected: format!("vocabulary x {hidden_size}"),
    })?;
    let vocab_size = u32::try_from(view.rows).ok().filter(|rows| (1..=VOCAB_SIZE_MAX).contains(rows));
    let vocab_size = vocab_size.ok_or_else(|| {
        WeightsError::invalid(format!("tensor {name}"), format!("1 to {VOCAB_SIZE_MAX} rows"), view.rows)
    })?;
    Ok(EmbedSpec { table: MatrixRef::find(tensors, name, vocab_size, hidden_size)?, scale })
}

/// The final norm and `output.weight`, or the embedding where a file has none.
fn head(tensors: &dyn TensorSource, embed: &EmbedSpec) -> Result<HeadSpec, WeightsError> {
    let (rows, cols) = (embed.table.rows, embed.table.cols);
    let matrix = match tensors.tensor("output.weight") {
        Some(_) => MatrixRef::find(tensors, "output.weight", rows, cols)?,
        None => embed.table.clone(),
    };
    Ok(HeadSpec { norm: VectorRef::find(tensors, "output_norm.weight", cols)?, matrix })
}
