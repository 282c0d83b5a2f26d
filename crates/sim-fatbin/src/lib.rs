//! Fatbin containers: what `cuModuleLoadData` and its kin are handed, and which PTX of it a device takes.
//!
//! [`Image::classify`] tells a fatbin, a wrapper that points to one, a cubin and PTX text apart by their first bytes;
//! [`Fatbin::parse`] reads the container and unpacks its entries; [`choose`] applies the driver's rule. Nothing in an image is
//! trusted: every length is checked, and unpacked sizes are capped by [`UNPACKED_BYTES_MAX`].
//!
//! Layout facts (little endian) are from inspecting `nvcc` and `fatbinary` output.

mod container;
mod target;
mod unpack;

pub use container::{Entry, EntryKind, Fatbin, HEADER_BYTES, Image, image_bytes};
pub use target::{Target, TargetKind, choose};
pub use unpack::UNPACKED_BYTES_MAX;

/// Why an image was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    #[error("{subject}: {found} bytes at offset {offset}, expected at least {expected}: the image is cut short")]
    Truncated { subject: &'static str, offset: u64, expected: u64, found: u64 },
    #[error("container magic is {found:#010x}, expected {expected:#010x}")]
    Magic { found: u32, expected: u32 },
    #[error("container version is {found}, expected 1")]
    Version { found: u16 },
    #[error("entry at offset {offset}: {field} is {found}, expected {expected}")]
    Field { offset: u64, field: &'static str, found: u64, expected: &'static str },
    #[error("entry at offset {offset} unpacks to {found} bytes, the limit is {max}")]
    TooLarge { offset: u64, found: u64, max: u64 },
    #[error("entry at offset {offset}: {method} data is broken: {reason}")]
    Compression { offset: u64, method: &'static str, reason: String },
    #[error("entry at offset {offset}: PTX is not UTF-8 text")]
    NotText { offset: u64 },
    #[error("PTX has no valid .target directive: found {found:?}")]
    NoTarget { found: String },
    #[error(
        "no PTX for compute capability {major}.{minor}; the image has {found}. Build with -gencode arch=compute_XX,code=compute_XX"
    )]
    NoPtx { major: u32, minor: u32, found: String },
}
