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
}

impl Clock {
    /// The clock of warp `me` of `warps` at the start.
    pub fn start(warps: usize, me: usize) -> Self {
        let mut own = vec![0; warps];
        own[me] = 1;
        Clock { own, foreign: Arc::default() }
    }

    /// A clock that knows nothing.
    pub fn empty(warps: usize) -> Self {
        Clock { own: vec![0; warps], foreign: Arc::default() }
    }

    /// Learns everything that `other`, a clock of the same cluster, knows.
    pub fn join(&mut self, other: &Clock) {
        join_ticks(&mut self.own, &other.own);
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
