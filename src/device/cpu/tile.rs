//! How weights lie in memory on this device: tiles of 16 rows, lane = row, so that a kernel needs no shuffle and no
//! horizontal sum.
//!
//! A quantised tile is a sequence of superblocks of 32 or 256 weights per row. A superblock is a head (16 scales, 16
//! minima for K-quants) and one record per 32 weights:
//!
//! | format | record: quants, then | scale of a row |
//! |---|---|---|
//! | Q4_0 | 256 B nibbles, 16 × f16 d | d, integers − 8 |
//! | Q4_1 | 256 B nibbles, 16 × f16 d, 16 × f16 m | d, minimum m |
//! | Q5_0, Q5_1 | as Q4, with 64 B of fifth bits after the nibbles | as Q4, − 16 |
//! | Q8_0 | 512 B of q + 128, 16 × f16 d | d, integers − 128 |
//! | Q4_K, Q5_K | as Q4/Q5, then 16 × u8 sc, 16 × u8 mn; head: 16 × f16 d, 16 × f16 dmin | d·sc, minimum −(dmin·mn) |
//! | Q6_K | 256 B nibbles, 128 B of bits 4–5, 2 × 16 × i8 sub-scales; head: 16 × f16 d | d, integers − 32 |
//!
//! Nibble vector g (64 B) holds, in lane r, weights `4g..4g+4` of row r in low nibbles and `4(g+4)..` in high ones.
//! F32 and F16 tiles are `[k][16 rows]`, BF16 tiles `[k / 2][16 rows]` pairs with k in a word's high half.

use crate::weights::{DType, unpack_block};

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Bytes of one record of 32 weights × 16 rows, without the superblock's head.
pub const fn record_bytes(dtype: DType) -> usize {
    match dtype {
        DType::Q4_0 => 256 + 32,
        DType::Q4_1 => 256 + 64,
        DType::Q5_0 => 256 + 64 + 32,
        DType::Q5_1 => 256 + 64 + 64,
        DType::Q8_0 => 512 + 32,
        DType::Q4_K => 256 + 32,
        DType::Q5_K => 256 + 64 + 32,
        DType::Q6_K => 256 + 128 + 32,
        DType::F32 => 32 * 64,
        DType::F16 | DType::BF16 => 32 * 32,
    }
}

/// Bytes of a superblock's head.
pub const fn head_bytes(dtype: DType) -> usize {
    match dtype {
        DType::Q4_K | DType::Q5_K => 64,
        DType::Q6_K => 32,
        _ => 0,
    }
}

/// Bytes of a tile of `cols` columns.
pub fn tile_bytes(dtype: DType, cols: usize) -> usize {
    match dtype {
        DType::F32 => return cols * TILE_ROWS * 4,
        DType::F16 => return cols * TILE_ROWS * 2,
        DType::BF16 => return cols.div_ceil(2) * TILE_ROWS * 4,
        _ => {}
    }
    let superblocks = cols / dtype.block_weights() as usize;
    superblocks * (head_bytes(dtype) + dtype.block_weights() as usize / 32 * record_bytes(dtype))
}

/// Packs up to 16 stored rows (`None` is a row of zeros) of `cols` weights into `out`, which is zeroed and
/// [`tile_bytes`] long.
pub fn pack_tile(dtype: DType, cols: usize, rows: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    assert_eq!(out.len(), tile_bytes(dtype, cols));
    if !dtype.is_quantised() {
        return pack_float(dtype, cols, rows, out);
    }
    let blocks_per_super = dtype.block_weights() as usize / 32;
    let super_bytes = head_bytes(dtype) + blocks_per_super * record_bytes(dtype);
    for (lane, row) in rows.iter().enumerate() {
        for block in 0..cols / 32 {
            let (superblock, sub) = (block / blocks_per_super, block % blocks_per_super);
            let at = superblock * super_bytes;
            let (head, records) = out[at..at + super_bytes].split_at_mut(head_bytes(dtype));
            let record = &mut records[sub * record_bytes(dtype)..][..record_bytes(dtype)];
            match row {
                Some(row) => {
                    let stored = &row[superblock * dtype.block_bytes() as usize..][..dtype.block_bytes() as usize];
                    pack_quants(dtype, &unpack_block(dtype, row, block).q, lane, record);
                    pack_scales(dtype, stored, sub, lane, head, record);
                }
                // A zero scale makes the row zero; the integers' offset then does not matter.
                None => pack_quants(dtype, &[0; 32], lane, record),
            }
        }
    }
}

/// What is subtracted from stored integers to give the signed ones, as a power of two.
pub const fn offset_shift(dtype: DType) -> Option<u32> {
    match dtype {
        DType::Q4_0 => Some(3),
        DType::Q5_0 => Some(4),
        DType::Q6_K => Some(5),
        DType::Q8_0 => Some(7),
        _ => None,
    }
}

fn pack_quants(dtype: DType, q: &[i8; 32], lane: usize, record: &mut [u8]) {
    let offset = offset_shift(dtype).map_or(0, |shift| 1 << shift);
    for (k, &q) in q.iter().enumerate() {
        let u = (i32::from(q) + offset) as u8;
        let (group, byte) = (k / 4, k % 4);
        if dtype == DType::Q8_0 {
            record[group * 64 + lane * 4 + byte] = u;
            continue;
        }
        record[group % 4 * 64 + lane * 4 + byte] |= (u & 15) << (4 * (group / 4));
        match dtype {
            // Bit `group` of byte `byte` is the fifth bit of weight 4·group + byte.
            DType::Q5_0 | DType::Q5_1 | DType::Q5_K => record[256 + lane * 4 + byte] |= (u >> 4) << group,
            DType::Q6_K => record[256 + group / 4 * 64 + lane * 4 + byte] |= (u >> 4) << (2 * (group % 4)),
            _ => {}
        }
    }
}

