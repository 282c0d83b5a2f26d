//! Arithmetic, logic, comparison and selection.

use half::{bf16, f16};

use sim_ptx::{Instruction, Operand, type_bits};

use super::control::copy;
use super::functions::Lowering;
use super::modifiers::Modifiers;
use crate::lanes::approx::{Approx, ApproxOp, ApproxType};
use crate::lanes::float::{self, FloatMode};
use crate::lanes::rounding::Round;
use crate::lanes::{LaneFn, bits, compare, half2, integer};
use crate::program::{BoolOp, CarryKind, Op, Pred, SINK};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    match i.opcode.as_str() {
        "setp" => return setp(l, i, m),
        "set" => return set(l, i, m),
        "selp" => return selp(l, i, m),
        "slct" => return slct(l, i, m),
        "testp" => return testp(l, i, m),
        "lop3" => return lop3(l, i, m),
        "bfi" => return bfi(l, i, m),
        "dp4a" | "dp2a" => return dot(l, i, m),
        "vabsdiff4" => return video(l, i, m),
        "addc" | "subc" | "madc" => return carry(l, i, m),
        "add" | "sub" | "mad" if m.has("cc") => return carry(l, i, m),
        "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt" => return approx(l, i, m),
        "rcp" | "sqrt" | "div" if m.has("approx") || m.has("full") => return approx(l, i, m),
        _ => {}
    }
    let ty = m.take_types().pop().ok_or("no type, or not an instruction that the simulator knows")?;
    if ty == "pred" {
        return logic(l, i);
    }
    let f = find(&i.opcode, m, ty).ok_or("not an instruction that the simulator knows")?;
    if i.operands.len() == 4 && matches!(i.opcode.as_str(), "min" | "max") {
        return three_way(l, i, f, ty);
    }
    lanes_op(l, i, f, ty)
}

/// `d = f(a, b, c)` for an instruction with up to three sources.
fn lanes_op(l: &mut Lowering<'_>, i: &Instruction, f: LaneFn, ty: &str) -> Result<Op, String> {
    let (d, sources) = i.operands.split_first().ok_or("expected operands")?;
    if !(1..=3).contains(&sources.len()) {
        return Err(format!("expected 1 to 3 sources, found {}", sources.len()));
    }
    let mut slots = Vec::new();
    for (n, operand) in sources.iter().enumerate() {
        // A shift's amount and a bit field's place are integers whatever the type.
        let ty = if n > 0 && matches!(i.opcode.as_str(), "shl" | "shr" | "bfe" | "shf") { "u32" } else { ty };
        slots.push(l.builder.source(operand, ty)?);
    }
    let a = slots[0];
    let d = l.builder.destination(d)?;
    Ok(Op::Lanes { f, d, a, b: *slots.get(1).unwrap_or(&a), c: *slots.get(2).unwrap_or(&a) })
}

/// min and max of three operands are two of two.
fn three_way(l: &mut Lowering<'_>, i: &Instruction, f: LaneFn, ty: &str) -> Result<Op, String> {
    let [d, a, b, c] = i.operands.as_slice() else { return Err("expected 3 sources".into()) };
    let (a, b, c) = (l.builder.source(a, ty)?, l.builder.source(b, ty)?, l.builder.source(c, ty)?);
    let between = l.builder.slot()?;
    l.push(Op::Lanes { f, d: between, a, b, c: a }, None, i.line, &i.source);
    Ok(Op::Lanes { f, d: l.builder.destination(d)?, a: between, b: c, c })
}

