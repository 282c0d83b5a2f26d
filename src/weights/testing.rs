//! Writes GGUF files for tests: valid ones, and the places in them that a test may want to spoil.

use super::{DType, MetaArray, MetaValue};

/// What a place in a written file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    Magic,
    Version,
    TensorCount,
    KeyCount,
    /// The length of a key, string or tensor name.
    StringLength,
    /// A key, string or tensor name.
    Text,
    /// The type of a value or of an array's elements.
    ValueType,
    ArrayLength,
    /// A scalar, or all elements of an array of scalars.
    Scalar,
    Rank,
    Dimension,
    /// A tensor's GGML type.
    Format,
    /// A tensor's offset.
    Offset,
}

/// One field of a written file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The metadata key or tensor that the field belongs to; empty for the file's own.
    pub owner: String,
    pub kind: FieldKind,
    /// From the start of the file.
    pub offset: usize,
    pub bytes: usize,
}

/// A written file and its fields.
#[derive(Clone, Debug)]
pub struct WrittenGguf {
    pub bytes: Vec<u8>,
    /// In the file's order.
    pub fields: Vec<Field>,
    /// Where the tensors' data begins.
    pub data_offset: usize,
}

impl WrittenGguf {
    /// The first field of `kind` that belongs to `owner`.
    ///
    /// # Panics
    /// If there is none.
    pub fn field(&self, owner: &str, kind: FieldKind) -> &Field {
        let found = self.fields.iter().find(|field| field.owner == owner && field.kind == kind);
        found.unwrap_or_else(|| panic!("no {kind:?} of \"{owner}\""))
    }

    /// Overwrites a field's first bytes with as many low bytes of `value` as it has (at most 8).
    pub fn set(&mut self, field: &Field, value: u64) {
        let bytes = field.bytes.min(8);
        self.bytes[field.offset..field.offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

/// Collects metadata and tensors, then writes them as one GGUF file.
///
/// ```
/// use kiln::weights::{DType, gguf, testing::GgufWriter};
/// let mut writer = GgufWriter::new();
/// writer.metadata("general.architecture", "llama").tensor_f32("output_norm.weight", &[2], &[1.0, 2.0]);
/// let header = gguf::parse(&writer.write().bytes)?;
/// assert_eq!(header.tensors()[0].dtype, DType::F32);
/// # Ok::<(), kiln::weights::WeightsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufWriter {
    version: u32,
    alignment: usize,
    pairs: Vec<(String, MetaValue)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    format: u32,
    dims: Vec<u64>,
    data: Vec<u8>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter::new()
    }
}

impl GgufWriter {
    /// An empty file of version 3, aligned to 32 bytes.
    pub fn new() -> Self {
        GgufWriter { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() }
    }

    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Sets `general.alignment` and aligns accordingly.
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        self.alignment = alignment as usize;
        self.metadata("general.alignment", alignment)
    }

    /// Appends a metadata pair; keys are not checked.
    pub fn metadata(&mut self, key: &str, value: impl Into<MetaValue>) -> &mut Self {
        self.pairs.push((key.to_owned(), value.into()));
        self
    }

