//! What a KV cache keeps of keys and values, and the bytes that takes.

/// The type of a cache's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCacheDType {
    /// Rounded to nearest even.
    #[default]
    F16,
    /// Integers with one f32 scale per token and KV head, frozen when they are written (`device/quant.rs`).
    Int8,
}

/// What a layer caches of a token: so many keys and as many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub num_kv_heads: u32,
    pub head_dim: u32,
}

impl KvCacheDType {
    pub fn name(self) -> &'static str {
        match self {
            KvCacheDType::F16 => "f16",
            KvCacheDType::Int8 => "int8",
        }
    }

    /// Bytes of one token's key (or value) of one KV head.
    pub fn head_bytes(self, head_dim: u32) -> u64 {
        match self {
            KvCacheDType::F16 => 2 * u64::from(head_dim),
            KvCacheDType::Int8 => u64::from(head_dim) + 4,
        }
    }
}
