//! Graphs, made node by node.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUDA_KERNEL_NODE_PARAMS, CUgraph, CUgraphExec, CUgraphNode, CUresult, CUresult::*};

use super::common::program::{Program, given, ok, stream};
use super::{Misuse, row};

fn graph() -> CUgraph {
    given(null_mut(), |g| unsafe { sys::cuGraphCreate(g, 0) })
}

fn empty(graph: CUgraph, after: &[CUgraphNode]) -> CUgraphNode {
    given(null_mut(), |n| unsafe { sys::cuGraphAddEmptyNode(n, graph, after.as_ptr(), after.len()) })
}

fn bump(p: Program, ctas: u32) -> CUDA_KERNEL_NODE_PARAMS {
    let mut params: CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
    (params.func, params.gridDimX, params.gridDimY, params.gridDimZ) = (p.function("bump"), ctas, 1, 1);
    (params.blockDimX, params.blockDimY, params.blockDimZ) = (1, 1, 1);
    params
}

fn kernel(p: Program, graph: CUgraph, after: &[CUgraphNode]) -> CUgraphNode {
    let params = bump(p, 1);
    given(null_mut(), |n| unsafe { sys::cuGraphAddKernelNode_v2(n, graph, after.as_ptr(), after.len(), &params) })
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    given(null_mut(), |e| unsafe { sys::cuGraphInstantiateWithFlags(e, graph, 0) })
}

fn depend(graph: CUgraph, from: CUgraphNode, to: CUgraphNode) -> CUresult {
    unsafe { sys::cuGraphAddDependencies_v2(graph, &from, &to, std::ptr::null(), 1) }
}

fn update(exec: CUgraphExec, graph: CUgraph, why: sys::CUgraphExecUpdateResult) -> CUresult {
    let mut info: sys::CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
    let result = unsafe { sys::cuGraphExecUpdate_v2(exec, graph, &mut info) };
    assert_eq!(info.result, why);
    result
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = building();
    rows.extend(execution());
    rows.extend(updates());
    rows
}

fn building() -> Vec<Misuse> {
    vec![
        row("cuGraphCreate", "flags other than 0", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuGraphCreate(&mut null_mut(), 1)
        }),
        row("cuGraphDestroy", "twice", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let graph = graph();
            ok(sys::cuGraphDestroy(graph));
            sys::cuGraphDestroy(graph)
        }),
        row("cuGraphAddEmptyNode", "after a node of another graph", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let foreign = empty(graph(), &[]);
            sys::cuGraphAddEmptyNode(&mut null_mut(), graph(), &foreign, 1)
        }),
        row("cuGraphAddEmptyNode", "after the same node twice", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let graph = graph();
            let node = empty(graph, &[]);
            sys::cuGraphAddEmptyNode(&mut null_mut(), graph, [node, node].as_ptr(), 2)
        }),
        row("cuGraphAddKernelNode", "a grid without CTAs", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            sys::cuGraphAddKernelNode_v2(&mut null_mut(), graph(), std::ptr::null(), 0, &bump(p, 0))
        }),
        row("cuGraphAddChildGraphNode", "a graph as its own child", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let graph = graph();
            sys::cuGraphAddChildGraphNode(&mut null_mut(), graph, std::ptr::null(), 0, graph)
        }),
        row("cuGraphAddDependencies", "an edge that is there", CUDA_ERROR_INVALID_VALUE, |_| {
            let graph = graph();
            let first = empty(graph, &[]);
            let second = empty(graph, &[first]);
            depend(graph, first, second)
        }),
        row("cuGraphAddDependencies", "an edge that closes a cycle", CUDA_ERROR_INVALID_VALUE, |_| {
            let graph = graph();
            let first = empty(graph, &[]);
            let second = empty(graph, &[first]);
            depend(graph, second, first)
        }),
    ]
}

fn execution() -> Vec<Misuse> {
    vec![
        row("cuGraphInstantiate", "a graph that was destroyed", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let graph = graph();
            ok(sys::cuGraphDestroy(graph));
            sys::cuGraphInstantiateWithFlags(&mut null_mut(), graph, 0)
        }),
        row("cuGraphInstantiate", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuGraphInstantiateWithFlags(&mut null_mut(), graph(), 0x100)
        }),
        row("cuGraphLaunch", "an executable graph that was destroyed", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            let graph = graph();
            kernel(p, graph, &[]);
            let exec = instantiate(graph);
            ok(sys::cuGraphExecDestroy(exec));
            sys::cuGraphLaunch(exec, stream())
        }),
        row("cuGraphLaunch", "a graph that was not instantiated", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuGraphLaunch(graph() as CUgraphExec, stream())
        }),
        row("cuGraphLaunch", "in a stream of another context", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            let exec = instantiate(graph());
            given(null_mut(), |c| sys::cuCtxCreate_v4(c, null_mut(), 0, 1));
            let theirs = stream();
            ok(sys::cuCtxSetCurrent(p.context));
            sys::cuGraphLaunch(exec, theirs)
        }),
    ]
}

fn updates() -> Vec<Misuse> {
    use sys::CUgraphExecUpdateResult::*;
    vec![
        row("cuGraphExecUpdate", "a graph with another node", CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, |p| {
            let graph = graph();
            let first = kernel(p, graph, &[]);
            let exec = instantiate(graph);
            kernel(p, graph, &[first]);
            update(exec, graph, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED)
        }),
        row("cuGraphExecUpdate", "a graph with other edges", CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, |p| {
            let graph = graph();
            let (first, second) = (kernel(p, graph, &[]), kernel(p, graph, &[]));
            let exec = instantiate(graph);
            ok(depend(graph, first, second));
            update(exec, graph, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED)
        }),
        row("cuGraphExecUpdate", "a node of another type", CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, |p| {
            let (old, new) = (graph(), graph());
            kernel(p, old, &[]);
            empty(new, &[]);
            update(instantiate(old), new, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED)
        }),
        row(
            "cuGraphExecKernelNodeSetParams",
            "a node that the graph did not have",
            CUDA_ERROR_INVALID_VALUE,
            |p| unsafe {
                let graph = graph();
                kernel(p, graph, &[]);
                let exec = instantiate(graph);
                let late = kernel(p, graph, &[]);
                sys::cuGraphExecKernelNodeSetParams_v2(exec, late, &bump(p, 2))
            },
        ),
        row("cuGraphExecKernelNodeSetParams", "a node that is no kernel", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            let graph = graph();
            let node = empty(graph, &[]);
            sys::cuGraphExecKernelNodeSetParams_v2(instantiate(graph), node, &bump(p, 2))
        }),
    ]
}
