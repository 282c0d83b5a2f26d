//! wmma.load and wmma.store on a warp: ordinary accesses at the places of the fragment's elements.

use super::state::Fault;
use super::warp::Step;
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes};
use crate::program::{FragmentMove, FragmentPiece, MatrixOrder};

/// Rows (or columns) of a matrix in memory start at multiples of this (CUDA C++ Programming Guide, "Warp Matrix Functions").
const STRIDE_ALIGN: u64 = 16;

impl Step<'_, '_> {
    pub(super) fn load_fragment(&mut self, load: &FragmentMove) -> Result<(), Fault> {
        let stride = self.check_fragment(load)?;
        let start = self.addresses(&load.address);
        for piece in &load.pieces {
            self.load_at(&piece.access, &places(load, piece, &start, stride), FULL)?;
        }
        load.parts.iter().try_for_each(|part| self.execute_part(part))
    }

    pub(super) fn store_fragment(&mut self, store: &FragmentMove) -> Result<(), Fault> {
        let stride = self.check_fragment(store)?;
        let start = self.addresses(&store.address);
        store.parts.iter().try_for_each(|part| self.execute_part(part))?;
        store.pieces.iter().try_for_each(|p| self.store_at(&p.access, &places(store, p, &start, stride), FULL))
    }

    /// The stride in elements, the same in all lanes, as the address must be.
    fn check_fragment(&self, fragment: &FragmentMove) -> Result<u64, Fault> {
        let (addresses, strides) = (self.addresses(&fragment.address), self.reg(fragment.stride));
        if let Some(lane) = (0..32).find(|&l| addresses[l] != addresses[0] || strides[l] as u32 != strides[0] as u32) {
            let message = "address and stride of a fragment must be the same in all lanes";
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        }
        let stride = u64::from(strides[0] as u32);
        let held = fragment.fragment.registers * fragment.fragment.per * fragment.fragment.bits / 8;
        if !addresses[0].is_multiple_of(held as u64) {
            let message = format!("matrix at {:#x}, which is not a multiple of {held}", addresses[0]);
            return Err(Fault::new(FindingKind::Misaligned, None, message));
        }
        let bytes = stride * fragment.fragment.bits as u64 / 8;
        if !bytes.is_multiple_of(STRIDE_ALIGN) {
            let message = format!("stride of {bytes} bytes, which is not a multiple of {STRIDE_ALIGN}");
            return Err(Fault::new(FindingKind::Misaligned, None, message));
        }
        Ok(stride)
    }
}

/// The address of a piece in every lane.
fn places(fragment: &FragmentMove, piece: &FragmentPiece, start: &Lanes, stride: u64) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, column) = fragment.fragment.place(piece.origin, lane);
        let element = match fragment.order {
            MatrixOrder::Rows => row as u64 * stride + column as u64,
            MatrixOrder::Columns => column as u64 * stride + row as u64,
        };
        start[lane].wrapping_add(element * fragment.fragment.bits as u64 / 8)
    })
}
