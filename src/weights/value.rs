//! The values of metadata, typed as a file stores them.

use super::text::{beginning, quoted, quoted_bytes};
use std::borrow::Cow;
use std::fmt;

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
    /// A string that is not UTF-8. Such values are kept, since most keys are read by nobody; getters refuse them.
    RawString(Vec<u8>),
    /// A truth value that is neither 0 nor 1; kept and refused likewise.
    RawBool(u8),
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
    /// Strings of which at least one is not UTF-8.
    RawStrings(RawStrings),
    /// Truth values of which at least one is neither 0 nor 1.
    RawBools(Vec<u8>),
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
            MetaArray::RawStrings(v) => v.len(),
            MetaArray::RawBools(v) => v.len(),
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
            MetaArray::Bool(_) | MetaArray::RawBools(_) => "bool",
            MetaArray::String(_) | MetaArray::RawStrings(_) => "string",
            MetaArray::Array(_) => "array",
        }
    }

    /// The elements as integers of type `T`, if they are integers and all fit.
    pub(super) fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
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
            MetaValue::Bool(_) | MetaValue::RawBool(_) => "bool",
            MetaValue::String(_) | MetaValue::RawString(_) => "string",
            MetaValue::Array(a) => return Cow::Owned(format!("[{}; {}]", a.type_name(), a.len())),
        })
    }

    pub(super) fn integer(&self) -> Option<i128> {
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

    /// Strings that end at `ends` in `text`; the same strings as bytes if one of them is not UTF-8.
    pub(super) fn from_parts(text: Vec<u8>, ends: Vec<usize>) -> Result<Self, RawStrings> {
        let text = match String::from_utf8(text) {
            Ok(text) => text,
            Err(error) => return Err(RawStrings { bytes: error.into_bytes(), ends }),
        };
        // Text that is valid as a whole is valid in parts if no part ends within a character.
        if ends.iter().all(|&end| text.is_char_boundary(end)) {
            return Ok(StringArray { text, ends });
        }
        Err(RawStrings { bytes: text.into_bytes(), ends })
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

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Strings as a file stores them, of which at least one is not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawStrings {
    bytes: Vec<u8>,
    /// As in [`StringArray`].
    ends: Vec<usize>,
}

impl RawStrings {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The strings' bytes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.ends.iter().enumerate().map(|(index, &end)| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            &self.bytes[start..end]
        })
    }
}

impl MetaArray {
    /// The first element that its type does not allow, as a message says it.
    pub(super) fn invalid_element(&self) -> Option<String> {
        let named = |(index, text): (usize, String)| format!("element {index}, {text}");
        match self {
            MetaArray::RawStrings(strings) => {
                let invalid = |(index, bytes)| Some((index, invalid_utf8(bytes)?));
                strings.iter().enumerate().find_map(invalid).map(named)
            }
            MetaArray::RawBools(bytes) => {
                let invalid = bytes.iter().enumerate().find(|(_, byte)| **byte > 1);
                invalid.map(|(index, byte)| (index, invalid_bool(*byte))).map(named)
            }
            _ => None,
        }
    }

    /// Up to `count` elements from the front, as people write them.
    fn first(&self, count: usize) -> Vec<String> {
        fn show<T>(values: &[T], count: usize, show: impl Fn(&T) -> String) -> Vec<String> {
            values.iter().take(count).map(show).collect()
        }
        match self {
            MetaArray::U8(v) | MetaArray::RawBools(v) => show(v, count, u8::to_string),
            MetaArray::I8(v) => show(v, count, i8::to_string),
            MetaArray::U16(v) => show(v, count, u16::to_string),
            MetaArray::I16(v) => show(v, count, i16::to_string),
            MetaArray::U32(v) => show(v, count, u32::to_string),
            MetaArray::I32(v) => show(v, count, i32::to_string),
            MetaArray::U64(v) => show(v, count, u64::to_string),
            MetaArray::I64(v) => show(v, count, i64::to_string),
            MetaArray::F32(v) => show(v, count, |v| decimal(&format!("{v:?}"))),
            MetaArray::F64(v) => show(v, count, |v| decimal(&format!("{v:?}"))),
            MetaArray::Bool(v) => show(v, count, bool::to_string),
            MetaArray::Array(v) => show(v, count, MetaArray::to_string),
            MetaArray::String(v) => v.iter().take(count).map(short_text).collect(),
            MetaArray::RawStrings(v) => v.iter().take(count).map(short_bytes).collect(),
        }
    }
}

impl MetaValue {
    /// What its type does not allow about it, as a message says it.
    pub(super) fn invalid(&self) -> Option<String> {
        match self {
            MetaValue::RawString(bytes) => invalid_utf8(bytes),
            MetaValue::RawBool(byte) => Some(invalid_bool(*byte)),
            MetaValue::Array(array) => array.invalid_element(),
            _ => None,
        }
    }
}

fn invalid_utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).err().map(|error| format!("{}: {error}", short_bytes(bytes)))
}

fn invalid_bool(byte: u8) -> String {
    format!("a bool of {byte} (0 and 1 are allowed)")
}

