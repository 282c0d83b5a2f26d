//! The simulated GPU's driver: a stand-in for `libcuda` that runs the PTX it is given on the CPU.
//!
//! [`api`] exports the C calls of the CUDA driver API and checks their pointers; [`core`] is the driver behind them, in safe code
//! that refuses what a real driver refuses, with the documented code; `sim_exec` runs and checks the kernels. What must be
//! trusted of a C caller is in [`abi`] and [`host`].
//!
//! Environment variables describe the devices: see [`core::settings::Settings`].

pub mod abi;
pub mod api;
pub mod code;
pub mod core;
pub mod host;
