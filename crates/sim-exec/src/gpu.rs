//! The public face: a device, modules loaded on it, and launches.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counters::{Counters, Tally};
use crate::finding::Finding;
use crate::memory::{DeviceMemory, MemoryError};
use crate::program::Program;
use crate::report::LineCounters;

/// Which checkers run. Bounds and alignment are always checked: a simulator without them would corrupt itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nothing wrote.
    pub uninitialised: bool,
    /// Shared- and global-memory races, missing waits and proxy fences.
    pub races: bool,
}

impl Checks {
    /// Every checker.
    pub const ALL: Checks = Checks { uninitialised: true, races: true };
    /// Only what is needed to run.
    pub const NONE: Checks = Checks { uninitialised: false, races: false };
}

/// How approximate and order-dependent arithmetic is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// Perturb approximate instructions inside their documented error, as this seed says: like a device of hardware, one device gives
    /// one result for one operand, in every launch.
    pub perturb: Option<u64>,
    /// mma aligns its products to the largest and truncates, as tensor cores have been observed to do.
    pub mma_truncates: bool,
}

/// A device.
#[derive(Clone, Debug)]
pub struct GpuConfig {
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    pub sm_count: u32,
    pub vram_bytes: u64,
    /// Threads of the host that run CTAs.
    pub workers: usize,
    pub checks: Checks,
    pub arithmetic: Arithmetic,
    /// Warp instructions after which a launch counts as hung.
    pub instructions_max: u64,
}

impl Default for GpuConfig {
    fn default() -> Self {
        GpuConfig {
            compute_capability: (9, 0),
            sm_count: 132,
            vram_bytes: 16 << 30,
            workers: std::thread::available_parallelism().map_or(1, |n| n.get()),
            checks: Checks::ALL,
            arithmetic: Arithmetic::default(),
            instructions_max: 20_000_000_000,
        }
    }
}

/// The simulated GPU.
#[derive(Debug)]
pub struct Gpu {
    pub config: GpuConfig,
    pub memory: DeviceMemory,
}

impl Gpu {
    pub fn new(config: GpuConfig) -> Self {
        Gpu { memory: DeviceMemory::new(config.vram_bytes), config }
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// `Invalid` for a configuration that a driver would refuse, `Finding` for the first rule that the kernel broke.
    pub fn launch(&self, kernel: &Kernel, launch: &LaunchConfig<'_>) -> Result<LaunchReport, LaunchError> {
        crate::exec::launch(self, kernel, launch)
    }
}

/// Why a module could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Parse(String),
    /// The file is the module's name.
    #[error("{file}:{line}: {message}")]
    Unsupported { file: String, line: u32, message: String },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A module: its kernels by name, and its global variables in device memory.
#[derive(Debug)]
pub struct LoadedModule {
    pub kernels: BTreeMap<String, Kernel>,
    /// Address and length in bytes of every `.global` and `.const` variable.
    pub globals: BTreeMap<String, (u64, u64)>,
}

impl LoadedModule {
    /// Parses and lowers PTX text; `file` names it in messages.
    ///
    /// # Errors
    /// With file and line: text that does not parse, and instructions that the simulator does not know.
    pub fn load(gpu: &Gpu, ptx: &str, file: &str) -> Result<Self, LoadError> {
        crate::lower::load(gpu, ptx, file)
    }

    /// Frees the module's variables.
    ///
    /// # Errors
    /// When one of them was already freed through the memory API.
    pub fn unload(self, gpu: &Gpu) -> Result<(), MemoryError> {
        self.globals.values().try_for_each(|(address, _)| gpu.memory.free(*address))
    }
}

/// One kernel parameter in the parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamSlot {
    pub offset: u32,
    pub bytes: u32,
}

/// Performance directives between an entry's parameters and its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `.reqntid`: the only block that may be launched.
    pub block_required: Option<[u32; 3]>,
    /// Threads of a CTA by `.maxntid` or `.reqntid`.
    pub threads_max: Option<u32>,
    /// `.maxnreg`.
    pub registers_max: Option<u32>,
    /// `.minnctapersm`.
    pub blocks_per_sm_min: Option<u32>,
}

/// A kernel, lowered, with the facts that a driver reports about it.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<ParamSlot>,
    pub param_bytes: u32,
    pub static_shared_bytes: u32,
    pub local_bytes: u32,
    /// An estimate: the largest number of live 32-bit registers, plus a few for addresses.
    pub registers: u32,
    /// What its performance directives say.
    pub directives: Directives,
    /// `.reqnctapercluster`, if given.
    pub cluster: Option<[u32; 3]>,
    pub(crate) program: Arc<Program>,
}

impl Kernel {
    /// `.maxntid` or `.reqntid` multiplied out, else 1024.
    pub fn threads_max(&self) -> u32 {
        self.directives.threads_max.unwrap_or(1024)
    }

    /// Whether `griddepcontrol.launch_dependents` is in its body or in what it calls.
    pub fn launches_dependents(&self) -> bool {
        self.program.launches_dependents
    }

    /// Whether `griddepcontrol.wait` is in its body or in what it calls.
    pub fn waits_for_dependencies(&self) -> bool {
        self.program.waits_for_dependencies
    }
}

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig<'a> {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// CTAs per cluster; `[1, 1, 1]` for none.
    pub cluster: [u32; 3],
    pub dynamic_shared_bytes: u32,
    /// All CTAs are resident at once and may wait for each other.
    pub cooperative: bool,
    /// The parameter buffer, `Kernel::param_bytes` long.
    pub params: &'a [u8],
    /// Chooses the schedule of warps and CTAs.
    pub seed: u64,
    /// Value of `%envreg1` (high half) and `%envreg2` (low half): cooperative groups' grid workspace.
    pub grid_workspace: u64,
}

impl Default for LaunchConfig<'_> {
    fn default() -> Self {
        LaunchConfig {
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            dynamic_shared_bytes: 0,
            cooperative: false,
            params: &[],
            seed: 0,
            grid_workspace: 0,
        }
    }
}

/// What a launch that ended well leaves.
#[derive(Clone, Debug, Default)]
pub struct LaunchReport {
    pub counters: Counters,
    /// What the kernel printed.
    pub output: String,
    pub(crate) tally: Tally,
}

impl LaunchReport {
    /// Counters by line of the PTX text. Bytes of DRAM belong to a launch as a whole, and are 0 here.
    pub fn by_ptx_line(&self, kernel: &Kernel) -> Vec<LineCounters> {
        let lines = self.tally.group(&kernel.program, |pc| Some(kernel.program.places[pc].ptx_line));
        lines.into_iter().map(|(line, counters)| LineCounters { file: None, line, counters }).collect()
    }

    /// Counters by line of the CUDA source, for instructions that have one.
    pub fn by_source_line(&self, kernel: &Kernel) -> Vec<LineCounters> {
        let lines = self.tally.group(&kernel.program, |pc| kernel.program.places[pc].source.clone());
        lines.into_iter().map(|((file, line), counters)| LineCounters { file: Some(file), line, counters }).collect()
    }
}

/// Why a launch did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The subject, and what was expected and found.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Finding(Box<Finding>),
}
