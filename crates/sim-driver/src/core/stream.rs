//! Streams: each orders its work, and records it while it captures.

use super::Driver;
use super::capture::Status;
use super::context::ThreadKey;
use super::fault::FaultPoint;
use super::queue::TaskId;
use super::table::Handle;
use super::work::{KernelWork, Work};
use crate::code::{Code, Res, refuse, require};

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`; null means legacy too.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;
const NON_BLOCKING: u32 = 1;
/// The greatest (most urgent) and least priorities.
pub const PRIORITIES: (i32, i32) = (-5, 0);

/// What a stream is to the legacy stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Legacy,
    /// Waits for the legacy stream, and the other way round.
    Blocking,
    NonBlocking,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub context: Handle,
    pub kind: StreamKind,
    pub priority: i32,
    /// The capture it takes part in, and the nodes that its next one will depend on.
    pub capture: Option<(u64, Vec<usize>)>,
    /// The tasks that its next one comes after.
    last: Vec<TaskId>,
    /// What those came after, if they are a launch that lets the next start early.
    before_early: Option<Vec<TaskId>>,
}

impl Stream {
    pub fn new(context: Handle, kind: StreamKind, priority: i32) -> Self {
        Stream { context, kind, priority, capture: None, last: Vec::new(), before_early: None }
    }
}

impl Driver {
    /// The stream behind a handle; null and the special handles belong to the current context.
    pub fn stream(&mut self, handle: Handle) -> Res<Handle> {
        let context = self.context()?;
        match handle {
            0 | LEGACY => Ok(self.contexts.get(context)?.legacy_stream),
            PER_THREAD => {
                let key = ThreadKey::here();
                if let Some(&stream) = self.contexts.get(context)?.thread_streams.get(&key) {
                    return Ok(stream);
                }
                let stream = self.streams.insert(Stream::new(context, StreamKind::Blocking, 0));
                self.contexts.get_mut(context)?.thread_streams.insert(key, stream);
                Ok(stream)
            }
            _ => {
                let owner = self.streams.get(handle)?.context;
                match &self.contexts.get(owner)?.poison {
                    Some(refusal) => Err(refusal.clone()),
                    None => Ok(handle),
                }
            }
        }
    }

    pub fn stream_create(&mut self, flags: u32, priority: i32) -> Res<Handle> {
        let context = self.context()?;
        require(flags & !NON_BLOCKING == 0, Code::InvalidValue, format!("stream flags {flags:#x}"))?;
        let kind = if flags & NON_BLOCKING != 0 { StreamKind::NonBlocking } else { StreamKind::Blocking };
        // Priorities outside the range are clamped, as documented.
        Ok(self.streams.insert(Stream::new(context, kind, priority.clamp(PRIORITIES.0, PRIORITIES.1))))
    }

    pub fn stream_destroy(&mut self, handle: Handle) -> Res {
        require(handle > PER_THREAD, Code::InvalidHandle, "the default streams cannot be destroyed")?;
        let stream = self.streams.remove(handle)?;
        if stream.kind == StreamKind::Blocking {
            // The work goes on, and the legacy stream still waits for it.
            let legacy = self.contexts.get(stream.context)?.legacy_stream;
            self.streams.get_mut(legacy)?.last.extend(stream.last);
        }
        if let Some((capture, _)) = stream.capture {
            self.invalidate(capture);
            if self.captures.get(&capture).is_some_and(|c| c.origin == handle) {
                self.capture_forget(capture);
            }
        }
        Ok(())
    }

    pub fn stream_synchronize(&mut self, handle: Handle) -> Res {
        let stream = self.stream(handle)?;
        self.refuse_while_capturing(stream)?;
        self.fault(FaultPoint::Sync)?;
        self.wait_for_stream(stream)
    }

    /// Makes the current call wait for all that was submitted to a stream.
    pub fn wait_for_stream(&mut self, stream: Handle) -> Res {
        let context = self.streams.get(stream)?.context;
        let tasks = self.before_next(stream)?;
        self.wait_for(tasks, context);
        Ok(())
    }

    pub fn stream_query(&mut self, handle: Handle) -> Res {
        let stream = self.stream(handle)?;
        self.refuse_while_capturing(stream)?;
        let tasks = self.before_next(stream)?;
        self.ask_done(&tasks)
    }

    pub fn context_synchronize(&mut self) -> Res {
        let context = self.context()?;
        let capturing = self.captures_of(context, |_| true);
        if !capturing.is_empty() {
            capturing.into_iter().for_each(|c| self.invalidate(c));
            return refuse(Code::StreamCaptureUnsupported, "a stream of the context is capturing");
        }
        self.fault(FaultPoint::Sync)?;
        self.wait_for(self.queue.of(|c| c == context), context);
        Ok(())
    }

    /// Waiting for a stream, or asking about it, cannot be recorded; asking about the legacy stream asks about all that block on it.
    fn refuse_while_capturing(&mut self, stream: Handle) -> Res {
        if let Some((capture, _)) = self.streams.get(stream)?.capture {
            self.invalidate(capture);
            return refuse(Code::StreamCaptureUnsupported, "the stream is capturing");
        }
        self.legacy_allowed(stream)
    }

    /// Refuses use of the legacy stream while a stream that blocks on it captures.
    pub fn legacy_allowed(&mut self, stream: Handle) -> Res {
        let (context, kind) = self.streams.get(stream).map(|s| (s.context, s.kind))?;
        if kind != StreamKind::Legacy {
            return Ok(());
        }
        let capturing = self.captures_of(context, |s| s.kind == StreamKind::Blocking);
        if capturing.is_empty() {
            return Ok(());
        }
        capturing.into_iter().for_each(|c| self.invalidate(c));
        refuse(Code::StreamCaptureImplicit, "the legacy stream would wait for a stream that is capturing")
    }

    /// The captures that streams of a context take part in.
    fn captures_of(&self, context: Handle, which: impl Fn(&Stream) -> bool) -> Vec<u64> {
        let streams = self.streams.iter().filter(|(_, s)| s.context == context && which(s));
        streams.filter_map(|(_, s)| s.capture.as_ref().map(|c| c.0)).collect()
    }

    /// Puts work into a stream, or records it.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Res {
        self.submit_after(stream, work, &[]).map(drop)
    }

    /// As [`Driver::submit`], after some more tasks; returns the tasks that end the work.
    pub fn submit_after(&mut self, stream: Handle, work: Work, more: &[TaskId]) -> Res<Vec<TaskId>> {
        self.legacy_allowed(stream)?;
        match self.capture_status(stream)? {
            Status::None => self.append(stream, &work, more),
            Status::Invalidated => refuse(Code::StreamCaptureInvalidated, "the stream's capture was invalidated"),
            Status::Active => self.capture_node(stream, work).map(|()| Vec::new()),
        }
    }

    fn append(&mut self, stream: Handle, work: &Work, more: &[TaskId]) -> Res<Vec<TaskId>> {
        let mut before = self.before_next(stream)?;
        before.extend(more);
        let entry = self.streams.get(stream)?;
        let (context, mut last) = (entry.context, Vec::new());
        if let (Work::Kernel(kernel), Some(earlier)) = (work, &entry.before_early)
            && kernel.is_early
            && !kernel.waits_for_dependencies
        {
            // It neither waits for the launch in front nor tells it apart: the two may run in either order.
            last = std::mem::replace(&mut before, earlier.clone());
        }
        let ends = self.enqueue_node(context, work, &before)?;
        let lets_next_start = matches!(work, Work::Kernel(KernelWork { launches_dependents: true, .. }));
        last.extend(&ends);
        let entry = self.streams.get_mut(stream)?;
        entry.last = last;
        entry.before_early = lets_next_start.then_some(before);
        if self.settings.launch_blocking && matches!(work, Work::Kernel(_) | Work::Graph(_)) {
            self.wait_for_stream(stream)?;
        }
        self.limit_queue();
        Ok(ends)
    }

    /// The tasks that a stream's next one comes after: its own, and those of the streams that it blocks on.
    fn before_next(&self, handle: Handle) -> Res<Vec<TaskId>> {
        let stream = self.streams.get(handle)?;
        let mut last = stream.last.clone();
        match stream.kind {
            StreamKind::NonBlocking => {}
            StreamKind::Blocking => {
                let legacy = self.contexts.get(stream.context)?.legacy_stream;
                last.extend(&self.streams.get(legacy)?.last);
            }
            StreamKind::Legacy => {
                let blocking = self.streams.iter().map(|(_, s)| s);
                let blocking = blocking.filter(|s| s.context == stream.context && s.kind == StreamKind::Blocking);
                last.extend(blocking.flat_map(|s| &s.last));
            }
        }
        last.retain(|&t| self.queue.holds(t));
        Ok(last)
    }
}
