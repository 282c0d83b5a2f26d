//! `llama`: SmolLM2, Llama 2 and 3, Mistral, and everything else that converters write under this name.
//!
//! The converter permutes the rows of Q and K so that RoPE's pairs are adjacent. Mistral's window, Llama 3.1's
//! `rope_freqs.weight` and attention biases are optional facts of a file.

use crate::weights::{TensorSource, WeightsError, printable};

use super::super::spec::{Activation, LayerSpec, LayerTensors, MatrixRef, ModelSpec, RopePairing, VectorRef};
use super::{ArchKeys, CONTEXT_TOKENS_MAX, Sizes, embedding, head, rope_table};

pub(super) fn build(keys: &ArchKeys, tensors: &dyn TensorSource) -> Result<ModelSpec, WeightsError> {
    keys.refuse_features()?;
    let sizes = Sizes::read(keys)?;
    let window = match keys.opt_u32("attention.sliding_window")? {
        None | Some(0) => None,
        Some(_) => Some(keys.size("attention.sliding_window", CONTEXT_TOKENS_MAX)?),
    };
    let rope = rope_table(keys, tensors, sizes.head_dim, RopePairing::Adjacent)?;
    let layers = (0..sizes.num_layers).map(|layer| {
        Ok(LayerSpec {
            num_heads: sizes.num_heads,
            num_kv_heads: sizes.num_kv_heads,
            head_dim: sizes.head_dim,
            intermediate_size: sizes.intermediate_size,
            window,
            rope: 0,
            score_scale: (1.0 / f64::from(sizes.head_dim).sqrt()) as f32,
            activation: Activation::Silu,
            tensors: layer_tensors(tensors, layer, &sizes)?,
        })
    });
    let layers = layers.collect::<Result<Vec<_>, WeightsError>>()?;
    let embed = embedding(keys, tensors, sizes.hidden_size, 1.0)?;
    Ok(ModelSpec {
        architecture: keys.architecture.to_owned(),
        name: keys
            .metadata
            .opt_label("general.name")?
            .map_or(keys.architecture.to_owned(), |name| printable(&name).into()),
        vocab_size: embed.table.rows,
        hidden_size: sizes.hidden_size,
        context_tokens_trained: sizes.context_tokens,
        norm_eps: sizes.norm_eps,
        layers,
        rope_tables: vec![rope],
        head: head(tensors, &embed)?,
        embed,
    })
}

