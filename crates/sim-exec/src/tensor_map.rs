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

/// A part of a box that is contiguous in global and in shared memory, or that lies outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in shared memory.
    pub shared: u32,
    /// `None` outside the tensor.
    pub global: Option<u64>,
    pub bytes: u32,
}

/// A field that `tensormap.replace` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapField {
    Address,
    Rank,
    BoxDim(usize),
    Dim(usize),
    Stride(usize),
    ElementStride(usize),
    ElementType,
    Swizzle,
    Fill,
    Interleave,
}

impl MapField {
    /// Whether the field belongs to one dimension.
    pub fn has_ordinal(name: &str) -> bool {
        matches!(name, "box_dim" | "global_dim" | "global_stride" | "element_stride")
    }

    /// The field that PTX calls so.
    pub fn named(name: &str, ordinal: usize) -> Option<Self> {
        let field = match name {
            "global_address" => MapField::Address,
            "rank" => MapField::Rank,
            "box_dim" => MapField::BoxDim(ordinal),
            "global_dim" => MapField::Dim(ordinal),
            "global_stride" => MapField::Stride(ordinal),
            "element_stride" => MapField::ElementStride(ordinal),
            "elemtype" => MapField::ElementType,
            "swizzle_mode" => MapField::Swizzle,
            "fill_mode" => MapField::Fill,
            "interleave_layout" => MapField::Interleave,
            _ => return None,
        };
        let ordinals = if name == "global_stride" { 4 } else { 5 };
        (ordinal < ordinals).then_some(field)
    }
}

/// Bytes of an element of each `CUtensorMapDataType`: u8, u16, u32, s32, u64, s64, f16, f32, f64, bf16, f32 without subnormals,
/// tf32, tf32 without subnormals.
const ELEMENT_BYTES: [u32; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];
/// The `CUtensorMapDataType` of the numbers that `tensormap.replace` takes (PTX ISA, "tensormap.replace"): f64, bf16 and f32 without
/// subnormals come in another order.
const REPLACED_TYPES: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12];

const MARK: u64 = 0x4b54_4d31;

/// Sets `bits` bits from `shift` on.
fn set_bits(word: &mut u64, shift: u32, bits: u32, value: u64) {
    let mask = ((1 << bits) - 1) << shift;
    *word = *word & !mask | value << shift & mask;
}

/// Changes one field of 128 bytes, which may be all zero at first: a map can be made field by field.
///
/// # Errors
/// Says which values the field takes.
pub fn replace(words: &mut [u64; 16], field: MapField, value: u64) -> Result<(), String> {
    let one_of = |count: u64, what: &str| {
        if value < count { Ok(value) } else { Err(format!("{what} {value}, expected less than {count}")) }
    };
    set_bits(&mut words[1], 0, 32, MARK);
    match field {
        MapField::Address => words[0] = value,
        MapField::Rank => set_bits(&mut words[1], 32, 4, one_of(5, "rank, which counts from 0,")? + 1),
        // PTX has 32 bits for the size: 2^32 cannot be said.
        MapField::Dim(i) => set_bits(&mut words[2 + i], 0, 32, (value & 0xffff_ffff).wrapping_sub(1)),
        MapField::BoxDim(i) => set_bits(&mut words[2 + i], 32, 16, value),
        MapField::ElementStride(i) => set_bits(&mut words[2 + i], 48, 16, value),
        MapField::Stride(i) => words[7 + i] = value,
        MapField::ElementType => {
            let ty = REPLACED_TYPES[one_of(13, "element type")? as usize];
            set_bits(&mut words[1], 36, 8, ELEMENT_BYTES[ty as usize].into());
            set_bits(&mut words[1], 52, 8, ty.into());
        }
        MapField::Swizzle => set_bits(&mut words[1], 44, 4, one_of(4, "swizzle")?),
        MapField::Fill => set_bits(&mut words[1], 48, 4, one_of(2, "fill mode")?),
        MapField::Interleave => drop(one_of(1, "interleaved layouts are not simulated:")?),
    }
    Ok(())
}

impl Swizzle {
    /// Bytes after which the pattern of chunks begins anew inside a row, and the most that a row can have.
    fn span_bytes(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Where the byte that belongs at `offset` of shared memory goes: the lowest bits of its 16-byte chunk's number are
    /// exclusive-ored with those of the number of its 128-byte line.
    pub fn apply(self, offset: u32) -> u32 {
        let chunks = self.span_bytes() / 16;
        offset ^ (offset >> 7 & chunks.saturating_sub(1)) << 4
    }
}

impl TensorMap {
    /// Elements that a copy takes in each dimension.
    pub fn taken(&self) -> Vec<u32> {
        // Strides of the innermost dimension are ignored without an interleaved layout.
        let strides = std::iter::once(&1).chain(&self.element_strides[1..]);
        self.box_dims.iter().zip(strides).map(|(n, stride)| n.div_ceil(*stride)).collect()
    }

    /// Whether the fields make sense together; made field by field they may not.
    pub fn is_usable(&self) -> bool {
        let box_bytes = self.box_dims.iter().try_fold(u64::from(self.element_bytes), |n, &d| n.checked_mul(d.into()));
        let row_bytes = self.box_dims[0] * self.element_bytes;
        // What fits no shared memory is no box.
        box_bytes.is_some_and(|n| (1..1 << 20).contains(&n))
            && row_bytes.is_multiple_of(16)
            && (self.swizzle == Swizzle::None || row_bytes <= self.swizzle.span_bytes())
            && self.address.is_multiple_of(16)
            && self.strides_bytes.iter().all(|s| s.is_multiple_of(16))
            && self.element_strides[1..].iter().all(|s| (1..=8).contains(s))
    }

