//! Work: what streams and graphs run.

use std::io::Write;
use std::sync::Arc;

use sim_exec::{FindingKind, Kernel, LaunchConfig, LaunchError};

use super::Driver;
use super::graph::Node;
use super::table::Handle;
use crate::code::{Code, Refusal, Res, refuse};
use crate::host::{HostCall, HostRange};

/// One piece of work.
#[derive(Clone, Debug)]
pub enum Work {
    Kernel(KernelWork),
    Copy(Copy),
    Fill(Fill),
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
    pub params: Vec<u8>,
}

/// Where a copy begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Device { device: usize, address: u64 },
    Host(HostRange),
}

#[derive(Clone, Copy, Debug)]
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
    /// Runs work to its end. What fails here fails on the device, so that the context is lost.
    pub fn run(&mut self, context: Handle, work: &Work) -> Res {
        let result = match work {
            Work::Kernel(kernel) => self.run_kernel(context, kernel),
            Work::Copy(copy) => self.run_copy(copy),
            Work::Fill(fill) => self.run_fill(fill),
            Work::Host(call) => {
                call.run();
                Ok(())
            }
            Work::Empty | Work::WaitEvent(_) => Ok(()),
            Work::Graph(nodes) => return self.run_graph(context, nodes),
            Work::RecordEvent(event) => self.event_mark(*event),
        };
        if let Err(refusal) = &result {
            self.poison(context, refusal);
        }
        result
    }

    fn run_kernel(&mut self, context: Handle, work: &KernelWork) -> Res {
        self.functions.get(work.function)?;
        let grid_workspace = if work.cooperative { self.grid_workspace(context)? } else { 0 };
        let device = &self.devices[self.contexts.get(context)?.device];
        self.launches += 1;
        let config = LaunchConfig {
            grid: work.grid,
            block: work.block,
            cluster: work.cluster,
            dynamic_shared_bytes: work.dynamic_shared_bytes,
            cooperative: work.cooperative,
            params: &work.params,
            seed: self.settings.seed.wrapping_add(self.launches.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
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
                eprintln!(
                    "simulated GPU: {finding}\n  (KILN_SIM_SEED={}, launch {})",
                    self.settings.seed, self.launches
                );
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
        let (direction, result) = match (copy.to, copy.from) {
            (End::Device { device, address }, End::Host(host)) => {
                ("host_to_device", host.read(|bytes| memory(device).write(address, bytes)))
            }
            (End::Host(host), End::Device { device, address }) => {
                ("device_to_host", host.write(|bytes| memory(device).read(address, bytes)))
            }
            (End::Device { device: to, address: target }, End::Device { device: from, address: source })
                if to == from =>
            {
                ("device_to_device", memory(to).copy(target, source, copy.bytes))
            }
            (End::Device { device: to, address: target }, End::Device { device: from, address: source }) => {
                let mut bytes = vec![0; copy.bytes as usize];
                let read = memory(from).read(source, &mut bytes);
                ("peer_to_peer", read.and_then(|()| memory(to).write(target, &bytes)))
            }
            (End::Host(to), End::Host(from)) => {
                let bytes = from.read(<[u8]>::to_vec);
                (
                    "host_to_host",
                    to.write(|t| {
                        t.copy_from_slice(&bytes);
                        Ok(())
                    }),
                )
            }
        };
        self.report.copy(direction, copy.bytes);
        result.or_else(gone)
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
