//! Bulk copies and tensor maps.

use sim_ptx::{Instruction, Operand};

use super::functions::Lowering;
use super::memory::{atomic_kind, atomic_type, drop_cache_hints, space};
use super::modifiers::Modifiers;
use crate::program::{Address, AtomicKind, AtomicType, Bulk, BulkFar, BulkRoute, Op, Slot, Space};
use crate::tensor_map::MapField;

/// `cp.async.bulk…` and `cp.reduce.async.bulk…`.
pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let reduces = m.take("reduce");
    m.drop_all(&["async", "bulk"]);
    if m.take("commit_group") {
        return Ok(Op::BulkCommit);
    }
    if m.take("wait_group") {
        let Operand::Integer(pending) = operand(i, 0)? else { return Err("expected a number of groups".into()) };
        return Ok(Op::BulkWait { pending: *pending as u32, read: m.take("read") });
    }
    if m.take("prefetch") {
        // Into the L2, which holds everything: no counter changes.
        m.take_rest();
        return Ok(Op::Nop);
    }
    let tensor = m.take("tensor");
    let rank = m.take_one(&["1d", "2d", "3d", "4d", "5d"]).map(|d| usize::from(d.as_bytes()[0] - b'0'));
    if tensor != rank.is_some() {
        return Err("expected .tensor with a number of dimensions".into());
    }
    m.take("tile");
    let (to, from) = (space(m), space(m));
    let (by_mbarrier, by_group) = (m.take("mbarrier::complete_tx::bytes"), m.take("bulk_group"));
    let multicast = m.take("multicast::cluster");
    let policy = drop_cache_hints(m);
    let reduce = if reduces { Some(reduction(m, tensor)?) } else { None };
    let shared = |space: Space| matches!(space, Space::Shared | Space::SharedCluster);
    let route = match (to, from) {
        (to, Space::Global) if shared(to) && !reduces => BulkRoute::Load,
        (Space::Global, Space::Shared) => BulkRoute::Store,
        (Space::SharedCluster, Space::Shared) if !tensor => BulkRoute::Between,
        _ => return Err("expected a copy between global and shared memory, or to shared::cluster".into()),
    };
    if by_mbarrier == (route == BulkRoute::Store) || by_group == by_mbarrier {
        return Err("expected .bulk_group for copies to global memory, .mbarrier::complete_tx::bytes for others".into());
    }
    let mut operands = Operands { list: &i.operands, next: 0 };
    let bulk = sides(l, &mut operands, route, rank)?;
    let mbarrier = if by_mbarrier { Some(l.builder.address(operands.next()?)?.0) } else { None };
    let cta_mask = if multicast { Some(l.builder.source(operands.next()?, "u16")?) } else { None };
    if policy {
        operands.next()?;
    }
    if operands.next < i.operands.len() {
        return Err(format!("expected {} operands, found {}", operands.next, i.operands.len()));
    }
    Ok(Op::Bulk(Box::new(Bulk { mbarrier, cta_mask, reduce, ..bulk })))
}

struct Operands<'a> {
    list: &'a [Operand],
    next: usize,
}

impl<'a> Operands<'a> {
    fn next(&mut self) -> Result<&'a Operand, String> {
        self.next += 1;
        self.list.get(self.next - 1).ok_or_else(|| format!("expected operand {}", self.next))
    }
}

/// Destination and source, and for bytes their number.
fn sides(
    l: &mut Lowering<'_>,
    operands: &mut Operands<'_>,
    route: BulkRoute,
    rank: Option<usize>,
) -> Result<Bulk, String> {
    let (to, from) = (operands.next()?, operands.next()?);
    let (near, far) = if route == BulkRoute::Load { (to, from) } else { (from, to) };
    let shared = l.builder.address(near)?.0;
    let far = match rank {
        Some(rank) => {
            let Operand::Tensor(base, coordinates) = far else {
                return Err(format!("expected a tensor map with coordinates, found {far:?}"));
            };
            if coordinates.len() != rank {
                return Err(format!("expected {rank} coordinates, found {}", coordinates.len()));
            }
            let (map, _) = l.builder.address(&Operand::Memory(base.clone(), 0))?;
            let coordinates = coordinates.iter().map(|c| l.builder.source(c, "s32")).collect::<Result<_, _>>()?;
            BulkFar::Tensor { map, coordinates }
        }
        None => {
            let address = l.builder.address(far)?.0;
            BulkFar::Bytes { address, bytes: l.builder.source(operands.next()?, "u32")? }
        }
    };
    Ok(Bulk { route, shared, far, mbarrier: None, cta_mask: None, reduce: None })
}

fn reduction(m: &mut Modifiers<'_>, tensor: bool) -> Result<(AtomicKind, Option<AtomicType>), String> {
    let kind = atomic_kind(m)?;
    let possible = !matches!(kind, AtomicKind::Exchange | AtomicKind::CompareExchange);
    let ty = m.take_types().pop().map(atomic_type).transpose()?;
    match (possible, ty) {
        (true, None) if tensor => Ok((kind, None)),
        (true, Some(ty)) if !tensor => Ok((kind, Some(ty))),
        _ => Err("expected an operation, and a type unless a tensor map has it".into()),
    }
}

/// `tensormap.replace` and `tensormap.cp_fenceproxy`.
pub fn tensor_map(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    if m.take("cp_fenceproxy") {
        m.take_rest();
        if !matches!(operand(i, 2)?, Operand::Integer(128)) {
            return Err("expected 128 bytes".into());
        }
        let (to, from) = (l.builder.address(operand(i, 0)?)?.0, l.builder.address(operand(i, 1)?)?.0);
        return Ok(Op::CopyMap { to, from });
    }
    if !(m.take("replace") && m.take("tile") && m.take("b1024")) {
        return Err("expected .replace.tile with .b1024, or .cp_fenceproxy".into());
    }
    m.take_types();
    let space = space(m);
    let name = m.take_where(|_| true).ok_or("expected a field")?;
    let has_ordinal = MapField::has_ordinal(name);
    let ordinal = match (has_ordinal, i.operands.get(1)) {
        (true, Some(Operand::Integer(n))) => *n as usize,
        (true, other) => return Err(format!("expected the number of a dimension, found {other:?}")),
        (false, _) => 0,
    };
    let field = MapField::named(name, ordinal).ok_or_else(|| format!("field {name} {ordinal} is not supported"))?;
    let address: Address = l.builder.address(operand(i, 0)?)?.0;
    let value: Slot = l.builder.source(operand(i, 1 + usize::from(has_ordinal))?, "b64")?;
    Ok(Op::ReplaceInMap { field, address, space, value })
}

fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}
