//! What accesses ask of memory, counted for the instruction that makes them.

use super::state::Fault;
use super::warp::{Step, each};
use crate::counters::{Class, Sectors, bank_replays, is_consecutive};
use crate::lanes::{Lanes, Mask};
use crate::memory::Allocation;
use crate::traffic::Touch;

impl Step<'_, '_> {
    /// Counts an access of global memory, all of it in `allocation`, which was looked up last.
    pub(super) fn count_global(
        &mut self,
        allocation: &Allocation,
        addresses: &Lanes,
        mask: Mask,
        bytes: u64,
        touch: Touch,
    ) {
        let consecutive = is_consecutive(addresses, mask, bytes);
        let sectors = if consecutive {
            Sectors::of_range(addresses[0], 32 * bytes)
        } else {
            Sectors::of_lanes(addresses, mask, bytes)
        };
        let accesses = self.tally.at(self.pc);
        match touch {
            Touch::Read => {
                accesses.global_loads += 1;
                accesses.global_load_sectors += sectors.touched;
                accesses.global_load_sectors_ideal += sectors.ideal;
            }
            Touch::Write => {
                accesses.global_stores += 1;
                accesses.global_store_sectors += sectors.touched;
                accesses.global_store_sectors_ideal += sectors.ideal;
            }
            Touch::Update => {
                accesses.global_atomics += 1;
                accesses.global_atomic_sectors += sectors.touched;
            }
        }
        if allocation.is_mapped() {
            let all = u64::from(mask.count_ones()) * bytes;
            accesses.mapped_load_bytes += if touch == Touch::Write { 0 } else { all };
            accesses.mapped_store_bytes += if touch == Touch::Read { 0 } else { all };
            return;
        }
        let (traffic, at, base) = (&self.launch.traffic, self.warp.last_allocation, allocation.base);
        if consecutive {
            return traffic.touch(at, allocation, addresses[0] - base, 32 * bytes, touch);
        }
        let mut last = None;
        for address in each(mask).map(|lane| addresses[lane]) {
            if last != Some(address) {
                traffic.touch(at, allocation, address - base, bytes, touch);
                last = Some(address);
            }
        }
    }

    /// As [`Step::count_global`], for lanes that may access several allocations, which count one by one.
    ///
    /// # Errors
    /// For the first lane whose access lies in no live allocation.
    pub(super) fn count_global_anywhere(
        &mut self,
        addresses: &Lanes,
        mask: Mask,
        bytes: u64,
        touch: Touch,
    ) -> Result<(), Fault> {
        match self.allocation(addresses, mask, bytes)? {
            Some(allocation) => self.count_global(allocation, addresses, mask, bytes, touch),
            None => each(mask).try_for_each(|l| self.count_global_anywhere(addresses, 1 << l, bytes, touch))?,
        }
        Ok(())
    }

    pub(super) fn count_shared_load(&mut self, addresses: &Lanes, mask: Mask, bytes: u64) {
        let accesses = self.tally.at(self.pc);
        accesses.shared_loads += 1;
        accesses.shared_load_replays += bank_replays(addresses, mask, bytes);
    }

    pub(super) fn count_shared_store(&mut self, addresses: &Lanes, mask: Mask, bytes: u64) {
        let accesses = self.tally.at(self.pc);
        accesses.shared_stores += 1;
        accesses.shared_store_replays += bank_replays(addresses, mask, bytes);
    }

    /// Counts ldmatrix or stmatrix of so many 8×8 matrices: each is one pass if its rows lie in different banks.
    pub(super) fn count_matrix(&mut self, touch: Touch, addresses: &Lanes, matrices: usize) {
        let replays = (0..matrices).map(|i| row_replays(addresses, i)).sum::<u64>();
        let accesses = self.tally.at(self.pc);
        if touch == Touch::Write {
            accesses.shared_stores += 1;
            accesses.shared_store_replays += replays;
        } else {
            accesses.shared_loads += 1;
            accesses.shared_load_replays += replays;
        }
    }

    /// Whether the instruction accesses local memory for the kernel's sake: parameters of inlined calls live there too, but in
    /// machine code they are registers.
    pub(super) fn is_counted_local(&self) -> bool {
        self.launch.program.classes[self.pc as usize] != Class::Move
    }
}

/// Extra passes for the eight 16-byte rows of matrix `i`.
fn row_replays(addresses: &Lanes, i: usize) -> u64 {
    // Usually the rows lie in the eight different groups of four banks.
    let groups = addresses[8 * i..8 * i + 8].iter().fold(0u8, |groups, address| groups | 1 << (address / 16 % 8));
    if groups == 0xff { 0 } else { bank_replays(addresses, 0xff << (8 * i), 16) }
}
