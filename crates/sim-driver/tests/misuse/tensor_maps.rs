//! `cuTensorMapEncodeTiled`: each argument that the documentation bounds.

use cudarc::driver::sys::{CUresult, CUresult::*};

use super::common::program::{ok, raw};
use super::{Misuse, row};

/// Arguments of a call; the rows change good ones.
struct Tiled {
    map: u64,
    data_type: u32,
    rank: u32,
    address: u64,
    dims: [u64; 5],
    strides: [u64; 4],
    box_dims: [u32; 5],
    element_strides: [u32; 5],
    interleave: u32,
    swizzle: u32,
    l2_promotion: u32,
    oob_fill: u32,
}

#[repr(align(64))]
struct Map([u64; 24]);

/// The code for good arguments after a change. They are those of a matrix of f16.
fn changed(change: fn(&mut Tiled)) -> CUresult {
    let mut map = Map([0; 24]);
    let mut a = Tiled {
        map: (&raw mut map.0) as u64,
        data_type: 6,
        rank: 3,
        address: 0x7_0000_0000,
        dims: [104, 60, 4, 1, 1],
        strides: [208, 12480, 0, 0],
        box_dims: [64, 32, 1, 1, 1],
        element_strides: [1; 5],
        interleave: 0,
        swizzle: 3,
        l2_promotion: 0,
        oob_fill: 0,
    };
    ok(encode(&a));
    change(&mut a);
    encode(&a)
}

fn encode(a: &Tiled) -> CUresult {
    type Encode = extern "C" fn(u64, u32, u32, u64, &u64, &u64, &u32, &u32, u32, u32, u32, u32) -> CUresult;
    let call: Encode = raw("cuTensorMapEncodeTiled");
    call(
        a.map,
        a.data_type,
        a.rank,
        a.address,
        &a.dims[0],
        &a.strides[0],
        &a.box_dims[0],
        &a.element_strides[0],
        a.interleave,
        a.swizzle,
        a.l2_promotion,
        a.oob_fill,
    )
}

pub fn rows() -> Vec<Misuse> {
    macro_rules! rows {
        ($($mistake:literal: |$a:ident| $change:expr;)*) => {
            vec![$(row("cuTensorMapEncodeTiled", $mistake, CUDA_ERROR_INVALID_VALUE, |_| changed(|$a| $change))),*]
        };
    }
    rows! {
        "a null map": |a| a.map = 0;
        "a map that is not aligned to 64 bytes": |a| a.map += 32;
        "a data type that does not exist": |a| a.data_type = 99;
        "rank 0": |a| a.rank = 0;
        "rank 6": |a| a.rank = 6;
        "an address that is no multiple of 16": |a| a.address += 8;
        "an address that is no multiple of 32, interleaved by 32 bytes":
            |a| (a.interleave, a.swizzle, a.address, a.box_dims[0]) = (2, 1, a.address + 16, 16);
        "a dimension of 0": |a| a.dims[1] = 0;
        "a dimension above 2³²": |a| a.dims[2] = (1 << 32) + 1;
        "a stride that is no multiple of 16": |a| a.strides[0] = 200;
        "a stride that is no multiple of 32, interleaved by 32 bytes":
            |a| (a.interleave, a.swizzle, a.strides[0], a.box_dims[0]) = (2, 1, 208, 16);
        "a stride of 2⁴⁰": |a| a.strides[1] = 1 << 40;
        "a box of 0": |a| a.box_dims[1] = 0;
        "a box above 256": |a| a.box_dims[1] = 257;
        "a box whose rows are no multiple of 16 bytes": |a| (a.swizzle, a.box_dims[0]) = (0, 7);
        "an element stride of 0": |a| a.element_strides[1] = 0;
        "an element stride above 8": |a| a.element_strides[1] = 9;
        "an interleaving that does not exist": |a| a.interleave = 3;
        "an interleaving of rank 2": |a| (a.interleave, a.rank, a.swizzle) = (1, 2, 0);
        "interleaved by 32 bytes with another swizzle": |a| (a.interleave, a.swizzle, a.strides[0]) = (2, 3, 224);
        "a swizzle that does not exist": |a| a.swizzle = 9;
        "a box whose rows are longer than the swizzle": |a| a.swizzle = 2;
        "an L2 promotion that does not exist": |a| a.l2_promotion = 4;
        "a fill that does not exist": |a| a.oob_fill = 2;
        "a fill of NaN for integers": |a| (a.data_type, a.oob_fill) = (1, 1);
    }
}
