//! Modules, their functions and variables; libraries, which are modules for whichever context asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use sim_exec::{Kernel, LoadError, LoadedModule};
use sim_fatbin::Target;

use super::Driver;
use super::device::{REGISTERS_PER_SM, SHARED_BYTES_DEFAULT, THREADS_PER_BLOCK_MAX};
use super::memory::{Range, RangeKind};
use super::table::Handle;
use crate::code::{Code, Res, refuse, require};

/// Registers that a thread can have: the others spill.
const REGISTERS_PER_THREAD_MAX: u32 = 255;

/// The newest PTX ISA whose text is read, times ten: that of the CUDA 13 releases.
const PTX_VERSION_MAX: u32 = 99;

/// A module in a context.
#[derive(Debug)]
pub struct Module {
    pub context: Handle,
    device: usize,
    /// Times ten.
    ptx_version: u32,
    loaded: LoadedModule,
    functions: BTreeMap<String, Handle>,
}

/// A kernel of a module.
#[derive(Debug)]
pub struct Function {
    pub context: Handle,
    pub module: Handle,
    pub kernel: Arc<Kernel>,
    /// Per thread.
    pub registers: u32,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub dynamic_shared_bytes_max: u32,
    pub allows_large_clusters: bool,
    pub carveout: i32,
    pub cluster_policy: i32,
    pub ptx_version: u32,
}

impl Function {
    /// Threads per CTA that its registers and directives allow.
    pub fn threads_max(&self) -> u32 {
        let registers_per_warp = (self.registers * 32).next_multiple_of(256);
        let by_registers = REGISTERS_PER_SM / registers_per_warp / 4 * 4 * 32;
        by_registers.min(self.kernel.threads_max()).min(THREADS_PER_BLOCK_MAX)
    }
}

/// PTX that is loaded into each context which asks for it.
#[derive(Debug)]
pub struct Library {
    ptx: Arc<str>,
    /// By context.
    modules: BTreeMap<Handle, Handle>,
    kernels: BTreeMap<String, Handle>,
}

impl Library {
    /// The context and its modules are gone.
    pub fn forget(&mut self, context: Handle) {
        self.modules.remove(&context);
    }
}

/// `CUkernel`.
#[derive(Debug)]
pub struct LibraryKernel {
    pub library: Handle,
    pub name: String,
}

impl Driver {
    pub fn module_load(&mut self, ptx: &str) -> Res<Handle> {
        let context = self.context()?;
        self.refuse_unsafe_call()?;
        let device = self.contexts.get(context)?.device;
        let (major, minor) = self.devices[device].limits.compute_capability;
        let target = Target::of_ptx(ptx).or_else(|e| refuse(Code::InvalidPtx, e.to_string()))?;
        require(
            target.runs_on(major, minor),
            Code::InvalidPtx,
            format!("PTX for {target} does not run on compute capability {major}.{minor}"),
        )?;
        let version = ptx_version(ptx);
        require(
            version <= PTX_VERSION_MAX,
            Code::UnsupportedPtxVersion,
            format!("PTX version {}.{}", version / 10, version % 10),
        )?;
        let loaded = match LoadedModule::load(&self.devices[device].gpu, ptx, "module.ptx") {
            Ok(loaded) => loaded,
            Err(LoadError::Memory(error)) => return refuse(Code::OutOfMemory, error.to_string()),
            Err(error) => {
                eprintln!("simulated GPU: {error}");
                return refuse(Code::InvalidPtx, error.to_string());
            }
        };
        for &(address, bytes) in loaded.globals.values() {
            let range = Range { bytes, kind: RangeKind::Global, context, device, flags: 0, mapped_at: address };
            self.memory.insert(address, range);
        }
        Ok(self.modules.insert(Module { context, device, ptx_version: version, loaded, functions: BTreeMap::new() }))
    }

    pub fn module_unload(&mut self, module: Handle) -> Res {
        let context = self.context()?;
        self.modules.get(module)?;
        self.refuse_unsafe_call()?;
        self.wait_and(self.queue.of(|c| c == context), Driver::module_remove, module);
        Ok(())
    }

