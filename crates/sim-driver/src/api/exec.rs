//! Executable graphs.

use super::graph::KernelNodeParams;
use crate::abi::{In, Out};
use crate::code::{Code, Refusal, Res, refuse};
use crate::core::Driver;
use crate::core::graph::UpdateError;
use crate::core::table::Handle;

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateInfo {
    result: u32,
    node: Handle,
    from: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: u32,
}

fn update(d: &mut Driver, exec: Handle, graph: Handle, info: &Out<UpdateInfo>) -> Res {
    info.check()?;
    let changed = d.exec_update(exec, graph)?;
    let (result, node) = match changed {
        Ok(()) => (0, 0),
        Err((error, node)) => (error as u32, node),
    };
    info.give(|| Ok(UpdateInfo { result, node, from: 0 }))?;
    match changed {
        Ok(()) => Ok(()),
        Err((error, _)) => Err(Refusal { code: Code::GraphExecUpdateFailure, why: describe(error).into() }),
    }
}

fn describe(error: UpdateError) -> &'static str {
    match error {
        UpdateError::TopologyChanged => "the graph has other nodes or dependencies",
        UpdateError::NodeTypeChanged => "a node is of another type",
        UpdateError::ParametersChanged => "a copy goes between other kinds of memory",
    }
}

calls! {
    cuGraphInstantiate(exec: Out<Handle>, graph: Handle, node: Out<Handle>, _log: u64, _length: usize) |d| {
        node.offer(0)?;
        exec.give(|| d.instantiate(graph, 0))
    };
    cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) |d| exec.give(|| d.instantiate(graph, flags));
    cuGraphInstantiateWithParams(exec: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) |d| {
        params.exchange(|p| {
            exec.give(|| d.instantiate(graph, p.flags))?;
            Ok(InstantiateParams { error_node: 0, result: 0, ..p })
        })
    };
    cuGraphExecDestroy(exec: Handle) |d| d.execs.remove(exec).map(drop);
    cuGraphLaunch(exec: Handle, stream: Handle) |d| d.exec_launch(exec, stream);
    cuGraphUpload(exec: Handle, stream: Handle) |d| {
        d.stream(stream)?;
        d.execs.get(exec).map(drop)
    };
    cuGraphExecUpdate_v2(exec: Handle, graph: Handle, info: Out<UpdateInfo>) |d| update(d, exec, graph, &info);
    cuGraphExecKernelNodeSetParams_v2(exec: Handle, node: Handle, params: In<KernelNodeParams>) |d| {
        let work = params.get()?.work(d)?;
        d.exec_set_kernel(exec, node, work)
    };
    cuGraphExecGetFlags(exec: Handle, flags: Out<u64>) |d| {
        d.execs.get(exec)?;
        flags.give(|| Ok(0))
    };
    cuGraphExecUpdate(_exec: Handle, _graph: Handle, _node: Out<Handle>, _result: Out<u32>) |_| {
        refuse(Code::NotSupported, "this form was replaced by cuGraphExecUpdate_v2")
    };
}
