//! Which family an instruction belongs to, and small control instructions.

use sim_ptx::Instruction;

use super::functions::Lowering;
use super::modifiers::Modifiers;
use super::{arithmetic, bulk, convert, fragments, matrices, memory, synchronise, wgmma};
use crate::lanes::lanes;
use crate::program::{Op, Program, Slot};

/// Lowers any instruction but branches and returns.
pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    match i.opcode.as_str() {
        "trap" | "brkpt" => Ok(Op::Trap),
        "nanosleep" => Ok(ignore(m, &["u32"], Op::Yield)),
        "pmevent" | "griddepcontrol" | "setmaxnreg" => Ok(ignore_all(m)),
        "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy" => hint(l, i, m),
        "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "mapa" | "getctarank" | "isspacep" | "mov" => {
            memory::lower(l, i, m)
        }
        "cp" if i.modifiers.iter().any(|m| m == "bulk") => bulk::lower(l, i, m),
        "tensormap" => bulk::tensor_map(l, i, m),
        "cp" | "mbarrier" | "bar" | "barrier" | "membar" | "fence" | "shfl" | "vote" | "match" | "redux"
        | "activemask" | "elect" => synchronise::lower(l, i, m),
        "mma" | "ldmatrix" | "stmatrix" | "movmatrix" => matrices::lower(l, i, m),
        "wmma" => fragments::lower(l, i, m),
        "wgmma" => wgmma::lower(l, i, m),
        "cvt" => convert::lower(l, i, m),
        _ => arithmetic::lower(l, i, m),
    }
}

fn ignore(m: &mut Modifiers<'_>, names: &[&str], op: Op) -> Op {
    m.drop_all(names);
    op
}

fn ignore_all(m: &mut Modifiers<'_>) -> Op {
    m.take_rest();
    Op::Nop
}

/// Cache hints do nothing; a policy is a number that nothing reads.
fn hint(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.take_rest();
    if i.opcode == "createpolicy" {
        let d = i.operands.first().ok_or("expected a destination")?;
        return Ok(copy(l.builder.destination(d)?, l.builder.constant(0)?));
    }
    Ok(Op::Nop)
}

/// `d = a`.
pub fn copy(d: Slot, a: Slot) -> Op {
    Op::Lanes { f: lanes!(|a: u64| a), d, a, b: a, c: a }
}

/// The largest number of registers that are live at once, by first and last appearance: an upper estimate, without loops'
/// re-use, of what a compiler would need.
pub fn live_registers(program: &Program) -> u32 {
    let mut first = vec![usize::MAX; program.slots];
    let mut last = vec![0; program.slots];
    for (at, instruction) in program.instructions.iter().enumerate() {
        if let Op::Lanes { d, a, b, c, .. } = &instruction.op {
            for slot in [d, a, b, c].map(|s| *s as usize).into_iter().filter(|s| *s < program.slots) {
                first[slot] = first[slot].min(at);
                last[slot] = last[slot].max(at);
            }
        }
    }
    let mut change = vec![0i32; program.instructions.len() + 1];
    for (f, l) in first.iter().zip(&last).filter(|(f, _)| **f != usize::MAX) {
        change[*f] += 1;
        change[l + 1] -= 1;
    }
    let most = change.iter().scan(0, |live, c| {
        *live += c;
        Some(*live)
    });
    (most.max().unwrap_or(0) as u32 + 8).clamp(16, 255)
}
