//! What `prepare` allocates, once, beside weights and cache: workspace, tables.

use crate::device::{DeviceError, Limits};
use crate::model::Program;

use super::attend::ROWS_MAX;
use super::panel::{PANEL_COLS, panel_words};
use super::plan::{Input, Output, PlannedOp, padded};
use super::shared::Shared;
use super::simd::LANES;
use super::step::{RopeValues, Strides, Workspace, partial_len};
use super::tile::TILE_ROWS;
use super::worklist::PARTIALS_MAX;

pub fn check_limits(limits: &Limits) -> Result<(), DeviceError> {
    let unsupported = |subject: &str, expected: &str, found: u32| DeviceError::Unsupported {
        subject: subject.into(),
        expected: expected.into(),
        found: found.to_string(),
    };
    if limits.block_tokens == 0 || !limits.block_tokens.is_multiple_of(LANES as u32) {
        return Err(unsupported("block_tokens", "a multiple of 16", limits.block_tokens));
    }
    if limits.threads == 0 {
        return Err(unsupported("threads", "at least 1", 0));
    }
    Ok(())
}

/// Buffers for the limits: whole panels of rows, whole vectors per row.
pub fn workspace(program: &Program, ops: &[PlannedOp], limits: &Limits) -> Result<Workspace, DeviceError> {
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
    let take = |words: usize| Shared::new("the workspace", 4 * words as u64, "--ubatch-size or --ctx-size");
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
pub fn rope_values(program: &Program, limits: &Limits) -> Vec<RopeValues> {
    program
        .rope_tables
        .iter()
        .map(|table| {
            let positions = limits.context_tokens_max as usize;
            let half = table.inv_freq.len();
            let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
            for position in 0..positions {
                for inv_freq in &table.inv_freq {
                    let angle = position as f64 * inv_freq;
                    cos.push((angle.cos() * f64::from(table.magnitude)) as f32);
                    sin.push((angle.sin() * f64::from(table.magnitude)) as f32);
                }
            }
            RopeValues { half, cos, sin }
        })
        .collect()
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
