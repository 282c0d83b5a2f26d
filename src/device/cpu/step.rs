//! One step on all threads: every thread runs every stage, takes items of it until none are left, and meets the others
//! at one barrier per stage.
//!
//! A linear has two phases without a barrier between them: items of the first make input rows (norm, quantise) into
//! panels; items of the second, tiles × panels, wait until the first are all done. Whoever takes an item of the second
//! phase knows that those of the first are already running, so nobody waits for long.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ids::{BlockId, TokenId};
use crate::model::AttendOp;
use crate::weights::DType;

use super::attend::{self, AttendCall, KvView, Partial, ROWS_MAX, SEGMENT_KEYS};
use super::cache::KvArena;
use super::kernels::Kernels;
use super::linear::LinearCall;
use super::panel::{PANEL_COLS, padded_cols, panel_words};
use super::plan::{Input, Output, PlannedEmbed, PlannedLinear, PlannedOp, PlannedQkv, Unit, UnitOutput, padded};
use super::pool::Barrier;
use super::rows::{AddNorm, HeadRow};
use super::shared::Shared;
use super::simd::LANES;
use super::tile::TILE_ROWS;

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

/// One sequence of the step.
#[derive(Clone, Debug)]
pub struct StepSeq {
    pub row_start: usize,
    pub rows: usize,
    pub position_start: usize,
    pub block_table: Vec<BlockId>,
}

/// A batch row.
#[derive(Clone, Copy, Debug)]
pub struct StepRow {
    pub seq: usize,
    pub position: usize,
    pub token: TokenId,
}

/// Up to 12 (row, head) pairs of one sequence and KV head, over all their segments or over one.
#[derive(Clone, Copy, Debug)]
pub struct AttendItem {
    pub seq: usize,
    pub kv_head: usize,
    /// Pairs `row * group + head in group`, rows counted from the sequence's first.
    pub pair_start: usize,
    pub pairs: usize,
    pub split: Option<Split>,
}

/// One segment of several that different threads may run.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub segment: usize,
    /// Segments of the pairs, from this one on.
    pub segment_first: usize,
    pub segments: usize,
    /// The pairs' first slot among the partial states, and their counter.
    pub slot: usize,
    pub counter: usize,
}

/// A step, as the threads see it.
#[derive(Debug)]
pub struct Step<'a> {
    pub ops: &'a [PlannedOp],
    pub kernels: &'a Kernels,
    pub weights: &'a Shared,
    pub work: &'a Workspace,
    pub kv: &'a KvArena,
    pub rope: &'a [RopeValues],
    pub barrier: &'a Barrier,
    pub counters: &'a [OpCounters],
    pub attend_counters: &'a [AtomicUsize],
    pub threads: usize,
    pub rows: &'a [StepRow],
    pub seqs: &'a [StepSeq],
    /// Batch rows that need logits.
    pub logit_rows: &'a [usize],
    /// Per op; empty unless it is an `Attend`.
    pub attend_items: &'a [Vec<AttendItem>],
}

/// Who has taken and finished what in one stage.
#[derive(Debug)]
pub struct OpCounters {
    first_taken: AtomicUsize,
    first_done: AtomicUsize,
    /// Per thread: taken of its own share of the second phase.
    second_taken: Vec<Share>,
}

/// One thread's counter, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share(AtomicUsize);

impl OpCounters {
    pub fn new(threads: usize) -> OpCounters {
        OpCounters {
            first_taken: AtomicUsize::new(0),
            first_done: AtomicUsize::new(0),
            second_taken: (0..threads).map(|_| Share::default()).collect(),
        }
    }

    pub fn reset(&self) {
        self.first_taken.store(0, Ordering::Relaxed);
        self.first_done.store(0, Ordering::Relaxed);
        self.second_taken.iter().for_each(|share| share.0.store(0, Ordering::Relaxed));
    }

    /// The next item of `items` for `thread`: of its own contiguous share first, so that it streams weights in the order
    /// they lie, then of what others have left.
    fn next_item(&self, thread: usize, items: usize) -> Option<usize> {
        let threads = self.second_taken.len();
        (0..threads).map(|i| (thread + i) % threads).find_map(|owner| {
            let share = share_of(owner, threads, items);
            let taken = &self.second_taken[owner].0;
            // Looking first keeps counters of drained shares from growing.
            if share.start + taken.load(Ordering::Relaxed) >= share.end {
                return None;
            }
            let item = share.start + taken.fetch_add(1, Ordering::Relaxed);
            (item < share.end).then_some(item)
        })
    }
}

