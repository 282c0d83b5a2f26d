//! A model file's metadata: an ordered list of keys with typed values.

use super::WeightsError;
use std::borrow::Cow;

/// One metadata value, typed as the file stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(MetaArray),
}

/// An array of metadata values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(StringArray),
    /// Arrays of arrays; no known key uses them.
    Array(Vec<MetaArray>),
}

impl MetaArray {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            MetaArray::U8(v) => v.len(),
            MetaArray::I8(v) => v.len(),
            MetaArray::U16(v) => v.len(),
            MetaArray::I16(v) => v.len(),
            MetaArray::U32(v) => v.len(),
            MetaArray::I32(v) => v.len(),
            MetaArray::U64(v) => v.len(),
            MetaArray::I64(v) => v.len(),
            MetaArray::F32(v) => v.len(),
            MetaArray::F64(v) => v.len(),
            MetaArray::Bool(v) => v.len(),
            MetaArray::String(v) => v.len(),
            MetaArray::Array(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the element type, as the GGUF specification writes it.
    pub fn type_name(&self) -> &'static str {
        match self {
            MetaArray::U8(_) => "uint8",
            MetaArray::I8(_) => "int8",
            MetaArray::U16(_) => "uint16",
            MetaArray::I16(_) => "int16",
            MetaArray::U32(_) => "uint32",
            MetaArray::I32(_) => "int32",
            MetaArray::U64(_) => "uint64",
            MetaArray::I64(_) => "int64",
            MetaArray::F32(_) => "float32",
            MetaArray::F64(_) => "float64",
            MetaArray::Bool(_) => "bool",
            MetaArray::String(_) => "string",
            MetaArray::Array(_) => "array",
        }
    }

    /// The elements as integers of type `T`, if they are integers and all fit.
    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn fit<S: Copy + Into<i128>, T: TryFrom<i128>>(values: &[S]) -> Option<Vec<T>> {
            values.iter().map(|&v| T::try_from(v.into()).ok()).collect()
        }
        match self {
            MetaArray::U8(v) => fit(v),
            MetaArray::I8(v) => fit(v),
            MetaArray::U16(v) => fit(v),
            MetaArray::I16(v) => fit(v),
            MetaArray::U32(v) => fit(v),
            MetaArray::I32(v) => fit(v),
            MetaArray::U64(v) => fit(v),
            MetaArray::I64(v) => fit(v),
            _ => None,
        }
    }
}

impl MetaValue {
    /// The name of the type, as the GGUF specification writes it; arrays as `[type; length]`.
    pub fn type_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            MetaValue::U8(_) => "uint8",
            MetaValue::I8(_) => "int8",
            MetaValue::U16(_) => "uint16",
            MetaValue::I16(_) => "int16",
            MetaValue::U32(_) => "uint32",
            MetaValue::I32(_) => "int32",
            MetaValue::U64(_) => "uint64",
            MetaValue::I64(_) => "int64",
            MetaValue::F32(_) => "float32",
            MetaValue::F64(_) => "float64",
            MetaValue::Bool(_) => "bool",
            MetaValue::String(_) => "string",
            MetaValue::Array(a) => return Cow::Owned(format!("[{}; {}]", a.type_name(), a.len())),
        })
    }

    fn integer(&self) -> Option<i128> {
        Some(match *self {
            MetaValue::U8(v) => v.into(),
            MetaValue::I8(v) => v.into(),
            MetaValue::U16(v) => v.into(),
            MetaValue::I16(v) => v.into(),
            MetaValue::U32(v) => v.into(),
            MetaValue::I32(v) => v.into(),
            MetaValue::U64(v) => v.into(),
            MetaValue::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl From<&str> for MetaValue {
    fn from(v: &str) -> Self {
        MetaValue::String(v.to_owned())
    }
}

impl From<u32> for MetaValue {
    fn from(v: u32) -> Self {
        MetaValue::U32(v)
    }
}

impl From<f32> for MetaValue {
    fn from(v: f32) -> Self {
        MetaValue::F32(v)
    }
}

impl From<bool> for MetaValue {
    fn from(v: bool) -> Self {
        MetaValue::Bool(v)
    }
}

impl From<MetaArray> for MetaValue {
    fn from(v: MetaArray) -> Self {
        MetaValue::Array(v)
    }
}

/// Many strings in two allocations: a vocabulary has hundreds of thousands.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    /// Where each string ends in `text`; it starts where its predecessor ends.
    ends: Vec<usize>,
}

impl StringArray {
    /// An empty array with room for `strings` strings of `bytes` bytes in total.
    pub fn with_capacity(strings: usize, bytes: usize) -> Self {
        StringArray { text: String::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// Strings that end at `ends` in `text`; errors with the first string that is not UTF-8 and what is wrong with it.
    pub(super) fn from_parts(text: Vec<u8>, ends: Vec<usize>) -> Result<Self, (usize, String)> {
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            (ends.partition_point(|&end| end <= at), error.utf8_error().to_string())
        })?;
        // Text that is valid as a whole is valid in parts if no part ends within a character.
        match ends.iter().position(|&end| !text.is_char_boundary(end)) {
            Some(index) => Err((index, "a string that ends within a character".to_owned())),
            None => Ok(StringArray { text, ends }),
        }
    }

    /// Appends one string.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`, if there are that many.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).expect("within the array's length"))
    }
}

impl<S: AsRef<str>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut array = StringArray::default();
        strings.into_iter().for_each(|s| array.push(s.as_ref()));
        array
    }
}

impl std::fmt::Debug for StringArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// All metadata of a file, in the file's order. Getters name the key in their errors; the `opt_` forms give `None` for a
/// key that is absent and still refuse one of another type; the `_or` forms give a default.
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
            let found = match value.integer() {
                Some(v) => format!("{} {v}", value.type_name()),
                None => value.type_name().into_owned(),
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
