//! The 8 × 8 matrices of 16-bit elements that ldmatrix, stmatrix and movmatrix move: lane 4 g + t holds row g, columns 2 t and
//! 2 t + 1 (PTX ISA, "ldmatrix"), which is word t of the row.

use crate::lanes::Lanes;

/// Eight rows of 16 bytes.
pub type Rows = [[u32; 4]; 8];

/// The register that holds a matrix, or its transpose.
#[inline]
pub fn fragment(rows: &Rows, transposed: bool) -> Lanes {
    if !transposed {
        return std::array::from_fn(|lane| rows[lane / 4][lane % 4].into());
    }
    let half = |row: usize, column: usize| u64::from(rows[row][column / 2] >> (16 * (column % 2)) & 0xffff);
    std::array::from_fn(|lane| {
        let (g, t) = (lane / 4, lane % 4);
        half(2 * t, g) | half(2 * t + 1, g) << 16
    })
}

/// The matrix whose register, or whose transpose's, is given: the inverse of [`fragment`].
#[inline]
pub fn rows(register: &Lanes, transposed: bool) -> Rows {
    let plain = std::array::from_fn(|g| std::array::from_fn(|t| register[4 * g + t] as u32));
    if !transposed {
        return plain;
    }
    let register = fragment(&plain, true);
    std::array::from_fn(|g| std::array::from_fn(|t| register[4 * g + t] as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrix_moves_invert_each_other() {
        let register: Lanes = std::array::from_fn(|l| (l as u64) << 16 | (l as u64 + 100));
        for transposed in [false, true] {
            assert_eq!(fragment(&rows(&register, transposed), transposed), register);
        }
        assert_eq!(rows(&register, false)[2][2] >> 16, 10);
        assert_eq!(rows(&register, true)[5][1] & 0xffff, 10);
    }
}
