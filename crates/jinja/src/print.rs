//! Python's `str` and `repr`.

use crate::budget::Budget;
use crate::error::Error;
use crate::text::{Origin, Text, TextBuf};
use crate::value::{Object, Result, Value, View};

/// A float with the fewest digits that read back as the same float.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

pub(crate) fn str(value: &Value, budget: &Budget) -> Result<Text> {
    if let Value::Str(text) = value {
        budget.pay(text.len())?;
        return Ok(text.clone());
    }
    let mut out = TextBuf::default();
    write_str(value, &mut out, budget)?;
    Ok(out.finish())
}

/// Writes what `{{ value }}` prints.
pub(crate) fn write_str(value: &Value, out: &mut TextBuf, budget: &Budget) -> Result<()> {
    match value {
        Value::Str(text) => {
            budget.pay(text.len())?;
            out.push_text(text);
            Ok(())
        }
        Value::Undefined(_) => Ok(()),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            let text = scalar(value);
            budget.pay(text.len())?;
            out.push(&text, Origin::Own);
            Ok(())
        }
        _ => write_repr(value, out, budget),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float(*value),
        _ => "None".to_owned(),
    }
}

pub(crate) fn repr(value: &Value, budget: &Budget) -> Result<Text> {
    let mut out = TextBuf::default();
    write_repr(value, &mut out, budget)?;
    Ok(out.finish())
}

/// Punctuation and numbers inside lists and mappings count as input: only strings in them can be the template's.
fn write_repr(value: &Value, out: &mut TextBuf, budget: &Budget) -> Result<()> {
    budget.pay_elements(1)?;
    budget.enter()?;
    match value {
        Value::Undefined(_) => out.push("Undefined", Origin::Input),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => out.push(&scalar(value), Origin::Input),
        Value::Str(text) if text.markup => {
            out.push("Markup(", Origin::Input);
            write_quoted(text, out, budget)?;
            out.push(")", Origin::Input);
        }
        Value::Str(text) => write_quoted(text, out, budget)?,
        Value::List(items) => write_items("[", items, "]", out, budget)?,
        Value::Tuple(items, _) => write_items("(", items, if items.len() == 1 { ",)" } else { ")" }, out, budget)?,
        Value::Dict(dict) => write_pairs(dict, out, budget)?,
        Value::View(view, dict) => {
            let (name, items): (_, Vec<Value>) = match view {
                View::Keys => ("dict_keys([", dict.pairs().map(|(key, _)| key.clone()).collect()),
                View::Values => ("dict_values([", dict.pairs().map(|(_, value)| value.clone()).collect()),
                View::Items => (
                    "dict_items([",
                    dict.pairs().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect(),
                ),
            };
            budget.pay_elements(items.len())?;
            write_items(name, &items, "])", out, budget)?;
        }
        Value::Range(range) => {
            let text = match range.step {
                1 => format!("range({}, {})", range.start, range.stop),
                step => format!("range({}, {}, {step})", range.start, range.stop),
            };
            out.push(&text, Origin::Input);
        }
        // Its text has an address in it: no two runs would be equal.
        Value::Generator(_) => {
            return Err(Error::runtime("a generator cannot be printed: make a list of it first"));
        }
        Value::Object(object) => match &**object {
            Object::Namespace(dict) => {
                out.push("<Namespace ", Origin::Input);
                write_pairs(&dict.borrow(), out, budget)?;
                out.push(">", Origin::Input);
            }
            _ => out.push(&format!("<{} object>", value.type_name()), Origin::Input),
        },
    }
    budget.leave();
    Ok(())
}

fn write_items(open: &str, items: &[Value], close: &str, out: &mut TextBuf, budget: &Budget) -> Result<()> {
    out.push(open, Origin::Input);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(", ", Origin::Input);
        }
        write_repr(item, out, budget)?;
    }
    out.push(close, Origin::Input);
    Ok(())
}

fn write_pairs(dict: &crate::value::Dict, out: &mut TextBuf, budget: &Budget) -> Result<()> {
    out.push("{", Origin::Input);
    for (index, (key, value)) in dict.pairs().enumerate() {
        if index > 0 {
            out.push(", ", Origin::Input);
        }
        write_repr(key, out, budget)?;
        out.push(": ", Origin::Input);
        write_repr(value, out, budget)?;
    }
    out.push("}", Origin::Input);
    Ok(())
}

/// A string in quotes, with double ones if it holds single ones alone.
fn write_quoted(text: &Text, out: &mut TextBuf, budget: &Budget) -> Result<()> {
    // An escape is up to ten times as long as its character.
    budget.pay(text.len() * 8)?;
    let string = text.as_str();
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    out.push_char(quote, Origin::Input);
    for (char, origin) in text.chars() {
        let code = char as u32;
        match char {
            '\n' => out.push("\\n", Origin::Input),
            '\r' => out.push("\\r", Origin::Input),
            '\t' => out.push("\\t", Origin::Input),
            '\\' => out.push("\\\\", Origin::Input),
            _ if char == quote => {
                out.push("\\", Origin::Input);
                out.push_char(char, Origin::Input);
            }
            _ if crate::unicode::is_printable(char) => out.push_char(char, origin),
            _ if code <= 0xff => out.push(&format!("\\x{code:02x}"), Origin::Input),
            _ if code <= 0xffff => out.push(&format!("\\u{code:04x}"), Origin::Input),
            _ => out.push(&format!("\\U{code:08x}"), Origin::Input),
        }
    }
    out.push_char(quote, Origin::Input);
    Ok(())
}
