//! Python's arithmetic.

use crate::ast::BinaryOp;
use crate::error::Error;
use crate::value::{Result, Value};
use std::cmp::Ordering;

/// An integer or a float.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Float(value) => Some(Number::Float(*value)),
        other => other.as_int().map(Number::Int),
    }
}

/// Any number as a float.
pub(crate) fn as_float(value: &Value) -> Option<f64> {
    Some(match number(value)? {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    })
}

/// Whether two numbers are equal; none if either is no number.
pub(crate) fn equal(left: &Value, right: &Value) -> Option<bool> {
    Some(order(left, right)? == Some(Ordering::Equal))
}

/// The order of two numbers, which NaN has not; none if either is no number.
pub(crate) fn order(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    Some(match (number(left)?, number(right)?) {
        (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
        (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
        (Number::Int(left), Number::Float(right)) => int_order(left, right),
        (Number::Float(left), Number::Int(right)) => int_order(right, left).map(Ordering::reverse),
    })
}

/// Exactly, also where the integer has no float of its value.
fn int_order(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= 1.7e38 || float <= -1.7e38 {
        return 0.0.partial_cmp(&float);
    }
    let whole = float.trunc() as i128;
    Some(int.cmp(&whole).then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal)))
}

fn too_large() -> Error {
    Error::limit("an integer of more than 127 bits")
}

fn overflow() -> Error {
    Error::runtime("int too large to convert to float")
}

/// An operator on two numbers; none if either is no number.
pub(crate) fn binary(op: BinaryOp, left: &Value, right: &Value) -> Option<Result<Value>> {
    let (left, right) = (number(left)?, number(right)?);
    Some(match (op, left, right) {
        (BinaryOp::Div, _, _) | (_, Number::Float(_), _) | (_, _, Number::Float(_)) => {
            float_binary(op, float(left), float(right))
        }
        (_, Number::Int(left), Number::Int(right)) => int_binary(op, left, right),
    })
}

fn float(number: Number) -> f64 {
    match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    }
}

fn int_binary(op: BinaryOp, left: i128, right: i128) -> Result<Value> {
    let zero = || Error::runtime("integer division or modulo by zero");
    let value = match op {
        BinaryOp::Add => left.checked_add(right),
        BinaryOp::Sub => left.checked_sub(right),
        BinaryOp::Mul => left.checked_mul(right),
        BinaryOp::FloorDiv if right == 0 => return Err(zero()),
        BinaryOp::FloorDiv => left.checked_div_euclid(right).and_then(|quotient| {
            // Euclid's remainder is never negative; Python's has the divisor's sign.
            let remainder = left.checked_rem_euclid(right)?;
            Some(if right < 0 && remainder != 0 { quotient - 1 } else { quotient })
        }),
        BinaryOp::Mod if right == 0 => return Err(zero()),
        BinaryOp::Mod => left
            .checked_rem_euclid(right)
            .map(|remainder| if right < 0 && remainder != 0 { remainder + right } else { remainder }),
        BinaryOp::Pow if right < 0 => return float_binary(op, left as f64, right as f64),
        BinaryOp::Pow => match (left, u32::try_from(right)) {
            (0 | 1, _) => Some(if right == 0 { 1 } else { left }),
            (-1, _) => Some(if right % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => left.checked_pow(exponent),
            (_, Err(_)) => None,
        },
        BinaryOp::Div => return float_binary(op, left as f64, right as f64),
    };
    value.map(Value::Int).ok_or_else(too_large)
}

fn float_binary(op: BinaryOp, left: f64, right: f64) -> Result<Value> {
    let divides = matches!(op, BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Mod);
    if divides && right == 0.0 {
        return Err(Error::runtime("float division by zero"));
    }
    Ok(Value::Float(match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::FloorDiv => floor_div(left, right),
        BinaryOp::Mod => float_mod(left, right),
        BinaryOp::Pow => return float_pow(left, right),
    }))
}

fn float_mod(left: f64, right: f64) -> f64 {
    let remainder = left % right;
    if remainder == 0.0 {
        return 0f64.copysign(right);
    }
    if (remainder < 0.0) != (right < 0.0) { remainder + right } else { remainder }
}