    /// Appends a tensor; `dims` in the file's order, the contiguous dimension first. Nothing is checked.
    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[u64], data: &[u8]) -> &mut Self {
        let tensor =
            Tensor { name: name.to_owned(), format: dtype.ggml_type(), dims: dims.to_vec(), data: data.to_vec() };
        self.tensors.push(tensor);
        self
    }

    /// Appends an F32 tensor.
    pub fn tensor_f32(&mut self, name: &str, dims: &[u64], values: &[f32]) -> &mut Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, DType::F32, dims, &data)
    }

    /// The file.
    pub fn write(&self) -> WrittenGguf {
        let mut out = Output::default();
        out.field(FieldKind::Magic, b"GGUF");
        out.field(FieldKind::Version, &self.version.to_le_bytes());
        out.field(FieldKind::TensorCount, &(self.tensors.len() as u64).to_le_bytes());
        out.field(FieldKind::KeyCount, &(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.owner = key.clone();
            out.string(key.as_bytes());
            out.value(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.owner = tensor.name.clone();
            out.string(tensor.name.as_bytes());
            out.field(FieldKind::Rank, &(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                out.field(FieldKind::Dimension, &dim.to_le_bytes());
            }
            out.field(FieldKind::Format, &tensor.format.to_le_bytes());
            out.field(FieldKind::Offset, &(offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(self.alignment);
        }
        let Output { mut bytes, fields, .. } = out;
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        let data_offset = bytes.len();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend_from_slice(&tensor.data);
        }
        WrittenGguf { bytes, fields, data_offset }
    }
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    owner: String,
}

impl Output {
    fn field(&mut self, kind: FieldKind, bytes: &[u8]) {
        let field = Field { owner: self.owner.clone(), kind, offset: self.bytes.len(), bytes: bytes.len() };
        self.fields.push(field);
        self.bytes.extend_from_slice(bytes);
    }

    fn string(&mut self, text: &[u8]) {
        self.field(FieldKind::StringLength, &(text.len() as u64).to_le_bytes());
        self.field(FieldKind::Text, text);
    }

    fn value(&mut self, value: &MetaValue) {
        let mut scalar = |number: u32, bytes: &[u8]| {
            self.field(FieldKind::ValueType, &number.to_le_bytes());
            self.field(FieldKind::Scalar, bytes);
        };
        match value {
            MetaValue::U8(v) => scalar(0, &v.to_le_bytes()),
            MetaValue::I8(v) => scalar(1, &v.to_le_bytes()),
            MetaValue::U16(v) => scalar(2, &v.to_le_bytes()),
            MetaValue::I16(v) => scalar(3, &v.to_le_bytes()),
            MetaValue::U32(v) => scalar(4, &v.to_le_bytes()),
            MetaValue::I32(v) => scalar(5, &v.to_le_bytes()),
            MetaValue::F32(v) => scalar(6, &v.to_le_bytes()),
            MetaValue::Bool(v) => scalar(7, &[u8::from(*v)]),
            MetaValue::U64(v) => scalar(10, &v.to_le_bytes()),
            MetaValue::I64(v) => scalar(11, &v.to_le_bytes()),
            MetaValue::F64(v) => scalar(12, &v.to_le_bytes()),
            MetaValue::RawBool(byte) => scalar(7, &[*byte]),
            MetaValue::String(text) => self.string_value(text.as_bytes()),
            MetaValue::RawString(bytes) => self.string_value(bytes),
            MetaValue::Array(array) => {
                self.field(FieldKind::ValueType, &9u32.to_le_bytes());
                self.array(array);
            }
        }
    }

    fn string_value(&mut self, text: &[u8]) {
        self.field(FieldKind::ValueType, &8u32.to_le_bytes());
        self.string(text);
    }

    fn array(&mut self, array: &MetaArray) {
        match array {
            MetaArray::U8(v) => self.scalars(0, v, u8::to_le_bytes),
            MetaArray::I8(v) => self.scalars(1, v, i8::to_le_bytes),
            MetaArray::U16(v) => self.scalars(2, v, u16::to_le_bytes),
            MetaArray::I16(v) => self.scalars(3, v, i16::to_le_bytes),
            MetaArray::U32(v) => self.scalars(4, v, u32::to_le_bytes),
            MetaArray::I32(v) => self.scalars(5, v, i32::to_le_bytes),
            MetaArray::F32(v) => self.scalars(6, v, f32::to_le_bytes),
            MetaArray::Bool(v) => self.scalars(7, v, |v| [u8::from(v)]),
            MetaArray::U64(v) => self.scalars(10, v, u64::to_le_bytes),
            MetaArray::I64(v) => self.scalars(11, v, i64::to_le_bytes),
            MetaArray::F64(v) => self.scalars(12, v, f64::to_le_bytes),
            MetaArray::String(strings) => {
                self.array_head(8, strings.len());
                strings.iter().for_each(|text| self.string(text.as_bytes()));
            }
            MetaArray::RawStrings(strings) => {
                self.array_head(8, strings.len());
                strings.iter().for_each(|text| self.string(text));
            }
            MetaArray::RawBools(bytes) => self.scalars(7, bytes, u8::to_le_bytes),
            MetaArray::Array(arrays) => {
                self.array_head(9, arrays.len());
                arrays.iter().for_each(|array| self.array(array));
            }
        }
    }

    fn array_head(&mut self, number: u32, length: usize) {
        self.field(FieldKind::ValueType, &number.to_le_bytes());
        self.field(FieldKind::ArrayLength, &(length as u64).to_le_bytes());
    }

    fn scalars<T: Copy, const N: usize>(&mut self, number: u32, values: &[T], to_bytes: fn(T) -> [u8; N]) {
        self.array_head(number, values.len());
        let bytes: Vec<u8> = values.iter().flat_map(|&v| to_bytes(v)).collect();
        self.field(FieldKind::Scalar, &bytes);
    }
}
