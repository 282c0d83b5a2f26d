//! Model files: what they hold and how it is checked. Nothing above this folder reads a file.

mod blocks;
mod dtype;
mod error;
pub mod gguf;
mod map;
mod metadata;
mod reader;
mod source;
#[doc(hidden)]
pub mod testing;

pub use blocks::{BLOCK_WEIGHTS, Block32, dequantise_row, has_min, unpack_block};
pub use dtype::DType;
pub use error::WeightsError;
pub use gguf::GgufFile;
pub use map::{MAPS_MAX, MappedFile};
pub use metadata::{MetaArray, MetaValue, Metadata, StringArray};
pub use source::{TensorSource, TensorView};
