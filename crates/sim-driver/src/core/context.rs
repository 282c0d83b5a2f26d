//! Contexts: created, primary, current, lost.

use std::collections::BTreeMap;
use std::thread::ThreadId;

use super::Driver;
use super::stream::{Stream, StreamKind};
use super::table::Handle;
use super::thread;
use crate::code::{Code, Refusal, Res, refuse, require};

/// `CU_CTX_SCHED_*`, map host, local memory resize, coredumps and sync memops.
const FLAGS_ALL: u32 = 0x3f | 0x40 | 0x80;

/// One context.
#[derive(Debug)]
pub struct Context {
    pub device: usize,
    pub flags: u32,
    pub is_primary: bool,
    /// The error that the context was lost to: every call but those that destroy returns it.
    pub poison: Option<Refusal>,
    pub cache_config: u32,
    pub shared_config: u32,
    pub limits: BTreeMap<i32, usize>,
    pub legacy_stream: Handle,
    pub thread_streams: BTreeMap<ThreadKey, Handle>,
    /// Device memory for grid barriers of cooperative launches.
    pub grid_workspace: Option<u64>,
}

/// A thread, in an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadKey(String);

impl ThreadKey {
    pub fn here() -> Self {
        let id: ThreadId = std::thread::current().id();
        ThreadKey(format!("{id:?}"))
    }
}

/// `CU_LIMIT_*`: stack, printf, heap, launch depth and count, L2 fetch, persisting L2.
fn default_limits() -> BTreeMap<i32, usize> {
    BTreeMap::from([(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)])
}

impl Driver {
    /// The current context, usable.
    pub fn context(&self) -> Res<Handle> {
        let Some(handle) = thread::current() else {
            return refuse(Code::InvalidContext, "this thread has no current context");
        };
        let Ok(context) = self.contexts.get(handle) else {
            return refuse(Code::ContextIsDestroyed, "the current context was destroyed");
        };
        match &context.poison {
            Some(refusal) => refuse(refusal.code, format!("the context was lost earlier: {}", refusal.why)),
            None => Ok(handle),
        }
    }

    /// The current context itself.
    pub fn current(&self) -> Res<&Context> {
        self.contexts.get(self.context()?)
    }

    pub fn current_mut(&mut self) -> Res<&mut Context> {
        let handle = self.context()?;
        self.contexts.get_mut(handle)
    }

    /// Marks a context as lost.
    pub fn poison(&mut self, context: Handle, refusal: &Refusal) {
        if let Ok(entry) = self.contexts.get_mut(context) {
            entry.poison.get_or_insert_with(|| refusal.clone());
            self.drop_tasks(context);
        }
    }

    pub fn context_create(&mut self, flags: u32, ordinal: i32) -> Res<Handle> {
        let device = self.device(ordinal)?.ordinal;
        require(flags & !FLAGS_ALL == 0, Code::InvalidValue, format!("context flags {flags:#x}"))?;
        let handle = self.contexts.reserve();
        self.context_insert(handle, device, flags, false);
        thread::push(handle);
        Ok(handle)
    }

    fn context_insert(&mut self, handle: Handle, device: usize, flags: u32, is_primary: bool) {
        let legacy_stream = self.streams.insert(Stream::new(handle, StreamKind::Legacy, 0));
        let context = Context {
            device,
            flags,
            is_primary,
            poison: None,
            cache_config: 0,
            shared_config: 0,
            limits: default_limits(),
            legacy_stream,
            thread_streams: BTreeMap::new(),
            grid_workspace: None,
        };
        self.contexts.insert_at(handle, context);
    }

    pub fn context_destroy(&mut self, handle: Handle) -> Res {
        require(
            !self.contexts.get(handle)?.is_primary,
            Code::InvalidContext,
            "a primary context is released, not destroyed",
        )?;
        if thread::current() == Some(handle) {
            thread::pop();
        }
        self.tear_down_when_idle(handle);
        Ok(())
    }

    fn tear_down_when_idle(&mut self, handle: Handle) {
        self.wait_and(self.queue.of(|c| c == handle), Driver::context_tear_down, handle);
    }

    /// Frees all that belongs to a context.
    fn context_tear_down(&mut self, handle: Handle) -> Res {
        let context = self.contexts.remove(handle)?;
        let memory = &self.devices[context.device].gpu.memory;
        if let Some(workspace) = context.grid_workspace {
            // Only the driver knows this address.
            let _ = memory.free(workspace);
        }
        self.captures.retain(|_, c| c.context != handle);
        self.streams.retain(|_, s| s.context != handle);
        self.events.retain(|_, e| e.context != handle);
        self.execs.retain(|_, e| e.context != handle);
        let modules: Vec<Handle> = self.modules.iter().filter(|(_, m)| m.context == handle).map(|(h, _)| h).collect();
        for module in modules {
            self.module_remove(module)?;
        }
        self.libraries.iter_mut().for_each(|(_, l)| l.forget(handle));
        let live = |is_host: bool| {
            let own = self.memory.values().filter(|r| r.context == handle && r.is_host() == is_host);
            own.filter(|range| range.is_allocated()).map(|range| range.bytes).sum()
        };
        let (device_bytes, host_bytes) = (live(false), live(true));
        self.report.context_end(device_bytes, host_bytes);
        let owned: Vec<u64> = self.memory.iter().filter(|(_, r)| r.context == handle).map(|(&a, _)| a).collect();
        owned.into_iter().try_for_each(|address| self.range_remove(address))
    }

