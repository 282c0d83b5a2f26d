//! GGUF files, versions 2 and 3 (specification: ggml's `docs/gguf.md`): parsed and checked as a whole before anything is
//! used.
//!
//! The layout is a header (magic, version, counts), metadata pairs, tensor descriptions, padding, and the tensors' data,
//! each at a multiple of `general.alignment`. Metadata values are checked for their structure here, and for UTF-8 and truth
//! values by those who read them ([`Metadata`]). Nothing is allocated before the bytes that it stands for are known to be in
//! the file, and the limits below bound what a hostile file can cost beyond its own size. Tensors may overlap: they are
//! only read, and files do share data between tied tensors.

use super::map::MappedFile;
use super::reader::{Reader, Subject};
use super::{DType, MetaArray, MetaValue, Metadata, StringArray, TensorList, TensorSource, TensorView, WeightsError};
use std::collections::BTreeMap;
use std::path::Path;

/// Most metadata keys of a file.
pub const KEYS_MAX: u64 = 1 << 16;
/// Longest metadata key, as the specification says.
pub const KEY_BYTES_MAX: u64 = u16::MAX as u64;
/// Most tensors of a file.
pub const TENSORS_MAX: u64 = 1 << 17;
/// Longest tensor name; the specification says 64, some writers use more.
pub const NAME_BYTES_MAX: u64 = 256;
/// Most dimensions of a tensor.
pub const RANK_MAX: u32 = 4;
/// Deepest nesting of metadata arrays; an array of scalars has depth 1.
pub const ARRAY_DEPTH_MAX: u32 = 4;
/// Most arrays within arrays of a file.
pub const NESTED_ARRAYS_MAX: u64 = 1 << 16;

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u32 = 32;
/// The smallest alignment that the specification allows.
const ALIGNMENT_MIN: u32 = 8;
/// Bytes of the shortest metadata pair: key length, type, one byte.
const PAIR_BYTES_MIN: u64 = 13;
/// Bytes of the shortest tensor description: name length, rank, one dimension, format, offset.
const TENSOR_BYTES_MIN: u64 = 32;

/// A mapped, checked GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    header: Header,
    map: MappedFile,
}

impl GgufFile {
    /// Maps the file at `path` and checks all of its header; no tensor data is read.
    pub fn open(path: &Path) -> Result<GgufFile, WeightsError> {
        let map = MappedFile::open(path)?;
        let header = parse(map.bytes()).map_err(|error| error.in_file(path))?;
        Ok(GgufFile { header, map })
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// What the file says about itself and its tensors.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All tensors in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.header.tensors.iter().map(|info| info.view(self.map.bytes()))
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.map.bytes().len() as u64
    }

    /// Bytes of all tensors as stored.
    pub fn tensor_bytes(&self) -> u64 {
        self.header.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Weights of all tensors.
    pub fn num_weights(&self) -> u64 {
        self.header.tensors.iter().map(|t| t.rows * t.cols).sum()
    }

    /// The format that most weights are in.
    pub fn main_format(&self) -> Option<DType> {
        let mut weights_by_format = BTreeMap::new();
        for t in &self.header.tensors {
            *weights_by_format.entry(t.dtype).or_insert(0) += t.rows * t.cols;
        }
        weights_by_format.into_iter().max_by_key(|(_, weights)| *weights).map(|(dtype, _)| dtype)
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// An error if the file was replaced, resized or modified since it was opened: what was copied from it is then not to
    /// be trusted. To be called by loaders after the last copy.
    pub fn verify_unchanged(&self) -> Result<(), WeightsError> {
        self.map.verify_unchanged()
    }
}

impl TensorSource for GgufFile {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.tensor(name).map(|info| info.view(self.map.bytes()))
    }
}

impl TensorList for GgufFile {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.header.tensors.iter().map(|info| info.name.as_str()))
    }
}

/// All of a file but the tensors' data.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Every tensor's data starts at a multiple of it, counted from `data_offset`.
    pub alignment: u32,
    /// Where the tensors' data begins in the file.
    pub data_offset: u64,
    pub metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<u32>,
}

