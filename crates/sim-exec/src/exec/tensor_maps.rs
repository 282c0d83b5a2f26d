//! Changing tensor maps on the device: `tensormap.replace` and `tensormap.cp_fenceproxy`.

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::program::{Op, Space, Strength};
use crate::tensor_map::{MapField, replace};

/// Words of a tensor map.
const WORDS: usize = 16;

impl Step<'_, '_> {
    pub(super) fn tensor_map_op(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        match op {
            Op::ReplaceInMap { field, address, space, value } => {
                let (addresses, values) = (self.addresses(address), *self.reg(*value));
                for lane in each(active) {
                    let (at, is_shared) = map_address(addresses[lane], *space, lane)?;
                    if is_shared {
                        self.replace_in_shared(at, *field, values[lane], lane)?;
                    } else {
                        self.replace_in_global(at, *field, values[lane], lane)?;
                    }
                }
            }
            Op::CopyMap { to, from } => {
                // The whole warp makes one copy.
                let lane = active.trailing_zeros() as usize;
                let (to, from) = (self.addresses(to)[lane], self.addresses(from)[lane]);
                let (from, _) = map_address(from, Space::Shared, lane)?;
                let (to, _) = map_address(to, Space::Global, lane)?;
                let (words, _, _) = self.shared_map(from, lane)?;
                self.write_global_map(to, &words, 0..WORDS, Strength::Release, lane)?;
                // What the copy and the fence in it order, a fence and a releasing write do.
                self.fence()?;
            }
            other => panic!("{other:?} changes no tensor map"),
        }
        Ok(Flow::Next)
    }

    fn shared_map(&mut self, at: u64, lane: usize) -> Result<([u64; WORDS], usize, u32), Fault> {
        let (cta, offset) = self.shared_at(at, 128, lane)?;
        self.check_shared_read(cta, offset, 128, lane, false)?;
        let shared = &self.ctas[cta].shared;
        Ok((std::array::from_fn(|i| shared.load(offset + 8 * i as u32, 8)), cta, offset))
    }

    fn replace_in_shared(&mut self, at: u64, field: MapField, value: u64, lane: usize) -> Result<(), Fault> {
        let (mut words, cta, offset) = self.shared_map(at, lane)?;
        replace(&mut words, field, value).map_err(|m| Fault::new(FindingKind::BadOperand, Some(lane), m))?;
        for (i, &word) in words.iter().enumerate() {
            let at = offset + 8 * i as u32;
            if self.ctas[cta].shared.load(at, 8) != word {
                self.check_shared_write(cta, at, 8, lane, false, word)?;
                self.ctas[cta].shared.store(at, 8, word);
            }
        }
        Ok(())
    }

    fn replace_in_global(&mut self, at: u64, field: MapField, value: u64, lane: usize) -> Result<(), Fault> {
        let Some(allocation) = self.allocation(&[at; 32], 1 << lane, 128)? else {
            panic!("one tensor map cannot lie in several allocations");
        };
        let offset = at - allocation.base;
        if self.launch.gpu.config.checks.races {
            self.race_read(allocation, offset, 128, lane, Strength::Weak)?;
        }
        let old: [u64; WORDS] = std::array::from_fn(|i| allocation.load(offset + 8 * i as u64, 8));
        let mut words = old;
        replace(&mut words, field, value).map_err(|m| Fault::new(FindingKind::BadOperand, Some(lane), m))?;
        let changed = (0..WORDS).filter(|&i| words[i] != old[i]);
        changed.into_iter().try_for_each(|i| self.write_global_map(at, &words, i..i + 1, Strength::Weak, lane))
    }

    fn write_global_map(
        &mut self,
        at: u64,
        words: &[u64; WORDS],
        range: std::ops::Range<usize>,
        strength: Strength,
        lane: usize,
    ) -> Result<(), Fault> {
        let Some(allocation) = self.allocation(&[at; 32], 1 << lane, 128)? else {
            panic!("one tensor map cannot lie in several allocations");
        };
        for i in range {
            let offset = at - allocation.base + 8 * i as u64;
            if self.launch.gpu.config.checks.races {
                self.race_write(allocation, offset, 8, lane, Strength::Weak, false)?;
            }
            self.before_write(at + 8 * i as u64, strength);
            allocation.store(offset, 8, words[i]);
        }
        Ok(())
    }
}

/// The address of a map without its window, and whether it lies in shared memory.
fn map_address(at: u64, space: Space, lane: usize) -> Result<(u64, bool), Fault> {
    let window = (SHARED_WINDOW..LOCAL_WINDOW).contains(&at);
    let is_shared = window || matches!(space, Space::Shared | Space::SharedCluster);
    let at = if window { at - SHARED_WINDOW } else { at };
    if !at.is_multiple_of(64) {
        let message = format!("tensor map at {at:#x}, which is not a multiple of 64");
        return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
    }
    Ok((at, is_shared))
}
