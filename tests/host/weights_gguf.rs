//! GGUF files: what is read, and what is refused with which words.

use kiln::weights::gguf::{self, ARRAY_DEPTH_MAX, GgufFile, KEYS_MAX, NAME_BYTES_MAX, NESTED_ARRAYS_MAX, TENSORS_MAX};
use kiln::weights::testing::{FieldKind, GgufWriter, WrittenGguf};
use kiln::weights::{DType, MetaArray, MetaValue, Metadata, StringArray, TensorSource, WeightsError};
use proptest::prelude::*;

/// A file with something of everything.
fn sample() -> GgufWriter {
    let mut writer = GgufWriter::new();
    let nested = vec![MetaArray::U8(vec![1, 2]), MetaArray::String(["é"].into_iter().collect())];
    writer
        .metadata("general.architecture", "llama")
        .metadata("truth", true)
        .metadata("count", 7u32)
        .metadata("tokens", MetaArray::String(["a", "", "日本", "d"].into_iter().collect()))
        .metadata("truths", MetaArray::Bool(vec![true, false]))
        .metadata("scores", MetaArray::F32(vec![0.5, -1.0]))
        .metadata("nested", MetaArray::Array(nested))
        .tensor_f32("norm", &[4], &[1.0, 2.0, 3.0, 4.0])
        .tensor("matrix", DType::Q8_0, &[64, 3], &[7; 3 * 68])
        .tensor_f32("cube", &[2, 3, 4], &[0.25; 24]);
    writer
}

fn error_of(file: &WrittenGguf) -> String {
    gguf::parse(&file.bytes).expect_err("a file that breaks the format").to_string()
}

#[test]
fn both_versions_and_any_alignment_are_read() {
    for version in [2, 3] {
        for alignment in [8, 32, 64, 4096] {
            let file = sample().version(version).alignment(alignment).write();
            let header = gguf::parse(&file.bytes).unwrap();
            assert_eq!((header.version, header.alignment), (version, alignment));
            assert_eq!(header.data_offset, file.data_offset as u64);
            let shapes: Vec<_> =
                header.tensors().iter().map(|t| (t.name.as_str(), t.dtype, t.rows, t.cols, t.bytes)).collect();
            let expected =
                [("norm", DType::F32, 1, 4, 16), ("matrix", DType::Q8_0, 3, 64, 204), ("cube", DType::F32, 12, 2, 96)];
            assert_eq!(shapes, expected, "version {version}, alignment {alignment}");
            let view = header.tensor("matrix").unwrap().view(&file.bytes);
            assert_eq!((view.data, view.row(2)), ([7; 204].as_slice(), [7; 68].as_slice()));
            assert!(header.tensor("matri").is_none());
        }
    }
}

#[test]
fn a_file_without_tensors_need_not_be_padded() {
    let mut writer = GgufWriter::new();
    writer.metadata("a", true);
    let mut file = writer.write();
    file.bytes.truncate(24 + 8 + 1 + 4 + 1);
    assert_eq!(gguf::parse(&file.bytes).unwrap().tensors(), []);
}

#[test]
fn metadata_getters_convert_what_fits_and_name_the_key_otherwise() {
    let header = gguf::parse(&sample().write().bytes).unwrap();
    let metadata = &header.metadata;
    assert_eq!(metadata.str("general.architecture").unwrap(), "llama");
    assert!(metadata.bool("truth").unwrap() && metadata.bool_or("absent", true).unwrap());
    assert_eq!((metadata.u32("count").unwrap(), metadata.u32_or("absent", 3).unwrap()), (7, 3));
    assert_eq!(metadata.str_array("tokens").unwrap().iter().collect::<Vec<_>>(), ["a", "", "日本", "d"]);
    assert_eq!(metadata.str_array("tokens").unwrap().get(4), None);
    assert_eq!(metadata.f32_array("scores").unwrap(), [0.5, -1.0]);
    assert_eq!(metadata.get("truths"), Some(&MetaValue::Array(MetaArray::Bool(vec![true, false]))));
    assert_eq!(metadata.iter().map(|(key, _)| key).last(), Some("nested"));
    let errors = [
        (metadata.u32("absent").map(drop), "metadata key absent is missing: expected unsigned 32-bit integer"),
        (metadata.u32("truth").map(drop), "metadata key truth: expected unsigned 32-bit integer, found bool"),
        (metadata.opt_f32("count").map(drop), "metadata key count: expected float, found uint32 7"),
        (metadata.str_or("truth", "").map(drop), "metadata key truth: expected string, found bool"),
        (metadata.str_array("scores").map(drop), "metadata key scores: expected array of strings, found [float32; 2]"),
        (
            metadata.i32_array("tokens").map(drop),
            "metadata key tokens: expected array of 32-bit integers, found [string; 4]",
        ),
    ];
    for (result, expected) in errors {
        assert_eq!(result.expect_err("a key that is absent or of another type").to_string(), expected);
    }
}

