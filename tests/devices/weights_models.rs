//! Model files as a whole: what is in them and not read, vocabularies with more rows than tokens, and what `kiln inspect`
//! shows of them.

use crate::common;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::llama_file::{LlamaFile, latin1, write};
use crate::common::synthetic::Rng;
use crate::common::{Tested, log_softmax, reference, rows_of};
use kiln::device::reference::Mode;
use kiln::device::{Batch, Checkpoint, Choice, SampleRow, SlotStart};
use kiln::ids::{BlockId, SlotId};
use kiln::model::{Program, build_spec};
use kiln::weights::testing::{FieldKind, GgufWriter};
use kiln::weights::{DType, GgufFile, MetaArray, MetaValue, TensorList, TensorSource, TensorView, gguf};
use serde_json::Value;

/// The last row's logits of a short prompt, and what is chosen from them: drawn at a high temperature with many seeds,
/// greedily with the 20 best log-probabilities, and as a beam search's candidates.
fn logits_and_choices(tested: &Tested, path: &Path) -> (Vec<f32>, Vec<kiln::device::Sampled>) {
    let file = GgufFile::open(path).unwrap();
    let program = Program::of(&build_spec(file.metadata(), &file).unwrap());
    let limits = common::limits_one_sequence(32, 1);
    let blocks: Vec<BlockId> = (0..limits.num_blocks).map(BlockId).collect();
    let mut device = tested.ready(&program, &file, &limits);
    let draw = |seed| Choice::Draw {
        temperature: 100.0,
        top_k: 0,
        top_p_q32: 1 << 32,
        min_p: 0.0,
        seed,
        choice_index: 0,
        output_index: 0,
    };
    let with_logprobs = SampleRow { logprobs: Some(20), ..SampleRow::plain(0, SlotId(0), Choice::Greedy) };
    let mut rows = vec![with_logprobs, SampleRow::plain(0, SlotId(0), Choice::Candidates { count: 20 })];
    rows.extend((0..40).map(|seed| SampleRow::plain(0, SlotId(0), draw(seed))));
    let (mut logits, mut sampled) = (Vec::new(), Vec::new());
    for row in rows {
        let seq = rows_of(&[3, 7, 31, 0, 12], 0, &blocks, vec![4]);
        device.submit(&Batch { starts: vec![SlotStart::default()], seqs: vec![seq] }).unwrap();
        device.sample(&[row]).unwrap();
        sampled.extend(device.collect().unwrap().sampled);
        logits = device.read(Checkpoint::Logits).unwrap();
    }
    (logits, sampled)
}

#[test]
fn rows_without_a_token_are_neither_computed_nor_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let mut tested = common::devices();
    if !common::simulated::is_child() {
        tested.extend([reference(Mode::F32), reference(Mode::Int8)]);
    }
    for (tokens, rows, dtype, has_tied_head) in [
        (33, 64, DType::F32, false),
        (63, 65, DType::Q8_0, false),
        (259, 320, DType::F32, true),
        (64, 257, DType::Q4_0, true),
        (40, 41, DType::F16, false),
    ] {
        let padded = LlamaFile { tokens, rows, dtype, has_tied_head };
        let plain = LlamaFile { rows: tokens, ..padded };
        let [padded, plain] =
            [padded, plain].map(|file| write(folder.path(), &format!("{}.gguf", file.rows), &file.writer()));
        for tested in &tested {
            let name = format!("{}: {tokens} of {rows} rows, {dtype}", tested.name);
            let (logits, sampled) = logits_and_choices(tested, &padded);
            assert_eq!(logits.len(), tokens as usize, "{name}");
            assert!(logits.iter().all(|logit| logit.is_finite()), "{name}");
            assert_eq!((logits.clone(), sampled.clone()), logits_and_choices(tested, &plain), "{name}");
            let logprobs = log_softmax(&logits);
            for sampled in &sampled {
                assert!(sampled.token.unwrap().0 < tokens, "{name}");
                assert!(sampled.top.iter().all(|(id, _)| id.0 < tokens), "{name}");
            }
            for sampled in &sampled[..2] {
                assert_eq!(sampled.top.len(), 20, "{name}");
                for (id, logprob) in &sampled.top {
                    let expected = logprobs[id.index()];
                    assert!((f64::from(*logprob) - expected).abs() <= 1e-4, "{name}: {logprob} for {expected}");
                }
            }
            let distinct: std::collections::BTreeSet<u32> = sampled[2..].iter().map(|s| s.token.unwrap().0).collect();
            assert!(distinct.len() >= 10, "{name}: draws at a high temperature are {distinct:?}");
        }
    }
}

