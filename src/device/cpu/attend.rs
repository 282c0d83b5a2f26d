//! `attend`: causal (or windowed) attention of query rows over one sequence's cache blocks.
//!
//! Mathematics: softmax(q·K)·V in base 2 (queries are scaled by `score_scale · log2 e` before), online per tile of 64
//! keys (Milakov & Gimelshein 2018; Dao et al. 2022), from empty in every segment of 256 keys at absolute positions;
//! segments merge ascending as (m, l, o). So a row's bits do not depend on which rows it shares a call with, nor on
//! who computes its segments.
//! Shapes: up to 12 query rows that share one KV head; keys and values as in `cache`. Of an int8 cache, scores are `scale_k · (q · k)` and
//! weighted values `Σ (p · scale_v) · v` over integers k and v, which are exact in f32.
//! Bytes: keys and values of the segments once per call.
// SAFETY, for this file: kernels are `unsafe fn`s whose callers vouch for the pointers (they come from `prepare`'s buffers and
// `plan`'s offsets) and for the instruction set (`IsaPath::available`). Blocks inside only pass that on.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::needless_range_loop)] // Indices as in the formulas.

use super::cache::{Cell, KvLayer};
use super::simd::{Isa, LANES};

/// Query rows of one call.
pub const ROWS_MAX: usize = 12;
/// Keys of a tile.
pub const TILE_KEYS: usize = 64;
/// Keys of a segment.
pub const SEGMENT_KEYS: usize = 256;

/// Where one KV head's keys and values of one sequence lie.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    /// The KV head's start in block 0.
    pub head: *const u8,
    pub layer: &'a KvLayer,
    pub block_bytes: usize,
    pub block_tokens: usize,
    pub block_table: &'a [crate::ids::BlockId],
    /// The head's dimensions rounded up to lanes: the stride of values and outputs.
    pub dim_stride: usize,
}

impl KvView<'_> {
    #[inline(always)]
    unsafe fn head(&self, position: usize) -> *const u8 {
        unsafe { self.head.add(self.block_table[position / self.block_tokens].index() * self.block_bytes) }
    }

    /// The cells of `position`, `offset` from the head's start, in rows of `stride` cells.
    #[inline(always)]
    unsafe fn place<C: Cell>(&self, position: usize, offset: usize, stride: usize) -> *const u8 {
        unsafe { self.head(position).add(offset + position % self.block_tokens * stride * C::BYTES) }
    }

    /// The scales from `position` on, as far as its block goes.
    #[inline(always)]
    unsafe fn scales(&self, position: usize, offset: usize) -> *const f32 {
        unsafe { self.head(position).add(offset).cast::<f32>().add(position % self.block_tokens) }
    }
}

/// The state of up to 12 rows: maximum, sum of weights, weighted values (`[row][dim_stride]`).
#[derive(Clone, Copy, Debug)]
pub struct Partial {
    pub max: *mut f32,
    pub sum: *mut f32,
    pub values: *mut f32,
}

/// One segment of keys for `rows` query rows.
#[derive(Clone, Copy, Debug)]
pub struct AttendCall<'a> {
    pub kv: KvView<'a>,
    pub rows: usize,
    /// `[row][head_dim]`, scaled.
    pub queries: *const f32,
    /// Per row, the first key it sees and the key after the last.
    pub key_start: &'a [u32; ROWS_MAX],
    pub key_end: &'a [u32; ROWS_MAX],
    pub segment: usize,
    pub out: Partial,
}

/// Empties a partial state.
pub unsafe fn clear(partial: &Partial, rows: usize, dim_stride: usize) {
    unsafe {
        std::slice::from_raw_parts_mut(partial.max, rows).fill(f32::NEG_INFINITY);
        std::slice::from_raw_parts_mut(partial.sum, rows).fill(0.0);
        std::slice::from_raw_parts_mut(partial.values, rows * dim_stride).fill(0.0);
    }
}

