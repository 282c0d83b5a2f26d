//! What changes from step to step: one buffer, filled on the host and uploaded with one copy.

use crate::device::host::{BatchRow, BatchRows};
use crate::device::{Batch, DeviceError, InputToken, KvCacheDType, Limits};
use crate::model::{AttendOp, Program, StageOp};

use super::abi::*;
use super::driver::bytes_of;
use super::kernels::attend_kernel;

/// Partial attention states per SM: enough to fill the device with segments of few rows.
const PARTS_PER_SM: u32 = 8;

/// Where the parts of the buffer lie, in bytes, and how large they can get.
#[derive(Clone, Debug)]
pub struct StepLayout {
    pub rows: u64,
    pub logit_rows: u64,
    pub attend_items: u64,
    pub sample_rows: u64,
    /// Last, so that only tables in use are uploaded.
    pub block_tables: u64,
    pub bytes: u64,
    pub blocks_per_seq: u32,
    pub parts_max: u32,
    attend_items_max: u32,
    /// Items are cut for this geometry.
    geometry: Option<Geometry>,
    sm_count: u32,
}

/// What the work list of attention depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    group: u32,
    kv_heads: u32,
    /// The largest window of all layers; `None` if one sees everything.
    window: Option<u32>,
}

impl Geometry {
    fn of(program: &Program) -> Option<Geometry> {
        let attends: Vec<&AttendOp> = program
            .ops
            .iter()
            .filter_map(|op| match op {
                StageOp::Attend(op) => Some(op),
                _ => None,
            })
            .collect();
        let first = attends.first()?;
        let windows: Option<Vec<u32>> = attends.iter().map(|op| op.window).collect();
        Some(Geometry {
            group: first.num_heads / first.num_kv_heads,
            kv_heads: first.num_kv_heads,
            window: windows.and_then(|w| w.into_iter().max()),
        })
    }

    /// (token, head) pairs of one item: whole tokens if a group fits.
    fn pairs(&self) -> u32 {
        if self.group <= KILN_ATTEND_PAIRS { KILN_ATTEND_PAIRS / self.group * self.group } else { KILN_ATTEND_PAIRS }
    }
}

impl StepLayout {
    pub fn new(program: &Program, limits: &Limits, sm_count: u32) -> StepLayout {
        let geometry = Geometry::of(program);
        let parts_max = PARTS_PER_SM * sm_count;
        let per_row = geometry.map_or(1, |g| g.group.saturating_mul(limits.step_rows_max).div_ceil(g.pairs()));
        let attend_items_max = per_row.saturating_add(limits.slots_max).saturating_add(parts_max);
        let blocks_per_seq = limits.context_tokens_max.div_ceil(limits.block_tokens);
        let mut bytes = 0;
        let mut take = |size: usize, count: u32| {
            let at = bytes;
            bytes += (size as u64 * u64::from(count)).next_multiple_of(256);
            at
        };
        let seqs_max = limits.slots_max.max(limits.step_rows_max);
        take(size_of::<KilnStep>(), 1);
        let sample_rows = take(size_of::<KilnSampleRow>(), limits.logit_rows_max);
        let rows = take(size_of::<KilnRow>(), limits.step_rows_max);
        let logit_rows = take(4, limits.logit_rows_max);
        let attend_items = take(size_of::<KilnAttendItem>(), attend_items_max);
        let block_tables = take(4 * blocks_per_seq as usize, seqs_max);
        let (parts_max, sm_count) = (parts_max, sm_count);
        StepLayout {
            rows,
            logit_rows,
            attend_items,
            sample_rows,
            block_tables,
            bytes,
            blocks_per_seq,
            parts_max,
            attend_items_max,
            geometry,
            sm_count,
        }
    }

    /// f32 words of all partial states.
    pub fn part_floats(&self, program: &Program, dtype: KvCacheDType) -> u64 {
        let head_dims = program.ops.iter().map(|op| match op {
            StageOp::Attend(op) => u64::from(op.num_kv_heads) * (u64::from(attend_kernel(dtype, op.head_dim).1) + 2),
            _ => 0,
        });
        u64::from(self.parts_max) * u64::from(KILN_ATTEND_PAIRS) * head_dims.max().unwrap_or(0)
    }

    /// Counters of parts that are done.
    pub fn counters(&self, program: &Program) -> u64 {
        let kv_heads = program.ops.iter().map(|op| match op {
            StageOp::Attend(op) => op.num_kv_heads,
            _ => 0,
        });
        u64::from(self.parts_max) * u64::from(kv_heads.max().unwrap_or(0))
    }

