//! Model files: what they hold and how it is checked. Nothing above this folder reads a file.

mod blocks;
mod dtype;
mod error;
pub mod gguf;
mod keys;
mod map;
mod metadata;
mod reader;
mod source;
#[doc(hidden)]
pub mod testing;
mod text;
mod value;

pub use blocks::{BLOCK_WEIGHTS, Block32, dequantise_row, has_min, unpack_block};
pub use dtype::DType;
pub use error::{Unread, WeightsError};
pub use gguf::GgufFile;
pub use keys::{KeyRule, Neutral};
pub use map::{MAPS_MAX, MappedFile};
pub use metadata::Metadata;
pub use source::{TensorList, TensorSource, TensorView};
pub use text::{beginning, is_hidden, printable, quoted, quoted_bytes};
pub use value::{MetaArray, MetaValue, RawStrings, StringArray};
