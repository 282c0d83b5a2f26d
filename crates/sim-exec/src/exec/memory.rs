//! Loads and stores: address spaces, checks, counters.

use std::sync::atomic::Ordering::Relaxed;

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::check::clock::{Actor, Conflict};
use crate::check::global_race::GlobalAccess;
use crate::check::shared::{self, Trouble};
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes, Mask, vector};
use crate::memory::{
    AddressHistory, Allocation, CLUSTER_RANK_SHIFT, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES,
};
use crate::program::{Access, Address, Op, SINK, Space, Strength};
use crate::traffic::Touch;

pub(super) const UNWRITTEN: &str = "bytes that nothing has written";

impl<'l> Step<'_, 'l> {
    pub(super) fn load(&mut self, access: &Access, active: Mask) -> Result<Flow, Fault> {
        self.load_at(access, &self.addresses(&access.address), active)?;
        Ok(Flow::Next)
    }

    /// A load from addresses that are already known.
    pub(super) fn load_at(&mut self, access: &Access, addresses: &Lanes, active: Mask) -> Result<(), Fault> {
        match access.registers.len() {
            1 => self.load_registers(access, addresses, active, &mut [[0; 32]]),
            2 => self.load_registers(access, addresses, active, &mut [[0; 32]; 2]),
            4 => self.load_registers(access, addresses, active, &mut [[0; 32]; 4]),
            n => self.load_registers(access, addresses, active, &mut vec![[0; 32]; n]),
        }
    }

    fn load_registers(
        &mut self,
        access: &Access,
        addresses: &Lanes,
        active: Mask,
        out: &mut [Lanes],
    ) -> Result<(), Fault> {
        self.in_spaces(access, addresses, active, |step, space, at, mask| match space {
            Space::Global => step.load_global(access, at, mask, out),
            Space::Shared | Space::SharedCluster => step.load_shared(access, at, mask, out),
            Space::Local => step.load_local(access, at, mask, out),
            _ => step.load_param(access, at, mask, out),
        })?;
        for (&register, values) in access.registers.iter().zip(out.iter_mut()).filter(|(r, _)| **r != SINK) {
            if access.signed && access.width < 8 {
                let shift = 64 - 8 * access.width;
                values.iter_mut().for_each(|v| *v = ((*v << shift) as i64 >> shift) as u64);
            }
            self.set(register, active, values);
        }
        self.warp.undefined.admit_loaded();
        Ok(())
    }

    pub(super) fn store(&mut self, access: &Access, active: Mask) -> Result<Flow, Fault> {
        self.store_at(access, &self.addresses(&access.address), active)?;
        Ok(Flow::Next)
    }

    /// A store to addresses that are already known.
    pub(super) fn store_at(&mut self, access: &Access, addresses: &Lanes, active: Mask) -> Result<(), Fault> {
        self.warp.spinning = false;
        self.in_spaces(access, addresses, active, |step, space, at, mask| match space {
            Space::Global => step.store_global(access, at, mask),
            Space::Shared | Space::SharedCluster => step.store_shared(access, at, mask),
            Space::Local => step.store_local(access, at, mask),
            _ => Err(Fault::new(FindingKind::BadOperand, None, "a store to parameter space")),
        })
    }

    /// `base + offset` in every lane.
    #[inline]
    pub(super) fn addresses(&self, address: &Address) -> Lanes {
        match address.base {
            None => [address.offset as u64; 32],
            Some(base) if address.wide => self.reg(base).map(|a| a.wrapping_add(address.offset as u64)),
            Some(base) => self.reg(base).map(|a| u64::from((a as u32).wrapping_add(address.offset as u32))),
        }
    }

    /// Calls `f` once per state space that the lanes address, with addresses relative to that space.
    fn in_spaces(
        &mut self,
        access: &Access,
        addresses: &Lanes,
        active: Mask,
        mut f: impl FnMut(&mut Self, Space, &Lanes, Mask) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let bytes = u64::from(access.width) * access.registers.len() as u64;
        check_alignment(addresses, active, bytes)?;
        if access.space != Space::Generic {
            return f(self, access.space, addresses, active);
        }
        let mut rest = active;
        while rest != 0 {
            let (space, base) = window(addresses[rest.trailing_zeros() as usize]);
            let mask = each(rest).filter(|&l| window(addresses[l]).0 == space).fold(0, |m, l| m | 1 << l);
            let relative = addresses.map(|a| a.wrapping_sub(base));
            f(self, space, &relative, mask)?;
            rest &= !mask;
        }
        Ok(())
    }

    /// The allocation that holds all lanes' accesses, or none if they lie in several.
    ///
    /// # Errors
    /// For the first lane whose access lies in no live allocation.
    #[inline]
    pub(super) fn allocation(
        &mut self,
        addresses: &Lanes,
        mask: Mask,
        bytes: u64,
    ) -> Result<Option<&'l Allocation>, Fault> {
        let (low, high) = if mask == FULL {
            vector::run(Bounds(addresses))
        } else {
            each(mask).fold((u64::MAX, 0), |(low, high), lane| (low.min(addresses[lane]), high.max(addresses[lane])))
        };
        let launch = self.launch;
        let holds = |a: &Allocation| a.base <= low && high < a.base + a.bytes && bytes <= a.base + a.bytes - high;
        let memory: &'l [std::sync::Arc<Allocation>] = launch_memory(launch);
        if let Some(last) = memory.get(self.warp.last_allocation)
            && holds(last)
        {
            return Ok(Some(last));
        }
        let at = memory.partition_point(|a| a.base <= low);
        if at > 0 && holds(&memory[at - 1]) {
            self.warp.last_allocation = at - 1;
            return Ok(Some(&memory[at - 1]));
        }
        for lane in each(mask) {
            let address = addresses[lane];
            let at = memory.partition_point(|a| a.base <= address);
            let fits = at > 0 && address.saturating_add(bytes) <= memory[at - 1].base + memory[at - 1].bytes;
            if !fits {
                return Err(self.bad_address(address, bytes, lane));
            }
        }
        Ok(None)
    }

    fn bad_address(&self, address: u64, bytes: u64, lane: usize) -> Fault {
        let what = format!("{bytes} bytes at {address:#x}");
        let (kind, message) = match self.launch.gpu.memory.history(address) {
            AddressHistory::Freed(base, length, label) => (
                FindingKind::UseAfterFree,
                format!("{what}, offset {} of {label} ({length} bytes), which was freed", address - base),
            ),
            AddressHistory::Near(base, length, label) => (
                FindingKind::OutOfBounds,
                format!(
                    "{what}, {} bytes beyond the end of {label} ({length} bytes at {base:#x})",
                    (address + bytes).saturating_sub(base + length)
                ),
            ),
            AddressHistory::Unknown => (FindingKind::OutOfBounds, format!("{what}, in no allocation")),
        };
        Fault::new(kind, Some(lane), message)
    }

    fn load_global(&mut self, access: &Access, addresses: &Lanes, mask: Mask, out: &mut [Lanes]) -> Result<(), Fault> {
        let bytes = u64::from(access.width) * out.len() as u64;
        let Some(allocation) = self.allocation(addresses, mask, bytes)? else {
            return each(mask).try_for_each(|l| self.load_global(access, addresses, 1 << l, out));
        };
        self.count_global(allocation, addresses, mask, bytes, Touch::Read);
        let checks = self.launch.gpu.config.checks;
        let base = allocation.base;
        let single_step = access.is_strong_and_wide(bytes).then(|| allocation.lock_wide());
        if access.width == 4 && mask == FULL {
            let words = allocation.words();
            for (lane, address) in addresses.iter().enumerate() {
                let words = &words[((address - base) / 4) as usize..][..out.len()];
                out.iter_mut().zip(words).for_each(|(values, word)| values[lane] = word.load(Relaxed).into());
            }
        } else {
            for (r, values) in out.iter_mut().enumerate() {
                let skip = r as u64 * u64::from(access.width);
                for lane in each(mask) {
                    values[lane] = allocation.load(addresses[lane] - base + skip, access.width);
                }
            }
        }
        drop(single_step);
        let lanes = if checks.uninitialised || checks.races { mask } else { 0 };
        for lane in each(lanes) {
            let offset = addresses[lane] - base;
            if checks.uninitialised && !allocation.is_page_written(offset, bytes) {
                self.note_unwritten(access, lane, |(at, length)| {
                    let at = offset + u64::from(at);
                    let bad = (at..at + u64::from(length)).any(|byte| !allocation.is_written(byte, 1));
                    bad.then(|| format!("read of offset {at} of {}, which nothing has written", allocation.label))
                });
            }
            if checks.races && access.used_bytes == Access::ALL_USED {
                self.race_read(allocation, offset, bytes, lane, access.strength)?;
            } else if checks.races {
                for (at, length) in (0..access.registers.len()).filter_map(|r| access.used_range(r)) {
                    self.race_read(allocation, offset + u64::from(at), length.into(), lane, access.strength)?;
                }
            }
        }
        if access.strength > Strength::Weak {
            each(mask).for_each(|lane| self.after_read(addresses[lane], access.strength));
        }
        Ok(())
    }

    /// Remembers for each register of a load whether the bytes that are used of it hold nothing yet: `unwritten` says so, in
    /// words, of a range of the access.
    fn note_unwritten(&mut self, access: &Access, lane: usize, unwritten: impl Fn((u32, u32)) -> Option<String>) {
        for (r, &register) in access.registers.iter().enumerate() {
            if let Some(message) = access.used_range(r).and_then(&unwritten) {
                self.warp.undefined.load(register, lane, self.pc, message);
            }
        }
    }

    fn store_global(&mut self, access: &Access, addresses: &Lanes, mask: Mask) -> Result<(), Fault> {
        let bytes = u64::from(access.width) * access.registers.len() as u64;
        let Some(allocation) = self.allocation(addresses, mask, bytes)? else {
            return each(mask).try_for_each(|l| self.store_global(access, addresses, 1 << l));
        };
        self.count_global(allocation, addresses, mask, bytes, Touch::Write);
        let races = self.launch.gpu.config.checks.races;
        if !self.warp.undefined.is_empty() {
            for &register in &access.registers {
                each(mask).try_for_each(|lane| self.stored_must_be_defined(register, lane))?;
            }
        }
        if access.strength > Strength::Weak {
            each(mask).for_each(|lane| self.before_write(addresses[lane], access.strength));
        }
        let base = allocation.base;
        let _single_step = access.is_strong_and_wide(bytes).then(|| allocation.lock_wide());
        for (r, &register) in access.registers.iter().enumerate() {
            let skip = r as u64 * u64::from(access.width);
            for lane in each(mask) {
                let offset = addresses[lane] - base + skip;
                let value = self.reg(register)[lane];
                if races {
                    let low = if access.width == 8 { !0 } else { (1 << (8 * access.width)) - 1 };
                    let same = allocation.load(offset, access.width) == value & low
                        && allocation.is_written(offset, access.width);
                    self.race_write(allocation, offset, access.width.into(), lane, access.strength, same)?;
                }
                allocation.store(offset, access.width, value);
            }
        }
        if access.strength.releases() {
            self.warp.clock.own[self.warp.id] += 1;
        }
        Ok(())
    }

    /// The CTA, in its cluster, and the offset that a shared address names.
    ///
    /// # Errors
    /// Outside the CTA's shared memory, or a rank outside the cluster.
    pub(super) fn shared_at(&self, address: u64, bytes: u64, lane: usize) -> Result<(usize, u32), Fault> {
        let cta = match address >> CLUSTER_RANK_SHIFT {
            0 => self.warp.cta,
            rank => rank as usize - 1,
        };
        let offset = address & ((1 << CLUSTER_RANK_SHIFT) - 1);
        let length = self.ctas.get(cta).map_or(0, |c| u64::from(c.shared_bytes));
        let reserved = self.ctas.get(cta).map_or(0..0, |c| c.reserved_shared.clone());
        let is_reserved = offset >= reserved.start.into() && offset + bytes <= reserved.end.into();
        if offset + bytes > length && !is_reserved {
            let message = format!("{bytes} bytes at shared offset {offset:#x} of CTA {cta}, which has {length} bytes");
            return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
        }
        Ok((cta, offset as u32))
    }

    fn load_shared(&mut self, access: &Access, addresses: &Lanes, mask: Mask, out: &mut [Lanes]) -> Result<(), Fault> {
        let bytes = access.width * out.len() as u32;
        self.count_shared_load(addresses, mask, bytes.into());
        for lane in each(mask) {
            let (cta, offset) = self.shared_at(addresses[lane], bytes.into(), lane)?;
            let atomic = access.strength > Strength::Weak;
            if access.used_bytes == Access::ALL_USED {
                self.check_shared_order(cta, offset, bytes, lane, atomic)?;
            } else {
                for (at, length) in (0..access.registers.len()).filter_map(|r| access.used_range(r)) {
                    self.check_shared_order(cta, offset + at, length, lane, atomic)?;
                }
            }
            if !self.ctas[cta].shared.is_written(offset, bytes) {
                let shared = &self.ctas[cta].shared;
                let unwritten: Vec<bool> = (0..bytes).map(|at| !shared.is_written(offset + at, 1)).collect();
                self.note_unwritten(access, lane, |(at, length)| {
                    let bad = unwritten[at as usize..(at + length) as usize].contains(&true);
                    bad.then(|| format!("read of shared offset {:#x}: {UNWRITTEN}", offset + at))
                });
            }
            for (r, values) in out.iter_mut().enumerate() {
                values[lane] = self.ctas[cta].shared.load(offset + r as u32 * access.width, access.width);
            }
            if access.strength > Strength::Weak {
                self.after_read(self.sync_address(cta, offset), access.strength);
            }
        }
        Ok(())
    }

    fn store_shared(&mut self, access: &Access, addresses: &Lanes, mask: Mask) -> Result<(), Fault> {
        let bytes = access.width * access.registers.len() as u32;
        self.count_shared_store(addresses, mask, bytes.into());
        for lane in each(mask) {
            let (cta, offset) = self.shared_at(addresses[lane], bytes.into(), lane)?;
            if access.strength > Strength::Weak {
                self.before_write(self.sync_address(cta, offset), access.strength);
            }
            for (r, &register) in access.registers.iter().enumerate() {
                let at = offset + r as u32 * access.width;
                let low = if access.width == 8 { !0 } else { (1 << (8 * access.width)) - 1 };
                let value = self.reg(register)[lane] & low;
                self.check_shared_write(cta, at, access.width, lane, access.strength > Strength::Weak, value)?;
                self.ctas[cta].shared.store(at, access.width, value);
                if self.warp.undefined.holds(register, lane) {
                    self.ctas[cta].shared.mark_unwritten(at, access.width);
                }
            }
        }
        if access.strength.releases() {
            self.warp.clock.own[self.warp.id] += 1;
        }
        Ok(())
    }

    /// Checks a read of shared memory by one lane whose value is used at once.
    #[inline]
    pub(super) fn check_shared_read(
        &mut self,
        cta: usize,
        offset: u32,
        width: u32,
        lane: usize,
        atomic: bool,
    ) -> Result<(), Fault> {
        self.check_shared_order(cta, offset, width, lane, atomic)?;
        if self.ctas[cta].shared.is_written(offset, width) {
            return Ok(());
        }
        let message = format!("read of shared offset {offset:#x}: {UNWRITTEN}");
        Err(Fault::new(FindingKind::Uninitialised, Some(lane), message))
    }

    /// Checks whether a read of shared memory by one lane is ordered with the writes and copies to it.
    #[inline]
    pub(super) fn check_shared_order(
        &mut self,
        cta: usize,
        offset: u32,
        width: u32,
        lane: usize,
        atomic: bool,
    ) -> Result<(), Fault> {
        let who = Actor { clock: &self.warp.clock, cluster: self.cluster_id, warp: self.warp.id };
        let access = shared::Access { offset, width, lane, atomic, epoch: 0 };
        let result = self.ctas[cta].shared.check_read(&who, access);
        result.map_err(|trouble| self.shared_fault(trouble, "read", offset, lane))
    }

    /// Checks a write of shared memory by one lane through the generic proxy.
    pub(super) fn check_shared_write(
        &mut self,
        cta: usize,
        offset: u32,
        width: u32,
        lane: usize,
        atomic: bool,
        value: u64,
    ) -> Result<(), Fault> {
        let epoch = self.warp.proxy_epoch;
        self.check_shared_change(cta, shared::Access { offset, width, lane, atomic, epoch }, Some(value))
    }

    /// Checks a change of shared memory on behalf of one lane, whoever carries it out; `None` is a value that is not known yet.
    pub(super) fn check_shared_change(
        &mut self,
        cta: usize,
        access: shared::Access,
        value: Option<u64>,
    ) -> Result<(), Fault> {
        let who = Actor { clock: &self.warp.clock, cluster: self.cluster_id, warp: self.warp.id };
        let result = self.ctas[cta].shared.check_write(&who, access, value);
        result.map_err(|trouble| self.shared_fault(trouble, "write", access.offset, access.lane))
    }

    pub(super) fn shared_fault(&self, trouble: Trouble, verb: &str, offset: u32, lane: usize) -> Fault {
        let (kind, what) = match trouble {
            Trouble::AsyncPending => (
                FindingKind::AsyncNotWaited,
                "the destination of an asynchronous copy that was not waited for".to_owned(),
            ),
            Trouble::AsyncReading => {
                let what = "an operand of a wgmma, or the source of a bulk copy, that was not waited for";
                (FindingKind::AsyncNotWaited, what.to_owned())
            }
            Trouble::Race(conflict) => (FindingKind::SharedRace, self.describe(&conflict)),
        };
        Fault::new(kind, Some(lane), format!("{verb} of shared offset {offset:#x}: {what}"))
    }

    fn describe(&self, conflict: &Conflict) -> String {
        let verb = if conflict.other_wrote { "write" } else { "read" };
        let per_cta = self.launch.config.block.iter().product::<u32>().div_ceil(32) as usize;
        if conflict.other_warp == self.ctas.len() * per_cta {
            let cluster = conflict.other_cluster;
            return format!("nothing orders it with the {verb} by a bulk copy or a wgmma of cluster {cluster}");
        }
        format!(
            "nothing orders it with the {verb} by cluster {} CTA {} warp {} lane {}",
            conflict.other_cluster,
            conflict.other_warp / per_cta,
            conflict.other_warp % per_cta,
            conflict.other_lane
        )
    }

    pub(super) fn race_read(
        &mut self,
        a: &Allocation,
        offset: u64,
        bytes: u64,
        lane: usize,
        strength: Strength,
    ) -> Result<(), Fault> {
        let who = Actor { clock: &self.warp.clock, cluster: self.cluster_id, warp: self.warp.id };
        self.race_read_by(&who, a, (offset, bytes), lane, strength)
    }

    /// As [`Step::race_read`], of the bytes from `offset` on, by anyone.
    pub(super) fn race_read_by(
        &self,
        who: &Actor<'_>,
        a: &Allocation,
        (offset, bytes): (u64, u64),
        lane: usize,
        strength: Strength,
    ) -> Result<(), Fault> {
        let (atomic, launch) = (strength > Strength::Weak, self.launch.number);
        if (offset | bytes).is_multiple_of(4) {
            let access = GlobalAccess { word: (offset / 4) as usize, bytes: 15, lane, atomic, launch };
            let conflict = a.races.read_words(who, access, bytes as usize / 4);
            return conflict.map_or(Ok(()), |c| Err(self.global_race(a, offset, "read", &c, lane)));
        }
        for (word, nibble) in words_of(offset, bytes) {
            let access = GlobalAccess { word, bytes: nibble, lane, atomic, launch };
            if let Some(conflict) = a.races.read(who, access) {
                return Err(self.global_race(a, offset, "read", &conflict, lane));
            }
        }
        Ok(())
    }

    pub(super) fn race_write(
        &mut self,
        a: &Allocation,
        offset: u64,
        bytes: u64,
        lane: usize,
        strength: Strength,
        same: bool,
    ) -> Result<(), Fault> {
        let who = Actor { clock: &self.warp.clock, cluster: self.cluster_id, warp: self.warp.id };
        self.race_write_by(&who, a, (offset, bytes), lane, strength, same)
    }

    /// As [`Step::race_write`], of the bytes from `offset` on, by anyone.
    pub(super) fn race_write_by(
        &self,
        who: &Actor<'_>,
        a: &Allocation,
        (offset, bytes): (u64, u64),
        lane: usize,
        strength: Strength,
        same: bool,
    ) -> Result<(), Fault> {
        for (word, nibble) in words_of(offset, bytes) {
            let atomic = strength > Strength::Weak;
            let access = GlobalAccess { word, bytes: nibble, lane, atomic, launch: self.launch.number };
            if let Some(conflict) = a.races.write(who, access, same) {
                return Err(self.global_race(a, offset, "write", &conflict, lane));
            }
        }
        Ok(())
    }

    fn global_race(&self, a: &Allocation, offset: u64, verb: &str, conflict: &Conflict, lane: usize) -> Fault {
        let message = format!("{verb} of offset {offset} of {}: {}", a.label, self.describe(conflict));
        Fault::new(FindingKind::GlobalRace, Some(lane), message)
    }

    fn load_local(&mut self, access: &Access, addresses: &Lanes, mask: Mask, out: &mut [Lanes]) -> Result<(), Fault> {
        self.tally.at(self.pc).local_loads += u64::from(self.is_counted_local());
        for lane in each(mask) {
            let bytes = access.width * out.len() as u32;
            let start = self.local_at(addresses[lane], bytes, lane)?;
            if self.launch.gpu.config.checks.uninitialised {
                let unwritten: Vec<bool> =
                    self.warp.local_written[start..start + bytes as usize].iter().map(|written| !written).collect();
                self.note_unwritten(access, lane, |(at, length)| {
                    let bad = unwritten[at as usize..(at + length) as usize].contains(&true);
                    bad.then(|| format!("read of local offset {:#x}: {UNWRITTEN}", addresses[lane]))
                });
            }
            for (r, values) in out.iter_mut().enumerate() {
                let at = start + r * access.width as usize;
                let range = at..at + access.width as usize;
                let mut raw = [0; 8];
                raw[..access.width as usize].copy_from_slice(&self.warp.local[range]);
                values[lane] = u64::from_le_bytes(raw);
            }
        }
        Ok(())
    }

    fn store_local(&mut self, access: &Access, addresses: &Lanes, mask: Mask) -> Result<(), Fault> {
        self.tally.at(self.pc).local_stores += u64::from(self.is_counted_local());
        for lane in each(mask) {
            for (r, &register) in access.registers.iter().enumerate() {
                let at = self.local_at(addresses[lane] + r as u64 * u64::from(access.width), access.width, lane)?;
                let range = at..at + access.width as usize;
                let raw = self.reg(register)[lane].to_le_bytes();
                self.warp.local[range.clone()].copy_from_slice(&raw[..access.width as usize]);
                self.warp.local_written[range].fill(!self.warp.undefined.holds(register, lane));
            }
        }
        Ok(())
    }

    pub(super) fn local_at(&self, address: u64, width: u32, lane: usize) -> Result<usize, Fault> {
        let length = u64::from(self.launch.program.local_bytes);
        if address + u64::from(width) > length {
            let message = format!("{width} bytes at local offset {address:#x} of {length} bytes");
            return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
        }
        Ok(lane * length as usize + address as usize)
    }

    fn load_param(&mut self, access: &Access, addresses: &Lanes, mask: Mask, out: &mut [Lanes]) -> Result<(), Fault> {
        self.tally.at(self.pc).param_loads += 1;
        let params = self.launch.config.params;
        for lane in each(mask) {
            for (r, values) in out.iter_mut().enumerate() {
                let at = addresses[lane] as usize + r * access.width as usize;
                let Some(bytes) = params.get(at..at + access.width as usize) else {
                    let message = format!("{} bytes at parameter offset {at} of {}", access.width, params.len());
                    return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
                };
                let mut raw = [0; 8];
                raw[..bytes.len()].copy_from_slice(bytes);
                values[lane] = u64::from_le_bytes(raw);
            }
        }
        Ok(())
    }

    /// mapa, getctarank and isspacep.
    pub(super) fn addresses_op(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        let mut out = [0; 32];
        let offset_mask = (1u64 << CLUSTER_RANK_SHIFT) - 1;
        match op {
            Op::MapShared { d, a, rank, generic } => {
                let (x, ranks) = (self.reg(*a), self.reg(*rank));
                for i in 0..32 {
                    let window = if *generic { SHARED_WINDOW } else { 0 };
                    out[i] = window | (ranks[i] + 1) << CLUSTER_RANK_SHIFT & 0xffff_ffff | x[i] & offset_mask;
                }
                self.set(*d, active, &out);
            }
            Op::ClusterRank { d, a } => {
                for (o, x) in out.iter_mut().zip(self.reg(*a)) {
                    *o = match (x & 0xffff_ffff) >> CLUSTER_RANK_SHIFT {
                        0 => self.warp.cta as u64,
                        rank => rank - 1,
                    };
                }
                self.set(*d, active, &out);
            }
            Op::IsSpace { p, a, space } => {
                let mask = (0..32).fold(0, |m, i| m | u32::from(window(self.reg(*a)[i]).0 == *space) << i);
                self.set_pred(*p, active, mask);
            }
            other => panic!("{other:?} is no address operation"),
        }
        Ok(Flow::Next)
    }
}

