//! Block formats: how 32 stored weights become integers, a scale and a minimum.
//!
//! [`unpack_block`] is the single definition on the host: [`dequantise_row`], the reference device and the repacking of
//! every other device stand on it. The layouts are those of GGML's block structs; values equal those of the `gguf` Python
//! package bit for bit (`tests/weights_dequant.rs`).

use super::DType;
use half::{bf16, f16};

/// Weights per [`Block32`], whatever the size of the stored block.
pub const BLOCK_WEIGHTS: usize = 32;

/// 32 consecutive weights of a quantised row: weight `j` is `scale * sub[j / 16] * q[j] + min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block32 {
    /// Integers: signed and centred for formats without a minimum, unsigned for formats with one.
    pub q: [i8; 32],
    /// Integer factors of the scale for weights 0..16 and 16..32: the sub-scales of Q6_K, otherwise ones.
    pub sub: [i32; 2],
    /// The format's float scale; for Q4_K and Q5_K `d * sc`, rounded once.
    pub scale: f32,
    /// What is added after scaling: 0 unless [`has_min`]; for Q4_K and Q5_K `-(dmin * m)`, rounded once.
    pub min: f32,
}

impl Block32 {
    /// The 32 weights, in the `gguf` package's order of rounding: `(scale * sub) * q`, then the minimum if there is one.
    fn dequantise(&self, has_min: bool, out: &mut [f32]) {
        let scales = self.sub.map(|sub| self.scale * sub as f32);
        for (j, (out, q)) in out.iter_mut().zip(self.q).enumerate() {
            let product = scales[j / 16] * f32::from(q);
            // Adding a zero minimum is not a no-op: it would turn -0.0 into 0.0.
            *out = if has_min { product + self.min } else { product };
        }
    }
}

/// Whether blocks of `dtype` carry a minimum (Q4_1, Q5_1, Q4_K, Q5_K).
pub const fn has_min(dtype: DType) -> bool {
    matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K)
}

/// Dequantises stored weights into `out`: `bytes` holds exactly `out.len()` weights of whole blocks (one row, or several
/// one after the other).
///
/// # Panics
/// If `bytes` and `out` disagree; views of checked files cannot.
pub fn dequantise_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let expected = dtype.row_bytes(out.len() as u64);
    assert_eq!(expected, Some(bytes.len() as u64), "{} {dtype} weights in {} bytes", out.len(), bytes.len());
    match dtype {
        DType::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16::from_le_bytes(*b).to_f32();
            }
        }
        DType::BF16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                // Not `bf16::to_f32`, which quiets NaNs: a bfloat16 is the upper half of a float, nothing else.
                *out = f32::from_bits(u32::from(bf16::from_le_bytes(*b).to_bits()) << 16);
            }
        }
        _ => {
            let has_min = has_min(dtype);
            for (index, out) in out.chunks_exact_mut(BLOCK_WEIGHTS).enumerate() {
                unpack_block(dtype, bytes, index).dequantise(has_min, out);
            }
        }
    }
}

