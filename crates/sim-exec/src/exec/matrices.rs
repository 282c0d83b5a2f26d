//! ldmatrix, stmatrix, movmatrix and mma on a warp.

use super::memory::UNWRITTEN;
use super::state::{Fault, Wait};
use super::warp::{Flow, Step};
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes, Mask};
use crate::matrix::Summation;
use crate::matrix::moves::{self, Arrangement};
use crate::memory::{SHARED_WINDOW, WINDOW_BYTES};
use crate::program::{MatrixMove, Mma, Op, Slot, Space};
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
                let out = moves::fragment(&moves::rows(self.reg(*a), Arrangement::Plain), Arrangement::Halves);
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
        let c = &rest[..mma.c.len()];
        // The usual case apart: clearing and copying registers counts here.
        let (mut few, mut many);
        let out: &mut [Lanes] = if mma.d.len() <= 4 {
            few = [[0; 32]; 4];
            &mut few[..mma.d.len()]
        } else {
            many = [[0; 32]; RESULTS_MAX];
            &mut many[..mma.d.len()]
        };
        (mma.tile.multiply)(out, a, b, c, self.summation());
        for (&slot, values) in mma.d.iter().zip(out.iter()) {
            self.set(slot, FULL, values);
        }
    }

    /// CTA and offset of the rows of `count` matrices: lane `8 i + r` holds the address of row `r` of matrix `i`.
    fn matrix_rows(&self, space: Space, addresses: &Lanes, count: usize) -> Result<[(usize, u32); 32], Fault> {
        let mut rows = [(self.warp.cta, 0); 32];
        let own_bytes = u64::from(self.ctas[self.warp.cta].shared_bytes);
        for (lane, (row, &address)) in rows.iter_mut().zip(addresses).enumerate().take(8 * count) {
            let mut address = address;
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
            if address + 16 <= own_bytes {
                row.1 = address as u32;
            } else {
                *row = self.shared_at(address, 16, lane)?;
            }
        }
        Ok(rows)
    }

    fn load_matrix(&mut self, load: &MatrixMove) -> Result<(), Fault> {
        let addresses = self.addresses(&load.address);
        let count = load.registers.len();
        self.count_matrix(Touch::Read, &addresses, count);
        let rows = self.matrix_rows(load.space, &addresses, count)?;
        let mut out = [[0; 32]; 4];
        for (i, out) in out.iter_mut().enumerate().take(count) {
            let mut words = [[0; 4]; 8];
            let mut unwritten = None;
            for r in 0..8 {
                let lane = match load.arrangement {
                    // Two registers share a matrix of 16 rows: they take two rows each in turn.
                    Arrangement::Bytes => i / 2 * 16 + r / 2 * 4 + i % 2 * 2 + r % 2,
                    _ => 8 * i + r,
                };
                let (cta, offset) = rows[lane];
                self.check_shared_order(cta, offset, 16, lane, false)?;
                let shared = &self.ctas[cta].shared;
                words[r] = shared.load_piece(offset);
                if !shared.is_written(offset, 16) {
                    let (marks, _) = unwritten.get_or_insert(([[0; 4]; 8], offset));
                    marks[r] = std::array::from_fn(|t| u32::from(!shared.is_written(offset + 4 * t as u32, 4)) * !0);
                }
            }
            if let Some((marks, offset)) = unwritten {
                self.note_unwritten_matrix(load.registers[i], &moves::fragment(&marks, load.arrangement), offset);
            }
            *out = moves::fragment(&words, load.arrangement);
        }
        for (&slot, values) in load.registers.iter().zip(&out) {
            self.set(slot, FULL, values);
        }
        self.warp.undefined.admit_loaded();
        Ok(())
    }

    /// Remembers which lanes of a register are about to hold bytes that nothing has written: those with a mark.
    #[cold]
    fn note_unwritten_matrix(&mut self, slot: Slot, marks: &Lanes, offset: u32) {
        for lane in (0..32).filter(|&lane| marks[lane] != 0) {
            let message = format!("read of a matrix row at shared offset {offset:#x}: {UNWRITTEN}");
            self.warp.undefined.load(slot, lane, self.pc, message);
        }
    }

    fn store_matrix(&mut self, store: &MatrixMove) -> Result<(), Fault> {
        let addresses = self.addresses(&store.address);
        let count = store.registers.len();
        self.count_matrix(Touch::Write, &addresses, count);
        let rows = self.matrix_rows(store.space, &addresses, count)?;
        for (i, (&slot, rows)) in store.registers.iter().zip(rows.chunks_exact(8)).enumerate() {
            let words = moves::rows(self.reg(slot), store.arrangement);
            for (r, &(cta, offset)) in rows.iter().enumerate() {
                for (t, &word) in words[r].iter().enumerate() {
                    let (at, value) = (offset + 4 * t as u32, word.into());
                    self.check_shared_write(cta, at, 4, 8 * i + r, false, value)?;
                    self.ctas[cta].shared.store(at, 4, value);
                }
            }
        }
        Ok(())
    }
}