common::simulated::on_the_simulated_gpu! {
    rows_without_a_token_are_neither_computed_nor_chosen
}

fn kiln(args: &[&str], path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg(args[0]).arg("-m").arg(path).args(&args[1..]).stdin(Stdio::null());
    command
}

fn succeeds(args: &[&str], path: &Path) -> String {
    let Output { status, stdout, stderr } = kiln(args, path).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The error of a command that fails with status 1 and prints nothing else.
fn fails(args: &[&str], path: &Path) -> String {
    let Output { status, stdout, stderr } = kiln(args, path).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len()), (Some(1), 0), "{args:?}: {stderr}");
    stderr
}

#[test]
fn samples_and_beams_of_a_padded_vocabulary_have_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = LlamaFile { rows: 320, ..LlamaFile::PLAIN };
    let path = write(folder.path(), "padded.gguf", &file.writer());
    let common = ["run", "--raw", "--json", "-n", "12", "--ignore-eos", "--device", "cpu"];
    for more in [
        &["--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "3", "--logprobs", "20"][..],
        &["--beams", "8", "--n", "8"],
    ] {
        let said = succeeds(&[&common[..], more, &["hi"]].concat(), &path);
        for line in said.lines() {
            let answer: Value = serde_json::from_str(line).unwrap();
            let ids = answer["output_ids"].as_array().unwrap();
            assert_eq!(ids.len(), 12, "{answer}");
            assert!(ids.iter().all(|id| id.as_u64().unwrap() < 259), "{answer}");
            let top = answer["logprobs"].as_array().into_iter().flatten().flat_map(|l| l["top"].as_array().unwrap());
            assert!(top.clone().count() == 0 || top.clone().count() == 12 * 20, "{answer}");
            assert!(top.into_iter().all(|pair| pair[0].as_u64().unwrap() < 259), "{answer}");
        }
    }
    let shown = succeeds(&["inspect"], &path);
    assert!(shown.contains("vocabulary 259") && shown.contains("61 rows of the vocabulary have no token"), "{shown}");
    let fewer = LlamaFile { tokens: 260, rows: 260, ..file };
    let mut writer = fewer.writer();
    writer.metadata("llama.vocab_size", 261u32);
    let error = fails(&["run", "hi"], &write(folder.path(), "fewer.gguf", &writer));
    assert!(error.contains("fewer.gguf: metadata key llama.vocab_size: expected 1 to 260, found 261"), "{error}");
}

type Change = fn(&mut GgufWriter) -> &mut GgufWriter;

