//! Work: what streams and graphs run.

use std::io::Write;
use std::sync::Arc;

use sim_exec::{FindingKind, Kernel, LaunchConfig, LaunchError};

use super::Driver;
use super::graph::Node;
use super::queue::{Task, TaskId};
use super::table::Handle;
use crate::code::{Code, Refusal, Res, refuse};
use crate::host::{HostCall, HostRange};

/// One piece of work.
#[derive(Clone, Debug)]
pub enum Work {
    Kernel(KernelWork),
    Copy(Copy),
    Fill(Fill),
    Free(Free),
    Host(HostCall),
    Empty,
    Graph(Vec<Node>),
    RecordEvent(Handle),
    WaitEvent(Handle),
}

/// A launch that was checked.
#[derive(Clone, Debug)]
pub struct KernelWork {
    pub function: Handle,
    pub kernel: Arc<Kernel>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared_bytes: u32,
    pub cooperative: bool,
    /// May start before the launch in front of it has ended (programmatic dependent launch).
    pub is_early: bool,
    /// Has a `griddepcontrol.launch_dependents`.
    pub launches_dependents: bool,
    /// Has a `griddepcontrol.wait`.
    pub waits_for_dependencies: bool,
    pub params: Vec<u8>,
}

/// Where a copy begins or ends.
#[derive(Clone, Debug)]
pub enum End {
    Device {
        device: usize,
        address: u64,
    },
    Host(HostRange),
    /// Bytes of pageable memory, taken when the copy was submitted.
    Staged(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub struct Copy {
    pub to: End,
    pub from: End,
    pub bytes: u64,
}

/// `height` rows of `width` elements, `pitch` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub address: u64,
    pub value: u32,
    pub element_bytes: u32,
    pub width: u64,
    pub height: u64,
    pub pitch: u64,
}

/// Memory that stream order frees.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    pub device: usize,
    pub address: u64,
    pub bytes: u64,
    /// The pool that it goes back to.
    pub pool: Option<Handle>,
}

/// The code that a checker's finding ends a launch with.
fn code_of(kind: FindingKind) -> Code {
    match kind {
        FindingKind::OutOfBounds | FindingKind::UseAfterFree => Code::IllegalAddress,
        FindingKind::Misaligned => Code::MisalignedAddress,
        FindingKind::Assert => Code::Assert,
        FindingKind::BadOperand => Code::IllegalInstruction,
        FindingKind::Deadlock | FindingKind::InstructionLimit => Code::LaunchTimeout,
        _ => Code::LaunchFailed,
    }
}

impl Driver {
    /// Runs a task to its end. What fails here fails on the device.
    pub fn run(&mut self, id: TaskId, task: &Task) -> Res {
        match &task.work {
            Work::Kernel(kernel) => self.run_kernel(task, kernel),
            Work::Copy(copy) => self.run_copy(copy),
            Work::Fill(fill) => self.run_fill(fill),
            Work::Free(free) => self.run_free(free),
            Work::RecordEvent(event) => {
                self.event_mark(*event, id);
                Ok(())
            }
            // Graphs were taken apart; waiting is the queue's affair; host functions are called outside the driver.
            Work::Empty | Work::WaitEvent(_) | Work::Graph(_) | Work::Host(_) => Ok(()),
        }
    }

