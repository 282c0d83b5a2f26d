//! A simulated GPU with one module loaded, typed buffers and launches by kernel name.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::path::Path;

use bytemuck::Pod;
use sim_exec::{
    Arithmetic, Checks, Finding, Gpu, GpuConfig, Kernel, LaunchConfig, LaunchError, LaunchReport, LoadedModule,
    ParamSlot,
};

use crate::case::{Case, DeviceCode};
use crate::toolchain::Toolchain;

/// Schedules that every case runs under.
pub const SEEDS: u64 = 20;

/// Compiles the CUDA case `name` and runs `body` on it under [`SEEDS`] schedules, with all checks on.
///
/// # Panics
/// With the remedy if the toolchain is missing, and if the code does not compile, load, or contain what the case exercises.
pub fn conform(name: &str, body: impl FnMut(&Sim)) {
    let case = Case::named(name);
    let DeviceCode::Cuda { file, arch } = case.code else { panic!("{name} is not a CUDA case") };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file);
    let ptx = Toolchain::find().and_then(|t| t.compile(&source, arch, &[]));
    conform_ptx(case, &ptx.unwrap_or_else(|e| panic!("{name}: {e}")), body);
}

/// Runs `body` under [`SEEDS`] schedules with `ptx` loaded. Odd seeds perturb approximate instructions, every second pair of
/// seeds rounds matrix products as tensor cores do, and the CTAs run on one and on two host threads: results and checks must
/// hold in every combination.
///
/// # Panics
/// If the PTX does not load, or lacks an instruction that the case exercises.
pub fn conform_ptx(case: &Case, ptx: &str, mut body: impl FnMut(&Sim)) {
    assert_survives_printing(case.name, ptx);
    let config = GpuConfig { checks: Checks::ALL, instructions_max: 30_000_000, ..GpuConfig::default() };
    let gpu = Gpu::new(config);
    let module = LoadedModule::load(&gpu, ptx, case.name).unwrap_or_else(|e| panic!("{e}"));
    let mut sim = Sim { gpu, module, seed: 0, launched: RefCell::default() };
    for seed in 0..SEEDS {
        sim.seed = seed;
        sim.gpu.config.arithmetic =
            Arithmetic { perturb: (seed % 2 == 1).then_some(seed), mma_truncates: seed % 4 >= 2 };
        sim.gpu.config.workers = if seed % 3 == 0 { 1 } else { 2 };
        body(&sim);
    }
    case.assert_exercises(ptx, sim.launched.borrow().iter());
}

/// Asserts that PTX is read, printed and read again to the same tree. Returns the printed text.
///
/// # Panics
/// If it is not, or does not survive.
pub fn assert_survives_printing(name: &str, ptx: &str) -> String {
    let read = |what: &str, text: &str| match sim_ptx::read(text) {
        Ok(module) => module,
        Err((line, message)) => panic!("{name}, {what}:{line}: {message}"),
    };
    let tree = read("compiled", ptx);
    let printed = tree.to_string();
    let again = read("printed", &printed);
    assert!(tree.without_lines() == again.without_lines(), "{name}: the tree changed\n{printed}");
    printed
}

/// Asserts that two lists are equal, and says where they first differ.
///
/// # Panics
/// If they are not.
#[track_caller]
pub fn assert_same<T: PartialEq + std::fmt::Debug>(got: &[T], expected: &[T]) {
    assert_eq!(got.len(), expected.len(), "number of values");
    if let Some(at) = (0..got.len()).find(|&i| got[i] != expected[i]) {
        let different = (at..got.len()).filter(|&i| got[i] != expected[i]).count();
        panic!("element {at} is {:?}, expected {:?}; {different} of {} differ", got[at], expected[at], got.len());
    }
}

/// A device with a module, and the schedule that its launches follow.
#[derive(Debug)]
pub struct Sim {
    pub gpu: Gpu,
    pub module: LoadedModule,
    /// Chooses the schedule; also a seed for inputs that should differ from run to run.
    pub seed: u64,
    /// Names of the kernels that ran.
    launched: RefCell<BTreeSet<String>>,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared_bytes: u32,
    cooperative: bool,
}

impl Launch {
    /// `ctas` CTAs of `threads` threads in one dimension.
    pub fn new(ctas: u32, threads: u32) -> Self {
        Launch::shaped([ctas, 1, 1], [threads, 1, 1])
    }

    pub fn shaped(grid: [u32; 3], block: [u32; 3]) -> Self {
        Launch { grid, block, cluster: [1; 3], shared_bytes: 0, cooperative: false }
    }

    /// With dynamic shared memory.
    pub fn shared(self, shared_bytes: u32) -> Self {
        Launch { shared_bytes, ..self }
    }

