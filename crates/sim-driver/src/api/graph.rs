//! `cuGraph*` for graphs that can still be changed.

use std::ffi::c_void;

use super::launch::pack;
use crate::abi::{In, KernelParams, LaunchExtra, Out};
use crate::code::{Code, Res, refuse, require};
use crate::core::Driver;
use crate::core::copy::Pointer;
use crate::core::graph::{Graph, node_type};
use crate::core::launch::Request;
use crate::core::table::Handle;
use crate::core::work::{Fill, KernelWork, Work};
use crate::host::HostCall;

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParams {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    params: KernelParams,
    extra: LaunchExtra,
    kernel: Handle,
    context: Handle,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillNodeParams {
    address: u64,
    pitch: usize,
    value: u32,
    element_bytes: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostNodeParams {
    function: Option<extern "C" fn(*mut c_void)>,
    data: u64,
}

/// One end in `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyEnd {
    x_bytes: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyNodeParams {
    from: CopyEnd,
    to: CopyEnd,
    width_bytes: usize,
    height: usize,
    depth: usize,
}

const _: () = assert!(size_of::<KernelNodeParams>() == 72 && size_of::<FillNodeParams>() == 40);
const _: () = assert!(size_of::<CopyEnd>() == 88 && size_of::<CopyNodeParams>() == 200);

impl KernelNodeParams {
    /// The launch, checked.
    pub fn work(&self, d: &mut Driver) -> Res<KernelWork> {
        let function = if self.function != 0 { self.function } else { self.kernel };
        let params = pack(d, function, self.params, self.extra)?;
        d.check_launch(Request {
            function,
            grid: self.grid,
            block: self.block,
            cluster: None,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            cooperative: false,
            is_early: false,
            params,
        })
    }
}

impl CopyEnd {
    fn pointer(&self) -> Res<Pointer> {
        let offset = self.x_bytes as u64;
        match self.memory_type {
            1 => Ok(Pointer::Host(self.host.wrapping_add(offset))),
            2 => Ok(Pointer::Device(self.device.wrapping_add(offset))),
            4 => Ok(Pointer::Unified(self.device.wrapping_add(offset))),
            _ => refuse(Code::InvalidValue, format!("memory type {}", self.memory_type)),
        }
    }
}

fn copy_work(d: &Driver, params: &CopyNodeParams) -> Res<Work> {
    let is_flat = params.height <= 1 && params.depth <= 1;
    let at_origin = [params.from, params.to].iter().all(|e| e.y == 0 && e.z == 0);
    require(is_flat && at_origin, Code::NotSupported, "copies in two and three dimensions are not simulated")?;
    d.checked_copy(params.to.pointer()?, params.from.pointer()?, params.width_bytes as u64).map(Work::Copy)
}

fn fill_work(d: &Driver, params: &FillNodeParams) -> Res<Work> {
    let fill = Fill {
        address: params.address,
        value: params.value,
        element_bytes: params.element_bytes,
        width: params.width as u64,
        height: params.height.max(1) as u64,
        pitch: params.pitch as u64,
    };
    require(params.width > 0, Code::InvalidValue, "a fill of no elements")?;
    d.check_fill(&fill).map(|()| Work::Fill(fill))
}

fn kernel_node_set(d: &mut Driver, node: Handle, params: &KernelNodeParams) -> Res {
    let work = params.work(d)?;
    match &mut d.node_mut(node)?.work {
        Work::Kernel(old) => *old = work,
        _ => return refuse(Code::InvalidValue, "the node is no kernel"),
    }
    Ok(())
}

fn event_node(d: &mut Driver, graph: Handle, after: &[Handle], event: Handle, work: fn(Handle) -> Work) -> Res<Handle> {
    d.context()?;
    d.events.get(event)?;
    d.graph_add_after(graph, work(event), after)
}

/// Writes as many values as there is room for, or only their number when there is nowhere to write.
fn give_list(list: &Out<Handle>, count: &Out<usize>, values: &[Handle]) -> Res {
    if list.is_null() {
        return count.give(|| Ok(values.len()));
    }
    count.exchange(|room| list.give_slice(values, room))
}

fn edges(d: &Driver, graph: Handle) -> Res<(Vec<Handle>, Vec<Handle>)> {
    let nodes = &d.graphs.get(graph)?.nodes;
    Ok(nodes.iter().flat_map(|to| to.after.iter().map(|&from| (nodes[from].handle, to.handle))).unzip())
}

fn give_edges(d: &Driver, graph: Handle, from: &Out<Handle>, to: &Out<Handle>, count: &Out<usize>) -> Res {
    let (sources, targets) = edges(d, graph)?;
    if from.is_null() || to.is_null() {
        return count.give(|| Ok(sources.len()));
    }
    count.exchange(|room| {
        from.give_slice(&sources, room)?;
        to.give_slice(&targets, room)
    })
}

fn dependencies(d: &Driver, node: Handle) -> Res<Vec<Handle>> {
    let graph = d.nodes.get(node)?.graph;
    let nodes = &d.graphs.get(graph)?.nodes;
    Ok(d.node(node)?.after.iter().map(|&n| nodes[n].handle).collect())
}

fn add_dependencies(d: &mut Driver, graph: Handle, from: &[Handle], to: &[Handle]) -> Res {
    from.iter().zip(to).try_for_each(|(&f, &t)| d.graph_add_dependency(graph, f, t))
}

calls! {
    cuGraphCreate(graph: Out<Handle>, flags: u32) |d| {
        require(flags == 0, Code::InvalidValue, format!("flags {flags:#x}"))?;
        graph.give(|| Ok(d.graphs.insert(Graph::default())))
    };
    cuGraphDestroy(graph: Handle) |d| d.graph_destroy(graph);
    cuGraphClone(clone: Out<Handle>, graph: Handle) |d| clone.give(|| d.graph_clone(graph));
    cuGraphAddKernelNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNodeParams>) |d| {
        let (params, after) = (params.get()?, after.slice(count)?);
        node.give(|| {
            let work = params.work(d)?;
            d.graph_add_after(graph, Work::Kernel(work), &after)
        })
    };
    cuGraphAddMemsetNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillNodeParams>, context: Handle,
    ) |d| {
        let (params, after) = (params.get()?, after.slice(count)?);
        d.contexts.get(context)?;
        node.give(|| {
            let work = fill_work(d, &params)?;
            d.graph_add_after(graph, work, &after)
        })
    };
    cuGraphAddMemcpyNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<CopyNodeParams>, context: Handle,
    ) |d| {
        let (params, after) = (params.get()?, after.slice(count)?);
        d.contexts.get(context)?;
        node.give(|| {
            let work = copy_work(d, &params)?;
            d.graph_add_after(graph, work, &after)
        })
    };
    cuGraphAddHostNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<HostNodeParams>) |d| {
        let (params, after) = (params.get()?, after.slice(count)?);
        let Some(function) = params.function else { return refuse(Code::InvalidValue, "the host function is null") };
        node.give(|| d.graph_add_after(graph, Work::Host(HostCall { function, data: params.data }), &after))
    };
    cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) |d| {
        let after = after.slice(count)?;
        node.give(|| d.graph_add_after(graph, Work::Empty, &after))
    };
    cuGraphAddEventRecordNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) |d| {
        let after = after.slice(count)?;
        node.give(|| event_node(d, graph, &after, event, Work::RecordEvent))
    };
    cuGraphAddEventWaitNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) |d| {
        let after = after.slice(count)?;
        node.give(|| event_node(d, graph, &after, event, Work::WaitEvent))
    };
    cuGraphAddChildGraphNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle) |d| {
        let after = after.slice(count)?;
        require(graph != child, Code::InvalidValue, "a graph cannot be its own child")?;
        let nodes = d.graphs.get(child)?.nodes.clone();
        node.give(|| d.graph_add_after(graph, Work::Graph(nodes), &after))
    };
    cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) |d| {
        let (from, to) = (from.slice(count)?, to.slice(count)?);
        add_dependencies(d, graph, &from, &to)
    };
    cuGraphAddDependencies_v2(graph: Handle, from: In<Handle>, to: In<Handle>, _data: u64, count: usize) |d| {
        let (from, to) = (from.slice(count)?, to.slice(count)?);
        add_dependencies(d, graph, &from, &to)
    };
    cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelNodeParams>) |d| {
        let params = params.get()?;
        kernel_node_set(d, node, &params)
    };
    cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |d| {
        let handles: Vec<Handle> = d.graphs.get(graph)?.nodes.iter().map(|n| n.handle).collect();
        give_list(&nodes, &count, &handles)
    };
    cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |d| {
        let roots = d.graphs.get(graph)?.nodes.iter().filter(|n| n.after.is_empty());
        give_list(&nodes, &count, &roots.map(|n| n.handle).collect::<Vec<_>>())
    };
    cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) |d| {
        give_edges(d, graph, &from, &to, &count)
    };
    cuGraphGetEdges_v2(graph: Handle, from: Out<Handle>, to: Out<Handle>, _data: u64, count: Out<usize>) |d| {
        give_edges(d, graph, &from, &to, &count)
    };
    cuGraphNodeGetType(node: Handle, kind: Out<u32>) |d| kind.give(|| Ok(node_type(&d.node(node)?.work)));
    cuGraphNodeGetDependencies(node: Handle, nodes: Out<Handle>, count: Out<usize>) |d| {
        give_list(&nodes, &count, &dependencies(d, node)?)
    };
    cuGraphNodeGetDependencies_v2(node: Handle, nodes: Out<Handle>, _data: u64, count: Out<usize>) |d| {
        give_list(&nodes, &count, &dependencies(d, node)?)
    };
}
