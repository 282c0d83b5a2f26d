//! A structure-aware fuzz target for GGUF files, and what parsing may allocate.
//!
//! Each execution makes a valid file from a seed, spoils it where that is likely to hurt (counts, lengths, types, shapes,
//! offsets; cuts, splices, flipped bytes), parses it and, where it was accepted, reads every tensor. The test runs a short
//! burst; for a long run, or to see one failing seed again:
//!
//! ```text
//! KILN_FUZZ_EXECUTIONS=2000000 KILN_FUZZ_SEED=1 cargo test --test weights_fuzz -- --nocapture
//! ```
#![allow(unsafe_code)]

use kiln::weights::testing::{FieldKind, GgufWriter, WrittenGguf};
use kiln::weights::{DType, MetaArray, MetaValue, TensorView, dequantise_row, gguf};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

/// What parsing may allocate beyond the file's size.
const EXTRA_BYTES_MAX: usize = 64 << 20;

thread_local! {
    static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
struct Counting;

impl Counting {
    fn grown(bytes: usize) {
        // Threads free what others allocated: wrapping keeps differences within one thread right.
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_add(bytes));
        if LIVE_BYTES.get() as isize > PEAK_BYTES.get() as isize {
            PEAK_BYTES.set(LIVE_BYTES.get());
        }
    }

    fn shrunk(bytes: usize) {
        LIVE_BYTES.set(LIVE_BYTES.get().wrapping_sub(bytes));
    }
}