fn share_of(thread: usize, threads: usize, items: usize) -> std::ops::Range<usize> {
    items * thread / threads..items * (thread + 1) / threads
}

impl Step<'_> {
    /// Runs thread `thread`'s share. All threads call this with the same step.
    pub fn run(&self, thread: usize) {
        for (index, op) in self.ops.iter().enumerate() {
            match op {
                PlannedOp::Embed(op) => self.embed(index, op, thread),
                PlannedOp::Linear(op) => self.linear(index, op, thread),
                PlannedOp::Attend(op) => self.attend(index, op, thread),
            }
            self.prefetch_next(index, thread);
            // Orders what this stage wrote before the next stage's reads, and its reads before later writes.
            self.barrier.wait();
        }
    }

    /// Asks for the first weights of this thread's share of the next linear, while it waits for the others.
    fn prefetch_next(&self, index: usize, thread: usize) {
        const BYTES_MAX: usize = 24 << 10;
        if self.rows.len() > PANEL_COLS {
            return;
        }
        let next = self.ops[index + 1..].iter().find_map(|op| match op {
            PlannedOp::Linear(linear) => Some(linear),
            _ => None,
        });
        let Some(linear) = next else { return };
        let share = share_of(thread, self.threads, linear.units.len());
        let Some(unit) = linear.units.get(share.start) else { return };
        let tile = &linear.tiles[unit.tile];
        let bytes = (unit.tiles * b_stride(tile)).min(BYTES_MAX);
        // SAFETY: inside the arena.
        unsafe { (self.kernels.prefetch)(self.weights.ptr::<u8>().add(tile.offset), bytes) };
    }

    fn embed(&self, index: usize, op: &PlannedEmbed, thread: usize) {
        let counters = &self.counters[index];
        let stride = self.work.strides.hidden;
        while let Some(row) = counters.next_item(thread, self.rows.len()) {
            let info = &self.rows[row];
            // SAFETY: the weights are not written after `prepare`; each row is taken once.
            let (arena, out) = unsafe {
                (
                    self.weights.slice::<u8>(0, self.weights.bytes() as usize),
                    self.work.residual.slice_mut::<f32>(row * stride, stride),
                )
            };
            super::plan::read_row(arena, &op.tiles, op.cols, info.token.index(), out);
            if op.scale != 1.0 {
                out[..op.cols].iter_mut().for_each(|x| *x *= op.scale);
            }
        }
    }

    fn linear(&self, index: usize, op: &PlannedLinear, thread: usize) {
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
                wait_for(&counters.first_done, first_items);
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
        for run in tiles.chunk_by(|a, b| a.dtype == b.dtype && b.offset - a.offset == b_stride(a)) {
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
                    tile_bytes: b_stride(&run[0]),
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

    fn scratch(&self, thread: usize) -> *mut f32 {
        // SAFETY: one part per thread, sized in `prepare`.
        unsafe { self.work.scratch.ptr::<f32>().add(thread * self.work.scratch_len) }
    }

    fn attend(&self, index: usize, op: &AttendOp, thread: usize) {
        let items = &self.attend_items[index];
        while let Some(item) = self.counters[index].next_item(thread, items.len()) {
            self.attend_item(op, &items[item], thread);
        }
    }

    fn attend_item(&self, op: &AttendOp, item: &AttendItem, thread: usize) {
        let seq = &self.seqs[item.seq];
        let layer = &self.kv.layers[op.layer as usize];
        let (head_dim, dim_stride) = (op.head_dim as usize, padded(op.head_dim as usize));
        let group = (op.num_heads / op.num_kv_heads) as usize;
        let (mut key_start, mut key_end) = ([0u32; ROWS_MAX], [0u32; ROWS_MAX]);
        let scratch = self.scratch(thread);
        let scale = op.score_scale * std::f32::consts::LOG2_E;
        // SAFETY: this thread's scratch; queries were written before the last barrier; blocks likewise.
        unsafe {
            for i in 0..item.pairs {
                let (row, head) = pair(item, group, i);
                let end = seq.position_start + row + 1;
                key_end[i] = end as u32;
                key_start[i] = op.window.map_or(0, |window| end.saturating_sub(window as usize)) as u32;
                let at = (seq.row_start + row) * self.work.strides.query + head * head_dim;
                let query = self.work.query.slice::<f32>(at, head_dim);
                for (d, q) in query.iter().enumerate() {
                    *scratch.add(i * head_dim + d) = q * scale;
                }
            }
            let attend_segment = self.kernels.attend_segment(self.kv.dtype);
            let mut call = AttendCall {
                kv: KvView {
                    head: self.kv.data.ptr::<u8>().add(layer.offset + item.kv_head * layer.head_stride),
                    layer,
                    block_bytes: self.kv.block_bytes,
                    block_tokens: self.kv.block_tokens,
                    block_table: &seq.block_table,
                    dim_stride,
                },
                rows: item.pairs,
                queries: scratch,
                key_start: &key_start,
                key_end: &key_end,
                segment: 0,
                out: partial(scratch.add(ROWS_MAX * head_dim), dim_stride),
            };
            let total = partial(scratch.add(ROWS_MAX * head_dim + partial_len(dim_stride)), dim_stride);
            match item.split {
                None => {
                    let last = key_end[item.pairs - 1] as usize;
                    attend::clear(&total, item.pairs, dim_stride);
                    for segment in key_start[0] as usize / SEGMENT_KEYS..last.div_ceil(SEGMENT_KEYS) {
                        call.segment = segment;
                        attend_segment(&call);
                        (self.kernels.merge)(&total, &call.out, item.pairs, dim_stride);
                    }
                }
                Some(split) => {
                    let slot = |i: usize| {
                        partial(
                            self.work.partials.ptr::<f32>().add((split.slot + i) * partial_len(dim_stride)),
                            dim_stride,
                        )
                    };
                    call.segment = split.segment;
                    call.out = slot(split.segment - split.segment_first);
                    attend_segment(&call);
                    // The last of the pairs' segments to finish merges all of them, in order.
                    let counter = &self.attend_counters[split.counter];
                    if counter.fetch_add(1, Ordering::AcqRel) + 1 < split.segments {
                        return;
                    }
                    counter.store(0, Ordering::Relaxed);
                    attend::clear(&total, item.pairs, dim_stride);
                    for i in 0..split.segments {
                        (self.kernels.merge)(&total, &slot(i), item.pairs, dim_stride);
                    }
                }
            }
            for i in 0..item.pairs {
                let (row, head) = pair(item, group, i);
                let at = (seq.row_start + row) * self.work.strides.query + head * head_dim;
                let out = self.work.attended.ptr::<f32>().add(at);
                (self.kernels.finish)(&total, i, head_dim, dim_stride, out);
            }
        }
    }
}

/// f32 of one partial state of 12 rows.
pub fn partial_len(dim_stride: usize) -> usize {
    ROWS_MAX * (dim_stride + 2)
}

unsafe fn partial(at: *mut f32, dim_stride: usize) -> Partial {
    // SAFETY: the caller's memory holds `partial_len` f32.
    unsafe { Partial { max: at.add(ROWS_MAX * dim_stride), sum: at.add(ROWS_MAX * (dim_stride + 1)), values: at } }
}

/// (row of the sequence, query head) of an item's pair `i`.
fn pair(item: &AttendItem, group: usize, i: usize) -> (usize, usize) {
    let pair = item.pair_start + i;
    (pair / group, item.kv_head * group + pair % group)
}

/// Bytes from a tile to the next one packed after it.
fn b_stride(tile: &super::plan::Tile) -> usize {
    tile.bytes.next_multiple_of(64)
}

/// Waits for a phase that is already running on other threads.
fn wait_for(done: &AtomicUsize, target: usize) {
    let mut spins = 0u32;
    while done.load(Ordering::Acquire) < target {
        spins += 1;
        if spins < 10_000 {
            std::hint::spin_loop();
        } else {
            // The other thread lost its core: give it ours.
            std::thread::yield_now();
        }
    }
}
