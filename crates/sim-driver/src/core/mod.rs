//! The driver behind the C calls: safe code over one [`Driver`], which a lock guards.
//!
//! Work that is submitted waits in a [`queue::Queue`] and runs in an order that streams, events and graphs allow and the seed
//! chooses.

pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod fault;
pub mod graph;
pub mod images;
pub mod launch;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod pool;
pub mod queue;
pub mod report;
pub mod settings;
pub mod stream;
pub mod table;
pub mod tensor_map;
pub mod thread;
pub mod work;

use std::collections::BTreeMap;

use crate::code::{Code, Refusal, Res, refuse};
use capture::Capture;
use context::Context;
use device::Device;
use event::Event;
use fault::FaultPoint;
use graph::{Exec, Graph, NodeRef};
use memory::Range;
use module::{Function, Library, LibraryKernel, Module};
use pool::Pool;
use queue::{Queue, Waiting};
use report::Report;
use settings::Settings;
use stream::Stream;
use table::Table;

/// Everything that exists.
#[derive(Debug)]
pub struct Driver {
    pub settings: Settings,
    pub devices: Vec<Device>,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub libraries: Table<Library>,
    pub library_kernels: Table<LibraryKernel>,
    pub graphs: Table<Graph>,
    pub nodes: Table<NodeRef>,
    pub execs: Table<Exec>,
    pub pools: Table<Pool>,
    pub captures: BTreeMap<u64, Capture>,
    /// Everything that a device address may be, by first address.
    pub memory: BTreeMap<u64, Range>,
    pub report: Report,
    pub queue: Queue,
    /// What the current call waits for before it returns.
    pub waiting: Option<Waiting>,
    pub launches: u64,
    pub next_capture: u64,
}

impl Driver {
    pub fn new(settings: Settings) -> Self {
        let mut contexts = Table::new("context", 1, Code::InvalidContext);
        let mut pools = Table::new("memory pool", 11, Code::InvalidValue);
        let device = |ordinal| {
            let pool = pools.insert(Pool::new(ordinal, true));
            Device::new(ordinal, &settings, contexts.reserve(), pool)
        };
        let devices: Vec<Device> = (0..settings.device_count).map(device).collect();
        let mut report = Report::new(settings.report.as_deref(), settings.report_lines);
        devices.iter().for_each(|device| report.device(&device.limits));
        Driver {
            report,
            queue: Queue::new(settings.seed),
            waiting: None,
            settings,
            devices,
            contexts,
            streams: Table::new("stream", 2, Code::InvalidHandle),
            events: Table::new("event", 3, Code::InvalidHandle),
            modules: Table::new("module", 4, Code::InvalidHandle),
            functions: Table::new("function", 5, Code::InvalidHandle),
            libraries: Table::new("library", 6, Code::InvalidHandle),
            library_kernels: Table::new("library kernel", 7, Code::InvalidHandle),
            graphs: Table::new("graph", 8, Code::InvalidValue),
            nodes: Table::new("graph node", 9, Code::InvalidValue),
            execs: Table::new("executable graph", 10, Code::InvalidValue),
            pools,
            captures: BTreeMap::new(),
            memory: BTreeMap::new(),
            launches: 0,
            next_capture: 1,
        }
    }

    /// The device of an ordinal.
    pub fn device(&self, ordinal: i32) -> Res<&Device> {
        let device = usize::try_from(ordinal).ok().and_then(|o| self.devices.get(o));
        device.map_or_else(|| refuse(Code::InvalidDevice, format!("no device {ordinal}")), Ok)
    }

    pub fn device_mut(&mut self, ordinal: i32) -> Res<&mut Device> {
        let device = usize::try_from(ordinal).ok().and_then(|o| self.devices.get_mut(o));
        device.map_or_else(|| refuse(Code::InvalidDevice, format!("no device {ordinal}")), Ok)
    }

    /// Counts a call of a kind that can be made to fail, and fails it if it is its turn.
    pub fn fault(&mut self, point: FaultPoint) -> Res {
        if !self.settings.faults.strikes(point) {
            return Ok(());
        }
        let code = match point {
            FaultPoint::Alloc => Code::OutOfMemory,
            FaultPoint::Copy => Code::OperatingSystem,
            FaultPoint::Launch => Code::IllegalAddress,
            FaultPoint::Sync => Code::LaunchFailed,
        };
        let refusal = Refusal { code, why: "a fault on request (KILN_SIM_FAULT)".into() };
        if matches!(point, FaultPoint::Launch | FaultPoint::Sync) {
            let context = self.context()?;
            self.poison(context, &refusal);
        }
        Err(refusal)
    }
}
