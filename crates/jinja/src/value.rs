//! The values that a template computes with: Python's, as far as a template can make them.

use crate::ast::{Macro, Name};
use crate::budget::Budget;
use crate::error::Error;
use crate::eval::{Env, LoopState};
use crate::text::{Origin, Text};
use indexmap::{Equivalent, IndexMap};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Clone)]
pub(crate) enum Value {
    /// With what is said when something is done to it.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Vec<Value>>),
    Tuple(Rc<Vec<Value>>, TupleKind),
    Dict(Rc<Dict>),
    /// What a dictionary's `keys`, `values` and `items` give.
    View(View, Rc<Dict>),
    Range(Range),
    /// What lazy filters give: it can be read once.
    Generator(Rc<RefCell<Generator>>),
    Object(Rc<Object>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TupleKind {
    Plain,
    /// An element of `groupby`'s result, with `grouper` and `list`.
    Group,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: i128,
    pub(crate) stop: i128,
    pub(crate) step: i128,
}

impl Range {
    pub(crate) fn len(self) -> i128 {
        let span = if self.step > 0 { self.stop - self.start } else { self.start - self.stop };
        let step = self.step.abs();
        if span <= 0 { 0 } else { (span - 1) / step + 1 }
    }

    pub(crate) fn get(self, index: i128) -> i128 {
        self.start + self.step * index
    }
}

/// The elements that are left, and the failure that comes behind them.
#[derive(Default)]
pub(crate) struct Generator {
    pub(crate) items: VecDeque<Value>,
    pub(crate) error: Option<Error>,
    /// Its type's name in Python.
    pub(crate) name: &'static str,
}

/// Values with an identity.
pub(crate) enum Object {
    Namespace(RefCell<Dict>),
    Cycler { items: Vec<Value>, at: Cell<usize> },
    Joiner { separator: Value, used: Cell<bool> },
    Loop(Box<LoopState>),
    Macro(MacroValue),
    Function(Function),
    Method { receiver: Value, name: Text },
}

pub(crate) struct MacroValue {
    pub(crate) node: Arc<Macro>,
    pub(crate) env: Rc<Env>,
    /// The names of its parameters, for keyword arguments.
    pub(crate) name: Option<Name>,
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

impl Function {
    pub(crate) const ALL: [(&'static str, Function); 8] = [
        ("range", Function::Range),
        ("dict", Function::Dict),
        ("namespace", Function::Namespace),
        ("cycler", Function::Cycler),
        ("joiner", Function::Joiner),
        ("lipsum", Function::Lipsum),
        ("raise_exception", Function::RaiseException),
        ("strftime_now", Function::StrftimeNow),
    ];
}

impl Value {
    pub(crate) fn undefined(message: impl Into<Rc<str>>) -> Value {
        Value::Undefined(message.into())
    }

    /// A string that the template is answerable for.
    pub(crate) fn own(text: impl Into<Arc<str>>) -> Value {
        Value::Str(Text::own(text))
    }

    pub(crate) fn list(items: Vec<Value>) -> Value {
        Value::List(Rc::new(items))
    }

    pub(crate) fn tuple(items: Vec<Value>) -> Value {
        Value::Tuple(Rc::new(items), TupleKind::Plain)
    }

    pub(crate) fn dict(dict: Dict) -> Value {
        Value::Dict(Rc::new(dict))
    }

    pub(crate) fn object(object: Object) -> Value {
        Value::Object(Rc::new(object))
    }

    pub(crate) fn generator(items: Vec<Value>, error: Option<Error>) -> Value {
        Value::Generator(Rc::new(RefCell::new(Generator { items: items.into(), error, name: "generator" })))
    }

    /// Input of the template.
    pub(crate) fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(value), _) => Value::Int(value),
                (None, value) => Value::Float(value.unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Str(Text::new(text.as_str(), Origin::Input)),
            serde_json::Value::Array(items) => Value::list(items.iter().map(Value::from_json).collect()),
            serde_json::Value::Object(entries) => Value::from_object(entries),
        }
    }

    pub(crate) fn from_object(entries: &serde_json::Map<String, serde_json::Value>) -> Value {
        let mut dict = Dict::default();
        for (key, value) in entries {
            dict.insert(Text::new(key.as_str(), Origin::Input), Value::from_json(value));
        }
        Value::dict(dict)
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// An integer, which `True` and `False` are too.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub(crate) fn as_function(&self) -> Option<Function> {
        match self {
            Value::Object(object) => match **object {
                Object::Function(function) => Some(function),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(items) | Value::Tuple(items, _) => !items.is_empty(),
            Value::Dict(dict) | Value::View(_, dict) => !dict.0.is_empty(),
            Value::Range(range) => range.len() > 0,
            Value::Generator(_) => true,
            Value::Object(_) => true,
        }
    }

    /// Python's name of the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(text) if text.markup => "Markup",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(..) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::View(View::Items, _) => "dict_items",
            Value::Range(_) => "range",
            Value::Generator(generator) => generator.borrow().name,
            Value::Object(object) => match &**object {
                Object::Namespace(_) => "Namespace",
                Object::Cycler { .. } => "Cycler",
                Object::Joiner { .. } => "Joiner",
                Object::Loop(_) => "LoopContext",
                Object::Macro(_) => "Macro",
                Object::Function(_) => "function",
                Object::Method { .. } => "method",
            },
        }
    }

    /// The number of elements, or of a string's characters, where Python's `len` knows it.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Value::Undefined(_) => Some(0),
            Value::Str(text) => Some(text.as_str().chars().count()),
            Value::List(items) | Value::Tuple(items, _) => Some(items.len()),
            Value::Dict(dict) | Value::View(_, dict) => Some(dict.0.len()),
            Value::Range(range) => usize::try_from(range.len()).ok(),
            _ => None,
        }
    }

    /// Whether both are one object, as `is` sees it.
    pub(crate) fn same_as(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(left), Value::Undefined(right)) => Rc::ptr_eq(left, right),
            (Value::None, Value::None) => true,
            (Value::Bool(left), Value::Bool(right)) => left == right,
            (Value::Int(left), Value::Int(right)) => left == right,
            (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
            (Value::Str(left), Value::Str(right)) => left.same_as(right) || left.as_str() == right.as_str(),
            (Value::List(left), Value::List(right)) => Rc::ptr_eq(left, right),
            (Value::Tuple(left, _), Value::Tuple(right, _)) => {
                Rc::ptr_eq(left, right) || left.is_empty() && right.is_empty()
            }
            (Value::Dict(left), Value::Dict(right)) => Rc::ptr_eq(left, right),
            (Value::Generator(left), Value::Generator(right)) => Rc::ptr_eq(left, right),
            (Value::Object(left), Value::Object(right)) => {
                let function = |value: &Value| value.as_function();
                Rc::ptr_eq(left, right) || function(self).is_some() && function(self) == function(other)
            }
            _ => false,
        }
    }
}

