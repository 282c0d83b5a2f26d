//! atom and red, and the happens-before that atomics and fences make.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use half::{bf16, f16};

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::finding::FindingKind;
use crate::lanes::{Lane, Mask};
use crate::memory::{Allocation, LOCAL_WINDOW, SHARED_WINDOW};
use crate::program::{Atomic, AtomicKind, AtomicType, Space, Strength};
use crate::traffic::Touch;

impl Step<'_, '_> {
    pub(super) fn atomic(&mut self, atomic: &Atomic, active: Mask) -> Result<Flow, Fault> {
        self.warp.spinning = false;
        let addresses = self.addresses(&atomic.address);
        let width = atomic.ty.width();
        let mut out = vec![[0u64; 32]; atomic.value.len()];
        let bytes = width * atomic.value.len() as u32;
        let mut global = 0;
        for lane in each(active) {
            let address = addresses[lane];
            if !address.is_multiple_of(u64::from(bytes)) {
                let message = format!("{bytes} bytes at {address:#x}, which is not a multiple of {bytes}");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
            let shared = match atomic.space {
                Space::Shared | Space::SharedCluster => Some(address),
                Space::Generic if (SHARED_WINDOW..LOCAL_WINDOW).contains(&address) => Some(address - SHARED_WINDOW),
                _ => None,
            };
            global |= u32::from(shared.is_none()) << lane;
            for (i, values) in out.iter_mut().enumerate() {
                let skip = i as u64 * u64::from(width);
                let value = self.reg(atomic.value[i])[lane];
                let swap = atomic.swap.map_or(0, |s| self.reg(s)[lane]);
                let change = |old: u64| apply(atomic.kind, atomic.ty, old, value, swap);
                values[lane] = match shared {
                    Some(at) => self.atomic_shared(atomic, at + skip, lane, change)?,
                    None => self.atomic_global(atomic, address + skip, lane, change)?,
                };
            }
        }
        if global != 0 {
            self.count_global_anywhere(&addresses, global, bytes.into(), Touch::Update)?;
        }
        for (&d, values) in atomic.d.iter().zip(&out) {
            self.set(d, active, values);
        }
        if atomic.strength.releases() {
            self.warp.clock.own[self.warp.id] += 1;
        }
        Ok(Flow::Next)
    }

    fn atomic_shared(
        &mut self,
        atomic: &Atomic,
        at: u64,
        lane: usize,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let width = atomic.ty.width();
        let (cta, offset) = self.shared_at(at, width.into(), lane)?;
        self.check_shared_read(cta, offset, width, lane, true)?;
        let key = self.sync_address(cta, offset);
        self.before_write(key, atomic.strength);
        let old = self.ctas[cta].shared.load(offset, width);
        let new = change(old);
        self.check_shared_write(cta, offset, width, lane, true, new)?;
        self.ctas[cta].shared.store(offset, width, new);
        self.after_read(key, atomic.strength);
        Ok(old)
    }

    fn atomic_global(
        &mut self,
        atomic: &Atomic,
        address: u64,
        lane: usize,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let width = atomic.ty.width();
        let allocation = self.allocation(&[address; 32], 1 << lane, width.into())?;
        let Some(allocation) = allocation else {
            panic!("one lane's access cannot lie in several allocations");
        };
        let offset = address - allocation.base;
        let checks = self.launch.gpu.config.checks;
        if checks.uninitialised && atomic.kind != AtomicKind::Exchange && !allocation.is_written(offset, width) {
            let message = format!("atomic on offset {offset} of {}, which nothing has written", allocation.label);
            return Err(Fault::new(FindingKind::Uninitialised, Some(lane), message));
        }
        if checks.races {
            self.race_write(allocation, offset, width.into(), lane, Strength::Relaxed, false)?;
        }
        self.before_write(address, atomic.strength);
        let old = update_global(allocation, offset, width, change);
        self.after_read(address, atomic.strength);
        Ok(old)
    }

    /// The key of a shared-memory address in the table of published clocks.
    pub(super) fn sync_address(&self, cta: usize, offset: u32) -> u64 {
        1 << 63 | u64::from(self.cluster_id) << 40 | (cta as u64) << 32 | u64::from(offset)
    }

    /// Publishes at `address` what a releasing write, or a relaxed one after a fence, lets others learn.
    pub(super) fn before_write(&mut self, address: u64, strength: Strength) {
        if !self.launch.gpu.config.checks.races {
            return;
        }
        let clock = if strength.releases() { Some(&self.warp.clock) } else { self.warp.fence_clock.as_ref() };
        let Some(clock) = clock else { return };
        let table = &self.launch.sync[(address / 4 % self.launch.sync.len() as u64) as usize];
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.entry(address) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let (published, cluster) = entry.get_mut();
                published.join_foreign(*cluster, clock, self.cluster_id);
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((clock.clone(), self.cluster_id));
            }
        }
        self.launch.sync_used.store(true, Relaxed);
    }

    /// Learns what was published at `address`: at once if the read acquires, else at the next fence.
    pub(super) fn after_read(&mut self, address: u64, strength: Strength) {
        if !self.launch.sync_used.load(Relaxed) {
            return;
        }
        let table = &self.launch.sync[(address / 4 % self.launch.sync.len() as u64) as usize];
        let found = table.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        let Some((clock, cluster)) = found else { return };
        if strength.acquires() {
            self.warp.clock.join_foreign(self.cluster_id, &clock, cluster);
        } else {
            // A loop of relaxed reads sees the same clocks again and again: keep one per address range.
            self.warp.pending_acquire.retain(|(c, from)| *from != cluster || c.own != clock.own);
            self.warp.pending_acquire.push((clock, cluster));
        }
    }

    /// membar and fence.
    pub(super) fn fence(&mut self) -> Result<Flow, Fault> {
        for (clock, cluster) in std::mem::take(&mut self.warp.pending_acquire) {
            self.warp.clock.join_foreign(self.cluster_id, &clock, cluster);
        }
        self.warp.fence_clock = Some(self.warp.release());
        Ok(Flow::Next)
    }
}

