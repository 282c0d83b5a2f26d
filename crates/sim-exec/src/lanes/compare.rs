//! setp and set: comparisons of every type.
//!
//! The forms with `!` and with two comparisons are the point: they say what happens to NaN.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons, clippy::eq_op, clippy::nonminimal_bool)]

use half::{bf16, f16};

use super::rounding::flush;
use super::{CompareFn, Lane, Lanes, Mask, WARP};

/// The function of `setp.comparison.ty`; `ftz` flushes f32 operands first.
pub fn find(comparison: &str, ftz: bool, ty: &str) -> Option<CompareFn> {
    macro_rules! test {
        ($t:ty, $view:expr, |$a:ident, $b:ident| $e:expr) => {{
            fn f(x: &Lanes, y: &Lanes) -> Mask {
                let view = $view;
                let mut mask = 0;
                for i in 0..WARP {
                    let ($a, $b) = (view(<$t>::get(x[i])), view(<$t>::get(y[i])));
                    mask |= u32::from($e) << i;
                }
                mask
            }
            f as CompareFn
        }};
    }
    macro_rules! integers {
        ($t:ty) => {
            match comparison {
                "eq" => test!($t, |x: $t| x, |a, b| a == b),
                "ne" => test!($t, |x: $t| x, |a, b| a != b),
                "lt" | "lo" => test!($t, |x: $t| x, |a, b| a < b),
                "le" | "ls" => test!($t, |x: $t| x, |a, b| a <= b),
                "gt" | "hi" => test!($t, |x: $t| x, |a, b| a > b),
                "ge" | "hs" => test!($t, |x: $t| x, |a, b| a >= b),
                _ => return None,
            }
        };
    }
    macro_rules! floats {
        ($t:ty, $view:expr) => {
            match comparison {
                "eq" => test!($t, $view, |a, b| a == b),
                "ne" => test!($t, $view, |a, b| a < b || a > b),
                "lt" => test!($t, $view, |a, b| a < b),
                "le" => test!($t, $view, |a, b| a <= b),
                "gt" => test!($t, $view, |a, b| a > b),
                "ge" => test!($t, $view, |a, b| a >= b),
                "equ" => test!($t, $view, |a, b| !(a < b || a > b)),
                "neu" => test!($t, $view, |a, b| a != b),
                "ltu" => test!($t, $view, |a, b| !(a >= b)),
                "leu" => test!($t, $view, |a, b| !(a > b)),
                "gtu" => test!($t, $view, |a, b| !(a <= b)),
                "geu" => test!($t, $view, |a, b| !(a < b)),
                "num" => test!($t, $view, |a, b| a == a && b == b),
                "nan" => test!($t, $view, |a, b| a != a || b != b),
                _ => return None,
            }
        };
    }
    Some(match ty {
        "b16" | "u16" => integers!(u16),
        "b32" | "u32" => integers!(u32),
        "b64" | "u64" => integers!(u64),
        "s16" => integers!(i16),
        "s32" => integers!(i32),
        "s64" => integers!(i64),
        "f32" if ftz => floats!(f32, flush),
        "f32" => floats!(f32, |x: f32| x),
        "f64" => floats!(f64, |x: f64| x),
        "f16" => floats!(f16, |x: f16| x.to_f32()),
        "bf16" => floats!(bf16, |x: bf16| x.to_f32()),
        _ => return None,
    })
}
