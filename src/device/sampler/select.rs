//! Exact selection without sorting a vocabulary.
//!
//! A token's *rank* is its order-preserving key above its complemented id: all ranks differ, a greater rank is a more likely
//! token, and among equal logits the lower id comes first. So "the k best" and "the smallest set that reaches p" are sets
//! `rank >= cut`, whatever finds the cut: quickselect here, radix digits with histograms on a GPU. The maxima of chunks, which
//! the first pass over a row leaves behind, keep later passes away from nearly all of the row.

use super::mass::{fill_masses, mass, order_key};

/// Logits per remembered maximum.
const CHUNK: usize = 64;

/// The maxima of a row's chunks.
#[derive(Debug, Default)]
pub struct Peaks {
    /// The row's largest score.
    pub max: f32,
    chunk_maxima: Vec<f32>,
    /// For selection among the maxima.
    scratch: Vec<f32>,
}

/// One token: its rank and its integer probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub rank: u64,
    pub mass: u64,
}

impl Entry {
    fn id(&self) -> u32 {
        !(self.rank as u32)
    }
}

/// What a draw keeps, in the order of filtering.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filters {
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// Q32; `2^32` is off.
    pub top_p_q32: u64,
    /// The smallest mass kept.
    pub min_mass: u64,
}

/// Buffers of a draw, allocated once.
#[derive(Debug, Default)]
pub struct Drawer {
    masses: Vec<u64>,
    ranks: Vec<u64>,
    scratch_ranks: Vec<u64>,
    entries: Vec<Entry>,
    scratch: Vec<Entry>,
}

/// What orders tokens by likelihood; all ranks of a row differ.
pub fn rank(id: u32, score: f32) -> u64 {
    u64::from(order_key(score)) << 32 | u64::from(!id)
}

impl Peaks {
    /// Reads a row; whether all of it is finite.
    pub fn scan(&mut self, row: &[f32]) -> bool {
        let mut bad = 0;
        self.max = f32::NEG_INFINITY;
        self.chunk_maxima.clear();
        for chunk in row.chunks(CHUNK) {
            let peak = chunk_peak(chunk, &mut bad);
            self.chunk_maxima.push(peak);
            self.max = if peak > self.max { peak } else { self.max };
        }
        // -0 becomes +0: which of the two came first must not matter.
        self.max += 0.0;
        bad == 0
    }

    /// The first index of the maximum of the scanned row.
    pub fn argmax(&self, row: &[f32]) -> u32 {
        let chunk = self.chunk_maxima.iter().position(|&m| m == self.max).unwrap_or(0);
        let start = chunk * CHUNK;
        let within = row[start..].iter().position(|&x| x == self.max).unwrap_or(0);
        (start + within) as u32
    }

    /// A score that at least `n` of the row's reach, and not many more: the n-th largest chunk maximum.
    fn lower_bound_of_nth(&mut self, n: usize) -> f32 {
        if n == 0 || n > self.chunk_maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.scratch.clone_from(&self.chunk_maxima);
        *self.scratch.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1
    }

    /// The ranks of all scores that reach `cut`, ids ascending.
    fn collect(&self, row: &[f32], cut: f32, ranks: &mut Vec<u64>) {
        ranks.clear();
        for (index, (chunk, &peak)) in row.chunks(CHUNK).zip(&self.chunk_maxima).enumerate() {
            if peak >= cut {
                let start = (index * CHUNK) as u32;
                let ranked = |(i, &x): (usize, &f32)| rank(start + i as u32, x);
                ranks.extend(chunk.iter().enumerate().filter(|&(_, &x)| x >= cut).map(ranked));
            }
        }
    }

    /// Ids of the `n` largest scores, best first, lower id first among equals.
    pub fn best(&mut self, row: &[f32], n: usize, drawer: &mut Drawer) -> Vec<u32> {
        let n = n.min(row.len());
        if n == 0 {
            return Vec::new();
        }
        let ranks = &mut drawer.ranks;
        let cut = self.lower_bound_of_nth(n);
        self.collect(row, cut, ranks);
        ranks.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
        ranks.truncate(n);
        ranks.sort_unstable_by(|a, b| b.cmp(a));
        ranks.iter().map(|rank| !(*rank as u32)).collect()
    }
}