/// Weights `32 * block32_index ..` of a row in a quantised format; `row_bytes` holds the whole row.
///
/// # Panics
/// If `dtype` is a float format or the row ends before the block.
pub fn unpack_block(dtype: DType, row_bytes: &[u8], block32_index: usize) -> Block32 {
    let per_stored = (dtype.block_weights() as usize / BLOCK_WEIGHTS).max(1);
    let bytes = dtype.block_bytes() as usize;
    let block = &row_bytes[block32_index / per_stored * bytes..][..bytes];
    let part = block32_index % per_stored;
    match dtype {
        DType::Q4_0 => centred(half_at(block, 0), nibbles(block, 2), 8),
        DType::Q5_0 => centred(half_at(block, 0), five_bits(block, 2), 16),
        DType::Q8_0 => {
            let q = std::array::from_fn(|j| block[2 + j] as i8);
            Block32 { q, sub: [1, 1], scale: half_at(block, 0), min: 0.0 }
        }
        DType::Q4_1 => with_min(half_at(block, 0), half_at(block, 2), nibbles(block, 4)),
        DType::Q5_1 => with_min(half_at(block, 0), half_at(block, 2), five_bits(block, 4)),
        DType::Q4_K => {
            let (scale, min) = k_scale_min(block, part);
            with_min(scale, min, k_nibbles(block, 16, part))
        }
        DType::Q5_K => {
            let (scale, min) = k_scale_min(block, part);
            let mut q = k_nibbles(block, 48, part);
            for (q, high) in q.iter_mut().zip(&block[16..48]) {
                *q |= (high >> part & 1) << 4;
            }
            with_min(scale, min, q)
        }
        DType::Q6_K => q6_k(block, part),
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} has no blocks"),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn centred(scale: f32, unsigned: [u8; 32], offset: i8) -> Block32 {
    Block32 { q: unsigned.map(|q| q as i8 - offset), sub: [1, 1], scale, min: 0.0 }
}

fn with_min(scale: f32, min: f32, unsigned: [u8; 32]) -> Block32 {
    Block32 { q: unsigned.map(|q| q as i8), sub: [1, 1], scale, min }
}

/// 16 bytes from `at`: weights 0..16 in the low nibbles, 16..32 in the high ones.
fn nibbles(block: &[u8], at: usize) -> [u8; 32] {
    let packed = &block[at..at + 16];
    std::array::from_fn(|j| packed[j % 16] >> (j / 16 * 4) & 15)
}

/// A 32-bit word at `at` with the fifth bits, then nibbles.
fn five_bits(block: &[u8], at: usize) -> [u8; 32] {
    let mut q = nibbles(block, at + 4);
    for (j, q) in q.iter_mut().enumerate() {
        *q |= (block[at + j / 8] >> (j % 8) & 1) << 4;
    }
    q
}

/// Block `part` of eight: pairs of blocks share 32 bytes, the even one in the low nibbles.
fn k_nibbles(block: &[u8], at: usize, part: usize) -> [u8; 32] {
    let packed = &block[at + part / 2 * 32..][..32];
    std::array::from_fn(|j| packed[j] >> (part % 2 * 4) & 15)
}

/// Scale and (negated) minimum of block `part` of a Q4_K or Q5_K block: two halves, then eight pairs of 6-bit factors in
/// 12 bytes. Factors 0..4 are the low six bits of bytes 0..4 (scales) and 4..8 (minima); factors 4..8 have their low four
/// bits in the nibbles of bytes 8..12 and their high two on top of bytes 0..8.
fn k_scale_min(block: &[u8], part: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (sc, m) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let low = packed[part + 4];
        (low & 15 | packed[part - 4] >> 6 << 4, low >> 4 | packed[part] >> 6 << 4)
    };
    (half_at(block, 0) * f32::from(sc), -(half_at(block, 2) * f32::from(m)))
}

/// Low nibbles in bytes 0..128, upper two bits in 128..192, 16 signed sub-scales in 192..208, the scale at 208. Each half
/// of 128 weights spreads its four blocks over 64 + 32 bytes.
fn q6_k(block: &[u8], part: usize) -> Block32 {
    let (half_index, quarter) = (part / 4, part % 4);
    let low = &block[half_index * 64 + quarter % 2 * 32..][..32];
    let high = &block[128 + half_index * 32..][..32];
    let q = std::array::from_fn(|j| {
        let low = low[j] >> (quarter / 2 * 4) & 15;
        let high = high[j] >> (quarter * 2) & 3;
        (low | high << 4) as i8 - 32
    });
    let sub = [0, 1].map(|i| i32::from(block[192 + part * 2 + i] as i8));
    Block32 { q, sub, scale: half_at(block, 208), min: 0.0 }
}
