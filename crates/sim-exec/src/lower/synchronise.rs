//! Barriers, fences, warp-wide exchanges and asynchronous copies.

use sim_ptx::{Instruction, Operand};

use super::functions::Lowering;
use super::memory::{drop_cache_hints, space, strength};
use super::modifiers::Modifiers;
use crate::lanes::lanes;
use crate::program::{
    Barrier, BarrierKind, MBARRIER_PENDING_MASK, MbarrierOp, Op, Pred, Redux, SINK, Shuffle, Slot, Strength, Vote,
};

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    match i.opcode.as_str() {
        "bar" | "barrier" => barrier(l, i, m),
        "membar" | "fence" => Ok(fence(m)),
        "cp" => copy(l, i, m),
        "mbarrier" => mbarrier(l, i, m),
        "activemask" => {
            m.take_types();
            Ok(Op::ActiveMask { d: l.builder.destination(operand(i, 0)?)? })
        }
        _ => between_lanes(l, i, m),
    }
}

/// Scopes do not matter. `fence.proxy.async` orders proxies and nothing else.
fn fence(m: &mut Modifiers<'_>) -> Op {
    let op = if m.has("proxy") && m.has("async") {
        let (shared, global) = (m.has("shared::cta") || m.has("shared::cluster"), m.has("global"));
        Op::ProxyFence { shared: !global, global: !shared }
    } else {
        Op::Fence
    };
    m.take_rest();
    op
}

fn operand(i: &Instruction, n: usize) -> Result<&Operand, String> {
    i.operands.get(n).ok_or_else(|| format!("expected at least {} operands, found {}", n + 1, i.operands.len()))
}

fn slot(l: &mut Lowering<'_>, i: &Instruction, n: usize) -> Result<Slot, String> {
    l.builder.source(operand(i, n)?, "b32")
}

/// `d` or `d|p`.
fn with_pred(l: &mut Lowering<'_>, i: &Instruction) -> Result<(Slot, u16), String> {
    match operand(i, 0)? {
        Operand::Pair(d, p) => Ok((l.builder.destination(d)?, l.builder.pred_destination(p)?)),
        d => Ok((l.builder.destination(d)?, SINK)),
    }
}

fn barrier(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    m.take("cta");
    if m.take("cluster") {
        m.drop_all(&["aligned", "acquire", "release", "relaxed"]);
        return Ok(if m.take("arrive") {
            Op::ClusterArrive
        } else {
            m.take("wait");
            Op::ClusterWait
        });
    }
    if m.take("warp") {
        m.take("sync");
        return Ok(Op::WarpSync { mask: slot(l, i, 0)? });
    }
    let aligned = i.opcode == "bar" || m.take("aligned");
    m.take("aligned");
    let red = m.take("red");
    let (kind, at) = if red {
        let which = m.take_one(&["popc", "and", "or"]).ok_or("no reduction")?;
        m.take_types();
        let p = l.builder.pred(i.operands.last().ok_or("expected operands")?)?;
        let kind = match which {
            "popc" => BarrierKind::RedPopc { d: l.builder.destination(operand(i, 0)?)?, p },
            "and" => BarrierKind::RedAnd { d: l.builder.pred_destination(operand(i, 0)?)?, p },
            _ => BarrierKind::RedOr { d: l.builder.pred_destination(operand(i, 0)?)?, p },
        };
        (kind, 1)
    } else if m.take("arrive") {
        (BarrierKind::Arrive, 0)
    } else {
        m.take("sync");
        (BarrierKind::Sync, 0)
    };
    let id = slot(l, i, at)?;
    let has_count = i.operands.len() - usize::from(red) > at + 1;
    let threads = if has_count { Some(slot(l, i, at + 1)?) } else { None };
    Ok(Op::Barrier(Box::new(Barrier { kind, id, threads, aligned })))
}

fn between_lanes(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    if !m.take("sync") {
        return Err("expected .sync".into());
    }
    match i.opcode.as_str() {
        "shfl" => {
            let mode = match m.take_one(&["up", "down", "bfly", "idx"]) {
                Some("up") => Shuffle::Up,
                Some("down") => Shuffle::Down,
                Some("bfly") => Shuffle::Butterfly,
                Some(_) => Shuffle::Index,
                None => return Err("no mode".into()),
            };
            m.take_types();
            let (d, p) = with_pred(l, i)?;
            let (a, b, c, mask) = (slot(l, i, 1)?, slot(l, i, 2)?, slot(l, i, 3)?, slot(l, i, 4)?);
            Ok(Op::Shuffle { mode, d, p, a, b, c, mask })
        }
        "vote" => {
            let mode = match m.take_one(&["all", "any", "uni", "ballot"]) {
                Some("all") => Vote::All,
                Some("any") => Vote::Any,
                Some("uni") => Vote::Uniform,
                Some(_) => Vote::Ballot,
                None => return Err("no mode".into()),
            };
            m.take_types();
            let p = l.builder.pred(operand(i, 1)?)?;
            let mask = slot(l, i, 2)?;
            let (d, dp) = match mode {
                Vote::Ballot => (l.builder.destination(operand(i, 0)?)?, SINK),
                _ => (SINK, l.builder.pred_destination(operand(i, 0)?)?),
            };
            Ok(Op::Vote { mode, d, dp, p, mask })
        }
        "match" => {
            let all = m.take_one(&["any", "all"]) == Some("all");
            let wide = m.take_types().pop() == Some("b64");
            let (d, p) = with_pred(l, i)?;
            Ok(Op::Match { all, wide, d, p, a: slot(l, i, 1)?, mask: slot(l, i, 2)? })
        }
        "redux" => {
            let name = m.take_one(&["add", "min", "max", "and", "or", "xor"]).ok_or("no operation")?;
            let signed = match m.take_types().pop() {
                Some("s32") => true,
                Some("u32" | "b32") => false,
                other => return Err(format!("type {other:?} is not supported")),
            };
            let op = match (name, signed) {
                ("add", _) => Redux::Add,
                ("min", false) => Redux::MinU,
                ("max", false) => Redux::MaxU,
                ("min", true) => Redux::MinS,
                ("max", true) => Redux::MaxS,
                ("and", _) => Redux::And,
                ("or", _) => Redux::Or,
                _ => Redux::Xor,
            };
            Ok(Op::Redux { op, d: l.builder.destination(operand(i, 0)?)?, a: slot(l, i, 1)?, mask: slot(l, i, 2)? })
        }
        _ => {
            let (d, p) = with_pred(l, i)?;
            Ok(Op::Elect { d, p, mask: slot(l, i, 1)? })
        }
    }
}