/// Where a tensor lies in its file, checked against the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: DType,
    /// Outer dimensions multiplied.
    pub rows: u64,
    /// Inner, contiguous dimension.
    pub cols: u64,
    /// From the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// The tensor in `file`, the bytes that its header was parsed from.
    ///
    /// # Panics
    /// If `file` is shorter than the parsed one.
    pub fn view<'a>(&'a self, file: &'a [u8]) -> TensorView<'a> {
        let data = &file[self.offset as usize..][..self.bytes as usize];
        TensorView { name: &self.name, dtype: self.dtype, rows: self.rows, cols: self.cols, data }
    }
}

impl Header {
    /// All tensors in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }
}

/// Parses and checks the header of a whole file's bytes.
pub fn parse(bytes: &[u8]) -> Result<Header, WeightsError> {
    let reader = &mut Reader::new(bytes);
    let version = read_version(reader)?;
    let num_tensors = read_count(reader, "tensor count", TENSORS_MAX)?;
    let num_keys = read_count(reader, "metadata count", KEYS_MAX)?;
    // Each count is an upper bound of what follows, tensors included: neither alone can exceed the rest of the file.
    reader.check_count(num_keys, PAIR_BYTES_MIN, Subject::Field("metadata count"))?;
    reader.check_count(num_tensors, TENSOR_BYTES_MIN, Subject::Field("tensor count"))?;

    let metadata = read_metadata(reader, num_keys)?;
    let alignment = read_alignment(&metadata)?;
    let mut tensors = Vec::with_capacity(num_tensors as usize);
    for index in 0..num_tensors {
        tensors.push(read_tensor(reader, index)?);
    }
    let by_name = index_by_name(&tensors)?;
    let data_offset = reader.position().next_multiple_of(u64::from(alignment));
    for tensor in &mut tensors {
        place(tensor, data_offset, alignment, bytes.len() as u64)?;
    }
    Ok(Header { version, alignment, data_offset, metadata, tensors, by_name })
}

fn read_version(reader: &mut Reader) -> Result<u32, WeightsError> {
    let magic = reader.take(4, Subject::Field("file magic"))?;
    if magic != MAGIC {
        return Err(WeightsError::invalid("file magic", "GGUF", format!("\"{}\"", magic.escape_ascii())));
    }
    let version = reader.u32(Subject::Field("GGUF version"))?;
    match version {
        2 | 3 => Ok(version),
        v if matches!(v.swap_bytes(), 1..=3) => {
            Err(WeightsError::invalid("GGUF version", "a little-endian file", "a big-endian one"))
        }
        v => Err(WeightsError::invalid("GGUF version", "2 or 3", v)),
    }
}

fn read_count(reader: &mut Reader, name: &str, max: u64) -> Result<u64, WeightsError> {
    let count = reader.u64(Subject::Field(name))?;
    if count > max {
        return Err(WeightsError::invalid(name, format!("at most {max}"), count));
    }
    Ok(count)
}

fn read_metadata(reader: &mut Reader, num_keys: u64) -> Result<Metadata, WeightsError> {
    let mut pairs = Vec::with_capacity(num_keys as usize);
    let mut nested_left = NESTED_ARRAYS_MAX;
    for index in 0..num_keys {
        let key = reader.string(KEY_BYTES_MAX, Subject::Key(index))?;
        if key.is_empty() {
            return Err(WeightsError::invalid(Subject::Key(index), "a name", "an empty string"));
        }
        let value = read_value(reader, &key, &mut nested_left)?;
        pairs.push((key, value));
    }
    Metadata::from_vec(pairs)
}

fn read_value(reader: &mut Reader, key: &str, nested_left: &mut u64) -> Result<MetaValue, WeightsError> {
    let subject = Subject::Value(key);
    Ok(match reader.u32(subject)? {
        0 => MetaValue::U8(reader.u8(subject)?),
        1 => MetaValue::I8(reader.u8(subject)? as i8),
        2 => MetaValue::U16(reader.scalar(u16::from_le_bytes, subject)?),
        3 => MetaValue::I16(reader.scalar(i16::from_le_bytes, subject)?),
        4 => MetaValue::U32(reader.u32(subject)?),
        5 => MetaValue::I32(reader.scalar(i32::from_le_bytes, subject)?),
        6 => MetaValue::F32(reader.scalar(f32::from_le_bytes, subject)?),
        7 => match reader.u8(subject)? {
            byte @ (0 | 1) => MetaValue::Bool(byte == 1),
            other => MetaValue::RawBool(other),
        },
        8 => match String::from_utf8(reader.byte_string(u64::MAX, subject)?) {
            Ok(text) => MetaValue::String(text),
            Err(error) => MetaValue::RawString(error.into_bytes()),
        },
        9 => MetaValue::Array(read_array(reader, key, 1, nested_left)?),
        10 => MetaValue::U64(reader.u64(subject)?),
        11 => MetaValue::I64(reader.scalar(i64::from_le_bytes, subject)?),
        12 => MetaValue::F64(reader.scalar(f64::from_le_bytes, subject)?),
        unknown => return Err(unknown_type(subject, unknown)),
    })
}