fn pack_scales(dtype: DType, stored: &[u8], sub: usize, lane: usize, head: &mut [u8], record: &mut [u8]) {
    let two = |at: usize| [stored[at], stored[at + 1]];
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => {
            let scales = record.len() - 32;
            record[scales + 2 * lane..][..2].copy_from_slice(&two(0));
        }
        DType::Q4_1 | DType::Q5_1 => {
            let scales = record.len() - 64;
            record[scales + 2 * lane..][..2].copy_from_slice(&two(0));
            record[scales + 32 + 2 * lane..][..2].copy_from_slice(&two(2));
        }
        DType::Q4_K | DType::Q5_K => {
            head[2 * lane..][..2].copy_from_slice(&two(0));
            head[32 + 2 * lane..][..2].copy_from_slice(&two(2));
            let (sc, mn) = k_scale_min(&stored[4..16], sub);
            let scales = record.len() - 32;
            record[scales + lane] = sc;
            record[scales + 16 + lane] = mn;
        }
        DType::Q6_K => {
            head[2 * lane..][..2].copy_from_slice(&two(208));
            let scales = record.len() - 32;
            record[scales + lane] = stored[192 + 2 * sub];
            record[scales + 16 + lane] = stored[192 + 2 * sub + 1];
        }
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("float tiles have no scales"),
    }
}

/// The 6-bit scale and minimum of sub-block `sub` (0..8) in the 12 packed bytes of Q4_K and Q5_K.
fn k_scale_min(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        (low & 15 | packed[sub - 4] >> 6 << 4, low >> 4 | packed[sub] >> 6 << 4)
    }
}

fn pack_float(dtype: DType, cols: usize, rows: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let bytes = dtype.block_bytes() as usize;
    for (lane, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        for k in 0..cols {
            let at = float_offset(dtype, k, lane);
            out[at..at + bytes].copy_from_slice(&row[k * bytes..(k + 1) * bytes]);
        }
    }
}

/// Where weight `k` of row `lane` lies in a float tile.
fn float_offset(dtype: DType, k: usize, lane: usize) -> usize {
    match dtype {
        DType::BF16 => (k / 2 * TILE_ROWS + lane) * 4 + 2 * (1 - k % 2),
        _ => (k * TILE_ROWS + lane) * dtype.block_bytes() as usize,
    }
}

/// Reads lane `lane` of a tile back as f32: how embedding rows leave a matrix that is also the head. The values
/// equal `weights::dequantise_row` of the stored row.
pub fn dequantise_lane(dtype: DType, cols: usize, tile: &[u8], lane: usize, out: &mut [f32]) {
    assert_eq!(tile.len(), tile_bytes(dtype, cols));
    let f16_at = |bytes: &[u8], at: usize| half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    if !dtype.is_quantised() {
        for (k, out) in out[..cols].iter_mut().enumerate() {
            let at = float_offset(dtype, k, lane);
            *out = match dtype {
                DType::F32 => f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]]),
                DType::F16 => f16_at(tile, at),
                _ => half::bf16::from_le_bytes([tile[at], tile[at + 1]]).to_f32(),
            };
        }
        return;
    }
    let blocks_per_super = dtype.block_weights() as usize / 32;
    let super_bytes = head_bytes(dtype) + blocks_per_super * record_bytes(dtype);
    for (block, out) in out[..cols].chunks_exact_mut(32).enumerate() {
        let superblock = &tile[block / blocks_per_super * super_bytes..][..super_bytes];
        let (head, records) = superblock.split_at(head_bytes(dtype));
        let record = &records[block % blocks_per_super * record_bytes(dtype)..][..record_bytes(dtype)];
        let scales = record.len() - 32;
        let (scale, min, sub) = match dtype {
            DType::Q4_1 | DType::Q5_1 => {
                (f16_at(record, scales - 32 + 2 * lane), Some(f16_at(record, scales + 2 * lane)), [1.0, 1.0])
            }
            DType::Q4_K | DType::Q5_K => {
                let scale = f16_at(head, 2 * lane) * f32::from(record[scales + lane]);
                let min = -(f16_at(head, 32 + 2 * lane) * f32::from(record[scales + 16 + lane]));
                (scale, Some(min), [1.0, 1.0])
            }
            DType::Q6_K => {
                let sub = [f32::from(record[scales + lane] as i8), f32::from(record[scales + 16 + lane] as i8)];
                (f16_at(head, 2 * lane), None, sub)
            }
            _ => (f16_at(record, scales + 2 * lane), None, [1.0, 1.0]),
        };
        for (k, out) in out.iter_mut().enumerate() {
            let product = scale * sub[k / 16] * f32::from(stored_integer(dtype, record, lane, k));
            *out = min.map_or(product, |min| product + min);
        }
    }
}

fn stored_integer(dtype: DType, record: &[u8], lane: usize, k: usize) -> i16 {
    let (group, byte) = (k / 4, k % 4);
    let offset = offset_shift(dtype).map_or(0, |shift| 1 << shift);
    if dtype == DType::Q8_0 {
        return i16::from(record[group * 64 + lane * 4 + byte]) - offset;
    }
    let nibble = record[group % 4 * 64 + lane * 4 + byte] >> (4 * (group / 4)) & 15;
    let high = match dtype {
        DType::Q5_0 | DType::Q5_1 | DType::Q5_K => record[256 + lane * 4 + byte] >> group & 1,
        DType::Q6_K => record[256 + group / 4 * 64 + lane * 4 + byte] >> (2 * (group % 4)) & 3,
        _ => 0,
    };
    i16::from(nibble | high << 4) - offset
}
