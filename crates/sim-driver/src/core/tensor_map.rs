//! `cuTensorMapEncodeTiled`'s rules.

use sim_exec::tensor_map::{Swizzle, TensorMap};

use crate::code::{Code, Res, refuse, require};

/// Arguments as the call has them.
#[derive(Clone, Debug)]
pub struct TiledArguments {
    pub data_type: u32,
    pub address: u64,
    pub dims: Vec<u64>,
    pub strides_bytes: Vec<u64>,
    pub box_dims: Vec<u32>,
    pub element_strides: Vec<u32>,
    pub interleave: u32,
    pub swizzle: u32,
    pub l2_promotion: u32,
    pub oob_fill: u32,
}

/// Bytes of a `CUtensorMapDataType`'s elements, and whether NaN exists.
fn element(data_type: u32) -> Res<(u32, bool)> {
    Ok(match data_type {
        0 => (1, false),
        1 => (2, false),
        2 | 3 => (4, false),
        4 | 5 => (8, false),
        6 | 9 => (2, true),
        7 | 10 | 11 | 12 => (4, true),
        8 => (8, true),
        13..=15 => return refuse(Code::NotSupported, "tensor maps of 4- and 6-bit elements are not simulated"),
        _ => return refuse(Code::InvalidValue, format!("tensor map data type {data_type}")),
    })
}

/// Checks the arguments against the driver API's documentation and encodes the map.
pub fn encode(a: &TiledArguments) -> Res<[u64; 16]> {
    let rank = a.dims.len();
    let invalid = |condition, why: String| require(condition, Code::InvalidValue, why);
    let (element_bytes, has_nan) = element(a.data_type)?;
    invalid((1..=5).contains(&rank), format!("tensor rank {rank}, expected 1 to 5"))?;
    invalid(a.interleave <= 2, format!("interleave {}", a.interleave))?;
    let unit = if a.interleave == 2 { 32 } else { 16 };
    invalid(
        a.address != 0 && a.address.is_multiple_of(unit),
        format!("global address {:#x} is no multiple of {unit}", a.address),
    )?;
    invalid(a.dims.iter().all(|&d| (1..=1 << 32).contains(&d)), format!("dimensions {:?}", a.dims))?;
    for &stride in &a.strides_bytes {
        invalid(
            stride.is_multiple_of(unit) && stride < 1 << 40,
            format!("a stride of {stride} bytes, expected a multiple of {unit} below 2^40"),
        )?;
    }
    invalid(a.box_dims.iter().all(|d| (1..=256).contains(d)), format!("box {:?}, expected 1 to 256", a.box_dims))?;
    invalid(a.element_strides.iter().all(|s| (1..=8).contains(s)), format!("element strides {:?}", a.element_strides))?;
    check_interleave(a)?;
    let inner_bytes = a.box_dims[0] * element_bytes;
    invalid(
        inner_bytes.is_multiple_of(16),
        format!("the box's inner dimension is {inner_bytes} bytes, expected a multiple of 16"),
    )?;
    let (swizzle, inner_max) = match a.swizzle {
        0 => (Swizzle::None, u32::MAX),
        1 => (Swizzle::Bytes32, 32),
        2 => (Swizzle::Bytes64, 64),
        3 => (Swizzle::Bytes128, 128),
        4..=6 => return refuse(Code::NotSupported, "128-byte swizzles with other atoms are not simulated"),
        other => return refuse(Code::InvalidValue, format!("swizzle {other}")),
    };
    invalid(
        inner_bytes <= inner_max,
        format!("the box's inner dimension is {inner_bytes} bytes, the swizzle {inner_max}"),
    )?;
    invalid(a.l2_promotion <= 3, format!("L2 promotion {}", a.l2_promotion))?;
    invalid(a.oob_fill == 0 || a.oob_fill == 1 && has_nan, format!("fill {} for elements without NaN", a.oob_fill))?;
    let map = TensorMap {
        address: a.address,
        element_bytes,
        dims: a.dims.clone(),
        strides_bytes: a.strides_bytes.clone(),
        box_dims: a.box_dims.clone(),
        element_strides: a.element_strides.clone(),
        swizzle,
        fills_nan: a.oob_fill == 1,
        data_type: a.data_type,
    };
    Ok(map.encode())
}

/// What interleaved layouts may be, before they are refused for not being simulated.
fn check_interleave(a: &TiledArguments) -> Res {
    if a.interleave == 0 {
        return Ok(());
    }
    require(a.dims.len() >= 3, Code::InvalidValue, format!("an interleaved tensor of rank {}", a.dims.len()))?;
    let is_swizzled = a.interleave != 2 || a.swizzle == 1;
    require(
        is_swizzled,
        Code::InvalidValue,
        format!("swizzle {} with 32-byte interleaving, expected 32 bytes", a.swizzle),
    )?;
    refuse(Code::NotSupported, "interleaved tensor maps are not simulated")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TiledArguments {
        TiledArguments {
            data_type: 6,
            address: 0x7_0000_0000,
            dims: vec![100, 60],
            strides_bytes: vec![208],
            box_dims: vec![64, 32],
            element_strides: vec![1, 1],
            interleave: 0,
            swizzle: 3,
            l2_promotion: 0,
            oob_fill: 1,
        }
    }

    /// A change to good arguments, and the code it gets.
    type Case = (fn(&mut TiledArguments), Code);

    #[test]
    fn each_rule_is_applied() {
        let map = encode(&good()).expect("good arguments");
        assert_eq!(TensorMap::decode(&map).map(|m| (m.dims, m.swizzle)), Some((vec![100, 60], Swizzle::Bytes128)));
        let cases: &[Case] = &[
            (|a| a.data_type = 99, Code::InvalidValue),
            (|a| a.address += 8, Code::InvalidValue),
            (|a| a.dims[0] = 0, Code::InvalidValue),
            (|a| a.strides_bytes[0] = 200, Code::InvalidValue),
            (|a| a.box_dims[1] = 257, Code::InvalidValue),
            (|a| a.box_dims[0] = 128, Code::InvalidValue),
            (|a| a.box_dims[0] = 7, Code::InvalidValue),
            (|a| a.element_strides[0] = 9, Code::InvalidValue),
            (|a| a.swizzle = 9, Code::InvalidValue),
            (|a| (a.data_type, a.box_dims[0]) = (2, 32), Code::InvalidValue),
            (|a| a.interleave = 1, Code::InvalidValue),
            (|a| (a.interleave, a.dims, a.strides_bytes) = (1, vec![100, 60, 2], vec![208, 12480]), Code::NotSupported),
        ];
        for (i, (change, code)) in cases.iter().enumerate() {
            let mut arguments = good();
            change(&mut arguments);
            assert_eq!(encode(&arguments).map_err(|r| r.code), Err(*code), "case {i}");
        }
    }
}
