//! What can go wrong on a device.

use crate::weights::WeightsError;

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A limit that a batch or a plan does not keep.
    #[error("{what}: at most {limit}, asked for {asked}")]
    Limit { what: &'static str, limit: u64, asked: u64 },
    /// The host or the GPU gave no memory.
    #[error("cannot allocate {bytes} bytes for {purpose}: {reason}; lower {flag}")]
    OutOfMemory { purpose: &'static str, bytes: u64, reason: String, flag: &'static str },
    /// The device cannot run this program.
    #[error("{subject}: expected {expected}, found {found}")]
    Unsupported { subject: String, expected: String, found: String },
    /// There is no GPU to use.
    #[error("no GPU: {reason}")]
    NoGpu { reason: String },
    /// The CUDA driver failed.
    #[error("CUDA: {operation}: {message} ({name})")]
    Cuda { operation: &'static str, name: String, message: String },
    /// The CUDA driver failed in a way that ends its context: every later call fails too.
    #[error("CUDA: {operation}: {message} ({name}); the GPU does no more work for this process: start kiln again")]
    Lost { operation: &'static str, name: String, message: String },
    /// A checkpoint that the last step did not produce.
    #[error("checkpoint {0} is not available")]
    NoCheckpoint(String),
}
