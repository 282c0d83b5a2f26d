//! The exported calls: each checks its pointers and hands over to [`crate::core`].
//!
//! The only unsafety here is that the names are exported: the linker must not find two of them.
#![allow(unsafe_code, non_snake_case)]

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::code::{Code, Res, refuse};
use crate::core::Driver;
use crate::core::queue::{TaskId, Turn, Waiting};
use crate::core::settings::Settings;
use crate::host::HostCall;

/// Defines exported calls and lists them by name. Calls that need `cuInit` name the driver: `|d| …`.
macro_rules! calls {
    ($($name:ident($($arg:ident: $ty:ty),* $(,)?) |$d:pat_param| $body:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> u32 {
                $crate::api::enter(stringify!($name), |$d: &mut $crate::core::Driver| $body)
            }
        )*

        /// The calls above by name.
        pub fn table() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}

mod context;
mod copy;
mod device;
mod event;
mod exec;
mod graph;
mod init;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod stream;
mod unsupported;

/// The driver, once `cuInit` made it.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// Work was submitted, or a host function returned.
static CHANGED: Condvar = Condvar::new();

/// Calls so far: the device's own thread makes way for the program's.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// A program that makes no call for this long waits for what the device does by itself, such as a word in mapped memory.
const IDLE: Duration = Duration::from_millis(20);

fn lock() -> Guard {
    // A panic is reported to its caller; what it left is no worse than a lost context.
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call under the driver's lock.
fn enter(name: &'static str, call: impl FnOnce(&mut Driver) -> Res) -> u32 {
    guarded(name, || {
        if HostCall::is_running() {
            return refuse(Code::NotPermitted, "calls from inside a host function are not allowed");
        }
        CALLS.fetch_add(1, Ordering::Relaxed);
        let mut guard = lock();
        let Some(driver) = guard.as_mut() else { return refuse(Code::NotInitialized, "cuInit was not called") };
        driver.waiting = None;
        let result = call(driver);
        let waiting = driver.waiting.take();
        if driver.queue.takes_turn() {
            guard = take_turn(guard, None).0;
        }
        if guard.as_ref().is_some_and(|d| !d.queue.is_empty()) {
            CHANGED.notify_all();
        }
        result.and_then(|()| waiting.map_or(Ok(()), |w| wait(guard, &w)))
    })
}

type Guard = MutexGuard<'static, Option<Driver>>;

/// Lets the device work until what a call waits for is done.
fn wait(mut guard: Guard, waiting: &Waiting) -> Res {
    loop {
        let (held, is_done) = take_turn(guard, Some(&waiting.until));
        guard = if is_done { held } else { make_way(held) };
        let Some(driver) = guard.as_mut().filter(|_| is_done) else { continue };
        return driver.waited(waiting);
    }
}

/// Runs one task, if not all of `until` are done yet, or any if there is nothing to wait for; says whether there is no more to do. Host functions are called without the lock: other
/// threads may make calls meanwhile.
fn take_turn(mut guard: Guard, until: Option<&[TaskId]>) -> (Guard, bool) {
    let Some(driver) = guard.as_mut() else { return (guard, true) };
    let turn = match until {
        Some(until) => driver.turn(until),
        None => driver.turn(&driver.queue.of(|_| true)),
    };
    match turn {
        Turn::Done => return (guard, true),
        Turn::Ran => {}
        Turn::Call(task, call) => {
            drop(guard);
            call.run();
            guard = lock();
            if let Some(driver) = guard.as_mut() {
                driver.turn_done(task);
            }
            CHANGED.notify_all();
        }
        Turn::Blocked if until.is_none() => return (guard, true),
        Turn::Blocked => guard = CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner),
    }
    (guard, false)
}

/// Lets other threads have the lock.
fn make_way(guard: Guard) -> Guard {
    drop(guard);
    std::thread::yield_now();
    lock()
}

/// The device's own thread: works while the program makes no calls.
fn work_while_idle() {
    let has_work = |d: &Option<Driver>| d.as_ref().is_some_and(|d| !d.queue.is_empty());
    let mut guard = lock();
    loop {
        guard = CHANGED.wait_while(guard, |d| !has_work(d)).unwrap_or_else(PoisonError::into_inner);
        let seen = CALLS.load(Ordering::Relaxed);
        drop(guard);
        std::thread::sleep(IDLE);
        guard = lock();
        let mut is_idle = true;
        while is_idle && has_work(&guard) && CALLS.load(Ordering::Relaxed) == seen {
            let (held, is_blocked) = take_turn(guard, None);
            is_idle = !is_blocked;
            guard = make_way(held);
        }
    }
}

/// Turns refusals and panics into codes.
fn guarded(name: &'static str, call: impl FnOnce() -> Res) -> u32 {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(refusal)) => {
            if std::env::var("KILN_SIM_LOG").as_deref() == Ok("1") {
                eprintln!("simulated GPU: {name}: {:?}: {}", refusal.code, refusal.why);
            }
            refusal.code as u32
        }
        Err(_) => {
            eprintln!("simulated GPU: {name}: the simulator itself failed");
            Code::Unknown as u32
        }
    }
}

/// Makes the driver from the environment; later calls find it made.
fn initialise() -> Res {
    let mut driver = lock();
    if driver.is_none() {
        let settings = match Settings::read(&|name| std::env::var(name).ok()) {
            Ok(settings) => settings,
            Err(error) => {
                eprintln!("simulated GPU: {error}");
                return refuse(Code::InvalidValue, error.to_string());
            }
        };
        if settings.device_count == 0 {
            return refuse(Code::NoDevice, "KILN_SIM_DEVICES is 0");
        }
        *driver = Some(Driver::new(settings));
        let thread = std::thread::Builder::new().name("simulated GPU".into());
        thread
            .spawn(work_while_idle)
            .or_else(|e| refuse(Code::OperatingSystem, format!("no thread to work in: {e}")))?;
    }
    Ok(())
}

/// Every exported call by name.
pub fn table() -> Vec<(&'static str, usize)> {
    [
        context::table(),
        copy::table(),
        device::table(),
        event::table(),
        exec::table(),
        graph::table(),
        init::table(),
        launch::table(),
        memory::table(),
        module::table(),
        occupancy::table(),
        pool::table(),
        stream::table(),
        unsupported::table(),
    ]
    .concat()
}
