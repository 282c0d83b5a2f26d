//! Loads, stores, atomics and address conversions.

use sim_ptx::{Instruction, Operand, type_bits};

use super::arithmetic;
use super::control::copy;
use super::functions::Lowering;
use super::modifiers::Modifiers;
use super::operands::Binding;
use crate::lanes::lanes;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::program::{Access, Atomic, AtomicKind, AtomicType, Op, Slot, Space, Strength};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    match i.opcode.as_str() {
        "mov" => arithmetic::mov(l, i, m),
        "ld" | "ldu" => load_store(l, i, m, true),
        "st" => load_store(l, i, m, false),
        "atom" | "red" => atomic(l, i, m),
        "cvta" => cvta(l, i, m),
        "isspacep" => {
            let space = space(m);
            Ok(Op::IsSpace {
                p: l.builder.pred_destination(operand(i, 0)?)?,
                a: l.builder.source(operand(i, 1)?, "u64")?,
                space,
            })
        }
        _ => cluster_address(l, i, m),
    }
}

fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}

/// The state space among the modifiers.
pub fn space(m: &mut Modifiers<'_>) -> Space {
    match m.take_one(&[
        "global",
        "const",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "param",
        "param::entry",
        "param::func",
    ]) {
        Some("global" | "const") => Space::Global,
        Some("shared" | "shared::cta") => Space::Shared,
        Some("shared::cluster") => Space::SharedCluster,
        Some("local") => Space::Local,
        Some(_) => Space::Param,
        None => Space::Generic,
    }
}

