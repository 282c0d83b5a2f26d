//! Kernel arguments as text: `u32:5`, `buffer:f32:4096:random`, `out:f32:1024:save=y.bin`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::{bf16, f16};
use sim_exec::Gpu;

use crate::error::Error;

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

const TYPES: [(&str, Type); 12] = [
    ("u8", Type::U8),
    ("i8", Type::I8),
    ("u16", Type::U16),
    ("i16", Type::I16),
    ("u32", Type::U32),
    ("i32", Type::I32),
    ("u64", Type::U64),
    ("i64", Type::I64),
    ("f16", Type::F16),
    ("bf16", Type::Bf16),
    ("f32", Type::F32),
    ("f64", Type::F64),
];

impl Type {
    fn named(name: &str) -> Option<Type> {
        TYPES.iter().find(|(n, _)| *n == name).map(|(_, ty)| *ty)
    }

    fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 => 1,
            Type::U16 | Type::I16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
    }

    /// Little-endian bytes of a number in text: decimal, or hexadecimal for integers.
    fn parse(self, text: &str) -> Option<Vec<u8>> {
        if self.is_float() {
            return text.parse().ok().map(|x| self.float(x));
        }
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let magnitude = match digits.strip_prefix("0x") {
            Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
            None => i128::from(digits.parse::<u64>().ok()?),
        };
        let bits = 8 * self.bytes() as u32;
        let signed = matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64);
        let (low, high) = if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        let value = if negative { -magnitude } else { magnitude };
        (low..=high).contains(&value).then(|| value.to_le_bytes()[..self.bytes()].to_vec())
    }

    fn float(self, x: f64) -> Vec<u8> {
        match self {
            Type::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
            Type::Bf16 => bf16::from_f64(x).to_le_bytes().to_vec(),
            Type::F32 => (x as f32).to_le_bytes().to_vec(),
            _ => x.to_le_bytes().to_vec(),
        }
    }

    /// An element as text.
    fn show(self, bytes: &[u8]) -> String {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Type::I8 => (bits as i8).to_string(),
            Type::I16 => (bits as i16).to_string(),
            Type::I32 => (bits as i32).to_string(),
            Type::I64 => (bits as i64).to_string(),
            Type::F16 => f16::from_bits(bits as u16).to_string(),
            Type::Bf16 => bf16::from_bits(bits as u16).to_string(),
            Type::F32 => f32::from_bits(bits as u32).to_string(),
            Type::F64 => f64::from_bits(bits).to_string(),
            _ => bits.to_string(),
        }
    }
}

/// What a buffer holds at first.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Nothing: reads are findings.
    Unwritten,
    Zero,
    /// 0, 1, 2, …, wrapping at the type's size.
    Iota,
    /// Floats in [-1, 1) or all integers, or numbers from a range without its end.
    Random(Option<(f64, f64)>),
    Value(Vec<u8>),
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Scalar(Vec<u8>),
    Buffer {
        ty: Type,
        count: usize,
        fill: Fill,
        save: Option<PathBuf>,
        show: usize,
    },
    /// Members in order, each at a multiple of its alignment.
    Struct(Vec<Argument>),
}

/// One argument, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    pub text: String,
    kind: Kind,
}

/// An argument on a device.
#[derive(Debug)]
pub struct Placed<'a> {
    /// What the parameter holds.
    pub bytes: Vec<u8>,
    /// Buffers with their addresses.
    buffers: Vec<(&'a Argument, u64)>,
}

/// How arguments are written: shown by `--help`.
pub const HELP: &str = "\
A kernel argument; give one for each parameter, in order:

TYPE:VALUE                   a number: u32:5, f32:0.5, u64:0x10
bytes:HEX                    anything by value: bytes:05000000
struct{ARGUMENT,…}           a struct by value, laid out as in C
buffer:TYPE:COUNT[:OPTION…]  the address of a buffer
out:TYPE:COUNT[:OPTION…]     the same; its first elements are printed

TYPE is u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32 or f64.
What a buffer holds at first (a `buffer` random, an `out` nothing):
zero, iota, random, random=LOW..HIGH, value=V, file=PATH, unwritten

After the launch:
save=PATH                    write its bytes to a file
show=N                       print its first N elements";

