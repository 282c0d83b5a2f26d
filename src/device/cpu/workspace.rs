//! What a step works in, allocated once beside weights and cache: rows between stages, panels, scratch, tables.
#![allow(unsafe_code)]

use crate::device::host::HostMemory;
use crate::device::{DeviceError, Limits, Purpose};
use crate::model::{Program, RopeTable};

use super::attend::{Partial, ROWS_MAX};
use super::panel::{PANEL_COLS, panel_words};
use super::plan::{Input, Output, PlannedOp, padded};
use super::shared::Shared;
use super::simd::LANES;
use super::tile::TILE_ROWS;
use super::worklist::PARTIALS_MAX;

/// Row strides, in elements, all whole vectors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strides {
    pub hidden: usize,
    pub query: usize,
    pub gated: usize,
    pub logits: usize,
}

/// Everything a step works in. Allocated once.
#[derive(Debug)]
pub struct Workspace {
    pub strides: Strides,
    pub residual: Shared,
    pub delta: Shared,
    pub query: Shared,
    pub attended: Shared,
    pub gated: Shared,
    pub logits: Shared,
    pub int8_panels: Shared,
    pub float_panels: Shared,
    pub bf16_panels: Shared,
    /// Per thread, [`Workspace::scratch_len`] f32.
    pub scratch: Shared,
    pub scratch_len: usize,
    /// Split attention's partial states.
    pub partials: Shared,
}

/// Cosine and sine tables, `[position][half]`.
#[derive(Debug)]
pub struct RopeValues {
    pub half: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// Buffers for the limits: whole panels of rows, whole vectors per row.
pub fn workspace(
    program: &Program,
    ops: &[PlannedOp],
    limits: &Limits,
    host: &mut HostMemory,
) -> Result<Workspace, DeviceError> {
    let mut strides = Strides { hidden: padded(program.hidden_size as usize), ..Strides::default() };
    let (mut cols_max, mut unit_rows_max, mut dims_max) = (1, 0, 0);
    for op in ops {
        match op {
            PlannedOp::Embed(_) => {}
            PlannedOp::Attend(op) => {
                strides.query = strides.query.max(padded((op.num_heads * op.head_dim) as usize));
                dims_max = dims_max.max(padded(op.head_dim as usize));
            }
            PlannedOp::Linear(op) => {
                cols_max = cols_max.max(op.cols);
                unit_rows_max = unit_rows_max.max(op.units.iter().map(|u| u.tiles * TILE_ROWS).max().unwrap_or(0));
                match &op.output {
                    Output::Qkv(qkv) => strides.query = strides.query.max(padded(qkv.num_heads * qkv.head_dim)),
                    Output::Gated(_) => strides.gated = strides.gated.max(padded(op.out_len)),
                    Output::Logits => strides.logits = padded(op.out_len),
                    Output::Delta => strides.hidden = strides.hidden.max(padded(op.out_len)),
                }
                match &op.input {
                    Input::Attend => strides.query = strides.query.max(padded(op.cols)),
                    Input::Gated => strides.gated = strides.gated.max(padded(op.cols)),
                    Input::AddNorm { .. } => {}
                }
            }
        }
    }
    let rows = (limits.step_rows_max as usize).next_multiple_of(PANEL_COLS);
    let logit_rows = (limits.logit_rows_max as usize).next_multiple_of(PANEL_COLS);
    let all_rows = rows.max(logit_rows);
    let scratch_len = (PANEL_COLS * unit_rows_max)
        .max(strides.hidden)
        .max(ROWS_MAX * dims_max + 2 * partial_len(dims_max))
        .next_multiple_of(LANES);
    let mut take = |words: usize| Shared::new(host, Purpose::Workspace, 4 * words as u64);
    Ok(Workspace {
        strides,
        residual: take(rows * strides.hidden)?,
        delta: take(rows * strides.hidden)?,
        query: take(rows * strides.query)?,
        attended: take(rows * strides.query)?,
        gated: take(rows * strides.gated)?,
        logits: take(logit_rows * strides.logits)?,
        int8_panels: take(all_rows / PANEL_COLS * panel_words(cols_max, PANEL_COLS))?,
        float_panels: take(all_rows * cols_max)?,
        bf16_panels: take(all_rows * cols_max.div_ceil(2))?,
        scratch: take(limits.threads as usize * scratch_len)?,
        scratch_len,
        partials: take(PARTIALS_MAX * partial_len(dims_max))?,
    })
}

/// Cosines and sines of every position, from f64 angles.
pub fn rope_values(program: &Program, limits: &Limits, host: &mut HostMemory) -> Result<Vec<RopeValues>, DeviceError> {
    let table = |table: &RopeTable| {
        let (positions, half) = (limits.context_tokens_max, table.inv_freq.len());
        let mut room = || host.vec(Purpose::RopeTables, positions as usize * half);
        let (mut cos, mut sin) = (room()?, room()?);
        for position in 0..positions {
            for inv_freq in &table.inv_freq {
                let angle = f64::from(position) * inv_freq;
                cos.push((angle.cos() * f64::from(table.magnitude)) as f32);
                sin.push((angle.sin() * f64::from(table.magnitude)) as f32);
            }
        }
        Ok(RopeValues { half, cos, sin })
    };
    program.rope_tables.iter().map(table).collect()
}

impl RopeValues {
    pub fn bytes(&self) -> u64 {
        4 * (self.cos.len() + self.sin.len()) as u64
    }
}

impl Workspace {
    pub fn bytes(&self) -> u64 {
        [
            &self.residual,
            &self.delta,
            &self.query,
            &self.attended,
            &self.gated,
            &self.logits,
            &self.int8_panels,
            &self.float_panels,
            &self.bf16_panels,
            &self.scratch,
            &self.partials,
        ]
        .iter()
        .map(|buffer| buffer.bytes())
        .sum()
    }
}

/// f32 of one partial state of 12 rows.
pub fn partial_len(dim_stride: usize) -> usize {
    ROWS_MAX * (dim_stride + 2)
}

/// A partial state in memory.
///
/// # Safety
/// `at` is the start of [`partial_len`] f32.
pub unsafe fn partial(at: *mut f32, dim_stride: usize) -> Partial {
    // SAFETY: the caller's memory holds `partial_len` f32.
    unsafe { Partial { max: at.add(ROWS_MAX * dim_stride), sum: at.add(ROWS_MAX * (dim_stride + 1)), values: at } }
}