fn find(opcode: &str, m: &mut Modifiers<'_>, ty: &str) -> Option<LaneFn> {
    let is_float = matches!(ty, "f16" | "f16x2" | "bf16" | "bf16x2" | "f32" | "f64");
    if is_float {
        let mode = float_mode(m);
        return if ty == "f32" || ty == "f64" { float::find(opcode, mode, ty) } else { half2::find(opcode, mode, ty) };
    }
    let arithmetic = m.take_one(&["lo", "hi", "wide", "sat"]).unwrap_or("");
    if let Some(f) = integer::find(opcode, arithmetic, ty) {
        return Some(f);
    }
    let names = ["l", "r", "clamp", "wrap", "shiftamt", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
    let mut modes = Vec::new();
    while let Some(mode) = m.take_one(&names) {
        modes.push(mode);
    }
    modes.sort_by_key(|mode| names.iter().position(|n| n == mode));
    bits::find(opcode, &modes, ty)
}

fn float_mode(m: &mut Modifiers<'_>) -> FloatMode {
    let round = match m.take_one(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Round::Zero,
        Some("rm") => Round::Down,
        Some("rp") => Round::Up,
        _ => Round::Nearest,
    };
    FloatMode {
        round,
        ftz: m.take("ftz"),
        sat: m.take("sat"),
        nan: m.take("NaN"),
        xorsign_abs: m.take("xorsign") | m.take("abs"),
        relu: m.take("relu"),
    }
}

fn approx(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.drop_all(&["approx", "full"]);
    let ftz = m.take("ftz");
    let op = match i.opcode.as_str() {
        "ex2" => Approx::Ex2,
        "lg2" => Approx::Lg2,
        "sin" => Approx::Sin,
        "cos" => Approx::Cos,
        "tanh" => Approx::Tanh,
        "rsqrt" => Approx::Rsqrt,
        "rcp" => Approx::Rcp,
        "sqrt" => Approx::Sqrt,
        _ => Approx::Div,
    };
    let name = m.take_types().pop().ok_or("no type")?;
    let ty = match name {
        "f32" => ApproxType::F32,
        "f64" => ApproxType::F64,
        "f16" => ApproxType::F16,
        "f16x2" => ApproxType::F16x2,
        "bf16" => ApproxType::Bf16,
        "bf16x2" => ApproxType::Bf16x2,
        other => return Err(format!("no approximation of type .{other}")),
    };
    let (d, a) = (l.builder.destination(operand(i, 0)?)?, l.builder.source(operand(i, 1)?, name)?);
    let b = i.operands.get(2).map_or(Ok(a), |b| l.builder.source(b, name))?;
    Ok(Op::Approx { op: ApproxOp { op, ty, ftz }, d, a, b })
}

fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}

fn bool_op(m: &mut Modifiers<'_>) -> Option<BoolOp> {
    Some(match m.take_one(&["and", "or", "xor"])? {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        _ => BoolOp::Xor,
    })
}

const COMPARISONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

fn setp(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let comparison = m.take_one(COMPARISONS).ok_or("no comparison")?;
    let (bool_op, ftz) = (bool_op(m), m.take("ftz"));
    let ty = m.take_types().pop().ok_or("no type")?;
    let (p, q) = match operand(i, 0)? {
        Operand::Pair(p, q) => (l.builder.pred_destination(p)?, l.builder.pred_destination(q)?),
        p => (l.builder.pred_destination(p)?, SINK),
    };
    let f = compare::find(comparison, ftz, ty.trim_end_matches("x2")).ok_or("no such comparison")?;
    let (a, b) = (l.builder.source(operand(i, 1)?, ty)?, l.builder.source(operand(i, 2)?, ty)?);
    let combine = match bool_op {
        Some(op) => Some((op, l.builder.pred(operand(i, 3)?)?)),
        None => None,
    };
    Ok(match ty {
        "f16x2" | "bf16x2" => Op::CompareHalves { f, p, q, a, b, combine },
        _ => Op::Compare { f, p, q, a, b, combine },
    })
}