#[test]
fn integers_are_converted_exactly_or_refused() {
    let pairs = [
        ("u8", MetaValue::U8(255)),
        ("i64", MetaValue::I64(4_294_967_295)),
        ("large", MetaValue::U64(1 << 32)),
        ("negative", MetaValue::I8(-1)),
        ("i16s", MetaArray::I16(vec![-1, 2]).into()),
        ("f64", MetaValue::F64(0.1)),
    ];
    let metadata = Metadata::from_pairs(pairs).unwrap();
    assert_eq!((metadata.u32("u8").unwrap(), metadata.u32("i64").unwrap()), (255, u32::MAX));
    let error = metadata.u32("large").expect_err("too large").to_string();
    assert_eq!(error, "metadata key large: expected unsigned 32-bit integer, found uint64 4294967296");
    assert!(metadata.u32("negative").is_err() && metadata.u32_array("i16s").is_err());
    assert_eq!(metadata.i32_array("i16s").unwrap().as_ref(), [-1, 2]);
    assert_eq!(metadata.f32("f64").unwrap(), 0.1f32);
}

type Spoil = fn(&mut WrittenGguf);

/// Sets the first field of a kind that belongs to an owner.
fn set(file: &mut WrittenGguf, owner: &str, kind: FieldKind, value: u64) {
    let field = file.field(owner, kind).clone();
    file.set(&field, value);
}

#[test]
fn every_broken_field_is_refused_by_name() {
    use FieldKind::*;
    let cases: &[(Spoil, &str)] = &[
        (|f| set(f, "", Magic, 0x6c6c_6d67), "file magic: expected GGUF, found \"gmll\""),
        (|f| set(f, "", Version, 1), "GGUF version: expected 2 or 3, found 1"),
        (|f| set(f, "", Version, 4), "GGUF version: expected 2 or 3, found 4"),
        (|f| set(f, "", Version, 3 << 24), "GGUF version: expected a little-endian file, found a big-endian one"),
        (|f| set(f, "", TensorCount, TENSORS_MAX + 1), "tensor count: expected at most 131072, found 131073"),
        (|f| set(f, "", TensorCount, u64::MAX), "tensor count: expected at most 131072, found 18446744073709551615"),
        (|f| set(f, "", TensorCount, 1000), "tensor count: expected at most 24 elements of 32 bytes or more"),
        (|f| set(f, "", KeyCount, KEYS_MAX + 1), "metadata count: expected at most 65536, found 65537"),
        (|f| set(f, "", KeyCount, 60_000), "metadata count: expected at most"),
        (
            |f| set(f, "count", StringLength, u64::MAX),
            "metadata key number 2: expected a string of at most 65535 bytes",
        ),
        (|f| set(f, "count", StringLength, 60_000), "metadata key number 2: expected 60000 bytes, found"),
        (|f| set(f, "count", StringLength, 0), "metadata key number 2: expected a name, found an empty string"),
        (|f| set(f, "count", Text, 0xff), "metadata key number 2: expected UTF-8, found invalid utf-8"),
        (|f| set(f, "count", ValueType, 13), "metadata key count: expected a GGUF value type (0 to 12), found 13"),
        (|f| set(f, "scores", ArrayLength, 1 << 40), "metadata key scores: expected at most"),
        (|f| set(f, "scores", ArrayLength, u64::MAX), "metadata key scores: expected at most"),
        (|f| set(f, "truths", ArrayLength, u64::MAX), "metadata key truths: expected at most"),
        (|f| set(f, "tokens", ArrayLength, u64::MAX), "metadata key tokens: expected at most"),
        (|f| set(f, "nested", ArrayLength, u64::MAX), "metadata key nested: expected at most"),
        (
            |f| set(f, "norm", StringLength, NAME_BYTES_MAX + 1),
            "tensor number 0: expected a string of at most 256 bytes",
        ),
        (|f| set(f, "norm", StringLength, 0), "tensor number 0: expected a name, found an empty string"),
        (|f| set(f, "norm", Text, 0xff), "tensor number 0: expected UTF-8"),
        (|f| set(f, "norm", Rank, 0), "tensor norm: expected 1 to 4 dimensions, found 0"),
        (|f| set(f, "norm", Rank, 5), "tensor norm: expected 1 to 4 dimensions, found 5"),
        (|f| set(f, "cube", Dimension, 0), "tensor cube: expected dimensions of at least 1, found 0 x 3 x 4"),
        (
            |f| set(f, "matrix", Dimension, 33),
            "tensor matrix: expected rows of a multiple of 32 weights (Q8_0), found 33 x 3",
        ),
        (
            |f| set(f, "cube", Dimension, 1 << 62),
            "tensor cube: expected a number of weights and bytes that fits 64 bits",
        ),
        (
            |f| set(f, "cube", Dimension, 1 << 60),
            "tensor cube: expected a number of weights and bytes that fits 64 bits",
        ),
        (|f| set(f, "cube", Dimension, 1 << 40), "tensor cube: expected 52776558133248 bytes (12 x 1099511627776 F32)"),
        (|f| set(f, "norm", Format, 17), "found IQ2_XS, GGML type 17"),
        (|f| set(f, "norm", Format, 4), "tensor norm: expected one of the formats F32 F16 BF16 Q4_0"),
        (|f| set(f, "norm", Format, 1000), "found GGML type 1000"),
        (|f| set(f, "norm", Offset, 16), "tensor norm: expected an offset that is a multiple of 32, found 16"),
        (|f| set(f, "cube", Offset, 1 << 20), "tensor cube: expected 96 bytes (12 x 2 F32) at"),
        (|f| set(f, "cube", Offset, u64::MAX - 31), "tensor cube: expected 96 bytes (12 x 2 F32) at"),
        (
            |f| {
                f.bytes.pop();
            },
            "tensor cube: expected 96 bytes (12 x 2 F32) at",
        ),
    ];
    for (index, (spoil, expected)) in cases.iter().enumerate() {
        let mut file = sample().write();
        spoil(&mut file);
        let error = error_of(&file);
        assert!(error.contains(expected), "case {index}: {error}\nexpected: {expected}");
    }
}

