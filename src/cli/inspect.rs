//! `kiln inspect`: what is in a model file, and the program it becomes.

use std::borrow::Cow;
use std::io::{BufWriter, Write};

use clap::Args;
use kiln::model::{BatchShape, Epilogue, KvCacheDType, ModelSpec, Program, Prologue, StageOp, build_spec};
use kiln::weights::{DType, GgufFile, MetaArray, MetaValue, WeightsError, beginning, is_hidden, printable};
use serde_json::{Value, json};

use super::CliError;
use super::args::ModelArgs;

/// Show a model file: metadata, tensors, sizes and the program of stages
///
/// A file that kiln cannot run is shown as well, without a program and with the reason.
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
    ///
    /// Metadata values are JSON numbers, truth values, strings and arrays, all of them in full. What JSON lacks: NaN and infinities are
    /// the strings "NaN", "Infinity" and "-Infinity"; a string that is not UTF-8 is an object {"hex": "..."} of its bytes;
    /// a truth value other than 0 and 1 is its number. Where kiln cannot run the model, "program" is null and "not_built"
    /// says why.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), CliError> {
    let file = GgufFile::open(&args.model.path()?)?;
    let built = build_spec(file.metadata(), &file).map(|spec| (Program::of(&spec), spec));
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.json {
        true => print_json(&mut out, &file, &built)?,
        false => print_text(&mut out, args, &file, &built)?,
    }
    Ok(out.flush()?)
}

/// A model's program and spec, or why there are none.
type Built = Result<(Program, ModelSpec), WeightsError>;

fn print_text(out: &mut impl Write, args: &InspectArgs, file: &GgufFile, built: &Built) -> Result<(), CliError> {
    writeln!(out, "{}  ({})", name_of(file), description(file))?;
    for (key, value) in file.metadata().iter() {
        writeln!(out, "  {} = {value}", short_name(key))?;
    }
    writeln!(
        out,
        "\n{} tensors, {:.2} M weights, {} of {} in the file",
        file.tensors().len(),
        file.num_weights() as f64 / 1e6,
        size(file.tensor_bytes()),
        size(file.file_bytes()),
    )?;
    if args.tensors {
        for t in file.tensors() {
            let (name, bytes) = (short_name(t.name), size(t.data.len() as u64));
            writeln!(out, "  {name:<40} {:>6} {:>8} x {:<8} {bytes:>12}", t.dtype, t.rows, t.cols)?;
        }
    }
    match built {
        Ok((program, spec)) => print_model(out, args, program, spec),
        Err(why) => Ok(writeln!(out, "\nNo program, kiln cannot run this model: {why}")?),
    }
}

fn print_model(out: &mut impl Write, args: &InspectArgs, program: &Program, spec: &ModelSpec) -> Result<(), CliError> {
    writeln!(
        out,
        "\n{} layers, hidden size {}, vocabulary {}, trained context {}, {} head",
        spec.layers.len(),
        spec.hidden_size,
        spec.vocab_size,
        spec.context_tokens_trained,
        if spec.has_tied_head() { "tied" } else { "untied" },
    )?;
    let padding = spec.embed.table.tensor_rows - spec.vocab_size;
    if padding > 0 {
        writeln!(out, "{padding} rows of the vocabulary have no token: never computed, never chosen")?;
    }
    let [f16, int8] = [KvCacheDType::F16, KvCacheDType::Int8].map(|dtype| size(spec.kv_bytes_per_token(dtype)));
    writeln!(out, "KV cache: {f16} per position (f16), {int8} (int8)")?;
    if args.program {
        print_program(out, program)?;
    }
    let step = program.cost(&decode_shape());
    let (bytes, macs) = (size(step.bytes()), step.macs as f64 / 1e6);
    writeln!(out, "\nOne decode step at position 0 reads {bytes} and does {macs:.1} M multiply-accumulates.")?;
    Ok(())
}

fn print_program(out: &mut impl Write, program: &Program) -> Result<(), CliError> {
    writeln!(out, "\n  stage     layer  in -> out            weights   MACs per row")?;
    for op in &program.ops {
        let cost = op.cost(&decode_shape());
        let (layer, shape) = match op {
            StageOp::Embed(op) => (String::new(), format!("1 -> {}", op.table.cols)),
            StageOp::Linear(op) => (op.layer.to_string(), format!("{} -> {}", op.cols(), op.rows())),
            StageOp::Attend(op) => (op.layer.to_string(), format!("{} heads, {} KV", op.num_heads, op.num_kv_heads)),
        };
        let (stage, bytes) = (format!("{:?}", op.stage()), size(cost.weight_bytes));
        writeln!(out, "  {stage:<9} {layer:>5}  {shape:<16} {bytes:>12} {:>14}", cost.macs)?;
    }
    Ok(())
}

