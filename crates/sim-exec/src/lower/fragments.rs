//! wmma: fragments are loaded and stored register by register, and multiplied as tiles of mma.

use sim_ptx::Instruction;

use super::control::copy;
use super::functions::Lowering;
use super::matrices::{counted, destinations, operand, shape, sources};
use super::memory::space;
use super::modifiers::Modifiers;
use crate::matrix::fragments::{Fragment, Origin, Role};
use crate::matrix::{Kind, Tile, Types};
use crate::program::{self, Access, Address, FragmentMove, FragmentPiece, MatrixOrder, Mma, Op, Slot, Space, Strength};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.drop_all(&["sync", "aligned"]);
    match m.take_one(&["mma", "load", "store"]) {
        Some("mma") => mma(l, i, m),
        Some("load") => load(l, i, m),
        Some(_) => store(l, i, m),
        None => Err("expected .load, .store or .mma".into()),
    }
}

fn mma(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let size @ [rows, columns, k] = shape(m)?;
    // How A and B lay in memory does not matter: their fragments are the same.
    m.drop_all(&["row", "col", "rn"]);
    let saturate = m.take("satfinite");
    let combine = m.take_one(&["xor", "and"]);
    if combine.is_some() && !m.take("popc") {
        return Err("expected .popc".into());
    }
    let types = match m.take_types().as_slice() {
        [d, c] => Types { d, a: "f16", b: "f16", c, saturate, combine },
        [d, a, b, c] if a == b => Types { d, a, b, c, saturate, combine },
        _ => return Err("expected two types, or four with one for A and B".into()),
    };
    let unsupported = "this shape with these types is not supported";
    let tile = Tile::find(rows.min(16), k, types).ok_or(unsupported)?;
    let find = |role, ty| Fragment::find(size, role, ty).ok_or(unsupported);
    let (a, b) = (find(Role::A, types.a)?, find(Role::B, types.b)?);
    let (c, d) = (find(Role::C, types.c)?, find(Role::C, types.d)?);
    let d = counted("D", destinations(l, operand(i, 0)?)?, d.registers)?;
    let mut used = |n: usize, fragment: &Fragment, name: &str, ty: &str| -> Result<Box<[Slot]>, String> {
        let slots = counted(name, sources(l, operand(i, n)?, ty)?, fragment.registers)?;
        Ok(slots[..fragment.origins.len()].into())
    };
    let a = used(1, &a, "A", types.a)?;
    let b = used(2, &b, "B", types.b)?;
    let c = used(3, &c, "C", types.c)?;
    let multiply_adds = (rows * columns * k) as u64;
    Ok(Op::Mma(Box::new(Mma { tile, kind: Kind::of(types.a), multiply_adds, d, a, b, c })))
}

/// What load and store have in common: the fragment, and where it lies in memory.
struct Place {
    fragment: Fragment,
    order: MatrixOrder,
    space: Space,
}

fn place(m: &mut Modifiers<'_>, role: Role) -> Result<Place, String> {
    let size = shape(m)?;
    let order = match m.take_one(&["row", "col"]) {
        Some("row") => MatrixOrder::Rows,
        Some(_) => MatrixOrder::Columns,
        None => return Err("expected .row or .col".into()),
    };
    let space = space(m);
    if !matches!(space, Space::Global | Space::Shared | Space::Generic) {
        return Err("expected global, shared or generic addresses".into());
    }
    let ty = m.take_types();
    let fragment = match ty.as_slice() {
        [ty] => Fragment::find(size, role, ty).ok_or("this shape with this type is not supported")?,
        _ => return Err("expected one type".into()),
    };
    let packed_along = if role == Role::B { MatrixOrder::Columns } else { MatrixOrder::Rows };
    if fragment.bits < 8 && order != packed_along {
        return Err("elements of less than a byte need A in rows and B in columns".into());
    }
    Ok(Place { fragment, order, space })
}

