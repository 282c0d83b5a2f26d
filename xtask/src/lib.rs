//! What every task needs: the repository, child processes, the default model, the CUDA compiler, and what this machine can use.

pub mod args;
pub mod cuda_tools;
pub mod demo;
mod error;
pub mod gpu;
pub mod lint;
pub mod model;
pub mod process;
pub mod progress;
pub mod references;
pub mod repo;
pub mod simulated;

pub use error::Error;