fn set(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let comparison = m.take_one(COMPARISONS).ok_or("no comparison")?;
    let (bool_op, ftz) = (bool_op(m), m.take("ftz"));
    let types = m.take_types();
    let [to, from] = types.as_slice() else { return Err("expected two types".into()) };
    let one = match *to {
        "f32" => u64::from(1f32.to_bits()),
        "f16" | "f16x2" => f16::ONE.to_bits().into(),
        "bf16" | "bf16x2" => bf16::ONE.to_bits().into(),
        "u16" | "s16" => 0xffff,
        "u32" | "s32" => 0xffff_ffff,
        other => return Err(format!("set to .{other} is not supported")),
    };
    let f = compare::find(comparison, ftz, from.trim_end_matches("x2")).ok_or("no such comparison")?;
    let d = l.builder.destination(operand(i, 0)?)?;
    let (a, b) = (l.builder.source(operand(i, 1)?, from)?, l.builder.source(operand(i, 2)?, from)?);
    if from.ends_with("x2") {
        return if bool_op.is_none() {
            Ok(Op::SetHalves { f, d, a, b, one: one as u16 })
        } else {
            Err("set of pairs with a predicate is not supported".into())
        };
    }
    let combine = match bool_op {
        Some(op) => Some((op, l.builder.pred(operand(i, 3)?)?)),
        None => None,
    };
    Ok(Op::Set { f, d, a, b, one, combine })
}

fn selp(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let ty = m.take_types().pop().ok_or("no type")?;
    let d = l.builder.destination(operand(i, 0)?)?;
    let (a, b) = (l.builder.source(operand(i, 1)?, ty)?, l.builder.source(operand(i, 2)?, ty)?);
    Ok(Op::Select { d, a, b, p: l.builder.pred(operand(i, 3)?)? })
}

fn slct(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.take("ftz");
    let types = m.take_types();
    let [ty, by] = types.as_slice() else { return Err("expected two types".into()) };
    let d = l.builder.destination(operand(i, 0)?)?;
    let (a, b) = (l.builder.source(operand(i, 1)?, ty)?, l.builder.source(operand(i, 2)?, ty)?);
    Ok(Op::SelectBySign { d, a, b, c: l.builder.source(operand(i, 3)?, by)?, float: *by == "f32" })
}

fn testp(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let class = m.take_one(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]).ok_or("no class")?;
    let ty = m.take_types().pop().ok_or("no type")?;
    let f = float::find_test(class, ty).ok_or("no such test")?;
    let a = l.builder.source(operand(i, 1)?, ty)?;
    Ok(Op::Compare { f, p: l.builder.pred_destination(operand(i, 0)?)?, q: SINK, a, b: a, combine: None })
}

/// and, or, xor, not and mov of predicates, as truth tables over `a << 1 | b`.
fn logic(l: &mut Lowering<'_>, i: &Instruction) -> Result<Op, String> {
    let d = l.builder.pred_destination(operand(i, 0)?)?;
    let a = l.builder.pred(operand(i, 1)?)?;
    let (table, b): (u8, Pred) = match i.opcode.as_str() {
        "and" => (0b1000, l.builder.pred(operand(i, 2)?)?),
        "or" => (0b1110, l.builder.pred(operand(i, 2)?)?),
        "xor" => (0b0110, l.builder.pred(operand(i, 2)?)?),
        "not" => (0b0011, a),
        other => return Err(format!("{other} of predicates is not supported")),
    };
    Ok(Op::Logic { table, d, a, b })
}

fn lop3(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.take_types();
    let and = match m.take_one(&["and", "or"]) {
        Some("or") => Some(false),
        Some(_) => Some(true),
        None => None,
    };
    let (d, p) = match operand(i, 0)? {
        Operand::Pair(d, p) => (l.builder.destination(d)?, Some(l.builder.pred_destination(p)?)),
        d => (l.builder.destination(d)?, None),
    };
    let mut source = |n: usize| l.builder.source(operand(i, n)?, "b32");
    let (a, b, c) = (source(1)?, source(2)?, source(3)?);
    let Operand::Integer(table) = operand(i, 4)? else { return Err("expected an immediate table".into()) };
    let p = match (p, and) {
        (Some(p), Some(and)) => Some((p, Some(l.builder.pred(operand(i, 5)?)?), and)),
        (Some(p), None) => Some((p, None, false)),
        _ => None,
    };
    Ok(Op::Lop3 { d, a, b, c, table: *table as u8, p })
}