fn floor_div(left: f64, right: f64) -> f64 {
    let remainder = left % right;
    let mut quotient = (left - remainder) / right;
    if remainder != 0.0 && (remainder < 0.0) != (right < 0.0) {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return 0f64.copysign(left / right);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

fn float_pow(left: f64, right: f64) -> Result<Value> {
    if left == 0.0 && right < 0.0 {
        return Err(Error::runtime("0.0 cannot be raised to a negative power"));
    }
    if left < 0.0 && left.is_finite() && right.is_finite() && right.fract() != 0.0 {
        return Err(Error::runtime("complex numbers are not supported"));
    }
    let power = left.powf(right);
    if power.is_infinite() && left.is_finite() && right.is_finite() {
        return Err(Error::runtime("Numerical result out of range"));
    }
    Ok(Value::Float(power))
}

pub(crate) fn negate(value: &Value) -> Option<Result<Value>> {
    Some(match number(value)? {
        Number::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(too_large),
        Number::Float(value) => Ok(Value::Float(-value)),
    })
}

pub(crate) fn positive(value: &Value) -> Option<Value> {
    Some(match number(value)? {
        Number::Int(value) => Value::Int(value),
        Number::Float(value) => Value::Float(value),
    })
}

pub(crate) fn absolute(value: &Value) -> Option<Result<Value>> {
    Some(match number(value)? {
        Number::Int(value) => value.checked_abs().map(Value::Int).ok_or_else(too_large),
        Number::Float(value) => Ok(Value::Float(value.abs())),
    })
}

/// Python's `int(value)` of a float.
pub(crate) fn truncated(value: f64) -> Result<i128> {
    if value.is_nan() {
        return Err(Error::runtime("cannot convert float NaN to integer"));
    }
    if value.is_infinite() {
        return Err(Error::runtime("cannot convert float infinity to integer"));
    }
    if value.abs() >= 1.7e38 { Err(too_large()) } else { Ok(value.trunc() as i128) }
}

/// Python's `int(text, base)`; none where it is a `ValueError`.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<Option<i128>> {
    let text = text.trim_matches(crate::lexer::is_space);
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 0,
    };
    let has_prefix = prefix != 0 && (base == 0 || base == prefix);
    let digits = if has_prefix { digits[2..].strip_prefix('_').unwrap_or(&digits[2..]) } else { digits };
    let radix = match (base, has_prefix) {
        (0, true) => prefix,
        (0, false) => 10,
        _ => base,
    };
    let valid = |digits: &str| !digits.is_empty() && digits.chars().all(|char| char.is_digit(radix));
    if !digits.split('_').all(valid) {
        return Ok(decimal_digits(digits, radix).map(|value| if negative { -value } else { value }));
    }
    let plain = digits.replace('_', "");
    if base == 0 && !has_prefix && plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|byte| byte != b'0') {
        return Ok(None);
    }
    let value = i128::from_str_radix(&plain, radix).map_err(|_| too_large())?;
    Ok(Some(if negative { -value } else { value }))
}

/// Digits of other scripts.
fn decimal_digits(digits: &str, radix: u32) -> Option<i128> {
    if digits.is_empty() || radix != 10 {
        return None;
    }
    digits.chars().try_fold(0i128, |value, char| {
        let digit = crate::unicode::decimal_value(char)?;
        value.checked_mul(10)?.checked_add(i128::from(digit))
    })
}

/// Python's `float(text)`; none where it is a `ValueError`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(crate::lexer::is_space);
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let named = ["inf", "infinity", "nan"].contains(&unsigned.to_ascii_lowercase().as_str());
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let grouped = (0..bytes.len()).all(|at| bytes[at] != b'_' || at > 0 && is_digit(at - 1) && is_digit(at + 1));
    let starts = unsigned.starts_with(|char: char| char.is_ascii_digit() || char == '.');
    if !(named || starts && grouped) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Python's `round(value, digits)`, to even.
pub(crate) fn round(value: &Value, digits: i128) -> Option<Result<Value>> {
    Some(match number(value)? {
        Number::Int(value) if digits >= 0 => Ok(Value::Int(value)),
        Number::Int(value) => Ok(Value::Int(round_int(value, digits))),
        Number::Float(value) if !value.is_finite() || digits > 323 => Ok(Value::Float(value)),
        Number::Float(value) if digits >= 0 => {
            Ok(Value::Float(format!("{value:.*}", digits as usize).parse().unwrap_or(value)))
        }
        Number::Float(_) if digits < -308 => Ok(Value::Float(0.0)),
        Number::Float(value) => {
            let unit = 10f64.powi(-digits as i32);
            Ok(Value::Float((value / unit).round_ties_even() * unit))
        }
    })
}

fn round_int(value: i128, digits: i128) -> i128 {
    let Some(unit) = u32::try_from(-digits).ok().and_then(|digits| 10i128.checked_pow(digits)) else { return 0 };
    let (quotient, remainder) = (value.div_euclid(unit), value.rem_euclid(unit));
    let up = match (remainder * 2).cmp(&unit) {
        Ordering::Less => false,
        Ordering::Equal => quotient % 2 != 0,
        Ordering::Greater => true,
    };
    (quotient + i128::from(up)) * unit
}

/// A float as an integer that may be a result of `floor` or `ceil`.
pub(crate) fn whole(value: f64) -> Result<Value> {
    if value.is_finite() { truncated(value).map(Value::Int) } else { Err(overflow()) }
}