/// Runs one segment; `out` is overwritten.
#[inline(always)]
pub unsafe fn attend_segment<I: Isa, C: Cell>(call: &AttendCall<'_>) {
    unsafe {
        match call.rows {
            1 => segment::<I, C, 1, 1>(call),
            2 => segment::<I, C, 2, 2>(call),
            3 => segment::<I, C, 3, 3>(call),
            4 => segment::<I, C, 4, 4>(call),
            5..=6 => segment::<I, C, 6, 6>(call),
            7..=8 => segment::<I, C, 8, 4>(call),
            _ => segment::<I, C, 12, 6>(call),
        }
    }
}

/// `R` rows in registers for q·k, `RB` at a time for p·v. Rows past `call.rows` repeat the last one and go nowhere.
#[inline(always)]
unsafe fn segment<I: Isa, C: Cell, const R: usize, const RB: usize>(call: &AttendCall<'_>) {
    unsafe {
        let kv = &call.kv;
        let used = &call.key_end[..call.rows];
        let end_max = used.iter().copied().max().unwrap_or(0) as usize;
        let start_min = call.key_start[..call.rows].iter().copied().min().unwrap_or(0) as usize;
        let first_key = call.segment * SEGMENT_KEYS;
        let last_key = (first_key + SEGMENT_KEYS).min(end_max);
        clear(&call.out, call.rows, kv.dim_stride);
        let mut maxima = [f32::NEG_INFINITY; R];
        let mut sums = [I::zero(); R];
        let mut scores = [0f32; ROWS_MAX * TILE_KEYS];
        let mut tile = first_key.max(start_min) / TILE_KEYS * TILE_KEYS;
        while tile < last_key {
            // With few rows a group alone is a short chain of sums that waits for memory: four make one of four times the work.
            if R <= 4 && I::COLS >= 12 && tile + TILE_KEYS - LANES < end_max {
                score_groups::<I, C, R, { TILE_KEYS / LANES }>(call, tile, tile, end_max, &mut scores);
            } else {
                for base in (tile..tile + TILE_KEYS).step_by(LANES) {
                    score_groups::<I, C, R, 1>(call, tile, base, end_max, &mut scores);
                }
            }
            let mut rescale = [0f32; R];
            for r in 0..R {
                (maxima[r], rescale[r], sums[r]) =
                    softmax_tile::<I>(scores.as_mut_ptr().add(r * TILE_KEYS), maxima[r], sums[r]);
            }
            if C::IS_SCALED {
                for base in (tile..last_key.min(tile + TILE_KEYS)).step_by(LANES) {
                    let scales = I::load(kv.scales(base, kv.layer.value_scales));
                    for r in 0..R {
                        let weights = scores.as_mut_ptr().add(r * TILE_KEYS + base - tile);
                        I::store(weights, I::mul(I::load(weights), scales));
                    }
                }
            }
            let keys = tile.max(start_min)..(tile + TILE_KEYS).min(last_key);
            let mut r = 0;
            while r < R {
                add_values::<I, C, RB>(call, &scores, &rescale[r..r + RB], r, tile, keys.clone());
                r += RB;
            }
            tile += TILE_KEYS;
        }
        for r in 0..call.rows {
            *call.out.max.add(r) = maxima[r];
            *call.out.sum.add(r) = I::sum(sums[r]);
        }
    }
}

