//! Streams: in-order queues, which run their work at once or record it.

use super::Driver;
use super::capture::Status;
use super::context::ThreadKey;
use super::fault::FaultPoint;
use super::table::Handle;
use super::work::Work;
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
}

impl Stream {
    pub fn new(context: Handle, kind: StreamKind, priority: i32) -> Self {
        Stream { context, kind, priority, capture: None }
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
        self.fault(FaultPoint::Sync)
    }

    pub fn stream_query(&mut self, handle: Handle) -> Res {
        let stream = self.stream(handle)?;
        self.refuse_while_capturing(stream)
    }

    pub fn context_synchronize(&mut self) -> Res {
        let context = self.context()?;
        let capturing = self.captures_of(context, |_| true);
        if !capturing.is_empty() {
            capturing.into_iter().for_each(|c| self.invalidate(c));
            return refuse(Code::StreamCaptureUnsupported, "a stream of the context is capturing");
        }
        self.fault(FaultPoint::Sync)
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

    /// Runs work in a stream, or records it.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Res {
        self.legacy_allowed(stream)?;
        match self.capture_status(stream)? {
            Status::None => {
                let context = self.streams.get(stream)?.context;
                self.run(context, &work)
            }
            Status::Invalidated => refuse(Code::StreamCaptureInvalidated, "the stream's capture was invalidated"),
            Status::Active => self.capture_node(stream, work),
        }
    }

    /// As [`Driver::submit`], for calls that return when the work is done and so cannot be recorded.
    pub fn submit_blocking(&mut self, work: Work) -> Res {
        let context = self.context()?;
        let stream = self.contexts.get(context)?.legacy_stream;
        self.legacy_allowed(stream)?;
        self.refuse_unsafe_call()?;
        self.run(context, &work)
    }
}
