//! Where devices get tensors from: a mapped file, or memory in tests.

use super::{DType, WeightsError};

/// One tensor as it lies in a file, checked: `data` holds exactly `rows` rows of `cols` weights.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub name: &'a str,
    pub dtype: DType,
    /// Outer dimension: 1 for vectors, all outer dimensions multiplied for tensors of rank above 2.
    pub rows: u64,
    /// Inner, contiguous dimension (GGUF's first).
    pub cols: u64,
    pub data: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view over `data`, which must be exactly as long as the shape and format say.
    pub fn new(name: &'a str, dtype: DType, rows: u64, cols: u64, data: &'a [u8]) -> Result<Self, WeightsError> {
        let expected = dtype.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or_else(|| {
            WeightsError::invalid(
                format!("tensor {name}"),
                format!("rows of a multiple of {} weights ({dtype})", dtype.block_weights()),
                format!("{rows} x {cols}"),
            )
        })?;
        if expected != data.len() as u64 {
            return Err(WeightsError::invalid(
                format!("tensor {name}"),
                format!("{expected} bytes for {rows} x {cols} {dtype}"),
                format!("{} bytes", data.len()),
            ));
        }
        Ok(TensorView { name, dtype, rows, cols, data })
    }

    /// Bytes per row.
    pub fn row_bytes(&self) -> usize {
        self.data.len() / (self.rows.max(1) as usize)
    }

    /// The first `rows` rows, or all if there are fewer.
    pub fn leading_rows(self, rows: u64) -> TensorView<'a> {
        let rows = rows.min(self.rows);
        TensorView { rows, data: &self.data[..rows as usize * self.row_bytes()], ..self }
    }

    /// The stored bytes of row `row`.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.row_bytes();
        &self.data[row * bytes..(row + 1) * bytes]
    }
}

/// Named tensors. Implemented by model files and by the tests' synthetic weights.
pub trait TensorSource {
    /// The tensor called `name`, if there is one.
    fn tensor(&self, name: &str) -> Option<TensorView<'_>>;
}

/// Tensors whose names can be listed, so that what nothing asks for is noticed.
pub trait TensorList: TensorSource {
    /// The name of every tensor.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}
