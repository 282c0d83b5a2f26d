//! mma, ldmatrix, stmatrix and movmatrix.

use super::functions::Lowering;
use super::modifiers::Modifiers;
use super::source::{Instruction, Operand};
use crate::matrix::{Accumulator, Element, MmaShape};
use crate::program::{Op, Slot};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.drop_all(&["sync", "aligned"]);
    if i.opcode == "mma" {
        return mma(l, i, m);
    }
    if !m.take("m8n8") || m.take_types() != ["b16"] {
        return Err("only 8x8 matrices of .b16 are supported".into());
    }
    m.drop_all(&["shared", "shared::cta"]);
    let count = match m.take_one(&["x1", "x2", "x4"]) {
        Some("x4") => 4,
        Some("x2") => 2,
        _ => 1,
    };
    let transposed = m.take("trans");
    match i.opcode.as_str() {
        "movmatrix" => {
            let (d, a) = (destinations(l, operand(i, 0)?)?, sources(l, operand(i, 1)?)?);
            Ok(Op::MoveMatrix { d: d[0], a: a[0] })
        }
        "ldmatrix" => {
            let d = counted(destinations(l, operand(i, 0)?)?, count)?;
            Ok(Op::LoadMatrix { transposed, d, address: l.builder.address(operand(i, 1)?)?.0 })
        }
        _ => {
            let values = counted(sources(l, operand(i, 1)?)?, count)?;
            Ok(Op::StoreMatrix { transposed, values, address: l.builder.address(operand(i, 0)?)?.0 })
        }
    }
}

fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}

fn counted(slots: Vec<Slot>, count: usize) -> Result<Box<[Slot]>, String> {
    if slots.len() == count {
        Ok(slots.into())
    } else {
        Err(format!("expected {count} registers, found {}", slots.len()))
    }
}

fn destinations(l: &mut Lowering<'_>, operand: &Operand) -> Result<Vec<Slot>, String> {
    match operand {
        Operand::Vector(parts) => parts.iter().map(|p| l.builder.destination(p)).collect(),
        one => Ok(vec![l.builder.destination(one)?]),
    }
}

fn sources(l: &mut Lowering<'_>, operand: &Operand) -> Result<Vec<Slot>, String> {
    match operand {
        Operand::Vector(parts) => parts.iter().map(|p| l.builder.source(p, "b32")).collect(),
        one => Ok(vec![l.builder.source(one, "b32")?]),
    }
}

fn element(name: &str) -> Result<Element, String> {
    Ok(match name {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "u8" => Element::U8,
        "s8" => Element::S8,
        other => return Err(format!("element type .{other} is not supported")),
    })
}

fn mma(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let k = match m.take_one(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"]) {
        Some(shape) => shape[5..].trim_start_matches('k').parse::<usize>().map_err(|e| e.to_string())?,
        None => return Err("only shapes m16n8k4 to m16n8k32 are supported".into()),
    };
    m.drop_all(&["row", "col", "kind::f8f6f4"]);
    let saturate = m.take("satfinite");
    let types = m.take_types();
    let [d_type, a_type, b_type, c_type] = types.as_slice() else { return Err("expected four types".into()) };
    let accumulator = match (*d_type, *c_type) {
        ("f32", "f32") => Accumulator::F32,
        ("f16", "f16") => Accumulator::F16,
        ("s32", "s32") => Accumulator::S32 { saturate },
        other => return Err(format!("accumulators {other:?} are not supported")),
    };
    let shape = MmaShape { k, a: element(a_type)?, b: element(b_type)?, accumulator };
    let per = shape.a.per_register();
    let accumulators = if accumulator == Accumulator::F16 { 2 } else { 4 };
    let d = counted(destinations(l, operand(i, 0)?)?, accumulators)?;
    let a = counted(sources(l, operand(i, 1)?)?, 16 * k / (32 * per))?;
    let b = counted(sources(l, operand(i, 2)?)?, 8 * k / (32 * per))?;
    let c = counted(sources(l, operand(i, 3)?)?, accumulators)?;
    Ok(Op::Mma { shape, d, a, b, c })
}
