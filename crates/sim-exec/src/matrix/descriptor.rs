//! Matrices in shared memory as wgmma reads them (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout"; with the
//! canonical layouts that CUTLASS documents for its GMMA descriptors): pieces of 16 bytes, eight of which make a core matrix.

/// Which index of a matrix runs inside the 16-byte pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// The one that is summed over.
    K,
    /// A's rows or B's columns (`imm-trans` 1).
    Mn,
}

/// A matrix descriptor, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Byte offset in shared memory, a multiple of 16 like the two distances.
    start: u32,
    leading: u32,
    stride: u32,
    /// Bits of the address that are swizzled: 0, 1, 2 or 3 for none, 32, 64 or 128 bytes.
    swizzle: u32,
}

impl Descriptor {
    /// # Errors
    /// If the descriptor has a base offset.
    pub fn parse(bits: u64) -> Result<Self, String> {
        let field = |from: u32| (bits >> from & 0x3fff) as u32 * 16;
        let base_offset = bits >> 49 & 7;
        if base_offset != 0 {
            return Err(format!("matrix descriptor {bits:#x} has base offset {base_offset}; only 0 is supported"));
        }
        let swizzle = match bits >> 62 {
            0 => 0,
            mode => 4 - mode as u32,
        };
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// The byte offset of the piece that holds row (or column) `mn`, elements `unit` × 16 bytes and on along K.
    pub fn along_k(&self, mn: u32, unit: u32) -> u32 {
        let between_units = if self.swizzle == 0 { self.leading } else { 16 };
        self.swizzled(mn / 8 * self.stride + mn % 8 * self.width() + unit * between_units)
    }

    /// The byte offset of the piece that holds step `k` of the sum, rows (or columns) `unit` × 16 bytes and on.
    pub fn along_mn(&self, k: u32, unit: u32) -> u32 {
        if self.swizzle == 0 {
            return self.swizzled(unit * self.stride + k % 8 * 16 + k / 8 * self.leading);
        }
        let units = self.width() / 16;
        let (inside, outside) = (unit % units * 16, unit / units * self.leading);
        self.swizzled(inside + outside + k % 8 * self.width() + k / 8 * self.stride)
    }

    /// Bytes from one line of a core matrix to the next.
    fn width(&self) -> u32 {
        16 << self.swizzle
    }

    /// Exclusive-ors the lowest bits of the piece's number with those of the number of its 128-byte line.
    fn swizzled(&self, offset: u32) -> u32 {
        let address = self.start + offset;
        address ^ (address >> 7 & ((1 << self.swizzle) - 1)) << 4
    }
}
