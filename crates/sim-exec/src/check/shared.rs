//! Shared memory of one CTA: bytes, which of them were written or await an asynchronous copy, and who touched them last.

use super::clock::{Actor, Clock, Conflict};

/// The last access to a word, as far as races need it.
#[derive(Clone, Copy, Debug, Default)]
struct Touch {
    tick: u32,
    warp: u16,
    lane: u8,
    /// Bytes of the word; 0 for no access.
    bytes: u8,
    atomic: bool,
    /// Of a generic write: the warp's proxy fences before it, plus one. 0 for writes that need no proxy fence.
    epoch: u16,
}

impl Touch {
    fn conflict(&self, who: &Actor<'_>, now: &Touch, wrote: bool) -> Option<Conflict> {
        if self.bytes & now.bytes == 0 || self.atomic && now.atomic {
            return None;
        }
        let known = who.clock.own[self.warp as usize];
        let ordered =
            if self.warp == now.warp { self.lane == now.lane || self.tick < known } else { self.tick <= known };
        (!ordered).then_some(Conflict {
            other_cluster: who.cluster,
            other_warp: self.warp.into(),
            other_lane: self.lane.into(),
            other_wrote: wrote,
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct WordRaces {
    write: Touch,
    /// The first and the latest read since that write: enough to see most readers without a clock per word.
    reads: [Touch; 2],
}

impl WordRaces {
    /// Checks a read against the last write, and remembers it.
    #[inline(always)]
    fn read(&mut self, who: &Actor<'_>, now: Touch) -> Result<(), Trouble> {
        if let Some(conflict) = self.write.conflict(who, &now, true) {
            return Err(Trouble::Race(conflict));
        }
        self.remember(now);
        Ok(())
    }

    #[inline(always)]
    fn remember(&mut self, now: Touch) {
        let first = &mut self.reads[0];
        if first.bytes == 0 || first.warp == now.warp && first.tick != now.tick {
            *first = now;
        }
        self.reads[1] = now;
    }
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    AsyncPending,
    AsyncReading,
    Race(Conflict),
}

/// Which checks apply to one access.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub offset: u32,
    pub width: u32,
    pub lane: usize,
    pub atomic: bool,
    /// Of a generic write: the warp's proxy fences before it, plus one. 0 for writes that need no proxy fence.
    pub epoch: u16,
}

/// Shared memory of a CTA.
#[derive(Debug)]
pub struct SharedMemory {
    bytes: Vec<u8>,
    /// Per word: low nibble for written bytes, high nibble for bytes that an asynchronous copy will still write.
    state: Vec<u8>,
    races: Vec<WordRaces>,
    /// Per 16 bytes: asynchronous reads that were not waited for. Empty before the first.
    async_reads: Vec<u32>,
    check_written: bool,
}

impl SharedMemory {
    /// `length` bytes, unwritten.
    pub fn new(length: u32, check_written: bool, check_races: bool) -> Self {
        let words = (length as usize).div_ceil(4) + 1;
        SharedMemory {
            bytes: vec![0; words * 4],
            state: vec![0; words],
            races: vec![WordRaces::default(); if check_races { words } else { 0 }],
            async_reads: Vec::new(),
            check_written,
        }
    }

    /// The value of an aligned access of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn load(&self, offset: u32, width: u32) -> u64 {
        let at = offset as usize;
        match width {
            1 => self.bytes[at].into(),
            2 => u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).into(),
            4 => u32::from_le_bytes(self.array(at)).into(),
            _ => u64::from_le_bytes(self.array(at)),
        }
    }

    /// Sixteen aligned bytes.
    #[inline]
    pub fn load_piece(&self, offset: u32) -> [u32; 4] {
        let bytes: [u8; 16] = self.array(offset as usize);
        std::array::from_fn(|i| {
            u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
        })
    }

    #[inline]
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }

    /// Stores 1, 2, 4 or 8 bytes and counts them as written.
    #[inline]
    pub fn store(&mut self, offset: u32, width: u32, value: u64) {
        let at = offset as usize;
        self.bytes[at..at + width as usize].copy_from_slice(&value.to_le_bytes()[..width as usize]);
        for (word, bytes) in touched_words(offset, width) {
            self.state[word] |= bytes;
        }
    }

