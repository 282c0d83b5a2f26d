//! Launches and tensor maps.

use crate::abi::{In, KernelParams, LaunchExtra, Out};
use crate::code::{Code, Res, refuse, require};
use crate::core::Driver;
use crate::core::launch::Request;
use crate::core::table::Handle;
use crate::core::tensor_map::{TiledArguments, encode};

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    pub stream: Handle,
    attributes: *const Attribute,
    attribute_count: u32,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: u32,
    padding: u32,
    value: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 56 && size_of::<Attribute>() == 72);

impl Attribute {
    /// The value's `i`-th 32-bit field.
    fn word(&self, i: usize) -> u32 {
        (self.value[i / 2] >> (i % 2 * 32)) as u32
    }
}

/// A launch of a config, and the events to record after it.
pub fn request(config: &Config, function: Handle, params: Vec<u8>) -> Res<(Request, Vec<Handle>)> {
    let mut events = Vec::new();
    let mut request = Request {
        function,
        grid: config.grid,
        block: config.block,
        cluster: None,
        dynamic_shared_bytes: config.dynamic_shared_bytes,
        cooperative: false,
        is_early: false,
        params,
    };
    for attribute in In::from_field(config.attributes).slice(config.attribute_count as usize)? {
        match attribute.id {
            6 => request.is_early = attribute.word(0) != 0,
            2 => request.cooperative = attribute.word(0) != 0,
            4 => request.cluster = Some([attribute.word(0), attribute.word(1), attribute.word(2)]),
            // Programmatic and launch completion events.
            7 | 12 => events.push(attribute.value[0]),
            // Hints and orders that running in stream order satisfies: cache windows, synchronisation policy, cluster scheduling,
            // programmatic serialization, priority, memory domains, preferred clusters, carveout.
            0 | 1 | 3 | 5 | 8..=11 | 14 => {}
            13 => return refuse(Code::NotSupported, "nodes that devices update are not simulated"),
            other => return refuse(Code::InvalidValue, format!("launch attribute {other}")),
        }
    }
    Ok((request, events))
}

/// The parameter buffer, from whichever of the two ways the caller chose.
pub fn pack(d: &mut Driver, function: Handle, params: KernelParams, extra: LaunchExtra) -> Res<Vec<u8>> {
    let both = !params.is_null() && !extra.is_null();
    require(!both, Code::InvalidValue, "kernelParams and extra are both given")?;
    if !extra.is_null() {
        return extra.buffer();
    }
    let (slots, bytes) = d.param_slots(function)?;
    params.pack(&slots, bytes)
}

calls! {
    cuLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared_bytes: u32, stream: Handle, params: KernelParams, extra: LaunchExtra,
    ) |d| {
        let params = pack(d, function, params, extra)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        d.launch(Request { function, grid, block, cluster: None, dynamic_shared_bytes, cooperative: false, is_early: false, params }, stream)
    };
    cuLaunchCooperativeKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared_bytes: u32, stream: Handle, params: KernelParams,
    ) |d| {
        let params = pack(d, function, params, LaunchExtra(std::ptr::null()))?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        d.launch(Request { function, grid, block, cluster: None, dynamic_shared_bytes, cooperative: true, is_early: false, params }, stream)
    };
    cuLaunchKernelEx(config: In<Config>, function: Handle, params: KernelParams, extra: LaunchExtra) |d| {
        let config = config.get()?;
        let params = pack(d, function, params, extra)?;
        let (request, events) = request(&config, function, params)?;
        d.launch(request, config.stream)?;
        events.into_iter().try_for_each(|event| d.event_record(event, config.stream, 0))
    };
    cuTensorMapEncodeTiled(
        map: Out<[u64; 16]>, data_type: u32, rank: u32, address: u64, dims: In<u64>, strides: In<u64>, box_dims: In<u32>,
        element_strides: In<u32>, interleave: u32, swizzle: u32, l2_promotion: u32, oob_fill: u32,
    ) |_| {
        require((1..=5).contains(&rank), Code::InvalidValue, format!("tensor rank {rank}, expected 1 to 5"))?;
        require(map.address().is_multiple_of(64), Code::InvalidValue, "the tensor map is not aligned to 64 bytes")?;
        let rank = rank as usize;
        let arguments = TiledArguments {
            data_type,
            address,
            dims: dims.slice(rank)?,
            strides_bytes: strides.slice(rank - 1)?,
            box_dims: box_dims.slice(rank)?,
            element_strides: element_strides.slice(rank)?,
            interleave,
            swizzle,
            l2_promotion,
            oob_fill,
        };
        map.give(|| encode(&arguments))
    };
    cuTensorMapReplaceAddress(map: Out<[u64; 16]>, address: u64) |_| {
        map.exchange(|words| match sim_exec::tensor_map::TensorMap::decode(&words) {
            Some(old) if address != 0 && address.is_multiple_of(16) => {
                Ok(sim_exec::tensor_map::TensorMap { address, ..old }.encode())
            }
            _ => refuse(Code::InvalidValue, "no tensor map, or a misaligned address"),
        })
    };
}