/// The elements from one row or column to the next.
fn stride(l: &mut Lowering<'_>, i: &Instruction, place: &Place) -> Result<Slot, String> {
    match i.operands.get(2) {
        Some(stride) => l.builder.source(stride, "u32"),
        None => {
            let Fragment { rows, columns, .. } = place.fragment;
            l.builder.constant(if place.order == MatrixOrder::Rows { columns } else { rows } as u64)
        }
    }
}

fn load(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let role = match m.take_one(&["a", "b", "c"]) {
        Some("a") => Role::A,
        Some("b") => Role::B,
        Some(_) => Role::C,
        None => return Err("expected .a, .b or .c".into()),
    };
    let place = place(m, role)?;
    let registers = counted("the fragment", destinations(l, operand(i, 0)?)?, place.fragment.registers)?;
    let mut pieces = Vec::new();
    let mut parts = Vec::new();
    for (&register, &origin) in registers.iter().zip(&place.fragment.origins) {
        let (slots, bits) = piece(l, &place, register, origin, &mut pieces)?;
        if slots.len() > 1 {
            parts.push(Op::Pack { d: register, parts: slots.into(), bits });
        }
    }
    // What is left of an f16 fragment repeats.
    let unique = place.fragment.origins.len();
    parts.extend((unique..registers.len()).map(|r| copy(registers[r], registers[r % unique])));
    finish(l, i, 1, place, pieces, parts).map(Op::LoadFragment)
}

fn store(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    if !m.take("d") {
        return Err("expected .d".into());
    }
    let place = place(m, Role::C)?;
    let registers = counted("the fragment", sources(l, operand(i, 1)?, "b32")?, place.fragment.registers)?;
    let mut pieces = Vec::new();
    let mut parts = Vec::new();
    for (&register, &origin) in registers.iter().zip(&place.fragment.origins) {
        let (slots, bits) = piece(l, &place, register, origin, &mut pieces)?;
        if slots.len() > 1 {
            parts.push(Op::Unpack { parts: slots.into(), a: register, bits });
        }
    }
    finish(l, i, 0, place, pieces, parts).map(Op::StoreFragment)
}

/// The accesses of one register: one if its elements lie side by side, else one per element, through registers of their own, which
/// are returned with their width in bits.
fn piece(
    l: &mut Lowering<'_>,
    place: &Place,
    register: Slot,
    origin: Origin,
    pieces: &mut Vec<FragmentPiece>,
) -> Result<(Vec<Slot>, u32), String> {
    let Fragment { role, bits, per, .. } = place.fragment;
    let side_by_side = if role == Role::B { MatrixOrder::Columns } else { MatrixOrder::Rows };
    let together = per == 1 || place.order == side_by_side;
    let (count, bits) = if together { (1, per * bits) } else { (per, bits) };
    let mut slots = Vec::new();
    for i in 0..count {
        let slot = if count == 1 { register } else { l.builder.slot()? };
        slots.push(slot);
        let origin = match role {
            Role::B => Origin { row: origin.row + i, ..origin },
            _ => Origin { column: origin.column + i, ..origin },
        };
        let access = Access {
            space: place.space,
            width: bits as u32 / 8,
            signed: false,
            strength: Strength::Weak,
            address: Address { base: None, offset: 0, wide: true },
            registers: [slot].into(),
            used_bytes: Access::ALL_USED,
        };
        pieces.push(FragmentPiece { access, origin });
    }
    Ok((slots, bits as u32))
}

fn finish(
    l: &mut Lowering<'_>,
    i: &Instruction,
    at: usize,
    place: Place,
    pieces: Vec<FragmentPiece>,
    parts: Vec<Op>,
) -> Result<Box<FragmentMove>, String> {
    let stride = stride(l, i, &place)?;
    let (address, binding) = l.builder.address(operand(i, at)?)?;
    if binding.is_some() && place.space == Space::Generic {
        return Err("a generic address must be in a register".into());
    }
    let parts = parts.into_iter().map(|op| program::Instruction { op, guard: None }).collect();
    let Place { fragment, order, .. } = place;
    Ok(Box::new(FragmentMove { fragment, order, address, stride, pieces: pieces.into(), parts }))
}
