//! The metadata keys below an architecture's name: what a builder reads, what may stay unread, and what is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::weights::Neutral::{Any, Flag, Numbers, Texts};
use crate::weights::{KeyRule, Metadata, Neutral, Unread, WeightsError};

/// Metadata keys below the architecture's name: `block_count` is `llama.block_count`. What is asked for counts as read.
pub(super) struct ArchKeys<'a> {
    pub architecture: &'a str,
    pub metadata: &'a Metadata,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> ArchKeys<'a> {
    pub fn new(metadata: &'a Metadata) -> Result<ArchKeys<'a>, WeightsError> {
        Ok(ArchKeys { architecture: metadata.str("general.architecture")?, metadata, read: RefCell::default() })
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn reading(&self, key: &str) -> String {
        let name = self.name(key);
        self.read.borrow_mut().insert(name.clone());
        name
    }

    pub fn has(&self, key: &str) -> bool {
        self.metadata.get(&self.reading(key)).is_some()
    }

    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        self.metadata.opt_u32(&self.reading(key))
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>, WeightsError> {
        self.metadata.opt_str(&self.reading(key))
    }

    /// A size in `1..=max`.
    pub fn size(&self, key: &str, max: u32) -> Result<u32, WeightsError> {
        let value = self.metadata.u32(&self.reading(key))?;
        self.require(key, (1..=max).contains(&value), format!("1 to {max}"), value)?;
        Ok(value)
    }

    pub fn opt_size(&self, key: &str, max: u32) -> Result<Option<u32>, WeightsError> {
        if self.has(key) { self.size(key, max).map(Some) } else { Ok(None) }
    }

    pub fn size_or(&self, key: &str, max: u32, default: u32) -> Result<u32, WeightsError> {
        Ok(self.opt_size(key, max)?.unwrap_or(default))
    }

    /// A finite float above zero.
    pub fn positive(&self, key: &str) -> Result<f32, WeightsError> {
        let value = self.metadata.f32(&self.reading(key))?;
        self.require(key, value.is_finite() && value > 0.0, "a finite number above 0", value)?;
        Ok(value)
    }

    pub fn positive_or(&self, key: &str, default: f32) -> Result<f32, WeightsError> {
        if self.has(key) { self.positive(key) } else { Ok(default) }
    }

    pub fn require(
        &self,
        key: &str,
        holds: bool,
        expected: impl ToString,
        found: impl ToString,
    ) -> Result<(), WeightsError> {
        if holds { Ok(()) } else { Err(self.invalid(key, expected, found)) }
    }

    pub fn invalid(&self, key: &str, expected: impl ToString, found: impl ToString) -> WeightsError {
        WeightsError::invalid(format!("metadata key {}", self.name(key)), expected, found)
    }

    /// The file's keys below the architecture's name that nothing has read, without that prefix.
    fn unread(&self) -> impl Iterator<Item = (&'a str, &'a crate::weights::MetaValue)> {
        let prefix = self.name("");
        let read = self.read.borrow().clone();
        let unread = self.metadata.iter().filter(move |(key, _)| !read.contains(*key));
        unread.filter_map(move |(key, value)| Some((key.strip_prefix(&prefix)?, value)))
    }

    /// Refuses what is known to change numbers, unless a builder has read it before. Builders call this early: a feature
    /// that kiln lacks explains tensors that are missing or have other shapes.
    pub fn refuse_features(&self) -> Result<(), WeightsError> {
        for (key, value) in self.unread() {
            if let Some(rule) = KeyRule::find(UNREAD, key) {
                rule.check(&self.name(key), value)?;
            }
        }
        Ok(())
    }

    /// Refuses, once a builder is done, what it has not read and what therefore might change numbers.
    pub fn refuse_unread(&self) -> Result<(), WeightsError> {
        self.refuse_features()?;
        let unknown = self.unread().filter(|(key, _)| KeyRule::find(UNREAD, key).is_none());
        let names: Vec<String> = unknown.map(|(key, _)| self.name(key)).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(WeightsError::Unread { kind: Unread::MetadataKeys, names, architecture: self.architecture.to_owned() })
    }
}

/// Refuses what is no whole model, or stores its weights in another way.
pub(super) fn refuse_other_files(metadata: &Metadata) -> Result<(), WeightsError> {
    for rule in GENERAL {
        if let Some(value) = metadata.get(rule.key) {
            rule.check(rule.key, value)?;
        }
    }
    Ok(())
}

/// General keys that no code reads. All others describe a file to people or to programs that write files.
#[rustfmt::skip]
const GENERAL: &[KeyRule] = &[
    KeyRule { key: "general.type", neutral: Texts(&["model"]), why: "adapters, projectors and other companions of a model do not run alone" },
    KeyRule { key: "general.quantization_version", neutral: Numbers(&[2.0]), why: "older versions of the block formats have other layouts" },
    KeyRule { key: "split.count", neutral: Numbers(&[0.0, 1.0]), why: "this is one part of a model: llama-gguf-split --merge makes one file of all" },
];

const OFF: Neutral = Numbers(&[0.0]);
/// Writers put 0 where a factor is not set.
const NO_FACTOR: Neutral = Numbers(&[0.0, 1.0]);

/// Keys that a builder need not read. A builder for an architecture in which one of them matters reads it.
#[rustfmt::skip]
const UNREAD: &[KeyRule] = &[
    KeyRule { key: "expert_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_used_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_shared_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_group_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_group_used_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_feed_forward_length", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_shared_feed_forward_length", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_weights_scale", neutral: NO_FACTOR, why: "mixture of experts is not supported" },
    KeyRule { key: "expert_weights_norm", neutral: Flag(false), why: "mixture of experts is not supported" },
    KeyRule { key: "expert_gating_func", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "interleave_moe_layer_step", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "leading_dense_block_count", neutral: OFF, why: "mixture of experts is not supported" },
    KeyRule { key: "nextn_predict_layers", neutral: OFF, why: "layers that predict several tokens are not supported" },
    KeyRule { key: "attn_logit_softcapping", neutral: OFF, why: "capped attention scores are not supported" },
    KeyRule { key: "final_logit_softcapping", neutral: OFF, why: "capped logits are not supported" },
    KeyRule { key: "logit_scale", neutral: NO_FACTOR, why: "logits are not scaled" },
    KeyRule { key: "embedding_scale", neutral: NO_FACTOR, why: "embeddings are not scaled in this architecture" },
    KeyRule { key: "residual_scale", neutral: NO_FACTOR, why: "residuals are not scaled" },
    KeyRule { key: "attention.scale", neutral: OFF, why: "scores are scaled by 1 / sqrt(key length)" },
    KeyRule { key: "attention.output_scale", neutral: NO_FACTOR, why: "attention outputs are not scaled" },
    KeyRule { key: "attention.value_scale", neutral: NO_FACTOR, why: "values are not scaled" },
    KeyRule { key: "attention.temperature_scale", neutral: OFF, why: "scores do not depend on positions" },
    KeyRule { key: "attention.clamp_kqv", neutral: OFF, why: "queries, keys and values are not clamped" },
    KeyRule { key: "attention.max_alibi_bias", neutral: OFF, why: "ALiBi is not supported" },
    KeyRule { key: "attention.causal", neutral: Flag(true), why: "a token attends to those before it only" },
    KeyRule { key: "pooling_type", neutral: OFF, why: "models that embed texts are not supported" },
    KeyRule { key: "use_parallel_residual", neutral: Flag(false), why: "attention and feed-forward run one after the other" },
    KeyRule { key: "hidden_activation", neutral: Texts(&["silu", "swish"]), why: "the activation of this architecture is SiLU" },
    KeyRule { key: "rope.scaling.attn_factor", neutral: Numbers(&[1.0]), why: "queries and keys are rotated, not scaled" },
    KeyRule { key: "rope.scaling.alpha", neutral: NO_FACTOR, why: "RoPE is scaled linearly or not at all" },
    KeyRule { key: "rope.scaling.original_context_length", neutral: Any, why: "read with YaRN and LongRoPE only, which `rope.scaling.type` names" },
    KeyRule { key: "rope.scaling.finetuned", neutral: Any, why: "whether training went on after the scaling: changes nothing" },
    KeyRule { key: "tensor_data_layout", neutral: Texts(&["Meta AI original pth"]), why: "the order of rows that RoPE's adjacent pairs need" },
];
