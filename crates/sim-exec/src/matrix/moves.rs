//! The 8×8 matrices of 16-bit elements that ldmatrix, stmatrix and movmatrix move: lane 4 g + t holds row g, columns 2 t and
//! 2 t + 1 (PTX ISA, "ldmatrix").

// Lanes are indices in the layout.
#![allow(clippy::needless_range_loop)]

use crate::lanes::{Lanes, WARP};

/// The register of one lane after loading an 8×8 matrix of 16-bit elements whose rows are `rows`.
pub fn matrix_fragment(rows: &[[u16; 8]; 8], lane: usize, transposed: bool) -> u64 {
    let (major, minor) = (lane / 4, 2 * (lane % 4));
    let at = |i: usize| if transposed { rows[minor + i][major] } else { rows[major][minor + i] };
    u64::from(at(0)) | u64::from(at(1)) << 16
}

/// The matrix whose fragments are `register`: the inverse of [`matrix_fragment`].
pub fn matrix_rows(register: &Lanes, transposed: bool) -> [[u16; 8]; 8] {
    let mut rows = [[0; 8]; 8];
    for lane in 0..WARP {
        let (major, minor) = (lane / 4, 2 * (lane % 4));
        for i in 0..2 {
            let value = (register[lane] >> (16 * i)) as u16;
            if transposed {
                rows[minor + i][major] = value;
            } else {
                rows[major][minor + i] = value;
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrix_moves_invert_each_other() {
        let register: Lanes = std::array::from_fn(|l| (l as u64) << 16 | (l as u64 + 100));
        for transposed in [false, true] {
            let rows = matrix_rows(&register, transposed);
            for lane in 0..WARP {
                assert_eq!(matrix_fragment(&rows, lane, transposed), register[lane]);
            }
        }
        assert_eq!(matrix_rows(&register, false)[2][5], 10);
        assert_eq!(matrix_rows(&register, true)[5][2], 10);
    }
}
