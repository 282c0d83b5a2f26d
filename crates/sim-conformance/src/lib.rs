//! Conformance of the simulated GPU: device code that others wrote and that is known to be right on real GPUs (CUB, libcu++,
//! cooperative groups, `nvcuda::wmma`, CUTLASS, Triton's compiler output) runs on it, with every checker on and under many
//! schedules, and each result is compared with a host reference that shares no code with the simulator.
//!
//! A [`Case`] names one such kernel or algorithm; [`conform`] compiles its source, loads it and runs the test's body once per
//! schedule seed on a [`Sim`]. The table in the docs is printed from the registered cases: `cargo run -p sim-conformance --example table`.

mod case;
mod cases;
mod inputs;
mod sim;
mod toolchain;

pub use case::{Case, DOCS, DeviceCode, with_table};
pub use inputs::Random;
pub use sim::{Argument, Buffer, Launch, SEEDS, Sim, assert_same, assert_survives_printing, conform, conform_ptx};
pub use toolchain::{Toolchain, ToolchainError, workspace_root};