fn copy(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    if !m.take("async") {
        return Err("expected .async".into());
    }
    if m.take("commit_group") {
        return Ok(Op::CopyCommit);
    }
    if m.take("wait_all") {
        // Copies after the last commit belong to a group of their own.
        l.push(Op::CopyCommit, None, i.line, &i.source);
        return Ok(Op::CopyWait { pending: 0 });
    }
    if m.take("wait_group") {
        let Operand::Integer(pending) = operand(i, 0)? else { return Err("expected an immediate".into()) };
        return Ok(Op::CopyWait { pending: *pending as u32 });
    }
    if m.take("mbarrier") {
        m.drop_all(&["arrive", "shared", "shared::cta"]);
        m.take_types();
        let op = MbarrierOp::ArriveAfterCopies { no_increment: m.take("noinc") };
        let (address, _) = l.builder.address(operand(i, 0)?)?;
        return Ok(Op::Mbarrier { op: Box::new(op), address });
    }
    let policy = drop_cache_hints(m);
    m.drop_all(&["shared", "shared::cta", "global"]);
    let ((to, _), (from, _)) = (l.builder.address(operand(i, 0)?)?, l.builder.address(operand(i, 1)?)?);
    let Operand::Integer(bytes @ (4 | 8 | 16)) = operand(i, 2)? else { return Err("expected 4, 8 or 16 bytes".into()) };
    let (mut from_bytes, mut ignore): (Option<Slot>, Option<Pred>) = (None, None);
    let extras = i.operands.len() - 3 - usize::from(policy && i.operands.len() > 3);
    if extras > 0 {
        let extra = operand(i, 3)?;
        if l.builder.is_pred(extra) {
            ignore = Some(l.builder.pred(extra)?);
        } else {
            from_bytes = Some(l.builder.source(extra, "u32")?);
        }
    }
    Ok(Op::CopyAsync { to, from, bytes: *bytes as u32, from_bytes, ignore })
}

fn mbarrier(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    space(m);
    m.take_types();
    const KINDS: &[&str] = &[
        "init",
        "inval",
        "arrive",
        "arrive_drop",
        "expect_tx",
        "complete_tx",
        "test_wait",
        "try_wait",
        "pending_count",
    ];
    let kind = m.take_one(KINDS).ok_or("no operation")?;
    let strength = strength(m, Strength::AcquireRelease);
    if kind == "pending_count" {
        let (d, a) = (l.builder.destination(operand(i, 0)?)?, l.builder.source(operand(i, 1)?, "b64")?);
        return Ok(Op::Lanes { f: lanes!(|state: u64| state & MBARRIER_PENDING_MASK), d, a, b: a, c: a });
    }
    let with_tx = m.take("expect_tx");
    m.take("noComplete");
    let (op, at) = match kind {
        "init" => (MbarrierOp::Init { count: slot(l, i, 1)? }, 0),
        "inval" => (MbarrierOp::Invalidate, 0),
        "expect_tx" => (MbarrierOp::ExpectTx { tx: slot(l, i, 1)? }, 0),
        "complete_tx" => (MbarrierOp::CompleteTx { tx: slot(l, i, 1)? }, 0),
        "test_wait" | "try_wait" => {
            let parity = m.take("parity");
            let d = l.builder.pred_destination(operand(i, 0)?)?;
            (MbarrierOp::Wait { d, state: slot(l, i, 2)?, parity, acquires: strength.acquires() }, 1)
        }
        _ => {
            let has_state = !matches!(operand(i, 0)?, Operand::Memory(..));
            let at = usize::from(has_state);
            let state = if has_state { l.builder.destination(operand(i, 0)?)? } else { SINK };
            let extra = if i.operands.len() > at + 1 { Some(slot(l, i, at + 1)?) } else { None };
            let (count, tx) = if with_tx { (None, extra) } else { (extra, None) };
            let releases = strength.releases();
            (MbarrierOp::Arrive { count, tx, drop: kind == "arrive_drop", state, releases }, at)
        }
    };
    let (address, _) = l.builder.address(operand(i, at)?)?;
    Ok(Op::Mbarrier { op: Box::new(op), address })
}
