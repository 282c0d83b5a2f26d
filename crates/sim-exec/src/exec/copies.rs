//! cp.async: the copy happens when it is waited for, as late as the ISA allows, and until then nobody may touch its
//! destination.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::check::shared;
use crate::finding::FindingKind;
use crate::lanes::{Lanes, Mask};
use crate::memory::SHARED_WINDOW;
use crate::program::Op;
use crate::traffic::Touch;

/// A copy that was issued and not waited for.
#[derive(Clone, Copy, Debug)]
pub struct PendingCopy {
    pub lane: usize,
    /// The lane's group that it belongs to.
    pub group: u32,
    pub cta: usize,
    pub to: u32,
    pub from: u64,
    pub bytes: u32,
    /// Bytes that are read; the rest is zero.
    pub from_bytes: u32,
}

/// A copy's change of its destination. It needs no proxy fence: compilers let wgmma read what cp.async wrote without one.
fn change(offset: u32, width: u32, lane: usize) -> shared::Access {
    shared::Access { offset, width, lane, atomic: false, epoch: 0 }
}

impl Step<'_, '_> {
    pub(super) fn copy(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        match op {
            Op::CopyAsync { to, from, bytes, from_bytes, ignore } => {
                let (targets, sources) = (self.addresses(to), self.addresses(from));
                let ignored = ignore.map_or(0, |p| self.pred(p));
                let mut sizes = [0; 32];
                for lane in each(active) {
                    let read = match from_bytes {
                        _ if ignored >> lane & 1 != 0 => 0,
                        Some(slot) => (self.reg(*slot)[lane] as u32).min(*bytes),
                        None => *bytes,
                    };
                    self.issue(lane, targets[lane], sources[lane], *bytes, read)?;
                    sizes[lane] = read;
                }
                self.count_copy(&targets, &sources, active, *bytes, &sizes)?;
            }
            Op::CopyCommit => each(active).for_each(|lane| self.warp.copy_groups[lane] += 1),
            Op::CopyWait { pending } => {
                let groups = self.warp.copy_groups;
                self.finish_copies(active, |lane| groups[lane].saturating_sub(*pending))?;
            }
            other => panic!("{other:?} is no copy"),
        }
        Ok(Flow::Next)
    }

    fn issue(&mut self, lane: usize, target: u64, source: u64, bytes: u32, from_bytes: u32) -> Result<(), Fault> {
        let target = if target >= SHARED_WINDOW { target - SHARED_WINDOW } else { target };
        for (address, what) in [(target, "destination"), (source, "source")] {
            if address % u64::from(bytes) != 0 {
                let message = format!("{what} {address:#x} of a {bytes}-byte copy is not a multiple of {bytes}");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
        }
        let (cta, to) = self.shared_at(target, bytes.into(), lane)?;
        if from_bytes > 0 {
            self.allocation(&[source; 32], 1 << lane, from_bytes.into())?;
        }
        self.check_shared_change(cta, change(to, bytes, lane), None)?;
        self.ctas[cta].shared.await_copy(to, bytes);
        let group = self.warp.copy_groups[lane];
        self.warp.copies.push(PendingCopy { lane, group, cta, to, from: source, bytes, from_bytes });
        Ok(())
    }

    /// Counts the global loads, one per size that lanes read, and the shared stores of a copy.
    fn count_copy(
        &mut self,
        targets: &Lanes,
        sources: &Lanes,
        active: Mask,
        bytes: u32,
        sizes: &[u32; 32],
    ) -> Result<(), Fault> {
        self.count_shared_store(targets, active, bytes.into());
        let mut rest: Mask = each(active).filter(|&lane| sizes[lane] > 0).fold(0, |m, lane| m | 1 << lane);
        while rest != 0 {
            let size = sizes[rest.trailing_zeros() as usize];
            let mask = each(rest).filter(|&lane| sizes[lane] == size).fold(0, |m, lane| m | 1 << lane);
            self.count_global_anywhere(sources, mask, size.into(), Touch::Read)?;
            rest &= !mask;
        }
        Ok(())
    }

    /// Ends the copies of `active` lanes whose group is below `limit(lane)`.
    pub(super) fn finish_copies(&mut self, active: Mask, limit: impl Fn(usize) -> u32) -> Result<(), Fault> {
        let due = |c: &PendingCopy| active >> c.lane & 1 != 0 && c.group < limit(c.lane);
        let copies = std::mem::take(&mut self.warp.copies);
        let (now, later): (Vec<_>, Vec<_>) = copies.into_iter().partition(due);
        self.warp.copies = later;
        for copy in now {
            let mut data = [0u8; 16];
            if copy.from_bytes > 0 {
                let Some(allocation) = self.allocation(&[copy.from; 32], 1 << copy.lane, copy.from_bytes.into())?
                else {
                    panic!("one lane's copy cannot lie in several allocations");
                };
                let offset = copy.from - allocation.base;
                let read = &mut data[..copy.from_bytes as usize];
                if self.launch.gpu.config.checks.uninitialised
                    && let Some(i) = (0..read.len() as u64).find(|i| !allocation.is_written(offset + i, 1))
                {
                    let message =
                        format!("copy of offset {} of {}, which nothing has written", offset + i, allocation.label);
                    return Err(Fault::new(FindingKind::Uninitialised, Some(copy.lane), message));
                }
                allocation.read_bytes(offset, read);
            }
            self.ctas[copy.cta].shared.finish_copy(copy.to, &data[..copy.bytes as usize]);
            self.check_shared_change(copy.cta, change(copy.to, copy.bytes, copy.lane), None)?;
        }
        Ok(())
    }
}