// SAFETY: everything is handed to the system's allocator unchanged; counting touches two thread-local cells without
// destructors, which neither allocate nor fail.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::grown(layout.size());
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Counting::shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    // `realloc` is left to its default, allocate, copy and free, so that the peak holds both copies.
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once beyond those held before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    let result = work();
    (result, PEAK_BYTES.get().wrapping_sub(before))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        let pieces = ["blk.", "attn_q", ".weight", "é", "日本", "\0", " ", "x"];
        (0..self.below(6)).map(|_| pieces[self.below(pieces.len())]).collect()
    }

    fn array(&mut self, depth: u32) -> MetaArray {
        let length = self.below(6);
        match self.below(if depth < 4 { 8 } else { 7 }) {
            0 => MetaArray::U8(self.bytes(length)),
            1 => MetaArray::I32((0..length).map(|_| self.next() as i32).collect()),
            2 => MetaArray::F32((0..length).map(|_| f32::from_bits(self.next() as u32)).collect()),
            3 => MetaArray::Bool((0..length).map(|_| self.one_in(2)).collect()),
            4 => MetaArray::U64((0..length).map(|_| self.next()).collect()),
            5 | 6 => MetaArray::String((0..length).map(|_| self.text()).collect()),
            _ => MetaArray::Array((0..length).map(|_| self.array(depth + 1)).collect()),
        }
    }

    fn value(&mut self) -> MetaValue {
        match self.below(8) {
            0 => MetaValue::U8(self.next() as u8),
            1 => MetaValue::I16(self.next() as i16),
            2 => MetaValue::U32(self.next() as u32),
            3 => MetaValue::F64(f64::from_bits(self.next())),
            4 => MetaValue::Bool(self.one_in(2)),
            5 => MetaValue::String(self.text()),
            _ => MetaValue::Array(self.array(1)),
        }
    }

    fn file(&mut self) -> WrittenGguf {
        let mut writer = GgufWriter::new();
        writer.version(2 + self.below(2) as u32);
        for index in 0..self.below(6) {
            writer.metadata(&format!("{}{index}", self.text()), self.value());
        }
        if self.one_in(3) {
            writer.alignment(8 << self.below(5));
        }
        for index in 0..self.below(5) {
            let dtype = DType::ALL[self.below(DType::ALL.len())];
            let outer: Vec<u64> = (0..self.below(4)).map(|_| 1 + self.below(3) as u64).collect();
            let blocks = 1 + self.below(3) as u64;
            let dims = [&[blocks * u64::from(dtype.block_weights())], outer.as_slice()].concat();
            let bytes = blocks * u64::from(dtype.block_bytes()) * outer.iter().product::<u64>();
            let data = self.bytes(bytes as usize);
            writer.tensor(&format!("{}{index}", self.text()), dtype, &dims, &data);
        }
        writer.write()
    }

    /// A number that is likely to hurt where `old` stood.
    fn nasty(&mut self, old: u64, file_bytes: usize) -> u64 {
        match self.below(10) {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 => 0,
            3 => u64::MAX - self.below(64) as u64,
            4 => 1 << self.below(64),
            5 => (1u64 << self.below(64)).wrapping_sub(1 + self.below(2) as u64),
            6 => (file_bytes + self.below(64)).wrapping_sub(32) as u64,
            7 => self.below(64) as u64,
            8 => self.below(64) as u64 * 32,
            _ => self.next(),
        }
    }

    /// Makes two dimensions of one tensor powers of two whose product is at or near 2^64: wrapped, it would look small.
    fn overflow_shape(&mut self, file: &mut WrittenGguf) {
        let length = file.bytes.len();
        let dims: Vec<_> = file
            .fields
            .iter()
            .filter(|f| f.kind == FieldKind::Dimension && f.offset + f.bytes <= length)
            .cloned()
            .collect();
        let pairs: Vec<_> = dims.windows(2).filter(|pair| pair[0].owner == pair[1].owner).collect();
        if pairs.is_empty() {
            return;
        }
        let pair = pairs[self.below(pairs.len())];
        let log2 = self.below(64);
        file.set(&pair[0], 1 << log2);
        file.set(&pair[1], (1u64 << (63 - log2)) << self.below(2).min(log2) | self.below(2) as u64);
    }

    /// Spoils `file` in one way.
    fn spoil(&mut self, file: &mut WrittenGguf) {
        let length = file.bytes.len();
        match self.below(13) {
            0..=6 => {
                let structural: Vec<_> =
                    file.fields.iter().filter(|f| !matches!(f.kind, FieldKind::Text | FieldKind::Scalar)).collect();
                let field = structural[self.below(structural.len())].clone();
                // An earlier cut may have taken the field.
                if field.offset + field.bytes <= length {
                    let mut old = [0; 8];
                    old[..field.bytes].copy_from_slice(&file.bytes[field.offset..][..field.bytes]);
                    let value = self.nasty(u64::from_le_bytes(old), length);
                    file.set(&field, value);
                }
            }
            7 => file.bytes.truncate(self.below(length + 1)),
            8 => {
                let (from, to) = (self.below(length), self.below(length));
                let count = self.below(64).min(length - from.max(to));
                file.bytes.copy_within(from..from + count, to);
            }
            9 => {
                let from = self.below(length);
                let to = from + self.below(32).min(length - from);
                file.bytes.drain(from..to);
            }
            10 => {
                let (at, count) = (self.below(length + 1), self.below(32));
                let noise = self.bytes(count);
                file.bytes.splice(at..at, noise);
            }
            11 => self.overflow_shape(file),
            _ => {
                for _ in 0..=self.below(4) {
                    if length > 0 {
                        file.bytes[self.below(length)] ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}

/// Says which seed failed, however it failed.
struct SayOnPanic(u64);

impl Drop for SayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fails again with: KILN_FUZZ_EXECUTIONS=1 KILN_FUZZ_SEED={}", self.0);
        }
    }
}

/// One execution; whether the file was accepted although it had been spoilt.
fn execute(seed: u64) -> bool {
    let _say = SayOnPanic(seed);
    let random = &mut Random(seed);
    let mut file = random.file();
    let spoils = [0, 1, 1, 1, 1, 2, 2, 4][random.below(8)];
    (0..spoils).for_each(|_| random.spoil(&mut file));
    let bytes = &file.bytes;

    let (parsed, peak_bytes) = peak_of(|| gguf::parse(bytes));
    // Files are far smaller here than the limit; what their counts reserve may be a few times what the file spends on them.
    let bound = (bytes.len() * 8 + (64 << 10)).min(bytes.len() + EXTRA_BYTES_MAX);
    assert!(peak_bytes <= bound, "parsing {} bytes held {peak_bytes}", bytes.len());
    let header = match parsed {
        Ok(header) => header,
        Err(error) => {
            assert!(spoils > 0, "a valid file was refused: {error}");
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for (key, value) in header.metadata.iter() {
        assert_eq!(header.metadata.get(key).map(std::ptr::from_ref), Some(std::ptr::from_ref(value)));
        if let MetaValue::Array(MetaArray::String(strings)) = value {
            strings.iter().for_each(|string| assert!(string.chars().count() <= string.len()));
        }
    }
    for info in header.tensors() {
        assert_eq!(header.tensor(&info.name), Some(info));
        let view = info.view(bytes);
        assert_eq!(view.data.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr()), info.offset as usize);
        TensorView::new(view.name, view.dtype, view.rows, view.cols, view.data).expect("a view that fits its shape");
        let row = random.below(view.rows as usize);
        let mut out = vec![0.0; view.cols as usize];
        dequantise_row(view.dtype, view.row(row), &mut out);
        std::hint::black_box(view.data.iter().fold(0, |sum, b| sum ^ b));
    }
    spoils > 0
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn spoilt_files_are_errors_or_harmless() {
    let executions = from_environment("KILN_FUZZ_EXECUTIONS", 20_000);
    let seed = from_environment("KILN_FUZZ_SEED", 1);
    let start = Instant::now();
    let mut accepted = 0;
    for index in 0..executions {
        accepted += u64::from(execute(seed.wrapping_add(index)));
        if (index + 1) % 250_000 == 0 {
            println!("{} executions, {accepted} spoilt files accepted", index + 1);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{executions} executions from seed {seed} in {seconds:.1} s: {:.0} a second, {accepted} spoilt files accepted",
        executions as f64 / seconds
    );
    // A target that mostly meets one outcome has stopped testing.
    if executions >= 10_000 {
        let share = accepted as f64 / executions as f64;
        assert!((0.05..0.9).contains(&share), "{share} of the files were spoilt and accepted");
    }
}

/// Vocabularies and scores are copied out of the file once, into allocations of their exact size.
#[test]
fn large_metadata_costs_no_more_than_its_file() {
    let mut writer = GgufWriter::new();
    writer
        .metadata("tokens", MetaArray::String((0..1_000_000).map(|i| i.to_string()).collect()))
        .metadata("empty", MetaArray::String((0..1_000_000).map(|_| "").collect()))
        .metadata("scores", MetaArray::F32(vec![0.5; 1_000_000]))
        .metadata("truths", MetaArray::Bool(vec![true; 1_000_001]))
        .metadata("text", "x".repeat(1_000_001).as_str());
    let file = writer.write().bytes;
    let (header, peak_bytes) = peak_of(|| gguf::parse(&file));
    assert_eq!(header.unwrap().metadata.str_array("tokens").unwrap().get(123_456), Some("123456"));
    assert!(peak_bytes <= file.len() + (64 << 10), "{peak_bytes} bytes for a file of {}", file.len());
}

/// The structures that cost more in memory than in the file are limited in number.
#[test]
fn the_largest_counts_stay_within_the_limit() {
    let mut writer = GgufWriter::new();
    for key in 0..gguf::KEYS_MAX - 1 {
        writer.metadata(&format!("{key:x}"), false);
    }
    writer.metadata("nested", MetaArray::Array(vec![MetaArray::U8(vec![]); gguf::NESTED_ARRAYS_MAX as usize]));
    for tensor in 0..gguf::TENSORS_MAX {
        writer.tensor(&format!("{tensor:x}"), DType::F32, &[1], &[0; 4]);
    }
    let file = writer.write().bytes;
    let (header, peak_bytes) = peak_of(|| gguf::parse(&file));
    assert_eq!(header.unwrap().tensors().len() as u64, gguf::TENSORS_MAX);
    // The mean extra cost is what a file with nothing but such structures would have: well under the limit even so.
    assert!(peak_bytes <= EXTRA_BYTES_MAX / 2, "{peak_bytes} bytes for a file of {}", file.len());
}
