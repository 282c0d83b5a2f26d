//! Numbers in the formats that `%` and `format` know.

use super::spec::{Align, Spec};
use crate::error::Error;
use crate::numbers;
use crate::print;
use crate::value::{Result, Value};

/// The bytes of a sign and a base's prefix, behind which zeros go.
pub(super) fn prefix_bytes(text: &str) -> usize {
    let sign = usize::from(text.starts_with(['+', '-', ' ']));
    let base = &text[sign..];
    let has_base = ["0x", "0X", "0o", "0b"].iter().any(|prefix| base.starts_with(prefix));
    sign + if has_base { 2 } else { 0 }
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    }
}

fn radix_digits(value: u128, kind: char) -> (String, &'static str) {
    match kind {
        'x' => (format!("{value:x}"), "0x"),
        'X' => (format!("{value:X}"), "0X"),
        'o' => (format!("{value:o}"), "0o"),
        'b' => (format!("{value:b}"), "0b"),
        _ => (value.to_string(), ""),
    }
}

/// An integer as `%d` and its like print it: the precision is the least number of digits.
pub(super) fn percent_int(value: i128, kind: char, spec: &Spec) -> String {
    let (digits, prefix) = radix_digits(value.unsigned_abs(), kind);
    let prefix = if spec.alternate { prefix } else { "" };
    let zeros = "0".repeat(spec.precision.unwrap_or(0).saturating_sub(digits.len()));
    format!("{}{prefix}{zeros}{digits}", sign(value < 0, spec))
}

/// A float with its sign as `%e`, `%f` and `%g` print it.
pub(super) fn signed_float(value: f64, kind: char, spec: &Spec) -> Result<String> {
    let text = float_digits(value.abs(), kind, spec.precision.unwrap_or(6), spec.alternate);
    Ok(format!("{}{text}", sign(value.is_sign_negative() && !value.is_nan(), spec)))
}

fn float_digits(value: f64, kind: char, precision: usize, alternate: bool) -> String {
    let text = if !value.is_finite() {
        if value.is_nan() { "nan".to_owned() } else { "inf".to_owned() }
    } else {
        match kind.to_ascii_lowercase() {
            'f' => {
                let point = if precision == 0 && alternate { "." } else { "" };
                format!("{value:.precision$}{point}")
            }
            'e' => exponential(value, precision, alternate),
            _ => general(value, precision.max(1), alternate),
        }
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn exponential(value: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if precision == 0 && alternate { "." } else { "" };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{point}e{sign}{:02}", exponent.abs())
}

fn general(value: f64, precision: usize, alternate: bool) -> String {
    let rounded = format!("{value:.*e}", precision - 1);
    let exponent: i32 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = exponential(value, precision - 1, alternate);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(digits));
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if alternate && decimals == 0 { text + "." } else { trim(&text) }
}

/// `format(value, spec)` of a number, without the filling.
pub(super) fn format(value: &Value, spec: &mut Spec) -> Result<String> {
    let is_float = matches!(value, Value::Float(_));
    let unknown = |kind: char| {
        let name = value.type_name();
        Error::runtime(format!("Unknown format code '{kind}' for object of type '{name}'"))
    };
    if let Value::Bool(_) = value
        && spec.kind.is_none()
        && (spec.width > 0 || spec.align.is_some() || spec.zero || spec.precision.is_some() || spec.grouping.is_some())
    {
        // Python formats it as the integer that it is.
        spec.kind = Some('d');
    }
    let (text, grouped) = match spec.kind {
        Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => (float(value, spec)?, 3),
        None if is_float => (float(value, spec)?, 3),
        Some('n') if is_float => {
            spec.kind = Some('g');
            (float(value, spec)?, 3)
        }
        _ if is_float => return Err(unknown(spec.kind.unwrap_or(' '))),
        None | Some('d' | 'n') => (int(value, 'd', spec)?, 3),
        Some(kind @ ('x' | 'X' | 'o' | 'b')) => {
            if spec.grouping == Some(',') {
                return Err(Error::runtime(format!("Cannot specify ',' with '{kind}'.")));
            }
            (int(value, kind, spec)?, 4)
        }
        Some('c') => {
            let code = value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
            let char = code.ok_or_else(|| Error::runtime("%c arg not in range(0x110000)"))?;
            spec.align.get_or_insert(Align::Left);
            return Ok(char.to_string());
        }
        Some(kind) => return Err(unknown(kind)),
    };
    Ok(match spec.grouping {
        Some(separator) => group(&text, separator, grouped, spec),
        None => text,
    })
}

fn int(value: &Value, kind: char, spec: &Spec) -> Result<String> {
    if spec.precision.is_some() {
        return Err(Error::runtime("Precision not allowed in integer format specifier"));
    }
    let value = value.as_int().unwrap_or(0);
    let (digits, prefix) = radix_digits(value.unsigned_abs(), kind);
    let prefix = if spec.alternate { prefix } else { "" };
    Ok(format!("{}{prefix}{digits}", sign(value < 0, spec)))
}

fn float(value: &Value, spec: &Spec) -> Result<String> {
    let number = numbers::as_float(value).unwrap_or(f64::NAN);
    let shown = number.abs();
    let text = match (spec.kind, spec.precision) {
        (None, None) => print::float(shown),
        (None, Some(precision)) => {
            // Like `g`, with at least one digit behind the point.
            let text = general(shown, precision.max(1), spec.alternate);
            let exponent = format!("{shown:.*e}", precision.max(1) - 1);
            let exponent: i32 = exponent.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
            if !shown.is_finite() {
                float_digits(shown, 'g', 6, false)
            } else if exponent == precision.max(1) as i32 - 1 && precision > 0 {
                exponential(shown, precision - 1, false).split_once('e').map_or(text.clone(), |(digits, exponent)| {
                    let digits =
                        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
                    format!("{digits}e{exponent}")
                })
            } else if text.contains(['.', 'e']) {
                text
            } else {
                text + ".0"
            }
        }
        (Some('%'), precision) => {
            let precision = precision.unwrap_or(6);
            format!("{}%", float_digits(shown * 100.0, 'f', precision, spec.alternate))
        }
        (Some(kind), precision) => float_digits(shown, kind, precision.unwrap_or(6), spec.alternate),
    };
    Ok(format!("{}{text}", sign(number.is_sign_negative() && !number.is_nan(), spec)))
}

/// Separators between groups of digits; zeros that fill the width are grouped too.
fn group(text: &str, separator: char, each: usize, spec: &Spec) -> String {
    let prefix = prefix_bytes(text);
    let end = text[prefix..].find(|char: char| !char.is_ascii_hexdigit()).map_or(text.len(), |at| prefix + at);
    let end = text[prefix..end].find(['e', 'E']).filter(|_| each == 3).map_or(end, |at| prefix + at);
    let mut digits = text[prefix..end].to_owned();
    let grouped = |digits: &str| {
        let mut out = String::new();
        for (at, char) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(each) {
                out.push(separator);
            }
            out.push(char);
        }
        out
    };
    let fills = spec.zero && spec.align.is_none_or(|align| align == Align::Sign) && spec.fill.is_none();
    let others = prefix + text.len() - end;
    while fills && grouped(&digits).len() + others < spec.width {
        digits.insert(0, '0');
    }
    format!("{}{}{}", &text[..prefix], grouped(&digits), &text[end..])
}
