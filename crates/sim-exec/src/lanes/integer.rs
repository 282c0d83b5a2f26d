//! Integer arithmetic: add, sub, mul, mad, sad, div, rem, abs, neg, min, max, dp4a, dp2a.

use super::{LaneFn, lanes};

/// The operations with one function per type.
macro_rules! per_type {
    ($ty:expr, $($name:literal => $t:ident),* ; $body:ident) => {
        match $ty { $($name => Some($body!($t)),)* _ => None }
    };
}

macro_rules! all_integers {
    ($ty:expr, $body:ident) => {
        per_type!($ty, "u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32, "u64" => u64, "s64" => i64,
            "b16" => u16, "b32" => u32, "b64" => u64; $body)
    };
}

/// The lane function of `opcode.modifier.ty`, if it is an integer operation of up to three operands of one type.
pub fn find(opcode: &str, modifier: &str, ty: &str) -> Option<LaneFn> {
    macro_rules! add {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| a.wrapping_add(b))
        };
    }
    macro_rules! sub {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| a.wrapping_sub(b))
        };
    }
    macro_rules! mul_lo {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| a.wrapping_mul(b))
        };
    }
    macro_rules! mad_lo {
        ($t:ident) => {
            lanes!(|a: $t, b: $t, c: $t| a.wrapping_mul(b).wrapping_add(c))
        };
    }
    macro_rules! div {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| if b == 0 { !0 } else { a.wrapping_div(b) })
        };
    }
    macro_rules! rem {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| if b == 0 { a } else { a.wrapping_rem(b) })
        };
    }
    macro_rules! min {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| a.min(b))
        };
    }
    macro_rules! max {
        ($t:ident) => {
            lanes!(|a: $t, b: $t| a.max(b))
        };
    }
    macro_rules! neg {
        ($t:ident) => {
            lanes!(|a: $t| (0 as $t).wrapping_sub(a))
        };
    }
    macro_rules! sad {
        ($t:ident) => {
            lanes!(|a: $t, b: $t, c: $t| c.wrapping_add(a.max(b).wrapping_sub(a.min(b))))
        };
    }
    match (opcode, modifier) {
        ("add", "") => all_integers!(ty, add),
        ("sub", "") => all_integers!(ty, sub),
        ("add", "sat") if ty == "s32" => Some(lanes!(|a: i32, b: i32| a.saturating_add(b))),
        ("sub", "sat") if ty == "s32" => Some(lanes!(|a: i32, b: i32| a.saturating_sub(b))),
        ("mul", "lo") => all_integers!(ty, mul_lo),
        ("mad", "lo") => all_integers!(ty, mad_lo),
        ("mul", "hi") => mul_hi(ty),
        ("mad", "hi") => mad_hi(ty),
        ("mul", "wide") => mul_wide(ty),
        ("mad", "wide") => mad_wide(ty),
        ("mul24", "lo") => match ty {
            "u32" => Some(lanes!(|a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))),
            "s32" => Some(lanes!(|a: i32, b: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8))),
            _ => None,
        },
        ("div", "") => all_integers!(ty, div),
        ("rem", "") => all_integers!(ty, rem),
        ("min", "") => all_integers!(ty, min),
        ("max", "") => all_integers!(ty, max),
        ("neg", "") => all_integers!(ty, neg),
        ("sad", "") => all_integers!(ty, sad),
        ("abs", "") => match ty {
            "s16" => Some(lanes!(|a: i16| a.wrapping_abs())),
            "s32" => Some(lanes!(|a: i32| a.wrapping_abs())),
            "s64" => Some(lanes!(|a: i64| a.wrapping_abs())),
            _ => None,
        },
        _ => None,
    }
    .or_else(|| packed(opcode, modifier, ty))
}

