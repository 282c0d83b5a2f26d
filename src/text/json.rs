//! JSON as clients send it: a key that stands twice is an error, keys keep their order, and errors are in words of our own.

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one JSON value.
///
/// # Errors
/// What is wrong and where, such as `key "n" stands twice`.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = deserializer.deserialize_any(Strict).and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        match (error.line(), error.column()) {
            (0, _) => message.to_owned(),
            (1, column) => format!("{message}, at column {column}"),
            (line, column) => format!("{message}, at line {line}, column {column}"),
        }
    })
}

/// Builds a value, refusing keys that stand twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("key {key:?} stands twice")));
            }
            let value = entries.next_value_seed(Strict)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

/// A value in a message: short, on one line.
pub fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= CHARS_MAX {
        return text;
    }
    let start: String = text.chars().take(CHARS_MAX).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_are_refused_at_any_depth() {
        for text in [r#"{"a":1,"b":2,"a":3}"#, r#"[{"x":{"a":1,"a":1}}]"#, r#"{"\u0061":1,"a":2}"#] {
            assert!(parse(text).is_err_and(|error| error.contains(r#"key "a" stands twice"#)), "{text}");
        }
        assert_eq!(parse(r#"[{"a":1},{"a":2}]"#).map(|value| value.to_string()), Ok(r#"[{"a":1},{"a":2}]"#.to_owned()));
    }

    #[test]
    fn keys_keep_their_order_and_numbers_their_value() {
        let text = r#"{"z":-9223372036854775808,"a":18446744073709551615,"m":[1.5,null,true,"é"]}"#;
        assert_eq!(parse(text).map(|value| value.to_string()), Ok(text.to_owned()));
    }

    #[test]
    fn errors_say_where_once() {
        assert_eq!(parse("{\"a\": }"), Err("expected value, at column 7".to_owned()));
        assert_eq!(parse("{\n\"a\": 1,\n}"), Err("trailing comma, at line 3, column 1".to_owned()));
        assert_eq!(parse("1 2"), Err("trailing characters, at column 3".to_owned()));
        assert!(parse(&"[".repeat(200)).is_err(), "depth is bounded");
        assert!(parse("1e400").is_err());
    }
}
