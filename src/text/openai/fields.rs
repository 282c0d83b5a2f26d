//! The fields of an object in a request: each is read by its type and path, and what is left over is refused or reported.

use serde_json::{Map, Value};

use crate::ids::TokenId;
use crate::text::Refusal;
use crate::text::json::shown;

/// A type that a field may have.
pub trait FromJson: Sized {
    /// What a value is expected to be.
    const EXPECTED: &'static str;

    fn from_json(value: &Value) -> Option<Self>;
}

impl FromJson for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_json(value: &Value) -> Option<bool> {
        value.as_bool()
    }
}

impl FromJson for f64 {
    const EXPECTED: &'static str = "a number";

    fn from_json(value: &Value) -> Option<f64> {
        value.as_f64()
    }
}

impl FromJson for f32 {
    const EXPECTED: &'static str = "a number";

    /// Numbers that no `f32` holds become infinite, which every range refuses.
    fn from_json(value: &Value) -> Option<f32> {
        value.as_f64().map(|number| number as f32)
    }
}

impl FromJson for u32 {
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";

    fn from_json(value: &Value) -> Option<u32> {
        integer(value).and_then(|number| number.try_into().ok())
    }
}

/// Seeds: OpenAI's are signed, kiln's unsigned; a negative one stands for the same 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl FromJson for Seed {
    const EXPECTED: &'static str = "an integer from -9223372036854775808 to 18446744073709551615";

    fn from_json(value: &Value) -> Option<Seed> {
        let number = integer(value)?;
        let signed = i64::try_from(number).map(|number| number as u64);
        signed.or_else(|_| u64::try_from(number)).ok().map(Seed)
    }
}

impl FromJson for TokenId {
    const EXPECTED: &'static str = "a token id";

    fn from_json(value: &Value) -> Option<TokenId> {
        u32::from_json(value).map(TokenId)
    }
}

impl FromJson for String {
    const EXPECTED: &'static str = "a string";

    fn from_json(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }
}

impl FromJson for Value {
    const EXPECTED: &'static str = "a value";

    fn from_json(value: &Value) -> Option<Value> {
        Some(value.clone())
    }
}

impl FromJson for Vec<Value> {
    const EXPECTED: &'static str = "an array";

    fn from_json(value: &Value) -> Option<Vec<Value>> {
        value.as_array().cloned()
    }
}

impl FromJson for Map<String, Value> {
    const EXPECTED: &'static str = "an object";

    fn from_json(value: &Value) -> Option<Map<String, Value>> {
        value.as_object().cloned()
    }
}

impl FromJson for Vec<TokenId> {
    const EXPECTED: &'static str = "an array of token ids";

    fn from_json(value: &Value) -> Option<Vec<TokenId>> {
        value.as_array()?.iter().map(TokenId::from_json).collect()
    }
}

/// An integer, also one that is written as `5.0`.
fn integer(value: &Value) -> Option<i128> {
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 1e18;
    let exact = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    exact.or_else(|| value.as_f64().filter(whole).map(|number| number as i128))
}

/// A value that is not what it has to be.
pub fn unexpected(path: &str, expected: &str, found: &Value) -> Refusal {
    Refusal::bad_request(path.to_owned(), format!("{path}: expected {expected}, found {}", shown(found)))
}

/// `value` as a `T`.
pub fn read<T: FromJson>(path: &str, value: &Value) -> Result<T, Refusal> {
    T::from_json(value).ok_or_else(|| unexpected(path, T::EXPECTED, value))
}

/// An object's fields that have not been read yet.
#[derive(Debug)]
pub struct Fields {
    /// Where the object is, such as `messages[2].`; empty for the body.
    prefix: String,
    fields: Map<String, Value>,
}

impl Fields {
    /// # Errors
    /// A value that is no object.
    pub fn of(path: &str, value: Value) -> Result<Fields, Refusal> {
        match value {
            Value::Object(fields) => {
                Ok(Fields { prefix: if path.is_empty() { String::new() } else { format!("{path}.") }, fields })
            }
            found if path.is_empty() => {
                Err(Refusal::bad_request(None, format!("the body: expected an object, found {}", shown(&found))))
            }
            found => Err(unexpected(path, "an object", &found)),
        }
    }

    /// A field's path from the body.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A field's value; null is as good as absent.
    pub fn take<T: FromJson>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.fields.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(&self.path(name), &value).map(Some),
        }
    }

    pub fn take_or<T: FromJson>(&mut self, name: &str, default: T) -> Result<T, Refusal> {
        Ok(self.take(name)?.unwrap_or(default))
    }

    /// # Errors
    /// A field that is missing or null.
    pub fn require<T: FromJson>(&mut self, name: &str) -> Result<T, Refusal> {
        let path = self.path(name);
        self.take(name)?
            .ok_or_else(|| Refusal::bad_request(path.clone(), format!("{path}: missing; expected {}", T::EXPECTED)))
    }

    /// Takes fields that change no output out, and returns the names of those that were there.
    pub fn take_harmless(&mut self, is_harmless: impl Fn(&str) -> bool) -> Vec<String> {
        let named: Vec<String> = self
            .fields
            .iter()
            .filter(|(name, value)| is_harmless(name) && !value.is_null())
            .map(|(name, _)| name.clone())
            .collect();
        named.iter().for_each(|name| drop(self.fields.shift_remove(name)));
        named.iter().map(|name| self.path(name)).collect()
    }

    /// Takes fields out that are not supported but have a value that changes nothing.
    ///
    /// # Errors
    /// One with another value, by its path.
    pub fn take_neutral(&mut self, neutral: &[(&str, &[Value])]) -> Result<(), Refusal> {
        for (name, values) in neutral {
            let Some(found) = self.fields.shift_remove(*name) else { continue };
            if !found.is_null() && !values.contains(&found) {
                let path = self.path(name);
                let only: Vec<String> = values.iter().map(Value::to_string).collect();
                let only = if only.is_empty() { "null".to_owned() } else { only.join(" or ") };
                let message =
                    format!("{path}: not supported; expected {only}, which changes nothing, found {}", shown(&found));
                return Err(Refusal::bad_request(path, message));
            }
        }
        Ok(())
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// A field that no rule knows, by its path.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => {
                let path = self.path(name);
                Err(Refusal::bad_request(path.clone(), format!("{path}: not a field that kiln knows")))
            }
            None => Ok(()),
        }
    }
}