/// Products that would look harmless if they wrapped.
#[test]
fn dimension_products_do_not_wrap() {
    let dims: &[&[u64]] =
        &[&[2, 1 << 63, 2], &[4, 1 << 32, 1 << 32], &[1 << 62, 1], &[1 << 32, 1 << 32], &[1 << 60, 4, 4]];
    for dims in dims {
        let file = GgufWriter::new().tensor_f32("huge", dims, &[0.0; 64]).write();
        let shape = dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        let expected = format!("tensor huge: expected a number of weights and bytes that fits 64 bits, found {shape}");
        assert_eq!(error_of(&file), expected);
    }
}

/// Of most keys nobody asks for the value, and writers are careless with them.
#[test]
fn invalid_text_and_truth_values_are_errors_for_those_who_read_them() {
    let spoilt = |owner: &str, kind: FieldKind, at: usize, value: u8| {
        let mut file = sample().metadata("author", "René").write();
        // The first text is the key.
        let fields: Vec<_> = file.fields.iter().filter(|f| f.owner == owner && f.kind == kind).collect();
        let offset = fields[at].offset + fields[at].bytes - 1;
        file.bytes[offset] = value;
        gguf::parse(&file.bytes).unwrap().metadata
    };
    let cases: [(Metadata, fn(&Metadata) -> Result<(), WeightsError>, &str); 4] = [
        (
            spoilt("author", FieldKind::Text, 1, 0x20),
            |m| m.str("author").map(drop),
            r#"metadata key author: expected string, found string: "Ren\xc3 ": invalid utf-8 sequence of 1 bytes from index 3"#,
        ),
        (
            spoilt("truth", FieldKind::Scalar, 0, 2),
            |m| m.bool("truth").map(drop),
            "metadata key truth: expected bool, found bool: a bool of 2 (0 and 1 are allowed)",
        ),
        (
            spoilt("tokens", FieldKind::Text, 3, 0xfe),
            |m| m.str_array("tokens").map(drop),
            r#"metadata key tokens: expected array of strings, found [string; 4]: element 2, "\xe6\x97\xa5\xe6\x9c\xfe": invalid utf-8 sequence of 2 bytes from index 3"#,
        ),
        (
            spoilt("truths", FieldKind::Scalar, 0, 3),
            |m| m.i32_array("truths").map(drop),
            "metadata key truths: expected array of 32-bit integers, found [bool; 2]: element 1, a bool of 3 (0 and 1 are allowed)",
        ),
    ];
    for (metadata, read, expected) in cases {
        assert_eq!(read(&metadata).expect_err("a value that is invalid").to_string(), expected);
        assert_eq!(metadata.u32("count").unwrap(), 7, "the others are read as ever");
    }
    let author = spoilt("author", FieldKind::Text, 1, 0x20);
    assert_eq!(author.opt_label("author").unwrap().unwrap(), "Ren\u{fffd} ");
    assert_eq!(author.opt_label("absent").unwrap(), None);
    assert!(author.opt_label("count").is_err());
}