    fn run_kernel(&mut self, task: &Task, work: &KernelWork) -> Res {
        let context = task.context;
        let grid_workspace = if work.cooperative { self.grid_workspace(context)? } else { 0 };
        let device = &self.devices[self.contexts.get(context)?.device];
        let config = LaunchConfig {
            grid: work.grid,
            block: work.block,
            cluster: work.cluster,
            dynamic_shared_bytes: work.dynamic_shared_bytes,
            cooperative: work.cooperative,
            params: &work.params,
            seed: self.settings.seed.wrapping_add(task.launch.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            grid_workspace,
        };
        match device.gpu.launch(&work.kernel, &config) {
            Ok(done) => {
                // Other languages' runtimes do not flush this buffer at the end.
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(done.output.as_bytes()).and_then(|()| stdout.flush());
                self.report.launch(work, &done);
                Ok(())
            }
            Err(LaunchError::Invalid(why)) => refuse(Code::InvalidValue, why),
            Err(LaunchError::Finding(finding)) => {
                eprintln!("simulated GPU: {finding}\n  (KILN_SIM_SEED={}, launch {})", self.settings.seed, task.launch);
                refuse(code_of(finding.kind), finding.to_string())
            }
        }
    }

    /// Zeroed device memory that grid barriers count in.
    fn grid_workspace(&mut self, context: Handle) -> Res<u64> {
        const BYTES: u64 = 4096;
        let entry = self.contexts.get(context)?;
        if let Some(address) = entry.grid_workspace {
            return Ok(address);
        }
        let memory = &self.devices[entry.device].gpu.memory;
        let lost = |e: sim_exec::memory::MemoryError| super::memory::memory_refusal(e);
        let address = memory.alloc(BYTES, "grid barrier").or_else(lost)?;
        memory.write(address, &[0; BYTES as usize]).or_else(super::memory::memory_refusal)?;
        self.contexts.get_mut(context)?.grid_workspace = Some(address);
        Ok(address)
    }

    fn run_copy(&mut self, copy: &Copy) -> Res {
        let memory = |device: usize| &self.devices[device].gpu.memory;
        let (direction, result) = match (&copy.to, &copy.from) {
            (&End::Device { device, address }, End::Staged(bytes)) => {
                ("host_to_device", memory(device).write(address, bytes))
            }
            (&End::Device { device, address }, End::Host(host)) => {
                ("host_to_device", host.read(|bytes| memory(device).write(address, bytes)))
            }
            (End::Host(host), &End::Device { device, address }) => {
                ("device_to_host", host.write(|bytes| memory(device).read(address, bytes)))
            }
            (&End::Device { device: to, address: target }, &End::Device { device: from, address: source })
                if to == from =>
            {
                ("device_to_device", memory(to).copy(target, source, copy.bytes))
            }
            (&End::Device { device: to, address: target }, &End::Device { device: from, address: source }) => {
                let mut bytes = vec![0; copy.bytes as usize];
                let read = memory(from).read(source, &mut bytes);
                ("peer_to_peer", read.and_then(|()| memory(to).write(target, &bytes)))
            }
            (End::Host(to), End::Host(from)) => {
                let bytes = from.read(<[u8]>::to_vec);
                to.write(|t| t.copy_from_slice(&bytes));
                ("host_to_host", Ok(()))
            }
            (End::Host(to), End::Staged(bytes)) => {
                to.write(|t| t.copy_from_slice(bytes));
                ("host_to_host", Ok(()))
            }
            (End::Staged(_), _) => unreachable!("staged bytes are only read"),
        };
        self.report.copy(direction, copy.bytes);
        result.or_else(gone)
    }

    /// Frees what [`Driver::free_async`] took out of the registry.
    pub fn run_free(&mut self, free: &Free) -> Res {
        if let Some(pool) = free.pool
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used_bytes -= free.bytes;
        }
        self.devices[free.device].gpu.memory.free(free.address).or_else(gone)
    }

    fn run_fill(&self, fill: &Fill) -> Res {
        let Ok(device) = self.device_of(fill.address, 1) else {
            return refuse(Code::IllegalAddress, format!("{:#x} was freed before the fill ran", fill.address));
        };
        let memory = &self.devices[device].gpu.memory;
        let pattern = &fill.value.to_le_bytes()[..fill.element_bytes as usize];
        (0..fill.height)
            .try_for_each(|row| memory.fill(fill.address + row * fill.pitch, pattern, fill.width))
            .or_else(gone)
    }
}

/// Addresses were checked when the work was submitted: what fails now was freed in between.
fn gone(error: sim_exec::memory::MemoryError) -> Res {
    Err(Refusal { code: Code::IllegalAddress, why: error.to_string() })
}
