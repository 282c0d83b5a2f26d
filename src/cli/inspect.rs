//! `kiln inspect`: what is in a model file, and the program it becomes.

use std::io::Write;

use clap::Args;
use kiln::model::{BatchShape, Epilogue, KvCacheDType, Program, Prologue, StageOp};
use kiln::runtime::LoadedModel;
use kiln::weights::MetaValue;
use serde_json::json;

use super::CliError;
use super::args::ModelArgs;

/// Show a model file: metadata, tensors, sizes and the program of stages
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Show every tensor
    #[arg(long)]
    tensors: bool,

    /// Show the program of stages with the bytes and operations of one decode step
    #[arg(long)]
    program: bool,

    /// Print one JSON object with everything
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), CliError> {
    let model = LoadedModel::open(&args.model.path()?)?;
    let program = Program::of(model.spec());
    if args.json {
        return print_json(&model, &program);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}  ({})", model.spec().name, model.description())?;
    for (key, value) in model.file().metadata().iter() {
        writeln!(out, "  {key} = {}", short(value))?;
    }
    let tensors = model.file().tensors().len();
    writeln!(
        out,
        "\n{tensors} tensors, {:.2} M weights, {:.2} MiB of {:.2} MiB in the file",
        model.num_parameters() as f64 / 1e6,
        mib(model.tensor_bytes()),
        mib(model.file().file_bytes()),
    )?;
    if args.tensors {
        for t in model.file().tensors() {
            writeln!(
                out,
                "  {:<40} {:>6} {:>8} x {:<8} {:>10.3} MiB",
                t.name,
                t.dtype,
                t.rows,
                t.cols,
                mib(t.data.len() as u64)
            )?;
        }
    }
    let spec = model.spec();
    writeln!(
        out,
        "\n{} layers, hidden size {}, vocabulary {}, trained context {}, {} head",
        spec.layers.len(),
        spec.hidden_size,
        spec.vocab_size,
        spec.context_tokens_trained,
        if spec.has_tied_head() { "tied" } else { "untied" },
    )?;
    let kv_kib = |dtype| spec.kv_bytes_per_token(dtype) as f64 / 1024.0;
    let [f16, int8] = [KvCacheDType::F16, KvCacheDType::Int8].map(kv_kib);
    writeln!(out, "KV cache: {f16:.1} KiB per position (f16), {int8:.1} KiB (int8)")?;
    if args.program {
        print_program(&mut out, &program)?;
    }
    let step = program.cost(&decode_shape());
    writeln!(
        out,
        "\nOne decode step at position 0 reads {:.2} MiB and does {:.1} M multiply-accumulates.",
        mib(step.bytes()),
        step.macs as f64 / 1e6
    )?;
    Ok(())
}

fn print_program(out: &mut impl Write, program: &Program) -> Result<(), CliError> {
    writeln!(out, "\n  stage     layer  in -> out         weights   MACs per row")?;
    for op in &program.ops {
        let cost = op.cost(&decode_shape());
        let (layer, shape) = match op {
            StageOp::Embed(op) => (String::new(), format!("1 -> {}", op.table.cols)),
            StageOp::Linear(op) => (op.layer.to_string(), format!("{} -> {}", op.cols(), op.rows())),
            StageOp::Attend(op) => (op.layer.to_string(), format!("{} heads, {} KV", op.num_heads, op.num_kv_heads)),
        };
        let stage = format!("{:?}", op.stage());
        writeln!(out, "  {stage:<9} {layer:>5}  {shape:<15} {:>7.3} MiB {:>12}", mib(cost.weight_bytes), cost.macs)?;
    }
    Ok(())
}

/// One row at position 0.
fn decode_shape() -> BatchShape {
    BatchShape { rows: 1, logit_rows: 1, kv_tokens: 1, attended_pairs: 1, ..BatchShape::default() }
}

fn print_json(model: &LoadedModel, program: &Program) -> Result<(), CliError> {
    let metadata: serde_json::Map<_, _> =
        model.file().metadata().iter().map(|(key, value)| (key.to_owned(), json!(short(value)))).collect();
    let tensors: Vec<_> = model
        .file()
        .tensors()
        .map(|t| json!({"name": t.name, "type": t.dtype.name(), "rows": t.rows, "cols": t.cols, "bytes": t.data.len()}))
        .collect();
    let stages: Vec<_> = program
        .ops
        .iter()
        .map(|op| {
            let cost = op.cost(&decode_shape());
            let detail = match op {
                StageOp::Linear(op) => json!({
                    "layer": op.layer,
                    "cols": op.cols(),
                    "rows": op.rows(),
                    "norm": matches!(op.prologue, Prologue::AddNorm { .. }),
                    "logits": op.epilogue == Epilogue::Logits,
                }),
                StageOp::Attend(op) => json!({"layer": op.layer, "heads": op.num_heads, "kv_heads": op.num_kv_heads}),
                StageOp::Embed(op) => json!({"cols": op.table.cols}),
            };
            json!({"stage": format!("{:?}", op.stage()), "weight_bytes": cost.weight_bytes, "macs": cost.macs, "detail": detail})
        })
        .collect();
    let all = json!({
        "name": model.spec().name,
        "description": model.description(),
        "parameters": model.num_parameters(),
        "tensor_bytes": model.tensor_bytes(),
        "kv_bytes_per_token": model.spec().kv_bytes_per_token(KvCacheDType::F16),
        "kv_bytes_per_token_int8": model.spec().kv_bytes_per_token(KvCacheDType::Int8),
        "metadata": metadata,
        "tensors": tensors,
        "program": stages,
    });
    serde_json::to_writer_pretty(std::io::stdout().lock(), &all)?;
    super::streams::print_line("")
}

/// A metadata value on one line: long strings and arrays by their beginning or size.
fn short(value: &MetaValue) -> String {
    const CHARS_MAX: usize = 80;
    let text = match value {
        MetaValue::Array(array) => format!("[{} x {}]", array.len(), array.type_name()),
        MetaValue::String(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
