//! Small GGUF files that kiln runs: random weights and a vocabulary of bytes.

use kiln::weights::testing::GgufWriter;
use kiln::weights::{DType, MetaArray, MetaValue, TensorSource};

use super::synthetic::{Rng, Tensors};

/// Hidden size and query rows; one KV head of 16 dimensions of two query heads.
const HIDDEN_SIZE: u32 = 32;
const HEAD_DIM: u32 = 16;
const INTERMEDIATE_SIZE: u32 = 64;

/// A llama of one layer.
#[derive(Clone, Copy, Debug)]
pub struct LlamaFile {
    /// Tokens that the tokenizer has: single bytes first, then BOS and EOS if there is room.
    pub tokens: u32,
    /// Rows of the embedding and of the head.
    pub rows: u32,
    pub dtype: DType,
    pub has_tied_head: bool,
}

impl LlamaFile {
    /// All bytes, BOS, EOS and one token more.
    pub const PLAIN: LlamaFile = LlamaFile { tokens: 259, rows: 259, dtype: DType::F32, has_tied_head: false };

    /// The file, to which a test may add what it is about. The weights of the tokens' rows do not depend on `rows`; all
    /// rows above them hold bytes of 0x7f: NaN, or numbers that overflow in any product.
    pub fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer.metadata("general.architecture", "llama").metadata("general.name", "tiny");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 256),
            ("embedding_length", HIDDEN_SIZE),
            ("feed_forward_length", INTERMEDIATE_SIZE),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            writer.metadata(&format!("llama.{key}"), value);
        }
        writer.metadata("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        self.put_tokenizer(&mut writer);
        self.put_tensors(&mut writer);
        writer
    }

    fn put_tokenizer(&self, writer: &mut GgufWriter) {
        let bytes = (0..=255u8).map(|byte| byte_char(byte).to_string());
        let others = ["<|bos|>".to_owned(), "<|eos|>".to_owned()].into_iter();
        let more = (0..).map(|i| format!("<|more{i}|>"));
        let tokens = bytes.chain(others).chain(more).take(self.tokens as usize);
        let types = (0..self.tokens).map(|id| if id < 256 { 1 } else { 3 }).collect();
        writer
            .metadata("tokenizer.ggml.model", "gpt2")
            .metadata("tokenizer.ggml.pre", "default")
            .metadata("tokenizer.ggml.tokens", MetaArray::String(tokens.collect()))
            .metadata("tokenizer.ggml.token_type", MetaArray::I32(types))
            .metadata("tokenizer.ggml.merges", MetaArray::String(std::iter::empty::<&str>().collect()))
            .metadata("tokenizer.ggml.add_bos_token", false);
        if self.tokens >= 258 {
            writer.metadata("tokenizer.ggml.bos_token_id", 256).metadata("tokenizer.ggml.eos_token_id", 257);
        }
    }

    fn put_tensors(&self, writer: &mut GgufWriter) {
        let (mut rng, mut tensors) = (Rng(11), Tensors::default());
        let mut matrix = |writer: &mut GgufWriter, name: &str, dtype, rows: u32, cols: u32, padding: u32| {
            tensors.matrix(&mut rng, name, dtype, rows, cols);
            let mut data = tensors.tensor(name).unwrap().data.to_vec();
            let row_bytes = data.len() / rows as usize;
            data.resize((rows + padding) as usize * row_bytes, 0x7f);
            writer.tensor(name, dtype, &[cols.into(), (rows + padding).into()], &data);
        };
        let padding = self.rows - self.tokens;
        // A table of floats: rows of about 1 whatever the head's format.
        let table = if self.has_tied_head { self.dtype } else { DType::F32 };
        matrix(writer, "token_embd.weight", table, self.tokens, HIDDEN_SIZE, padding);
        if !self.has_tied_head {
            matrix(writer, "output.weight", self.dtype, self.tokens, HIDDEN_SIZE, padding);
        }
        for (part, rows, cols) in [
            ("attn_q", HIDDEN_SIZE, HIDDEN_SIZE),
            ("attn_k", HEAD_DIM, HIDDEN_SIZE),
            ("attn_v", HEAD_DIM, HIDDEN_SIZE),
            ("attn_output", HIDDEN_SIZE, HIDDEN_SIZE),
            ("ffn_gate", INTERMEDIATE_SIZE, HIDDEN_SIZE),
            ("ffn_up", INTERMEDIATE_SIZE, HIDDEN_SIZE),
            ("ffn_down", HIDDEN_SIZE, INTERMEDIATE_SIZE),
        ] {
            matrix(writer, &format!("blk.0.{part}.weight"), self.dtype, rows, cols, 0);
        }
        for name in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"] {
            writer.tensor_f32(name, &[HIDDEN_SIZE.into()], &[1.0; HIDDEN_SIZE as usize]);
        }
    }
}

/// Writes `writer`'s file into `folder`.
pub fn write(folder: &std::path::Path, name: &str, writer: &GgufWriter) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, writer.write().bytes).unwrap();
    path
}

/// GPT-2's printable character for a byte: itself where it is printable, else the next of those from U+0100 on.
fn byte_char(byte: u8) -> char {
    let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !is_itself(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}

/// A string that is not UTF-8.
pub fn latin1() -> MetaValue {
    MetaValue::RawString(b"Ren\xe9".to_vec())
}
