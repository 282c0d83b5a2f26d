//! Launches: everything that a driver refuses before a kernel runs, and the occupancy that decides some of it.

use super::Driver;
use super::device::{BLOCK_DIM_MAX, GRID_DIM_MAX, Limits, THREADS_PER_BLOCK_MAX};
use super::fault::FaultPoint;
use super::module::Function;
use super::occupancy::{Footprint, blocks_per_sm, dynamic_shared_bytes};
use super::table::Handle;
use super::work::{KernelWork, Work};
use crate::code::{Code, Res, refuse, require};

/// CTAs per cluster that every kernel may use, and with leave.
const CLUSTER_PORTABLE: u32 = 8;
const CLUSTER_MAX: u32 = 16;

/// A launch as a caller asks for it.
#[derive(Clone, Debug)]
pub struct Request {
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: Option<[u32; 3]>,
    pub dynamic_shared_bytes: u32,
    pub cooperative: bool,
    /// The launch may start before the one in front of it has ended.
    pub is_early: bool,
    pub params: Vec<u8>,
}

impl Driver {
    pub fn launch(&mut self, request: Request, stream: Handle) -> Res {
        let context = self.context()?;
        let stream = self.stream(stream)?;
        require(
            self.streams.get(stream)?.context == context,
            Code::InvalidHandle,
            "the stream belongs to another context than the current one",
        )?;
        let work = self.check_launch(request)?;
        self.fault(FaultPoint::Launch)?;
        self.submit(stream, Work::Kernel(work))
    }

    /// Offset and length in bytes of each parameter, and the length of all.
    pub fn param_slots(&mut self, function: Handle) -> Res<(Vec<(usize, usize)>, usize)> {
        let function = self.resolve_function(function)?;
        let kernel = &self.functions.get(function)?.kernel;
        let slots = kernel.params.iter().map(|p| (p.offset as usize, p.bytes as usize)).collect();
        Ok((slots, kernel.param_bytes as usize))
    }

    /// Applies every rule that does not depend on the stream.
    pub fn check_launch(&mut self, request: Request) -> Res<KernelWork> {
        let context = self.context()?;
        let handle = self.resolve_function(request.function)?;
        let function = self.functions.get(handle)?;
        require(function.context == context, Code::InvalidHandle, "the function belongs to another context")?;
        let limits = self.devices[self.contexts.get(context)?.device].limits;
        check_dimensions(function, &request)?;
        check_resources(function, &request)?;
        let cluster = check_cluster(&limits, function, &request)?;
        if request.cooperative {
            check_cooperative(&limits, function, &request)?;
        }
        require(
            request.params.len() == function.kernel.param_bytes as usize,
            Code::InvalidValue,
            format!("{} parameter bytes, the kernel takes {}", request.params.len(), function.kernel.param_bytes),
        )?;
        Ok(KernelWork {
            function: handle,
            kernel: function.kernel.clone(),
            grid: request.grid,
            block: request.block,
            cluster,
            dynamic_shared_bytes: request.dynamic_shared_bytes,
            cooperative: request.cooperative,
            is_early: request.is_early,
            launches_dependents: function.kernel.launches_dependents(),
            waits_for_dependencies: function.kernel.waits_for_dependencies(),
            params: request.params,
        })
    }

    /// CTAs of a function that share an SM.
    pub fn occupancy(&mut self, function: Handle, block_threads: i32, dynamic_bytes: u64) -> Res<i32> {
        let (limits, handle) = self.function_limits(function)?;
        require(block_threads > 0, Code::InvalidValue, format!("a block of {block_threads} threads"))?;
        let function = self.functions.get(handle)?;
        Ok(occupancy_of(&limits, function, block_threads as u32, dynamic_bytes) as i32)
    }

    /// The block of the highest occupancy, the largest of several, and the grid that fills the device with it.
    pub fn best_block(&mut self, function: Handle, limit: i32, dynamic_bytes: impl Fn(i32) -> u64) -> Res<(i32, i32)> {
        let (limits, handle) = self.function_limits(function)?;
        let function = self.functions.get(handle)?;
        let most = if limit > 0 { (limit as u32).min(function.threads_max()) } else { function.threads_max() };
        let mut best = (0, 0, 0);
        for block in (1..=most.div_ceil(32)).rev().map(|warps| (warps * 32).min(most)) {
            let blocks = occupancy_of(&limits, function, block, dynamic_bytes(block as i32));
            if blocks * block > best.0 {
                best = (blocks * block, block, blocks);
            }
        }
        Ok(((best.2 * limits.sm_count) as i32, best.1 as i32))
    }

    /// Dynamic shared memory per CTA that leaves room for `blocks` CTAs on an SM.
    pub fn available_shared_bytes(&mut self, function: Handle, blocks: i32, block_threads: i32) -> Res<u64> {
        let (limits, handle) = self.function_limits(function)?;
        require(blocks > 0 && block_threads > 0, Code::InvalidValue, "blocks and threads must be at least 1")?;
        let function = self.functions.get(handle)?;
        let fits = occupancy_of(&limits, function, block_threads as u32, 0) >= blocks as u32;
        require(fits, Code::InvalidValue, format!("{blocks} blocks of {block_threads} threads do not fit on an SM"))?;
        Ok(dynamic_shared_bytes(&limits, blocks as u32, function.kernel.static_shared_bytes).into())
    }

