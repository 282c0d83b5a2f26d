//! Logic, shifts, bit fields and permutes.

use super::{LaneFn, lanes};

/// The lane function of a bit instruction of up to three operands.
///
/// `modifiers` are those that choose the function: `l`/`r`, `clamp`/`wrap`, prmt modes, `shiftamt`.
pub fn find(opcode: &str, modifiers: &[&str], ty: &str) -> Option<LaneFn> {
    let wide = ty.ends_with("64");
    Some(match (opcode, modifiers, ty) {
        ("and", [], _) => lanes!(|a: u64, b: u64| a & b),
        ("or", [], _) => lanes!(|a: u64, b: u64| a | b),
        ("xor", [], _) => lanes!(|a: u64, b: u64| a ^ b),
        ("not", [], "b16") => lanes!(|a: u16| !a),
        ("not", [], "b32") => lanes!(|a: u32| !a),
        ("not", [], "b64") => lanes!(|a: u64| !a),
        ("cnot", [], _) => lanes!(|a: u64| u64::from(a == 0)),
        ("shl", [], "b16") => lanes!(|a: u16, b: u32| a.checked_shl(b).unwrap_or(0)),
        ("shl", [], "b32") => lanes!(|a: u32, b: u32| a.checked_shl(b).unwrap_or(0)),
        ("shl", [], "b64") => lanes!(|a: u64, b: u32| a.checked_shl(b).unwrap_or(0)),
        ("shr", [], "b16" | "u16") => lanes!(|a: u16, b: u32| a.checked_shr(b).unwrap_or(0)),
        ("shr", [], "b32" | "u32") => lanes!(|a: u32, b: u32| a.checked_shr(b).unwrap_or(0)),
        ("shr", [], "b64" | "u64") => lanes!(|a: u64, b: u32| a.checked_shr(b).unwrap_or(0)),
        ("shr", [], "s16") => lanes!(|a: i16, b: u32| a >> b.min(15)),
        ("shr", [], "s32") => lanes!(|a: i32, b: u32| a >> b.min(31)),
        ("shr", [], "s64") => lanes!(|a: i64, b: u32| a >> b.min(63)),
        ("shf", ["l", "clamp"], _) => lanes!(|a: u32, b: u32, c: u32| (joined(a, b) << c.min(32) >> 32) as u32),
        ("shf", ["l", "wrap"], _) => lanes!(|a: u32, b: u32, c: u32| (joined(a, b) << (c & 31) >> 32) as u32),
        ("shf", ["r", "clamp"], _) => lanes!(|a: u32, b: u32, c: u32| (joined(a, b) >> c.min(32)) as u32),
        ("shf", ["r", "wrap"], _) => lanes!(|a: u32, b: u32, c: u32| (joined(a, b) >> (c & 31)) as u32),
        ("popc", [], _) if wide => lanes!(|a: u64| a.count_ones()),
        ("popc", [], _) => lanes!(|a: u32| a.count_ones()),
        ("clz", [], _) if wide => lanes!(|a: u64| a.leading_zeros()),
        ("clz", [], _) => lanes!(|a: u32| a.leading_zeros()),
        ("brev", [], _) if wide => lanes!(|a: u64| a.reverse_bits()),
        ("brev", [], _) => lanes!(|a: u32| a.reverse_bits()),
        ("bfind", [], "u32") => lanes!(|a: u32| highest(a.into())),
        ("bfind", [], "u64") => lanes!(|a: u64| highest(a)),
        ("bfind", [], "s32") => lanes!(|a: i32| highest((if a < 0 { !a } else { a }) as u64)),
        ("bfind", [], "s64") => lanes!(|a: i64| highest((if a < 0 { !a } else { a }) as u64)),
        ("bfind", ["shiftamt"], "u32") => lanes!(|a: u32| shift_amount(highest(a.into()), 31)),
        ("bfind", ["shiftamt"], "u64") => lanes!(|a: u64| shift_amount(highest(a), 63)),
        ("bfind", ["shiftamt"], "s32") => {
            lanes!(|a: i32| shift_amount(highest((if a < 0 { !a } else { a }) as u64), 31))
        }
        ("bfind", ["shiftamt"], "s64") => {
            lanes!(|a: i64| shift_amount(highest((if a < 0 { !a } else { a }) as u64), 63))
        }
        ("fns", [], "b32") => lanes!(|a: u32, b: u32, c: i32| find_set(a, b, c)),
        ("bfe", [], "u32") => lanes!(|a: u32, b: u32, c: u32| extract(a.into(), b, c, 32) as u32),
        ("bfe", [], "u64") => lanes!(|a: u64, b: u32, c: u32| extract(a, b, c, 64)),
        ("bfe", [], "s32") => lanes!(|a: u32, b: u32, c: u32| extract_signed(a.into(), b, c, 32) as u32),
        ("bfe", [], "s64") => lanes!(|a: u64, b: u32, c: u32| extract_signed(a, b, c, 64)),
        ("bmsk", ["clamp"], _) => lanes!(|a: u32, b: u32| bit_mask(a, b.min(32))),
        ("bmsk", ["wrap"], _) => lanes!(|a: u32, b: u32| bit_mask(a & 31, b & 31)),
        ("szext", ["clamp"], "u32") => lanes!(|a: u32, b: u32| a & bit_mask(0, b.min(32))),
        ("szext", ["wrap"], "u32") => lanes!(|a: u32, b: u32| a & bit_mask(0, b & 31)),
        ("szext", ["clamp"], "s32") => lanes!(|a: u32, b: u32| extract_signed(a.into(), 0, b.min(32), 32) as u32),
        ("szext", ["wrap"], "s32") => lanes!(|a: u32, b: u32| extract_signed(a.into(), 0, b & 31, 32) as u32),
        ("prmt", modes, _) => return permute(modes),
        _ => return None,
    })
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn highest(a: u64) -> u32 {
    if a == 0 { !0 } else { 63 - a.leading_zeros() }
}

fn shift_amount(position: u32, top: u32) -> u32 {
    if position == !0 { !0 } else { top - position }
}

/// `fns`: the place of the `|offset|`-th set bit of `mask` from `base` on, upwards or downwards; for offset 0, of bit `base` itself.
fn find_set(mask: u32, base: u32, offset: i32) -> u32 {
    let (Some(up), Some(down)) = ((!0u32).checked_shl(base), (!0u32).checked_shr(31u32.wrapping_sub(base))) else {
        return !0;
    };
    let mut rest = match offset {
        0 => mask & up & down,
        1.. => mask & up,
        _ => mask & down,
    };
    for _ in 1..offset.unsigned_abs().min(33) {
        rest &=
            if offset > 0 { rest.wrapping_sub(1) } else { (!0u32).checked_shr(rest.leading_zeros() + 1).unwrap_or(0) };
    }
    match rest {
        0 => !0,
        _ if offset < 0 => 31 - rest.leading_zeros(),
        _ => rest.trailing_zeros(),
    }
}

fn bit_mask(start: u32, count: u32) -> u32 {
    if start >= 32 { 0 } else { (((1u64 << count) - 1) << start) as u32 }
}

fn extract(a: u64, position: u32, count: u32, width: u32) -> u64 {
    let (position, count) = (position & 255, count & 255);
    if position >= width || count == 0 {
        return 0;
    }
    let field = a >> position;
    if count >= 64 { field } else { field & ((1 << count) - 1) }
}

/// The field is filled from its top bit, or from the top bit of `a` where it reaches beyond.
fn extract_signed(a: u64, position: u32, count: u32, width: u32) -> u64 {
    let (position, count) = (position & 255, count & 255);
    if count == 0 {
        return 0;
    }
    let sign_at = (position + count - 1).min(width - 1);
    let sign = a >> sign_at & 1 != 0;
    let field = extract(a, position, count, width);
    let kept = count.min(width.saturating_sub(position));
    if sign && kept < 64 { field | !0 << kept } else { field }
}

/// `bfi`: `a` inserted into `b` at `position` for `count` bits.
pub fn insert(a: u64, b: u64, position: u32, count: u32, width: u32) -> u64 {
    let (position, count) = (position & 255, (count & 255).min(64));
    if position >= width || count == 0 {
        return b;
    }
    let ones = if count >= 64 { !0 } else { (1u64 << count) - 1 };
    let mask = ones << position & if width == 64 { !0 } else { (1 << width) - 1 };
    b & !mask | a << position & mask
}

/// `lop3`: each bit looked up in an 8-entry table.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for entry in 0..8 {
        if table >> entry & 1 != 0 {
            let x = if entry & 4 != 0 { a } else { !a };
            let y = if entry & 2 != 0 { b } else { !b };
            let z = if entry & 1 != 0 { c } else { !c };
            out |= x & y & z;
        }
    }
    out
}

