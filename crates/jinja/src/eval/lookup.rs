//! Attributes, elements, slices and iteration.

use super::Interp;
use crate::error::Error;
use crate::methods;
use crate::text::{Text, TextBuf};
use crate::value::{Generator, Key, Object, Range, Result, TupleKind, Value, View};
use std::cell::RefCell;
use std::rc::Rc;

/// What the sandbox hides of lists and dictionaries, because it would change them.
const LIST_MUTATORS: [&str; 8] = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];
const DICT_MUTATORS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

impl Interp<'_> {
    /// `value.name`: the attribute, else the element of that name.
    pub(crate) fn attribute(&self, value: &Value, name: &Text) -> Result<Value> {
        if let Value::Undefined(message) = value {
            return Err(Error::runtime(&**message));
        }
        if let Some(found) = self.python_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get(name.as_str())
        {
            return Ok(found.clone());
        }
        Ok(missing(value, name))
    }

    /// `value[index]`: the element, else the attribute of that name.
    pub(crate) fn item(&self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(message) = value {
            return Err(Error::runtime(&**message));
        }
        if let Some(found) = self.element(value, index)? {
            return Ok(found);
        }
        if let Value::Str(name) = index {
            return Ok(self.python_attribute(value, name)?.unwrap_or_else(|| missing(value, name)));
        }
        Ok(Value::undefined(format!("'{} object' has no such element", value.type_name())))
    }

    fn element(&self, value: &Value, index: &Value) -> Result<Option<Value>> {
        let at = |len: usize| {
            let index = index.as_int()?;
            let index = if index < 0 { index + len as i128 } else { index };
            usize::try_from(index).ok().filter(|index| *index < len)
        };
        Ok(match value {
            Value::List(items) | Value::Tuple(items, _) => at(items.len()).map(|at| items[at].clone()),
            Value::Dict(dict) => match Key::new(index.clone(), &self.budget) {
                Ok(key) => dict.0.get(&key).cloned(),
                Err(error) if error.kind() == crate::ErrorKind::Limit => return Err(error),
                Err(_) => None,
            },
            Value::Str(text) if index.as_int().is_some() => {
                self.budget.pay(text.len())?;
                let string = text.as_str();
                if string.is_ascii() {
                    at(string.len()).map(|at| Value::Str(text.slice(at..at + 1)))
                } else {
                    at(string.chars().count()).and_then(|at| {
                        let (start, char) = string.char_indices().nth(at)?;
                        Some(Value::Str(text.slice(start..start + char.len_utf8())))
                    })
                }
            }
            Value::Range(range) => {
                at(usize::try_from(range.len()).unwrap_or(usize::MAX)).map(|at| Value::Int(range.get(at as i128)))
            }
            _ => None,
        })
    }

    /// What Python's `getattr` finds, as the sandbox shows it.
    pub(crate) fn python_attribute(&self, value: &Value, name: &Text) -> Result<Option<Value>> {
        let attr = name.as_str();
        let hidden = || {
            let message = format!("access to attribute '{attr}' of '{}' object is unsafe.", value.type_name());
            Ok(Some(Value::undefined(message)))
        };
        if let Value::Object(object) = value {
            let found = self.object_attribute(object, attr)?;
            return if attr.starts_with('_') && found.is_some() { hidden() } else { Ok(found) };
        }
        if matches!(attr, "__class__" | "__doc__" | "__init__" | "__len__" | "__str__" | "__eq__" | "__hash__") {
            return hidden();
        }
        match value {
            Value::List(_) if LIST_MUTATORS.contains(&attr) => return hidden(),
            Value::Dict(_) if DICT_MUTATORS.contains(&attr) => return hidden(),
            Value::Tuple(items, TupleKind::Group) if attr == "grouper" => return Ok(items.first().cloned()),
            Value::Tuple(items, TupleKind::Group) if attr == "list" => return Ok(items.last().cloned()),
            Value::Int(_) | Value::Bool(_) if matches!(attr, "real" | "numerator") => {
                return Ok(value.as_int().map(Value::Int));
            }
            Value::Int(_) | Value::Bool(_) if attr == "imag" => return Ok(Some(Value::Int(0))),
            Value::Int(_) | Value::Bool(_) if attr == "denominator" => return Ok(Some(Value::Int(1))),
            Value::Float(_) if attr == "real" => return Ok(Some(value.clone())),
            Value::Float(_) if attr == "imag" => return Ok(Some(Value::Float(0.0))),
            Value::Range(range) => match attr {
                "start" => return Ok(Some(Value::Int(range.start))),
                "stop" => return Ok(Some(Value::Int(range.stop))),
                "step" => return Ok(Some(Value::Int(range.step))),
                _ => {}
            },
            _ => {}
        }
        Ok(methods::exists(value, attr)
            .then(|| Value::object(Object::Method { receiver: value.clone(), name: name.clone() })))
    }

    fn object_attribute(&self, object: &Rc<Object>, attr: &str) -> Result<Option<Value>> {
        let method = || {
            let receiver = Value::Object(Rc::clone(object));
            Ok(Some(Value::object(Object::Method { receiver, name: Text::own(attr) })))
        };
        match &**object {
            Object::Namespace(dict) => Ok(dict.borrow().get(attr).cloned()),
            Object::Cycler { items, at } => match attr {
                "current" => Ok(Some(items[at.get()].clone())),
                "pos" => Ok(Some(Value::Int(at.get() as i128))),
                "items" => Ok(Some(Value::tuple(items.clone()))),
                "next" | "reset" => method(),
                _ => Ok(None),
            },
            Object::Joiner { separator, used } => match attr {
                "sep" => Ok(Some(separator.clone())),
                "used" => Ok(Some(Value::Bool(used.get()))),
                _ => Ok(None),
            },
            Object::Loop(_) if matches!(attr, "cycle" | "changed") => method(),
            Object::Loop(state) => self.loop_attribute(state, attr),
            Object::Macro(found) => self.macro_attribute(found, attr),
            Object::Function(_) | Object::Method { .. } => Ok(None),
        }
    }

    /// `value[start:stop:step]`.
    pub(crate) fn slice(&self, value: &Value, bounds: &[Value; 3]) -> Result<Value> {
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            *number = match bound {
                Value::None => None,
                bound => Some(bound.as_int().ok_or_else(|| {
                    Error::runtime("slice indices must be integers or None or have an __index__ method")
                })?),
            };
        }
        let indices = |len: usize| slice_range(numbers, len as i128);
        match value {
            Value::Undefined(message) => Err(Error::runtime(&**message)),
            Value::Str(text) => self.slice_text(text, numbers),
            Value::List(items) | Value::Tuple(items, _) => {
                let range = indices(items.len())?;
                self.budget.pay_elements(range.len().max(0) as u64)?;
                let picked = (0..range.len()).map(|at| items[range.get(at) as usize].clone()).collect();
                Ok(if matches!(value, Value::List(_)) { Value::list(picked) } else { Value::tuple(picked) })
            }
            Value::Range(range) => {
                let picked = slice_range(numbers, range.len())?;
                let (start, stop) = (range.get(picked.start), range.get(picked.stop));
                Ok(Value::Range(Range { start, stop, step: range.step * picked.step }))
            }
            other => Err(Error::runtime(format!("'{}' object is not subscriptable", other.type_name()))),
        }
    }

    fn slice_text(&self, text: &Text, numbers: [Option<i128>; 3]) -> Result<Value> {
        self.budget.pay(text.len() * 2)?;
        let string = text.as_str();
        // Where each character begins, and the end; all of it only where that is not plain.
        let starts: Option<Vec<usize>> =
            (!string.is_ascii()).then(|| string.char_indices().map(|(at, _)| at).chain([string.len()]).collect());
        let len = starts.as_ref().map_or(string.len(), |starts| starts.len() - 1);
        let at = |index: i128| starts.as_ref().map_or(index as usize, |starts| starts[index as usize]);
        let range = slice_range(numbers, len as i128)?;
        let count = range.len();
        if count == 0 {
            return Ok(Value::Str(text.slice(0..0)));
        }
        if range.step == 1 {
            return Ok(Value::Str(text.slice(at(range.start)..at(range.start + count))));
        }
        self.budget.pay((count as u64).saturating_mul(8))?;
        let mut out = TextBuf::default();
        for index in (0..count).map(|index| range.get(index)) {
            out.push_slice(text, at(index)..at(index + 1));
        }
        Ok(Value::Str(out.finish().with_markup(text.markup)))
    }

    /// What iteration gives, all of it.
    pub(crate) fn items(&self, value: &Value) -> Result<Vec<Value>> {
        if let Some(len) = value.length() {
            self.budget.pay_elements(len)?;
        }
        Ok(match value {
            Value::Undefined(_) => Vec::new(),
            Value::List(items) | Value::Tuple(items, _) => items.to_vec(),
            Value::Str(text) => {
                let starts = text.as_str().char_indices();
                starts.map(|(at, char)| Value::Str(text.slice(at..at + char.len_utf8()).with_markup(false))).collect()
            }
            Value::Dict(dict) | Value::View(View::Keys, dict) => dict.pairs().map(|(key, _)| key.clone()).collect(),
            Value::View(View::Values, dict) => dict.pairs().map(|(_, value)| value.clone()).collect(),
            Value::View(View::Items, dict) => {
                dict.pairs().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect()
            }
            Value::Range(range) => (0..range.len()).map(|at| Value::Int(range.get(at))).collect(),
            Value::Generator(generator) => {
                let mut items = Vec::new();
                while let Some(item) = self.next_of(generator)? {
                    items.push(item);
                }
                items
            }
            other => return Err(self.not_iterable(other)),
        })
    }

    pub(crate) fn is_iterable(&self, value: &Value) -> bool {
        match value {
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
            Value::Object(object) => matches!(**object, Object::Loop(_)),
            _ => true,
        }
    }

    /// A generator's next element.
    pub(crate) fn next_of(&self, generator: &RefCell<Generator>) -> Result<Option<Value>> {
        self.budget.pay_elements(1)?;
        let mut generator = generator.borrow_mut();
        match (generator.items.pop_front(), generator.error.take()) {
            (Some(item), error) => {
                generator.error = error;
                Ok(Some(item))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

fn missing(value: &Value, name: &Text) -> Value {
    Value::undefined(format!("'{} object' has no attribute '{}'", value.type_name(), name.as_str()))
}

/// The indices that a slice of `len` elements takes.
fn slice_range([start, stop, step]: [Option<i128>; 3], len: i128) -> Result<Range> {
    let step = step.unwrap_or(1).clamp(-(1 << 62), 1 << 62);
    if step == 0 {
        return Err(Error::runtime("slice step cannot be zero"));
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) => (if bound < 0 { bound.saturating_add(len) } else { bound }).clamp(low, high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    Ok(Range { start: clamp(start, first), stop: clamp(stop, last), step })
}