/// The lowest and the highest address of a warp.
struct Bounds<'x>(&'x Lanes);

impl vector::Work for Bounds<'_> {
    type Output = (u64, u64);

    #[inline(always)]
    fn run(self) -> (u64, u64) {
        self.0.iter().fold((u64::MAX, 0), |(low, high), &address| (low.min(address), high.max(address)))
    }
}

fn launch_memory<'l>(launch: &super::state::Launch<'l>) -> &'l [std::sync::Arc<Allocation>] {
    launch.memory
}

/// The space of a generic address and the first address of its window.
fn window(address: u64) -> (Space, u64) {
    for (base, space) in [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)] {
        if (base..base + WINDOW_BYTES).contains(&address) {
            return (space, base);
        }
    }
    (Space::Global, 0)
}

fn check_alignment(addresses: &Lanes, mask: Mask, bytes: u64) -> Result<(), Fault> {
    let low = bytes - 1;
    let wrong =
        if mask == FULL { addresses.iter().fold(0, |m, a| m | a) } else { each(mask).fold(0, |m, l| m | addresses[l]) };
    if wrong & low == 0 {
        return Ok(());
    }
    let lane = each(mask).find(|&l| addresses[l] & low != 0).unwrap_or(0);
    let message = format!("{bytes} bytes at {:#x}, which is not a multiple of {bytes}", addresses[lane]);
    Err(Fault::new(FindingKind::Misaligned, Some(lane), message))
}

/// The words of a range with the bytes of each as a nibble.
fn words_of(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, u8)> {
    let end = offset + bytes;
    (offset / 4..end.div_ceil(4)).map(move |word| {
        let from = offset.max(word * 4) - word * 4;
        let to = end.min(word * 4 + 4) - word * 4;
        (word as usize, ((1u8 << (to - from)) - 1) << from)
    })
}