/// The memory ordering among the modifiers; the scope does not matter to the simulator, which is never weaker.
pub fn strength(m: &mut Modifiers<'_>, default: Strength) -> Strength {
    m.drop_all(&["cta", "cluster", "gpu", "sys"]);
    match m.take_one(&["weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]) {
        Some("weak") => Strength::Weak,
        Some("volatile" | "relaxed" | "mmio") => Strength::Relaxed,
        Some("acquire") => Strength::Acquire,
        Some("release") => Strength::Release,
        Some(_) => Strength::AcquireRelease,
        None => default,
    }
}

/// Cache operators and eviction hints change no result.
pub fn drop_cache_hints(m: &mut Modifiers<'_>) -> bool {
    let policy = m.take("L2::cache_hint") | m.take("cache_hint");
    m.drop_all(&["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "noftz"]);
    m.drop_where(|name| name.starts_with("L1::") || name.starts_with("L2::"));
    policy
}

fn load_store(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>, load: bool) -> Result<Op, String> {
    let mut space = space(m);
    let strength = strength(m, Strength::Weak);
    drop_cache_hints(m);
    m.drop_all(&["v2", "v4", "v8", "unified"]);
    let ty = m.take_types().pop().ok_or("no type")?;
    let (value, memory) = if load { (operand(i, 0)?, operand(i, 1)?) } else { (operand(i, 1)?, operand(i, 0)?) };
    let (address, binding) = l.builder.address(memory)?;
    match binding {
        // Parameters of inlined functions and of calls live in local memory.
        Some(Binding::Local(_)) => space = Space::Local,
        Some(Binding::Param(_)) => space = Space::Param,
        Some(Binding::Shared(_)) if space == Space::Generic => space = Space::Shared,
        _ => {}
    }
    let registers: Vec<Slot> = match value {
        Operand::Vector(values) if load => values.iter().map(|v| l.builder.destination(v)).collect::<Result<_, _>>()?,
        Operand::Vector(values) => values.iter().map(|v| l.builder.source(v, ty)).collect::<Result<_, _>>()?,
        one if load => vec![l.builder.destination(one)?],
        one => vec![l.builder.source(one, ty)?],
    };
    let bits = type_bits(ty).unwrap_or(32);
    if bits > 64 {
        return Err("128-bit registers are not supported".into());
    }
    let access = Access {
        space,
        width: bits / 8,
        signed: ty.starts_with('s'),
        strength,
        address,
        registers: registers.into(),
        used_bytes: i.used_bytes.unwrap_or(Access::ALL_USED),
    };
    Ok(if load { Op::Load(Box::new(access)) } else { Op::Store(Box::new(access)) })
}

/// The operation among the modifiers.
pub fn atomic_kind(m: &mut Modifiers<'_>) -> Result<AtomicKind, String> {
    let name = m.take_one(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]);
    Ok(match name.ok_or("no operation")? {
        "add" => AtomicKind::Add,
        "min" => AtomicKind::Min,
        "max" => AtomicKind::Max,
        "and" => AtomicKind::And,
        "or" => AtomicKind::Or,
        "xor" => AtomicKind::Xor,
        "exch" => AtomicKind::Exchange,
        "cas" => AtomicKind::CompareExchange,
        "inc" => AtomicKind::Increment,
        _ => AtomicKind::Decrement,
    })
}

/// The element type of this name.
pub fn atomic_type(name: &str) -> Result<AtomicType, String> {
    Ok(match name {
        "f32" => AtomicType::F32,
        "f64" => AtomicType::F64,
        "f16" => AtomicType::F16,
        "bf16" => AtomicType::Bf16,
        "f16x2" => AtomicType::F16x2,
        "bf16x2" => AtomicType::Bf16x2,
        "b128" => return Err("128-bit atomics are not supported".into()),
        s if s.starts_with('s') => AtomicType::Signed(type_bits(s).unwrap_or(32)),
        other => AtomicType::Unsigned(type_bits(other).unwrap_or(32)),
    })
}

fn atomic(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let space = space(m);
    let strength = strength(m, Strength::Relaxed);
    drop_cache_hints(m);
    m.drop_all(&["v2", "v4", "v8"]);
    let kind = atomic_kind(m)?;
    let ty_name = m.take_types().pop().ok_or("no type")?;
    let ty = atomic_type(ty_name)?;
    let mut operands = i.operands.iter();
    let mut next = || operands.next().ok_or_else(|| "expected more operands".to_owned());
    let d: Vec<Slot> = match i.opcode.as_str() {
        "red" => Vec::new(),
        _ => match next()? {
            Operand::Vector(parts) => parts.iter().map(|p| l.builder.destination(p)).collect::<Result<_, _>>()?,
            one => vec![l.builder.destination(one)?],
        },
    };
    let (address, _) = l.builder.address(next()?)?;
    let value: Vec<Slot> = match next()? {
        Operand::Vector(parts) => parts.iter().map(|p| l.builder.source(p, ty_name)).collect::<Result<_, _>>()?,
        one => vec![l.builder.source(one, ty_name)?],
    };
    let swap = if kind == AtomicKind::CompareExchange { Some(l.builder.source(next()?, ty_name)?) } else { None };
    Ok(Op::Atomic(Box::new(Atomic { kind, ty, space, strength, address, d: d.into(), value: value.into(), swap })))
}

fn cvta(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let to = m.take("to");
    let space = space(m);
    m.take_types();
    let (d, a) = (l.builder.destination(operand(i, 0)?)?, l.builder.source(operand(i, 1)?, "u64")?);
    let window = match space {
        Space::Shared | Space::SharedCluster => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Generic => return Ok(copy(d, a)),
    };
    let b = l.builder.constant(window)?;
    let f = if to { lanes!(|a: u64, b: u64| a.wrapping_sub(b)) } else { lanes!(|a: u64, b: u64| a.wrapping_add(b)) };
    Ok(Op::Lanes { f, d, a, b, c: b })
}

fn cluster_address(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let generic = space(m) == Space::Generic;
    m.take_types();
    let (d, a) = (l.builder.destination(operand(i, 0)?)?, l.builder.source(operand(i, 1)?, "u64")?);
    if i.opcode == "getctarank" {
        return Ok(Op::ClusterRank { d, a });
    }
    let rank = l.builder.source(operand(i, 2)?, "u32")?;
    Ok(Op::MapShared { d, a, rank, generic })
}
