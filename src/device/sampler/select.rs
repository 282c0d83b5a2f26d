//! Exact selection without sorting: three radix digits over order-preserving keys, as a GPU does it in shared memory.

/// One token: its logit as a key that sorts, its id, its integer probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: u32,
    pub index: u32,
    pub mass: u64,
}

/// Digits of a 32-bit key, highest first: (shift, bits).
const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];

/// A threshold among keys: everything above it, and so many equal to it, in index order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    key: u32,
    ties: u64,
}

/// Keeps the `k` entries with the largest keys, lower indices first among equals; 0 keeps all.
pub fn keep_top_k(entries: &mut Vec<Entry>, k: usize) {
    if k == 0 || k >= entries.len() {
        return;
    }
    let (key, above) = descend(entries, k as u64, |_| 1);
    keep(entries, Cut { key, ties: k as u64 - above });
}

/// Keeps the smallest set, in descending order, whose mass reaches `p` (Q32) of the total; at least one entry.
pub fn keep_top_p(entries: &mut Vec<Entry>, p_q32: u64) {
    if p_q32 >= 1 << 32 {
        return;
    }
    let total: u64 = entries.iter().map(|e| e.mass).sum();
    let target = (u128::from(total) * u128::from(p_q32)).div_ceil(1 << 32).max(1) as u64;
    let (key, above) = descend(entries, target, |e| e.mass);
    // Entries of one key have one mass.
    let mass = entries.iter().find(|e| e.key == key).map_or(1, |e| e.mass.max(1));
    keep(entries, Cut { key, ties: (target - above).div_ceil(mass) });
}

/// The id whose share of the total mass holds `random · total / 2^64`, ids ascending.
pub fn draw(entries: &[Entry], random: u64) -> u32 {
    let total: u64 = entries.iter().map(|e| e.mass).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    for entry in entries {
        if left < entry.mass {
            return entry.index;
        }
        left -= entry.mass;
    }
    unreachable!("the drawn mass is below the total")
}

/// The key at which the running weight from the top reaches `target`, and the weight of all keys above it.
fn descend(entries: &[Entry], target: u64, weight: impl Fn(&Entry) -> u64) -> (u32, u64) {
    let (mut prefix, mut above) = (0u32, 0u64);
    let mut fixed = 0u32;
    for (shift, bits) in DIGITS {
        let mut histogram = vec![0u64; 1 << bits];
        for entry in entries.iter().filter(|e| e.key & fixed == prefix) {
            histogram[(entry.key >> shift) as usize & ((1 << bits) - 1)] += weight(entry);
        }
        let mut digit = histogram.len() - 1;
        while above + histogram[digit] < target && digit > 0 {
            above += histogram[digit];
            digit -= 1;
        }
        prefix |= (digit as u32) << shift;
        fixed |= ((1 << bits) - 1) << shift;
    }
    (prefix, above)
}

fn keep(entries: &mut Vec<Entry>, cut: Cut) {
    let mut ties = cut.ties;
    entries.retain(|e| {
        if e.key == cut.key && ties > 0 {
            ties -= 1;
            return true;
        }
        e.key > cut.key
    });
}

/// Indices of the `n` largest logits, best first, lower index first among equals.
pub fn best(logits: &[f32], n: usize) -> Vec<u32> {
    let n = n.min(logits.len());
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(n + 1);
    for (i, &logit) in logits.iter().enumerate() {
        if best.len() == n && best.last().is_none_or(|&(worst, _)| logit <= worst) {
            continue;
        }
        let at = best.partition_point(|&(other, _)| other >= logit);
        best.insert(at, (logit, i as u32));
        best.truncate(n);
    }
    best.into_iter().map(|(_, i)| i).collect()
}
