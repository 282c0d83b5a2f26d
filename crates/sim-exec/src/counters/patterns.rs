//! What one warp access asks of memory: sectors of global memory, passes over the banks of shared memory.

use crate::lanes::{FULL, Lanes, Mask, WARP};

/// Banks of shared memory, each 4 bytes wide.
const BANKS: usize = 32;
/// Bytes that shared memory serves in one pass.
const PASS_BYTES: u64 = 128;
/// Bytes of a sector of global memory.
const SECTOR_BYTES: u64 = 32;

/// Sectors that an access of global memory touches, and how many its distinct bytes would fill if they were contiguous and
/// aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sectors {
    pub touched: u64,
    pub ideal: u64,
}

impl Sectors {
    /// Of `bytes` bytes from `start` on.
    #[inline]
    pub fn of_range(start: u64, bytes: u64) -> Self {
        let touched = ((start + bytes - 1) / SECTOR_BYTES) - start / SECTOR_BYTES + 1;
        Sectors { touched, ideal: bytes.div_ceil(SECTOR_BYTES) }
    }

    /// Of accesses of `bytes` per lane.
    pub fn of_lanes(addresses: &Lanes, mask: Mask, bytes: u64) -> Self {
        let mut starts = [0; WARP];
        let mut n = 0;
        for (lane, &address) in addresses.iter().enumerate() {
            if mask >> lane & 1 != 0 && (n == 0 || starts[n - 1] != address) {
                starts[n] = address;
                n += 1;
            }
        }
        let starts = &mut starts[..n];
        if !starts.is_sorted() {
            starts.sort_unstable();
        }
        // Ranges in order of their start; what earlier ones covered counts once.
        let (mut touched, mut distinct) = (0, 0);
        let (mut next_sector, mut next_byte) = (0, 0);
        for &start in starts.iter() {
            let end = start + bytes;
            let (first, last) = (next_sector.max(start / SECTOR_BYTES), (end - 1) / SECTOR_BYTES);
            touched += (last + 1).saturating_sub(first);
            next_sector = next_sector.max(last + 1);
            distinct += end.saturating_sub(start.max(next_byte));
            next_byte = next_byte.max(end);
        }
        Sectors { touched, ideal: distinct.div_ceil(SECTOR_BYTES) }
    }
}

/// Whether all lanes take part and their accesses of `bytes` follow each other without a gap.
#[inline]
pub fn is_consecutive(addresses: &Lanes, mask: Mask, bytes: u64) -> bool {
    mask == FULL && addresses.iter().zip(0u64..).all(|(&a, i)| a == addresses[0].wrapping_add(i * bytes))
}

/// Extra passes that a shared-memory access needs. Lanes are served in groups whose bytes fill one pass: 32 lanes of up to 4
/// bytes, 16 of 8, 8 of 16. A group needs as many passes as the bank with the most different words asked of it; lanes that ask
/// for the same word share it.
pub fn bank_replays(addresses: &Lanes, mask: Mask, bytes: u64) -> u64 {
    if is_consecutive(addresses, mask, bytes) {
        return 0;
    }
    let group = (PASS_BYTES / bytes.max(4)) as usize;
    (0..WARP).step_by(group).map(|first| group_replays(addresses, mask, bytes, first, group)).sum()
}