impl FromStr for Argument {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |subject, expected: &str, found: &str| Error::Argument {
            text: text.to_owned(),
            subject,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        if let Some(members) = text.strip_prefix("struct{") {
            let members = members.strip_suffix('}').ok_or_else(|| wrong("struct", "a } at the end", text))?;
            let members = top_level(members).map(str::parse).collect::<Result<_, _>>()?;
            return Ok(Argument { text: text.to_owned(), kind: Kind::Struct(members) });
        }
        let kind = match text.split_once(':') {
            Some(("bytes", hex)) => {
                let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or(""));
                let bytes: Option<Vec<u8>> =
                    digits.map(|d| u8::from_str_radix(d, 16).ok().filter(|_| d.len() == 2)).collect();
                Kind::Scalar(bytes.ok_or_else(|| wrong("bytes", "pairs of hexadecimal digits", hex))?)
            }
            Some((kind @ ("buffer" | "out"), rest)) => buffer(kind == "out", rest, &wrong)?,
            Some((ty, value)) => {
                let ty = Type::named(ty).ok_or_else(|| wrong("kind", "a type, bytes, buffer or out", ty))?;
                Kind::Scalar(ty.parse(value).ok_or_else(|| wrong("value", "a number of the type", value))?)
            }
            None => return Err(wrong("argument", "TYPE:VALUE, bytes:, buffer:, out: or struct{", text)),
        };
        Ok(Argument { text: text.to_owned(), kind })
    }
}

/// Splits at commas that are in no inner struct.
fn top_level(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    })
    .map(str::trim)
}

fn buffer(out: bool, rest: &str, wrong: &dyn Fn(&'static str, &str, &str) -> Error) -> Result<Kind, Error> {
    let mut parts = rest.split(':');
    let (ty, count) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let ty = Type::named(ty).ok_or_else(|| wrong("type", "u8, i8, … f32 or f64", ty))?;
    let count = count.parse().ok().filter(|n| (1..1usize << 36).contains(n));
    let count = count.ok_or_else(|| wrong("count", "a number of elements from 1", rest))?;
    let mut fill = if out { Fill::Unwritten } else { Fill::Random(None) };
    let (mut save, mut show) = (None, if out { 8 } else { 0 });
    // A path may hold colons: it takes the rest of the text.
    let mut options = parts.collect::<Vec<_>>().join(":");
    while !options.is_empty() {
        let takes_rest = options.starts_with("file=") || options.starts_with("save=");
        let (option, rest) = match options.split_once(':') {
            Some((option, rest)) if !takes_rest => (option.to_owned(), rest.to_owned()),
            _ => (std::mem::take(&mut options), String::new()),
        };
        options = rest;
        match option.split_once('=').map_or((option.as_str(), ""), |pair| pair) {
            ("unwritten", "") => fill = Fill::Unwritten,
            ("zero", "") => fill = Fill::Zero,
            ("iota", "") => fill = Fill::Iota,
            ("random", "") => fill = Fill::Random(None),
            ("random", range) => {
                fill = Fill::Random(Some(parse_range(range).ok_or_else(|| wrong("random", "LOW..HIGH", range))?))
            }
            ("value", value) => {
                fill = Fill::Value(ty.parse(value).ok_or_else(|| wrong("value", "a number of the type", value))?);
            }
            ("file", path) if !path.is_empty() => fill = Fill::File(path.into()),
            ("save", path) if !path.is_empty() => save = Some(PathBuf::from(path)),
            ("show", n) => show = n.parse().map_err(|_| wrong("show", "a number of elements", n))?,
            _ => return Err(wrong("option", "zero, iota, random, value, file, unwritten, save or show", &option)),
        }
    }
    Ok(Kind::Buffer { ty, count, fill, save, show })
}

fn parse_range(text: &str) -> Option<(f64, f64)> {
    let (low, high) = text.split_once("..")?;
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low < high).then_some((low, high))
}

