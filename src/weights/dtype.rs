//! The number formats of stored weights: their names, their GGML type numbers and the size of their blocks.

/// A storage format of weights. Quantised formats store blocks of 32 or 256 consecutive weights of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl DType {
    /// Every supported format.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// (name, GGML type number, weights per block, bytes per block)
    const fn facts(self) -> (&'static str, u32, u32, u32) {
        match self {
            DType::F32 => ("F32", 0, 1, 4),
            DType::F16 => ("F16", 1, 1, 2),
            DType::Q4_0 => ("Q4_0", 2, 32, 18),
            DType::Q4_1 => ("Q4_1", 3, 32, 20),
            DType::Q5_0 => ("Q5_0", 6, 32, 22),
            DType::Q5_1 => ("Q5_1", 7, 32, 24),
            DType::Q8_0 => ("Q8_0", 8, 32, 34),
            DType::Q4_K => ("Q4_K", 12, 256, 144),
            DType::Q5_K => ("Q5_K", 13, 256, 176),
            DType::Q6_K => ("Q6_K", 14, 256, 210),
            DType::BF16 => ("BF16", 30, 1, 2),
        }
    }

    /// The field's name for the format, as llama.cpp prints it.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The number that GGUF files store for the format.
    pub const fn ggml_type(self) -> u32 {
        self.facts().1
    }

    /// The format that a GGUF file calls `number`, if kiln reads it.
    pub fn from_ggml_type(number: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.ggml_type() == number)
    }

    /// Weights per block: 1, 32 or 256. A row's length is a multiple of it.
    pub const fn block_weights(self) -> u32 {
        self.facts().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> u32 {
        self.facts().3
    }

    /// Whether blocks hold integers with scales, to be met by int8 activations.
    pub const fn is_quantised(self) -> bool {
        self.block_weights() > 1
    }

    /// Bytes of a row of `cols` weights; `None` if `cols` is no multiple of the block or the product overflows.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        let block = u64::from(self.block_weights());
        if !cols.is_multiple_of(block) {
            return None;
        }
        (cols / block).checked_mul(u64::from(self.block_bytes()))
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
