//! Ctrl-C: the first one ends the work, the second one the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports of a process that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

/// Whether Ctrl-C was pressed since this was made. Before that, Ctrl-C ends the process.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches from now on. Where the system gives no handler, Ctrl-C goes on to end the process.
    pub fn watch() -> Interrupt {
        let pressed = Arc::new(AtomicBool::new(false));
        let signal = signal_hook::consts::SIGINT;
        // In the order of registration: the first signal finds the flag unset, and sets it.
        let shutdown = signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE.into(), Arc::clone(&pressed));
        if let Err(error) = shutdown.and_then(|_| signal_hook::flag::register(signal, Arc::clone(&pressed))) {
            tracing::warn!("Ctrl-C cannot be watched: {error}");
        }
        Interrupt(pressed)
    }

    pub fn is_pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