#[test]
fn nothing_of_a_file_is_ignored_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let refused: [(&str, Change, &str); 8] = [
        ("bias", |w| w.tensor_f32("blk.0.ffn_down.bias", &[32], &[0.0; 32]), "tensor blk.0.ffn_down.bias: expected"),
        ("layer", |w| w.tensor_f32("blk.1.attn_norm.weight", &[32], &[0.0; 32]), "tensor blk.1.attn_norm.weight:"),
        ("factors", |w| w.tensor_f32("rope_factors_long.weight", &[8], &[1.0; 8]), "tensor rope_factors_long.weight:"),
        ("cap", |w| w.metadata("llama.final_logit_softcapping", 30.0f32), "llama.final_logit_softcapping: expected 0"),
        ("unknown", |w| w.metadata("llama.swirl.angle", 1u32), "metadata key llama.swirl.angle:"),
        (
            "charsmap",
            |w| w.metadata("tokenizer.ggml.precompiled_charsmap", MetaArray::U8(vec![1, 2])),
            "precompiled_charsmap",
        ),
        ("adapter", |w| w.metadata("general.type", "adapter"), "general.type: expected \"model\""),
        ("shard", |w| w.metadata("split.count", MetaValue::U16(2)), "split.count"),
    ];
    for (name, change, expected) in refused {
        let mut writer = LlamaFile::PLAIN.writer();
        change(&mut writer);
        let error = fails(&["run", "--raw", "-n", "1", "hi"], &write(folder.path(), name, &writer));
        assert!(error.contains(expected) && error.starts_with("error: "), "{name}: {error}");
    }
    let loaded: [(&str, Change); 5] = [
        ("plain", |w| w),
        ("author", |w| w.metadata("general.author", latin1())),
        ("name", |w| w.metadata("general.description", latin1())),
        ("flag", |w| {
            w.metadata("my.flag", MetaValue::RawBool(2)).metadata("my.flags", MetaArray::RawBools(vec![0, 3]))
        }),
        ("tags", |w| w.metadata("tokenizer.ggml.padding_token_id", 258u32).metadata("general.sampling.temp", 0.5f32)),
    ];
    let mut texts = Vec::new();
    for (name, change) in loaded {
        let mut writer = LlamaFile::PLAIN.writer();
        change(&mut writer);
        let path = write(folder.path(), name, &writer);
        texts.push(succeeds(&["run", "--raw", "--quiet", "--temp", "0", "-n", "4", "hi"], &path));
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
}

/// A file in memory.
struct Parsed<'a> {
    header: gguf::Header,
    bytes: &'a [u8],
}

impl TensorSource for Parsed<'_> {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.tensor(name).map(|info| info.view(self.bytes))
    }
}

impl TensorList for Parsed<'_> {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.header.tensors().iter().map(|info| info.name.as_str()))
    }
}

#[test]
fn spoilt_models_are_errors_with_words_or_models() {
    let mut writer = LlamaFile { tokens: 33, rows: 64, ..LlamaFile::PLAIN }.writer();
    for (key, value) in
        [("attention.key_length", 16u32), ("attention.sliding_window", 64), ("rope.dimension_count", 16)]
    {
        writer.metadata(&format!("llama.{key}"), value);
    }
    writer.metadata("llama.rope.freq_base", 5e5f32).metadata("llama.rope.scaling.factor", 2.0f32);
    writer.metadata("llama.vocab_size", 64u32).metadata("llama.rope.scaling.type", "linear");
    let whole = writer.write();
    let mut rng = Rng(7);
    let (mut built, mut refused) = (0, 0);
    for execution in 0..5000 {
        let mut file = whole.clone();
        for _ in 0..=rng.below(2) {
            let field = file.fields[rng.below(file.fields.len())].clone();
            let bits = rng.below(65) as u32;
            let noise = rng.next_u64();
            let value =
                [noise.checked_shr(bits).unwrap_or(0), 1u64.checked_shl(bits).unwrap_or(0), !0, 0][rng.below(4)];
            file.set(&field, value);
        }
        let Ok(header) = gguf::parse(&file.bytes) else { continue };
        let parsed = Parsed { header, bytes: &file.bytes };
        match build_spec(&parsed.header.metadata, &parsed) {
            Ok(spec) => {
                built += 1;
                assert!(spec.vocab_size <= 64 && spec.layers.len() == 1, "execution {execution}: {spec:?}");
                assert_eq!(Program::of(&spec).ops.len(), 7, "execution {execution}");
                spec.head.matrix.view(&parsed).unwrap();
            }
            Err(error) => {
                refused += 1;
                let message = error.to_string();
                assert!(!message.is_empty() && !message.chars().any(char::is_control), "{execution}: {message:?}");
            }
        }
    }
    assert!(built > 500 && refused > 500, "{built} models and {refused} refusals of 5000 files have stopped testing");
}