impl Argument {
    /// Puts the argument on a device; `seed` chooses random contents.
    ///
    /// # Errors
    /// When device memory runs out, or a file cannot be read or has another length than the buffer.
    pub fn place(&self, gpu: &Gpu, number: usize, seed: u64) -> Result<Placed<'_>, Error> {
        let (ty, count, fill) = match &self.kind {
            Kind::Scalar(bytes) => return Ok(Placed { bytes: bytes.clone(), buffers: Vec::new() }),
            Kind::Struct(members) => return self.place_struct(members, gpu, number, seed),
            Kind::Buffer { ty, count, fill, .. } => (*ty, *count, fill),
        };
        let address = gpu.memory.alloc((ty.bytes() * count) as u64, &format!("argument {number} ({})", self.text))?;
        if let Some(contents) = self.contents(ty, count, fill, seed ^ (number as u64) << 32)? {
            gpu.memory.write(address, &contents)?;
        }
        Ok(Placed { bytes: address.to_le_bytes().to_vec(), buffers: vec![(self, address)] })
    }

    fn place_struct<'a>(
        &'a self,
        members: &'a [Argument],
        gpu: &Gpu,
        number: usize,
        seed: u64,
    ) -> Result<Placed<'a>, Error> {
        let mut whole = Placed { bytes: Vec::new(), buffers: Vec::new() };
        for (i, member) in members.iter().enumerate() {
            let placed = member.place(gpu, number, seed.wrapping_add(i as u64 + 1))?;
            whole.bytes.resize(whole.bytes.len().next_multiple_of(member.align()), 0);
            whole.bytes.extend(placed.bytes);
            whole.buffers.extend(placed.buffers);
        }
        whole.bytes.resize(whole.bytes.len().next_multiple_of(self.align()), 0);
        Ok(whole)
    }

    /// As a member of a struct.
    fn align(&self) -> usize {
        match &self.kind {
            Kind::Scalar(_) if self.text.starts_with("bytes:") => 1,
            Kind::Scalar(bytes) => bytes.len(),
            Kind::Buffer { .. } => 8,
            Kind::Struct(members) => members.iter().map(Argument::align).max().unwrap_or(1),
        }
    }

    fn contents(&self, ty: Type, count: usize, fill: &Fill, seed: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut random = Random(seed);
        let each = |f: &mut dyn FnMut(usize) -> Vec<u8>| Some((0..count).flat_map(f).collect());
        Ok(match fill {
            Fill::Unwritten => None,
            Fill::Zero => Some(vec![0; ty.bytes() * count]),
            Fill::Value(value) => each(&mut |_| value.clone()),
            Fill::Iota if ty.is_float() => each(&mut |i| ty.float(i as f64)),
            Fill::Iota => each(&mut |i| (i as u64).to_le_bytes()[..ty.bytes()].to_vec()),
            Fill::Random(None) if !ty.is_float() => each(&mut |_| random.next().to_le_bytes()[..ty.bytes()].to_vec()),
            Fill::Random(range) => {
                let (low, high) = range.unwrap_or((-1.0, 1.0));
                each(&mut |_| {
                    let x = low + (high - low) * random.unit();
                    if ty.is_float() { ty.float(x) } else { (x.floor() as i64).to_le_bytes()[..ty.bytes()].to_vec() }
                })
            }
            Fill::File(path) => Some(self.file(path, ty.bytes() * count)?),
        })
    }

    fn file(&self, path: &Path, bytes: usize) -> Result<Vec<u8>, Error> {
        let contents = std::fs::read(path).map_err(Error::io("reading", path))?;
        if contents.len() == bytes {
            return Ok(contents);
        }
        Err(Error::Argument {
            text: self.text.clone(),
            subject: "file",
            expected: format!("{bytes} bytes"),
            found: format!("{} bytes", contents.len()),
        })
    }
}

impl Placed<'_> {
    /// After the launch: saves the buffers that ask for it, and returns what is to be shown of them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn collect(&self, gpu: &Gpu) -> Result<Vec<Shown>, Error> {
        let mut all = Vec::new();
        for (argument, address) in &self.buffers {
            let Kind::Buffer { ty, count, save, show, .. } = &argument.kind else { continue };
            if save.is_none() && *show == 0 {
                continue;
            }
            let mut contents = vec![0; ty.bytes() * count];
            gpu.memory.read(*address, &mut contents)?;
            if let Some(path) = save {
                std::fs::write(path, &contents).map_err(Error::io("writing", path))?;
            }
            if *show > 0 {
                let values = contents.chunks_exact(ty.bytes()).take(*show).map(|e| ty.show(e)).collect();
                all.push(Shown { argument: argument.text.clone(), count: *count, values });
            }
        }
        Ok(all)
    }
}