    /// An asynchronous read of 16 bytes begins: until it ends, nobody may write them.
    pub fn begin_async_read(&mut self, offset: u32) {
        if self.async_reads.is_empty() {
            self.async_reads = vec![0; self.bytes.len().div_ceil(16)];
        }
        self.async_reads[offset as usize / 16] += 1;
    }

    pub fn end_async_read(&mut self, offset: u32) {
        self.async_reads[offset as usize / 16] -= 1;
    }

    /// Marks bytes that an asynchronous copy will write.
    pub fn await_copy(&mut self, offset: u32, length: u32) {
        for (word, bytes) in touched_words(offset, length) {
            self.state[word] = self.state[word] & !bytes | bytes << 4;
        }
    }

    /// Ends an asynchronous copy: its bytes arrive.
    pub fn finish_copy(&mut self, offset: u32, data: &[u8]) {
        self.bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        for (word, bytes) in touched_words(offset, data.len() as u32) {
            self.state[word] = self.state[word] & !(bytes << 4) | bytes;
        }
    }

    /// Bytes of an asynchronous copy arrive, written by `who`, who is no warp.
    pub fn finish_bulk(&mut self, who: &Actor<'_>, offset: u32, data: &[u8]) {
        self.finish_copy(offset, data);
        let access = Access { offset, width: data.len() as u32, lane: 0, atomic: false, epoch: 0 };
        for (word, bytes) in touched_words(offset, data.len() as u32) {
            if let Some(races) = self.races.get_mut(word) {
                *races = WordRaces { write: touch(who, access, bytes), reads: Default::default() };
            }
        }
    }

