//! The paged cache: where keys and values lie, and how they are stored and loaded.
//!
//! One arena, `[block][layer][kv head]{keys, values}`: keys `[16-key group][head_dim][16]` (lanes = keys), values `[position in
//! block][head_dim padded to 16]` (lanes = dimensions). In an int8 cache, keys and values are each followed by their scales, `[position in
//! block]` f32. All layers of a block are neighbours, so that a short context touches little memory and a block is copied in one piece.
// SAFETY, for this file: kernels are `unsafe fn`s whose callers vouch for the pointers (they come from `prepare`'s buffers and
// `plan`'s offsets) and for the instruction set (`IsaPath::available`). Blocks inside only pass that on.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use half::f16;

use crate::device::host::HostMemory;
use crate::device::quant::Quantiser;
use crate::device::{BlockCopy, DeviceError, KvCacheDType, Limits, Purpose};
use crate::ids::BlockId;
use crate::model::Program;

use super::plan::padded;
use super::shared::Shared;
use super::simd::{Isa, LANES};

/// The cache of all layers.
#[derive(Debug)]
pub struct KvArena {
    pub data: Shared,
    pub layers: Vec<KvLayer>,
    pub dtype: KvCacheDType,
    pub block_tokens: usize,
    /// From one block to the next.
    pub block_bytes: usize,
}

/// One layer's place in every block of the arena. Places are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct KvLayer {
    /// From the block's start.
    pub offset: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// From one KV head, which starts with its keys, to the next.
    pub head_stride: usize,
    /// From a KV head's start.
    pub values: usize,
    pub key_scales: usize,
    pub value_scales: usize,
}

impl KvLayer {
    fn new(dtype: KvCacheDType, block_tokens: usize, offset: usize, num_kv_heads: usize, head_dim: usize) -> KvLayer {
        let (cell_bytes, scale_bytes) = match dtype {
            KvCacheDType::F16 => (F16::BYTES, 0),
            KvCacheDType::Int8 => (Int8::BYTES, size_of::<f32>()),
        };
        let key_scales = block_tokens * head_dim * cell_bytes;
        let values = key_scales + block_tokens * scale_bytes;
        let value_scales = values + block_tokens * padded(head_dim) * cell_bytes;
        let head_stride = value_scales + block_tokens * scale_bytes;
        KvLayer { offset, num_kv_heads, head_dim, head_stride, values, key_scales, value_scales }
    }
}

impl KvArena {
    /// The arena of all layers that `program` mentions.
    pub fn new(program: &Program, limits: &Limits, host: &mut HostMemory) -> Result<KvArena, DeviceError> {
        let (dtype, block_tokens) = (limits.kv_cache_dtype, limits.block_tokens as usize);
        let mut block_bytes = 0;
        let layers = program.kv_shapes().into_iter().map(|shape| {
            let (num_kv_heads, head_dim) = shape.map_or((0, 0), |s| (s.num_kv_heads as usize, s.head_dim as usize));
            let layer = KvLayer::new(dtype, block_tokens, block_bytes, num_kv_heads, head_dim);
            block_bytes += num_kv_heads * layer.head_stride;
            layer
        });
        let layers = layers.collect();
        let data = Shared::new(host, Purpose::KvArena, block_bytes as u64 * u64::from(limits.num_blocks))?;
        Ok(KvArena { data, layers, dtype, block_tokens, block_bytes })
    }

    /// Copies a block, all layers.
    pub fn copy(&mut self, copy: &BlockCopy) {
        let bytes = self.block_bytes;
        let (from, to) = (copy.from.index() * bytes, copy.to.index() * bytes);
        self.data.as_mut_slice().copy_within(from..from + bytes, to);
    }

    /// The place of a position of a sequence with these blocks.
    pub fn slot(&self, layer: &KvLayer, kv_head: usize, block_table: &[BlockId], position: usize) -> KvSlot {
        let block = block_table[position / self.block_tokens].index();
        let offset = block * self.block_bytes + layer.offset + kv_head * layer.head_stride;
        assert!(offset + layer.head_stride <= self.data.bytes() as usize);
        // SAFETY: inside the arena.
        let head = unsafe { self.data.ptr::<u8>().add(offset) };
        KvSlot { head, layer: *layer, slot: position % self.block_tokens }
    }
}

/// One position of one KV head in one block.
#[derive(Clone, Copy, Debug)]
pub struct KvSlot {
    /// The KV head's start.
    head: *mut u8,
    layer: KvLayer,
    slot: usize,
}

