//! What a launch did, counted. Numbers are exact and do not depend on the machine; none of them is a time.

use std::fmt;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// Counts of one launch; sums over launches with `+=`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter by name.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Warp instructions issued.
    instructions,
    /// Lanes that took part, over all warp instructions (32 per instruction is the best).
    active_lanes,
    /// Lane-wise arithmetic.
    arithmetic,
    /// Branches, barriers and other control.
    control,
    /// Branches whose lanes went both ways.
    divergent_branches,
    /// Warp loads from global memory.
    global_loads,
    /// Warp stores to global memory.
    global_stores,
    /// 32-byte sectors that the global accesses touched.
    global_sectors,
    /// Sectors that the same bytes would need if they were contiguous and aligned.
    global_sectors_ideal,
    /// Warp accesses to shared memory.
    shared_accesses,
    /// Extra passes over the banks because lanes needed different words of one bank.
    bank_conflict_replays,
    /// Warp accesses to local memory (spills and arrays).
    local_accesses,
    /// Warp-level atomics.
    atomics,
    /// mma instructions, all shapes.
    mma,
    /// Multiply-adds inside mma instructions.
    mma_multiply_adds,
    /// CTA barriers passed, per warp.
    barriers,
    /// Warp-level asynchronous copies.
    async_copies,
    /// CTAs run.
    ctas,
}

impl Counters {
    /// Share of lanes that were active, 0 to 1.
    pub fn active_lane_share(&self) -> f64 {
        self.active_lanes as f64 / (32 * self.instructions.max(1)) as f64
    }

    /// A JSON object with one number per counter.
    pub fn to_json(&self) -> String {
        let fields: Vec<String> = self.entries().iter().map(|(name, n)| format!("\"{name}\":{n}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in self.entries().into_iter().filter(|(_, n)| *n > 0) {
            writeln!(f, "{name:<24} {n:>16}")?;
        }
        write!(f, "{:<24} {:>15.1}%", "active lanes", 100.0 * self.active_lane_share())
    }
}

/// 32-byte sectors touched by accesses of `bytes` at the given lanes' addresses.
pub fn sectors(addresses: &[u64; 32], mask: u32, bytes: u64) -> u64 {
    let mut touched = [0u64; 64];
    let mut n = 0;
    let (mut sorted, mut last) = (true, None);
    for (lane, &address) in addresses.iter().enumerate() {
        if mask >> lane & 1 == 0 {
            continue;
        }
        for sector in address >> 5..=(address + bytes - 1) >> 5 {
            if last != Some(sector) {
                sorted &= last.is_none_or(|l| l < sector);
                last = Some(sector);
                touched[n] = sector;
                n += 1;
            }
        }
    }
    if !sorted {
        touched[..n].sort_unstable();
        return touched[..n].windows(2).filter(|w| w[0] != w[1]).count() as u64 + n.min(1) as u64;
    }
    n as u64
}

/// Extra passes that a shared-memory access needs: the largest number of different words in one bank, less one, summed over
/// the groups of lanes that are served together (32 lanes of 4 bytes, 16 of 8, 8 of 16).
pub fn bank_replays(addresses: &[u64; 32], mask: u32, bytes: u64) -> u64 {
    let words = (bytes / 4).max(1);
    let group = (32 / words) as usize;
    let mut replays = 0;
    for lanes in (0..32).step_by(group) {
        let mut seen = [[u64::MAX; 8]; 32];
        let mut counts = [0usize; 32];
        for lane in (lanes..lanes + group).filter(|l| mask >> l & 1 != 0) {
            for word in addresses[lane] / 4..addresses[lane] / 4 + words {
                let bank = (word % 32) as usize;
                let n = counts[bank];
                if !seen[bank][..n.min(8)].contains(&word) {
                    seen[bank][n % 8] = word;
                    counts[bank] += 1;
                }
            }
        }
        replays += counts.iter().max().map_or(0, |&m| m.saturating_sub(1)) as u64;
    }
    replays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_known_patterns() {
        let at = |f: &dyn Fn(u64) -> u64| std::array::from_fn(|i| f(i as u64));
        assert_eq!(sectors(&at(&|i| 4096 + 4 * i), !0, 4), 4);
        assert_eq!(sectors(&at(&|i| 4096 + 32 * i), !0, 4), 32);
        assert_eq!(sectors(&at(&|i| 4096 + 4 * (31 - i)), !0, 4), 4);
        assert_eq!(sectors(&at(&|_| 4096), !0, 4), 1);
        assert_eq!(sectors(&at(&|i| 4096 + 16 * i), !0, 16), 16);
        assert_eq!(sectors(&at(&|i| 4096 + 4 * i), 0, 4), 0);
    }

    #[test]
    fn replays_of_known_patterns() {
        let at = |f: &dyn Fn(u64) -> u64| std::array::from_fn(|i| f(i as u64));
        assert_eq!(bank_replays(&at(&|i| 4 * i), !0, 4), 0);
        assert_eq!(bank_replays(&at(&|i| 8 * i), !0, 4), 1);
        assert_eq!(bank_replays(&at(&|i| 128 * i), !0, 4), 31);
        assert_eq!(bank_replays(&at(&|_| 64), !0, 4), 0);
        assert_eq!(bank_replays(&at(&|i| 16 * i), !0, 16), 0);
    }
}
