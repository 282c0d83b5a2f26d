//! Architectures: one file each, which reads a model's metadata and names its tensors. To add one, write its `build` with
//! the helpers here and give it a line in [`build_spec`].

mod keys;
mod llama;

use std::cell::RefCell;
use std::collections::HashSet;

use crate::weights::{Metadata, TensorList, TensorSource, TensorView, Unread, WeightsError, quoted};

use super::spec::{EmbedSpec, HeadSpec, MatrixRef, ModelSpec, RopePairing, RopeTable, VectorRef};
use keys::ArchKeys;

const LAYERS_MAX: u32 = 1 << 10;
const HIDDEN_SIZE_MAX: u32 = 1 << 17;
const INTERMEDIATE_SIZE_MAX: u32 = 1 << 20;
const HEADS_MAX: u32 = 1 << 10;
const HEAD_DIM_MAX: u32 = 1 << 10;
const CONTEXT_TOKENS_MAX: u32 = 1 << 26;
const VOCAB_SIZE_MAX: u32 = (1 << 20) - 1;

/// Names the tokens; their number is the vocabulary's size.
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";

/// The spec of the model that `metadata` and `tensors` describe, chosen by `general.architecture`.
///
/// # Errors
/// An architecture that kiln does not know, a key that is missing, of another type or out of range, a tensor that is
/// missing or has another shape than the metadata say, and whatever the file has beyond the model that is built: tensors
/// that it does not use and keys that might change its numbers.
pub fn build_spec(metadata: &Metadata, tensors: &dyn TensorList) -> Result<ModelSpec, WeightsError> {
    keys::refuse_other_files(metadata)?;
    let keys = ArchKeys::new(metadata)?;
    let read = ReadTensors { source: tensors, names: RefCell::default() };
    let spec = match keys.architecture {
        "llama" => llama::build(&keys, &read)?,
        other => {
            let expected = "\"llama\", the one architecture that kiln runs";
            return Err(WeightsError::invalid("metadata key general.architecture", expected, quoted(other)));
        }
    };
    keys.refuse_unread()?;
    read.refuse_unread(tensors, keys.architecture)?;
    Ok(spec)
}

/// Tensors, and which of them a builder has asked for: it asks for what it uses.
struct ReadTensors<'a> {
    source: &'a dyn TensorSource,
    names: RefCell<HashSet<String>>,
}

impl TensorSource for ReadTensors<'_> {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.names.borrow_mut().insert(name.to_owned());
        self.source.tensor(name)
    }
}

impl ReadTensors<'_> {
    fn refuse_unread(&self, all: &dyn TensorList, architecture: &str) -> Result<(), WeightsError> {
        let read = self.names.borrow();
        let names: Vec<String> = all.names().filter(|name| !read.contains(*name)).map(str::to_owned).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(WeightsError::Unread { kind: Unread::Tensors, names, architecture: architecture.to_owned() })
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
        let head_dim = match keys.opt_size("attention.key_length", HEAD_DIM_MAX)? {
            Some(head_dim) => head_dim,
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
    // The second key is what files of before August 2023 have.
    let factor = f64::from(keys.positive_or("rope.scaling.factor", keys.positive_or("rope.scale_linear", 1.0)?)?);
    let linear = match keys.opt_str("rope.scaling.type")?.unwrap_or("linear") {
        "none" => 1.0,
        "linear" => factor,
        other => return Err(keys.invalid("rope.scaling.type", "\"none\" or \"linear\"", quoted(other))),
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

/// The token embedding. The vocabulary is what the tokenizer has tokens for, or `vocab_size` in a file without tokens;
/// further rows are padding, which nothing can name and which is never computed.
fn embedding(
    keys: &ArchKeys,
    tensors: &dyn TensorSource,
    hidden_size: u32,
    scale: f32,
) -> Result<EmbedSpec, WeightsError> {
    let name = "token_embd.weight";
    let view = tensors.tensor(name).ok_or_else(|| WeightsError::MissingTensor {
        name: name.into(),
        expected: format!("vocabulary x {hidden_size}"),
    })?;
    let rows = u32::try_from(view.rows).ok().filter(|rows| (1..=VOCAB_SIZE_MAX).contains(rows));
    let rows = rows.ok_or_else(|| {
        WeightsError::invalid(format!("tensor {name}"), format!("1 to {VOCAB_SIZE_MAX} rows"), view.rows)
    })?;
    let vocab_size = keys.size_or("vocab_size", rows, rows)?;
    let vocab_size = match keys.metadata.opt_str_array(TOKENS_KEY)?.map(|tokens| tokens.len()) {
        None => vocab_size,
        Some(tokens) => u32::try_from(tokens).ok().filter(|tokens| (1..=rows).contains(tokens)).ok_or_else(|| {
            let expected = format!("1 to {rows} tokens, as many as tensor {name} has rows");
            WeightsError::invalid(format!("metadata key {TOKENS_KEY}"), expected, tokens)
        })?,
    };
    Ok(EmbedSpec { table: MatrixRef::find_leading(tensors, name, vocab_size, rows, hidden_size)?, scale })
}

/// The final norm and `output.weight`, or the embedding where a file has none.
fn head(tensors: &dyn TensorSource, embed: &EmbedSpec) -> Result<HeadSpec, WeightsError> {
    let MatrixRef { rows, tensor_rows, cols, .. } = embed.table;
    let matrix = match tensors.tensor("output.weight") {
        Some(_) => MatrixRef::find_leading(tensors, "output.weight", rows, tensor_rows, cols)?,
        None => embed.table.clone(),
    };
    Ok(HeadSpec { norm: VectorRef::find(tensors, "output_norm.weight", cols)?, matrix })
}