    /// Writes a step into `buffer`; returns the bytes to upload and what the grids depend on. `results` is the buffer for what is sampled.
    pub fn fill(&self, buffer: &mut [u8], batch: &Batch, results: usize) -> Result<StepShape, DeviceError> {
        let flat = BatchRows::of(batch, |seq, input| match input {
            InputToken::Id(id) => id.0,
            InputToken::LastSampled => KILN_LAST_SAMPLED | seq.slot.0,
        });
        let row = |row: &BatchRow<u32>| KilnRow {
            token: row.token,
            position: row.position as u32,
            seq: row.seq as u32,
            pad: 0,
        };
        let rows: Vec<KilnRow> = flat.rows.iter().map(row).collect();
        let logit_rows: Vec<u32> = flat.logit_rows.iter().map(|&row| row as u32).collect();
        for (index, seq) in flat.seqs.iter().enumerate() {
            let table = &seq.block_table[..seq.block_table.len().min(self.blocks_per_seq as usize)];
            let at = self.block_tables as usize + 4 * index * self.blocks_per_seq as usize;
            put(buffer, at as u64, bytemuck::cast_slice::<_, u32>(table))?;
        }
        let items = self.attend_list(batch);
        assert!(items.len() <= self.attend_items_max as usize, "the work list fits its room");
        let step = KilnStep {
            num_rows: rows.len() as u32,
            num_logit_rows: logit_rows.len() as u32,
            num_attend_items: items.len() as u32,
            num_sample_chains: 0,
            results: results as u32,
            pad: 0,
        };
        put(buffer, 0, &[step])?;
        put(buffer, self.rows, &rows)?;
        put(buffer, self.logit_rows, &logit_rows)?;
        put(buffer, self.attend_items, &items)?;
        let used = self.block_tables as usize + 4 * batch.seqs.len() * self.blocks_per_seq as usize;
        Ok(StepShape {
            rows: step.num_rows,
            logit_rows: step.num_logit_rows,
            attend_ctas: step.num_attend_items,
            upload_bytes: used,
            is_decode: batch.seqs.iter().all(|seq| seq.tokens.len() == 1 && seq.logit_rows.len() == 1),
        })
    }

    /// The grids of every step with up to `rows` rows of as many sequences, whatever their lengths: attention has a CTA for each SM, so
    /// that long contexts fill the device, or for each item if those are more, up to four per SM.
    pub fn decode_shape(&self, rows: u32) -> StepShape {
        let attend_ctas = self.geometry.map_or(0, |geometry| {
            let items = rows * geometry.group.div_ceil(geometry.pairs());
            items.min((4 * self.sm_count).div_ceil(geometry.kv_heads)).max(self.sm_count.div_ceil(geometry.kv_heads))
        });
        StepShape { rows, logit_rows: rows, attend_ctas, upload_bytes: 0, is_decode: true }
    }

    /// Adds the sample rows to a step that has been written.
    pub fn fill_samples(&self, buffer: &mut [u8], rows: &[KilnSampleRow], num_chains: u32) -> Result<(), DeviceError> {
        put(buffer, std::mem::offset_of!(KilnStep, num_sample_chains) as u64, &[num_chains])?;
        put(buffer, self.sample_rows, rows)
    }

    /// The items of attention. Few rows over long contexts are cut by segment, so that every SM has work at batch 1. No bit of the result
    /// depends on that.
    fn attend_list(&self, batch: &Batch) -> Vec<KilnAttendItem> {
        let Some(geometry) = self.geometry else { return Vec::new() };
        let chunk = geometry.pairs();
        let pairs_of = |seq: &crate::device::BatchSeq| seq.tokens.len() as u32 * geometry.group;
        let whole: u32 = batch.seqs.iter().map(|seq| pairs_of(seq).div_ceil(chunk)).sum();
        let enough = whole * geometry.kv_heads >= 2 * self.sm_count;
        let (mut items, mut row_start, mut parts, mut counters) = (Vec::new(), 0, 0, 0);
        for (index, seq) in batch.seqs.iter().enumerate() {
            for pair_start in (0..pairs_of(seq)).step_by(chunk as usize) {
                let pairs = chunk.min(pairs_of(seq) - pair_start);
                let position = |pair: u32| seq.position_start + pair / geometry.group;
                let first_key = geometry.window.map_or(0, |w| (position(pair_start) + 1).saturating_sub(w));
                let segment_start = first_key / KILN_ATTEND_SEGMENT;
                let segment_count = position(pair_start + pairs - 1) / KILN_ATTEND_SEGMENT + 1 - segment_start;
                let item = KilnAttendItem {
                    row_start,
                    pair_start,
                    pairs,
                    seq: index as u32,
                    segment_start,
                    segment_count,
                    parts: 1,
                    part: 0,
                    part_start: 0,
                    counter: 0,
                };
                if enough || segment_count < 2 || parts + segment_count > self.parts_max {
                    items.push(item);
                    continue;
                }
                items.extend((0..segment_count).map(|i| KilnAttendItem {
                    segment_start: segment_start + i,
                    segment_count: 1,
                    parts: segment_count,
                    part: parts + i,
                    part_start: parts,
                    counter: counters,
                    ..item
                }));
                parts += segment_count;
                counters += 1;
            }
            row_start += seq.tokens.len() as u32;
        }
        items
    }
}

/// What the grids of a step depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepShape {
    pub rows: u32,
    pub logit_rows: u32,
    /// CTAs that share the items of attention, for each KV head.
    pub attend_ctas: u32,
    pub upload_bytes: usize,
    /// One row of each sequence, and its logits.
    pub is_decode: bool,
}

fn put<T: Copy>(buffer: &mut [u8], at: u64, values: &[T]) -> Result<(), DeviceError> {
    let bytes = bytes_of(values);
    let room = buffer.len() as u64;
    match buffer.get_mut(at as usize..at as usize + bytes.len()) {
        Some(target) => {
            target.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(DeviceError::Limit { what: "bytes of step inputs", limit: room, asked: at + bytes.len() as u64 }),
    }
}