/// Scores of `G` groups of 16 keys from key `base` of tile `tile` on. Keys that a row does not see score -inf.
#[inline(always)]
unsafe fn score_groups<I: Isa, C: Cell, const R: usize, const G: usize>(
    call: &AttendCall<'_>,
    tile: usize,
    base: usize,
    end_max: usize,
    scores: &mut [f32; ROWS_MAX * TILE_KEYS],
) {
    unsafe {
        let (kv, head_dim) = (&call.kv, call.kv.layer.head_dim);
        let row = |r: usize| r.min(call.rows - 1);
        let mut acc = [[I::zero(); R]; G];
        if base < end_max {
            let key_group = |position| kv.place::<C>(position, 0, head_dim);
            let keys: [_; G] = std::array::from_fn(|g| key_group(base + g * LANES));
            let values: [_; G] =
                std::array::from_fn(|g| kv.place::<C>(base + g * LANES, kv.layer.values, kv.dim_stride));
            let later = |g: usize| base + (G + g) * LANES;
            let next: [_; G] = std::array::from_fn(|g| if later(g) < end_max { key_group(later(g)) } else { keys[g] });
            for d in 0..head_dim {
                // What is read next: this tile's values, and the next one's keys, line by line.
                let at = d * LANES * C::BYTES;
                if G > 1 && at.is_multiple_of(64) {
                    for g in 0..G {
                        I::prefetch(values[g].wrapping_add(at));
                        I::prefetch(next[g].wrapping_add(at));
                    }
                }
                let mut k = [I::zero(); G];
                for g in 0..G {
                    k[g] = C::load::<I>(keys[g].add(at));
                }
                for r in 0..R {
                    let q = I::splat(*call.queries.add(row(r) * head_dim + d));
                    for g in 0..G {
                        acc[g][r] = I::fma(k[g], q, acc[g][r]);
                    }
                }
            }
            if C::IS_SCALED {
                for g in 0..G {
                    let scales = I::load(kv.scales(base + g * LANES, kv.layer.key_scales));
                    for r in 0..R {
                        acc[g][r] = I::mul(acc[g][r], scales);
                    }
                }
            }
        }
        for g in 0..G {
            let base = base + g * LANES;
            for r in 0..R {
                let lanes = |key: u32| (key as usize).saturating_sub(base).min(LANES);
                let (skip, keep) = (lanes(call.key_start[row(r)]), lanes(call.key_end[row(r)]));
                let hidden = I::splat(f32::NEG_INFINITY);
                let mut s = acc[g][r];
                if keep < LANES {
                    s = I::first(keep, s, hidden);
                }
                if skip > 0 {
                    s = I::first(skip, hidden, s);
                }
                I::store(scores.as_mut_ptr().add(r * TILE_KEYS + base - tile), s);
            }
        }
    }
}

/// Turns 64 scores into weights. Returns the new maximum, the factor for what was summed before, and the new sums.
#[inline(always)]
unsafe fn softmax_tile<I: Isa>(scores: *mut f32, max: f32, sums: I::F) -> (f32, f32, I::F) {
    unsafe {
        let mut top = I::splat(max);
        for i in 0..TILE_KEYS / LANES {
            top = I::max(I::load(scores.add(i * LANES)), top);
        }
        let new = I::max_lane(top);
        // Nothing visible yet: any finite reference keeps -inf - reference at -inf, whose weight is 0.
        let reference = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let factor = I::exp2(I::splat(max - reference));
        let mut sums = I::mul(sums, factor);
        for i in 0..TILE_KEYS / LANES {
            let p = I::exp2(I::sub(I::load(scores.add(i * LANES)), I::splat(reference)));
            I::store(scores.add(i * LANES), p);
            sums = I::add(sums, p);
        }
        let mut lanes = [0f32; LANES];
        I::store(lanes.as_mut_ptr(), factor);
        (new, lanes[0], sums)
    }
}

/// `values[r] = values[r] * rescale[r] + Σ_j p[r][j] · V[j]`, keys ascending, for `RB` rows from row `first`.
#[inline(always)]
unsafe fn add_values<I: Isa, C: Cell, const RB: usize>(
    call: &AttendCall<'_>,
    scores: &[f32; ROWS_MAX * TILE_KEYS],
    rescale: &[f32],
    first: usize,
    tile: usize,
    keys: std::ops::Range<usize>,
) {
    unsafe {
        let mut d = 0;
        while d + 4 * LANES <= call.kv.dim_stride {
            add_value_columns::<I, C, RB, 4>(call, scores, rescale, first, tile, keys.clone(), d);
            d += 4 * LANES;
        }
        while d < call.kv.dim_stride {
            add_value_columns::<I, C, RB, 1>(call, scores, rescale, first, tile, keys.clone(), d);
            d += LANES;
        }
    }
}

