//! Names for what the host queues, as ranges that profiling tools show: NVTX, version 3.
//!
//! NVTX has no library. A tool names its own in `NVTX_INJECTION64_PATH`; the program loads it and calls its
//! `InitializeInjectionNvtx2` with a function that gives out tables, through which the tool sets the functions that it wants called
//! (nvtxTypes.h of NVTX 3). Without a tool nothing is loaded and no name is made.
//!
//! Ranges are of the host's time: what a kernel of a plain step belongs to is seen by its launch. The kernels of a graph are launched in
//! one call, so that stages have ranges when a graph is captured, and its launch is in the step's range only.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

const INJECTION: &str = "NVTX_INJECTION64_PATH";
const VERSION: u32 = 3;

/// Functions that each module has, by `NvtxCallbackModule`: none, core, CUDA, OpenCL, CUDA runtime, core with domains, synchronisation.
const MODULE_SIZES: [u32; 7] = [0, 16, 9, 15, 7, 16, 7];
const FUNCTIONS_MAX: usize = 16;

/// Of the core module: `nvtxRangePushA` and `nvtxRangePop`.
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

type RangePush = unsafe extern "C" fn(*const c_char) -> c_int;
type RangePop = unsafe extern "C" fn() -> c_int;

/// A function that the tool may set.
type Slot = AtomicPtr<c_void>;

/// Where the tool finds the slots of a module, each by its number; 0 is none, and so is the end.
type Table = [Option<&'static Slot>; FUNCTIONS_MAX + 1];

static SLOTS: [[Slot; FUNCTIONS_MAX]; MODULE_SIZES.len()] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; FUNCTIONS_MAX] }; MODULE_SIZES.len()];

static TABLES: [Table; MODULE_SIZES.len()] = {
    let mut tables = [[None; FUNCTIONS_MAX + 1]; MODULE_SIZES.len()];
    let mut module = 0;
    while module < MODULE_SIZES.len() {
        let mut function = 1;
        while function < MODULE_SIZES[module] as usize {
            tables[module][function] = Some(&SLOTS[module][function]);
            function += 1;
        }
        module += 1;
    }
    tables
};

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    function_table: extern "C" fn(c_int, *mut *const Option<&'static Slot>, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_tool_version: extern "C" fn(u32),
}

static CALLBACKS: Callbacks = Callbacks { struct_size: size_of::<Callbacks>(), function_table };
static VERSION_INFO: VersionInfo =
    VersionInfo { struct_size: size_of::<VersionInfo>(), version: VERSION, reserved: 0, set_tool_version };

extern "C" fn set_tool_version(_version: u32) {}

extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        1 => (&raw const CALLBACKS).cast(),
        3 => (&raw const VERSION_INFO).cast(),
        _ => std::ptr::null(),
    }
}

/// Gives out a module's table and how many entries it has; 0 if there is no such module.
extern "C" fn function_table(module: c_int, table: *mut *const Option<&'static Slot>, size: *mut c_uint) -> c_int {
    let module = usize::try_from(module).unwrap_or(0);
    let Some((entries, &count)) = TABLES.get(module).zip(MODULE_SIZES.get(module)).filter(|(_, size)| **size > 0)
    else {
        return 0;
    };
    if !table.is_null() {
        // SAFETY: the tool's, for one pointer.
        unsafe { table.write(entries.as_ptr()) };
    }
    if !size.is_null() {
        // SAFETY: the tool's, for one number.
        unsafe { size.write(count) };
    }
    1
}

/// Loads the tool's library, if there is one, and lets it set its functions.
fn load() -> bool {
    let Some(path) = std::env::var_os(INJECTION) else { return false };
    let Ok(c_path) = CString::new(path.as_encoded_bytes()) else { return false };
    // SAFETY: runs the library's initialisers; the variable says that it is a tool's. It stays loaded.
    let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_LAZY) };
    if library.is_null() {
        tracing::warn!("{INJECTION}: {} cannot be loaded; there will be no ranges", path.display());
        return false;
    }
    // SAFETY: the library is loaded.
    let initialise = unsafe { libc::dlsym(library, c"InitializeInjectionNvtx2".as_ptr()) };
    if initialise.is_null() {
        tracing::warn!("{INJECTION}: {} is no NVTX tool; there will be no ranges", path.display());
        return false;
    }
    // SAFETY: a function of this name has this type (`NvtxInitializeInjectionNvtxFunc_t`).
    let initialise: extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int =
        unsafe { std::mem::transmute(initialise) };
    initialise(export_table) != 0
}

/// Opens ranges, if a profiling tool is there to see them.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    has_tool: bool,
}

impl Ranges {
    /// Looks for a tool, the first time in a process.
    pub fn connect() -> Ranges {
        static HAS_TOOL: OnceLock<bool> = OnceLock::new();
        Ranges { has_tool: *HAS_TOOL.get_or_init(load) }
    }

    /// A range of this thread, until it is dropped; ranges nest. `name` is asked for only if a tool is there.
    pub fn open(&self, name: impl FnOnce() -> String) -> Option<Range> {
        if !self.has_tool {
            return None;
        }
        let push = SLOTS[CORE][RANGE_PUSH].load(Ordering::Acquire);
        let name = CString::new(name()).ok().filter(|_| !push.is_null())?;
        // SAFETY: the tool sets a function of this type here.
        let push: RangePush = unsafe { std::mem::transmute(push) };
        // SAFETY: the text ends with 0 and lives until the call returns; tools copy it.
        unsafe { push(name.as_ptr()) };
        Some(Range { _of_this_thread: std::marker::PhantomData })
    }
}

/// An open range.
#[derive(Debug)]
pub struct Range {
    /// Ranges of different threads do not nest: this must stay on its own.
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Range {
    fn drop(&mut self) {
        let pop = SLOTS[CORE][RANGE_POP].load(Ordering::Acquire);
        if !pop.is_null() {
            // SAFETY: the tool sets a function of this type here.
            let pop: RangePop = unsafe { std::mem::transmute(pop) };
            // SAFETY: a range of this thread is open.
            unsafe { pop() };
        }
    }
}