/// One row at position 0.
fn decode_shape() -> BatchShape {
    BatchShape { rows: 1, logit_rows: 1, kv_tokens: 1, attended_pairs: 1, ..BatchShape::default() }
}

fn print_json(out: &mut impl Write, file: &GgufFile, built: &Built) -> Result<(), CliError> {
    let metadata: serde_json::Map<_, _> =
        file.metadata().iter().map(|(key, value)| (key.to_owned(), json_of(value))).collect();
    let tensors: Vec<_> = file
        .tensors()
        .map(|t| json!({"name": t.name, "type": t.dtype.name(), "rows": t.rows, "cols": t.cols, "bytes": t.data.len()}))
        .collect();
    let built_or_null = |value: &dyn Fn(&(Program, ModelSpec)) -> Value| built.as_ref().map_or(Value::Null, value);
    let cache = |dtype| built_or_null(&|(_, spec)| spec.kv_bytes_per_token(dtype).into());
    let all = json!({
        "name": name_of(file),
        "description": description(file),
        "gguf_version": file.header().version,
        "file_bytes": file.file_bytes(),
        "parameters": file.num_weights(),
        "tensor_bytes": file.tensor_bytes(),
        "vocab_size": built_or_null(&|(_, spec)| spec.vocab_size.into()),
        "kv_bytes_per_token": cache(KvCacheDType::F16),
        "kv_bytes_per_token_int8": cache(KvCacheDType::Int8),
        "metadata": metadata,
        "tensors": tensors,
        "program": built_or_null(&|(program, _)| program.ops.iter().map(json_of_stage).collect()),
        "not_built": built.as_ref().err().map(WeightsError::to_string),
    });
    write_json(out, &all)
}

/// One line for each key, and for each entry of what a key holds: a vocabulary is one line.
fn write_json(out: &mut impl Write, all: &Value) -> Result<(), CliError> {
    fn lines(
        out: &mut impl Write,
        [open, close]: [char; 2],
        lines: impl Iterator<Item = String>,
    ) -> std::io::Result<()> {
        write!(out, "{open}")?;
        for (index, line) in lines.enumerate() {
            write!(out, "{}\n    {}", if index == 0 { "" } else { "," }, visible(&line))?;
        }
        write!(out, "\n  {close}")
    }
    write!(out, "{{")?;
    for (index, (key, value)) in all.as_object().into_iter().flatten().enumerate() {
        write!(out, "{}\n  {}: ", if index == 0 { "" } else { "," }, Value::from(key.as_str()))?;
        match value {
            Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| format!("{}: {value}", Value::from(key.as_str())));
                lines(out, ['{', '}'], entries)?;
            }
            Value::Array(values) => lines(out, ['[', ']'], values.iter().map(Value::to_string))?,
            scalar => write!(out, "{}", visible(&scalar.to_string()))?,
        }
    }
    Ok(writeln!(out, "\n}}")?)
}

/// The same JSON, in whose strings also those controls are escaped that JSON would let through.
fn visible(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_hidden) {
        return json.into();
    }
    let escape = |c: char| match is_hidden(c) {
        true => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        false => c.to_string(),
    };
    json.chars().map(escape).collect::<String>().into()
}

fn json_of_stage(op: &StageOp) -> Value {
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
}

/// A metadata value as the help of `--json` describes it.
fn json_of(value: &MetaValue) -> Value {
    match value {
        MetaValue::U8(v) | MetaValue::RawBool(v) => (*v).into(),
        MetaValue::I8(v) => (*v).into(),
        MetaValue::U16(v) => (*v).into(),
        MetaValue::I16(v) => (*v).into(),
        MetaValue::U32(v) => (*v).into(),
        MetaValue::I32(v) => (*v).into(),
        MetaValue::U64(v) => (*v).into(),
        MetaValue::I64(v) => (*v).into(),
        MetaValue::F32(v) => json_of_f32(*v),
        MetaValue::F64(v) => json_of_f64(*v),
        MetaValue::Bool(v) => (*v).into(),
        MetaValue::String(text) => text.as_str().into(),
        MetaValue::RawString(bytes) => json_of_bytes(bytes),
        MetaValue::Array(array) => json_of_array(array),
    }
}

