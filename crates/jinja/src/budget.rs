//! What a rendering may cost. A template is a program that a stranger wrote: everything that it does pays here first.

use crate::error::Error;
use std::cell::Cell;

/// Steps that any template may take: a hundred for each of three thousand messages.
const STEPS: u64 = 300_000;
/// Further steps for every value of the input.
const STEPS_PER_VALUE: u64 = 300;
/// Bytes that any template may read and write, intermediate values included.
const BYTES: u64 = 8 << 20;
/// Templates copy a message's text a few times.
const BYTES_PER_INPUT_BYTE: u64 = 64;
/// The price of an element of a list or mapping.
pub(crate) const ELEMENT_BYTES: u64 = 64;
/// However large the input is: values inside one another take stack when they are dropped.
const STEPS_MAX: u64 = 2_000_000;
/// Expressions, macros, loops and values inside one another.
const DEPTH_MAX: u32 = 1500;

/// The steps and bytes that a rendering has left.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

impl Budget {
    /// For an input of so many values and bytes of text.
    pub(crate) fn new(input_values: u64, input_bytes: u64) -> Budget {
        let input_bytes = input_bytes.saturating_add(input_values.saturating_mul(8));
        Budget {
            steps: Cell::new(STEPS.saturating_add(input_values.saturating_mul(STEPS_PER_VALUE)).min(STEPS_MAX)),
            bytes: Cell::new(BYTES.saturating_add(input_bytes.saturating_mul(BYTES_PER_INPUT_BYTE))),
            depth: Cell::new(0),
        }
    }

    /// Pays for one operation of constant time.
    pub(crate) fn step(&self) -> Result<(), Error> {
        match self.steps.get().checked_sub(1) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(Error::limit("it takes too many steps")),
        }
    }

    /// Pays for reading or writing `bytes`.
    pub(crate) fn pay(&self, bytes: impl TryInto<u64>) -> Result<(), Error> {
        match self.bytes.get().checked_sub(bytes.try_into().unwrap_or(u64::MAX)) {
            Some(left) => {
                self.bytes.set(left);
                Ok(())
            }
            None => Err(Error::limit("its values are too large")),
        }
    }

    /// Pays for `count` elements of a list or mapping.
    pub(crate) fn pay_elements(&self, count: impl TryInto<u64>) -> Result<(), Error> {
        self.pay(count.try_into().unwrap_or(u64::MAX).saturating_mul(ELEMENT_BYTES))
    }

    /// Pays for `count` repetitions of `bytes`.
    pub(crate) fn pay_times(&self, bytes: usize, count: u64) -> Result<(), Error> {
        self.pay((bytes as u64).saturating_mul(count))
    }

    /// Goes one level deeper. [`Budget::leave`] comes back.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > DEPTH_MAX {
            return Err(Error::limit("it is nested too deeply"));
        }
        Ok(())
    }

    /// For failures that do not end the rendering.
    pub(crate) fn depth(&self) -> u32 {
        self.depth.get()
    }

    pub(crate) fn return_to(&self, depth: u32) {
        self.depth.set(depth);
    }

    pub(crate) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }
}
