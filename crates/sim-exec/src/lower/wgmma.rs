//! wgmma: its instructions, and which other instructions touch its registers.

use sim_ptx::{Instruction, Operand};

use super::functions::Lowering;
use super::matrices::{counted, destinations, operand, shape, sources};
use super::modifiers::Modifiers;
use super::registers;
use crate::counters::Class;
use crate::matrix::descriptor::Major;
use crate::matrix::{Kind, Tile, Types};
use crate::program::{Op, Program, SINK, Slot, Watch, Wgmma, WgmmaA};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    if !(m.take("sync") && m.take("aligned")) {
        return Err("expected .sync.aligned".into());
    }
    match m.take_one(&["fence", "commit_group", "wait_group", "mma_async"]) {
        Some("fence") => Ok(Op::WgmmaFence),
        Some("commit_group") => Ok(Op::WgmmaCommit),
        Some("wait_group") => match operand(i, 0)? {
            Operand::Integer(pending) => Ok(Op::WgmmaWait { pending: *pending as u32 }),
            other => Err(format!("expected a number of groups, found {other:?}")),
        },
        Some(_) => mma_async(l, i, m),
        None => Err("expected .fence, .commit_group, .wait_group or .mma_async".into()),
    }
}

/// `d, a, b, scale-d`, then for floating point `imm-scale-a, imm-scale-b`, then for 16-bit elements `imm-trans-a` (unless A is in
/// registers) and `imm-trans-b`.
fn mma_async(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let [rows, columns, k] = shape(m)?;
    let saturate = m.take("satfinite");
    let combine = m.take_one(&["and"]);
    if combine.is_some() && !m.take("popc") {
        return Err("expected .popc".into());
    }
    let names = m.take_types();
    let [d_type, a_type, b_type] = names.as_slice() else { return Err("expected three types".into()) };
    let types = Types { d: d_type, a: a_type, b: b_type, c: d_type, saturate, combine };
    let kind = Kind::of(a_type);
    let integer = *d_type == "s32";
    // 32 bytes along K; integers take only some widths (PTX ISA, "wgmma.mma_async").
    let depth = match kind {
        Kind::F16 | Kind::Bf16 => 16,
        Kind::Tf32 => 8,
        Kind::F8 | Kind::I8 => 32,
        Kind::B1 => 256,
        Kind::F64 | Kind::I4 => 0,
    };
    let wide = (8..=256).contains(&columns) && columns.is_multiple_of(8);
    let possible = rows == 64 && k == depth && wide && (!integer || columns == 24 || columns == 8 || columns % 16 == 0);
    let tile = Tile::find(16, k, types).filter(|_| possible);
    let tile = tile.ok_or("this shape with these types is not supported")?;
    let d = counted("D", destinations(l, operand(i, 0)?)?, columns / 8 * tile.d_registers)?;
    let in_registers = matches!(operand(i, 1)?, Operand::Vector(_));
    let halves = matches!(kind, Kind::F16 | Kind::Bf16);
    let scales = if integer { 0 } else { 2 };
    let transposes = if !halves { 0 } else { 2 - usize::from(in_registers) };
    if i.operands.len() != 4 + scales + transposes {
        return Err(format!("expected {} operands, found {}", 4 + scales + transposes, i.operands.len()));
    }
    let negative = |n: usize| match operand(i, n)? {
        Operand::Integer(scale) if *scale as i64 == 1 => Ok(false),
        Operand::Integer(scale) if *scale as i64 == -1 => Ok(true),
        other => Err(format!("expected a scale of 1 or -1, found {other:?}")),
    };
    let major = |n: usize| match operand(i, n)? {
        Operand::Integer(0) => Ok(Major::K),
        Operand::Integer(1) => Ok(Major::Mn),
        other => Err(format!("expected a transposition of 0 or 1, found {other:?}")),
    };
    let flipped = scales > 0 && negative(4)? != negative(5)?;
    let a_major = if transposes == 2 { major(6)? } else { Major::K };
    let b_major = if transposes > 0 { major(5 + transposes)? } else { Major::K };
    let a = if in_registers {
        WgmmaA::Registers(counted("A", sources(l, operand(i, 1)?, "b32")?, tile.a_registers)?)
    } else {
        WgmmaA::Memory(l.builder.source(operand(i, 1)?, "b64")?, a_major)
    };
    let b = l.builder.source(operand(i, 2)?, "b64")?;
    let scale_d = l.builder.pred(operand(i, 3)?)?;
    let sign = match kind {
        Kind::F16 | Kind::Bf16 => 0x8000_8000,
        Kind::F8 => 0x8080_8080,
        _ => 0x8000_0000,
    };
    let flip = if flipped { sign } else { 0 };
    // One warp's share.
    let multiply_adds = (16 * columns * k) as u64;
    Ok(Op::Wgmma(Box::new(Wgmma { tile, kind, multiply_adds, columns, d, a, b, b_major, scale_d, flip })))
}

/// For each instruction which registers of wgmmas it touches; empty for a program without wgmma.
pub fn watches(program: &Program) -> Vec<Option<Box<Watch>>> {
    let mut watched = vec![false; program.slots];
    let mut any = false;
    for instruction in &program.instructions {
        if let Op::Wgmma(wgmma) = &instruction.op {
            any = true;
            let a: &[Slot] = if let WgmmaA::Registers(slots) = &wgmma.a { slots } else { &[] };
            wgmma.d.iter().chain(a).filter(|s| **s != SINK).for_each(|&slot| watched[slot as usize] = true);
        }
    }
    if !any {
        return Vec::new();
    }
    let copy = |pc: usize| match program.instructions[pc].op {
        Op::Lanes { d, a, b, c, .. } if program.classes[pc] == Class::Move && a == b && a == c && d != SINK => {
            Some((d, a))
        }
        _ => None,
    };
    // What is copied to or from such a register is watched too.
    let copies: Vec<(usize, usize)> =
        (0..program.instructions.len()).filter_map(copy).map(|(d, a)| (usize::from(d), usize::from(a))).collect();
    let mut grew = true;
    while std::mem::take(&mut grew) {
        for &(d, a) in &copies {
            grew |= watched[d] != watched[a];
            (watched[d], watched[a]) = (watched[d] || watched[a], watched[d] || watched[a]);
        }
    }
    let keep = |slots: Vec<Slot>| -> Box<[Slot]> {
        slots.into_iter().filter(|&s| watched.get(s as usize).is_some_and(|&w| w)).collect()
    };
    let watch = |pc: usize| {
        // wgmma itself has rules of its own.
        let op = &program.instructions[pc].op;
        let (reads, writes) = if matches!(op, Op::Wgmma(_)) { Default::default() } else { registers::of(op) };
        let watch = match copy(pc) {
            Some((d, a)) => Watch { reads: keep(vec![a]), writes: keep(vec![d]), copies: true },
            None => Watch { reads: keep(reads), writes: keep(writes), copies: false },
        };
        (!watch.reads.is_empty() || !watch.writes.is_empty()).then(|| Box::new(watch))
    };
    (0..program.instructions.len()).map(watch).collect()
}
