//! The container: a header, then entries, each with a header and a body that is perhaps compressed.

use crate::unpack::unpack;
use crate::{FatbinError, Target, choose};

/// First bytes of a fatbin.
const MAGIC: u32 = 0xBA55_ED50;
/// First bytes of `__fatBinC_Wrapper_t`, the struct that holds the address of a fatbin.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
/// Bytes of the container's header: what must be readable before the image's length is known.
pub const HEADER_BYTES: usize = 16;
/// Bytes of an entry's header up to the fields that are read here.
const ENTRY_BYTES: u64 = 64;
/// Entries of one fatbin: far more than architectures exist.
const ENTRIES_MAX: usize = 4096;

/// What the bytes at an image's address are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Fatbin,
    /// A wrapper; the fatbin's address is the 64-bit word at offset 8.
    Wrapper,
    /// Machine code of a real device.
    Cubin,
    /// Everything else: NUL-terminated PTX text.
    Text,
}

impl Image {
    /// Tells by the first four bytes.
    pub fn classify(magic: [u8; 4]) -> Self {
        match u32::from_le_bytes(magic) {
            MAGIC => Image::Fatbin,
            WRAPPER_MAGIC => Image::Wrapper,
            ELF_MAGIC => Image::Cubin,
            _ => Image::Text,
        }
    }
}

/// Length in bytes of the fatbin that starts with this header.
///
/// # Errors
/// `Magic`, `Version`, or `Field` for a length that cannot be.
pub fn image_bytes(header: &[u8; HEADER_BYTES]) -> Result<u64, FatbinError> {
    let reader = Reader { bytes: header };
    let magic = reader.u32(0)?;
    if magic != MAGIC {
        return Err(FatbinError::Magic { found: magic, expected: MAGIC });
    }
    let version = reader.u16(4)?;
    if version != 1 {
        return Err(FatbinError::Version { found: version });
    }
    let (header_bytes, body_bytes) = (u64::from(reader.u16(6)?), reader.u64(8)?);
    if header_bytes < HEADER_BYTES as u64 {
        return Err(field(0, "header size", header_bytes, "at least 16"));
    }
    match header_bytes.checked_add(body_bytes) {
        Some(total) if total <= isize::MAX as u64 => Ok(total),
        _ => Err(field(0, "container size", body_bytes, "a size that fits the address space")),
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Ptx,
    /// A cubin.
    Elf,
    Other(u16),
}

/// One entry, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    /// Compute capability times ten, from the entry's header.
    pub arch: u32,
    /// Unpacked bytes, for PTX without the NULs at its end; empty for other kinds, which nothing here reads.
    pub data: Vec<u8>,
    /// In the container.
    pub offset: u64,
}

/// A fatbin's entries in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatbin {
    pub entries: Vec<Entry>,
}

impl Fatbin {
    /// Reads a container. Bytes after its stated length are ignored.
    ///
    /// # Errors
    /// Every [`FatbinError`] but `NoPtx`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FatbinError> {
        let reader = Reader { bytes };
        let header = reader.slice("container header", 0, HEADER_BYTES as u64)?;
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(header);
        let end = image_bytes(&fixed)?;
        let reader = Reader { bytes: reader.slice("container", 0, end)? };
        let mut offset = u64::from(reader.u16(6)?);
        let mut entries = Vec::new();
        while offset < end {
            if entries.len() == ENTRIES_MAX {
                return Err(field(offset, "number of entries", ENTRIES_MAX as u64 + 1, "at most 4096"));
            }
            let (entry, next) = read_entry(&reader, offset)?;
            entries.push(entry);
            offset = next;
        }
        Ok(Fatbin { entries })
    }

    /// The PTX that a driver would take on a device of this compute capability.
    ///
    /// # Errors
    /// `NoPtx` when none fits, `NotText` and `NoTarget` for a broken entry.
    pub fn ptx_for(&self, major: u32, minor: u32) -> Result<&str, FatbinError> {
        let mut texts = Vec::new();
        let mut targets = Vec::new();
        for entry in self.entries.iter().filter(|e| e.kind == EntryKind::Ptx) {
            let text = std::str::from_utf8(&entry.data).map_err(|_| FatbinError::NotText { offset: entry.offset })?;
            targets.push(Target::of_ptx(text)?);
            texts.push(text);
        }
        let no_ptx = || FatbinError::NoPtx { major, minor, found: self.describe(&targets) };
        choose(&targets, major, minor).map(|i| texts[i]).ok_or_else(no_ptx)
    }

    fn describe(&self, targets: &[Target]) -> String {
        let ptx = targets.iter().map(|t| format!("PTX {t}"));
        let elf =
            self.entries.iter().filter(|e| e.kind == EntryKind::Elf).map(|e| format!("machine code sm_{}", e.arch));
        let all: Vec<String> = ptx.chain(elf).collect();
        if all.is_empty() { "nothing".into() } else { all.join(", ") }
    }
}

/// The entry at `offset`, and the offset of the next.
fn read_entry(reader: &Reader<'_>, offset: u64) -> Result<(Entry, u64), FatbinError> {
    reader.slice("entry header", offset, ENTRY_BYTES)?;
    let at = |o: u64| offset + o;
    let header_bytes = u64::from(reader.u32(at(4))?);
    let padded_bytes = reader.u64(at(8))?;
    let packed_bytes = u64::from(reader.u32(at(16))?);
    if header_bytes < ENTRY_BYTES {
        return Err(field(offset, "header size", header_bytes, "at least 64"));
    }
    if packed_bytes > padded_bytes {
        return Err(field(offset, "compressed size", packed_bytes, "no more than the entry's size"));
    }
    let body = offset + header_bytes;
    reader.slice("entry body", body, padded_bytes)?;
    let body_bytes = if packed_bytes > 0 { packed_bytes } else { padded_bytes };
    let kind = match reader.u16(offset)? {
        1 => EntryKind::Ptx,
        2 => EntryKind::Elf,
        other => EntryKind::Other(other),
    };
    let mut data = Vec::new();
    if kind == EntryKind::Ptx {
        data = unpack(reader.slice("entry body", body, body_bytes)?, reader.u64(at(40))?, reader.u64(at(56))?, offset)?;
        data.truncate(data.len() - data.iter().rev().take_while(|&&b| b == 0).count());
    }
    let entry = Entry { kind, arch: reader.u32(at(28))?, data, offset };
    // The body was in bounds, so the sum cannot wrap; and an entry is at least its header long, so the walk ends.
    Ok((entry, body + padded_bytes))
}

fn field(offset: u64, field: &'static str, found: u64, expected: &'static str) -> FatbinError {
    FatbinError::Field { offset, field, found, expected }
}

/// Bounds-checked little-endian reads.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn slice(&self, subject: &'static str, offset: u64, length: u64) -> Result<&'a [u8], FatbinError> {
        let left = (self.bytes.len() as u64).saturating_sub(offset);
        if length > left || offset > self.bytes.len() as u64 {
            return Err(FatbinError::Truncated { subject, offset, expected: length, found: left });
        }
        Ok(&self.bytes[offset as usize..(offset + length) as usize])
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], FatbinError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice("field", offset, N as u64)?);
        Ok(array)
    }

    fn u16(&self, offset: u64) -> Result<u16, FatbinError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Result<u32, FatbinError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Result<u64, FatbinError> {
        self.array(offset).map(u64::from_le_bytes)
    }
}