fn json_of_array(array: &MetaArray) -> Value {
    fn numbers<T: Copy + Into<Value>>(values: &[T]) -> Value {
        values.iter().map(|value| (*value).into()).collect()
    }
    match array {
        MetaArray::U8(v) | MetaArray::RawBools(v) => numbers(v),
        MetaArray::I8(v) => numbers(v),
        MetaArray::U16(v) => numbers(v),
        MetaArray::I16(v) => numbers(v),
        MetaArray::U32(v) => numbers(v),
        MetaArray::I32(v) => numbers(v),
        MetaArray::U64(v) => numbers(v),
        MetaArray::I64(v) => numbers(v),
        MetaArray::Bool(v) => numbers(v),
        MetaArray::F32(v) => v.iter().map(|v| json_of_f32(*v)).collect(),
        MetaArray::F64(v) => v.iter().map(|v| json_of_f64(*v)).collect(),
        MetaArray::String(v) => v.iter().map(Value::from).collect(),
        MetaArray::RawStrings(v) => v.iter().map(json_of_bytes).collect(),
        MetaArray::Array(v) => v.iter().map(json_of_array).collect(),
    }
}

/// The shortest decimal that is this number: 0.1 and not 0.10000000149011612.
fn json_of_f32(value: f32) -> Value {
    json_of_f64(value.to_string().parse().unwrap_or(f64::from(value)))
}

fn json_of_f64(value: f64) -> Value {
    match value {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        v => v.into(),
    }
}

fn json_of_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    }
}

/// `general.name`, else the file's own.
fn name_of(file: &GgufFile) -> String {
    let name = file.metadata().opt_label("general.name").ok().flatten();
    let name = name.unwrap_or_else(|| file.path().file_name().unwrap_or_default().to_string_lossy());
    short_name(&name)
}

/// Architecture and the format that most weights are in, such as `llama Q4_1`.
fn description(file: &GgufFile) -> String {
    let architecture = file.metadata().opt_label("general.architecture").ok().flatten();
    let architecture = architecture.map_or("no architecture".to_owned(), |name| short_name(&name));
    format!("{architecture} {}", file.main_format().map_or("without tensors", DType::name))
}

/// A name of the file on part of a line.
fn short_name(name: &str) -> String {
    const CHARS_MAX: usize = 120;
    let (start, is_cut) = beginning(name, CHARS_MAX);
    format!("{}{}", printable(start), if is_cut { "…" } else { "" })
}

/// `512 B`, `1.50 KiB`, `98.12 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64 / 1024.0;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_people_read() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.50 KiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (98 << 20, "98.00 MiB"),
            (5 << 30, "5.00 GiB"),
            (u64::MAX, "16384.00 PiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn json_is_json_with_a_line_for_each_entry() {
        let all =
            json!({"a": [[1, 2], "\u{1b}\u{9b}\u{202e}\u{e0041}"], "b": {"c\n": [3], "d": {}}, "e": null, "f": []});
        let mut out = Vec::new();
        write_json(&mut out, &all).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), all);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(
                "\n    [1,2],\n    \"\\u001b\\u009b\\u202e\\udb40\\udc41\"\n  ],\n  \"b\": {\n    \"c\\n\": [3],"
            ),
            "{text}"
        );
    }

    #[test]
    fn json_has_numbers_where_there_are_numbers_and_words_where_there_are_none() {
        let cases = [
            (MetaValue::F32(1e-5), json!(1e-5)),
            (MetaValue::F32(0.1), json!(0.1)),
            (MetaValue::F32(f32::MAX), json!(3.4028235e38)),
            (MetaValue::F64(f64::NAN), json!("NaN")),
            (MetaValue::F32(f32::NEG_INFINITY), json!("-Infinity")),
            (MetaValue::U64(u64::MAX), json!(18_446_744_073_709_551_615u64)),
            (MetaValue::I64(i64::MIN), json!(i64::MIN)),
            (MetaValue::RawBool(2), json!(2)),
            (MetaValue::Bool(true), json!(true)),
            (MetaValue::RawString(b"Ren\xe9".to_vec()), json!({"hex": "52656ee9"})),
            (MetaArray::Array(vec![MetaArray::U8(vec![1, 2]), MetaArray::Bool(vec![])]).into(), json!([[1, 2], []])),
            ("\u{1b}[1m\"".into(), json!("\u{1b}[1m\"")),
        ];
        for (value, expected) in cases {
            assert_eq!(json_of(&value), expected);
        }
    }
}
