//! Vector clocks over the warps of a cluster, with what is known about other clusters beside them (FastTrack, Flanagan and
//! Freund 2009, with warps for threads: lanes of one warp are ordered by the warp's own clock, which every warp-wide
//! synchronisation advances).

use std::collections::HashMap;
use std::sync::Arc;

/// What a warp knows to have happened.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Warps of the own cluster: the last tick known to be complete, but for the warp itself its current tick.
    pub own: Vec<u32>,
    /// Other clusters, by cluster number.
    pub foreign: Arc<HashMap<u32, Vec<u32>>>,
    fenced: Fenced,
}

/// Which generic writes the asynchronous proxy may read: those that a `fence.proxy.async` stands behind, wherever on the way from
/// the writer to the reader that is. Empty until the first such fence.
#[derive(Clone, Debug, Default)]
struct Fenced {
    /// By warp: writes up to this tick, which another warp's fence covers.
    ticks: Vec<u32>,
    /// By warp: writes up to this epoch, a number that each of the warp's own fences raises.
    epochs: Vec<u32>,
    /// What was known at fences of global memory, of all clusters. It has no such knowledge of its own.
    global: Option<Box<Clock>>,
}

impl Clock {
    /// The clock of warp `me` of `warps` at the start.
    pub fn start(warps: usize, me: usize) -> Self {
        let mut own = vec![0; warps];
        own[me] = 1;
        Clock { own, ..Clock::default() }
    }

    /// A clock that knows nothing.
    pub fn empty(warps: usize) -> Self {
        Clock { own: vec![0; warps], ..Clock::default() }
    }

    /// Warp `me`, whose clock this is, passes a proxy fence of shared memory in its epoch `epoch`.
    pub fn fence_proxy(&mut self, me: usize, epoch: u32) {
        let mut known = self.own.clone();
        // Of its own writes the fence covers those of this tick that come before it: epochs tell.
        known[me] -= 1;
        join_ticks(&mut self.fenced.ticks, &known);
        self.fenced.epochs.resize(self.own.len(), 0);
        self.fenced.epochs[me] = epoch;
    }

    /// Warp `me`, whose clock this is, passes a proxy fence of global memory.
    pub fn fence_proxy_global(&mut self, me: usize) {
        let known = Clock { own: self.own.clone(), foreign: self.foreign.clone(), fenced: Fenced::default() };
        match &mut self.fenced.global {
            Some(before) => before.join(&known),
            none => *none = Some(Box::new(known)),
        }
        // Later writes are not behind the fence.
        self.own[me] += 1;
    }

    /// The generic writes to global memory that a proxy fence stands behind.
    pub fn fenced_global(&self) -> Option<&Clock> {
        self.fenced.global.as_deref()
    }

    /// Whether a proxy fence stands between a generic write of warp `warp` and now.
    pub fn is_fenced(&self, warp: usize, tick: u32, epoch: u32) -> bool {
        self.fenced.ticks.get(warp).is_some_and(|&t| tick <= t)
            || self.fenced.epochs.get(warp).is_some_and(|&e| epoch <= e)
    }

    /// Learns everything that `other`, a clock of the same cluster, knows.
    pub fn join(&mut self, other: &Clock) {
        join_ticks(&mut self.own, &other.own);
        join_ticks(&mut self.fenced.ticks, &other.fenced.ticks);
        join_ticks(&mut self.fenced.epochs, &other.fenced.epochs);
        if let Some(theirs) = &other.fenced.global {
            match &mut self.fenced.global {
                Some(mine) => mine.join(theirs),
                none => *none = Some(theirs.clone()),
            }
        }
        if !Arc::ptr_eq(&self.foreign, &other.foreign) && !other.foreign.is_empty() {
            let mine = Arc::make_mut(&mut self.foreign);
            for (&cluster, ticks) in other.foreign.iter() {
                join_ticks(mine.entry(cluster).or_default(), ticks);
            }
        }
    }

    /// Learns what `other`, a clock of cluster `from`, knows; `cluster` is the own number.
    pub fn join_foreign(&mut self, cluster: u32, other: &Clock, from: u32) {
        if from == cluster {
            return self.join(other);
        }
        let mine = Arc::make_mut(&mut self.foreign);
        join_ticks(mine.entry(from).or_default(), &other.own);
        for (&third, ticks) in other.foreign.iter().filter(|(c, _)| **c != cluster) {
            join_ticks(mine.entry(third).or_default(), ticks);
        }
        if let Some(ticks) = other.foreign.get(&cluster) {
            join_ticks(&mut self.own, ticks);
        }
        if let Some(theirs) = &other.fenced.global {
            let warps = self.own.len();
            let mine = self.fenced.global.get_or_insert_with(|| Box::new(Clock::empty(warps)));
            mine.join_foreign(cluster, theirs, from);
        }
    }

    /// Whether tick `tick` of a warp of another cluster happened before now.
    pub fn knows_foreign(&self, cluster: u32, warp: usize, tick: u32) -> bool {
        self.foreign.get(&cluster).is_some_and(|ticks| ticks.get(warp).is_some_and(|&t| tick <= t))
    }
}

fn join_ticks(mine: &mut Vec<u32>, other: &[u32]) {
    if mine.len() < other.len() {
        mine.resize(other.len(), 0);
    }
    for (m, o) in mine.iter_mut().zip(other) {
        *m = (*m).max(*o);
    }
}

/// Who accesses memory, and when.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    pub clock: &'a Clock,
    /// Cluster number in the grid.
    pub cluster: u32,
    /// Warp number in the cluster.
    pub warp: usize,
}

/// Two accesses that nothing orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub other_cluster: u32,
    pub other_warp: usize,
    pub other_lane: usize,
    pub other_wrote: bool,
}
