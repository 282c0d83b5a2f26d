//! Handles: numbers that are never used twice, so that every use after destruction is seen.

use std::collections::BTreeMap;

use crate::code::{Code, Res, refuse};

/// What a C caller sees as an opaque pointer.
pub type Handle = u64;

/// Objects of one kind by handle.
#[derive(Debug)]
pub struct Table<T> {
    /// For messages.
    what: &'static str,
    /// Distinguishes the kinds, so that a handle of one kind is no handle of another.
    kind: u64,
    /// What a bad handle gets.
    code: Code,
    next: u64,
    live: BTreeMap<Handle, T>,
}

impl<T> Table<T> {
    pub fn new(what: &'static str, kind: u64, code: Code) -> Self {
        Table { what, kind, code, next: 1, live: BTreeMap::new() }
    }

    pub fn insert(&mut self, value: T) -> Handle {
        let handle = self.reserve();
        self.live.insert(handle, value);
        handle
    }

    /// A handle without an object yet.
    pub fn reserve(&mut self) -> Handle {
        // Above every user-space address, and a multiple of 16 as a pointer would be.
        let handle = 1 << 52 | self.kind << 40 | self.next << 4;
        self.next += 1;
        handle
    }

    pub fn insert_at(&mut self, handle: Handle, value: T) {
        self.live.insert(handle, value);
    }

    pub fn get(&self, handle: Handle) -> Res<&T> {
        match self.live.get(&handle) {
            Some(value) => Ok(value),
            None => self.bad(handle),
        }
    }

    pub fn get_mut(&mut self, handle: Handle) -> Res<&mut T> {
        if !self.live.contains_key(&handle) {
            return self.bad(handle);
        }
        self.live.get_mut(&handle).map_or_else(|| refuse(self.code, ""), Ok)
    }

    pub fn remove(&mut self, handle: Handle) -> Res<T> {
        match self.live.remove(&handle) {
            Some(value) => Ok(value),
            None => self.bad(handle),
        }
    }

    pub fn contains(&self, handle: Handle) -> bool {
        self.live.contains_key(&handle)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(Handle, &mut T) -> bool) {
        self.live.retain(|&h, v| keep(h, v));
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.live.iter().map(|(&h, v)| (h, v))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.live.iter_mut().map(|(&h, v)| (h, v))
    }

    fn bad<U>(&self, handle: Handle) -> Res<U> {
        let what = self.what;
        let was_ours = handle >> 40 == (1 << 12 | self.kind) && (handle >> 4 & ((1 << 36) - 1)) < self.next;
        let why = match (handle, was_ours) {
            (0, _) => format!("the {what} handle is null"),
            (_, true) => format!("{what} {handle:#x} was destroyed"),
            (_, false) => format!("{handle:#x} is no {what}"),
        };
        refuse(self.code, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_handles_are_told_apart() {
        let mut streams = Table::new("stream", 1, Code::InvalidHandle);
        let mut events = Table::new("event", 2, Code::InvalidHandle);
        let (stream, event) = (streams.insert(()), events.insert(()));
        assert_ne!(stream, event);
        streams.remove(stream).expect("it is live");
        let why = |handle| streams.get(handle).expect_err("it is not live").why;
        assert!(why(stream).contains("was destroyed"));
        assert!(why(event).contains("is no stream"));
        assert!(why(0).contains("null"));
        assert!(why(0x7fff_1234_5678).contains("is no stream"));
        assert_ne!(streams.insert(()), stream, "a handle is never used twice");
    }
}
