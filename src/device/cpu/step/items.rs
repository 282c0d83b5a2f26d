//! Items of a stage: which thread takes which, and when a phase is complete.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Who has taken and finished what in one stage.
#[derive(Debug)]
pub struct OpCounters {
    pub first_taken: AtomicUsize,
    pub first_done: AtomicUsize,
    /// Per thread: taken of its own share of the second phase.
    second_taken: Vec<Share>,
}

/// One thread's counter, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share(AtomicUsize);

impl OpCounters {
    pub fn new(threads: usize) -> OpCounters {
        OpCounters {
            first_taken: AtomicUsize::new(0),
            first_done: AtomicUsize::new(0),
            second_taken: (0..threads).map(|_| Share::default()).collect(),
        }
    }

    pub fn reset(&self) {
        self.first_taken.store(0, Ordering::Relaxed);
        self.first_done.store(0, Ordering::Relaxed);
        self.second_taken.iter().for_each(|share| share.0.store(0, Ordering::Relaxed));
    }

    /// The next item of `items` for `thread`: of its own contiguous share first, so that it streams weights in the order
    /// they lie, then of what others have left.
    pub fn next_item(&self, thread: usize, items: usize) -> Option<usize> {
        let threads = self.second_taken.len();
        (0..threads).map(|i| (thread + i) % threads).find_map(|owner| {
            let share = share_of(owner, threads, items);
            let taken = &self.second_taken[owner].0;
            // Looking first keeps counters of drained shares from growing.
            if share.start + taken.load(Ordering::Relaxed) >= share.end {
                return None;
            }
            let item = share.start + taken.fetch_add(1, Ordering::Relaxed);
            (item < share.end).then_some(item)
        })
    }
}

/// The contiguous share of `items` that is `thread`'s own.
pub fn share_of(thread: usize, threads: usize, items: usize) -> std::ops::Range<usize> {
    items * thread / threads..items * (thread + 1) / threads
}
