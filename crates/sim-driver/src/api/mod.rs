//! The exported calls: each checks its pointers and hands over to [`crate::core`].
//!
//! The only unsafety here is that the names are exported: the linker must not find two of them.
#![allow(unsafe_code, non_snake_case)]

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{Code, Res, refuse};
use crate::core::Driver;
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

fn lock() -> MutexGuard<'static, Option<Driver>> {
    // A panic is reported to its caller; what it left is no worse than a lost context.
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call under the driver's lock.
fn enter(name: &'static str, call: impl FnOnce(&mut Driver) -> Res) -> u32 {
    guarded(name, || {
        if HostCall::is_running() {
            return refuse(Code::NotPermitted, "calls from inside a host function are not allowed");
        }
        match lock().as_mut() {
            Some(driver) => call(driver),
            None => refuse(Code::NotInitialized, "cuInit was not called"),
        }
    })
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
