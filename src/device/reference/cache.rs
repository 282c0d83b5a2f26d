//! The paged cache in its logical layout: per layer `[block][position in block][kv head][dimension]`, f16.

use half::f16;

use crate::device::{BlockCopy, DeviceError, Limits};
use crate::ids::BlockId;
use crate::model::{Epilogue, Program, StageOp};

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
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl Cache {
    /// The arena of all layers that `program` mentions.
    pub fn new(program: &Program, limits: &Limits) -> Result<Cache, DeviceError> {
        let block_tokens = limits.block_tokens as usize;
        let mut layers: Vec<Layer> = (0..program.num_layers()).map(|_| Layer::default()).collect();
        for op in &program.ops {
            let (layer, heads, head_dim) = match op {
                StageOp::Attend(op) => (op.layer, op.num_kv_heads, op.head_dim),
                StageOp::Linear(op) => match &op.epilogue {
                    Epilogue::Qkv(qkv) => (op.layer, qkv.num_kv_heads, qkv.head_dim),
                    _ => continue,
                },
                StageOp::Embed(_) => continue,
            };
            let row = heads as usize * head_dim as usize;
            let elements = limits.num_blocks as usize * block_tokens * row;
            layers[layer as usize] = Layer { row, keys: arena(elements)?, values: arena(elements)? };
        }
        Ok(Cache { layers, block_tokens })
    }

    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|l| size_of_val(&l.keys[..]) + size_of_val(&l.values[..])).sum::<usize>() as u64
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
        arena[at..at + layer.row].iter().map(|x| x.to_f32()).collect()
    }

    /// Stores the row of `position`, rounded to f16, ties to even.
    pub fn write(&mut self, part: Part, layer: u32, table: &[BlockId], position: usize, row: &[f32]) {
        let at = self.offset(layer, table, position);
        let layer = &mut self.layers[layer as usize];
        let arena = match part {
            Part::Keys => &mut layer.keys,
            Part::Values => &mut layer.values,
        };
        arena[at..at + layer.row].iter_mut().zip(row).for_each(|(out, x)| *out = f16::from_f32(*x));
    }

    pub fn copy(&mut self, copy: &BlockCopy) {
        for layer in &mut self.layers {
            let block = self.block_tokens * layer.row;
            let (from, to) = (copy.from.index() * block, copy.to.index() * block);
            layer.keys.copy_within(from..from + block, to);
            layer.values.copy_within(from..from + block, to);
        }
    }

    fn offset(&self, layer: u32, table: &[BlockId], position: usize) -> usize {
        let block = table[position / self.block_tokens].index();
        (block * self.block_tokens + position % self.block_tokens) * self.layers[layer as usize].row
    }
}

fn arena(elements: usize) -> Result<Vec<f16>, DeviceError> {
    let mut arena = Vec::new();
    arena.try_reserve_exact(elements).map_err(|error| DeviceError::OutOfMemory {
        purpose: "the KV arena",
        bytes: 2 * elements as u64,
        reason: error.to_string(),
        flag: "--ctx-size",
    })?;
    arena.resize(elements, f16::ZERO);
    Ok(arena)
}