impl KvSlot {
    /// Elements of the 16-key group up to the key's first one.
    fn key_index(&self) -> usize {
        self.slot / LANES * LANES * self.layer.head_dim + self.slot % LANES
    }

    fn value_index(&self) -> usize {
        self.slot * padded(self.layer.head_dim)
    }

    /// Dimension `dim` of the key, in the device's order.
    pub unsafe fn key(&self, dtype: KvCacheDType, dim: usize) -> f32 {
        unsafe { self.element(dtype, self.head, self.key_index() + dim * LANES, self.layer.key_scales) }
    }

    /// Dimension `dim` of the value.
    pub unsafe fn value(&self, dtype: KvCacheDType, dim: usize) -> f32 {
        let values = unsafe { self.head.add(self.layer.values) };
        unsafe { self.element(dtype, values, self.value_index() + dim, self.layer.value_scales) }
    }

    unsafe fn element(&self, dtype: KvCacheDType, cells: *const u8, index: usize, scales: usize) -> f32 {
        unsafe {
            match dtype {
                KvCacheDType::F16 => cells.cast::<f16>().add(index).read().to_f32(),
                KvCacheDType::Int8 => f32::from(cells.cast::<i8>().add(index).read()) * *self.scale(scales),
            }
        }
    }

    unsafe fn scale(&self, scales: usize) -> *mut f32 {
        unsafe { self.head.add(scales).cast::<f32>().add(self.slot) }
    }
}

/// What a cache keeps of an element.
pub trait Cell {
    const BYTES: usize;
    /// Whether what [`Cell::load`] gives is to be multiplied by a scale.
    const IS_SCALED: bool;

    /// Sixteen neighbours.
    unsafe fn load<I: Isa>(cells: *const u8) -> I::F;

    /// Stores a key head, dimensions in the device's order, padded to lanes.
    unsafe fn store_key<I: Isa>(x: &[f32], to: &KvSlot);

    /// Stores a value head, padding included.
    unsafe fn store_value<I: Isa>(x: &[f32], to: &KvSlot);
}

#[derive(Clone, Copy, Debug)]
pub struct F16;

impl Cell for F16 {
    const BYTES: usize = 2;
    const IS_SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<I: Isa>(cells: *const u8) -> I::F {
        unsafe { I::load_f16(cells.cast()) }
    }

    #[inline(always)]
    unsafe fn store_key<I: Isa>(x: &[f32], to: &KvSlot) {
        unsafe {
            let (out, head_dim) = (to.head.cast::<u16>().add(to.key_index()), to.layer.head_dim);
            for d in (0..head_dim).step_by(LANES) {
                let mut lanes = [0u16; LANES];
                I::store_f16(lanes.as_mut_ptr(), I::load(x.as_ptr().add(d)));
                for (i, bits) in lanes.iter().enumerate().take(head_dim - d) {
                    // As `quant::cached_f16`. Infinite values need no such care: their products are never finite.
                    *out.add((d + i) * LANES) = if bits & 0x7fff >= 0x7c00 { 0x7e00 } else { *bits };
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store_value<I: Isa>(x: &[f32], to: &KvSlot) {
        unsafe {
            let out = to.head.add(to.layer.values).cast::<u16>().add(to.value_index());
            for d in (0..x.len()).step_by(LANES) {
                I::store_f16(out.add(d), I::load(x.as_ptr().add(d)));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Int8;

impl Cell for Int8 {
    const BYTES: usize = 1;
    const IS_SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<I: Isa>(cells: *const u8) -> I::F {
        unsafe { I::int_to_f(I::int_load_i8(cells)) }
    }

    #[inline(always)]
    unsafe fn store_key<I: Isa>(x: &[f32], to: &KvSlot) {
        unsafe {
            let x = &x[..to.layer.head_dim];
            let (out, quantiser) = (to.head.cast::<i8>().add(to.key_index()), Quantiser::of_head(x));
            *to.scale(to.layer.key_scales) = quantiser.scale;
            for (d, x) in x.iter().enumerate() {
                *out.add(d * LANES) = quantiser.integer(*x);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_value<I: Isa>(x: &[f32], to: &KvSlot) {
        unsafe {
            let out = to.head.add(to.layer.values).cast::<i8>().add(to.value_index());
            let quantiser = Quantiser::of_head(x);
            *to.scale(to.layer.value_scales) = quantiser.scale;
            for (d, x) in x.iter().enumerate() {
                *out.add(d) = quantiser.integer(*x);
            }
        }
    }
}
