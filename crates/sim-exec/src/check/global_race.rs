//! Who touched each word of global memory last in this launch.
//!
//! A word's shadow is two packed 64-bit entries (last write, last read), in pages that are made when first touched, so that
//! memory that no kernel touches costs nothing. Lost updates between host threads lose a report, never invent one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::clock::{Actor, Clock, Conflict};

const PAGE_WORDS: usize = 1024;
const LAUNCH_BITS: u32 = 9;
const TICK_BITS: u32 = 15;
const WARP_BITS: u32 = 8;
const CLUSTER_BITS: u32 = 22;

/// Launch numbers that fit an entry; the shadow must be cleared when they wrap.
pub const LAUNCHES: u64 = 1 << LAUNCH_BITS;

#[derive(Debug)]
struct Page {
    writes: Box<[AtomicU64]>,
    reads: Box<[AtomicU64]>,
}

/// The shadow of one allocation.
#[derive(Debug)]
pub struct RaceShadow {
    pages: Box<[OnceLock<Page>]>,
}

/// An access to check.
#[derive(Clone, Copy, Debug)]
pub struct GlobalAccess {
    pub word: usize,
    /// Bytes of the word, a nibble.
    pub bytes: u8,
    pub lane: usize,
    pub atomic: bool,
    /// The launch's number modulo [`LAUNCHES`].
    pub launch: u64,
}

/// Fields of an entry, lowest first: bytes 4, atomic 1, lane 5, warp, tick, launch, cluster.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn new(who: &Actor<'_>, access: GlobalAccess) -> Option<Self> {
        let tick = u64::from(who.clock.own[who.warp]);
        let fits = tick < 1 << TICK_BITS && who.warp < 1 << WARP_BITS && who.cluster < 1 << CLUSTER_BITS;
        fits.then(|| {
            let mut bits = u64::from(who.cluster);
            bits = bits << LAUNCH_BITS | access.launch;
            bits = bits << TICK_BITS | tick;
            bits = bits << WARP_BITS | who.warp as u64;
            bits = bits << 5 | access.lane as u64;
            Entry(bits << 5 | u64::from(access.atomic) << 4 | u64::from(access.bytes))
        })
    }

    fn field(self, shift: u32, bits: u32) -> u64 {
        self.0 >> shift & ((1 << bits) - 1)
    }

    /// Whether it is of the same launch as `new`, but of another cluster.
    fn is_of_another_cluster(self, new: Entry) -> bool {
        let top = 10 + WARP_BITS + TICK_BITS;
        self.field(top, LAUNCH_BITS) == new.field(top, LAUNCH_BITS)
            && self.0 != 0
            && self.0 >> (top + LAUNCH_BITS) != new.0 >> (top + LAUNCH_BITS)
    }

    fn conflict(self, who: &Actor<'_>, access: GlobalAccess, wrote: bool) -> Option<Conflict> {
        let atomic = self.0 >> 4 & 1 != 0;
        let launch = self.field(10 + WARP_BITS + TICK_BITS, LAUNCH_BITS);
        if self.0 as u8 & access.bytes & 15 == 0 || atomic && access.atomic || launch != access.launch {
            return None;
        }
        let lane = self.field(5, 5) as usize;
        let warp = self.field(10, WARP_BITS) as usize;
        let tick = self.field(10 + WARP_BITS, TICK_BITS) as u32;
        let cluster = self.field(10 + WARP_BITS + TICK_BITS + LAUNCH_BITS, CLUSTER_BITS) as u32;
        let ordered = if cluster != who.cluster {
            who.clock.knows_foreign(cluster, warp, tick)
        } else if warp == who.warp {
            lane == access.lane || tick < who.clock.own[warp]
        } else {
            tick <= who.clock.own[warp]
        };
        (!ordered).then_some(Conflict {
            other_cluster: cluster,
            other_warp: warp,
            other_lane: lane,
            other_wrote: wrote,
        })
    }
}

impl RaceShadow {
    pub fn new(words: usize) -> Self {
        RaceShadow { pages: (0..words.div_ceil(PAGE_WORDS)).map(|_| OnceLock::new()).collect() }
    }

    /// Forgets everything: launch numbers are about to repeat.
    pub fn clear(&self) {
        for page in self.pages.iter().filter_map(OnceLock::get) {
            page.writes.iter().chain(page.reads.iter()).for_each(|e| e.store(0, Relaxed));
        }
    }

    /// Checks a read against the last write and remembers it.
    #[inline]
    pub fn read(&self, who: &Actor<'_>, access: GlobalAccess) -> Option<Conflict> {
        let page = self.page(access.word);
        let at = access.word % PAGE_WORDS;
        let conflict = Entry(page.writes[at].load(Relaxed)).conflict(who, access, true);
        if let Some(entry) = Entry::new(who, access) {
            page.reads[at].store(entry.0, Relaxed);
        }
        conflict
    }

    /// Checks reads of `count` whole words from `access.word` on.
    pub fn read_words(&self, who: &Actor<'_>, access: GlobalAccess, count: usize) -> Option<Conflict> {
        let entry = Entry::new(who, access);
        let mut conflict = None;
        let mut word = access.word;
        let end = access.word + count;
        while word < end {
            let page = self.page(word);
            let (from, to) = (word % PAGE_WORDS, (word % PAGE_WORDS + end - word).min(PAGE_WORDS));
            for (write, read) in page.writes[from..to].iter().zip(&page.reads[from..to]) {
                let last = write.load(Relaxed);
                if last != 0 && conflict.is_none() {
                    conflict = Entry(last).conflict(who, access, true);
                }
                // The first cluster that reads a word in a launch stays on record: input that all CTAs read would
                // otherwise move its shadow between the cores with every load.
                if let Some(entry) = entry
                    && !Entry(read.load(Relaxed)).is_of_another_cluster(entry)
                {
                    read.store(entry.0, Relaxed);
                }
            }
            word += to - from;
        }
        conflict
    }

    /// Checks a write against the last write and the last read, and remembers it; `same` for a write that changes nothing.
    #[inline]
    pub fn write(&self, who: &Actor<'_>, access: GlobalAccess, same: bool) -> Option<Conflict> {
        let page = self.page(access.word);
        let at = access.word % PAGE_WORDS;
        let conflict = if same {
            None
        } else {
            Entry(page.writes[at].load(Relaxed))
                .conflict(who, access, true)
                .or_else(|| Entry(page.reads[at].load(Relaxed)).conflict(who, access, false))
        };
        if let Some(entry) = Entry::new(who, access) {
            page.writes[at].store(entry.0, Relaxed);
        }
        conflict
    }

    /// A write of this launch to the words from `access.word` on that `fenced` does not know of. Bulk copies' own writes, as warp
    /// `proxy` of a cluster, need no fence.
    pub fn unfenced_write(
        &self,
        fenced: &Clock,
        (cluster, proxy): (u32, usize),
        access: GlobalAccess,
        count: usize,
    ) -> Option<Conflict> {
        // Nobody's access: neither its own lane nor its own warp orders a write.
        let nobody = Actor { clock: fenced, cluster, warp: usize::MAX };
        let writes = (access.word..access.word + count).map(|w| self.page(w).writes[w % PAGE_WORDS].load(Relaxed));
        let unfenced = writes.filter(|w| *w != 0).find_map(|w| Entry(w).conflict(&nobody, access, true));
        unfenced.filter(|conflict| conflict.other_warp != proxy)
    }

    fn page(&self, word: usize) -> &Page {
        self.pages[word / PAGE_WORDS].get_or_init(|| Page {
            writes: (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect(),
            reads: (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect(),
        })
    }
}
