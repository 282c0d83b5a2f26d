//! Model files: what they hold and how it is checked. Nothing above this folder reads a file.

mod blocks;
mod dtype;
mod error;
mod source;

pub use blocks::dequantise_row;
pub use dtype::DType;
pub use error::WeightsError;
pub use source::{TensorSource, TensorView};
