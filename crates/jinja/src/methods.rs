//! The methods of Python's strings, lists, dictionaries and numbers.

use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::numbers;
use crate::value::{Dict, Key, Result, Value, View};

mod case;
mod search;
mod strings;

pub(crate) use case::{capitalize, is_lower, is_upper, lower, upper};
pub(crate) use strings::{Side, center, is_line_break, lines, replace, strip};

const OF_STRINGS: [&str; 46] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
];

/// Whether a value has a method of that name.
pub(crate) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => OF_STRINGS.contains(&name) || name == "zfill",
        Value::List(_) => matches!(name, "index" | "count" | "copy"),
        Value::Tuple(..) | Value::Range(_) => matches!(name, "index" | "count"),
        Value::Dict(_) => matches!(name, "get" | "items" | "keys" | "values" | "copy" | "fromkeys"),
        Value::View(View::Keys | View::Items, _) => name == "isdisjoint",
        Value::Int(_) | Value::Bool(_) => {
            matches!(name, "bit_length" | "bit_count" | "conjugate" | "as_integer_ratio" | "to_bytes" | "from_bytes")
        }
        Value::Float(_) => matches!(name, "is_integer" | "conjugate" | "as_integer_ratio" | "hex" | "fromhex"),
        _ => false,
    }
}

pub(crate) fn call(interp: &Interp<'_>, receiver: &Value, name: &str, call: Call) -> Result<Value> {
    interp.budget.step()?;
    match receiver {
        Value::Str(text) => strings::call(interp, text, name, call),
        Value::Dict(dict) => dict_method(interp, receiver, dict, name, call),
        Value::List(_) | Value::Tuple(..) | Value::Range(_) => sequence_method(interp, receiver, name, call),
        _ => number_method(receiver, name, call),
    }
}

fn unsupported(receiver: &Value, name: &str) -> Error {
    Error::runtime(format!("the method {name} of '{}' is not supported", receiver.type_name()))
}

fn dict_method(
    interp: &Interp<'_>,
    receiver: &Value,
    dict: &std::rc::Rc<Dict>,
    name: &str,
    call: Call,
) -> Result<Value> {
    match name {
        "get" => {
            let [key, default] = call.positional(name, 1)?;
            let key = Key::new(key.unwrap_or(Value::None), &interp.budget)?;
            Ok(dict.0.get(&key).cloned().or(default).unwrap_or(Value::None))
        }
        "fromkeys" => {
            let [keys, value] = call.positional(name, 1)?;
            let value = value.unwrap_or(Value::None);
            let mut dict = Dict::default();
            for key in interp.items(&keys.unwrap_or(Value::None))? {
                dict.0.insert(Key::new(key, &interp.budget)?, value.clone());
            }
            Ok(Value::dict(dict))
        }
        _ => {
            call.positional::<0>(name, 0)?;
            let view = |view| Ok(Value::View(view, dict.clone()));
            match name {
                "items" => view(View::Items),
                "keys" => view(View::Keys),
                "values" => view(View::Values),
                "copy" => {
                    interp.budget.pay_elements(dict.0.len())?;
                    Ok(Value::dict((**dict).clone()))
                }
                _ => Err(unsupported(receiver, name)),
            }
        }
    }
}

fn sequence_method(interp: &Interp<'_>, receiver: &Value, name: &str, call: Call) -> Result<Value> {
    match name {
        "copy" => {
            call.positional::<0>(name, 0)?;
            interp.items(receiver).map(Value::list)
        }
        "count" => {
            let [wanted] = call.positional(name, 1)?;
            let wanted = wanted.unwrap_or(Value::None);
            let mut count = 0;
            for item in interp.items(receiver)? {
                count += i128::from(item.same_as(&wanted) || interp.equal(&item, &wanted)?);
            }
            Ok(Value::Int(count))
        }
        "index" => {
            let [wanted, start, stop] = call.positional(name, 1)?;
            let wanted = wanted.unwrap_or(Value::None);
            let items = interp.items(receiver)?;
            let len = items.len() as i128;
            let clamp = |bound: i128| (if bound < 0 { bound + len } else { bound }).clamp(0, len) as usize;
            let start = clamp(interp.int_arg(start, 0)?);
            let stop = clamp(interp.int_arg(stop, len)?);
            for (at, item) in items.iter().enumerate().take(stop).skip(start) {
                if item.same_as(&wanted) || interp.equal(item, &wanted)? {
                    return Ok(Value::Int(at as i128));
                }
            }
            Err(Error::runtime("the value is not in the list"))
        }
        _ => Err(unsupported(receiver, name)),
    }
}

fn number_method(receiver: &Value, name: &str, call: Call) -> Result<Value> {
    let none = call.positional::<0>(name, 0);
    match (receiver, name) {
        (Value::Int(_) | Value::Bool(_), "bit_length" | "bit_count" | "conjugate" | "as_integer_ratio") => {
            none?;
            let value = receiver.as_int().unwrap_or(0);
            Ok(match name {
                "bit_length" => Value::Int(i128::from(128 - value.unsigned_abs().leading_zeros())),
                "bit_count" => Value::Int(i128::from(value.unsigned_abs().count_ones())),
                "conjugate" => Value::Int(value),
                _ => Value::tuple(vec![Value::Int(value), Value::Int(1)]),
            })
        }
        (Value::Float(value), "is_integer") => {
            none?;
            Ok(Value::Bool(value.is_finite() && value.fract() == 0.0))
        }
        (Value::Float(_), "conjugate") => {
            none?;
            numbers::positive(receiver).ok_or_else(|| unsupported(receiver, name))
        }
        _ => Err(unsupported(receiver, name)),
    }
}