fn read_array(reader: &mut Reader, key: &str, depth: u32, nested_left: &mut u64) -> Result<MetaArray, WeightsError> {
    let subject = Subject::Value(key);
    let element_type = reader.u32(subject)?;
    let count = reader.u64(subject)?;
    Ok(match element_type {
        0 => MetaArray::U8(reader.scalars(count, u8::from_le_bytes, subject)?),
        1 => MetaArray::I8(reader.scalars(count, i8::from_le_bytes, subject)?),
        2 => MetaArray::U16(reader.scalars(count, u16::from_le_bytes, subject)?),
        3 => MetaArray::I16(reader.scalars(count, i16::from_le_bytes, subject)?),
        4 => MetaArray::U32(reader.scalars(count, u32::from_le_bytes, subject)?),
        5 => MetaArray::I32(reader.scalars(count, i32::from_le_bytes, subject)?),
        6 => MetaArray::F32(reader.scalars(count, f32::from_le_bytes, subject)?),
        7 => {
            reader.check_count(count, 1, subject)?;
            let bytes = reader.take(count, subject)?.to_vec();
            if bytes.iter().any(|byte| *byte > 1) {
                return Ok(MetaArray::RawBools(bytes));
            }
            MetaArray::Bool(bytes.into_iter().map(|byte| byte == 1).collect())
        }
        8 => read_strings(reader, key, count)?,
        9 => {
            reader.check_count(count, 12, subject)?;
            if depth == ARRAY_DEPTH_MAX {
                return Err(WeightsError::invalid(
                    subject,
                    format!("arrays nested at most {depth} deep"),
                    "deeper ones",
                ));
            }
            let Some(left) = nested_left.checked_sub(count) else {
                let expected = format!("at most {NESTED_ARRAYS_MAX} arrays within arrays in a file");
                return Err(WeightsError::invalid(subject, expected, format!("{count} more after {nested_left} left")));
            };
            *nested_left = left;
            let mut arrays = Vec::with_capacity(count as usize);
            for _ in 0..count {
                arrays.push(read_array(reader, key, depth + 1, nested_left)?);
            }
            MetaArray::Array(arrays)
        }
        10 => MetaArray::U64(reader.scalars(count, u64::from_le_bytes, subject)?),
        11 => MetaArray::I64(reader.scalars(count, i64::from_le_bytes, subject)?),
        12 => MetaArray::F64(reader.scalars(count, f64::from_le_bytes, subject)?),
        unknown => return Err(unknown_type(subject, unknown)),
    })
}

/// Two passes, the first only over lengths, so that the copy is allocated once and exactly.
fn read_strings(reader: &mut Reader, key: &str, count: u64) -> Result<MetaArray, WeightsError> {
    reader.check_count(count, 8, Subject::Value(key))?;
    let mut lengths = reader.clone();
    let mut text_bytes = 0;
    for index in 0..count {
        let subject = Subject::Element(key, index);
        let length = lengths.u64(subject)?;
        text_bytes += lengths.take(length, subject)?.len();
    }
    let mut text = Vec::with_capacity(text_bytes);
    let mut ends = Vec::with_capacity(count as usize);
    for index in 0..count {
        let subject = Subject::Element(key, index);
        let length = reader.u64(subject)?;
        text.extend_from_slice(reader.take(length, subject)?);
        ends.push(text.len());
    }
    Ok(match StringArray::from_parts(text, ends) {
        Ok(strings) => MetaArray::String(strings),
        Err(raw) => MetaArray::RawStrings(raw),
    })
}

fn unknown_type(subject: Subject, found: u32) -> WeightsError {
    WeightsError::invalid(subject, "a GGUF value type (0 to 12)", found)
}