    /// Frees a module and its functions.
    pub fn module_remove(&mut self, handle: Handle) -> Res {
        let module = self.modules.remove(handle)?;
        self.functions.retain(|_, f| f.module != handle);
        for (address, _) in module.loaded.globals.values() {
            self.memory.remove(address);
        }
        module.loaded.unload(&self.devices[module.device].gpu).or_else(super::memory::memory_refusal)
    }

    pub fn function(&mut self, module: Handle, name: &str) -> Res<Handle> {
        self.context()?;
        let entry = self.modules.get(module)?;
        if let Some(&function) = entry.functions.get(name) {
            return Ok(function);
        }
        let Some(kernel) = entry.loaded.kernels.get(name) else {
            let names: Vec<&str> = entry.loaded.kernels.keys().map(String::as_str).collect();
            return refuse(Code::NotFound, format!("no kernel {name}; the module has {}", names.join(", ")));
        };
        let function = Function {
            context: entry.context,
            module,
            registers: registers(kernel),
            dynamic_shared_bytes_max: SHARED_BYTES_DEFAULT.saturating_sub(kernel.static_shared_bytes),
            allows_large_clusters: false,
            carveout: -1,
            cluster_policy: 0,
            ptx_version: entry.ptx_version,
            kernel: Arc::new(kernel.clone()),
        };
        let handle = self.functions.insert(function);
        self.modules.get_mut(module)?.functions.insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// Address and length of a module's variable.
    pub fn global(&self, module: Handle, name: &str) -> Res<(u64, u64)> {
        self.context()?;
        match self.modules.get(module)?.loaded.globals.get(name) {
            Some(&global) => Ok(global),
            None => refuse(Code::NotFound, format!("no variable {name} in the module")),
        }
    }

    pub fn library_load(&mut self, ptx: &str) -> Res<Handle> {
        self.refuse_unsafe_call()?;
        let library = Library { ptx: ptx.into(), modules: BTreeMap::new(), kernels: BTreeMap::new() };
        let handle = self.libraries.insert(library);
        // Mistakes show at once where there is a context to show them.
        if self.context().is_ok()
            && let Err(refusal) = self.library_module(handle)
        {
            self.libraries.remove(handle)?;
            return Err(refusal);
        }
        Ok(handle)
    }

    pub fn library_unload(&mut self, handle: Handle) -> Res {
        self.libraries.get(handle)?;
        self.wait_and(self.queue.of(|_| true), Driver::library_remove, handle);
        Ok(())
    }

    fn library_remove(&mut self, handle: Handle) -> Res {
        let library = self.libraries.remove(handle)?;
        self.library_kernels.retain(|_, k| k.library != handle);
        library.modules.into_values().try_for_each(|m| self.module_remove(m))
    }

    /// The library's module in the current context.
    pub fn library_module(&mut self, handle: Handle) -> Res<Handle> {
        let context = self.context()?;
        let library = self.libraries.get(handle)?;
        if let Some(&module) = library.modules.get(&context) {
            return Ok(module);
        }
        let ptx = library.ptx.clone();
        let module = self.module_load(&ptx)?;
        self.libraries.get_mut(handle)?.modules.insert(context, module);
        Ok(module)
    }

    pub fn library_kernel(&mut self, library: Handle, name: &str) -> Res<Handle> {
        let module = self.library_module(library)?;
        self.function(module, name)?;
        if let Some(&kernel) = self.libraries.get(library)?.kernels.get(name) {
            return Ok(kernel);
        }
        let kernel = self.library_kernels.insert(LibraryKernel { library, name: name.to_owned() });
        self.libraries.get_mut(library)?.kernels.insert(name.to_owned(), kernel);
        Ok(kernel)
    }

    /// The function behind a `CUfunction`, or behind a `CUkernel` in the current context.
    pub fn resolve_function(&mut self, handle: Handle) -> Res<Handle> {
        self.context()?;
        if let Ok(LibraryKernel { library, name }) = self.library_kernels.get(handle) {
            let (library, name) = (*library, name.clone());
            let module = self.library_module(library)?;
            return self.function(module, &name);
        }
        self.functions.get(handle).map(|_| handle)
    }

    /// `CU_FUNC_ATTRIBUTE_*` by number.
    pub fn function_attribute(&mut self, handle: Handle, attribute: i32) -> Res<i32> {
        let handle = self.resolve_function(handle)?;
        let f = self.functions.get(handle)?;
        let cluster = |i: usize| f.kernel.cluster.map_or(0, |c| c[i]);
        Ok(match attribute {
            0 => f.threads_max() as i32,
            1 => f.kernel.static_shared_bytes as i32,
            // Constant memory is the module's here.
            2 => 0,
            3 => f.kernel.local_bytes as i32,
            4 => f.registers as i32,
            5 => f.ptx_version as i32,
            6 => {
                let device = self.contexts.get(f.context)?.device;
                let (major, minor) = self.devices[device].limits.compute_capability;
                (major * 10 + minor) as i32
            }
            // Cache mode.
            7 => 0,
            8 => f.dynamic_shared_bytes_max as i32,
            9 => f.carveout,
            10 => f.kernel.cluster.is_some().into(),
            11..=13 => cluster(attribute as usize - 11) as i32,
            14 => f.allows_large_clusters.into(),
            15 => f.cluster_policy,
            _ => return refuse(Code::InvalidValue, format!("{attribute} is no function attribute")),
        })
    }

    pub fn function_set_attribute(&mut self, handle: Handle, attribute: i32, value: i32) -> Res {
        let handle = self.resolve_function(handle)?;
        let context = self.functions.get(handle)?.context;
        let limits = self.devices[self.contexts.get(context)?.device].limits;
        let f = self.functions.get_mut(handle)?;
        match attribute {
            8 => {
                let most = limits.shared_bytes_per_block_optin.saturating_sub(f.kernel.static_shared_bytes);
                let is_fit = u32::try_from(value).is_ok_and(|v| v <= most);
                require(is_fit, Code::InvalidValue, format!("{value} bytes of dynamic shared memory, at most {most}"))?;
                f.dynamic_shared_bytes_max = value as u32;
            }
            9 => {
                require((-1..=100).contains(&value), Code::InvalidValue, format!("carveout of {value} %"))?;
                f.carveout = value;
            }
            14 => f.allows_large_clusters = value != 0,
            15 => f.cluster_policy = value,
            0..=16 => return refuse(Code::InvalidValue, format!("function attribute {attribute} cannot be set")),
            _ => return refuse(Code::InvalidValue, format!("{attribute} is no function attribute")),
        }
        Ok(())
    }
}

/// Registers per thread as a compiler would assign them: the executor's estimate, within what the entry's directives and the
/// machine allow (the compiler spills to keep within them).
fn registers(kernel: &Kernel) -> u32 {
    let directives = &kernel.directives;
    let mut most = directives.registers_max.unwrap_or(REGISTERS_PER_THREAD_MAX).min(REGISTERS_PER_THREAD_MAX);
    if let Some(threads) = directives.threads_max {
        let warps = threads.div_ceil(32).next_multiple_of(4) * directives.blocks_per_sm_min.unwrap_or(1);
        most = most.min(REGISTERS_PER_SM / (warps.max(1) * 32) / 8 * 8);
    }
    kernel.registers.clamp(1, most.max(16))
}

/// A PTX text's version times ten, as `CU_FUNC_ATTRIBUTE_PTX_VERSION` gives it.
fn ptx_version(ptx: &str) -> u32 {
    let version = ptx.split_once(".version").and_then(|(_, rest)| rest.split_whitespace().next());
    let parts = version.and_then(|v| v.split_once('.'));
    parts.and_then(|(major, minor)| Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)).unwrap_or(0)
}
