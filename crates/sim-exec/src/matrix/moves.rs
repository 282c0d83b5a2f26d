//! The matrices of eight rows of 16 bytes that ldmatrix, stmatrix and movmatrix move (PTX ISA, "ldmatrix").

use crate::lanes::Lanes;

/// Eight rows of 16 bytes.
pub type Rows = [[u32; 4]; 8];

/// What lane 4 g + t of a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Word t of row g: columns 2 t and 2 t + 1 of 16-bit elements.
    Plain,
    /// Column g of 16-bit elements in rows 2 t and 2 t + 1.
    Halves,
    /// Column g of bytes in rows 2 t and 2 t + 1, then column g + 8 in these rows.
    Bytes,
}

/// The register that holds a matrix.
#[inline]
pub fn fragment(rows: &Rows, arrangement: Arrangement) -> Lanes {
    let half = |row: usize, column: usize| u64::from(rows[row][column / 2] >> (16 * (column % 2)) & 0xffff);
    let byte = |row: usize, column: usize| u64::from(rows[row][column / 4] >> (8 * (column % 4)) & 0xff);
    let from = |f: &dyn Fn(usize, usize) -> u64| std::array::from_fn(|lane| f(lane / 4, lane % 4));
    match arrangement {
        Arrangement::Plain => std::array::from_fn(|lane| rows[lane / 4][lane % 4].into()),
        Arrangement::Halves => from(&|g, t| half(2 * t, g) | half(2 * t + 1, g) << 16),
        Arrangement::Bytes => from(&|g, t| {
            let pair = |column| byte(2 * t, column) | byte(2 * t + 1, column) << 8;
            pair(g) | pair(g + 8) << 16
        }),
    }
}

/// The matrix that a register holds: the inverse of [`fragment`].
#[inline]
pub fn rows(register: &Lanes, arrangement: Arrangement) -> Rows {
    let plain = |register: &Lanes| std::array::from_fn(|g| std::array::from_fn(|t| register[4 * g + t] as u32));
    match arrangement {
        Arrangement::Plain => plain(register),
        // Transposing is its own inverse.
        Arrangement::Halves => plain(&fragment(&plain(register), Arrangement::Halves)),
        Arrangement::Bytes => {
            let byte = |row: usize, column: usize| {
                let lane = register[column % 8 * 4 + row / 2];
                (lane >> (8 * (row % 2 + column / 8 * 2))) as u8
            };
            let word = |row, t: usize| u32::from_le_bytes(std::array::from_fn(|i| byte(row, 4 * t + i)));
            std::array::from_fn(|row| std::array::from_fn(|t| word(row, t)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrix_moves_invert_each_other() {
        let register: Lanes = std::array::from_fn(|l| (l as u64) << 16 | (l as u64 + 100));
        for arrangement in [Arrangement::Plain, Arrangement::Halves, Arrangement::Bytes] {
            assert_eq!(fragment(&rows(&register, arrangement), arrangement), register);
        }
        assert_eq!(rows(&register, Arrangement::Plain)[2][2] >> 16, 10);
        assert_eq!(rows(&register, Arrangement::Halves)[5][1] & 0xffff, 10);
    }
}