fn byte(a: u32, b: u32, index: u32) -> u32 {
    (joined(a, b) >> (8 * (index & 7)) & 255) as u32
}

fn permute(modes: &[&str]) -> Option<LaneFn> {
    Some(match modes {
        [] => lanes!(|a: u32, b: u32, c: u32| {
            let mut out = 0;
            for i in 0..4 {
                let selector = c >> (4 * i) & 15;
                let value = byte(a, b, selector);
                // The selector's top bit replicates the sign instead of the byte.
                out |= (if selector & 8 != 0 { (value >> 7) * 255 } else { value }) << (8 * i);
            }
            out
        }),
        ["f4e"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |i| (c & 3) + i)),
        ["b4e"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |i| (c & 3).wrapping_sub(i))),
        ["rc8"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |_| c & 3)),
        ["ecl"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |i| i.max(c & 3))),
        ["ecr"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |i| i.min(c & 3))),
        ["rc16"] => lanes!(|a: u32, b: u32, c: u32| gather(a, b, |i| (c & 1) * 2 + i % 2)),
        _ => return None,
    })
}

fn gather(a: u32, b: u32, index: impl Fn(u32) -> u32) -> u32 {
    (0..4).fold(0, |out, i| out | byte(a, b, index(i)) << (8 * i))
}
