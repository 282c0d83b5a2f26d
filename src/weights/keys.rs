//! Rules for metadata keys that kiln knows without reading them: the values at which they change nothing.

use super::{MetaArray, MetaValue, WeightsError};

/// A metadata key that no code reads, and why that does no harm.
#[derive(Clone, Copy, Debug)]
pub struct KeyRule {
    /// The key, below the prefix that its list is for.
    pub key: &'static str,
    pub neutral: Neutral,
    /// For people: what the key is for, or what kiln lacks.
    pub why: &'static str,
}

/// Values at which an unread key changes nothing.
#[derive(Clone, Copy, Debug)]
pub enum Neutral {
    /// All: the key changes neither token ids nor numbers.
    Any,
    /// Integers or floats equal to one of these.
    Numbers(&'static [f64]),
    Flag(bool),
    Texts(&'static [&'static str]),
    /// An array or string without elements.
    Empty,
}

impl KeyRule {
    /// The rule for `key`, if the list has one.
    pub fn find<'r>(rules: &'r [KeyRule], key: &str) -> Option<&'r KeyRule> {
        rules.iter().find(|rule| rule.key == key)
    }

    /// An error that names `key` and `value`, unless the value changes nothing.
    pub fn check(&self, key: &str, value: &MetaValue) -> Result<(), WeightsError> {
        if self.neutral.holds(value) {
            return Ok(());
        }
        let expected = format!("{} ({})", self.neutral.describe(), self.why);
        Err(WeightsError::invalid(format!("metadata key {key}"), expected, value))
    }
}

impl Neutral {
    fn holds(self, value: &MetaValue) -> bool {
        match self {
            Neutral::Any => true,
            Neutral::Numbers(numbers) => number(value).is_some_and(|number| numbers.contains(&number)),
            Neutral::Flag(flag) => *value == MetaValue::Bool(flag),
            Neutral::Texts(texts) => matches!(value, MetaValue::String(text) if texts.contains(&text.as_str())),
            Neutral::Empty => match value {
                MetaValue::String(text) => text.is_empty(),
                MetaValue::Array(array) => array.is_empty(),
                _ => false,
            },
        }
    }

    fn describe(self) -> String {
        let list = |values: Vec<String>| values.join(" or ");
        match self {
            Neutral::Any => "anything".to_owned(),
            Neutral::Numbers(numbers) => list(numbers.iter().map(f64::to_string).collect()),
            Neutral::Flag(flag) => flag.to_string(),
            Neutral::Texts(texts) => list(texts.iter().map(|text| format!("{text:?}")).collect()),
            Neutral::Empty => "nothing".to_owned(),
        }
    }
}

/// A scalar, or an array of equal numbers (keys that may differ from layer to layer), as a number.
fn number(value: &MetaValue) -> Option<f64> {
    match value {
        MetaValue::F32(v) => Some(f64::from(*v)),
        MetaValue::F64(v) => Some(*v),
        MetaValue::Array(MetaArray::F32(v)) => all_equal(v).map(f64::from),
        MetaValue::Array(array) => all_equal(&array.integers::<i64>()?).map(|v| v as f64),
        value => value.integer().map(|v| v as f64),
    }
}

fn all_equal<T: Copy + PartialEq>(values: &[T]) -> Option<T> {
    let first = *values.first()?;
    values.iter().all(|value| *value == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neutral_values_pass() {
        let rule = |neutral| KeyRule { key: "k", neutral, why: "kiln has no k" };
        let off = rule(Neutral::Numbers(&[0.0, 1.0]));
        let layers = |v: &[u32]| MetaValue::from(MetaArray::U32(v.to_vec()));
        for value in [MetaValue::F32(1.0), MetaValue::U64(0), MetaValue::F64(0.0), layers(&[1, 1])] {
            off.check("a.k", &value).unwrap();
        }
        let refused =
            [MetaValue::F32(f32::NAN), MetaValue::I8(-1), "0".into(), false.into(), layers(&[0, 1]), layers(&[])];
        for value in refused {
            off.check("a.k", &value).unwrap_err();
        }
        let error = off.check("a.k", &MetaValue::F32(8.0)).unwrap_err().to_string();
        assert_eq!(error, "metadata key a.k: expected 0 or 1 (kiln has no k), found 8.0");

        rule(Neutral::Flag(true)).check("k", &true.into()).unwrap();
        for value in [MetaValue::Bool(false), MetaValue::RawBool(2), MetaValue::U8(1)] {
            rule(Neutral::Flag(true)).check("k", &value).unwrap_err();
        }
        rule(Neutral::Texts(&["silu", "swish"])).check("k", &"swish".into()).unwrap();
        let error = rule(Neutral::Texts(&["silu", "swish"])).check("k", &"gelu\n".into()).unwrap_err().to_string();
        assert_eq!(error, r#"metadata key k: expected "silu" or "swish" (kiln has no k), found "gelu\n""#);
        rule(Neutral::Empty).check("k", &MetaArray::I32(vec![]).into()).unwrap();
        rule(Neutral::Empty).check("k", &MetaArray::I32(vec![1]).into()).unwrap_err();
        rule(Neutral::Any).check("k", &MetaValue::RawString(vec![0xff])).unwrap();
    }
}
