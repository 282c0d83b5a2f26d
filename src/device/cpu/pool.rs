//! A persistent pool of threads that run one job together, and the barrier they meet at: both spin for a bounded time
//! and then park, so that an idle engine costs nothing and a busy machine is not fought over.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::device::DeviceError;
use crate::device::host::address_space_left;

use super::crowding::Crowding;

/// Of a worker, and what its set-up takes beside that: a guard page, a stack for signals, a little of the allocator's.
const STACK_BYTES: usize = 2 << 20;
const SET_UP_BYTES: u64 = 256 << 10;

/// Spins before a waiter parks: about 50 µs of `pause` on current machines, several stages of a decode step.
const SPINS_MAX: u32 = 4_000;

/// A number that threads wait for others to change.
#[derive(Debug, Default)]
struct Gate {
    value: AtomicU32,
    parked: AtomicU32,
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    /// Publishes `value` and wakes whoever parked.
    fn open(&self, value: u32) {
        self.value.store(value, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            // Taking the lock orders this wake-up after the sleeper's last look at `value`.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.opened.notify_all();
        }
    }

    /// Waits until the value is no longer `old`; false if spinning was not enough.
    fn spin_while(&self, old: u32) -> bool {
        for _ in 0..SPINS_MAX {
            if self.value.load(Ordering::Acquire) != old {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Waits until the value is no longer `old`, in the end without using a core.
    fn wait_while(&self, old: u32) {
        if !self.spin_while(old) {
            self.park_while(old);
        }
    }

    fn park_while(&self, old: u32) {
        self.parked.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.value.load(Ordering::SeqCst) == old {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.parked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Time that threads waited for each other beyond spinning: for one whose core was taken away.
#[derive(Debug, Default)]
struct Waited(AtomicU64);

impl Waited {
    fn measure(&self, wait: impl FnOnce()) {
        let start = Instant::now();
        wait();
        self.0.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A barrier for the threads of a step.
#[derive(Debug)]
pub struct Barrier {
    threads: AtomicU32,
    waited: Waited,
    arrived: AtomicU32,
    gate: Gate,
    crossings: AtomicUsize,
}

impl Barrier {
    pub fn new(threads: u32) -> Barrier {
        Barrier {
            threads: AtomicU32::new(threads),
            waited: Waited::default(),
            arrived: AtomicU32::new(0),
            gate: Gate::default(),
            crossings: AtomicUsize::new(0),
        }
    }

    /// Returns once all threads called it. Orders everything before against everything after, on all threads.
    pub fn wait(&self) {
        // Set while no thread is here.
        let threads = self.threads.load(Ordering::Relaxed);
        if threads == 1 {
            self.crossings.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let generation = self.gate.value.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.crossings.fetch_add(1, Ordering::Relaxed);
            self.arrived.store(0, Ordering::Relaxed);
            self.gate.open(generation.wrapping_add(1));
        } else if !self.gate.spin_while(generation) {
            self.waited.measure(|| self.gate.park_while(generation));
        }
    }

    /// Waits until other threads, which are at it, have counted `done` up to `target`.
    pub fn wait_for(&self, done: &AtomicUsize, target: usize) {
        let is_done = || done.load(Ordering::Acquire) >= target;
        for _ in 0..SPINS_MAX {
            if is_done() {
                return;
            }
            std::hint::spin_loop();
        }
        self.waited.measure(|| {
            while !is_done() {
                // The other thread lost its core: give it ours.
                std::thread::yield_now();
            }
        });
    }

    /// How often all threads have met here.
    pub fn crossings(&self) -> usize {
        self.crossings.load(Ordering::Relaxed)
    }
}

type Job = dyn Fn(usize) + Sync;

#[derive(Debug)]
struct State {
    /// One for each worker: those that do not work on a step sleep on.
    starts: Vec<Gate>,
    /// Counts jobs that workers take part in.
    round: AtomicU32,
    barrier: Barrier,
    /// Workers that finished the current job, counted down to 0.
    busy: AtomicU32,
    done: Gate,
    job: Mutex<Option<JobPointer>>,
    stop: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct JobPointer(*const Job);

// SAFETY: the pointee is `Sync`, and `Pool::run` keeps it alive until every worker has finished with it.
unsafe impl Send for JobPointer {}

/// The pool: `threads - 1` workers and the thread that calls [`Pool::run`].
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    crowding: Crowding,
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers.
    ///
    /// # Errors
    /// `Threads` if the system gives fewer; those that were started have ended.
    pub fn new(threads: usize) -> Result<Pool, DeviceError> {
        let state = Arc::new(State {
            starts: (1..threads).map(|_| Gate::default()).collect(),
            round: AtomicU32::new(0),
            barrier: Barrier::new(threads as u32),
            busy: AtomicU32::new(0),
            done: Gate::default(),
            job: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let crowding = Crowding::new(threads as u32);
        let mut pool = Pool { threads, crowding, state: Arc::clone(&state), workers: Vec::new() };
        let failed = |started: usize, reason: String| DeviceError::Threads {
            asked: threads as u32,
            started: started as u32,
            reason,
        };
        // A thread whose own set-up finds no memory ends the process: so there must be enough before the first.
        let needed_bytes = (threads as u64).saturating_mul(STACK_BYTES as u64 + SET_UP_BYTES);
        if let Some(left) = address_space_left().filter(|left| *left < needed_bytes) {
            let reason = format!("their stacks take {needed_bytes} bytes, the limits of this process leave {left}");
            return Err(failed(1, reason));
        }
        for index in 1..threads {
            let state = Arc::clone(&state);
            let builder = std::thread::Builder::new().name(format!("kiln-cpu-{index}")).stack_size(STACK_BYTES);
            let worker = builder.spawn(move || work(&state, index));
            pool.workers.push(worker.map_err(|error| failed(index, error.to_string()))?);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How often the threads of a step have met at its barrier.
    pub fn barrier_crossings(&self) -> usize {
        self.state.barrier.crossings()
    }

    /// Runs `job(0)` here and `job(1)..job(threads - 1)` on the workers; returns when all have returned.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        self.run_on(self.threads, job);
    }

    /// Runs a step: `job` of as many threads as are of use now, all of which meet at the barrier that it is given.
    pub fn run_step(&mut self, job: &(dyn Fn(usize, &Barrier) + Sync)) {
        let threads = self.crowding.threads();
        let state = Arc::clone(&self.state);
        let barrier = &state.barrier;
        barrier.threads.store(threads, Ordering::Relaxed);
        let (start, waited_ns) = (Instant::now(), barrier.waited.ns());
        self.run_on(threads as usize, &|thread| job(thread, barrier));
        self.crowding.finished(start.elapsed().as_nanos() as u64, barrier.waited.ns() - waited_ns);
    }

    fn run_on(&mut self, threads: usize, job: &(dyn Fn(usize) + Sync)) {
        if threads == 1 {
            return job(0);
        }
        // SAFETY: only the lifetime is erased; this function returns after `busy` is 0, and a panic aborts.
        let erased: *const Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Job>(job) };
        *self.state.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(JobPointer(erased));
        self.state.busy.store(threads as u32 - 1, Ordering::Release);
        let before = self.state.round.fetch_add(1, Ordering::AcqRel);
        for start in &self.state.starts[..threads - 1] {
            start.open(start.value.load(Ordering::Relaxed).wrapping_add(1));
        }
        run_or_abort(|| job(0));
        let is_done = || self.state.busy.load(Ordering::Acquire) == 0;
        if !is_done() && !self.state.done.spin_while(before) {
            self.state.barrier.waited.measure(|| self.state.done.park_while(before));
        }
        while !is_done() {
            self.state.done.wait_while(before);
        }
    }
}

/// A thread that unwound would leave the others waiting at the next barrier for ever.
fn run_or_abort(job: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
        eprintln!("kiln: a compute thread panicked; this is a bug");
        std::process::abort();
    }
}

fn work(state: &State, index: usize) {
    let mut round = 0;
    loop {
        state.starts[index - 1].wait_while(round);
        round = round.wrapping_add(1);
        if state.stop.load(Ordering::Acquire) {
            return;
        }
        let job = *state.job.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(JobPointer(job)) = job else { return };
        // SAFETY: `Pool::run` keeps the job alive until `busy` has been counted down below.
        run_or_abort(|| unsafe { (*job)(index) });
        if state.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            state.done.open(state.round.load(Ordering::Acquire));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        for start in &self.state.starts {
            start.open(start.value.load(Ordering::Relaxed).wrapping_add(1));
        }
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process already.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_job_and_meets_at_barriers() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            let barrier = Barrier::new(threads as u32);
            for round in 0..200 {
                let counts: Vec<AtomicUsize> = (0..10).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|_| {
                    for count in &counts {
                        count.fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert_eq!(count.load(Ordering::Relaxed), threads, "round {round}");
                    }
                });
            }
            assert_eq!(barrier.crossings(), 2000);
        }
    }

    /// Whatever the number of threads of the step before, each of this step's does its part, and the others sleep.
    #[test]
    fn steps_run_on_changing_numbers_of_threads() {
        let mut pool = Pool::new(3).unwrap();
        for step in 0..600 {
            // As if a thread had waited for all of a long step, or for none.
            let waited_ns = if step % 100 < 50 { 2_000_000_000 } else { 0 };
            pool.crowding.finished(1_000_000_000, waited_ns);
            let threads = pool.crowding.threads() as usize;
            let (ran, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
            pool.run_step(&|thread, barrier| {
                assert!(thread < threads);
                ran.fetch_add(1, Ordering::Relaxed);
                barrier.wait();
                met.fetch_add(ran.load(Ordering::Relaxed), Ordering::Relaxed);
            });
            assert_eq!((ran.into_inner(), met.into_inner()), (threads, threads * threads), "step {step}");
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let ran = AtomicUsize::new(0);
            pool.run(&|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 2);
        }
    }
}