    pub fn primary_retain(&mut self, ordinal: i32) -> Res<Handle> {
        let device = self.device_mut(ordinal)?;
        device.primary_retained += 1;
        let (handle, index, flags) = (device.primary, device.ordinal, device.primary_flags);
        if !self.contexts.contains(handle) {
            self.context_insert(handle, index, flags, true);
        }
        Ok(handle)
    }

    pub fn primary_release(&mut self, ordinal: i32) -> Res {
        let device = self.device_mut(ordinal)?;
        require(device.primary_retained > 0, Code::InvalidContext, "the primary context was not retained")?;
        device.primary_retained -= 1;
        let (handle, left) = (device.primary, device.primary_retained);
        if left == 0 {
            self.tear_down_when_idle(handle);
        }
        Ok(())
    }

    /// Frees all that belongs to the primary context; those who retained it get a fresh one.
    pub fn primary_reset(&mut self, ordinal: i32) -> Res {
        let primary = self.device(ordinal)?.primary;
        if self.contexts.contains(primary) {
            self.wait_and(self.queue.of(|c| c == primary), Driver::primary_renew, ordinal as u64);
        }
        Ok(())
    }

    fn primary_renew(&mut self, ordinal: u64) -> Res {
        let device = &self.devices[ordinal as usize];
        let (handle, flags, retained) = (device.primary, device.primary_flags, device.primary_retained);
        self.context_tear_down(handle)?;
        if retained > 0 {
            self.context_insert(handle, ordinal as usize, flags, true);
        }
        Ok(())
    }

    pub fn primary_set_flags(&mut self, ordinal: i32, flags: u32) -> Res {
        require(flags & !FLAGS_ALL == 0, Code::InvalidValue, format!("context flags {flags:#x}"))?;
        let device = self.device_mut(ordinal)?;
        device.primary_flags = flags;
        let handle = device.primary;
        if let Ok(context) = self.contexts.get_mut(handle) {
            context.flags = flags;
        }
        Ok(())
    }

    /// Flags of a device's primary context, and whether it is active.
    pub fn primary_state(&self, ordinal: i32) -> Res<(u32, bool)> {
        let device = self.device(ordinal)?;
        Ok((device.primary_flags, self.contexts.contains(device.primary)))
    }

    pub fn set_current(&mut self, handle: Handle) -> Res {
        if handle != 0 {
            self.contexts.get(handle)?;
        }
        thread::set_current((handle != 0).then_some(handle));
        Ok(())
    }

    pub fn push_current(&mut self, handle: Handle) -> Res {
        self.contexts.get(handle)?;
        thread::push(handle);
        Ok(())
    }

    pub fn pop_current(&mut self) -> Res<Handle> {
        thread::pop().map_or_else(|| refuse(Code::InvalidContext, "the stack of contexts is empty"), Ok)
    }

    pub fn limit(&self, limit: i32) -> Res<usize> {
        match self.current()?.limits.get(&limit) {
            Some(&value) => Ok(value),
            None => refuse(Code::UnsupportedLimit, format!("limit {limit}")),
        }
    }

    pub fn set_limit(&mut self, limit: i32, value: usize) -> Res {
        require((0..=10).contains(&limit), Code::InvalidValue, format!("limit {limit}"))?;
        let too_high = limit == 0 && value > 512 << 10 || limit == 5 && value > 128;
        require(!too_high, Code::InvalidValue, format!("{value} for limit {limit}"))?;
        match self.current_mut()?.limits.get_mut(&limit) {
            Some(entry) => *entry = value,
            None => return refuse(Code::UnsupportedLimit, format!("limit {limit}")),
        }
        Ok(())
    }

    pub fn set_context_flags(&mut self, flags: u32) -> Res {
        require(flags & !FLAGS_ALL == 0, Code::InvalidValue, format!("context flags {flags:#x}"))?;
        self.current_mut()?.flags = flags;
        Ok(())
    }

    /// There is no tool to switch: the report says when one would have been.
    pub fn profiler(&mut self, is_on: bool) -> Res {
        self.context()?;
        self.report.profiler(is_on);
        Ok(())
    }

    pub fn set_cache_config(&mut self, config: u32) -> Res {
        require(config <= 3, Code::InvalidValue, format!("cache configuration {config}"))?;
        self.current_mut()?.cache_config = config;
        Ok(())
    }
}