/// A dictionary, in the order in which its keys came.
#[derive(Clone, Default)]
pub(crate) struct Dict(pub(crate) IndexMap<Key, Value>);

impl Dict {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(&StrKey(key))
    }

    pub(crate) fn insert(&mut self, key: Text, value: Value) {
        self.0.insert(Key(Value::Str(key)), value);
    }

    pub(crate) fn pairs(&self) -> impl DoubleEndedIterator<Item = (&Value, &Value)> {
        self.0.iter().map(|(key, value)| (&key.0, value))
    }
}

/// A value that can be a dictionary's key. `1`, `1.0` and `true` are one key.
#[derive(Clone)]
pub(crate) struct Key(pub(crate) Value);

impl Key {
    /// Pays for all of the value, which hashing and comparing read.
    pub(crate) fn new(value: Value, budget: &Budget) -> Result<Key> {
        check_hashable(&value, budget)?;
        Ok(Key(value))
    }
}

fn check_hashable(value: &Value, budget: &Budget) -> Result<()> {
    match value {
        Value::Str(text) => budget.pay(text.len()),
        Value::Tuple(items, _) => {
            budget.enter()?;
            for item in items.iter() {
                budget.pay_elements(1)?;
                check_hashable(item, budget)?;
            }
            budget.leave();
            Ok(())
        }
        Value::Undefined(_) | Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => Ok(()),
        other => Err(Error::runtime(format!("unhashable type: '{}'", other.type_name()))),
    }
}

struct StrKey<'s>(&'s str);

impl Hash for StrKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(1);
        self.0.hash(state);
    }
}

impl Equivalent<Key> for StrKey<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        key.0.as_str() == Some(self.0)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        fn hash<H: Hasher>(value: &Value, state: &mut H) {
            match value {
                Value::Str(text) => StrKey(text.as_str()).hash(state),
                Value::Tuple(items, _) => {
                    state.write_u8(2);
                    state.write_usize(items.len());
                    items.iter().for_each(|item| hash(item, state));
                }
                Value::Float(value) if value.fract() != 0.0 || !value.is_finite() => state.write_u64(value.to_bits()),
                Value::Float(value) => state.write_i128(*value as i128),
                other => match other.as_int() {
                    Some(value) => state.write_i128(value),
                    None => state.write_u8(3),
                },
            }
        }
        hash(&self.0, state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        fn equal(left: &Value, right: &Value) -> bool {
            match (left, right) {
                (Value::Str(left), Value::Str(right)) => left.as_str() == right.as_str(),
                (Value::Tuple(left, _), Value::Tuple(right, _)) => {
                    left.len() == right.len() && left.iter().zip(right.iter()).all(|(left, right)| equal(left, right))
                }
                (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
                _ => crate::numbers::equal(left, right).unwrap_or(false),
            }
        }
        equal(&self.0, &other.0)
    }
}

impl Eq for Key {}