fn layer_tensors(tensors: &dyn TensorSource, layer: u32, sizes: &Sizes) -> Result<LayerTensors, WeightsError> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let matrix = |part: &str, rows, cols| MatrixRef::find(tensors, &name(part), rows, cols);
    let vector = |part: &str, len| VectorRef::find(tensors, &name(part), len);
    let bias = |part: &str, len| VectorRef::find_optional(tensors, &name(part), len);
    let (hidden, ffn) = (sizes.hidden_size, sizes.intermediate_size);
    Ok(LayerTensors {
        attn_norm: vector("attn_norm.weight", hidden)?,
        q: matrix("attn_q.weight", sizes.q_size(), hidden)?,
        k: matrix("attn_k.weight", sizes.kv_size(), hidden)?,
        v: matrix("attn_v.weight", sizes.kv_size(), hidden)?,
        q_bias: bias("attn_q.bias", sizes.q_size())?,
        k_bias: bias("attn_k.bias", sizes.kv_size())?,
        v_bias: bias("attn_v.bias", sizes.kv_size())?,
        q_norm: None,
        k_norm: None,
        attn_out: matrix("attn_output.weight", hidden, sizes.q_size())?,
        post_attn_norm: None,
        ffn_norm: vector("ffn_norm.weight", hidden)?,
        gate: matrix("ffn_gate.weight", ffn, hidden)?,
        up: matrix("ffn_up.weight", ffn, hidden)?,
        down: matrix("ffn_down.weight", hidden, ffn)?,
        post_ffn_norm: None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::build_spec;
    use super::*;
    use crate::weights::{DType, MetaArray, MetaValue, Metadata, TensorList, TensorView};

    struct File {
        pairs: BTreeMap<String, MetaValue>,
        tensors: BTreeMap<String, (u64, u64, Vec<u8>)>,
    }

    impl TensorSource for File {
        fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
            let (name, (rows, cols, data)) = self.tensors.get_key_value(name)?;
            Some(TensorView::new(name, DType::F32, *rows, *cols, data).unwrap())
        }
    }

    impl TensorList for File {
        fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
            Box::new(self.tensors.keys().map(String::as_str))
        }
    }

    impl File {
        /// Two layers, hidden 64, 4 heads of 16, 2 KV heads, ffn 96, vocabulary 33, tied head.
        fn new() -> File {
            let mut file = File { pairs: BTreeMap::new(), tensors: BTreeMap::new() };
            file.pairs.insert("general.architecture".into(), MetaValue::String("llama".into()));
            for (key, value) in [
                ("block_count", 2),
                ("context_length", 128),
                ("embedding_length", 64),
                ("feed_forward_length", 96),
                ("attention.head_count", 4),
                ("attention.head_count_kv", 2),
            ] {
                file.set(key, MetaValue::U32(value));
            }
            file.set("attention.layer_norm_rms_epsilon", MetaValue::F32(1e-5));
            file.put("token_embd.weight", 33, 64);
            file.put("output_norm.weight", 1, 64);
            for layer in 0..2 {
                for (part, rows, cols) in [
                    ("attn_norm", 1, 64),
                    ("attn_q", 64, 64),
                    ("attn_k", 32, 64),
                    ("attn_v", 32, 64),
                    ("attn_output", 64, 64),
                    ("ffn_norm", 1, 64),
                    ("ffn_gate", 96, 64),
                    ("ffn_up", 96, 64),
                    ("ffn_down", 64, 96),
                ] {
                    file.put(&format!("blk.{layer}.{part}.weight"), rows, cols);
                }
            }
            file
        }

        fn set(&mut self, key: &str, value: MetaValue) {
            self.pairs.insert(format!("llama.{key}"), value);
        }

        fn put(&mut self, name: &str, rows: u64, cols: u64) {
            let data = (0..rows * cols).flat_map(|i| ((i % 7 + 1) as f32).to_le_bytes()).collect();
            self.tensors.insert(name.into(), (rows, cols, data));
        }

        fn build(&self) -> Result<ModelSpec, WeightsError> {
            build_spec(&Metadata::from_pairs(self.pairs.clone())?, self)
        }
    }

    #[test]
    fn defaults_of_a_plain_file() {
        let spec = File::new().build().unwrap();
        let layer = &spec.layers[1];
        assert_eq!((spec.vocab_size, spec.hidden_size, spec.layers.len()), (33, 64, 2));
        assert_eq!((layer.num_heads, layer.num_kv_heads, layer.head_dim), (4, 2, 16));
        assert_eq!((layer.window, layer.score_scale, layer.tensors.q_bias.is_some()), (None, 0.25, false));
        assert_eq!(spec.rope_tables[0].pairing, RopePairing::Adjacent);
        assert_eq!(spec.rope_tables[0].inv_freq.len(), 8);
        assert_eq!(spec.rope_tables[0].inv_freq[4], 0.01);
        assert!(spec.has_tied_head());
    }

    #[test]
    fn optional_facts_reach_the_spec() {
        let mut file = File::new();
        file.put("output.weight", 33, 64);
        file.put("rope_freqs.weight", 1, 4);
        file.put("blk.1.attn_q.bias", 1, 64);
        file.set("rope.dimension_count", MetaValue::U32(8));
        file.set("rope.freq_base", MetaValue::F32(256.0));
        file.set("rope.scaling.type", MetaValue::String("linear".into()));
        file.set("rope.scaling.factor", MetaValue::F32(2.0));
        file.set("attention.sliding_window", MetaValue::U32(32));
        let spec = file.build().unwrap();
        assert!(!spec.has_tied_head());
        // 256^(-2i/8) = 4^-i, halved by the scaling, divided by the tensor's 1, 2, 3, 4.
        let expected = [0.5, 0.5 / 4.0 / 2.0, 0.5 / 16.0 / 3.0, 0.5 / 64.0 / 4.0];
        for (found, expected) in spec.rope_tables[0].inv_freq.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-15, "{found} {expected}");
        }
        assert_eq!(spec.layers[0].window, Some(32));
        assert!(spec.layers[0].tensors.q_bias.is_none() && spec.layers[1].tensors.q_bias.is_some());
    }

    #[test]
    fn head_dim_need_not_be_hidden_over_heads() {
        let mut file = File::new();
        file.set("attention.key_length", MetaValue::U32(32));
        assert!(matches!(file.build(), Err(WeightsError::Invalid { subject, .. }) if subject.contains("attn_q")));
        for layer in 0..2 {
            file.put(&format!("blk.{layer}.attn_q.weight"), 128, 64);
            file.put(&format!("blk.{layer}.attn_k.weight"), 64, 64);
            file.put(&format!("blk.{layer}.attn_v.weight"), 64, 64);
            file.put(&format!("blk.{layer}.attn_output.weight"), 64, 128);
        }
        assert_eq!(file.build().unwrap().layers[0].head_dim, 32);
    }

    #[test]
    fn bad_metadata_is_refused_by_name() {
        let cases: [(&str, MetaValue, &str); 15] = [
            ("embedding_length", MetaValue::U32(0), "1 to"),
            ("embedding_length", MetaValue::U32(u32::MAX), "1 to"),
            ("embedding_length", MetaValue::U32(62), "multiple of 4"),
            ("block_count", MetaValue::U32(0), "1 to"),
            ("block_count", MetaValue::U32(1 << 30), "1 to"),
            ("attention.head_count", MetaValue::U32(0), "1 to"),
            ("attention.head_count_kv", MetaValue::U32(3), "divisor of 4"),
            ("attention.head_count_kv", MetaValue::U32(0), "1 to"),
            ("attention.key_length", MetaValue::U32(15), "even"),
            ("attention.value_length", MetaValue::U32(8), "16"),
            ("attention.layer_norm_rms_epsilon", MetaValue::F32(f32::NAN), "finite"),
            ("rope.dimension_count", MetaValue::U32(18), "1 to 16"),
            ("rope.freq_base", MetaValue::F32(0.0), "above 0"),
            ("rope.scaling.type", MetaValue::String("yarn".into()), "\"none\" or \"linear\""),
            ("expert_count", MetaValue::U32(8), "mixture"),
        ];
        for (key, value, expected) in cases {
            let mut file = File::new();
            file.set(key, value);
            let message = file.build().unwrap_err().to_string();
            assert!(message.contains(&format!("llama.{key}")) && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn keys_that_change_numbers_and_that_nothing_reads_are_refused_by_name() {
        let text = |text: &str| MetaValue::String(text.into());
        let changing: [(&str, MetaValue); 20] = [
            ("rope.scaling.type", text("longrope")),
            ("rope.scaling.attn_factor", MetaValue::F32(1.5)),
            ("rope.scaling.yarn_log_multiplier", MetaValue::F32(0.1)),
            ("rope.dimension_sections", MetaArray::I32(vec![4, 2, 2, 0]).into()),
            ("attention.scale", MetaValue::F32(0.125)),
            ("attention.clamp_kqv", MetaValue::F64(8.0)),
            ("attention.max_alibi_bias", MetaValue::F32(8.0)),
            ("attention.causal", MetaValue::Bool(false)),
            ("attention.causal", MetaValue::RawBool(2)),
            ("attention.sliding_window_pattern", MetaValue::U32(6)),
            ("attention.key_length_swa", MetaValue::U32(16)),
            ("logit_scale", MetaValue::F32(8.0)),
            ("residual_scale", MetaValue::F32(0.22)),
            ("embedding_scale", MetaValue::F32(12.0)),
            ("attn_logit_softcapping", MetaValue::F32(50.0)),
            ("final_logit_softcapping", MetaValue::F32(30.0)),
            ("pooling_type", MetaValue::U32(3)),
            ("use_parallel_residual", MetaValue::Bool(true)),
            ("hidden_activation", text("gelu")),
            ("a_key_of_tomorrow", MetaValue::U32(0)),
        ];
        for (key, value) in changing {
            let mut file = File::new();
            file.set(key, value);
            let message = file.build().unwrap_err().to_string();
            assert!(message.contains(&format!("llama.{key}")), "{message}");
        }
        let mut file = File::new();
        (0..7).for_each(|i| file.set(&format!("new{i}"), MetaValue::U32(i)));
        let message = file.build().unwrap_err().to_string();
        assert!(message.starts_with("metadata keys llama.new0, llama.new1,"), "{message}");
        assert!(message.contains("and 2 more: expected only what kiln reads for llama models"), "{message}");
    }

    #[test]
    fn keys_at_values_that_change_nothing_are_fine() {
        let plain = File::new().build().unwrap();
        let mut file = File::new();
        for (key, value) in [
            ("vocab_size", MetaValue::U32(33)),
            ("expert_count", MetaValue::U32(0)),
            ("expert_used_count", MetaValue::U32(0)),
            ("logit_scale", MetaValue::F32(1.0)),
            ("attention.scale", MetaValue::F32(0.0)),
            ("attention.causal", MetaValue::Bool(true)),
            ("hidden_activation", MetaValue::String("silu".into())),
            ("rope.scaling.type", MetaValue::String("none".into())),
            ("rope.scaling.factor", MetaValue::F32(4.0)),
            ("rope.scaling.original_context_length", MetaValue::U32(4096)),
            ("rope.scaling.finetuned", MetaValue::Bool(false)),
            ("rope.scaling.attn_factor", MetaValue::F32(1.0)),
            ("tensor_data_layout", MetaValue::String("Meta AI original pth".into())),
        ] {
            file.set(key, value);
        }
        // Other prefixes are not this architecture's, and nothing reads them.
        for (key, value) in [
            ("general.author", MetaValue::RawString(b"Ren\xe9".to_vec())),
            ("llamas.logit_scale", MetaValue::F32(8.0)),
            ("custom.flag", MetaValue::RawBool(2)),
        ] {
            file.pairs.insert(key.into(), value);
        }
        assert_eq!(file.build().unwrap(), plain);
    }

    /// A value that is read must be what its type says.
    #[test]
    fn values_that_are_read_are_checked() {
        let mut file = File::new();
        file.set("rope.scaling.type", MetaValue::RawString(b"lin\xe9ar".to_vec()));
        let message = file.build().unwrap_err().to_string();
        assert!(
            message.starts_with(
                r#"metadata key llama.rope.scaling.type: expected string, found string: "lin\xe9ar": invalid utf-8"#
            ),
            "{message}"
        );
        // A name is only shown.
        let mut file = File::new();
        file.pairs.insert("general.name".into(), MetaValue::RawString(b"Ren\xe9\x1b[1m".to_vec()));
        assert_eq!(file.build().unwrap().name, "Ren\u{fffd}\\u{1b}[1m");
        for (key, value, expected) in [
            ("general.type", MetaValue::from("model"), None),
            ("general.type", "mmproj".into(), Some(r#"metadata key general.type: expected "model" (adapters"#)),
            ("general.type", MetaValue::RawString(vec![0xe9]), Some("metadata key general.type: expected \"model\"")),
            ("split.count", MetaValue::U16(1), None),
            (
                "split.count",
                MetaValue::U16(3),
                Some("metadata key split.count: expected 0 or 1 (this is one part of a model"),
            ),
            ("general.quantization_version", 2u32.into(), None),
            ("general.quantization_version", 1u32.into(), Some("general.quantization_version: expected 2 (older")),
        ] {
            let mut file = File::new();
            file.pairs.insert(key.into(), value);
            match (file.build(), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (built, _) => panic!("{key}: {built:?}"),
            }
        }
    }

    #[test]
    fn tensors_that_nothing_reads_are_refused_by_name() {
        for name in [
            "blk.0.attn_output.bias",
            "blk.1.ffn_gate.bias",
            "blk.0.attn_q_norm.weight",
            "blk.0.attn_norm.bias",
            "blk.2.attn_norm.weight",
            "blk.0.ffn_gate_inp.weight",
            "rope_factors_long.weight",
            "output_norm.bias",
            "token_embd.weight.scale",
        ] {
            let mut file = File::new();
            file.put(name, 1, 64);
            let message = file.build().unwrap_err().to_string();
            assert!(message.starts_with(&format!("tensor {name}: expected only what kiln reads")), "{message}");
        }
    }

    fn tokens(count: usize) -> MetaValue {
        MetaArray::String((0..count).map(|i| i.to_string()).collect()).into()
    }

    #[test]
    fn the_vocabulary_is_the_tokens_and_further_rows_are_padding() {
        let mut file = File::new();
        file.put("output.weight", 33, 64);
        file.pairs.insert("tokenizer.ggml.tokens".into(), tokens(30));
        file.set("vocab_size", MetaValue::U32(33));
        let spec = file.build().unwrap();
        assert_eq!(spec.vocab_size, 30);
        for matrix in [&spec.embed.table, &spec.head.matrix] {
            assert_eq!((matrix.rows, matrix.tensor_rows, matrix.stored_bytes()), (30, 33, 30 * 64 * 4));
            let view = matrix.view(&file).unwrap();
            assert_eq!((view.rows, view.data.len(), view.row_bytes()), (30, 30 * 64 * 4, 64 * 4));
        }
        // A head has the embedding's rows, padding included.
        file.put("output.weight", 30, 64);
        assert!(file.build().unwrap_err().to_string().contains("tensor output.weight: expected 33 x 64"));
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_its_rows_is_refused() {
        for count in [0, 34] {
            let mut file = File::new();
            file.pairs.insert("tokenizer.ggml.tokens".into(), tokens(count));
            let message = file.build().unwrap_err().to_string();
            let expected = format!(
                "metadata key tokenizer.ggml.tokens: expected 1 to 33 tokens, as many as tensor token_embd.weight has rows, found {count}"
            );
            assert_eq!(message, expected);
        }
        let mut file = File::new();
        file.set("vocab_size", MetaValue::U32(20));
        assert_eq!(file.build().unwrap().vocab_size, 20);
        file.set("vocab_size", MetaValue::U32(34));
        assert!(file.build().unwrap_err().to_string().contains("llama.vocab_size: expected 1 to 33, found 34"));
    }

    #[test]
    fn bad_tensors_are_refused_by_name() {
        let mut file = File::new();
        file.tensors.remove("blk.1.ffn_up.weight");
        assert!(matches!(file.build(), Err(WeightsError::MissingTensor { name, .. }) if name == "blk.1.ffn_up.weight"));
        for (name, rows, cols) in
            [("blk.0.ffn_down.weight", 96, 64), ("token_embd.weight", 33, 32), ("blk.1.attn_output.bias", 1, 64)]
        {
            let mut file = File::new();
            file.put(name, rows, cols);
            assert!(file.build().unwrap_err().to_string().contains(name), "{name}");
        }
        let mut file = File::new();
        file.pairs.insert("general.architecture".into(), MetaValue::String("mamba".into()));
        assert!(file.build().unwrap_err().to_string().contains("mamba"));
    }
}
