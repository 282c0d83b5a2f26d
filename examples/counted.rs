//! One step of a model on the CUDA device, for `cargo xtask counters`: what the simulated GPU reports of it is the result.
//!
//! `counted decode|prefill MODEL`, where MODEL is a GGUF file, or `SHAPE:FORMAT` for one random layer, such as `llama-3-8b:Q4_K`. Prints
//! the step's floor as JSON.

#[allow(dead_code, clippy::unwrap_used)] // Made for tests, which use more of it and panic.
#[path = "../tests/common/synthetic.rs"]
mod synthetic;

use std::error::Error;

use kiln::device::cuda::CudaDevice;
use kiln::device::sampler::{Choice, SampleRow};
use kiln::device::{Batch, BatchSeq, Device, InputToken, KvCacheDType, Limits, SlotStart};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{BatchShape, ModelSpec, Program, build_spec};
use kiln::weights::{DType, GgufFile, TensorSource};

use synthetic::TinyModel;

const BLOCK_TOKENS: u32 = 16;
/// Rows of a prompt: one group of rows of the matrix-matrix kernel and a part of a second.
const PREFILL_ROWS: u32 = 96;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [step, model] = args.as_slice() else { return Err("expected: counted decode|prefill MODEL".into()) };
    match model.split_once(':') {
        Some((shape, format)) => {
            let (spec, tensors) = layer(shape, format)?;
            run(step, &spec, &tensors)
        }
        None => {
            let file = GgufFile::open(model.as_ref())?;
            run(step, &build_spec(file.metadata(), &file)?, &file)
        }
    }
}

/// One layer at a model's sizes, with a small vocabulary and without biases.
fn layer(shape: &str, format: &str) -> Result<(ModelSpec, synthetic::Tensors), Box<dyn Error>> {
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.to_string() == format);
    let dtype = dtype.ok_or_else(|| format!("{format} is no format"))?;
    let (hidden_size, heads, head_dim, intermediate_size) = match shape {
        "llama-3-8b" => (4096, (32, 8), 128, 14336),
        "smollm2" => (576, (9, 3), 64, 1536),
        // Heads of Llama-3-8B, in a layer that is quick to simulate.
        "narrow" => (512, (8, 2), 128, 1024),
        _ => return Err(format!("{shape} is no shape").into()),
    };
    let tiny = TinyModel {
        num_layers: 1,
        hidden_size,
        num_heads: heads.0,
        num_kv_heads: heads.1,
        head_dim,
        intermediate_size,
        vocab_size: 1024,
        window: None,
        dtype,
    };
    let (mut spec, tensors) = tiny.build(1);
    let layer = &mut spec.layers[0].tensors;
    (layer.q_bias, layer.k_bias) = (None, None);
    Ok((spec, tensors))
}

fn run(step: &str, spec: &ModelSpec, weights: &dyn TensorSource) -> Result<(), Box<dyn Error>> {
    // A decode row sees as many keys as SmolLM2's answers have, and in wide layers a long context.
    let (rows, position) = match step {
        "decode" if spec.hidden_size < 4096 => (1, 127),
        "decode" => (1, 4095),
        "prefill" => (PREFILL_ROWS, 0),
        _ => return Err(format!("{step} is no step").into()),
    };
    let tokens_max = position + rows;
    let limits = Limits {
        slots_max: 1,
        context_tokens_max: tokens_max,
        step_rows_max: rows,
        logit_rows_max: 1,
        block_tokens: BLOCK_TOKENS,
        num_blocks: tokens_max.div_ceil(BLOCK_TOKENS),
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    };
    let program = Program::of(spec);
    let mut device = CudaDevice::prepare(&program, weights, &limits, 0)?;
    let slot = SlotId(0);
    let start = SlotStart { slot, ..SlotStart::default() };
    let tokens = (0..rows).map(|i| InputToken::Id(TokenId(i % spec.vocab_size))).collect();
    let seq = BatchSeq {
        slot,
        position_start: position,
        tokens,
        block_table: (0..limits.num_blocks).map(BlockId).collect(),
        logit_rows: vec![rows - 1],
    };
    device.submit(&Batch { starts: vec![start], seqs: vec![seq] })?;
    device.sample(&[SampleRow::plain(0, slot, Choice::Greedy)])?;
    device.collect()?;
    let pairs = (position..tokens_max).map(|at| u64::from(at) + 1).sum();
    let shape = BatchShape {
        rows: rows.into(),
        logit_rows: 1,
        kv_tokens: tokens_max.into(),
        attended_pairs: pairs,
        ..BatchShape::default()
    };
    println!("{{\"bytes\": {}}}", program.cost(&shape).bytes());
    Ok(())
}
