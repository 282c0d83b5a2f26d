//! Matrices and dot products, in the orders that `ARCHITECTURE.md` fixes for row invariance.

use std::sync::{Mutex, PoisonError};

use crate::device::quant::{BLOCK, bf16_value, quantise_block, segment_blocks};
use crate::model::MatrixRef;
use crate::weights::{
    BLOCK_WEIGHTS, Block32, DType, TensorSource, WeightsError, dequantise_row, has_min, unpack_block,
};

use super::Mode;

/// A matrix in host memory, unpacked.
#[derive(Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// Plain numbers, summed in f64.
    Exact(Vec<f32>),
    /// Plain numbers, summed in f32 by segments.
    Float(Vec<f32>),
    /// Meets activations rounded to bf16.
    Bf16(Vec<f32>),
    /// Integers that meet int8 activations.
    Blocks { blocks: Vec<Block32>, has_min: bool },
}

/// One input row as matrices want it.
#[derive(Debug)]
pub struct InputRow {
    values: Vec<f32>,
    blocks: Vec<ActivationBlock>,
}

/// 32 quantised activations.
#[derive(Debug)]
struct ActivationBlock {
    q: [i8; BLOCK],
    scale: f32,
    /// `scale * sum(q)`, what a minimum is multiplied by.
    scaled_sum: f32,
}

impl InputRow {
    pub fn new(values: &[f32]) -> InputRow {
        let blocks = values.chunks(BLOCK).map(|x| {
            let mut q = [0; BLOCK];
            let (scale, sum) = quantise_block(x, &mut q);
            ActivationBlock { q, scale, scaled_sum: scale * sum as f32 }
        });
        InputRow { blocks: blocks.collect(), values: values.to_vec() }
    }
}

impl Matrix {
    /// Copies `matrix` out of `source`.
    pub fn load(matrix: &MatrixRef, source: &dyn TensorSource, mode: Mode) -> Result<Matrix, WeightsError> {
        let view = matrix.view(source)?;
        let (rows, cols) = (matrix.rows as usize, matrix.cols as usize);
        let weights = match mode {
            Mode::Int8 if view.dtype.is_quantised() => {
                let per_row = cols / BLOCK_WEIGHTS;
                let blocks = (0..rows).flat_map(|row| (0..per_row).map(move |block| (row, block)));
                Weights::Blocks {
                    blocks: blocks.map(|(row, block)| unpack_block(view.dtype, view.row(row), block)).collect(),
                    has_min: has_min(view.dtype),
                }
            }
            _ => {
                let mut values = vec![0.0; rows * cols];
                for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                    dequantise_row(view.dtype, view.row(row), out);
                }
                match (mode, view.dtype) {
                    (Mode::F32, _) => Weights::Exact(values),
                    (Mode::Int8, DType::BF16) => Weights::Bf16(values),
                    (Mode::Int8, _) => Weights::Float(values),
                }
            }
        };
        Ok(Matrix { rows, cols, weights })
    }

    pub fn bytes(&self) -> u64 {
        match &self.weights {
            Weights::Exact(values) | Weights::Float(values) | Weights::Bf16(values) => {
                size_of_val(values.as_slice()) as u64
            }
            Weights::Blocks { blocks, .. } => size_of_val(blocks.as_slice()) as u64,
        }
    }

    /// `[input row][matrix row]`. Threads share the matrix's rows; every element is one thread's own sum.
    pub fn project(&self, inputs: &[InputRow], threads: usize) -> Vec<Vec<f32>> {
        if inputs.is_empty() {
            return Vec::new();
        }
        let mut by_matrix_row = vec![0.0; self.rows * inputs.len()];
        let rows_per_thread = self.rows.div_ceil(threads);
        let shares = by_matrix_row.chunks_mut(rows_per_thread * inputs.len()).map(Mutex::new).collect::<Vec<_>>();
        let run = |share: usize| {
            let mut out = shares[share].lock().unwrap_or_else(PoisonError::into_inner);
            for (i, out) in out.chunks_exact_mut(inputs.len()).enumerate() {
                for (out, input) in out.iter_mut().zip(inputs) {
                    *out = self.dot(share * rows_per_thread + i, input);
                }
            }
        };
        let run = &run;
        std::thread::scope(|scope| {
            for share in 1..shares.len() {
                let thread = std::thread::Builder::new().spawn_scoped(scope, move || run(share));
                if thread.is_err() {
                    // The system gives no thread: this one does its share.
                    run(share);
                }
            }
            run(0);
        });
        let element = |input: usize, row: usize| by_matrix_row[row * inputs.len() + input];
        (0..inputs.len()).map(|input| (0..self.rows).map(|row| element(input, row)).collect()).collect()
    }

    fn dot(&self, row: usize, input: &InputRow) -> f32 {
        assert_eq!(input.values.len(), self.cols, "an input row has the matrix's columns");
        let blocks_per_row = self.cols.div_ceil(BLOCK_WEIGHTS);
        let segment = segment_blocks(blocks_per_row);
        match &self.weights {
            Weights::Exact(values) => {
                let weights = &values[row * self.cols..][..self.cols];
                weights.iter().zip(&input.values).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32
            }
            Weights::Float(values) | Weights::Bf16(values) => {
                let rounds = matches!(self.weights, Weights::Bf16(_));
                let input_of = |x: f32| if rounds { bf16_value(x) } else { x };
                let weights = &values[row * self.cols..][..self.cols];
                let segments =
                    weights.chunks(segment * BLOCK_WEIGHTS).zip(input.values.chunks(segment * BLOCK_WEIGHTS));
                segments.fold(0.0, |total, (w, x)| {
                    total + w.iter().zip(x).fold(0.0, |a: f32, (w, x)| w.mul_add(input_of(*x), a))
                })
            }
            Weights::Blocks { blocks, has_min } => {
                let weights = &blocks[row * blocks_per_row..][..blocks_per_row];
                let segments = weights.chunks(segment).zip(input.blocks.chunks(segment));
                segments.fold(0.0, |total, (w, x)| {
                    total + w.iter().zip(x).fold(0.0, |a, (w, x)| add_block(a, w, *has_min, x))
                })
            }
        }
    }
}

/// One block's contribution: an exact integer dot product, then one rounding per scale and minimum.
fn add_block(a: f32, w: &Block32, has_min: bool, x: &ActivationBlock) -> f32 {
    let half = |i: usize| -> i32 {
        let (w, x) = (&w.q[16 * i..][..16], &x.q[16 * i..][..16]);
        w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
    };
    let dot = w.sub[0] * half(0) + w.sub[1] * half(1);
    let a = (dot as f32).mul_add(w.scale * x.scale, a);
    if has_min { w.min.mul_add(x.scaled_sum, a) } else { a }
}
