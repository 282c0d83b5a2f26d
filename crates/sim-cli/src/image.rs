//! Files that hold kernels: PTX text, fatbins, and programs or libraries with fatbins inside.

use std::path::Path;

use sim_fatbin::{Entry, EntryKind, Fatbin, FatbinError, HEADER_BYTES, Image, Target, image_bytes};

use crate::error::Error;

/// The PTX of one module in a file.
#[derive(Debug)]
pub struct Module {
    pub ptx: String,
    pub target: Target,
}

/// What a file holds.
#[derive(Debug)]
pub struct Contents {
    /// The PTX that the device takes of each fatbin in the file, or the file's text.
    pub modules: Vec<Module>,
    /// Every entry of the fatbins: compute capability times ten, kind, unpacked bytes of PTX.
    pub entries: Vec<(u32, EntryKind, usize)>,
}

impl Contents {
    /// Reads a file and takes what runs on a device of `capability`.
    ///
    /// # Errors
    /// When it is no such file, or holds nothing for the device.
    pub fn read(path: &Path, capability: (u32, u32)) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
        let image = |source| Error::Image { path: path.to_owned(), source };
        let not = |found| Error::NotAnImage { path: path.to_owned(), found };
        let magic = bytes.first_chunk::<4>().ok_or_else(|| not("fewer than 4 bytes"))?;
        match Image::classify(*magic) {
            Image::Text => {
                let text = std::str::from_utf8(&bytes).map_err(|_| not("bytes that are no text"))?;
                let ptx = text.trim_end_matches('\0').to_owned();
                let target = Target::of_ptx(&ptx).map_err(image)?;
                if !target.runs_on(capability.0, capability.1) {
                    return Err(image(no_ptx(capability, &target.to_string())));
                }
                Ok(Contents { modules: vec![Module { ptx, target }], entries: Vec::new() })
            }
            Image::Fatbin => Contents::of(&[Fatbin::parse(&bytes).map_err(image)?], capability).map_err(image),
            Image::Cubin => {
                let fatbins = embedded(&bytes).map_err(image)?;
                if fatbins.is_empty() {
                    return Err(not("machine code without PTX"));
                }
                Contents::of(&fatbins, capability).map_err(image)
            }
            Image::Wrapper => Err(not("a wrapper, which points to memory")),
        }
    }

    fn of(fatbins: &[Fatbin], capability: (u32, u32)) -> Result<Self, FatbinError> {
        let mut contents = Contents { modules: Vec::new(), entries: Vec::new() };
        for entry in fatbins.iter().flat_map(|f| &f.entries) {
            contents.entries.push((entry.arch, entry.kind, entry.data.len()));
        }
        for fatbin in fatbins {
            let ptx: Vec<&Entry> = fatbin.entries.iter().filter(|e| e.kind == EntryKind::Ptx).collect();
            let mut texts = Vec::new();
            for entry in ptx {
                let text =
                    String::from_utf8(entry.data.clone()).map_err(|_| FatbinError::NotText { offset: entry.offset })?;
                texts.push((Target::of_ptx(&text)?, text));
            }
            let targets: Vec<Target> = texts.iter().map(|(target, _)| *target).collect();
            if let Some(i) = sim_fatbin::choose(&targets, capability.0, capability.1) {
                let (target, ptx) = texts.swap_remove(i);
                contents.modules.push(Module { ptx, target });
            }
        }
        if contents.modules.is_empty() {
            let kind = |kind| if kind == EntryKind::Ptx { "PTX" } else { "machine code" };
            let found: Vec<String> = contents.entries.iter().map(|(a, k, _)| format!("{} for {a}", kind(*k))).collect();
            return Err(no_ptx(capability, &found.join(", ")));
        }
        Ok(contents)
    }
}

fn no_ptx((major, minor): (u32, u32), found: &str) -> FatbinError {
    FatbinError::NoPtx { major, minor, found: found.to_owned() }
}

/// The fatbins in an object file, program or library: they begin at multiples of 8.
fn embedded(bytes: &[u8]) -> Result<Vec<Fatbin>, FatbinError> {
    let mut fatbins = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
        let is_fatbin = Image::classify([header[0], header[1], header[2], header[3]]) == Image::Fatbin;
        // Data may look like the first word of a fatbin: what does not fit the file is none.
        let length =
            if is_fatbin { image_bytes(header).ok().filter(|n| *n <= (bytes.len() - at) as u64) } else { None };
        match length {
            Some(length) => {
                fatbins.push(Fatbin::parse(&bytes[at..])?);
                at = (at + length as usize).next_multiple_of(8);
            }
            None => at += 8,
        }
    }
    Ok(fatbins)
}
