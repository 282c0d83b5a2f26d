//! Which kind of work an instruction is, by its PTX spelling.

/// The classes that instructions are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Integer,
    Float,
    Double,
    Half,
    Convert,
    Special,
    Move,
    Control,
    Exchange,
    Memory,
    Atomic,
    Matrix,
    AsyncCopy,
    Barrier,
    Mbarrier,
}

impl Class {
    /// The class of an opcode with its modifiers, without dots. What is not named here is arithmetic of its type.
    pub fn of(opcode: &str, modifiers: &[String]) -> Class {
        let has = |name: &str| modifiers.iter().any(|m| m == name);
        match opcode {
            "ld" | "ldu" | "st" | "ldmatrix" | "stmatrix" | "tensormap" => Class::Memory,
            "atom" | "red" | "multimem" => Class::Atomic,
            "mma" => Class::Matrix,
            "wmma" if has("mma") => Class::Matrix,
            "wmma" => Class::Memory,
            "wgmma" if has("mma_async") => Class::Matrix,
            "cp" if has("mbarrier") => Class::Mbarrier,
            "cp" if !["commit_group", "wait_group", "wait_all"].into_iter().any(has) => Class::AsyncCopy,
            "mbarrier" => Class::Mbarrier,
            "bar" | "barrier" if !has("warp") => Class::Barrier,
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" | "movmatrix" => Class::Exchange,
            "mov" | "cvta" | "mapa" | "getctarank" | "isspacep" | "createpolicy" => Class::Move,
            "cvt" => Class::Convert,
            "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt" | "rcp" | "sqrt" => Class::Special,
            "div" if has("approx") || has("full") => Class::Special,
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" | "bar"
            | "barrier" | "griddepcontrol" | "setmaxnreg" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "membar" | "fence" | "wgmma" | "cp" => Class::Control,
            _ => Class::of_type(modifiers),
        }
    }

    /// Arithmetic, by the type that is written last: `setp.gt.f32`, `fma.rn.f16x2`.
    fn of_type(modifiers: &[String]) -> Class {
        let ty = modifiers.iter().rev().find_map(|m| match m.as_str() {
            "f32" | "f32x2" => Some(Class::Float),
            "f64" => Some(Class::Double),
            "f16" | "f16x2" | "bf16" | "bf16x2" => Some(Class::Half),
            _ => None,
        });
        ty.unwrap_or(Class::Integer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_have_their_class() {
        for (spelling, class) in [
            ("add.s32", Class::Integer),
            ("setp.lt.and.u32", Class::Integer),
            ("lop3.b32", Class::Integer),
            ("dp4a.s32.s32", Class::Integer),
            ("fma.rn.ftz.f32", Class::Float),
            ("setp.gt.f32", Class::Float),
            ("add.rn.f32x2", Class::Float),
            ("mul.f64", Class::Double),
            ("fma.rn.bf16x2", Class::Half),
            ("div.rn.f32", Class::Float),
            ("div.full.f32", Class::Special),
            ("ex2.approx.ftz.f32", Class::Special),
            ("cvt.rn.f16.f32", Class::Convert),
            ("cvta.to.global.u64", Class::Move),
            ("mov.b64", Class::Move),
            ("bra.uni", Class::Control),
            ("fence.acq_rel.gpu", Class::Control),
            ("shfl.sync.bfly.b32", Class::Exchange),
            ("ld.global.nc.v4.f32", Class::Memory),
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", Class::Memory),
            ("red.global.add.f32", Class::Atomic),
            ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", Class::Matrix),
            ("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32", Class::Matrix),
            ("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16", Class::Memory),
            ("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16", Class::Matrix),
            ("wgmma.wait_group.sync.aligned", Class::Control),
            ("cp.async.cg.shared.global", Class::AsyncCopy),
            ("cp.async.commit_group", Class::Control),
            ("cp.async.bulk.wait_group.read", Class::Control),
            ("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes", Class::AsyncCopy),
            ("cp.async.mbarrier.arrive.shared.b64", Class::Mbarrier),
            ("mbarrier.try_wait.parity.shared::cta.b64", Class::Mbarrier),
            ("bar.sync", Class::Barrier),
            ("barrier.cluster.arrive", Class::Barrier),
            ("bar.warp.sync", Class::Control),
        ] {
            let mut parts = spelling.split('.').map(str::to_owned);
            let opcode = parts.next().expect("an opcode");
            assert_eq!(Class::of(&opcode, &parts.collect::<Vec<_>>()), class, "{spelling}");
        }
    }
}