fn group_replays(addresses: &Lanes, mask: Mask, bytes: u64, first: usize, lanes: usize) -> u64 {
    const NONE: u8 = u8::MAX;
    // Per bank a list of the different words asked of it, as indices into `words`.
    let (mut heads, mut counts) = ([NONE; BANKS], [0u8; BANKS]);
    let (mut words, mut next) = ([0u64; BANKS], [NONE; BANKS]);
    let mut used = 0;
    for lane in (first..first + lanes).filter(|l| mask >> l & 1 != 0) {
        for word in addresses[lane] / 4..=(addresses[lane] + bytes - 1) / 4 {
            let bank = (word % BANKS as u64) as usize;
            let mut at = heads[bank];
            while at != NONE && words[at as usize] != word {
                at = next[at as usize];
            }
            if at == NONE {
                (words[used], next[used]) = (word, heads[bank]);
                heads[bank] = used as u8;
                counts[bank] += 1;
                used += 1;
            }
        }
    }
    u64::from(counts.iter().max().map_or(0, |most| most.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn at(f: impl Fn(u64) -> u64) -> Lanes {
        std::array::from_fn(|i| f(i as u64))
    }

    fn coalescing(addresses: &Lanes, mask: Mask, bytes: u64) -> (u64, u64) {
        let lanes = Sectors::of_lanes(addresses, mask, bytes);
        if is_consecutive(addresses, mask, bytes) {
            assert_eq!(Sectors::of_range(addresses[0], 32 * bytes), lanes);
        }
        (lanes.touched, lanes.ideal)
    }

    #[test]
    fn sectors_of_known_patterns() {
        assert_eq!(coalescing(&at(|i| 4096 + 4 * i), FULL, 4), (4, 4));
        assert_eq!(coalescing(&at(|i| 4112 + 4 * i), FULL, 4), (5, 4));
        assert_eq!(coalescing(&at(|i| 4096 + 32 * i), FULL, 4), (32, 4));
        assert_eq!(coalescing(&at(|i| 4096 + 4 * (31 - i)), FULL, 4), (4, 4));
        assert_eq!(coalescing(&at(|_| 4096), FULL, 4), (1, 1));
        assert_eq!(coalescing(&at(|i| 4096 + 16 * i), FULL, 16), (16, 16));
        assert_eq!(coalescing(&at(|i| 4096 + 4 * i), 0, 4), (0, 0));
    }

    #[test]
    fn replays_of_known_patterns() {
        assert_eq!(bank_replays(&at(|i| 4 * i), FULL, 4), 0);
        assert_eq!(bank_replays(&at(|i| 8 * i), FULL, 4), 1);
        assert_eq!(bank_replays(&at(|i| 128 * i), FULL, 4), 31);
        assert_eq!(bank_replays(&at(|i| 132 * i), FULL, 4), 0);
        assert_eq!(bank_replays(&at(|_| 64), FULL, 4), 0);
        assert_eq!(bank_replays(&at(|i| i), FULL, 1), 0);
        assert_eq!(bank_replays(&at(|i| 16 * i), FULL, 16), 0);
        assert_eq!(bank_replays(&at(|i| 128 * i), FULL, 16), 28);
        assert_eq!(bank_replays(&at(|i| 128 * i), 0xff, 16), 7);
    }

    /// Addresses that are random, strided, close together, or mixed, aligned to the access.
    fn accesses() -> impl Strategy<Value = (Lanes, Mask, u64)> {
        let pattern = (0u64..4, 1u64..64, 1u64..4096, any::<[u16; 32]>());
        (prop_oneof![Just(1u64), Just(2), Just(4), Just(8), Just(16)], prop_oneof![Just(FULL), any::<u32>()], pattern)
            .prop_map(|(bytes, mask, (kind, stride, spread, random))| {
                let addresses = at(|i| {
                    let noise = u64::from(random[i as usize]);
                    let element = match kind {
                        0 => i,
                        1 => i * stride,
                        2 => noise % spread,
                        _ => i * stride + noise % 2,
                    };
                    65536 + element * bytes
                });
                (addresses, mask, bytes)
            })
    }

    proptest! {
        #[test]
        fn sectors_and_ideal_match_sets_of_bytes((addresses, mask, bytes) in accesses()) {
            let touched: BTreeSet<u64> = (0..32)
                .filter(|l| mask >> l & 1 != 0)
                .flat_map(|l| addresses[l]..addresses[l] + bytes)
                .collect();
            let sectors: BTreeSet<u64> = touched.iter().map(|byte| byte / 32).collect();
            prop_assert_eq!(
                coalescing(&addresses, mask, bytes),
                (sectors.len() as u64, (touched.len() as u64).div_ceil(32))
            );
        }

        #[test]
        fn replays_match_sets_of_words_per_bank((addresses, mask, bytes) in accesses()) {
            let lanes_together = if bytes == 16 { 8 } else if bytes == 8 { 16 } else { 32 };
            let mut expected = 0;
            for group in 0..32 / lanes_together {
                let mut banks: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
                for lane in (group * lanes_together..(group + 1) * lanes_together).filter(|l| mask >> l & 1 != 0) {
                    for byte in addresses[lane]..addresses[lane] + bytes {
                        banks.entry(byte / 4 % 32).or_default().insert(byte / 4);
                    }
                }
                expected += banks.values().map(BTreeSet::len).max().unwrap_or(1) - 1;
            }
            prop_assert_eq!(bank_replays(&addresses, mask, bytes), expected as u64);
        }
    }
}