fn read_alignment(metadata: &Metadata) -> Result<u32, WeightsError> {
    let alignment = metadata.u32_or(ALIGNMENT_KEY, ALIGNMENT_DEFAULT)?;
    if alignment.is_power_of_two() && alignment >= ALIGNMENT_MIN {
        return Ok(alignment);
    }
    let expected = format!("a power of two of at least {ALIGNMENT_MIN}");
    Err(WeightsError::invalid(Subject::Value(ALIGNMENT_KEY), expected, alignment))
}

/// One tensor description; its offset still counts from the start of the data.
fn read_tensor(reader: &mut Reader, index: u64) -> Result<TensorInfo, WeightsError> {
    let name = reader.string(NAME_BYTES_MAX, Subject::TensorNumber(index))?;
    if name.is_empty() {
        return Err(WeightsError::invalid(Subject::TensorNumber(index), "a name", "an empty string"));
    }
    let subject = Subject::Tensor(&name);
    let rank = reader.u32(subject)?;
    if !(1..=RANK_MAX).contains(&rank) {
        return Err(WeightsError::invalid(subject, format!("1 to {RANK_MAX} dimensions"), rank));
    }
    let mut dims = [1; RANK_MAX as usize];
    for dim in &mut dims[..rank as usize] {
        *dim = reader.u64(subject)?;
    }
    let format = reader.u32(subject)?;
    let offset = reader.u64(subject)?;
    let dtype = DType::from_ggml_type(format).ok_or_else(|| {
        let readable = DType::ALL.map(DType::name).join(" ");
        let name = unread_format_name(format).map_or(String::new(), |name| format!("{name}, "));
        WeightsError::invalid(subject, format!("one of the formats {readable}"), format!("{name}GGML type {format}"))
    })?;

    let shape = || dims[..rank as usize].iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
    if dims.contains(&0) {
        return Err(WeightsError::invalid(subject, "dimensions of at least 1", shape()));
    }
    let cols = dims[0];
    if !cols.is_multiple_of(u64::from(dtype.block_weights())) {
        let expected = format!("rows of a multiple of {} weights ({dtype})", dtype.block_weights());
        return Err(WeightsError::invalid(subject, expected, shape()));
    }
    let rows = dims[1..].iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let sizes = rows.and_then(|rows| {
        rows.checked_mul(cols)?; // weights are counted in 64 bits as well
        Some((rows, rows.checked_mul(dtype.row_bytes(cols)?)?))
    });
    let Some((rows, bytes)) = sizes else {
        return Err(WeightsError::invalid(subject, "a number of weights and bytes that fits 64 bits", shape()));
    };
    Ok(TensorInfo { dtype, rows, cols, offset, bytes, name })
}

fn index_by_name(tensors: &[TensorInfo]) -> Result<Vec<u32>, WeightsError> {
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    by_name.sort_unstable_by(|&a, &b| tensors[a as usize].name.cmp(&tensors[b as usize].name));
    for pair in by_name.windows(2) {
        let name = &tensors[pair[0] as usize].name;
        if *name == tensors[pair[1] as usize].name {
            return Err(WeightsError::invalid(Subject::Tensor(name), "one description", "two"));
        }
    }
    Ok(by_name)
}

/// Makes the tensor's offset count from the start of the file, if the tensor lies inside it.
fn place(tensor: &mut TensorInfo, data_offset: u64, alignment: u32, file_bytes: u64) -> Result<(), WeightsError> {
    if !tensor.offset.is_multiple_of(u64::from(alignment)) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(WeightsError::invalid(Subject::Tensor(&tensor.name), expected, tensor.offset));
    }
    let start = data_offset.checked_add(tensor.offset);
    let end = start.and_then(|start| start.checked_add(tensor.bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_bytes => {
            tensor.offset = start;
            Ok(())
        }
        _ => {
            let TensorInfo { name, dtype, rows, cols, offset, bytes } = &*tensor;
            let expected = format!("{bytes} bytes ({rows} x {cols} {dtype}) at {data_offset} + {offset}");
            Err(WeightsError::invalid(Subject::Tensor(name), expected, format!("a file of {file_bytes} bytes")))
        }
    }
}

/// Names of GGML's other formats, for the error that refuses them.
fn unread_format_name(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}
