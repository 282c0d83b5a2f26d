//! Attention of a step, item by item.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use crate::device::cpu::attend::{self, AttendCall, KvView, ROWS_MAX, SEGMENT_KEYS};
use crate::device::cpu::plan::padded;
use crate::device::cpu::workspace::{partial, partial_len};
use crate::device::quant::CACHE_OVERFLOW;
use crate::model::AttendOp;

use super::Step;

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

impl Step<'_> {
    pub(super) fn attend(&self, index: usize, op: &AttendOp, thread: usize) {
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
                    let scaled = q * scale;
                    *scratch.add(i * head_dim + d) = if scaled.abs() < CACHE_OVERFLOW { scaled } else { f32::NAN };
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

/// (row of the sequence, query head) of an item's pair `i`.
fn pair(item: &AttendItem, group: usize, i: usize) -> (usize, usize) {
    let pair = item.pair_start + i;
    (pair / group, item.kv_head * group + pair % group)
}