    /// Bytes of the box's elements: what a copy counts at its mbarrier.
    pub fn box_bytes(&self) -> u32 {
        self.taken().iter().product::<u32>() * self.element_bytes
    }

    /// Bytes from one row of the box to the next in shared memory: rows narrower than the swizzle leave a gap.
    fn pitch_bytes(&self) -> u32 {
        (self.box_dims[0] * self.element_bytes).max(self.swizzle.span_bytes())
    }

    /// Bytes of shared memory from the box's first to its last.
    pub fn shared_bytes(&self) -> u32 {
        self.taken()[1..].iter().product::<u32>() * self.pitch_bytes()
    }

    /// The box that begins at element `start`, in pieces; `shared` is its first offset in shared memory, a multiple of 128.
    pub fn pieces(&self, start: &[i32], shared: u32) -> Vec<Piece> {
        let taken = self.taken();
        let element_bytes = self.element_bytes;
        let (first, wide) = (i64::from(start[0]), i64::from(taken[0]));
        // Of a row's elements those from `inside.0` to `inside.1` lie in the tensor.
        let inside = ((-first).clamp(0, wide) as u32, (self.dims[0] as i64 - first).clamp(0, wide) as u32);
        let mut pieces = Vec::new();
        for row in 0..taken[1..].iter().product::<u32>() {
            let at = shared + row * self.pitch_bytes();
            let base = self.row_address(row, start, &taken);
            let (from, to) = if base.is_some() && inside.0 < inside.1 { inside } else { (taken[0], taken[0]) };
            for (from, to, is_inside) in [(0, from, false), (from, to, true), (to, taken[0], false)] {
                let address = |element: u32| {
                    let base = base.filter(|_| is_inside)?;
                    Some(base.wrapping_add_signed((first + i64::from(element)) * i64::from(element_bytes)))
                };
                let range = (at + from * element_bytes, (to - from) * element_bytes);
                self.add_pieces(&mut pieces, range, address(from));
            }
        }
        pieces
    }

    /// The address of element 0 of a row of the box; `None` outside the tensor.
    fn row_address(&self, row: u32, start: &[i32], taken: &[u32]) -> Option<u64> {
        let mut rest = row;
        let mut address = self.address;
        for i in 1..self.dims.len() {
            let step = rest % taken[i] * self.element_strides[i];
            rest /= taken[i];
            let coordinate = u64::try_from(i64::from(start[i]) + i64::from(step)).ok().filter(|c| *c < self.dims[i])?;
            address = address.wrapping_add(coordinate.wrapping_mul(self.strides_bytes[i - 1]));
        }
        Some(address)
    }

    /// Bytes that are contiguous but for the swizzle.
    fn add_pieces(&self, pieces: &mut Vec<Piece>, (from, bytes): (u32, u32), global: Option<u64>) {
        let end = from + bytes;
        let mut at = from;
        while at < end {
            let next = if self.swizzle == Swizzle::None { end } else { end.min((at / 16 + 1) * 16) };
            let global = global.map(|g| g + u64::from(at - from));
            pieces.push(Piece { shared: self.swizzle.apply(at), global, bytes: next - at });
            at = next;
        }
    }

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

    #[test]
    fn maps_are_made_field_by_field() {
        let map = TensorMap {
            address: 0x7_0000_0100,
            element_bytes: 2,
            dims: vec![100, 60],
            strides_bytes: vec![208],
            box_dims: vec![64, 8],
            element_strides: vec![1, 2],
            swizzle: Swizzle::Bytes128,
            fills_nan: true,
            data_type: 9,
        };
        let fields = [
            ("swizzle_mode", 0, 3),
            ("global_address", 0, 0x7_0000_0100),
            ("rank", 0, 1),
            ("box_dim", 0, 64),
            ("box_dim", 1, 8),
            ("global_dim", 1, 60),
            ("global_dim", 0, 100),
            ("global_stride", 0, 208),
            ("element_stride", 0, 1),
            ("element_stride", 1, 2),
            // bf16 has another number here than in CUtensorMapDataType.
            ("elemtype", 0, 10),
            ("interleave_layout", 0, 0),
            ("fill_mode", 0, 1),
        ];
        for from in [[0; 16], TensorMap { address: 16, dims: vec![1, 1], ..map.clone() }.encode()] {
            let mut words = from;
            for (name, ordinal, value) in fields {
                let field = MapField::named(name, ordinal).expect("a field");
                replace(&mut words, field, value).expect("a value");
            }
            assert_eq!(TensorMap::decode(&words), Some(map.clone()));
        }
        assert!(map.is_usable());
        for (name, value) in
            [("rank", 5), ("elemtype", 13), ("swizzle_mode", 4), ("fill_mode", 2), ("interleave_layout", 1)]
        {
            let field = MapField::named(name, 0).expect("a field");
            assert!(replace(&mut map.encode(), field, value).is_err(), "{name} {value}");
        }
        assert_eq!(MapField::named("global_stride", 4), None);
        assert!(!TensorMap { element_strides: vec![1, 0], ..map.clone() }.is_usable());
        assert!(!TensorMap { box_dims: vec![128, 8], ..map }.is_usable());
    }
}
