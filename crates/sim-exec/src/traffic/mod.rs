//! Bytes from and to DRAM, under a model of the L2 that gives the same numbers for every schedule.
//!
//! The L2 is empty when a launch begins, holds everything that the launch touches, and is written back when it ends. So each
//! 32-byte sector comes from DRAM once if any of its words is read before the launch wrote it, and goes to DRAM once if any of
//! its words is written; partial writes need no read, as the L2 keeps a mask of bytes. The order that matters is only that of
//! accesses to one word, which a kernel without races fixes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::counters::Counters;
use crate::memory::Allocation;

/// Bytes of an L2 line: one shadow entry.
const LINE_BYTES: u64 = 128;
const SECTOR_BYTES: u64 = 32;
const LINES_PER_PAGE: usize = 512;
/// All 32 words of a line.
const ALL_WORDS: u64 = 0xffff_ffff;

/// Bytes of the L2 of a typical device of a compute capability: A100, RTX 4090, H100, B200 and RTX 5090.
pub fn l2_bytes((major, minor): (u32, u32)) -> u64 {
    let mib = match (major, minor) {
        (8, 0) => 40,
        (8, _) => 72,
        (9, _) => 50,
        (10, _) => 126,
        _ => 96,
    };
    mib << 20
}

/// How an access uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Write,
    /// An atomic: reads, then writes.
    Update,
}

/// Per line: in the low half, words read before the launch wrote them; in the high half, words written.
type Page = Box<[AtomicU64; LINES_PER_PAGE]>;
type Pages = Box<[OnceLock<Page>]>;

/// What a launch touched, allocation by allocation; pages appear when they are first touched.
#[derive(Debug)]
pub struct Traffic {
    allocations: Box<[OnceLock<Pages>]>,
}

impl Traffic {
    /// Nothing touched yet, of so many allocations.
    pub fn new(allocations: usize) -> Self {
        Traffic { allocations: (0..allocations).map(|_| OnceLock::new()).collect() }
    }

    /// Records an access to `bytes` at `offset` of the allocation with number `at`.
    #[inline]
    pub fn touch(&self, at: usize, allocation: &Allocation, offset: u64, bytes: u64, touch: Touch) {
        let pages = self.allocations[at].get_or_init(|| {
            let lines = allocation.bytes.div_ceil(LINE_BYTES) as usize;
            (0..lines.div_ceil(LINES_PER_PAGE)).map(|_| OnceLock::new()).collect()
        });
        let end = offset + bytes;
        let mut from = offset;
        while from < end {
            let line = (from / LINE_BYTES) as usize;
            let page = pages[line / LINES_PER_PAGE].get_or_init(new_page);
            let page_end = ((line / LINES_PER_PAGE + 1) * LINES_PER_PAGE) as u64 * LINE_BYTES;
            if from.is_multiple_of(LINE_BYTES) && end - from >= LINE_BYTES {
                let to = (end / LINE_BYTES * LINE_BYTES).min(page_end);
                let count = ((to - from) / LINE_BYTES) as usize;
                page[line % LINES_PER_PAGE..][..count].iter().for_each(|line| touch_whole(line, touch));
                from = to;
            } else {
                let to = end.min((line as u64 + 1) * LINE_BYTES);
                let (first, last) = (from % LINE_BYTES / 4, (to - 1) % LINE_BYTES / 4);
                let words = (1u64 << (last + 1)) - (1 << first);
                touch_words(&page[line % LINES_PER_PAGE], words, touch);
                from = to;
            }
        }
    }

    /// Adds footprint and DRAM bytes to a launch's counters.
    pub fn add_to(&self, counters: &mut Counters) {
        let pages = self.allocations.iter().filter_map(OnceLock::get).flat_map(|pages| pages.iter());
        for line in pages.filter_map(OnceLock::get).flat_map(|page| page.iter()) {
            let line = line.load(Relaxed);
            let (read, written) = (line as u32, (line >> 32) as u32);
            counters.dram_read_bytes += SECTOR_BYTES * sectors(read);
            counters.dram_write_bytes += SECTOR_BYTES * sectors(written);
            counters.footprint_bytes += SECTOR_BYTES * sectors(read | written);
        }
    }
}

fn new_page() -> Page {
    Box::new([const { AtomicU64::new(0) }; LINES_PER_PAGE])
}

/// All words of a line. Another host thread's access to it at this moment can only be of the same kind, or it races in the
/// kernel: so no update is lost that the numbers need.
#[inline]
fn touch_whole(line: &AtomicU64, touch: Touch) {
    let old = line.load(Relaxed);
    let new = old | news(old, ALL_WORDS, touch);
    if new != old {
        line.store(new, Relaxed);
    }
}

/// Some words of a line, whose others may belong to other threads.
#[inline]
fn touch_words(line: &AtomicU64, words: u64, touch: Touch) {
    let old = line.load(Relaxed);
    let new = news(old, words, touch);
    if new & !old != 0 {
        line.fetch_or(new, Relaxed);
    }
}

/// What an access to words adds to what is known of their line.
#[inline]
fn news(old: u64, words: u64, touch: Touch) -> u64 {
    let read = if touch == Touch::Write { 0 } else { words & !(old >> 32) };
    let written = if touch == Touch::Read { 0 } else { words << 32 };
    read | written
}

/// Sectors of a line with any of their eight words in the mask.
fn sectors(words: u32) -> u64 {
    words.to_le_bytes().iter().filter(|sector| **sector != 0).count() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::DeviceMemory;

    /// Three pages of lines, and a little more.
    const BYTES: u64 = 3 * LINES_PER_PAGE as u64 * LINE_BYTES + 52;

    proptest! {
        #[test]
        fn bytes_match_a_model_of_single_words(
            accesses in prop::collection::vec((0..BYTES / 4, 1u64..400, 0usize..3), 1..60),
            near in any::<bool>(),
        ) {
            let memory = DeviceMemory::new(1 << 20);
            let base = memory.alloc(BYTES, "buffer").expect("memory");
            let allocation = memory.find(base).expect("just allocated");
            let traffic = Traffic::new(1);
            let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
            for (start, words, kind) in accesses {
                let start = if near { start % 256 } else { start };
                let words = words.min(BYTES / 4 - start);
                let touch = [Touch::Read, Touch::Write, Touch::Update][kind];
                traffic.touch(0, &allocation, 4 * start, 4 * words, touch);
                for word in start..start + words {
                    if touch != Touch::Write && !written.contains(&word) {
                        read.insert(word);
                    }
                    if touch != Touch::Read {
                        written.insert(word);
                    }
                }
            }
            let sectors = |words: &BTreeSet<u64>| words.iter().map(|w| w / 8).collect::<BTreeSet<u64>>();
            let (read, written) = (sectors(&read), sectors(&written));
            let mut counters = Counters::default();
            traffic.add_to(&mut counters);
            prop_assert_eq!(counters.dram_read_bytes, 32 * read.len() as u64);
            prop_assert_eq!(counters.dram_write_bytes, 32 * written.len() as u64);
            prop_assert_eq!(counters.footprint_bytes, 32 * read.union(&written).count() as u64);
        }
    }
}
