//! Equality, order and membership, as Python has them.

use super::Interp;
use crate::ast::CompareOp;
use crate::error::Error;
use crate::numbers;
use crate::value::{Key, Object, Result, Value, View};
use std::cmp::Ordering;

impl Interp<'_> {
    pub(crate) fn compare(&self, op: CompareOp, left: &Value, right: &Value) -> Result<bool> {
        Ok(match op {
            CompareOp::Eq => self.equal(left, right)?,
            CompareOp::Ne => !self.equal(left, right)?,
            CompareOp::Lt => self.order(left, right)? == Some(Ordering::Less),
            CompareOp::Le => matches!(self.order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
            CompareOp::Gt => self.order(left, right)? == Some(Ordering::Greater),
            CompareOp::Ge => matches!(self.order(left, right)?, Some(Ordering::Greater | Ordering::Equal)),
            CompareOp::In => self.contains(right, left)?,
            CompareOp::NotIn => !self.contains(right, left)?,
        })
    }

    pub(crate) fn equal(&self, left: &Value, right: &Value) -> Result<bool> {
        self.budget.step()?;
        Ok(match (left, right) {
            (Value::Str(left), Value::Str(right)) => {
                self.budget.pay(left.len().min(right.len()))?;
                left.as_str() == right.as_str()
            }
            (Value::Undefined(_), Value::Undefined(_)) => true,
            (Value::List(left), Value::List(right)) | (Value::Tuple(left, _), Value::Tuple(right, _)) => {
                left.len() == right.len() && self.all_equal(left.iter().zip(right.iter()))?
            }
            (Value::Dict(left), Value::Dict(right)) => {
                self.budget.enter()?;
                let mut equal = left.0.len() == right.0.len();
                for (key, value) in &left.0 {
                    self.budget.pay_elements(1)?;
                    equal = equal && right.0.get(key).map_or(Ok(false), |other| self.equal(value, other))?;
                }
                self.budget.leave();
                equal
            }
            (Value::View(View::Keys, left), Value::View(View::Keys, right)) => {
                self.budget.pay_elements(left.0.len())?;
                left.0.len() == right.0.len() && left.0.keys().all(|key| right.0.contains_key(key))
            }
            (Value::Range(left), Value::Range(right)) => {
                let len = left.len();
                len == right.len() && (len == 0 || left.start == right.start && (len == 1 || left.step == right.step))
            }
            _ => numbers::equal(left, right).unwrap_or_else(|| left.same_as(right)),
        })
    }

    fn all_equal<'v>(&self, pairs: impl Iterator<Item = (&'v Value, &'v Value)>) -> Result<bool> {
        self.budget.enter()?;
        for (left, right) in pairs {
            self.budget.pay_elements(1)?;
            if !self.equal(left, right)? {
                self.budget.leave();
                return Ok(false);
            }
        }
        self.budget.leave();
        Ok(true)
    }

    /// None where one is NaN.
    pub(crate) fn order(&self, left: &Value, right: &Value) -> Result<Option<Ordering>> {
        self.budget.step()?;
        match (left, right) {
            (Value::Str(left), Value::Str(right)) => {
                self.budget.pay(left.len().min(right.len()))?;
                Ok(Some(left.as_str().cmp(right.as_str())))
            }
            (Value::List(left), Value::List(right)) | (Value::Tuple(left, _), Value::Tuple(right, _)) => {
                self.budget.enter()?;
                for (left, right) in left.iter().zip(right.iter()) {
                    self.budget.pay_elements(1)?;
                    if !self.equal(left, right)? {
                        let order = self.order(left, right);
                        self.budget.leave();
                        return order;
                    }
                }
                self.budget.leave();
                Ok(Some(left.len().cmp(&right.len())))
            }
            (Value::Undefined(message), _) | (_, Value::Undefined(message)) => Err(Error::runtime(&**message)),
            _ => numbers::order(left, right).ok_or_else(|| {
                let (left, right) = (left.type_name(), right.type_name());
                Error::runtime(format!("'{left}' and '{right}' have no order"))
            }),
        }
    }

    /// Whether `item` is in `container`.
    pub(crate) fn contains(&self, container: &Value, item: &Value) -> Result<bool> {
        match container {
            Value::Str(text) => match item {
                Value::Str(part) => {
                    self.budget.pay(text.len() + part.len())?;
                    Ok(text.as_str().contains(part.as_str()))
                }
                other => {
                    let found = other.type_name();
                    Err(Error::runtime(format!("'in <string>' requires string as left operand, not {found}")))
                }
            },
            Value::Dict(dict) | Value::View(View::Keys, dict) => {
                Ok(dict.0.contains_key(&Key::new(item.clone(), &self.budget)?))
            }
            Value::Range(range) => match item.as_int() {
                Some(value) => {
                    let offset = value - range.start;
                    Ok(offset % range.step == 0 && (0..range.len()).contains(&(offset / range.step)))
                }
                None => self.contains(&Value::list(self.items(container)?), item),
            },
            Value::List(items) | Value::Tuple(items, _) => self.contains_item(items.iter(), item),
            Value::Generator(generator) => {
                // What is looked at is used up.
                loop {
                    let Some(value) = self.next_of(generator)? else { return Ok(false) };
                    if self.equal(&value, item)? {
                        return Ok(true);
                    }
                }
            }
            Value::Object(object) if matches!(**object, Object::Namespace(_)) => Err(self.not_iterable(container)),
            other => {
                let items = self.items(other)?;
                self.contains_item(items.iter(), item)
            }
        }
    }

    fn contains_item<'v>(&self, items: impl Iterator<Item = &'v Value>, item: &Value) -> Result<bool> {
        for value in items {
            self.budget.pay(1u64)?;
            if value.same_as(item) || self.equal(value, item)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn not_iterable(&self, value: &Value) -> Error {
        Error::runtime(format!("'{}' object is not iterable", value.type_name()))
    }
}
