//! What belongs to a thread: its stack of current contexts and its capture mode.

use std::cell::{Cell, RefCell};

use super::capture::CaptureMode;
use super::table::Handle;

thread_local! {
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static MODE: Cell<CaptureMode> = const { Cell::new(CaptureMode::Global) };
}

/// The current context, whatever its state.
pub fn current() -> Option<Handle> {
    STACK.with_borrow(|s| s.last().copied())
}

pub fn push(context: Handle) {
    STACK.with_borrow_mut(|s| s.push(context));
}

pub fn pop() -> Option<Handle> {
    STACK.with_borrow_mut(Vec::pop)
}

/// Replaces the current context; `None` pops it.
pub fn set_current(context: Option<Handle>) {
    pop();
    if let Some(context) = context {
        push(context);
    }
}

/// How careful this thread is while streams capture.
pub fn capture_mode() -> CaptureMode {
    MODE.get()
}

pub fn exchange_capture_mode(mode: CaptureMode) -> CaptureMode {
    MODE.replace(mode)
}
