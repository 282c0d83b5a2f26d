//! How a step's attention is cut into items.

use crate::model::AttendOp;

use crate::device::host::SeqRows;

use super::attend::{ROWS_MAX, SEGMENT_KEYS};
use super::step::{AttendItem, Split};

/// Partial states of split attention: enough for every thread of any machine, little beside the cache.
pub const PARTIALS_MAX: usize = 512;

/// The items of one `Attend`, longest first. Pairs are cut so that 12 fill the registers; single rows over long contexts
/// are cut by segment too, so that all threads have work at batch 1. Neither changes any bit of the result.
pub fn attend_list(seqs: &[SeqRows], op: &AttendOp, threads: usize) -> Vec<AttendItem> {
    let group = (op.num_heads / op.num_kv_heads) as usize;
    let whole_items: usize = seqs.iter().map(|s| (s.rows * group).div_ceil(ROWS_MAX)).sum();
    let enough = whole_items * op.num_kv_heads as usize >= 8 * threads;
    let (mut items, mut slots, mut counters) = (Vec::new(), 0, 0);
    for (index, seq) in seqs.iter().enumerate() {
        let pairs = seq.rows * group;
        // Whole tokens if a group fits: heads of one token share their keys.
        let chunk = if group <= ROWS_MAX { ROWS_MAX / group * group } else { ROWS_MAX };
        for pair_start in (0..pairs).step_by(chunk).rev() {
            let count = chunk.min(pairs - pair_start);
            let segments = segments_of(seq, op, pair_start / group, (pair_start + count - 1) / group);
            for kv_head in 0..op.num_kv_heads as usize {
                let whole = AttendItem { seq: index, kv_head, pair_start, pairs: count, split: None };
                if enough || segments.len() < 2 || slots + segments.len() > PARTIALS_MAX {
                    items.push(whole);
                    continue;
                }
                for segment in segments.clone() {
                    let split = Split {
                        segment,
                        segment_first: segments.start,
                        segments: segments.len(),
                        slot: slots,
                        counter: counters,
                    };
                    items.push(AttendItem { split: Some(split), ..whole });
                }
                slots += segments.len();
                counters += 1;
            }
        }
    }
    items
}

fn segments_of(seq: &SeqRows, op: &AttendOp, first_row: usize, last_row: usize) -> std::ops::Range<usize> {
    let first_end = seq.position_start + first_row + 1;
    let start = op.window.map_or(0, |window| first_end.saturating_sub(window as usize));
    let end = seq.position_start + last_row + 1;
    start / SEGMENT_KEYS..end.div_ceil(SEGMENT_KEYS)
}
