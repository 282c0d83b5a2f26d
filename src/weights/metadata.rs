//! A model file's metadata: an ordered list of keys with typed values.

use super::{MetaArray, MetaValue, StringArray, WeightsError};
use std::borrow::Cow;

/// All metadata of a file, in the file's order. Getters name the key in their errors; the `opt_` forms give `None` for a
/// key that is absent and still refuse one of another type; the `_or` forms give a default. Strings that are not UTF-8 and
/// truth values other than 0 and 1 are kept and refused only by getters: of most keys nobody asks for the value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, MetaValue)>,
    /// Indices of `pairs`, sorted by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// Metadata with these pairs; a key that occurs twice is an error.
    pub fn from_pairs<K: Into<String>>(
        pairs: impl IntoIterator<Item = (K, MetaValue)>,
    ) -> Result<Metadata, WeightsError> {
        Metadata::from_vec(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    pub(super) fn from_vec(pairs: Vec<(String, MetaValue)>) -> Result<Metadata, WeightsError> {
        let mut by_key: Vec<u32> = (0..pairs.len() as u32).collect();
        by_key.sort_unstable_by(|&a, &b| pairs[a as usize].0.cmp(&pairs[b as usize].0));
        for pair in by_key.windows(2) {
            let key = &pairs[pair[0] as usize].0;
            if *key == pairs[pair[1] as usize].0 {
                return Err(WeightsError::invalid(subject(key), "one entry", "two"));
            }
        }
        Ok(Metadata { pairs, by_key })
    }

    /// The pairs in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &MetaValue)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        let at = self.by_key.binary_search_by(|&i| self.pairs[i as usize].0.as_str().cmp(key)).ok()?;
        Some(&self.pairs[self.by_key[at] as usize].1)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, WeightsError> {
        self.opt_str(key)?.ok_or_else(|| missing(key, "string"))
    }

    /// A string, if the key is there.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        self.read(key, "string", |value| match value {
            MetaValue::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// A string that is only shown, if the key is there: what is not UTF-8 is replaced.
    pub fn opt_label(&self, key: &str) -> Result<Option<Cow<'_, str>>, WeightsError> {
        self.read(key, "string", |value| match value {
            MetaValue::String(s) => Some(Cow::Borrowed(s.as_str())),
            MetaValue::RawString(bytes) => Some(String::from_utf8_lossy(bytes)),
            _ => None,
        })
    }

    /// A string, or `default`.
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, WeightsError> {
        Ok(self.opt_str(key)?.unwrap_or(default))
    }

    /// An integer of any stored width that fits 32 bits without sign.
    pub fn u32(&self, key: &str) -> Result<u32, WeightsError> {
        self.opt_u32(key)?.ok_or_else(|| missing(key, "unsigned 32-bit integer"))
    }

    /// An integer as for [`Metadata::u32`], if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        self.read(key, "unsigned 32-bit integer", |value| u32::try_from(value.integer()?).ok())
    }

    /// An integer as for [`Metadata::u32`], or `default`.
    pub fn u32_or(&self, key: &str, default: u32) -> Result<u32, WeightsError> {
        Ok(self.opt_u32(key)?.unwrap_or(default))
    }

    /// A float; a stored double is rounded.
    pub fn f32(&self, key: &str) -> Result<f32, WeightsError> {
        self.opt_f32(key)?.ok_or_else(|| missing(key, "float"))
    }

    /// A float as for [`Metadata::f32`], if the key is there.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, WeightsError> {
        self.read(key, "float", |value| match *value {
            MetaValue::F32(v) => Some(v),
            MetaValue::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// A float as for [`Metadata::f32`], or `default`.
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, WeightsError> {
        Ok(self.opt_f32(key)?.unwrap_or(default))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, WeightsError> {
        self.opt_bool(key)?.ok_or_else(|| missing(key, "bool"))
    }

    /// A truth value, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.read(key, "bool", |value| match *value {
            MetaValue::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A truth value, or `default`.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, WeightsError> {
        Ok(self.opt_bool(key)?.unwrap_or(default))
    }

    /// An array of strings.
    pub fn str_array(&self, key: &str) -> Result<&StringArray, WeightsError> {
        self.opt_str_array(key)?.ok_or_else(|| missing(key, "array of strings"))
    }

    /// An array of strings, if the key is there.
    pub fn opt_str_array(&self, key: &str) -> Result<Option<&StringArray>, WeightsError> {
        self.read(key, "array of strings", |value| match value {
            MetaValue::Array(MetaArray::String(v)) => Some(v),
            _ => None,
        })
    }

    /// An array of 32-bit floats.
    pub fn f32_array(&self, key: &str) -> Result<&[f32], WeightsError> {
        self.opt_f32_array(key)?.ok_or_else(|| missing(key, "array of float32"))
    }

    /// An array of 32-bit floats, if the key is there.
    pub fn opt_f32_array(&self, key: &str) -> Result<Option<&[f32]>, WeightsError> {
        self.read(key, "array of float32", |value| match value {
            MetaValue::Array(MetaArray::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any stored width that all fit 32 bits with sign.
    pub fn i32_array(&self, key: &str) -> Result<Cow<'_, [i32]>, WeightsError> {
        self.opt_i32_array(key)?.ok_or_else(|| missing(key, "array of 32-bit integers"))
    }

    /// An array as for [`Metadata::i32_array`], if the key is there.
    pub fn opt_i32_array(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, WeightsError> {
        self.read(key, "array of 32-bit integers", |value| match value {
            MetaValue::Array(MetaArray::I32(v)) => Some(Cow::Borrowed(v.as_slice())),
            MetaValue::Array(array) => array.integers().map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of integers of any stored width that all fit 32 bits without sign.
    pub fn u32_array(&self, key: &str) -> Result<Cow<'_, [u32]>, WeightsError> {
        self.opt_u32_array(key)?.ok_or_else(|| missing(key, "array of unsigned 32-bit integers"))
    }

    /// An array as for [`Metadata::u32_array`], if the key is there.
    pub fn opt_u32_array(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, WeightsError> {
        self.read(key, "array of unsigned 32-bit integers", |value| match value {
            MetaValue::Array(MetaArray::U32(v)) => Some(Cow::Borrowed(v.as_slice())),
            MetaValue::Array(array) => array.integers().map(Cow::Owned),
            _ => None,
        })
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a MetaValue) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let found = match (value.invalid(), value.integer()) {
                (Some(invalid), _) => format!("{}: {invalid}", value.type_name()),
                (None, Some(v)) => format!("{} {v}", value.type_name()),
                (None, None) => value.type_name().into_owned(),
            };
            WeightsError::invalid(subject(key), expected, found)
        })
    }
}

fn subject(key: &str) -> String {
    format!("metadata key {key}")
}

fn missing(key: &str, expected: &str) -> WeightsError {
    WeightsError::MissingKey { key: key.to_owned(), expected: expected.to_owned() }
}