#[inline(always)]
unsafe fn add_value_columns<I: Isa, C: Cell, const RB: usize, const CV: usize>(
    call: &AttendCall<'_>,
    scores: &[f32; ROWS_MAX * TILE_KEYS],
    rescale: &[f32],
    first: usize,
    tile: usize,
    keys: std::ops::Range<usize>,
    d: usize,
) {
    unsafe {
        let kv = &call.kv;
        let mut acc = [[I::zero(); CV]; RB];
        for r in 0..RB {
            let at = call.out.values.add((first + r).min(call.rows - 1) * kv.dim_stride + d);
            for c in 0..CV {
                acc[r][c] = I::mul(I::load(at.add(c * LANES)), I::splat(rescale[r]));
            }
        }
        let mut key = keys.start;
        while key < keys.end {
            // Rows of one block are neighbours: one table look-up per block.
            let run_end = (key / kv.block_tokens * kv.block_tokens + kv.block_tokens).min(keys.end);
            let mut row = kv.place::<C>(key, kv.layer.values, kv.dim_stride).add(d * C::BYTES);
            while key < run_end {
                let mut v = [I::zero(); CV];
                for c in 0..CV {
                    v[c] = C::load::<I>(row.add(c * LANES * C::BYTES));
                }
                for r in 0..RB {
                    let p = I::splat(*scores.as_ptr().add((first + r) * TILE_KEYS + key - tile));
                    for c in 0..CV {
                        acc[r][c] = I::fma(p, v[c], acc[r][c]);
                    }
                }
                row = row.add(kv.dim_stride * C::BYTES);
                key += 1;
            }
        }
        for r in 0..RB {
            if first + r < call.rows {
                let at = call.out.values.add((first + r) * kv.dim_stride + d);
                for c in 0..CV {
                    I::store(at.add(c * LANES), acc[r][c]);
                }
            }
        }
    }
}

/// Adds the later segment `part` to `total`, row by row. An empty part changes nothing.
#[inline(always)]
pub unsafe fn merge<I: Isa>(total: &Partial, part: &Partial, rows: usize, dim_stride: usize) {
    unsafe {
        for r in 0..rows {
            let (old, new) = (*total.max.add(r), *part.max.add(r));
            // Scores that are all NaN have no maximum either, but a sum of NaN.
            if new == f32::NEG_INFINITY && *part.sum.add(r) == 0.0 {
                continue;
            }
            let max = if new > old { new } else { old };
            let a = I::exp2(I::splat(old - max));
            let b = I::exp2(I::splat(new - max));
            let mut scaled = [0f32; 2 * LANES];
            I::store(scaled.as_mut_ptr(), a);
            I::store(scaled.as_mut_ptr().add(LANES), b);
            *total.max.add(r) = max;
            *total.sum.add(r) = (*part.sum.add(r)).mul_add(scaled[LANES], *total.sum.add(r) * scaled[0]);
            for d in (0..dim_stride).step_by(LANES) {
                let at = total.values.add(r * dim_stride + d);
                let from = I::load(part.values.add(r * dim_stride + d));
                I::store(at, I::fma(from, b, I::mul(I::load(at), a)));
            }
        }
    }
}

/// `out[d] = values[d] / sum` of row `row`.
#[inline(always)]
pub unsafe fn finish<I: Isa>(total: &Partial, row: usize, head_dim: usize, dim_stride: usize, out: *mut f32) {
    unsafe {
        let inverse = I::splat(1.0 / *total.sum.add(row));
        for d in (0..head_dim).step_by(LANES) {
            let x = I::mul(I::load(total.values.add(row * dim_stride + d)), inverse);
            if d + LANES <= head_dim {
                I::store(out.add(d), x);
            } else {
                let mut lanes = [0f32; LANES];
                I::store(lanes.as_mut_ptr(), x);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), out.add(d), head_dim - d);
            }
        }
    }
}