    /// Clusters of a launch that the device holds at once.
    pub fn active_clusters(&mut self, request: &Request) -> Res<i32> {
        let (limits, handle) = self.function_limits(request.function)?;
        let function = self.functions.get(handle)?;
        let cluster = check_cluster(&limits, function, request)?;
        let threads = request.block.iter().product();
        let blocks = occupancy_of(&limits, function, threads, request.dynamic_shared_bytes.into()) * limits.sm_count;
        Ok((blocks / cluster.iter().product::<u32>()) as i32)
    }

    /// CTAs of the largest cluster that a launch could have.
    pub fn largest_cluster(&mut self, request: &Request) -> Res<i32> {
        let (limits, handle) = self.function_limits(request.function)?;
        require(limits.has_clusters(), Code::InvalidClusterSize, "the device has no clusters")?;
        let function = self.functions.get(handle)?;
        Ok(if function.allows_large_clusters { CLUSTER_MAX } else { CLUSTER_PORTABLE } as i32)
    }

    fn function_limits(&mut self, function: Handle) -> Res<(Limits, Handle)> {
        let handle = self.resolve_function(function)?;
        let context = self.functions.get(handle)?.context;
        Ok((self.devices[self.contexts.get(context)?.device].limits, handle))
    }
}

fn occupancy_of(limits: &Limits, function: &Function, threads: u32, dynamic_bytes: u64) -> u32 {
    if threads > function.threads_max() || dynamic_bytes > u64::from(function.dynamic_shared_bytes_max) {
        return 0;
    }
    let shared_bytes = function.kernel.static_shared_bytes + dynamic_bytes as u32;
    blocks_per_sm(limits, Footprint { threads, registers: function.registers, shared_bytes })
}

fn check_dimensions(function: &Function, request: &Request) -> Res {
    let (grid, block) = (request.grid, request.block);
    require(
        !grid.contains(&0) && !block.contains(&0),
        Code::InvalidValue,
        format!("grid {grid:?}, block {block:?}: a 0"),
    )?;
    let within = |dims: [u32; 3], most: [u32; 3]| (0..3).all(|i| dims[i] <= most[i]);
    require(within(grid, GRID_DIM_MAX), Code::InvalidValue, format!("grid {grid:?}, at most {GRID_DIM_MAX:?}"))?;
    require(within(block, BLOCK_DIM_MAX), Code::InvalidValue, format!("block {block:?}, at most {BLOCK_DIM_MAX:?}"))?;
    let threads: u32 = block.iter().product();
    require(
        threads <= THREADS_PER_BLOCK_MAX,
        Code::InvalidValue,
        format!("{threads} threads per block, at most {THREADS_PER_BLOCK_MAX}"),
    )?;
    if let Some(required) = function.kernel.directives.block_required {
        require(
            block == required,
            Code::InvalidValue,
            format!("block {block:?}, the kernel's .reqntid is {required:?}"),
        )?;
    }
    let most = function.kernel.threads_max();
    require(
        threads <= most,
        Code::InvalidValue,
        format!("{threads} threads per block, the kernel's .maxntid is {most}"),
    )
}

fn check_resources(function: &Function, request: &Request) -> Res {
    let threads: u32 = request.block.iter().product();
    let most = function.threads_max();
    require(
        threads <= most,
        Code::LaunchOutOfResources,
        format!("{threads} threads of {} registers, at most {most} threads", function.registers),
    )?;
    let (asked, most) = (request.dynamic_shared_bytes, function.dynamic_shared_bytes_max);
    require(
        asked <= most,
        Code::InvalidValue,
        format!(
            "{asked} bytes of dynamic shared memory, the function has {most}: raise it with \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        ),
    )
}

/// The cluster of a launch; `[1, 1, 1]` for none.
fn check_cluster(limits: &Limits, function: &Function, request: &Request) -> Res<[u32; 3]> {
    let cluster = match (request.cluster, function.kernel.cluster) {
        (None, None) => return Ok([1; 3]),
        (Some(asked), Some(required)) if asked != required => {
            return refuse(Code::InvalidClusterSize, format!("cluster {asked:?}, the kernel requires {required:?}"));
        }
        (Some(cluster), _) | (None, Some(cluster)) => cluster,
    };
    let invalid = |condition, why| require(condition, Code::InvalidClusterSize, why);
    invalid(!cluster.contains(&0), format!("cluster {cluster:?}"))?;
    let ctas = cluster.iter().fold(1u32, |n, &d| n.saturating_mul(d));
    invalid(ctas == 1 || limits.has_clusters(), "the device has no clusters".into())?;
    let most = if function.allows_large_clusters { CLUSTER_MAX } else { CLUSTER_PORTABLE };
    invalid(ctas <= most, format!("a cluster of {ctas} CTAs, at most {most}"))?;
    let divides = (0..3).all(|i| request.grid[i].is_multiple_of(cluster[i]));
    invalid(divides, format!("grid {:?} is no multiple of cluster {cluster:?}", request.grid))?;
    Ok(cluster)
}

/// All CTAs of a cooperative launch are on the device at once.
fn check_cooperative(limits: &Limits, function: &Function, request: &Request) -> Res {
    let threads = request.block.iter().product();
    let per_sm = occupancy_of(limits, function, threads, request.dynamic_shared_bytes.into());
    let most = u64::from(per_sm) * u64::from(limits.sm_count);
    let ctas: u64 = request.grid.iter().map(|&n| u64::from(n)).product();
    require(
        ctas <= most,
        Code::CooperativeLaunchTooLarge,
        format!("{ctas} CTAs, {per_sm} fit on each of {} SMs", limits.sm_count),
    )
}