#[test]
fn strings_of_arrays_are_within_the_file() {
    let mut file = sample().write();
    let lengths: Vec<_> =
        file.fields.iter().filter(|f| f.owner == "tokens" && f.kind == FieldKind::StringLength).cloned().collect();
    file.set(&lengths[3], 1 << 50);
    let error = error_of(&file);
    assert!(error.starts_with("metadata key tokens, element 2: expected 1125899906842624 bytes, found"), "{error}");
}

/// Two strings whose bytes are UTF-8 only when put together.
#[test]
fn a_character_split_over_two_strings_is_no_text() {
    let mut writer = GgufWriter::new();
    writer.metadata("tokens", MetaArray::String(["aaa", "bbb"].into_iter().collect()));
    let mut file = writer.write();
    let texts: Vec<_> = file.fields.iter().filter(|f| f.kind == FieldKind::Text).map(|f| f.offset).collect();
    file.bytes[texts[1] + 2] = 0xc3;
    file.bytes[texts[2]] = 0xa9;
    let metadata = gguf::parse(&file.bytes).unwrap().metadata;
    let error = metadata.str_array("tokens").expect_err("half a character").to_string();
    let expected =
        r#"metadata key tokens: expected array of strings, found [string; 2]: element 0, "aa\xc3": incomplete utf-8"#;
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn names_and_keys_occur_once() {
    let twice = sample().tensor_f32("norm", &[1], &[0.0]).write();
    assert_eq!(error_of(&twice), "tensor norm: expected one description, found two");
    let twice = sample().metadata("count", 8u32).write();
    assert_eq!(error_of(&twice), "metadata key count: expected one entry, found two");
}

#[test]
fn alignment_is_a_power_of_two_of_at_least_8() {
    for (alignment, found) in [(0u32, "0"), (4, "4"), (24, "24"), (u32::MAX, "4294967295")] {
        let file = GgufWriter::new().metadata("general.alignment", alignment).write();
        let expected = format!("metadata key general.alignment: expected a power of two of at least 8, found {found}");
        assert_eq!(error_of(&file), expected);
    }
    let file = GgufWriter::new().metadata("general.alignment", "32").write();
    assert!(error_of(&file).contains("expected unsigned 32-bit integer, found string"));
}

#[test]
fn nested_arrays_are_bounded_in_depth_and_number() {
    let nest = |depth: u32| (1..depth).fold(MetaArray::U8(vec![1]), |inner, _| MetaArray::Array(vec![inner]));
    assert!(gguf::parse(&GgufWriter::new().metadata("deep", nest(ARRAY_DEPTH_MAX)).write().bytes).is_ok());
    let error = error_of(&GgufWriter::new().metadata("deep", nest(ARRAY_DEPTH_MAX + 1)).write());
    assert_eq!(error, "metadata key deep: expected arrays nested at most 4 deep, found deeper ones");

    let many = |count: u64| MetaArray::Array(vec![MetaArray::U8(vec![]); count as usize]);
    assert!(gguf::parse(&GgufWriter::new().metadata("many", many(NESTED_ARRAYS_MAX)).write().bytes).is_ok());
    let error = error_of(&GgufWriter::new().metadata("one", many(1)).metadata("many", many(NESTED_ARRAYS_MAX)).write());
    assert!(error.starts_with("metadata key many: expected at most 65536 arrays within arrays"), "{error}");
}

/// Whatever is cut off, something is missing: no prefix of a file whose last tensor ends it is a file.
#[test]
fn every_truncation_is_refused() {
    let bytes = sample().write().bytes;
    for length in 0..bytes.len() {
        assert!(gguf::parse(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    gguf::parse(&bytes).unwrap();
}

#[test]
fn open_gives_views_of_the_file_and_names_it_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let written = sample().write();
    std::fs::write(&path, &written.bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().str("general.architecture").unwrap(), "llama");
    assert_eq!(file.tensors().map(|view| view.name).collect::<Vec<_>>(), ["norm", "matrix", "cube"]);
    let norm = file.tensor("norm").unwrap();
    assert_eq!(norm.data, [1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    assert!(file.tensor("absent").is_none());
    assert_eq!(file.file_bytes(), written.bytes.len() as u64);

    std::fs::write(&path, &written.bytes[..100]).unwrap();
    let error = GgufFile::open(&path).expect_err("truncated").to_string();
    assert!(error.starts_with(&format!("{}: ", path.display())) && error.contains("found"), "{error}");
    std::fs::write(&path, b"").unwrap();
    let error = GgufFile::open(&path).expect_err("empty").to_string();
    assert!(error.contains("file magic: expected 4 bytes, found 0 left"), "{error}");
    let error = GgufFile::open(&folder.path().join("absent.gguf")).expect_err("no file");
    assert!(matches!(error, WeightsError::Io { .. }), "{error}");
    let error = GgufFile::open(folder.path()).expect_err("a folder").to_string();
    assert!(error.contains("expected a regular file"), "{error}");
}

fn scalar() -> impl Strategy<Value = MetaValue> {
    prop_oneof![
        any::<u8>().prop_map(MetaValue::U8),
        any::<i8>().prop_map(MetaValue::I8),
        any::<u16>().prop_map(MetaValue::U16),
        any::<i16>().prop_map(MetaValue::I16),
        any::<u32>().prop_map(MetaValue::U32),
        any::<i32>().prop_map(MetaValue::I32),
        any::<u64>().prop_map(MetaValue::U64),
        any::<i64>().prop_map(MetaValue::I64),
        any::<f32>().prop_map(MetaValue::F32),
        any::<f64>().prop_map(MetaValue::F64),
        any::<bool>().prop_map(MetaValue::Bool),
        (2..=255u8).prop_map(MetaValue::RawBool),
        ".*".prop_map(MetaValue::String),
        prop::collection::vec(0x80..0xc0u8, 1..5).prop_map(MetaValue::RawString),
    ]
}

fn array() -> impl Strategy<Value = MetaArray> {
    let flat = prop_oneof![
        prop::collection::vec(any::<i8>(), 0..9).prop_map(MetaArray::I8),
        prop::collection::vec(any::<u16>(), 0..9).prop_map(MetaArray::U16),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(MetaArray::I32),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(MetaArray::U64),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(MetaArray::F32),
        prop::collection::vec(any::<f64>(), 0..9).prop_map(MetaArray::F64),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(MetaArray::Bool),
        prop::collection::vec(2..9u8, 1..9).prop_map(MetaArray::RawBools),
        prop::collection::vec(".*", 0..9).prop_map(|v| MetaArray::String(v.iter().collect::<StringArray>())),
    ];
    flat.prop_recursive(ARRAY_DEPTH_MAX - 1, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(MetaArray::Array)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        pairs in prop::collection::btree_map("[a-z.]{1,20}", prop_oneof![scalar(), array().prop_map(MetaValue::from)], 0..12),
        tensors in prop::collection::btree_map(".{1,40}", (0..DType::ALL.len(), 1..4u64, prop::collection::vec(1..4u64, 0..=3)), 0..6),
        version in 2..4u32,
        alignment_log2 in 3..8u32,
    ) {
        let mut writer = GgufWriter::new();
        writer.version(version).alignment(1 << alignment_log2);
        for (key, value) in &pairs {
            writer.metadata(key, value.clone());
        }
        for (seed, (name, (dtype, blocks, outer))) in tensors.iter().enumerate() {
            let dtype = DType::ALL[*dtype];
            let dims = [&[blocks * u64::from(dtype.block_weights())], outer.as_slice()].concat();
            let bytes = blocks * u64::from(dtype.block_bytes()) * outer.iter().product::<u64>();
            writer.tensor(name, dtype, &dims, &vec![seed as u8; bytes as usize]);
        }
        let file = writer.write();
        let header = gguf::parse(&file.bytes).unwrap();
        // Written again, bit for bit: NaNs among the values compare unequal to themselves.
        let mut again = GgufWriter::new();
        again.version(header.version);
        let read = header.metadata.iter().filter(|(key, _)| *key != "general.alignment");
        again.alignment(header.alignment);
        for (key, value) in read {
            again.metadata(key, value.clone());
        }
        for (tensor, (seed, (name, (dtype, blocks, outer)))) in header.tensors().iter().zip(tensors.iter().enumerate()) {
            prop_assert_eq!((&tensor.name, tensor.dtype), (name, DType::ALL[*dtype]));
            prop_assert_eq!((tensor.rows, tensor.cols), (outer.iter().product(), blocks * u64::from(tensor.dtype.block_weights())));
            let view = tensor.view(&file.bytes);
            prop_assert!(view.data.iter().all(|b| *b == seed as u8));
            let dims = [&[view.cols], outer.as_slice()].concat();
            again.tensor(name, view.dtype, &dims, view.data);
        }
        prop_assert_eq!(again.write().bytes, file.bytes);
    }
}
