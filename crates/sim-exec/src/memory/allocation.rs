//! One allocation: its words, and the shadow that knows which bytes were ever written.

use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::check::global_race::RaceShadow;

/// Storage of an allocation, 32-bit words so that CTAs on several threads share it without locks.
#[derive(Clone, Debug)]
pub enum Words {
    /// Owned, or shared with a host that keeps a clone.
    Shared(Arc<[AtomicU32]>),
    /// Host memory that lives as long as the process.
    Static(&'static [AtomicU32]),
}

impl Words {
    /// Zeroed storage of at least `bytes` bytes.
    pub fn zeroed(bytes: u64) -> Self {
        Words::Shared((0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Deref for Words {
    type Target = [AtomicU32];
    fn deref(&self) -> &[AtomicU32] {
        match self {
            Words::Shared(words) => words,
            Words::Static(words) => words,
        }
    }
}

/// Words per page of the initialisation summary.
const PAGE_WORDS: usize = 1024;

/// Four bits per word say which of its bytes were written; a summary says which pages are wholly written, because
/// nearly all device memory is filled by one host copy and then only read.
#[derive(Debug)]
struct InitShadow {
    nibbles: Box<[AtomicU8]>,
    full_pages: Box<[AtomicU8]>,
}

/// A range of device addresses with storage behind it.
#[derive(Debug)]
pub struct Allocation {
    /// First device address, a multiple of 256.
    pub base: u64,
    /// Length in bytes as asked for.
    pub bytes: u64,
    /// What it is, for messages.
    pub label: String,
    words: Words,
    init: Option<InitShadow>,
    wide: Mutex<()>,
    pub(crate) races: RaceShadow,
}

impl Allocation {
    /// Device memory: bytes count as unwritten until something writes them.
    pub(super) fn device(base: u64, bytes: u64, label: String) -> Self {
        let words = Words::zeroed(bytes);
        let init = InitShadow {
            nibbles: (0..words.len()).map(|_| AtomicU8::new(0)).collect(),
            full_pages: (0..words.len().div_ceil(PAGE_WORDS)).map(|_| AtomicU8::new(0)).collect(),
        };
        Allocation {
            base,
            bytes,
            label,
            races: RaceShadow::new(words.len()),
            words,
            init: Some(init),
            wide: Mutex::new(()),
        }
    }

    /// Host memory that the device can address. The host may write it unseen, so every byte counts as written.
    pub(super) fn mapped(base: u64, bytes: u64, label: String, words: Words) -> Self {
        assert!(words.len() as u64 * 4 >= bytes, "host storage is shorter than the mapping");
        Allocation { base, bytes, label, races: RaceShadow::new(words.len()), words, init: None, wide: Mutex::new(()) }
    }

    /// The words themselves.
    pub fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    /// Whether host memory is behind it.
    pub fn is_mapped(&self) -> bool {
        self.init.is_none()
    }

    /// Reads `width` (1, 2, 4 or 8) bytes at a naturally aligned offset.
    #[inline]
    pub fn load(&self, offset: u64, width: u32) -> u64 {
        let word = (offset / 4) as usize;
        let low = u64::from(self.words[word].load(Relaxed));
        match width {
            4 => low,
            8 => low | u64::from(self.words[word + 1].load(Relaxed)) << 32,
            _ => low >> (offset % 4 * 8) & ((1 << (width * 8)) - 1),
        }
    }

    /// Writes the low `width` (1, 2, 4 or 8) bytes of `value` at a naturally aligned offset.
    #[inline]
    pub fn store(&self, offset: u64, width: u32, value: u64) {
        let word = (offset / 4) as usize;
        match width {
            4 => self.words[word].store(value as u32, Relaxed),
            8 => {
                self.words[word].store(value as u32, Relaxed);
                self.words[word + 1].store((value >> 32) as u32, Relaxed);
            }
            _ => {
                let shift = (offset % 4 * 8) as u32;
                let mask = ((1u32 << (width * 8)) - 1) << shift;
                self.update_word(word, |old| old & !mask | (value as u32) << shift & mask);
            }
        }
        self.mark_written(offset, width);
    }

    /// Held during an access to more than one word, it makes that a single step for all others that hold it: what 64-bit
    /// atomics are by definition, and what strong vector accesses are on hardware (CUB's look-back relies on it).
    pub fn lock_wide(&self) -> MutexGuard<'_, ()> {
        self.wide.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies `change` to the word at `offset` as one atomic step and returns the old value.
    pub fn update_word(&self, word: usize, change: impl Fn(u32) -> u32) -> u32 {
        let cell = &self.words[word];
        let mut old = cell.load(Relaxed);
        while let Err(seen) = cell.compare_exchange_weak(old, change(old), Relaxed, Relaxed) {
            old = seen;
        }
        old
    }

    /// Whether all `width` bytes at `offset` were written.
    #[inline]
    pub fn is_written(&self, offset: u64, width: u32) -> bool {
        let Some(init) = &self.init else { return true };
        let word = (offset / 4) as usize;
        if init.full_pages[word / PAGE_WORDS].load(Relaxed) != 0 {
            return true;
        }
        match width {
            4 => init.nibbles[word].load(Relaxed) == 15,
            8 => init.nibbles[word].load(Relaxed) & init.nibbles[word + 1].load(Relaxed) == 15,
            _ => {
                let need = ((1u8 << width) - 1) << (offset % 4);
                init.nibbles[word].load(Relaxed) & need == need
            }
        }
    }

    /// Whether the page of every byte in the range is known to be wholly written: the cheap test before the exact one.
    #[inline]
    pub fn is_page_written(&self, offset: u64, bytes: u64) -> bool {
        let Some(init) = &self.init else { return true };
        let first = (offset / 4) as usize / PAGE_WORDS;
        let last = ((offset + bytes - 1) / 4) as usize / PAGE_WORDS;
        init.full_pages[first].load(Relaxed) & init.full_pages[last].load(Relaxed) != 0
    }

    #[inline]
    pub(crate) fn mark_written(&self, offset: u64, width: u32) {
        let Some(init) = &self.init else { return };
        let word = (offset / 4) as usize;
        if init.full_pages[word / PAGE_WORDS].load(Relaxed) != 0 {
            return;
        }
        match width {
            4 => init.nibbles[word].store(15, Relaxed),
            8 => {
                init.nibbles[word].store(15, Relaxed);
                init.nibbles[word + 1].store(15, Relaxed);
            }
            _ => {
                init.nibbles[word].fetch_or(((1u8 << width) - 1) << (offset % 4), Relaxed);
            }
        }
    }

    /// Copies bytes out; `offset + out.len()` must lie inside.
    pub fn read_bytes(&self, offset: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = offset + i as u64;
            *byte = (self.words[(at / 4) as usize].load(Relaxed) >> (at % 4 * 8)) as u8;
        }
    }

    /// Copies bytes in and counts them as written; `offset + data.len()` must lie inside.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) {
        let head = ((4 - offset % 4) % 4).min(data.len() as u64) as usize;
        for (i, &byte) in data[..head].iter().enumerate() {
            self.store(offset + i as u64, 1, byte.into());
        }
        let start = (offset as usize + head) / 4;
        let chunks = data[head..].chunks_exact(4);
        let tail = chunks.remainder();
        let words = chunks.len();
        for (i, chunk) in chunks.enumerate() {
            self.words[start + i].store(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]), Relaxed);
        }
        self.mark_words_written(start, words);
        for (i, &byte) in tail.iter().enumerate() {
            self.store(((start + words) * 4 + i) as u64, 1, byte.into());
        }
    }

    /// Copies from another allocation together with what is known about which bytes were written.
    pub fn copy_from(&self, to: u64, source: &Allocation, from: u64, bytes: u64) {
        let mut data = vec![0; bytes as usize];
        source.read_bytes(from, &mut data);
        let written: Vec<bool> = (0..bytes).map(|i| source.is_written(from + i, 1)).collect();
        if written.iter().all(|&w| w) {
            return self.write_bytes(to, &data);
        }
        for (i, (&byte, written)) in data.iter().zip(written).enumerate() {
            if written {
                self.store(to + i as u64, 1, byte.into());
            }
        }
    }

    fn mark_words_written(&self, start: usize, words: usize) {
        let Some(init) = &self.init else { return };
        for nibble in &init.nibbles[start..start + words] {
            nibble.store(15, Relaxed);
        }
        let first_page = start.div_ceil(PAGE_WORDS);
        let end = start + words;
        let end_page = if end == self.words.len() { end.div_ceil(PAGE_WORDS) } else { end / PAGE_WORDS };
        for page in first_page..end_page {
            init.full_pages[page].store(1, Relaxed);
        }
    }
}