/// The largest value of a chunk; adds to `bad` if one is not finite.
#[inline(always)]
fn chunk_peak(chunk: &[f32], bad: &mut u32) -> f32 {
    const LANES: usize = 16;
    let (mut peaks, mut bads) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let groups = chunk.chunks_exact(LANES);
    let rest = groups.remainder();
    for group in groups {
        for ((peak, bad), &x) in peaks.iter_mut().zip(&mut bads).zip(group) {
            *peak = if x > *peak { x } else { *peak };
            *bad |= u32::from(!x.is_finite());
        }
    }
    for ((peak, bad), &x) in peaks.iter_mut().zip(&mut bads).zip(rest) {
        *peak = if x > *peak { x } else { *peak };
        *bad |= u32::from(!x.is_finite());
    }
    *bad |= bads.into_iter().fold(0, |a, b| a | b);
    peaks.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

impl Drawer {
    /// Draws a token of `scores`, whose peaks are given: filters, then the token whose share of the mass that is left holds
    /// `random · mass / 2^64`, ids ascending. The maximum must not be -inf.
    pub fn draw(&mut self, scores: &[f32], peaks: &mut Peaks, filters: &Filters, random: u64) -> u32 {
        let Filters { temperature, top_k, top_p_q32, min_mass } = *filters;
        let (max, top_k) = (peaks.max, top_k as usize);
        if top_k > 0 && top_k < scores.len() {
            let cut = peaks.lower_bound_of_nth(top_k);
            peaks.collect(scores, cut, &mut self.ranks);
            self.scratch_ranks.clone_from(&self.ranks);
            let cut = *self.scratch_ranks.select_nth_unstable_by(top_k - 1, |a, b| b.cmp(a)).1;
            self.entries.clear();
            let entry = |&rank: &u64| Entry { rank, mass: mass((scores[!(rank as u32) as usize] - max) / temperature) };
            self.entries.extend(self.ranks.iter().filter(|&&rank| rank >= cut).map(entry));
            let target = target_mass(total(&self.entries), top_p_q32);
            keep_top_p(&mut self.entries, &mut self.scratch, target);
        } else {
            let total = fill_masses(scores, max, temperature, &mut self.masses);
            if top_p_q32 >= 1 << 32 {
                return draw_dense(&self.masses, min_mass, random);
            }
            let target = target_mass(total, top_p_q32);
            self.collect_reaching(scores, peaks, temperature, total, target);
            keep_top_p(&mut self.entries, &mut self.scratch, target);
        }
        self.entries.retain(|e| e.mass >= min_mass);
        draw(&self.entries, random)
    }

    /// Entries that hold the smallest set of mass `target`: all above a score that leaves out less than `total - target`.
    fn collect_reaching(&mut self, scores: &[f32], peaks: &Peaks, temperature: f32, total: u64, target: u64) {
        // Tokens of at most this mass cannot add up to what may be left out. The logarithm need not be exact: what was
        // collected is checked.
        let small = (total - target) as f64 / scores.len() as f64 / super::MASS_ONE as f64;
        let mut cut = peaks.max + temperature * small.ln() as f32;
        loop {
            peaks.collect(scores, cut, &mut self.ranks);
            let masses = &self.masses;
            self.entries.clear();
            self.entries.extend(self.ranks.iter().map(|&rank| Entry { rank, mass: masses[!(rank as u32) as usize] }));
            if self::total(&self.entries) >= target {
                return;
            }
            cut = f32::NEG_INFINITY;
        }
    }
}

/// `ceil(total · p)`, at least 1, so that one token always survives.
pub fn target_mass(total: u64, p_q32: u64) -> u64 {
    (u128::from(total) * u128::from(p_q32)).div_ceil(1 << 32).max(1) as u64
}

/// Keeps the smallest set of `entries`, in descending order of rank, whose mass reaches `target`; their order stays.
pub fn keep_top_p(entries: &mut Vec<Entry>, scratch: &mut Vec<Entry>, target: u64) {
    if target >= total(entries) {
        // At most tokens of mass 0 are left out, which no draw finds.
        return;
    }
    scratch.clone_from(entries);
    let mut rest = scratch.as_mut_slice();
    let mut needed = target;
    // Halving by quickselect: all of `rest` but its best half is looked at once.
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle - 1, |a, b| b.rank.cmp(&a.rank));
        let (best, others) = rest.split_at_mut(middle);
        let mass = total(best);
        if mass >= needed {
            rest = best;
        } else {
            needed -= mass;
            rest = others;
        }
    }
    if let Some(last) = rest.first() {
        let cut = last.rank;
        entries.retain(|e| e.rank >= cut);
    }
}

fn total(entries: &[Entry]) -> u64 {
    entries.iter().fold(0, |sum, e| sum + e.mass)
}

/// `random · total / 2^64`: uniform below `total`.
fn scale(random: u64, total: u64) -> u64 {
    ((u128::from(random) * u128::from(total)) >> 64) as u64
}

fn draw(entries: &[Entry], random: u64) -> u32 {
    let mut left = scale(random, total(entries));
    for entry in entries {
        if left < entry.mass {
            return entry.id();
        }
        left -= entry.mass;
    }
    unreachable!("the drawn mass is below the total")
}

/// Like `draw`, over a whole vocabulary: id = index, only masses of at least `min_mass` count.
fn draw_dense(masses: &[u64], min_mass: u64, random: u64) -> u32 {
    let counted = |mass: u64| if mass >= min_mass { mass } else { 0 };
    let sum = |masses: &[u64]| masses.iter().fold(0u64, |sum, &mass| sum.wrapping_add(counted(mass)));
    let mut left = scale(random, sum(masses));
    for (index, chunk) in masses.chunks(CHUNK).enumerate() {
        let mass = sum(chunk);
        if left >= mass {
            left -= mass;
            continue;
        }
        for (i, &mass) in chunk.iter().enumerate() {
            if left < counted(mass) {
                return (index * CHUNK + i) as u32;
            }
            left -= counted(mass);
        }
    }
    unreachable!("the drawn mass is below the total")
}