/// Changes an element of 2, 4 or 8 bytes in one step and returns the old value.
pub(super) fn update_global(allocation: &Allocation, offset: u64, width: u32, change: impl Fn(u64) -> u64) -> u64 {
    let word = (offset / 4) as usize;
    let old = match width {
        4 => allocation.update_word(word, |old| change(old.into()) as u32).into(),
        2 => {
            let shift = (offset % 4 * 8) as u32;
            let old = allocation.update_word(word, |old| {
                let new = change(u64::from(old >> shift & 0xffff)) as u32;
                old & !(0xffff << shift) | (new & 0xffff) << shift
            });
            u64::from(old >> shift & 0xffff)
        }
        _ => {
            let _wide = allocation.lock_wide();
            let old = allocation.load(offset, 8);
            allocation.store(offset, 8, change(old));
            old
        }
    };
    allocation.mark_written(offset, width);
    old
}

/// What a reduction makes of an element.
pub(super) fn updated(kind: AtomicKind, ty: AtomicType, old: u64, value: u64) -> u64 {
    apply(kind, ty, old, value, 0)
}

fn apply(kind: AtomicKind, ty: AtomicType, old: u64, value: u64, swap: u64) -> u64 {
    match (kind, ty) {
        (AtomicKind::Exchange, _) => value,
        (AtomicKind::CompareExchange, _) => {
            let mask = if ty.width() == 8 { !0 } else { (1 << (8 * ty.width())) - 1 };
            if old & mask == value & mask { swap } else { old }
        }
        (_, AtomicType::F32) => float(kind, f32::get(old), f32::get(value)).put(),
        (_, AtomicType::F64) => (f64::get(old) + f64::get(value)).put(),
        (_, AtomicType::F16) => half_op(kind, old, value),
        (_, AtomicType::Bf16) => brain_op(kind, old, value),
        (_, AtomicType::F16x2) => pair(|a, b| half_op(kind, a, b), old, value),
        (_, AtomicType::Bf16x2) => pair(|a, b| brain_op(kind, a, b), old, value),
        (_, AtomicType::Unsigned(32)) => integer(kind, old as u32, value as u32).into(),
        (AtomicKind::Min, AtomicType::Signed(32)) => (old as i32).min(value as i32) as u32 as u64,
        (AtomicKind::Max, AtomicType::Signed(32)) => (old as i32).max(value as i32) as u32 as u64,
        (_, AtomicType::Signed(32)) => integer(kind, old as u32, value as u32).into(),
        (AtomicKind::Min, AtomicType::Signed(_)) => (old as i64).min(value as i64) as u64,
        (AtomicKind::Max, AtomicType::Signed(_)) => (old as i64).max(value as i64) as u64,
        (_, AtomicType::Unsigned(_) | AtomicType::Signed(_)) => match kind {
            AtomicKind::Add => old.wrapping_add(value),
            AtomicKind::Min => old.min(value),
            AtomicKind::Max => old.max(value),
            AtomicKind::And => old & value,
            AtomicKind::Or => old | value,
            AtomicKind::Xor => old ^ value,
            _ => old,
        },
    }
}

fn integer(kind: AtomicKind, old: u32, value: u32) -> u32 {
    match kind {
        AtomicKind::Add => old.wrapping_add(value),
        AtomicKind::Min => old.min(value),
        AtomicKind::Max => old.max(value),
        AtomicKind::And => old & value,
        AtomicKind::Or => old | value,
        AtomicKind::Xor => old ^ value,
        AtomicKind::Increment => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        AtomicKind::Exchange | AtomicKind::CompareExchange => old,
    }
}

fn float(kind: AtomicKind, old: f32, value: f32) -> f32 {
    match kind {
        AtomicKind::Min => old.min(value),
        AtomicKind::Max => old.max(value),
        _ => old + value,
    }
}

fn half_op(kind: AtomicKind, old: u64, value: u64) -> u64 {
    f16::from_f32(float(kind, f16::get(old).to_f32(), f16::get(value).to_f32())).put()
}

fn brain_op(kind: AtomicKind, old: u64, value: u64) -> u64 {
    bf16::from_f32(float(kind, bf16::get(old).to_f32(), bf16::get(value).to_f32())).put()
}

fn pair(f: impl Fn(u64, u64) -> u64, old: u64, value: u64) -> u64 {
    f(old & 0xffff, value & 0xffff) | f(old >> 16 & 0xffff, value >> 16 & 0xffff) << 16
}
