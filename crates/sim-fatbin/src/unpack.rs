//! Decompression with a limit.

use std::io::Read;

use crate::FatbinError;

/// Largest unpacked entry, in bytes. A fatbin's PTX is a few MiB; without a limit a small image could ask for any size.
pub const UNPACKED_BYTES_MAX: u64 = 256 << 20;

const FLAG_ZSTD: u64 = 0x8000;
const FLAG_LZ4: u64 = 0x2000;

/// The bytes of an entry at `offset` of the container, with its `flags` and stated unpacked size.
pub fn unpack(body: &[u8], flags: u64, unpacked_bytes: u64, offset: u64) -> Result<Vec<u8>, FatbinError> {
    if flags & (FLAG_ZSTD | FLAG_LZ4) == 0 {
        return Ok(body.to_vec());
    }
    if unpacked_bytes > UNPACKED_BYTES_MAX {
        return Err(FatbinError::TooLarge { offset, found: unpacked_bytes, max: UNPACKED_BYTES_MAX });
    }
    let method = if flags & FLAG_ZSTD != 0 { "zstd" } else { "LZ4" };
    let broken = |reason: String| FatbinError::Compression { offset, method, reason };
    let data = if flags & FLAG_ZSTD != 0 {
        unzstd(body, unpacked_bytes).map_err(broken)?
    } else {
        // LZ4 grows its input by less than 256 times, so that a lying size cannot make a small image take much memory.
        if unpacked_bytes / 256 > body.len() as u64 {
            return Err(broken(format!("{} bytes cannot hold {unpacked_bytes}", body.len())));
        }
        lz4_flex::block::decompress(body, unpacked_bytes as usize).map_err(|e| broken(e.to_string()))?
    };
    if data.len() as u64 != unpacked_bytes {
        return Err(broken(format!("{} bytes unpacked, the entry states {unpacked_bytes}", data.len())));
    }
    Ok(data)
}

/// Reads at most one byte more than stated, so that a lying stream is noticed and costs nothing.
fn unzstd(body: &[u8], unpacked_bytes: u64) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(body).map_err(|e| e.to_string())?;
    let mut data = Vec::new();
    decoder.take(unpacked_bytes + 1).read_to_end(&mut data).map_err(|e| e.to_string())?;
    Ok(data)
}
