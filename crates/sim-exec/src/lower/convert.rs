//! cvt.

use sim_ptx::Instruction;

use super::functions::Lowering;
use super::modifiers::Modifiers;
use crate::lanes::convert::{Conversion, CvtRound, Number, find_fast};
use crate::program::Op;

pub fn lower(l: &mut Lowering<'_>, i: &Instruction, m: &mut Modifiers<'_>) -> Result<Op, String> {
    let types = m.take_types();
    let [to_name, from_name] = types.as_slice() else { return Err("expected two types".into()) };
    m.take("pack");
    let (to_one, from_one) = (single(to_name), single(from_name));
    let to = Number::parse(to_one).ok_or_else(|| format!("type .{to_name} is not supported"))?;
    let from = Number::parse(from_one).ok_or_else(|| format!("type .{from_name} is not supported"))?;
    let rounding = m.take_one(&["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"]);
    let round = match rounding {
        Some("rz" | "rzi") => CvtRound::Zero,
        Some("rm" | "rmi") => CvtRound::Down,
        Some("rp" | "rpi") => CvtRound::Up,
        Some("rna") => CvtRound::NearestAway,
        _ => CvtRound::NearestEven,
    };
    let conversion = Conversion {
        to,
        from,
        round,
        integral: rounding.is_some_and(|r| r.ends_with('i')),
        ftz: m.take("ftz"),
        sat: m.take("sat"),
        satfinite: m.take("satfinite"),
        relu: m.take("relu"),
    };
    let d = l.builder.destination(i.operands.first().ok_or("expected operands")?)?;
    let a = l.builder.source(i.operands.get(1).ok_or("expected a source")?, from_one)?;
    if let Some(b) = i.operands.get(2) {
        let half_bits = if matches!(to, Number::E4m3 | Number::E5m2) { 8 } else { 16 };
        let b = l.builder.source(b, from_one)?;
        return Ok(Op::ConvertPair { conversion: Box::new(conversion), d, a, b, half_bits });
    }
    if from_one != *from_name {
        let bits = |n: Number| if matches!(n, Number::E4m3 | Number::E5m2) { 8 } else { 16 };
        return Ok(Op::ConvertHalves {
            conversion: Box::new(conversion),
            d,
            a,
            from_bits: bits(from),
            to_bits: bits(to),
        });
    }
    Ok(match find_fast(&conversion) {
        Some(f) => Op::Lanes { f, d, a, b: a, c: a },
        None => Op::Convert { conversion: Box::new(conversion), d, a },
    })
}

/// The element type of a pair type.
fn single(name: &str) -> &str {
    name.strip_suffix("x2").unwrap_or(name)
}
