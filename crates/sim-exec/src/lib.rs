//! The simulated GPU's executor: runs lowered PTX on the CPU, warp by warp, checks every access and counts what happens.
//!
//! [`Gpu`] holds memory; [`LoadedModule::load`] lowers PTX text to [`Kernel`]s; [`Gpu::launch`] runs one and returns what it
//! counted, or the first [`Finding`].

mod check;
mod counters;
mod exec;
mod finding;
mod gpu;
mod lanes;
mod lower;
mod matrix;
pub mod memory;
mod program;
pub mod report;
mod rng;
pub mod tensor_map;
mod traffic;

pub use counters::{Counters, grouped};
pub use finding::{Finding, FindingKind, Place};
pub use gpu::{
    Arithmetic, Checks, Directives, Gpu, GpuConfig, Kernel, LaunchConfig, LaunchError, LaunchReport, LoadError,
    LoadedModule, ParamSlot,
};
pub use traffic::l2_bytes;