    /// An asynchronous copy updates bytes, as an atomic operation would.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn reduce_bulk(&mut self, who: &Actor<'_>, offset: u32, data: &[u8]) -> Result<(), Trouble> {
        let access = Access { offset, width: data.len() as u32, lane: 0, atomic: true, epoch: 0 };
        self.check_write(who, access, None)?;
        self.finish_copy(offset, data);
        Ok(())
    }

    /// An asynchronous copy, by `who`, who is no warp, reads bytes: writes must be ordered after it.
    pub fn read_async(&mut self, who: &Actor<'_>, offset: u32, length: u32, data: &mut Vec<u8>) {
        data.extend_from_slice(&self.bytes[offset as usize..(offset + length) as usize]);
        let access = Access { offset, width: length, lane: 0, atomic: false, epoch: 0 };
        for (word, bytes) in touched_words(offset, length) {
            if let Some(races) = self.races.get_mut(word) {
                races.remember(touch(who, access, bytes));
            }
        }
    }

    /// The warp and lane of a generic write to a range that no proxy fence stands behind, as far as `clock` knows.
    pub fn unfenced_write(&self, clock: &Clock, offset: u32, length: u32) -> Option<(usize, usize)> {
        let writes = touched_words(offset, length).filter_map(|(word, _)| Some(&self.races.get(word)?.write));
        let mut generic = writes.filter(|w| w.epoch != 0);
        let write = generic.find(|w| !clock.is_fenced(w.warp.into(), w.tick, w.epoch.into()))?;
        Some((write.warp.into(), write.lane.into()))
    }

    /// Whether something has written every byte of a range; true if that is not checked.
    #[inline]
    pub fn is_written(&self, offset: u32, length: u32) -> bool {
        if let Some(words) = whole_words(offset, length) {
            return !self.check_written || self.state[words].iter().all(|state| state & 15 == 15);
        }
        !self.check_written || touched_words(offset, length).all(|(word, bytes)| self.state[word] & bytes == bytes)
    }

    /// Forgets that bytes were written: they hold an undefined value.
    pub fn mark_unwritten(&mut self, offset: u32, length: u32) {
        for (word, bytes) in touched_words(offset, length) {
            self.state[word] &= !bytes;
        }
    }

    /// Checks a read for races and pending copies, and remembers it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    #[inline]
    pub fn check_read(&mut self, who: &Actor<'_>, access: Access) -> Result<(), Trouble> {
        if let Some(words) = whole_words(access.offset, access.width) {
            if self.state[words.clone()].iter().any(|state| state >> 4 != 0) {
                return Err(Trouble::AsyncPending);
            }
            let now = touch(who, access, 15);
            let races = self.races.get_mut(words).unwrap_or_default();
            return races.iter_mut().try_for_each(|races| races.read(who, now));
        }
        for (word, bytes) in touched_words(access.offset, access.width) {
            if self.state[word] >> 4 & bytes != 0 {
                return Err(Trouble::AsyncPending);
            }
            if let Some(races) = self.races.get_mut(word) {
                races.read(who, touch(who, access, bytes))?;
            }
        }
        Ok(())
    }

    /// Checks that 16 bytes may be read on behalf of `who`, and remembers the read as the asynchronous proxy's: its warp and tick.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_operand(&mut self, who: &Actor<'_>, offset: u32, (warp, tick): (usize, u32)) -> Result<(), Trouble> {
        let words = offset as usize / 4..offset as usize / 4 + 4;
        if self.state[words.clone()].iter().any(|state| state >> 4 != 0) {
            return Err(Trouble::AsyncPending);
        }
        let access = Access { offset, width: 16, lane: 0, atomic: false, epoch: 0 };
        let asks = touch(who, access, 15);
        let reads = Touch { tick, warp: warp as u16, ..asks };
        for races in self.races.get_mut(words).unwrap_or_default() {
            if let Some(conflict) = races.write.conflict(who, &asks, true) {
                return Err(Trouble::Race(conflict));
            }
            races.remember(reads);
        }
        Ok(())
    }

    /// Checks a write and remembers it. Writing the value that is already there is no race; `None` is a value that is not known yet.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_write(&mut self, who: &Actor<'_>, access: Access, value: Option<u64>) -> Result<(), Trouble> {
        let same = !self.races.is_empty() && value.is_some_and(|value| self.load(access.offset, access.width) == value);
        for (word, bytes) in touched_words(access.offset, access.width) {
            if self.state[word] >> 4 & bytes != 0 {
                return Err(Trouble::AsyncPending);
            }
            if self.async_reads.get(word / 4).is_some_and(|&reads| reads > 0) {
                return Err(Trouble::AsyncReading);
            }
            let written = self.state[word] & bytes == bytes;
            if let Some(races) = self.races.get_mut(word) {
                let now = touch(who, access, bytes);
                let mut conflict = if same && written { None } else { races.write.conflict(who, &now, true) };
                if !(same && written) {
                    conflict = conflict.or_else(|| races.reads.iter().find_map(|r| r.conflict(who, &now, false)));
                }
                if let Some(conflict) = conflict {
                    return Err(Trouble::Race(conflict));
                }
                *races = WordRaces { write: now, reads: Default::default() };
            }
        }
        Ok(())
    }
}

fn touch(who: &Actor<'_>, access: Access, bytes: u8) -> Touch {
    Touch {
        tick: who.clock.own[who.warp],
        warp: who.warp as u16,
        lane: access.lane as u8,
        bytes,
        atomic: access.atomic,
        epoch: access.epoch,
    }
}

/// The words of a range that ends and starts between words.
#[inline(always)]
fn whole_words(offset: u32, length: u32) -> Option<std::ops::Range<usize>> {
    (offset | length).is_multiple_of(4).then_some(offset as usize / 4..(offset + length) as usize / 4)
}

/// The words that a range touches, with the bytes of each as a nibble.
fn touched_words(offset: u32, length: u32) -> impl Iterator<Item = (usize, u8)> {
    let end = offset + length;
    (offset / 4..end.div_ceil(4)).map(move |word| {
        let from = offset.max(word * 4) - word * 4;
        let to = end.min(word * 4 + 4) - word * 4;
        (word as usize, ((1u8 << (to - from)) - 1) << from)
    })
}
