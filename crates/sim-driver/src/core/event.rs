//! Events.

use std::time::Instant;

use super::Driver;
use super::capture::Status;
use super::fault::FaultPoint;
use super::queue::TaskId;
use super::table::Handle;
use super::work::Work;
use crate::code::{Code, Res, refuse, require};

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
const EXTERNAL: u32 = 1;

/// When an event was last recorded.
#[derive(Clone, Debug)]
pub enum EventState {
    Never,
    /// By a task, which may be done: only if the context was lost.
    Pending(TaskId),
    Done(Instant),
    /// In a capture, after these nodes.
    Captured(u64, Vec<usize>),
}

/// One event.
#[derive(Debug)]
pub struct Event {
    pub context: Handle,
    pub has_timing: bool,
    pub state: EventState,
}

impl Event {
    /// The task that will record it.
    pub fn pending(&self) -> Option<TaskId> {
        match self.state {
            EventState::Pending(task) => Some(task),
            _ => None,
        }
    }
}

impl Driver {
    pub fn event_create(&mut self, flags: u32) -> Res<Handle> {
        let context = self.context()?;
        require(flags & !7 == 0, Code::InvalidValue, format!("event flags {flags:#x}"))?;
        let has_timing = flags & DISABLE_TIMING == 0;
        require(
            flags & INTERPROCESS == 0 || !has_timing,
            Code::InvalidValue,
            "an interprocess event needs CU_EVENT_DISABLE_TIMING",
        )?;
        Ok(self.events.insert(Event { context, has_timing, state: EventState::Never }))
    }

    pub fn event_destroy(&mut self, event: Handle) -> Res {
        self.events.remove(event).map(drop)
    }

    pub fn event_record(&mut self, event: Handle, stream: Handle, flags: u32) -> Res {
        let stream = self.stream(stream)?;
        let owner = self.events.get(event)?.context;
        require(flags & !EXTERNAL == 0, Code::InvalidValue, format!("record flags {flags:#x}"))?;
        require(
            owner == self.streams.get(stream)?.context,
            Code::InvalidHandle,
            "the event and the stream belong to different contexts",
        )?;
        self.legacy_allowed(stream)?;
        match (self.capture_status(stream)?, flags) {
            (Status::Invalidated, _) => refuse(Code::StreamCaptureInvalidated, "the stream's capture was invalidated"),
            (Status::Active, EXTERNAL) => self.capture_node(stream, Work::RecordEvent(event)),
            (Status::Active, _) => {
                if let Some((id, nodes)) = self.streams.get(stream)?.capture.clone() {
                    self.events.get_mut(event)?.state = EventState::Captured(id, nodes);
                }
                Ok(())
            }
            (Status::None, _) => self.submit(stream, Work::RecordEvent(event)),
        }
    }

    /// Adds a task that records an event.
    pub fn enqueue_record(&mut self, context: Handle, event: Handle, after: &[TaskId]) -> Res<TaskId> {
        self.events.get(event)?;
        let task = self.enqueue(context, Work::RecordEvent(event), after);
        self.events.get_mut(event)?.state = EventState::Pending(task);
        Ok(task)
    }

    /// Notes when a task recorded an event, unless it was recorded anew or destroyed meanwhile.
    pub fn event_mark(&mut self, event: Handle, task: TaskId) {
        if let Ok(event) = self.events.get_mut(event)
            && event.pending() == Some(task)
        {
            event.state = EventState::Done(Instant::now());
        }
    }

    pub fn event_wait(&mut self, stream: Handle, event: Handle, flags: u32) -> Res {
        let stream = self.stream(stream)?;
        require(flags & !EXTERNAL == 0, Code::InvalidValue, format!("wait flags {flags:#x}"))?;
        let state = self.events.get(event)?.state.clone();
        if let EventState::Captured(id, nodes) = state {
            return self.capture_join(stream, id, &nodes);
        }
        match (self.capture_status(stream)?, flags) {
            (Status::Invalidated, _) => refuse(Code::StreamCaptureInvalidated, "the stream's capture was invalidated"),
            (Status::Active, EXTERNAL) => self.capture_node(stream, Work::WaitEvent(event)),
            (Status::Active, _) => {
                if let Some((id, _)) = self.streams.get(stream)?.capture.clone() {
                    self.invalidate(id);
                }
                refuse(
                    Code::StreamCaptureIsolation,
                    "a capturing stream would wait for an event from outside its capture",
                )
            }
            (Status::None, _) => self.submit(stream, Work::WaitEvent(event)),
        }
    }

    pub fn event_synchronize(&mut self, event: Handle) -> Res {
        let task = self.event_task(event)?;
        self.fault(FaultPoint::Sync)?;
        let context = self.events.get(event)?.context;
        self.wait_for(task.into_iter().collect(), context);
        Ok(())
    }

    pub fn event_query(&mut self, event: Handle) -> Res {
        let task = self.event_task(event)?;
        self.ask_done(&Vec::from_iter(task))
    }

    /// The task that an event waits for.
    fn event_task(&mut self, event: Handle) -> Res<Option<TaskId>> {
        self.context()?;
        if let EventState::Captured(id, _) = self.events.get(event)?.state {
            self.invalidate(id);
            return refuse(Code::CapturedEvent, "the event was last recorded in a capture");
        }
        Ok(self.events.get(event)?.pending())
    }

    /// Milliseconds of the host's clock: how long the simulation took, which says nothing about a device.
    pub fn event_elapsed_ms(&mut self, start: Handle, end: Handle) -> Res<f32> {
        self.context()?;
        let pending = [start, end].map(|e| self.events.get(e).ok().and_then(Event::pending));
        let (start, end) = (self.events.get(start)?, self.events.get(end)?);
        require(
            start.has_timing && end.has_timing,
            Code::InvalidHandle,
            "an event was created with CU_EVENT_DISABLE_TIMING",
        )?;
        let states = (start.state.clone(), end.state.clone());
        self.ask_done(&Vec::from_iter(pending.into_iter().flatten()))?;
        match states {
            (EventState::Done(from), EventState::Done(to)) => {
                let (later, earlier) = (to.saturating_duration_since(from), from.saturating_duration_since(to));
                Ok((later.as_secs_f64() - earlier.as_secs_f64()) as f32 * 1e3)
            }
            (EventState::Captured(..), _) | (_, EventState::Captured(..)) => {
                refuse(Code::CapturedEvent, "an event was last recorded in a capture")
            }
            _ => refuse(Code::InvalidHandle, "an event was never recorded"),
        }
    }
}
