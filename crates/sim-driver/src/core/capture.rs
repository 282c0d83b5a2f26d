//! Stream capture: work becomes graph nodes instead of running, and whatever cannot is refused and invalidates the capture.
//!
//! Rules and codes: the CUDA driver API's "Stream Management" and the programming guide's section on graphs by stream capture.

use std::collections::BTreeSet;
use std::thread::ThreadId;

use super::Driver;
use super::graph::Graph;
use super::stream::StreamKind;
use super::table::Handle;
use super::thread;
use super::work::Work;
use crate::code::{Code, Res, refuse, require};

/// `CUstreamCaptureMode`: which threads must avoid calls that could break a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureMode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl CaptureMode {
    pub fn from_number(mode: u32) -> Res<Self> {
        match mode {
            0 => Ok(CaptureMode::Global),
            1 => Ok(CaptureMode::ThreadLocal),
            2 => Ok(CaptureMode::Relaxed),
            _ => refuse(Code::InvalidValue, format!("capture mode {mode}")),
        }
    }
}

/// `CUstreamCaptureStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    None = 0,
    Active = 1,
    Invalidated = 2,
}

/// One capture sequence, perhaps over several streams.
#[derive(Debug)]
pub struct Capture {
    pub context: Handle,
    pub mode: CaptureMode,
    pub thread: ThreadId,
    /// The stream that it began in.
    pub origin: Handle,
    /// The graph in the making, which callers can see.
    pub graph: Handle,
    pub is_invalidated: bool,
}

impl Driver {
    pub fn capture_begin(&mut self, handle: Handle, mode: u32) -> Res {
        let mode = CaptureMode::from_number(mode)?;
        let stream = self.stream(handle)?;
        let (context, kind) = self.streams.get(stream).map(|s| (s.context, s.kind))?;
        require(kind != StreamKind::Legacy, Code::StreamCaptureUnsupported, "the legacy stream cannot capture")?;
        let is_capturing = self.streams.get(stream)?.capture.is_some();
        require(!is_capturing, Code::IllegalState, "the stream is capturing already")?;
        let id = self.next_capture;
        self.next_capture += 1;
        let graph = self.graphs.insert(Graph::default());
        let thread = std::thread::current().id();
        self.captures.insert(id, Capture { context, mode, thread, origin: stream, graph, is_invalidated: false });
        self.streams.get_mut(stream)?.capture = Some((id, Vec::new()));
        Ok(())
    }

    pub fn capture_end(&mut self, handle: Handle) -> Res<Handle> {
        let stream = self.stream(handle)?;
        let Some((id, last)) = self.streams.get(stream)?.capture.clone() else {
            return refuse(Code::IllegalState, "the stream is not capturing");
        };
        let Some(capture) = self.captures.get(&id) else {
            return refuse(Code::IllegalState, "the capture is over");
        };
        let (origin, graph, is_invalidated) = (capture.origin, capture.graph, capture.is_invalidated);
        let is_own = capture.mode == CaptureMode::Relaxed || capture.thread == std::thread::current().id();
        if origin != stream {
            self.invalidate(id);
            return refuse(Code::StreamCaptureUnmatched, "the capture began in another stream");
        }
        require(is_own, Code::StreamCaptureWrongThread, "the capture began in another thread")?;
        let joined = self.graphs.get(graph)?.ancestors(&last);
        let others = self.streams.iter().filter(|(h, _)| *h != stream);
        let unjoined = others
            .filter_map(|(_, s)| s.capture.as_ref().filter(|c| c.0 == id))
            .any(|(_, nodes)| nodes.iter().any(|n| !joined.contains(n)));
        self.capture_forget(id);
        if is_invalidated || unjoined {
            self.graph_remove(graph)?;
        }
        require(!is_invalidated, Code::StreamCaptureInvalidated, "an earlier call invalidated the capture")?;
        require(!unjoined, Code::StreamCaptureUnjoined, "work of another stream was not joined to the origin's")?;
        Ok(graph)
    }

    /// Takes all streams out of a capture.
    pub fn capture_forget(&mut self, id: u64) {
        self.captures.remove(&id);
        for (_, stream) in self.streams.iter_mut() {
            stream.capture = stream.capture.take().filter(|c| c.0 != id);
        }
    }

    /// Makes a capture end in an error.
    pub fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.is_invalidated = true;
        }
    }

    pub fn capture_status(&self, stream: Handle) -> Res<Status> {
        let Some((id, _)) = &self.streams.get(stream)?.capture else { return Ok(Status::None) };
        Ok(match self.captures.get(id) {
            None => Status::None,
            Some(c) if c.is_invalidated => Status::Invalidated,
            Some(_) => Status::Active,
        })
    }

    /// Records work as a node after the stream's last ones.
    pub fn capture_node(&mut self, stream: Handle, work: Work) -> Res {
        let Some((id, last)) = self.streams.get(stream)?.capture.clone() else {
            return refuse(Code::IllegalState, "the stream is not capturing");
        };
        let Some(graph) = self.captures.get(&id).map(|c| c.graph) else {
            return refuse(Code::IllegalState, "the capture is over");
        };
        let node = self.graph_add(graph, work, &last)?;
        let index = self.nodes.get(node)?.index;
        self.streams.get_mut(stream)?.capture = Some((id, vec![index]));
        Ok(())
    }

    /// Makes a stream wait for nodes of a capture, which it thereby joins.
    pub fn capture_join(&mut self, stream: Handle, id: u64, nodes: &[usize]) -> Res {
        let Some(is_invalidated) = self.captures.get(&id).map(|c| c.is_invalidated) else {
            return refuse(Code::CapturedEvent, "the event was recorded in a capture that is over");
        };
        require(!is_invalidated, Code::StreamCaptureInvalidated, "the event's capture was invalidated")?;
        let (kind, own) = self.streams.get(stream).map(|s| (s.kind, s.capture.clone()))?;
        if kind == StreamKind::Legacy {
            self.invalidate(id);
            return refuse(Code::StreamCaptureImplicit, "the legacy stream cannot join a capture");
        }
        let mut last: BTreeSet<usize> = nodes.iter().copied().collect();
        if let Some((other, own)) = own {
            if other != id {
                self.invalidate(id);
                self.invalidate(other);
                return refuse(Code::StreamCaptureMerge, "the event belongs to another capture than the stream");
            }
            last.extend(own);
        }
        self.streams.get_mut(stream)?.capture = Some((id, last.into_iter().collect()));
        Ok(())
    }

    /// Refuses calls that could wait for work behind the caller's back (allocation, synchronous copies, module loading) while
    /// this thread, or in global mode any thread, captures; and invalidates those captures.
    pub fn refuse_unsafe_call(&mut self) -> Res {
        let here = std::thread::current().id();
        let thread_mode = thread::capture_mode();
        let forbids = |c: &Capture| match thread_mode {
            CaptureMode::Relaxed => false,
            CaptureMode::ThreadLocal => c.thread == here && c.mode != CaptureMode::Relaxed,
            CaptureMode::Global => c.mode == CaptureMode::Global || c.thread == here && c.mode != CaptureMode::Relaxed,
        };
        let broken: Vec<u64> = self.captures.iter().filter(|(_, c)| forbids(c)).map(|(&id, _)| id).collect();
        if broken.is_empty() {
            return Ok(());
        }
        broken.into_iter().for_each(|id| self.invalidate(id));
        refuse(Code::StreamCaptureUnsupported, "the call is not allowed while a stream captures")
    }
}
