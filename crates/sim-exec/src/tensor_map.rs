//! Tensor maps: the 128 opaque bytes that `cuTensorMapEncodeTiled` makes and `cp.async.bulk.tensor` reads. Hardware's encoding is
//! not public; this one is the simulator's own, and a mark in it tells a map from other bytes.

/// `CUtensorMapSwizzle`: how the 16-byte chunks of a row move in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}

/// A tiled tensor in global memory and the box of it that one copy moves. Innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Of the first element, a multiple of 16.
    pub address: u64,
    pub element_bytes: u32,
    /// Elements in each dimension, 1 to 5 of them, each up to 2^32.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next in dimensions 1 and up: one fewer than `dims`, multiples of 16.
    pub strides_bytes: Vec<u64>,
    /// Elements of the box in each dimension, up to 256.
    pub box_dims: Vec<u32>,
    /// Every how many elements one is taken, up to 8.
    pub element_strides: Vec<u32>,
    pub swizzle: Swizzle,
    /// Elements outside the tensor read as NaN instead of zero.
    pub fills_nan: bool,
    /// `CUtensorMapDataType` as given, for reductions.
    pub data_type: u32,
}

const MARK: u64 = 0x4b54_4d31;

impl TensorMap {
    /// The 128 bytes.
    pub fn encode(&self) -> [u64; 16] {
        let rank = self.dims.len();
        assert!(
            (1..=5).contains(&rank) && self.strides_bytes.len() == rank - 1,
            "rank {rank} and its strides disagree"
        );
        let mut words = [0; 16];
        words[0] = self.address;
        words[1] = MARK
            | (rank as u64) << 32
            | u64::from(self.element_bytes) << 36
            | (self.swizzle as u64) << 44
            | u64::from(self.fills_nan) << 48
            | u64::from(self.data_type) << 52;
        for i in 0..rank {
            words[2 + i] =
                (self.dims[i] - 1) | u64::from(self.box_dims[i]) << 32 | u64::from(self.element_strides[i]) << 48;
        }
        words[7..7 + rank - 1].copy_from_slice(&self.strides_bytes);
        words
    }

    /// Reads 128 bytes; `None` if they are no tensor map.
    pub fn decode(words: &[u64; 16]) -> Option<Self> {
        let head = words[1];
        let rank = (head >> 32 & 15) as usize;
        if head & 0xffff_ffff != MARK || !(1..=5).contains(&rank) {
            return None;
        }
        let dims = &words[2..2 + rank];
        Some(TensorMap {
            address: words[0],
            element_bytes: (head >> 36 & 255) as u32,
            dims: dims.iter().map(|w| (w & 0xffff_ffff) + 1).collect(),
            strides_bytes: words[7..7 + rank - 1].to_vec(),
            box_dims: dims.iter().map(|w| (w >> 32 & 0xffff) as u32).collect(),
            element_strides: dims.iter().map(|w| (w >> 48) as u32).collect(),
            swizzle: [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128][(head >> 44 & 3) as usize],
            fills_nan: head >> 48 & 1 != 0,
            data_type: (head >> 52 & 255) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_survive_encoding() {
        for rank in 1..=5usize {
            let map = TensorMap {
                address: 0x7_0000_0010 * rank as u64,
                element_bytes: 2,
                dims: (0..rank as u64).map(|i| (1 << 32) - i * 1000).collect(),
                strides_bytes: (1..rank as u64).map(|i| (1 << 40) - 16 * i).collect(),
                box_dims: (0..rank as u32).map(|i| 256 - i).collect(),
                element_strides: (0..rank as u32).map(|i| 8 - i).collect(),
                swizzle: [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128][rank % 4],
                fills_nan: rank % 2 == 0,
                data_type: 6 + rank as u32,
            };
            assert_eq!(TensorMap::decode(&map.encode()), Some(map));
        }
        assert_eq!(TensorMap::decode(&[0; 16]), None);
    }
}