#[test]
fn values_that_are_read_must_be_what_their_type_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LlamaFile::PLAIN.writer();
    writer.metadata("tokenizer.ggml.add_space_prefix", false).metadata("llama.rope.scaling.type", latin1());
    let error = fails(&["run", "hi"], &write(folder.path(), "scaling.gguf", &writer));
    let expected =
        r#"metadata key llama.rope.scaling.type: expected string, found string: "Ren\xe9": incomplete utf-8"#;
    assert!(error.contains(expected), "{error}");
    let mut written = LlamaFile::PLAIN.writer().write();
    let field = written.field("tokenizer.ggml.add_bos_token", FieldKind::Scalar).clone();
    written.set(&field, 2);
    let path = folder.path().join("bos.gguf");
    std::fs::write(&path, &written.bytes).unwrap();
    let error = fails(&["tokenize", "hi"], &path);
    let expected =
        "metadata key tokenizer.ggml.add_bos_token: expected bool, found bool: a bool of 2 (0 and 1 are allowed)";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn inspect_shows_files_that_kiln_cannot_run_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", "mamba")
        .metadata("mamba.ssm.state_size", 16u32)
        .metadata("general.author", latin1())
        .metadata("eps", 1e-5f32)
        .metadata("infinite", f32::INFINITY)
        .metadata("flag", MetaValue::RawBool(2))
        .metadata("tags", MetaArray::String(["a", "\"b\""].into_iter().collect()))
        .tensor("blk.0.ssm_in.weight", DType::F16, &[32, 4], &[0; 256]);
    let path = write(folder.path(), "mamba.gguf", &writer);
    let text = succeeds(&["inspect", "--tensors", "--program"], &path);
    for line in [
        "mamba.gguf  (mamba F16)\n",
        "  mamba.ssm.state_size = 16\n",
        "  general.author = \"Ren\\xe9\"\n",
        "  eps = 1e-05\n",
        "  infinite = inf\n",
        "  flag = 2\n",
        "  tags = [2 x string: \"a\", \"\\\"b\\\"\"]\n",
        "\n1 tensors, 0.00 M weights, 256 B of ",
        "\nNo program, kiln cannot run this model: metadata key general.architecture: expected \"llama\"",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    let json: Value = serde_json::from_str(&succeeds(&["inspect", "--json"], &path)).unwrap();
    let metadata = serde_json::json!({
        "general.architecture": "mamba",
        "mamba.ssm.state_size": 16,
        "general.author": {"hex": "52656ee9"},
        "eps": 1e-5,
        "infinite": "Infinity",
        "flag": 2,
        "tags": ["a", "\"b\""],
    });
    assert_eq!(json["metadata"], metadata);
    assert_eq!(json["tensors"][0]["name"], "blk.0.ssm_in.weight");
    assert_eq!((&json["program"], &json["kv_bytes_per_token"]), (&Value::Null, &Value::Null));
    assert!(json["not_built"].as_str().unwrap().contains("found \"mamba\""), "{json}");
}

#[test]
fn no_control_character_of_a_file_reaches_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let evil = "\u{1b}]0;owned\u{7}\u{202e}\u{9b}x";
    let mut unread_tensor = LlamaFile::PLAIN.writer();
    unread_tensor.tensor_f32(evil, &[1], &[0.0]).metadata(evil, evil);
    let mut unread_key = LlamaFile::PLAIN.writer();
    unread_key.metadata(&format!("llama.{evil}"), evil);
    let mut architecture = GgufWriter::new();
    architecture.metadata("general.architecture", evil).metadata("general.name", evil);
    let mut twice = GgufWriter::new();
    twice.metadata(evil, true).metadata(evil, true);
    let mut value = LlamaFile::PLAIN.writer();
    value.metadata("llama.hidden_activation", evil);
    for (index, writer) in [unread_tensor, unread_key, architecture, twice, value].iter().enumerate() {
        let path = write(folder.path(), &format!("{index}{evil}.gguf"), writer);
        for args in
            [&["run", "--raw", "hi"][..], &["inspect", "--tensors"], &["inspect", "--json"], &["tokenize", "hi"]]
        {
            let output = kiln(args, &path).output().unwrap();
            for bytes in [&output.stdout, &output.stderr] {
                let text = std::str::from_utf8(bytes).unwrap();
                let shown = text.chars().find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{202e}' | '\u{9b}'));
                assert_eq!(shown, None, "{index} {args:?}: {text:?}");
            }
            if args[0] != "tokenize" {
                let said = [output.stdout, output.stderr].concat();
                assert!(
                    String::from_utf8_lossy(&said).contains("owned"),
                    "{index} {args:?}: nothing to escape was shown"
                );
            }
        }
    }
}
