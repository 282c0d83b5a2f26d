//! A line of progress on standard error; nothing where that is no terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);

/// What goes on, and how much of it is done.
pub struct Progress {
    what: &'static str,
    total_bytes: Option<u64>,
    done_bytes: u64,
    begun: Instant,
    shown: Option<Instant>,
    is_visible: bool,
}

impl Progress {
    /// `total_bytes` is left out for work whose length is unknown: then the elapsed time is shown.
    pub fn new(what: &'static str, total_bytes: Option<u64>) -> Progress {
        let is_visible = std::io::stderr().is_terminal();
        Progress { what, total_bytes, done_bytes: 0, begun: Instant::now(), shown: None, is_visible }
    }

    /// Bytes done so far; called as often as convenient.
    pub fn set(&mut self, done_bytes: u64) {
        self.done_bytes = done_bytes;
        if self.is_visible && self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL) {
            self.shown = Some(Instant::now());
            // Progress is a courtesy: a terminal that is gone is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.line());
        }
    }

    pub fn add(&mut self, bytes: u64) {
        self.set(self.done_bytes + bytes);
    }

    fn line(&self) -> String {
        const MEGA: u64 = 1_000_000;
        let seconds = self.begun.elapsed().as_secs();
        match self.total_bytes {
            Some(total) => format!("{} {} of {} MB", self.what, self.done_bytes / MEGA, total / MEGA),
            None => format!("{} {}:{:02}", self.what, seconds / 60, seconds % 60),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_or_how_long_it_takes() {
        let mut bar = Progress::new("unpacking", Some(98_362_432));
        bar.add(40_000_000);
        bar.add(5_900_000);
        assert_eq!(bar.line(), "unpacking 45 of 98 MB");
        assert_eq!(Progress::new("pip install", None).line(), "pip install 0:00");
    }
}