/// On one line, as people write values: strings in quotes, floats as short decimals, long values by their beginning and
/// length. Shows no control character.
impl fmt::Display for MetaValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetaValue::U8(v) | MetaValue::RawBool(v) => v.fmt(f),
            MetaValue::I8(v) => v.fmt(f),
            MetaValue::U16(v) => v.fmt(f),
            MetaValue::I16(v) => v.fmt(f),
            MetaValue::U32(v) => v.fmt(f),
            MetaValue::I32(v) => v.fmt(f),
            MetaValue::U64(v) => v.fmt(f),
            MetaValue::I64(v) => v.fmt(f),
            MetaValue::F32(v) => f.write_str(&decimal(&format!("{v:?}"))),
            MetaValue::F64(v) => f.write_str(&decimal(&format!("{v:?}"))),
            MetaValue::Bool(v) => v.fmt(f),
            MetaValue::String(text) => f.write_str(&short_text(text)),
            MetaValue::RawString(bytes) => f.write_str(&short_bytes(bytes)),
            MetaValue::Array(array) => array.fmt(f),
        }
    }
}

/// `[3 x uint32: 1, 2, 3]`; the first few elements of long ones.
impl fmt::Display for MetaArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ELEMENTS_MAX: usize = 4;
        let (length, first) = (self.len(), self.first(ELEMENTS_MAX));
        let more = if length > first.len() { ", …" } else { "" };
        let separator = if first.is_empty() { "" } else { ": " };
        write!(f, "[{length} x {}{separator}{}{more}]", self.type_name(), first.join(", "))
    }
}

/// Rust's shortest decimal with an exponent of at least two digits and its sign: `1e-05`, `1e+20`, `10000.0`, `NaN`.
fn decimal(shortest: &str) -> String {
    let Some((digits, exponent)) = shortest.split_once('e') else { return shortest.to_owned() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

const STRING_CHARS_MAX: usize = 80;

fn short_text(text: &str) -> String {
    match beginning(text, STRING_CHARS_MAX) {
        (start, true) => format!("{}… ({} bytes)", quoted(start), text.len()),
        (whole, false) => quoted(whole),
    }
}

fn short_bytes(bytes: &[u8]) -> String {
    match bytes.get(..STRING_CHARS_MAX) {
        Some(start) if start.len() < bytes.len() => format!("{}… ({} bytes)", quoted_bytes(start), bytes.len()),
        _ => quoted_bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_write_them() {
        let strings = |texts: &[&str]| MetaValue::from(MetaArray::String(texts.iter().collect()));
        let cases: [(MetaValue, &str); 19] = [
            (MetaValue::U32(49152), "49152"),
            (MetaValue::I8(-3), "-3"),
            (MetaValue::U64(u64::MAX), "18446744073709551615"),
            (MetaValue::F32(10000.0), "10000.0"),
            (MetaValue::F32(1e-5), "1e-05"),
            (MetaValue::F32(0.1), "0.1"),
            (MetaValue::F32(-1e20), "-1e+20"),
            (MetaValue::F64(1.5e-300), "1.5e-300"),
            (MetaValue::F32(f32::NAN), "NaN"),
            (MetaValue::F64(f64::NEG_INFINITY), "-inf"),
            (MetaValue::Bool(true), "true"),
            (MetaValue::RawBool(2), "2"),
            ("a \"b\"\n\u{1b}[1m".into(), r#""a \"b\"\n\u{1b}[1m""#),
            (MetaValue::RawString(b"Ren\xe9".to_vec()), r#""Ren\xe9""#),
            (strings(&[]), "[0 x string]"),
            (strings(&["a", "\0"]), r#"[2 x string: "a", "\u{0}"]"#),
            (strings(&["1", "2", "3", "4", "5"]), r#"[5 x string: "1", "2", "3", "4", …]"#),
            (MetaArray::F32(vec![0.5, 1e9]).into(), "[2 x float32: 0.5, 1000000000.0]"),
            (MetaArray::Array(vec![MetaArray::U8(vec![1])]).into(), "[1 x array: [1 x uint8: 1]]"),
        ];
        for (value, expected) in cases {
            assert_eq!(value.to_string(), expected);
        }
        let long = MetaValue::from("x".repeat(81).as_str()).to_string();
        assert_eq!(long, format!("\"{}\"… (81 bytes)", "x".repeat(80)));
    }

    #[test]
    fn the_first_invalid_element_is_named() {
        let strings = StringArray::from_parts(b"ab\xe9c".to_vec(), vec![1, 3, 4]).unwrap_err();
        let found = MetaArray::RawStrings(strings.clone()).invalid_element().unwrap();
        assert!(found.starts_with(r#"element 1, "b\xe9": incomplete utf-8"#), "{found}");
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a"[..], b"b\xe9", b"c"]);
        let split = StringArray::from_parts("é".as_bytes().to_vec(), vec![1, 2]).unwrap_err();
        assert!(MetaArray::RawStrings(split).invalid_element().unwrap().starts_with("element 0"));
        let bools = MetaArray::RawBools(vec![0, 1, 7]).invalid_element().unwrap();
        assert_eq!(bools, "element 2, a bool of 7 (0 and 1 are allowed)");
    }
}
