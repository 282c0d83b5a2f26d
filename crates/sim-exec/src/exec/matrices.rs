//! ldmatrix, stmatrix, movmatrix and mma on a warp.

use super::state::{Fault, Wait};
use super::warp::{Flow, Step};
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes, Mask};
use crate::matrix::{matrix_fragment, matrix_rows};
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, Op, Slot};
use crate::traffic::Touch;

impl Step<'_, '_> {
    pub(super) fn matrix(&mut self, op: &Op, active: Mask) -> Result<Flow, Fault> {
        if self.warp.live != FULL {
            let message = format!("only lanes {:#x} of the warp are left", self.warp.live);
            return Err(Fault::new(FindingKind::DivergentBarrier, None, message));
        }
        if active != FULL {
            return Ok(Flow::Wait(Wait::Converge { lanes: FULL }));
        }
        match op {
            Op::LoadMatrix { transposed, d, address } => self.load_matrix(*transposed, d, address)?,
            Op::StoreMatrix { transposed, values, address } => self.store_matrix(*transposed, values, address)?,
            Op::MoveMatrix { d, a } => {
                let rows = matrix_rows(self.reg(*a), false);
                let out: Lanes = std::array::from_fn(|lane| matrix_fragment(&rows, lane, true));
                self.set(*d, active, &out);
            }
            Op::Mma { shape, d, a, b, c } => {
                let mut out = [[0; 32]; 4];
                let out = &mut out[..d.len()];
                let mut operands = [self.reg(a[0]); 16];
                let mut n = 0;
                for &slot in a.iter().chain(b.iter()).chain(c.iter()) {
                    operands[n] = self.reg(slot);
                    n += 1;
                }
                let (x, rest) = operands[..n].split_at(a.len());
                let (y, z) = rest.split_at(b.len());
                shape.run(out, x, y, z, self.launch.gpu.config.arithmetic.mma_truncates);
                for (&slot, values) in d.iter().zip(out.iter()) {
                    self.set(slot, active, values);
                }
            }
            other => panic!("{other:?} is no matrix operation"),
        }
        Ok(Flow::Next)
    }

    /// CTA and offset of the eight rows of matrix `i`; lane `8 i + r` holds the address of row `r`.
    fn matrix_rows_at(&self, addresses: &Lanes, i: usize) -> Result<[(usize, u32); 8], Fault> {
        let mut rows = [(0, 0); 8];
        for (r, row) in rows.iter_mut().enumerate() {
            let lane = 8 * i + r;
            let address = addresses[lane];
            let address = if address >= SHARED_WINDOW { address - SHARED_WINDOW } else { address };
            if address % 16 != 0 {
                let message = format!("matrix row at {address:#x}, which is not a multiple of 16");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
            *row = self.shared_at(address, 16, lane)?;
        }
        Ok(rows)
    }

    fn load_matrix(&mut self, transposed: bool, d: &[Slot], address: &Address) -> Result<(), Fault> {
        let addresses = self.addresses(address);
        self.count_matrix(Touch::Read, &addresses, d.len());
        for (i, &slot) in d.iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, (cta, offset)) in self.matrix_rows_at(&addresses, i)?.into_iter().enumerate() {
                self.check_shared_read(cta, offset, 16, 8 * i + r, false)?;
                for (c, value) in rows[r].iter_mut().enumerate() {
                    *value = self.ctas[cta].shared.load(offset + 2 * c as u32, 2) as u16;
                }
            }
            let out: Lanes = std::array::from_fn(|lane| matrix_fragment(&rows, lane, transposed));
            self.set(slot, FULL, &out);
        }
        Ok(())
    }

    fn store_matrix(&mut self, transposed: bool, values: &[Slot], address: &Address) -> Result<(), Fault> {
        let addresses = self.addresses(address);
        self.count_matrix(Touch::Write, &addresses, values.len());
        for (i, &slot) in values.iter().enumerate() {
            let rows = matrix_rows(self.reg(slot), transposed);
            for (r, (cta, offset)) in self.matrix_rows_at(&addresses, i)?.into_iter().enumerate() {
                for (c, pair) in rows[r].chunks_exact(2).enumerate() {
                    let (at, value) = (offset + 4 * c as u32, u64::from(pair[0]) | u64::from(pair[1]) << 16);
                    self.check_shared_write(cta, at, 4, 8 * i + r, false, value)?;
                    self.ctas[cta].shared.store(at, 4, value);
                }
            }
        }
        Ok(())
    }
}
