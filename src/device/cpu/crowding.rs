//! How many threads work on a step: fewer while other programs hold the machine's cores.
//!
//! Threads that meet at a barrier per stage are as fast as the slowest of them. One whose core is taken away for a time slice
//! (milliseconds) makes all others wait for it, hundreds of times longer than a stage takes; then fewer threads are faster.
//!
//! The rule. Let `n` threads take `W` for a step that one thread would do in `w`, and let the others wait a share `f` of `W` for the
//! slowest. Stages are shared out item by item, so a thread that never waits for its core does at least `w / n` of the work:
//! `W · (1 - f) >= w / n`. `n - 1` threads would take `w / (n - 1)`, which is less where `f > 1 / n`. Waiting is counted from where
//! a waiter stops spinning, so that ordinary barriers count nothing.
//!
//! Who left comes back on trial. A trial that fails is repeated after twice the time, up to [`ABSENCE_NS_MAX`]: it costs a few
//! disturbed steps each time. Results do not depend on the number of threads, so nothing but speed does.

/// The least time that is judged, several time slices: one that is lost now and then costs less than a thread is worth.
const JUDGED_NS: u64 = 60_000_000;
/// A time without fault after which threads count as undisturbed.
const CLEAN_NS: u64 = 120_000_000;
const ABSENCE_NS_MIN: u64 = 100_000_000;
const ABSENCE_NS_MAX: u64 = 3_200_000_000;

/// Decides how many threads run the next step.
#[derive(Debug)]
pub struct Crowding {
    threads_max: u32,
    threads: u32,
    /// Of the steps with this number of threads that are being judged.
    wall_ns: u64,
    waited_ns: u64,
    /// Until a thread comes back on trial.
    absence_left_ns: u64,
    absence_ns: u64,
}

impl Crowding {
    pub fn new(threads_max: u32) -> Crowding {
        Crowding {
            threads_max,
            threads: threads_max,
            wall_ns: 0,
            waited_ns: 0,
            absence_left_ns: 0,
            absence_ns: ABSENCE_NS_MIN,
        }
    }

    /// Threads for the next step.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// A step took `wall_ns`, in which its threads waited `waited_ns` altogether, beyond spinning.
    pub fn finished(&mut self, wall_ns: u64, waited_ns: u64) {
        if self.threads > 1 {
            self.wall_ns += wall_ns;
            self.waited_ns += waited_ns;
            self.judge();
        }
        if self.threads < self.threads_max {
            self.absence_left_ns = self.absence_left_ns.saturating_sub(wall_ns);
            if self.absence_left_ns == 0 {
                self.absence_left_ns = self.absence_ns;
                self.change_threads(self.threads + 1);
            }
        }
    }

    fn judge(&mut self) {
        if self.wall_ns < JUDGED_NS {
            return;
        }
        // All but the slowest wait: their mean share is above 1 / n.
        let (n, waited) = (u128::from(self.threads), u128::from(self.waited_ns));
        if waited * n > u128::from(self.wall_ns) * (n - 1) {
            self.change_threads(self.threads - 1);
            self.absence_left_ns = self.absence_ns;
            self.absence_ns = (2 * self.absence_ns).min(ABSENCE_NS_MAX);
        } else if self.wall_ns >= CLEAN_NS {
            (self.wall_ns, self.waited_ns) = (0, 0);
            // Fewer threads without fault say nothing of the one that left.
            if self.threads == self.threads_max {
                self.absence_ns = (self.absence_ns / 2).max(ABSENCE_NS_MIN);
            }
        }
    }

    fn change_threads(&mut self, threads: u32) {
        self.threads = threads;
        (self.wall_ns, self.waited_ns) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Decode steps on a machine where `taken` of `cores` cores are held by others: a step of `work_ms` thread-milliseconds is
    /// shared by the threads, and with more threads than free cores each loses a time slice of 10 ms every second step.
    fn tokens_per_s(cores: u32, taken: u32, threads_max: u32, adapts: bool) -> f64 {
        let mut crowding = Crowding::new(threads_max);
        let (mut wall_ns, work_ns) = (0, 8 * MS);
        let steps = 4000;
        for step in 0..steps {
            let threads = if adapts { crowding.threads() } else { threads_max };
            let crowded = threads > cores - taken && step % 2 == 0;
            let waited = if crowded { 10 * MS } else { 0 };
            let wall = work_ns / u64::from(threads) + waited;
            crowding.finished(wall, waited * u64::from(threads - 1));
            wall_ns += wall;
        }
        steps as f64 / (wall_ns as f64 / 1e9)
    }

    #[test]
    fn a_quiet_machine_keeps_all_threads() {
        for threads in [1, 2, 7, 64] {
            let mut crowding = Crowding::new(threads);
            for step in 0..1000 {
                assert_eq!(crowding.threads(), threads);
                // A barrier now and then that took longer than spinning lasts.
                crowding.finished(3 * MS, if step % 10 == 0 { MS } else { 0 });
            }
        }
    }

    #[test]
    fn a_time_slice_that_is_lost_now_and_then_sends_no_thread_away() {
        let mut crowding = Crowding::new(2);
        for step in 0..1000 {
            let waited = if step % 20 == 0 { 10 * MS } else { 0 };
            crowding.finished(4 * MS + waited, waited);
            assert_eq!(crowding.threads(), 2);
        }
    }

    #[test]
    fn a_crowded_machine_loses_little_to_trials() {
        for (cores, taken, threads) in [(2, 1, 2), (4, 1, 4), (8, 1, 8)] {
            let fixed = tokens_per_s(cores, taken, threads, false);
            let fewer = tokens_per_s(cores, taken, cores - taken, false);
            let adapted = tokens_per_s(cores, taken, threads, true);
            assert!(fewer > fixed && adapted >= 0.9 * fewer, "{adapted} of {fewer}, {fixed} without adapting");
        }
    }

    #[test]
    fn threads_that_left_come_back_soon_after_the_machine_is_quiet() {
        let mut crowding = Crowding::new(2);
        for _ in 0..2000 {
            let waited = if crowding.threads() == 2 { 9 * MS } else { 0 };
            crowding.finished(10 * MS, waited);
        }
        let mut quiet_ns = 0;
        while crowding.threads() < 2 {
            crowding.finished(5 * MS, 0);
            quiet_ns += 5 * MS;
        }
        assert!(quiet_ns <= ABSENCE_NS_MAX, "{quiet_ns}");
        // One clean period after the other, trials become frequent again.
        (0..2000).for_each(|_| crowding.finished(3 * MS, 0));
        assert_eq!((crowding.threads(), crowding.absence_ns), (2, ABSENCE_NS_MIN));
    }
}
