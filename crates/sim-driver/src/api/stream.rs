//! `cuStream*`, capture included, and host functions.

use std::ffi::c_void;

use crate::abi::{In, Out};
use crate::code::{Code, Res, refuse, require};
use crate::core::Driver;
use crate::core::capture::{CaptureMode, Status};
use crate::core::stream::StreamKind;
use crate::core::table::Handle;
use crate::core::thread;
use crate::core::work::Work;
use crate::host::HostCall;

/// What `cuStreamGetCaptureInfo` tells. Node handles go to callers as an array that lives as long as the driver.
struct CaptureInfo {
    status: Status,
    id: u64,
    graph: Handle,
    last: Vec<Handle>,
}

fn capture_info(d: &mut Driver, stream: Handle) -> Res<CaptureInfo> {
    let stream = d.stream(stream)?;
    d.legacy_allowed(stream)?;
    let status = d.capture_status(stream)?;
    let mut info = CaptureInfo { status, id: 0, graph: 0, last: Vec::new() };
    if status == Status::Active
        && let Some((id, last)) = &d.streams.get(stream)?.capture
        && let Some(capture) = d.captures.get(id)
    {
        let nodes = &d.graphs.get(capture.graph)?.nodes;
        info = CaptureInfo {
            status,
            id: *id,
            graph: capture.graph,
            last: last.iter().map(|&n| nodes[n].handle).collect(),
        };
    }
    Ok(info)
}

/// Writes capture information, each part only where there is room.
fn give_info(info: &CaptureInfo, id: Out<u64>, graph: Out<Handle>, last: Out<u64>, count: Out<usize>) -> Res {
    id.offer(info.id)?;
    graph.offer(info.graph)?;
    count.offer(info.last.len())?;
    // The array must outlive the call by an unknown time; captures ask seldom.
    last.offer(info.last.clone().leak().as_ptr().expose_provenance() as u64)
}

fn update_dependencies(d: &mut Driver, stream: Handle, nodes: &[Handle], flags: u32) -> Res {
    let stream = d.stream(stream)?;
    let Some((id, last)) = d.streams.get(stream)?.capture.clone() else {
        return refuse(Code::IllegalState, "the stream is not capturing");
    };
    let Some(graph) = d.captures.get(&id).map(|c| c.graph) else {
        return refuse(Code::IllegalState, "the capture is over");
    };
    let mut next = nodes.iter().map(|&n| d.node_in(graph, n)).collect::<Res<Vec<usize>>>()?;
    match flags {
        // CU_STREAM_ADD_CAPTURE_DEPENDENCIES and CU_STREAM_SET_CAPTURE_DEPENDENCIES.
        0 => next.extend(last),
        1 => {}
        _ => return refuse(Code::InvalidValue, format!("flags {flags:#x}")),
    }
    next.sort_unstable();
    next.dedup();
    d.streams.get_mut(stream)?.capture = Some((id, next));
    Ok(())
}

calls! {
    cuStreamCreate(stream: Out<Handle>, flags: u32) |d| stream.give(|| d.stream_create(flags, 0));
    cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) |d| {
        stream.give(|| d.stream_create(flags, priority))
    };
    cuStreamDestroy_v2(stream: Handle) |d| d.stream_destroy(stream);
    cuStreamSynchronize(stream: Handle) |d| d.stream_synchronize(stream);
    cuStreamQuery(stream: Handle) |d| d.stream_query(stream);
    cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) |d| d.event_wait(stream, event, flags);
    cuStreamGetFlags(stream: Handle, flags: Out<u32>) |d| flags.give(|| {
        let stream = d.stream(stream)?;
        Ok((d.streams.get(stream)?.kind == StreamKind::NonBlocking).into())
    });
    cuStreamGetPriority(stream: Handle, priority: Out<i32>) |d| priority.give(|| {
        let stream = d.stream(stream)?;
        Ok(d.streams.get(stream)?.priority)
    });
    cuStreamGetCtx(stream: Handle, context: Out<Handle>) |d| context.give(|| {
        let stream = d.stream(stream)?;
        Ok(d.streams.get(stream)?.context)
    });
    cuStreamGetId(stream: Handle, id: Out<u64>) |d| id.give(|| d.stream(stream));
    cuStreamGetDevice(stream: Handle, device: Out<i32>) |d| device.give(|| {
        let stream = d.stream(stream)?;
        let context = d.streams.get(stream)?.context;
        Ok(d.contexts.get(context)?.device as i32)
    });
    cuStreamBeginCapture_v2(stream: Handle, mode: u32) |d| d.capture_begin(stream, mode);
    cuStreamEndCapture(stream: Handle, graph: Out<Handle>) |d| {
        graph.check()?;
        let ended = d.capture_end(stream);
        graph.give(|| Ok(ended.as_ref().map_or(0, |&g| g)))?;
        ended.map(drop)
    };
    cuStreamIsCapturing(stream: Handle, status: Out<u32>) |d| status.give(|| {
        let stream = d.stream(stream)?;
        d.legacy_allowed(stream)?;
        d.capture_status(stream).map(|s| s as u32)
    });
    cuStreamGetCaptureInfo_v2(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, last: Out<u64>, count: Out<usize>,
    ) |d| {
        let info = capture_info(d, stream)?;
        status.give(|| Ok(info.status as u32))?;
        give_info(&info, id, graph, last, count)
    };
    cuStreamGetCaptureInfo_v3(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, last: Out<u64>, edges: Out<u64>, count: Out<usize>,
    ) |d| {
        let info = capture_info(d, stream)?;
        status.give(|| Ok(info.status as u32))?;
        edges.offer(0)?;
        give_info(&info, id, graph, last, count)
    };
    cuStreamUpdateCaptureDependencies(stream: Handle, nodes: In<Handle>, count: usize, flags: u32) |d| {
        let nodes = nodes.slice(count)?;
        update_dependencies(d, stream, &nodes, flags)
    };
    cuThreadExchangeStreamCaptureMode(mode: Out<u32>, ) |_| {
        mode.check()?;
        mode.exchange(|m| CaptureMode::from_number(m).map(|m| thread::exchange_capture_mode(m) as u32))
    };
    cuStreamAttachMemAsync(stream: Handle, address: u64, _length: usize, flags: u32) |d| {
        let stream = d.stream(stream)?;
        require(matches!(flags, 1 | 2 | 4), Code::InvalidValue, format!("flags {flags:#x}"))?;
        if let Some((id, _)) = d.streams.get(stream)?.capture.clone() {
            d.invalidate(id);
            return refuse(Code::StreamCaptureUnsupported, "attaching memory cannot be captured");
        }
        d.device_of(address, 1).map(drop)
    };
    cuLaunchHostFunc(stream: Handle, function: Option<extern "C" fn(*mut c_void)>, data: u64) |d| {
        let stream = d.stream(stream)?;
        let Some(function) = function else { return refuse(Code::InvalidValue, "the host function is null") };
        d.submit(stream, Work::Host(HostCall { function, data }))
    };
}
