//! Jinja2's tests: what stands behind `is`.

use crate::ast::{BinaryOp, CompareOp};
use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::filters;
use crate::methods;
use crate::print;
use crate::value::{Key, Object, Result, Value};

const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

impl Interp<'_> {
    pub(crate) fn test(&self, name: &str, value: Value, call: Call) -> Result<bool> {
        self.budget.step()?;
        if let Some(op) = comparison(name) {
            let [other] = call.positional(name, 1)?;
            return self.compare(op, &value, &other.unwrap_or(Value::None));
        }
        match name {
            "divisibleby" => {
                let [divisor] = call.bind(name, ["num"], 1)?;
                return self.is_remainder(&value, &divisor.unwrap_or(Value::None), 0);
            }
            "sameas" => {
                let [other] = call.bind(name, ["other"], 1)?;
                return Ok(value.same_as(&other.unwrap_or(Value::None)));
            }
            "in" => {
                let [container] = call.bind(name, ["seq"], 1)?;
                return self.contains(&container.unwrap_or(Value::None), &value);
            }
            _ => {}
        }
        call.positional::<0>(name, 0)?;
        if let ("lower" | "upper", Value::Str(text)) = (name, &value) {
            // Character by character.
            self.budget.pay(text.len() * 9)?;
        }
        Ok(match name {
            "odd" => self.is_remainder(&value, &Value::Int(2), 1)?,
            "even" => self.is_remainder(&value, &Value::Int(2), 0)?,
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "filter" => Key::new(value, &self.budget)?.0.as_str().is_some_and(filters::exists),
            "test" => Key::new(value, &self.budget)?.0.as_str().is_some_and(exists),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "false" => matches!(value, Value::Bool(false)),
            "true" => matches!(value, Value::Bool(true)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "lower" => methods::is_lower(print::str(&value, &self.budget)?.as_str()),
            "upper" => methods::is_upper(print::str(&value, &self.budget)?.as_str()),
            "string" => matches!(value, Value::Str(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
            "sequence" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Str(_)
                    | Value::List(_)
                    | Value::Tuple(..)
                    | Value::Dict(_)
                    | Value::Range(_)
            ),
            "iterable" => self.is_iterable(&value),
            "callable" => match &value {
                Value::Undefined(_) => true,
                Value::Object(object) => !matches!(**object, Object::Namespace(_) | Object::Cycler { .. }),
                _ => false,
            },
            "escaped" => matches!(&value, Value::Str(text) if text.markup),
            _ => return Err(Error::runtime(format!("No test named {name:?} found."))),
        })
    }

    fn is_remainder(&self, value: &Value, divisor: &Value, remainder: i128) -> Result<bool> {
        let found = self.binary(BinaryOp::Mod, value, divisor)?;
        self.equal(&found, &Value::Int(remainder))
    }
}

fn comparison(name: &str) -> Option<CompareOp> {
    Some(match name {
        "==" | "eq" | "equalto" => CompareOp::Eq,
        "!=" | "ne" => CompareOp::Ne,
        ">" | "gt" | "greaterthan" => CompareOp::Gt,
        ">=" | "ge" => CompareOp::Ge,
        "<" | "lt" | "lessthan" => CompareOp::Lt,
        "<=" | "le" => CompareOp::Le,
        _ => return None,
    })
}
