//! `tojson`, as transformers has it: Python's `json.dumps` without HTML escapes.

use crate::budget::Budget;
use crate::error::Error;
use crate::print;
use crate::text::{Origin, Text, TextBuf};
use crate::value::{Dict, Result, Value};
use std::cmp::Ordering;

/// `json.dumps`'s arguments.
pub(crate) struct Style {
    pub(crate) ensure_ascii: bool,
    /// One level's indentation; without one, everything is on one line.
    pub(crate) indent: Option<Text>,
    pub(crate) item_separator: Text,
    pub(crate) key_separator: Text,
    pub(crate) sort_keys: bool,
}

pub(crate) fn dump(value: &Value, style: &Style, budget: &Budget) -> Result<Text> {
    let mut writer = Writer { style, budget, out: TextBuf::default() };
    writer.value(value, 0)?;
    Ok(writer.out.finish())
}

struct Writer<'a> {
    style: &'a Style,
    budget: &'a Budget,
    out: TextBuf,
}

impl Writer<'_> {
    fn punctuation(&mut self, text: &str) {
        self.out.push(text, Origin::Input);
    }

    fn value(&mut self, value: &Value, level: usize) -> Result<()> {
        self.budget.pay_elements(1)?;
        self.budget.enter()?;
        match value {
            Value::Str(text) => self.string(text)?,
            Value::List(items) => self.list(items, level)?,
            Value::Tuple(items, _) => self.list(items, level)?,
            Value::Dict(dict) => self.dict(dict, level)?,
            other => match scalar(other) {
                Some(text) => self.punctuation(&text),
                None => {
                    let message = format!("Object of type {} is not JSON serializable", other.type_name());
                    return Err(Error::runtime(message));
                }
            },
        }
        self.budget.leave();
        Ok(())
    }

    fn list(&mut self, items: &[Value], level: usize) -> Result<()> {
        self.punctuation("[");
        for (index, item) in items.iter().enumerate() {
            self.separate(index, level + 1)?;
            self.value(item, level + 1)?;
        }
        self.close("]", items.is_empty(), level)
    }

    fn dict(&mut self, dict: &Dict, level: usize) -> Result<()> {
        self.punctuation("{");
        let mut pairs: Vec<(&Value, &Value)> = dict.pairs().collect();
        if self.style.sort_keys {
            sort_keys(&mut pairs)?;
        }
        for (index, (key, value)) in pairs.into_iter().enumerate() {
            self.separate(index, level + 1)?;
            match key {
                Value::Str(text) => self.string(text)?,
                other => match scalar(other) {
                    Some(text) => self.punctuation(&format!("\"{text}\"")),
                    None => {
                        let found = other.type_name();
                        let message = format!("keys must be str, int, float, bool or None, not {found}");
                        return Err(Error::runtime(message));
                    }
                },
            }
            self.out.push_text(&self.style.key_separator);
            self.value(value, level + 1)?;
        }
        self.close("}", dict.0.is_empty(), level)
    }

    fn separate(&mut self, index: usize, level: usize) -> Result<()> {
        self.budget.pay(self.style.item_separator.len() + self.style.key_separator.len())?;
        if index > 0 {
            self.out.push_text(&self.style.item_separator);
        }
        self.line(level)
    }

    fn line(&mut self, level: usize) -> Result<()> {
        if let Some(indent) = &self.style.indent {
            self.budget.pay_times(indent.len(), level as u64 + 1)?;
            self.out.push("\n", Origin::Input);
            self.out.repeat(indent, level);
        }
        Ok(())
    }

    fn close(&mut self, bracket: &str, is_empty: bool, level: usize) -> Result<()> {
        if !is_empty {
            self.line(level)?;
        }
        self.punctuation(bracket);
        Ok(())
    }

    fn string(&mut self, text: &Text) -> Result<()> {
        self.budget.pay(text.len() * 8)?;
        self.punctuation("\"");
        for (char, origin) in text.chars() {
            match char {
                '"' => self.punctuation("\\\""),
                '\\' => self.punctuation("\\\\"),
                '\n' => self.punctuation("\\n"),
                '\r' => self.punctuation("\\r"),
                '\t' => self.punctuation("\\t"),
                '\x08' => self.punctuation("\\b"),
                '\x0c' => self.punctuation("\\f"),
                char if char < ' ' => self.punctuation(&format!("\\u{:04x}", char as u32)),
                char if !char.is_ascii() && self.style.ensure_ascii => {
                    let mut units = [0; 2];
                    for unit in char.encode_utf16(&mut units) {
                        self.punctuation(&format!("\\u{unit:04x}"));
                    }
                }
                _ => self.out.push_char(char, origin),
            }
        }
        self.punctuation("\"");
        Ok(())
    }
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => "NaN".to_owned(),
        Value::Float(value) if value.is_infinite() => if *value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Value::Float(value) => print::float(*value),
        _ => return None,
    })
}

fn sort_keys(pairs: &mut [(&Value, &Value)]) -> Result<()> {
    let mut incomparable = false;
    pairs.sort_by(|(left, _), (right, _)| match (left, right) {
        (Value::Str(left), Value::Str(right)) => left.as_str().cmp(right.as_str()),
        _ => crate::numbers::order(left, right).flatten().unwrap_or_else(|| {
            incomparable = true;
            Ordering::Equal
        }),
    });
    if incomparable { Err(Error::runtime("keys of different types cannot be sorted")) } else { Ok(()) }
}