    /// In clusters of `ctas` CTAs.
    pub fn cluster(self, ctas: u32) -> Self {
        Launch { cluster: [ctas, 1, 1], ..self }
    }

    /// With all CTAs resident, so that they may wait for each other.
    pub fn cooperative(self) -> Self {
        Launch { cooperative: true, ..self }
    }
}

/// Device memory for `count` values of `T`. Freed with its [`Sim`].
#[derive(Debug)]
pub struct Buffer<T> {
    pub address: u64,
    pub count: usize,
    values: PhantomData<T>,
}

/// A kernel argument: a number, a `#[repr(C)]` struct, the words of a tensor map or a [`Buffer`], whose address is passed.
pub trait Argument {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Pod> Argument for T {
    fn bytes(&self) -> Vec<u8> {
        bytemuck::bytes_of(self).to_vec()
    }
}

impl<T> Argument for Buffer<T> {
    fn bytes(&self) -> Vec<u8> {
        self.address.to_le_bytes().to_vec()
    }
}

impl Sim {
    /// Device memory that holds `values`.
    pub fn buffer<T: Pod>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.room(values.len());
        self.write(&buffer, values);
        buffer
    }

    /// Device memory for `count` values that nothing has written yet: a read before a write is a finding.
    pub fn room<T: Pod>(&self, count: usize) -> Buffer<T> {
        let bytes = (count * size_of::<T>()) as u64;
        let address = self.gpu.memory.alloc(bytes, "buffer").unwrap_or_else(|e| panic!("{e}"));
        Buffer { address, count, values: PhantomData }
    }

    pub fn write<T: Pod>(&self, buffer: &Buffer<T>, values: &[T]) {
        assert!(values.len() <= buffer.count, "{} values for {}", values.len(), buffer.count);
        self.gpu.memory.write(buffer.address, bytemuck::cast_slice(values)).unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn read<T: Pod>(&self, buffer: &Buffer<T>) -> Vec<T> {
        let mut values = vec![T::zeroed(); buffer.count];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.gpu.memory.read(buffer.address, bytes).unwrap_or_else(|e| panic!("{e}"));
        values
    }

    /// Runs a kernel, named as in the source, by its mangled name or by a part of that which no other kernel has.
    ///
    /// # Panics
    /// On any finding, and on arguments that do not fit the kernel's parameters.
    pub fn launch(&self, kernel: &str, launch: Launch, arguments: &[&dyn Argument]) -> LaunchReport {
        self.try_launch(kernel, launch, arguments).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed))
    }

    /// Runs a kernel that must end with a finding, and returns that.
    ///
    /// # Panics
    /// If it ends well.
    pub fn launch_to_finding(&self, kernel: &str, launch: Launch, arguments: &[&dyn Argument]) -> Finding {
        match self.try_launch(kernel, launch, arguments) {
            Err(LaunchError::Finding(finding)) => *finding,
            other => panic!("seed {}: expected a finding, got {other:?}", self.seed),
        }
    }

    fn try_launch(&self, name: &str, launch: Launch, arguments: &[&dyn Argument]) -> Result<LaunchReport, LaunchError> {
        let kernel = self.kernel(name);
        self.launched.borrow_mut().insert(kernel.name.clone());
        let workspace = launch.cooperative.then(|| self.buffer(&[0u32; 16]));
        let params = pack(&kernel.name, &kernel.params, kernel.param_bytes, arguments);
        self.gpu.launch(
            kernel,
            &LaunchConfig {
                grid: launch.grid,
                block: launch.block,
                cluster: launch.cluster,
                dynamic_shared_bytes: launch.shared_bytes,
                cooperative: launch.cooperative,
                params: &params,
                seed: self.seed,
                grid_workspace: workspace.map_or(0, |w| w.address),
            },
        )
    }

    fn kernel(&self, name: &str) -> &Kernel {
        if let Some(kernel) = self.module.kernels.get(name) {
            return kernel;
        }
        let names = || self.module.kernels.keys();
        let found: Vec<&String> = names().filter(|n| n.contains(name)).collect();
        let [one] = found.as_slice() else {
            panic!("{} kernels of {:?} are called {name}", found.len(), names().collect::<Vec<_>>());
        };
        &self.module.kernels[*one]
    }
}

/// The parameter buffer of a launch.
fn pack(kernel: &str, slots: &[ParamSlot], param_bytes: u32, arguments: &[&dyn Argument]) -> Vec<u8> {
    assert_eq!(slots.len(), arguments.len(), "number of arguments of {kernel}");
    let mut params = vec![0; param_bytes as usize];
    for (i, (slot, argument)) in slots.iter().zip(arguments).enumerate() {
        let bytes = argument.bytes();
        assert_eq!(bytes.len(), slot.bytes as usize, "bytes of argument {i} of {kernel}");
        params[slot.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    params
}
