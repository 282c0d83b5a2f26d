//! Devices, and the engine and the runtime on them, in one program: each test program costs as much to link as a small crate to compile.
//! A file beside this one needs its line here; tests that need a process of their own start one (`common/simulated.rs`).
#![allow(clippy::unwrap_used)] // A panic is how a test fails, also in its helpers.

#[path = "../common/mod.rs"]
mod common;

mod beam_goldens;
mod beam_search;
mod cpu_barriers;
mod cuda_driver;
mod cuda_faults;
mod cuda_profiling;
mod cuda_steps;
mod device_contract;
mod engine_on_devices;
mod engine_thread;
mod golden_smollm2;
mod host_limits;
mod overflow;
mod reference_device;
mod row_invariance;
mod sampler_on_devices;
mod shared_prompt;
mod sixty_four_requests;
mod stages;
mod weights_models;
