//! A linear stage, in two phases without a barrier between them: items of the first make input rows (norm, quantise) into
//! panels; items of the second, tiles × panels, wait until the first are all done. A thread that takes an item of the second
//! phase knows that those of the first are already running, so no thread waits for long.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use crate::device::cpu::linear::LinearCall;
use crate::device::cpu::panel::{PANEL_COLS, padded_cols, panel_words};
use crate::device::cpu::plan::{Input, Output, PlannedLinear, PlannedQkv, Unit, UnitOutput, padded};
use crate::device::cpu::pool::Barrier;
use crate::device::cpu::rows::{AddNorm, HeadRow};
use crate::device::cpu::simd::LANES;
use crate::device::cpu::tile::TILE_ROWS;
use crate::weights::DType;

use super::Step;

impl Step<'_> {
    pub(super) fn linear(&self, index: usize, op: &PlannedLinear, thread: usize, barrier: &Barrier) {
        let counters = &self.counters[index];
        let num_rows = if matches!(op.output, Output::Logits) { self.logit_rows.len() } else { self.rows.len() };
        if num_rows == 0 {
            return;
        }
        let panels = num_rows.div_ceil(PANEL_COLS);
        let rows_per_item = (num_rows / (8 * self.threads)).clamp(1, PANEL_COLS);
        let first_items = num_rows.div_ceil(rows_per_item);
        loop {
            let item = counters.first_taken.fetch_add(1, Ordering::Relaxed);
            if item >= first_items {
                break;
            }
            let start = item * rows_per_item;
            for row in start..(start + rows_per_item).min(num_rows) {
                self.input_row(op, row, num_rows, thread);
            }
            counters.first_done.fetch_add(1, Ordering::Release);
        }
        // Enough pieces that the last one to finish is short, few enough that panels stay in cache.
        let panel_chunks = (16 * self.threads).div_ceil(op.units.len()).min(panels);
        let items = op.units.len() * panel_chunks;
        let mut inputs_ready = false;
        while let Some(item) = counters.next_item(thread, items) {
            if !inputs_ready {
                barrier.wait_for(&counters.first_done, first_items);
                inputs_ready = true;
            }
            let (unit, chunk) = (&op.units[item / panel_chunks], item % panel_chunks);
            for panel in panels * chunk / panel_chunks..panels * (chunk + 1) / panel_chunks {
                self.unit(op, unit, panel, num_rows, thread);
            }
        }
    }

    /// Makes input row `row` of the stage and puts it into its panel.
    fn input_row(&self, op: &PlannedLinear, row: usize, num_rows: usize, thread: usize) {
        let strides = &self.work.strides;
        let batch_row = if matches!(op.output, Output::Logits) { self.logit_rows[row] } else { row };
        // SAFETY: each row is taken by one thread, which writes its own panel column; the producers' writes and the panels'
        // last readers lie before the last barrier.
        unsafe {
            let input: &[f32] = match &op.input {
                Input::Attend => &self.work.attended.slice::<f32>(row * strides.query, strides.query)[..op.cols],
                Input::Gated => &self.work.gated.slice::<f32>(row * strides.gated, strides.gated)[..op.cols],
                Input::AddNorm { add_delta, post_norm, norm, norm_eps } => {
                    let out = self.work.scratch.slice_mut::<f32>(thread * self.work.scratch_len, strides.hidden);
                    let at = batch_row * strides.hidden;
                    let delta = add_delta.then(|| self.work.delta.slice_mut::<f32>(at, strides.hidden));
                    let mut call = AddNorm {
                        residual: self.work.residual.slice_mut(at, strides.hidden),
                        delta,
                        post_norm: post_norm.as_deref(),
                        norm,
                        norm_eps: *norm_eps,
                        len: op.cols,
                        out,
                    };
                    (self.kernels.add_norm)(&mut call);
                    &call.out[..op.cols]
                }
            };
            let (panel, column) = (row / PANEL_COLS, row % PANEL_COLS);
            let cols = padded_cols(num_rows - panel * PANEL_COLS);
            if op.needs_int8 {
                let out = self.work.int8_panels.ptr::<u32>().add(panel * panel_words(op.cols, PANEL_COLS));
                (self.kernels.quantise_column)(input, out, column, cols);
            }
            if op.needs_float {
                let out = self.work.float_panels.ptr::<u32>().add(panel * op.cols * PANEL_COLS);
                (self.kernels.float_column)(input, out, column, cols);
            }
            if op.needs_bf16 {
                let out = self.work.bf16_panels.ptr::<u32>().add(panel * op.cols.div_ceil(2) * PANEL_COLS);
                (self.kernels.bf16_column)(input, out, column, cols);
            }
        }
    }

    /// One unit of weights against one panel.
    fn unit(&self, op: &PlannedLinear, unit: &Unit, panel: usize, num_rows: usize, thread: usize) {
        let strides = &self.work.strides;
        let first_row = panel * PANEL_COLS;
        let rows = (num_rows - first_row).min(PANEL_COLS);
        let scratch = self.scratch(thread);
        // SAFETY: offsets lie in their buffers, which `prepare` sized for the limits (whole panels, whole tiles).
        let (out, out_stride) = unsafe {
            match unit.output {
                UnitOutput::Rows(start) if matches!(op.output, Output::Logits) => {
                    (self.work.logits.ptr::<f32>().add(first_row * strides.logits + start), strides.logits)
                }
                UnitOutput::Rows(start) => {
                    (self.work.delta.ptr::<f32>().add(first_row * strides.hidden + start), strides.hidden)
                }
                _ => (scratch, unit.tiles * TILE_ROWS),
            }
        };
        let tiles = &op.tiles[unit.tile..unit.tile + unit.tiles];
        let mut at = 0;
        for run in tiles.chunk_by(|a, b| a.dtype == b.dtype && b.offset - a.offset == a.stride()) {
            // SAFETY: as above; panels were filled before `first_done` was complete.
            unsafe {
                let panel_cols = padded_cols(num_rows - first_row);
                let panel = match run[0].dtype {
                    DType::F32 | DType::F16 => self.work.float_panels.ptr::<u32>().add(panel * op.cols * PANEL_COLS),
                    DType::BF16 => self.work.bf16_panels.ptr::<u32>().add(panel * op.cols.div_ceil(2) * PANEL_COLS),
                    _ => self.work.int8_panels.ptr::<u32>().add(panel * panel_words(op.cols, PANEL_COLS)),
                };
                let call = LinearCall {
                    weights: self.weights.ptr::<u8>().add(run[0].offset),
                    tiles: run.len(),
                    tile_bytes: run[0].stride(),
                    cols: op.cols,
                    segment_blocks: op.segment_blocks,
                    panel,
                    panel_cols,
                    out: out.add(at * TILE_ROWS),
                    out_stride,
                };
                self.kernels.linear(run[0].dtype)(&call);
            }
            at += run.len();
        }
        match &op.output {
            Output::Delta | Output::Logits => {}
            Output::Qkv(qkv) => {
                for row in 0..rows {
                    // SAFETY: this thread's scratch, just written.
                    let head = unsafe { std::slice::from_raw_parts_mut(scratch.add(row * out_stride), out_stride) };
                    self.finish_head(op, qkv, unit.output, first_row + row, head);
                }
            }
            Output::Gated(activation) => {
                let UnitOutput::Gated(start) = unit.output else { unreachable!("gated stages have gated units") };
                for row in 0..rows {
                    for pair in 0..unit.tiles / 2 {
                        // SAFETY: as above; the gated buffer's rows are whole vectors.
                        unsafe {
                            let gate = scratch.add(row * out_stride + 2 * pair * LANES);
                            let out = (first_row + row) * strides.gated + start + pair * LANES;
                            let out = self.work.gated.ptr::<f32>().add(out);
                            (self.kernels.gate)(*activation, gate, gate.add(LANES), out);
                        }
                    }
                }
            }
        }
    }

    /// Bias, norm, RoPE; the query goes to its buffer, key and value into the cache.
    fn finish_head(&self, op: &PlannedLinear, qkv: &PlannedQkv, output: UnitOutput, row: usize, x: &mut [f32]) {
        let info = &self.rows[row];
        let stride = padded(qkv.head_dim);
        let rope = &self.rope[qkv.rope];
        let at = info.position * rope.half;
        let (head, bias, norm, rotate) = match output {
            UnitOutput::Query(head) => (head, &qkv.q_bias, &qkv.q_norm, true),
            UnitOutput::Key(head) => (head, &qkv.k_bias, &qkv.k_norm, true),
            UnitOutput::Value(head) => (head, &qkv.v_bias, &None, false),
            other => unreachable!("heads are queries, keys or values, not {other:?}"),
        };
        let half = if rotate { rope.half } else { 0 };
        let mut call = HeadRow {
            x,
            bias: bias.as_ref().map(|bias| &bias[head * stride..][..stride]),
            norm: norm.as_deref(),
            norm_eps: qkv.norm_eps,
            head_dim: qkv.head_dim,
            cos: &rope.cos[at..at + half],
            sin: &rope.sin[at..at + half],
        };
        let (layer, dtype) = (&self.kv.layers[op.layer], self.kv.dtype);
        // SAFETY: the block belongs to this row's sequence and each (row, head) is written by one thread; readers come
        // after the barrier.
        unsafe {
            (self.kernels.finish_head)(&mut call);
            let x = &call.x[..];
            let slot = |head| self.kv.slot(layer, head, &self.seqs[info.seq].block_table, info.position);
            match output {
                UnitOutput::Query(head) => {
                    let at = row * self.work.strides.query + head * qkv.head_dim;
                    self.work.query.slice_mut::<f32>(at, qkv.head_dim).copy_from_slice(&x[..qkv.head_dim]);
                }
                UnitOutput::Key(head) => self.kernels.store_key(dtype)(x, &slot(head)),
                UnitOutput::Value(head) => self.kernels.store_value(dtype)(x, &slot(head)),
                _ => {}
            }
        }
    }
}
