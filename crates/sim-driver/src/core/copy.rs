//! Copies and fills: every address is checked when the call is made.

use std::sync::Arc;

use super::Driver;
use super::capture::Status;
use super::fault::FaultPoint;
use super::table::Handle;
use super::work::{Copy, End, Fill, Work};
use crate::code::{Code, Res, require};
use crate::host::HostRange;

/// Bytes of pageable host memory that a copy takes at once; with more it waits until they are on the device.
const STAGED_BYTES_MAX: u64 = 64 << 10;

/// Whether a call returns at once or when the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In a stream.
    Stream(Handle),
    Blocking,
}

/// An end of a copy as a caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    Device(u64),
    Host(u64),
    /// Device or host memory by the address alone.
    Unified(u64),
}

impl Driver {
    pub fn copy(&mut self, to: Pointer, from: Pointer, bytes: u64, order: Order) -> Res {
        self.context()?;
        let stream = self.stream_of(order)?;
        if bytes == 0 {
            return Ok(());
        }
        let mut copy = self.checked_copy(to, from, bytes)?;
        if order == Order::Blocking {
            self.legacy_allowed(stream)?;
            self.refuse_unsafe_call()?;
        }
        self.fault(FaultPoint::Copy)?;
        if self.capture_status(stream)? != Status::None {
            return self.submit(stream, Work::Copy(copy));
        }
        let waits = self.stage(&mut copy, order);
        self.submit(stream, Work::Copy(copy))?;
        if waits { self.wait_for_stream(stream) } else { Ok(()) }
    }

    /// Whether a copy returns only when it is done; what need not wait for pageable memory takes its bytes now. The rules are
    /// those of the driver API's "API synchronization behavior".
    fn stage(&self, copy: &mut Copy, order: Order) -> bool {
        let is_pinned = |host: &HostRange| self.range_of(host.address).is_some_and(|(_, r)| r.is_host());
        match (&copy.to, &copy.from) {
            (End::Device { .. }, End::Host(host)) if is_pinned(host) => order == Order::Blocking,
            (End::Host(host), End::Device { .. }) if is_pinned(host) => order == Order::Blocking,
            (End::Device { .. }, End::Host(host)) if host.bytes <= STAGED_BYTES_MAX => {
                let bytes: Arc<[u8]> = host.read(|b| Arc::from(b));
                copy.from = End::Staged(bytes);
                false
            }
            (End::Device { .. }, End::Device { .. }) => false,
            _ => true,
        }
    }

    /// A copy whose addresses are known to be good.
    pub fn checked_copy(&self, to: Pointer, from: Pointer, bytes: u64) -> Res<Copy> {
        Ok(Copy { to: self.end(to, bytes)?, from: self.end(from, bytes)?, bytes })
    }

    /// Fills `width` elements of 1, 2 or 4 bytes, in `height` rows `pitch` bytes apart.
    pub fn fill(&mut self, fill: Fill, order: Order) -> Res {
        self.context()?;
        let stream = self.stream_of(order)?;
        if fill.width == 0 || fill.height == 0 {
            return Ok(());
        }
        self.check_fill(&fill)?;
        if order == Order::Blocking {
            self.legacy_allowed(stream)?;
            self.refuse_unsafe_call()?;
        }
        self.fault(FaultPoint::Copy)?;
        let is_host = self.range_of(fill.address).is_some_and(|(_, r)| r.is_host());
        self.submit(stream, Work::Fill(fill))?;
        if order == Order::Blocking && is_host { self.wait_for_stream(stream) } else { Ok(()) }
    }

    pub fn check_fill(&self, fill: &Fill) -> Res {
        let element = u64::from(fill.element_bytes);
        require(matches!(element, 1 | 2 | 4), Code::InvalidValue, format!("elements of {element} bytes"))?;
        require(
            fill.address.is_multiple_of(element) && (fill.height == 1 || fill.pitch.is_multiple_of(element)),
            Code::InvalidValue,
            format!("{:#x} is not aligned to {element} bytes", fill.address),
        )?;
        let row = fill.width.checked_mul(element);
        let span = row.and_then(|row| fill.pitch.checked_mul(fill.height - 1)?.checked_add(row));
        let is_pitched = fill.height == 1 || row.is_some_and(|row| row <= fill.pitch);
        require(span.is_some() && is_pitched, Code::InvalidValue, "rows overlap, or do not fit the address space")?;
        self.device_of(fill.address, span.unwrap_or(u64::MAX)).map(drop)
    }

    /// A copy between contexts, which the devices' addresses must match.
    pub fn copy_peer(&mut self, to: (u64, Handle), from: (u64, Handle), bytes: u64, order: Order) -> Res {
        for (address, context) in [to, from] {
            let device = self.contexts.get(context)?.device;
            let is_there = bytes == 0 || self.range_of(address).is_some_and(|(_, r)| r.is_host() || r.device == device);
            require(is_there, Code::InvalidValue, format!("{address:#x} is no memory of the context's device"))?;
        }
        self.copy(Pointer::Device(to.0), Pointer::Device(from.0), bytes, order)
    }

    fn stream_of(&mut self, order: Order) -> Res<Handle> {
        match order {
            Order::Stream(handle) => self.stream(handle),
            Order::Blocking => self.stream(0),
        }
    }

    fn end(&self, pointer: Pointer, bytes: u64) -> Res<End> {
        match pointer {
            Pointer::Device(address) => self.device_of(address, bytes).map(|device| End::Device { device, address }),
            Pointer::Host(address) => {
                let host = HostRange::new(address, bytes)?;
                self.check_host(host)?;
                Ok(End::Host(host))
            }
            Pointer::Unified(address) => match self.range_of(address) {
                Some((_, range)) if !range.is_host() => self.end(Pointer::Device(address), bytes),
                _ => self.end(Pointer::Host(address), bytes),
            },
        }
    }
}
