//! Weights onto the device: one allocation, raw rows streamed through pinned memory, repacked into tiles by the device itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::{DeviceError, Purpose};
use crate::model::{MatrixRef, VectorRef};
use crate::weights::{DType, TensorSource};

use super::abi::*;
use super::driver::{DeviceBuffer, Event, Gpu, PinnedBuffer};
use super::kernels::Kernels;

/// Planes and vectors start at multiples of this.
const ALIGNMENT: u64 = 256;
/// Bytes of raw rows per copy; two are under way.
const STAGING_BYTES: usize = 8 << 20;

/// Where tensors will lie in the allocation. Tensors that several stages name lie there once.
#[derive(Debug, Default)]
pub struct WeightPlan {
    matrices: HashMap<String, (MatrixRef, PlaneOffsets)>,
    /// In the order of their first use, for uploading.
    matrix_order: Vec<String>,
    vectors: HashMap<String, (VectorRef, u64)>,
    tables: Vec<(u64, Vec<f32>)>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct PlaneOffsets {
    quants: u64,
    highs: u64,
    scales: u64,
    supers: u64,
}

/// Bytes per block of 32 weights and row in each plane (cuda/abi.h, `KilnMatrix`); supers per eight blocks.
#[derive(Clone, Copy, Debug)]
struct PlaneBytes {
    quants: u64,
    highs: u64,
    scales: u64,
    supers: u64,
}

fn plane_bytes(dtype: DType) -> PlaneBytes {
    let (quants, highs, scales, supers) = match dtype {
        DType::Q4_0 => (16, 0, 2, 0),
        DType::Q4_1 => (16, 0, 4, 0),
        DType::Q5_0 => (16, 4, 2, 0),
        DType::Q5_1 => (16, 4, 4, 0),
        DType::Q8_0 => (32, 0, 2, 0),
        DType::Q4_K => (16, 0, 2, 4),
        DType::Q5_K => (16, 4, 2, 4),
        DType::Q6_K => (16, 8, 2, 2),
        DType::F16 | DType::BF16 => (64, 0, 0, 0),
        DType::F32 => (128, 0, 0, 0),
    };
    PlaneBytes { quants, highs, scales, supers }
}

fn format_of(dtype: DType) -> u32 {
    match dtype {
        DType::Q4_0 => KILN_Q4_0,
        DType::Q4_1 => KILN_Q4_1,
        DType::Q5_0 => KILN_Q5_0,
        DType::Q5_1 => KILN_Q5_1,
        DType::Q8_0 => KILN_Q8_0,
        DType::Q4_K => KILN_Q4_K,
        DType::Q5_K => KILN_Q5_K,
        DType::Q6_K => KILN_Q6_K,
        DType::F16 => KILN_F16,
        DType::BF16 => KILN_BF16,
        DType::F32 => KILN_F32,
    }
}

impl WeightPlan {
    fn take(&mut self, bytes: u64) -> u64 {
        let at = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGNMENT);
        at
    }

    /// Makes room for a matrix.
    pub fn add_matrix(&mut self, matrix: &MatrixRef) {
        if self.matrices.contains_key(&matrix.name) {
            return;
        }
        let per_block = plane_bytes(matrix.dtype);
        let blocks = u64::from(matrix.cols.div_ceil(KILN_BLOCK));
        let padded_rows = u64::from(matrix.rows.next_multiple_of(KILN_TILE_ROWS));
        let offsets = PlaneOffsets {
            quants: self.take(per_block.quants * padded_rows * blocks),
            highs: self.take(per_block.highs * padded_rows * blocks),
            scales: self.take(per_block.scales * padded_rows * blocks),
            supers: self.take(per_block.supers * padded_rows * blocks / 8),
        };
        self.matrices.insert(matrix.name.clone(), (matrix.clone(), offsets));
        self.matrix_order.push(matrix.name.clone());
    }

    /// Makes room for a vector, as f32.
    pub fn add_vector(&mut self, vector: &VectorRef) {
        if !self.vectors.contains_key(&vector.name) {
            let at = self.take(4 * u64::from(vector.len));
            self.vectors.insert(vector.name.clone(), (vector.clone(), at));
        }
    }

    /// Makes room for a table that the host computed; returns its offset.
    pub fn add_table(&mut self, values: Vec<f32>) -> u64 {
        let at = self.take(4 * values.len() as u64);
        self.tables.push((at, values));
        at
    }

    /// Allocates; everything has its address then.
    pub fn allocate(self, gpu: &Arc<Gpu>) -> Result<Weights, DeviceError> {
        Ok(Weights { buffer: DeviceBuffer::zeroed(gpu, Purpose::Weights, self.bytes)?, plan: self })
    }
}

/// The weights on the device.
#[derive(Debug)]
pub struct Weights {
    buffer: DeviceBuffer,
    plan: WeightPlan,
}

impl Weights {
    pub fn bytes(&self) -> u64 {
        self.buffer.bytes()
    }