fn bfi(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let ty = m.take_types().pop().ok_or("no type")?;
    let d = l.builder.destination(operand(i, 0)?)?;
    let (a, b) = (l.builder.source(operand(i, 1)?, ty)?, l.builder.source(operand(i, 2)?, ty)?);
    let (position, count) = (l.builder.source(operand(i, 3)?, "u32")?, l.builder.source(operand(i, 4)?, "u32")?);
    Ok(Op::Insert { d, a, b, position, count, bits: type_bits(ty).unwrap_or(32) })
}

fn dot(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let high = m.take_one(&["lo", "hi"]) == Some("hi");
    let types = m.take_types();
    let [a, b] = types.as_slice() else { return Err("expected two types".into()) };
    let f = integer::find_dot(&i.opcode, high, a, b).ok_or("no such types")?;
    lanes_op(l, i, f, "u32")
}

/// vabsdiff4: differences of four bytes, side by side or, with `.add`, added to the third source.
fn video(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let add = m.take("add");
    let types = m.take_types();
    let signed = match types.as_slice() {
        ["u32", "u32", _] => false,
        ["s32", "s32", _] => true,
        other => return Err(format!("sources of types {other:?} are not supported")),
    };
    lanes_op(l, i, integer::absolute_differences(signed, add), "u32")
}

fn carry(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let ty = m.take_types().pop().ok_or("no type")?;
    let (carry_in, carry_out) = (i.opcode.ends_with('c'), m.take("cc"));
    let kind = match (i.opcode.as_str(), m.take_one(&["lo", "hi"])) {
        ("add" | "addc", None) => CarryKind::Add,
        ("sub" | "subc", None) => CarryKind::Sub,
        ("mad" | "madc", Some("lo")) => CarryKind::MadLo,
        ("mad" | "madc", Some(_)) => CarryKind::MadHi { signed: ty.starts_with('s') },
        _ => return Err("no such carry operation".into()),
    };
    let d = l.builder.destination(operand(i, 0)?)?;
    let (a, b) = (l.builder.source(operand(i, 1)?, ty)?, l.builder.source(operand(i, 2)?, ty)?);
    let c = i.operands.get(3).map_or(Ok(a), |c| l.builder.source(c, ty))?;
    Ok(Op::Carry { kind, bits: type_bits(ty).unwrap_or(32), carry_in, carry_out, d, a, b, c })
}

/// `mov` in all its forms: registers, predicates, addresses, packing and unpacking.
pub fn mov(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let ty = m.take_types().pop().ok_or("no type")?;
    let (d, a) = (operand(i, 0)?, operand(i, 1)?);
    let total = type_bits(ty).unwrap_or(64);
    match (d, a) {
        _ if ty == "pred" => {
            let a = l.builder.pred(a)?;
            Ok(Op::Logic { table: 0b1100, d: l.builder.pred_destination(d)?, a, b: a })
        }
        (_, Operand::Name(name))
            if matches!(name.as_str(), "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo") =>
        {
            Ok(Op::Clock { d: l.builder.destination(d)? })
        }
        (_, Operand::Vector(parts)) => {
            let bits = total / parts.len() as u32;
            let slots: Result<Vec<_>, _> = parts.iter().map(|p| l.builder.source(p, ty)).collect();
            Ok(Op::Pack { d: l.builder.destination(d)?, parts: slots?.into(), bits })
        }
        (Operand::Vector(parts), _) => {
            let bits = total / parts.len() as u32;
            let slots: Result<Vec<_>, _> = parts.iter().map(|p| l.builder.destination(p)).collect();
            Ok(Op::Unpack { parts: slots?.into(), a: l.builder.source(a, ty)?, bits })
        }
        _ => Ok(copy(l.builder.destination(d)?, l.builder.source(a, ty)?)),
    }
}
