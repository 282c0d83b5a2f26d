//! Arithmetic on values, and what strings and lists make of its operators.

use super::Interp;
use crate::ast::BinaryOp;
use crate::error::Error;
use crate::numbers;
use crate::text::{Text, TextBuf};
use crate::value::{Result, Value};
use std::rc::Rc;

impl Interp<'_> {
    pub(crate) fn binary(&self, op: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
        if let Some(result) = numbers::binary(op, left, right) {
            return result;
        }
        if let (BinaryOp::Mod, Value::Str(format)) = (op, left) {
            return self.percent(format, right).map(Value::Str);
        }
        for value in [left, right] {
            if let Value::Undefined(message) = value {
                return Err(Error::runtime(&**message));
            }
        }
        match (op, left, right) {
            (BinaryOp::Add, Value::Str(left), Value::Str(right)) => self.add_texts(left, right).map(Value::Str),
            (BinaryOp::Add, Value::List(left), Value::List(right)) => Ok(Value::list(self.joined(left, right)?)),
            (BinaryOp::Add, Value::Tuple(left, _), Value::Tuple(right, _)) => {
                Ok(Value::tuple(self.joined(left, right)?))
            }
            (BinaryOp::Mul, value, count) | (BinaryOp::Mul, count, value)
                if count.as_int().is_some() && matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(..)) =>
            {
                self.repeated(value, count.as_int().unwrap_or(0))
            }
            _ => Err(self.unsupported(op, left, right)),
        }
    }

    fn unsupported(&self, op: BinaryOp, left: &Value, right: &Value) -> Error {
        let op = match op {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::FloorDiv => "//",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "**",
        };
        let (left, right) = (left.type_name(), right.type_name());
        Error::runtime(format!("unsupported operand type(s) for {op}: '{left}' and '{right}'"))
    }

    fn joined(&self, left: &[Value], right: &[Value]) -> Result<Vec<Value>> {
        self.budget.pay_elements(left.len() + right.len())?;
        Ok([left, right].concat())
    }

    /// Markup escapes what is added to it.
    pub(crate) fn add_texts(&self, left: &Text, right: &Text) -> Result<Text> {
        self.budget.pay(left.len() + right.len())?;
        let markup = left.markup || right.markup;
        let mut out = TextBuf::default();
        for text in [left, right] {
            if markup { out.push_text(&self.escaped(text)?) } else { out.push_text(text) }
        }
        Ok(out.finish().with_markup(markup))
    }

    fn repeated(&self, value: &Value, count: i128) -> Result<Value> {
        let count = u64::try_from(count.max(0)).unwrap_or(u64::MAX);
        if let Value::Str(text) = value {
            self.budget.pay_times(text.len(), count)?;
            let mut out = TextBuf::default();
            if !text.is_empty() {
                out.repeat(text, count as usize);
            }
            return Ok(Value::Str(out.finish().with_markup(text.markup)));
        }
        let (Value::List(items) | Value::Tuple(items, _)) = value else {
            return Err(Error::runtime("only strings and lists can be repeated"));
        };
        self.budget.pay_elements((items.len() as u64).saturating_mul(count))?;
        let count = if items.is_empty() { 0 } else { count as usize };
        let items = std::iter::repeat_n(&**items, count).flatten().cloned().collect();
        Ok(if matches!(value, Value::List(_)) { Value::List(Rc::new(items)) } else { Value::tuple(items) })
    }

    pub(super) fn negate(&self, value: &Value) -> Result<Value> {
        match numbers::negate(value) {
            Some(result) => result,
            None => Err(self.bad_operand("-", value)),
        }
    }

    pub(super) fn positive(&self, value: &Value) -> Result<Value> {
        numbers::positive(value).ok_or_else(|| self.bad_operand("+", value))
    }

    fn bad_operand(&self, op: &str, value: &Value) -> Error {
        match value {
            Value::Undefined(message) => Error::runtime(&**message),
            other => Error::runtime(format!("bad operand type for unary {op}: '{}'", other.type_name())),
        }
    }
}
