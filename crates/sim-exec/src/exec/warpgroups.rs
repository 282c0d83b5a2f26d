//! All four warps of a warpgroup must issue the same wgmmas: each computes its rows of what is one product.

use std::collections::VecDeque;

use super::state::Fault;
use super::warp::Step;
use crate::finding::FindingKind;

/// Warps of a warpgroup.
const WARPS: usize = 4;

/// The wgmmas that some warps of a warpgroup have issued and others not yet.
#[derive(Clone, Debug, Default)]
pub struct Warpgroup {
    /// Per warp.
    issued: [u64; WARPS],
    /// Issued by all.
    common: u64,
    /// Program counters of those after.
    ahead: VecDeque<u32>,
    exited: usize,
}

impl Warpgroup {
    /// Notes that a warp issues the wgmma at `pc`.
    ///
    /// # Errors
    /// The program counter of the wgmma that another warp issued in its place.
    fn issue(&mut self, warp: usize, pc: u32) -> Result<(), u32> {
        match self.ahead.get((self.issued[warp] - self.common) as usize) {
            None => self.ahead.push_back(pc),
            Some(&other) if other != pc => return Err(other),
            Some(_) => {}
        }
        self.issued[warp] += 1;
        while self.issued.iter().all(|&n| n > self.common) {
            self.common += 1;
            self.ahead.pop_front();
        }
        Ok(())
    }
}

impl Step<'_, '_> {
    /// Checks a wgmma against those of the other warps of its warpgroup.
    pub(super) fn check_warpgroup_issue(&mut self) -> Result<(), Fault> {
        let pc = self.pc;
        let places = &self.launch.program.places;
        let (warp, group) = (self.warp.index % WARPS, self.warpgroup());
        group.issue(warp, pc).map_err(|other| {
            let place = places.get(other as usize).map(ToString::to_string).unwrap_or_default();
            let message = format!("another warp of the warpgroup issues the wgmma at {place} in place of this one");
            Fault::new(FindingKind::DivergentBarrier, None, message)
        })
    }

    /// Checks, when the last warp of a warpgroup exits, that all issued the same wgmmas.
    pub(super) fn check_warpgroup_exit(&mut self) -> Result<(), Fault> {
        if self.launch.program.watches.is_empty() {
            return Ok(());
        }
        let group = self.warpgroup();
        group.exited += 1;
        if group.exited < WARPS || group.ahead.is_empty() {
            return Ok(());
        }
        let message = format!("the warps of a warpgroup issued different numbers of wgmmas: {:?}", group.issued);
        Err(Fault { pc: group.ahead.front().copied(), ..Fault::new(FindingKind::DivergentBarrier, None, message) })
    }

    fn warpgroup(&mut self) -> &mut Warpgroup {
        let groups = &mut self.ctas[self.warp.cta].warpgroups;
        let at = self.warp.index / WARPS;
        if at >= groups.len() {
            groups.resize(at + 1, Warpgroup::default());
        }
        &mut groups[at]
    }
}