fn mul_hi(ty: &str) -> Option<LaneFn> {
    Some(match ty {
        "u16" => lanes!(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        "s16" => lanes!(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        "u32" => lanes!(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "s32" => lanes!(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        "u64" => lanes!(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        "s64" => lanes!(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        _ => return None,
    })
}

fn mad_hi(ty: &str) -> Option<LaneFn> {
    Some(match ty {
        "u32" => lanes!(|a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        "s32" => lanes!(|a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)),
        "u64" => lanes!(|a: u64, b: u64, c: u64| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        "s64" => lanes!(|a: i64, b: i64, c: i64| (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)),
        _ => return None,
    })
}

fn mul_wide(ty: &str) -> Option<LaneFn> {
    Some(match ty {
        "u16" => lanes!(|a: u16, b: u16| u32::from(a) * u32::from(b)),
        "s16" => lanes!(|a: i16, b: i16| i32::from(a) * i32::from(b)),
        "u32" => lanes!(|a: u32, b: u32| u64::from(a) * u64::from(b)),
        "s32" => lanes!(|a: i32, b: i32| i64::from(a) * i64::from(b)),
        _ => return None,
    })
}

fn mad_wide(ty: &str) -> Option<LaneFn> {
    Some(match ty {
        "u16" => lanes!(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        "s16" => lanes!(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        "u32" => lanes!(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        "s32" => lanes!(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        _ => return None,
    })
}

/// Two 16-bit integers in one register.
fn packed(opcode: &str, modifier: &str, ty: &str) -> Option<LaneFn> {
    macro_rules! pairs {
        ($t:ty, $f:expr) => {
            lanes!(|a: u32, b: u32| {
                let f: fn($t, $t) -> $t = $f;
                let low = f(a as $t, b as $t) as u16;
                let high = f((a >> 16) as $t, (b >> 16) as $t) as u16;
                u32::from(low) | u32::from(high) << 16
            })
        };
    }
    Some(match (opcode, modifier, ty) {
        ("add", "", "u16x2" | "s16x2") => pairs!(u16, |a, b| a.wrapping_add(b)),
        ("min", "", "u16x2") => pairs!(u16, |a, b| a.min(b)),
        ("max", "", "u16x2") => pairs!(u16, |a, b| a.max(b)),
        ("min", "", "s16x2") => pairs!(i16, |a, b| a.min(b)),
        ("max", "", "s16x2") => pairs!(i16, |a, b| a.max(b)),
        _ => return None,
    })
}

/// vabsdiff4: the absolute differences of the bytes, side by side or added to `c`.
pub fn absolute_differences(signed: bool, add: bool) -> LaneFn {
    fn each(a: u32, b: u32, f: impl Fn(u8, u8) -> u8) -> [u8; 4] {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        std::array::from_fn(|i| f(a[i], b[i]))
    }
    fn sum(bytes: [u8; 4], c: u32) -> u32 {
        bytes.iter().fold(c, |sum, byte| sum.wrapping_add((*byte).into()))
    }
    fn of_signed(a: u8, b: u8) -> u8 {
        (a as i8).abs_diff(b as i8)
    }
    match (signed, add) {
        (false, false) => lanes!(|a: u32, b: u32| u32::from_le_bytes(each(a, b, u8::abs_diff))),
        (true, false) => lanes!(|a: u32, b: u32| u32::from_le_bytes(each(a, b, of_signed))),
        (false, true) => lanes!(|a: u32, b: u32, c: u32| sum(each(a, b, u8::abs_diff), c)),
        (true, true) => lanes!(|a: u32, b: u32, c: u32| sum(each(a, b, of_signed), c)),
    }
}

/// dp4a and dp2a: `high` takes the upper two bytes of `b` (dp2a.hi).
pub fn find_dot(opcode: &str, high: bool, a_type: &str, b_type: &str) -> Option<LaneFn> {
    macro_rules! dot {
        ($a:ty, $a_bits:literal, $b:ty, $b_shift:literal, $n:literal) => {
            lanes!(|a: u32, b: u32, c: i32| {
                let mut sum = c;
                for i in 0..$n {
                    let x = (a >> ($a_bits * i)) as $a as i32;
                    sum = sum.wrapping_add(x * (b >> (8 * i + $b_shift)) as $b as i32);
                }
                sum
            })
        };
    }
    Some(match (opcode, high, a_type, b_type) {
        ("dp4a", false, "s32", "s32") => dot!(i8, 8, i8, 0, 4),
        ("dp4a", false, "s32", "u32") => dot!(i8, 8, u8, 0, 4),
        ("dp4a", false, "u32", "s32") => dot!(u8, 8, i8, 0, 4),
        ("dp4a", false, "u32", "u32") => dot!(u8, 8, u8, 0, 4),
        ("dp2a", false, "s32", "s32") => dot!(i16, 16, i8, 0, 2),
        ("dp2a", false, "s32", "u32") => dot!(i16, 16, u8, 0, 2),
        ("dp2a", false, "u32", "s32") => dot!(u16, 16, i8, 0, 2),
        ("dp2a", false, "u32", "u32") => dot!(u16, 16, u8, 0, 2),
        ("dp2a", true, "s32", "s32") => dot!(i16, 16, i8, 16, 2),
        ("dp2a", true, "s32", "u32") => dot!(i16, 16, u8, 16, 2),
        ("dp2a", true, "u32", "s32") => dot!(u16, 16, i8, 16, 2),
        ("dp2a", true, "u32", "u32") => dot!(u16, 16, u8, 16, 2),
        _ => return None,
    })
}
