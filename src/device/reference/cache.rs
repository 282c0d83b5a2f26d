//! The paged cache in its logical layout: per layer `[block][position in block][kv head][dimension]`.

use std::ops::Range;

use half::f16;

use crate::device::host::HostMemory;
use crate::device::quant::{cached_f16, quantise_head};
use crate::device::{BlockCopy, DeviceError, KvCacheDType, Limits, Purpose};
use crate::ids::BlockId;
use crate::model::{KvShape, Program};

/// Keys or values.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Keys,
    Values,
}

#[derive(Debug)]
pub struct Cache {
    layers: Vec<Layer>,
    block_tokens: usize,
}

#[derive(Debug, Default)]
struct Layer {
    /// Elements of one position: all KV heads.
    row: usize,
    keys: Arena,
    values: Arena,
}

/// All keys, or all values, of a layer.
#[derive(Debug)]
enum Arena {
    F16(Vec<f16>),
    /// With a scale for every head of `head_dim` elements.
    Int8 {
        integers: Vec<i8>,
        scales: Vec<f32>,
        head_dim: usize,
    },
}

impl Cache {
    /// The arena of all layers that `program` mentions.
    pub fn new(program: &Program, limits: &Limits, host: &mut HostMemory) -> Result<Cache, DeviceError> {
        let block_tokens = limits.block_tokens as usize;
        let mut layer = |shape: Option<KvShape>| {
            let Some(KvShape { num_kv_heads, head_dim }) = shape else { return Ok(Layer::default()) };
            let row = num_kv_heads as usize * head_dim as usize;
            let elements = (limits.num_blocks as usize).saturating_mul(block_tokens * row);
            let mut arena = || Arena::new(host, limits.kv_cache_dtype, elements, head_dim as usize);
            Ok(Layer { row, keys: arena()?, values: arena()? })
        };
        let layers = program.kv_shapes().into_iter().map(&mut layer).collect::<Result<_, DeviceError>>()?;
        Ok(Cache { layers, block_tokens })
    }

    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|l| l.keys.bytes() + l.values.bytes()).sum::<usize>() as u64
    }

    /// Elements of one position of `layer`; `None` for a layer without a cache.
    pub fn row_len(&self, layer: u32) -> Option<usize> {
        self.layers.get(layer as usize).map(|l| l.row).filter(|row| *row > 0)
    }

    /// The row of `position`, all KV heads.
    pub fn read(&self, part: Part, layer: u32, table: &[BlockId], position: usize) -> Vec<f32> {
        let at = self.offset(layer, table, position);
        let layer = &self.layers[layer as usize];
        let arena = match part {
            Part::Keys => &layer.keys,
            Part::Values => &layer.values,
        };
        arena.read(at..at + layer.row)
    }

    /// Stores the row of `position`, rounded to the cache's type.
    pub fn write(&mut self, part: Part, layer: u32, table: &[BlockId], position: usize, row: &[f32]) {
        let at = self.offset(layer, table, position);
        let layer = &mut self.layers[layer as usize];
        let arena = match part {
            Part::Keys => &mut layer.keys,
            Part::Values => &mut layer.values,
        };
        arena.write(at, row);
    }

    pub fn copy(&mut self, copy: &BlockCopy) {
        for layer in &mut self.layers {
            let block = self.block_tokens * layer.row;
            let (from, to) = (copy.from.index() * block, copy.to.index() * block);
            layer.keys.copy(from..from + block, to);
            layer.values.copy(from..from + block, to);
        }
    }

    fn offset(&self, layer: u32, table: &[BlockId], position: usize) -> usize {
        let block = table[position / self.block_tokens].index();
        (block * self.block_tokens + position % self.block_tokens) * self.layers[layer as usize].row
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::F16(Vec::new())
    }
}

/// Ranges are of elements, and hold whole heads.
impl Arena {
    fn new(host: &mut HostMemory, dtype: KvCacheDType, elements: usize, head_dim: usize) -> Result<Arena, DeviceError> {
        const PURPOSE: Purpose = Purpose::KvArena;
        Ok(match dtype {
            KvCacheDType::F16 => Arena::F16(host.zeros(PURPOSE, elements)?),
            KvCacheDType::Int8 => {
                let integers = host.zeros(PURPOSE, elements)?;
                Arena::Int8 { integers, scales: host.zeros(PURPOSE, elements / head_dim)?, head_dim }
            }
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Arena::F16(values) => size_of_val(&values[..]),
            Arena::Int8 { integers, scales, .. } => size_of_val(&integers[..]) + size_of_val(&scales[..]),
        }
    }

    fn read(&self, range: Range<usize>) -> Vec<f32> {
        match self {
            Arena::F16(values) => values[range].iter().map(|x| x.to_f32()).collect(),
            Arena::Int8 { integers, scales, head_dim } => {
                range.map(|i| f32::from(integers[i]) * scales[i / head_dim]).collect()
            }
        }
    }

    fn write(&mut self, at: usize, row: &[f32]) {
        match self {
            Arena::F16(values) => values[at..].iter_mut().zip(row).for_each(|(out, x)| *out = cached_f16(*x)),
            Arena::Int8 { integers, scales, head_dim } => {
                let heads = integers[at..].chunks_exact_mut(*head_dim).zip(&mut scales[at / *head_dim..]);
                for ((integers, scale), x) in heads.zip(row.chunks_exact(*head_dim)) {
                    *scale = quantise_head(x, integers);
                }
            }
        }
    }

    fn copy(&mut self, from: Range<usize>, to: usize) {
        match self {
            Arena::F16(values) => values.copy_within(from, to),
            Arena::Int8 { integers, scales, head_dim } => {
                scales.copy_within(from.start / *head_dim..from.end / *head_dim, to / *head_dim);
                integers.copy_within(from, to);
            }
        }
    }
}
