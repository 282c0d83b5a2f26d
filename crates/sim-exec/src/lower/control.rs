//! Which family an instruction belongs to, and small control instructions.

use sim_ptx::Instruction;

use super::functions::Lowering;
use super::modifiers::Modifiers;
use super::{arithmetic, bulk, convert, fragments, matrices, memory, synchronise, wgmma};
use crate::lanes::lanes;
use crate::program::{Op, Slot};

/// Lowers any instruction but branches and returns.
pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    match i.opcode.as_str() {
        "trap" | "brkpt" => Ok(Op::Trap),
        "nanosleep" => Ok(ignore(m, &["u32"], Op::Yield)),
        "pmevent" | "setmaxnreg" => Ok(ignore_all(m)),
        "griddepcontrol" => {
            // A launch is over before the next begins, unless the driver starts it early: nothing is left to do here.
            let waits = m.take("wait");
            l.builder.program.waits_for_dependencies |= waits;
            l.builder.program.launches_dependents |= !waits && m.take("launch_dependents");
            Ok(Op::Nop)
        }
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
