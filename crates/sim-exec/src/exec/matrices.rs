//! ldmatrix, stmatrix, movmatrix and mma on a warp.

use super::state::{Fault, Wait};
use super::warp::{Flow, Step};
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes, Mask};
use crate::matrix::Summation;
use crate::matrix::moves::{matrix_fragment, matrix_rows};
use crate::memory::{SHARED_WINDOW, WINDOW_BYTES};
use crate::program::{MatrixMove, Mma, Op, Space};
use crate::traffic::Touch;

/// Most registers that the operands of one mma take together.
const OPERANDS_MAX: usize = 32;
/// Most registers that an accumulator of mma or wmma takes.
const RESULTS_MAX: usize = 8;

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
            Op::LoadMatrix(load) => self.load_matrix(load)?,
            Op::StoreMatrix(store) => self.store_matrix(store)?,
            Op::MoveMatrix { d, a } => {
                let rows = matrix_rows(self.reg(*a), false);
                let out: Lanes = std::array::from_fn(|lane| matrix_fragment(&rows, lane, true));
                self.set(*d, active, &out);
            }
            Op::Mma(mma) => self.mma(mma),
            Op::LoadFragment(load) => self.load_fragment(load)?,
            Op::StoreFragment(store) => self.store_fragment(store)?,
            Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } | Op::Wgmma(_) => return self.wgmma_op(op),
            other => panic!("{other:?} is no matrix operation"),
        }
        Ok(Flow::Next)
    }

    pub(super) fn summation(&self) -> Summation {
        if self.launch.gpu.config.arithmetic.mma_truncates { Summation::Truncating } else { Summation::InOrder }
    }

    fn mma(&mut self, mma: &Mma) {
        let mut operands = [self.reg(mma.a[0]); OPERANDS_MAX];
        let slots = mma.a.iter().chain(mma.b.iter()).chain(mma.c.iter());
        for (operand, &slot) in operands.iter_mut().zip(slots) {
            *operand = self.reg(slot);
        }
        let (a, rest) = operands.split_at(mma.a.len());
        let (b, rest) = rest.split_at(mma.b.len());
        let mut out = [[0; 32]; RESULTS_MAX];
        let out = &mut out[..mma.d.len()];
        (mma.tile.multiply)(out, a, b, &rest[..mma.c.len()], self.summation());
        for (&slot, values) in mma.d.iter().zip(out.iter()) {
            self.set(slot, FULL, values);
        }
    }

    /// CTA and offset of the eight rows of matrix `i`; lane `8 i + r` holds the address of row `r`.
    fn matrix_rows_at(&self, space: Space, addresses: &Lanes, i: usize) -> Result<[(usize, u32); 8], Fault> {
        let mut rows = [(0, 0); 8];
        for (r, row) in rows.iter_mut().enumerate() {
            let lane = 8 * i + r;
            let mut address = addresses[lane];
            if space == Space::Generic {
                if !(SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES).contains(&address) {
                    let message = format!("matrix row at {address:#x}, which is not in shared memory");
                    return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), message));
                }
                address -= SHARED_WINDOW;
            }
            if !address.is_multiple_of(16) {
                let message = format!("matrix row at {address:#x}, which is not a multiple of 16");
                return Err(Fault::new(FindingKind::Misaligned, Some(lane), message));
            }
            *row = self.shared_at(address, 16, lane)?;
        }
        Ok(rows)
    }

    fn load_matrix(&mut self, load: &MatrixMove) -> Result<(), Fault> {
        let addresses = self.addresses(&load.address);
        self.count_matrix(Touch::Read, &addresses, load.registers.len());
        let mut out = [[0; 32]; 4];
        for (i, out) in out[..load.registers.len()].iter_mut().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, (cta, offset)) in self.matrix_rows_at(load.space, &addresses, i)?.into_iter().enumerate() {
                self.check_shared_read(cta, offset, 16, 8 * i + r, false)?;
                for (c, value) in rows[r].iter_mut().enumerate() {
                    *value = self.ctas[cta].shared.load(offset + 2 * c as u32, 2) as u16;
                }
            }
            *out = std::array::from_fn(|lane| matrix_fragment(&rows, lane, load.transposed));
        }
        for (&slot, values) in load.registers.iter().zip(&out) {
            self.set(slot, FULL, values);
        }
        Ok(())
    }

    fn store_matrix(&mut self, store: &MatrixMove) -> Result<(), Fault> {
        let addresses = self.addresses(&store.address);
        self.count_matrix(Touch::Write, &addresses, store.registers.len());
        for (i, &slot) in store.registers.iter().enumerate() {
            let rows = matrix_rows(self.reg(slot), store.transposed);
            for (r, (cta, offset)) in self.matrix_rows_at(store.space, &addresses, i)?.into_iter().enumerate() {
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