/// The first elements of a buffer.
#[derive(Debug, serde::Serialize)]
pub struct Shown {
    pub argument: String,
    pub count: usize,
    pub values: Vec<String>,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.count > self.values.len() { " …" } else { "" };
        write!(f, "{} = {}{more}", self.argument, self.values.join(" "))
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Vec<u8> {
        match text.parse::<Argument>().expect("it parses").kind {
            Kind::Scalar(bytes) => bytes,
            other => panic!("{other:?} is no scalar"),
        }
    }

    #[test]
    fn numbers_become_their_bytes() {
        assert_eq!(scalar("u32:5"), 5u32.to_le_bytes());
        assert_eq!(scalar("u8:0xff"), [255]);
        assert_eq!(scalar("i16:-2"), (-2i16).to_le_bytes());
        assert_eq!(scalar("u64:18446744073709551615"), [255; 8]);
        assert_eq!(scalar("f32:0.5"), 0.5f32.to_le_bytes());
        assert_eq!(scalar("f16:1"), [0, 0x3c]);
        assert_eq!(scalar("bf16:-1"), [0x80, 0xbf]);
        assert_eq!(scalar("bytes:0102ff"), [1, 2, 255]);
    }

    #[test]
    fn buffers_take_options_in_any_order() {
        let argument: Argument = "out:f32:3:zero:show=2:save=a:b".parse().expect("it parses");
        let save = Some(PathBuf::from("a:b"));
        assert_eq!(argument.kind, Kind::Buffer { ty: Type::F32, count: 3, fill: Fill::Zero, save, show: 2 });
        let argument: Argument = "buffer:i8:7:random=-3..4".parse().expect("it parses");
        let fill = Fill::Random(Some((-3.0, 4.0)));
        assert_eq!(argument.kind, Kind::Buffer { ty: Type::I8, count: 7, fill, save: None, show: 0 });
    }

    #[test]
    fn mistakes_are_named() {
        for (text, subject, found) in [
            ("5", "argument", "5"),
            ("f31:5", "kind", "f31"),
            ("u8:256", "value", "256"),
            ("i8:-129", "value", "-129"),
            ("u32:-1", "value", "-1"),
            ("bytes:012", "bytes", "012"),
            ("buffer:f12:4", "type", "f12"),
            ("buffer:f32:0", "count", "f32:0"),
            ("buffer:f32:4:ones", "option", "ones"),
            ("struct{u32:1", "struct", "struct{u32:1"),
            ("struct{u32:1,u8:300}", "value", "300"),
            ("buffer:u32:4:random=4..1", "random", "4..1"),
        ] {
            match text.parse::<Argument>() {
                Err(Error::Argument { subject: s, found: f, .. }) => assert_eq!((s, f.as_str()), (subject, found)),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn structs_are_laid_out_as_in_c() {
        let text = "struct{u8:1, buffer:f32:4:zero, u16:2, struct{u8:3,u32:4}, bytes:0506}";
        let argument: Argument = text.parse().expect("it parses");
        let gpu = Gpu::new(sim_exec::GpuConfig::default());
        let placed = argument.place(&gpu, 0, 0).expect("there is memory");
        let address = placed.buffers[0].1.to_le_bytes();
        let rest = [2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 6, 0, 0];
        assert_eq!(placed.bytes, [&[1, 0, 0, 0, 0, 0, 0, 0], &address[..], &rest].concat());
    }

    #[test]
    fn random_contents_stay_in_their_range_and_repeat() {
        let argument: Argument = "buffer:i8:1000:random=-3..4".parse().expect("it parses");
        let Kind::Buffer { ty, count, fill, .. } = &argument.kind else { panic!("a buffer") };
        let contents = || argument.contents(*ty, *count, fill, 7).expect("no file").expect("bytes");
        let values: Vec<i8> = contents().iter().map(|b| *b as i8).collect();
        assert!(values.iter().all(|v| (-3..4).contains(v)));
        assert!((-3..4).all(|v| values.contains(&v)));
        assert_eq!(contents(), contents());
    }
}
