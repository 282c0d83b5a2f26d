//! mma, ldmatrix, stmatrix and movmatrix.

use sim_ptx::{Instruction, Operand};

use super::functions::Lowering;
use super::memory::space;
use super::modifiers::Modifiers;
use crate::matrix::moves::Arrangement;
use crate::matrix::{Kind, Tile, Types};
use crate::program::{MatrixMove, Mma, Op, Slot, Space};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.drop_all(&["sync", "aligned"]);
    match i.opcode.as_str() {
        "mma" => mma(l, i, m),
        "movmatrix" => {
            if !m.take("m8n8") || !m.take("trans") || m.take_types() != ["b16"] {
                return Err("expected .m8n8.trans.b16".into());
            }
            let (d, a) = (operand(i, 0)?, operand(i, 1)?);
            Ok(Op::MoveMatrix { d: l.builder.destination(d)?, a: l.builder.source(a, "b32")? })
        }
        _ => matrix_move(l, i, m),
    }
}

/// ldmatrix and stmatrix.
fn matrix_move(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let load = i.opcode == "ldmatrix";
    let shape = m.take_one(&["m8n8", "m16n16", "m16n8"]);
    let types = m.take_types();
    let count = match m.take_one(&["x1", "x2", "x4"]) {
        Some("x4") => 4,
        Some("x2") => 2,
        Some(_) => 1,
        None => return Err("expected .x1, .x2 or .x4".into()),
    };
    // 16 × 16 bytes fill two registers.
    let (arrangement, count) = match (shape, types.as_slice(), m.take("trans")) {
        (Some("m8n8"), ["b16"], false) => (Arrangement::Plain, count),
        (Some("m8n8"), ["b16"], true) => (Arrangement::Halves, count),
        (Some("m16n16"), ["b8"], true) if load && count < 4 => (Arrangement::Bytes, 2 * count),
        (Some("m16n8"), ["b8"], true) if !load => (Arrangement::Bytes, count),
        _ => return Err("this shape with this type is not supported".into()),
    };
    let space = space(m);
    if !matches!(space, Space::Shared | Space::Generic) {
        return Err("expected shared or generic addresses".into());
    }
    let (values, address) = if load { (operand(i, 0)?, operand(i, 1)?) } else { (operand(i, 1)?, operand(i, 0)?) };
    let registers = if load { destinations(l, values)? } else { sources(l, values, "b32")? };
    let registers = counted("matrices", registers, count)?;
    let (address, binding) = l.builder.address(address)?;
    // A variable's address is an offset in its own space.
    let space = if binding.is_some() { Space::Shared } else { space };
    let matrix_move = Box::new(MatrixMove { arrangement, space, registers, address });
    Ok(if load { Op::LoadMatrix(matrix_move) } else { Op::StoreMatrix(matrix_move) })
}

pub(super) fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}

pub(super) fn counted(what: &str, slots: Vec<Slot>, count: usize) -> Result<Box<[Slot]>, String> {
    if slots.len() == count {
        Ok(slots.into())
    } else {
        Err(format!("expected {count} registers for {what}, found {}", slots.len()))
    }
}

pub(super) fn destinations(l: &mut Lowering<'_>, operand: &Operand) -> Result<Vec<Slot>, String> {
    match operand {
        Operand::Vector(parts) => parts.iter().map(|p| l.builder.destination(p)).collect(),
        one => Ok(vec![l.builder.destination(one)?]),
    }
}

pub(super) fn sources(l: &mut Lowering<'_>, operand: &Operand, ty: &str) -> Result<Vec<Slot>, String> {
    match operand {
        Operand::Vector(parts) => parts.iter().map(|p| l.builder.source(p, ty)).collect(),
        one => Ok(vec![l.builder.source(one, ty)?]),
    }
}

/// m, n and k of a modifier like `m16n8k16`.
pub(super) fn shape(m: &mut Modifiers<'_>) -> Result<[usize; 3], String> {
    let parse = |name: &str| {
        let (rows, rest) = name.strip_prefix('m')?.split_once('n')?;
        let (columns, depth) = rest.split_once('k')?;
        Some([rows.parse().ok()?, columns.parse().ok()?, depth.parse().ok()?])
    };
    m.take_where(|name| parse(name).is_some()).and_then(parse).ok_or_else(|| "expected a shape".to_owned())
}

fn mma(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let [rows, columns, k] = shape(m)?;
    if !(m.take("row") && m.take("col")) {
        return Err("only .row.col is supported".into());
    }
    let saturate = m.take("satfinite");
    let combine = m.take_one(&["xor", "and"]);
    if combine.is_some() && !m.take("popc") {
        return Err("expected .popc".into());
    }
    m.take("rn");
    let names = m.take_types();
    let [d, a, b, c] = names.as_slice() else { return Err("expected four types".into()) };
    let fp8 = a.starts_with("e4") || a.starts_with("e5");
    if fp8 {
        m.take("kind::f8f6f4");
    }
    let types = Types { d, a, b, c, saturate, combine };
    // Eight rows of f16 exist only inside wmma.
    let possible = columns == 8 && d == c && !(rows == 8 && a.ends_with("f16"));
    let tile = Tile::find(rows, k, types).filter(|_| possible);
    let tile = tile.ok_or("this shape with these types is not supported")?;
    let d = counted("D", destinations(l, operand(i, 0)?)?, tile.d_registers)?;
    let a = counted("A", sources(l, operand(i, 1)?, types.a)?, tile.a_registers)?;
    let b = counted("B", sources(l, operand(i, 2)?, types.b)?, tile.b_registers)?;
    let c = counted("C", sources(l, operand(i, 3)?, types.c)?, tile.c_registers)?;
    let multiply_adds = (rows * columns * k) as u64;
    Ok(Op::Mma(Box::new(Mma { tile, kind: Kind::of(types.a), multiply_adds, d, a, b, c })))
}