    /// A planned matrix.
    pub fn matrix(&self, matrix: &MatrixRef) -> KilnMatrix {
        let (matrix, offsets) = &self.plan.matrices[&matrix.name];
        let at = |offset| self.buffer.address() + offset;
        KilnMatrix {
            quants: at(offsets.quants),
            highs: at(offsets.highs),
            scales: at(offsets.scales),
            supers: at(offsets.supers),
            rows: matrix.rows,
            blocks: matrix.cols.div_ceil(KILN_BLOCK),
            format: format_of(matrix.dtype),
            tiles: matrix.rows.div_ceil(KILN_TILE_ROWS),
        }
    }

    /// The address of a planned vector.
    pub fn vector(&self, vector: &VectorRef) -> u64 {
        self.buffer.address() + self.plan.vectors[&vector.name].1
    }

    /// The address of a planned vector, 0 without one.
    pub fn optional(&self, vector: &Option<VectorRef>) -> u64 {
        vector.as_ref().map_or(0, |v| self.vector(v))
    }

    /// The address of a table, by the offset that `add_table` gave.
    pub fn table(&self, offset: u64) -> u64 {
        self.buffer.address() + offset
    }

    /// Fills the allocation.
    pub fn upload(&self, gpu: &Arc<Gpu>, kernels: &Kernels, source: &dyn TensorSource) -> Result<(), DeviceError> {
        let plan = &self.plan;
        let raw_bytes = plan.matrices.values().map(|(matrix, _)| matrix.stored_bytes()).max().unwrap_or(0);
        let mut staging = Staging::new(gpu, (raw_bytes as usize).min(STAGING_BYTES))?;
        for name in &plan.matrix_order {
            let (matrix, _) = &plan.matrices[name];
            self.upload_matrix(gpu, kernels, &mut staging, matrix, source)?;
        }
        for (vector, offset) in plan.vectors.values() {
            self.buffer.upload(*offset, &vector.values(source)?)?;
        }
        for (offset, values) in &plan.tables {
            self.buffer.upload(*offset, values)?;
        }
        gpu.synchronise()
    }

    fn upload_matrix(
        &self,
        gpu: &Arc<Gpu>,
        kernels: &Kernels,
        staging: &mut Staging,
        matrix: &MatrixRef,
        source: &dyn TensorSource,
    ) -> Result<(), DeviceError> {
        let view = matrix.view(source)?;
        let repacked = self.matrix(matrix);
        let row_bytes = view.data.len() / matrix.rows.max(1) as usize;
        let tile_bytes = row_bytes * KILN_TILE_ROWS as usize;
        let tiles_per_copy = (STAGING_BYTES / tile_bytes.max(1)).max(1);
        for (index, chunk) in view.data.chunks(tiles_per_copy * tile_bytes).enumerate() {
            let address = staging.send(gpu, chunk)?;
            let source_rows = (chunk.len() / row_bytes) as u32;
            let tile_count = source_rows.div_ceil(KILN_TILE_ROWS);
            let params = KilnRepackParams {
                source: address,
                tile_start: (index * tiles_per_copy) as u32,
                tile_count,
                source_rows,
                row_bytes: row_bytes as u32,
                cols: matrix.cols,
                pad: 0,
                matrix: repacked,
            };
            let slices = repacked.blocks.div_ceil(8).min(64);
            gpu.launch(&kernels.repack, [tile_count, slices, 1], 256, &params)?;
            staging.mark_used()?;
        }
        Ok(())
    }
}

/// Two pinned buffers and their images on the device, used in turn: one is filled while the other is copied and repacked.
struct Staging {
    halves: [Half; 2],
    next: usize,
}

struct Half {
    pinned: PinnedBuffer,
    device: DeviceBuffer,
    /// The end of the last repacking out of it.
    used: Event,
}

impl Half {
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Half, DeviceError> {
        // Everything else has been allocated: what it took less of would be free for this.
        let device = DeviceBuffer::zeroed(gpu, Purpose::WeightStaging, bytes as u64)?;
        Ok(Half { pinned: PinnedBuffer::zeroed(gpu, Purpose::WeightStaging, bytes)?, device, used: Event::new(gpu)? })
    }
}

impl Staging {
    /// Each half has `bytes`.
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Staging, DeviceError> {
        Ok(Staging { halves: [Half::new(gpu, bytes)?, Half::new(gpu, bytes)?], next: 0 })
    }

    /// Queues the copy of `bytes`, once what was in this half has been used; returns their address on the device.
    fn send(&mut self, gpu: &Arc<Gpu>, bytes: &[u8]) -> Result<u64, DeviceError> {
        self.next ^= 1;
        let half = &mut self.halves[self.next];
        half.used.synchronise()?;
        if bytes.len() as u64 > half.device.bytes() {
            // A single tile is larger: a row of more than 256 KiB.
            *half = Half::new(gpu, bytes.len())?;
        }
        half.pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        half.device.upload(0, &half.pinned.bytes()[..bytes.len()])?;
        Ok(half.device.address())
    }

    /// Marks that everything queued so far is all that uses what was sent last.
    fn mark_used(&self) -> Result<(), DeviceError> {
        self.halves[self.next].used.record()
    }
}
