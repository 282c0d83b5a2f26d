//! Faults on request: the n-th call of a kind fails.

/// Kinds of calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// Allocations of device, pool, managed and pinned memory: out of memory.
    Alloc,
    /// Copies and fills: an error of the operating system; the context lives on.
    Copy,
    /// Launches of kernels and graphs: an illegal address, and the context is lost.
    Launch,
    /// Synchronising with a stream, an event or a context: a launch failure, and the context is lost.
    Sync,
}

/// The calls that are to fail, and how many of each kind there were.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    wanted: Vec<(FaultPoint, u64)>,
    seen: [u64; 4],
}

impl Faults {
    /// Reads `alloc:3,launch:2`.
    pub fn parse(text: &str) -> Option<Self> {
        let fault = |item: &str| {
            let (kind, n) = item.split_once(':')?;
            let point = match kind {
                "alloc" => FaultPoint::Alloc,
                "copy" => FaultPoint::Copy,
                "launch" => FaultPoint::Launch,
                "sync" => FaultPoint::Sync,
                _ => return None,
            };
            n.parse().ok().filter(|&n| n > 0).map(|n| (point, n))
        };
        let wanted = text.split(',').map(fault).collect::<Option<Vec<_>>>()?;
        Some(Faults { wanted, seen: [0; 4] })
    }

    /// Counts a call and says whether it is to fail.
    pub fn strikes(&mut self, point: FaultPoint) -> bool {
        let seen = &mut self.seen[point as usize];
        *seen += 1;
        self.wanted.contains(&(point, *seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_of_its_kind_fails_once() {
        let mut faults = Faults::parse("alloc:2,alloc:4,sync:1").expect("well formed");
        let allocs: Vec<bool> = (0..5).map(|_| faults.strikes(FaultPoint::Alloc)).collect();
        assert_eq!(allocs, [false, true, false, true, false]);
        assert!(!faults.strikes(FaultPoint::Launch));
        assert!(faults.strikes(FaultPoint::Sync));
        for bad in ["", "alloc", "alloc:0", "alloc:x", "free:1", "alloc:1;copy:2"] {
            assert!(Faults::parse(bad).is_none(), "{bad:?}");
        }
    }
}
