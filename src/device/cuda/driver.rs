//! As much of the CUDA driver as the device uses: a context with one stream, owned memory, modules and launches.
//!
//! Every call returns a typed error that names the operation. Memory is freed when its owner goes; failures of that are ignored, as
//! after a sticky error nothing else is possible.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute};

use crate::device::{DeviceError, GpuKind, Profiler, Purpose};

/// A device with its context and stream.
#[derive(Debug)]
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pub name: String,
    pub kind: GpuKind,
    /// Compute capability.
    pub capability: (i32, i32),
    pub sm_count: u32,
}

// SAFETY: handles of the driver may be used from any thread; `bind` makes the context current in the thread that calls.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Gpu {}

/// Maps a driver error to the operation that failed.
fn failed(operation: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> DeviceError {
    move |error| {
        let text =
            |text: Result<&std::ffi::CStr, _>| text.map_or("unknown".into(), |t| t.to_string_lossy().into_owned());
        let (name, message) = (text(error.error_name()), text(error.error_string()));
        match is_sticky(error.0) {
            true => DeviceError::Lost { operation, name, message },
            false => DeviceError::Cuda { operation, name, message },
        }
    }
}

/// Whether the context is lost: the driver's documentation says of these that the process must be started again.
fn is_sticky(error: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        error,
        CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
    )
}

/// Whether a module could not be loaded for what it is, and not for what happened to the context before.
fn is_about_image(error: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        error,
        CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUDA_ERROR_JIT_COMPILATION_DISABLED
    )
}

/// Maps the driver's error when `asked_bytes` were asked for, of which `free_bytes` are known to be free; `reason` says why there are not
/// enough.
fn no_memory(
    operation: &'static str,
    purpose: Purpose,
    asked_bytes: u64,
    why: impl FnOnce() -> (Option<u64>, &'static str),
) -> impl FnOnce(cudarc::driver::DriverError) -> DeviceError {
    move |error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            let (free_bytes, reason) = why();
            DeviceError::OutOfMemory { purpose, asked_bytes, free_bytes, reason: reason.to_owned() }
        }
        _ => failed(operation)(error),
    }
}

impl Gpu {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// `NoGpu` where there is no driver or no such device; `Cuda` where the driver fails.
    pub fn open(ordinal: i32) -> Result<Arc<Gpu>, DeviceError> {
        let none = |reason: &str| DeviceError::NoGpu { reason: reason.to_owned() };
        // SAFETY: only looks whether the library can be loaded.
        if !unsafe { sys::is_culib_present() } {
            return Err(none("no CUDA driver is installed (libcuda.so was not found)"));
        }
        result::init().map_err(|error| none(&format!("the CUDA driver does not start: {error}")))?;
        let count = result::device::get_count().map_err(failed("counting devices"))?;
        if ordinal >= count {
            return Err(none(&format!("the CUDA driver has {count} devices, and device {ordinal} was asked for")));
        }
        let device = result::device::get(ordinal).map_err(failed("opening the device"))?;
        let name = result::device::get_name(device).map_err(failed("reading the device's name"))?;
        let attribute = |which| {
            // SAFETY: `device` is from the driver.
            unsafe { result::device::get_attribute(device, which) }.map_err(failed("reading a device attribute"))
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let sm_count = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        // SAFETY: released once, in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("making a context"))?;
        // SAFETY: the context was just retained.
        let entered = unsafe { result::ctx::set_current(context) };
        let stream = entered.and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        let stream = stream.map_err(|error| {
            // SAFETY: retained above, and nothing was made in it.
            let _ = unsafe { result::primary_ctx::release(device) };
            failed("making a stream")(error)
        })?;
        // The one place that looks at the name: the simulated driver's begin so, and no other's do.
        let kind = if name.starts_with("Simulated") { GpuKind::Simulated } else { GpuKind::Hardware };
        Ok(Arc::new(Gpu { device, context, stream, name, kind, capability: (major, minor), sm_count }))
    }

    /// Makes the context current in this thread; every entry into the device does so first.
    pub fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("entering the context"))
    }

    /// 10^9 bytes per second that the memory can move, by its clock (two transfers each) and width; `None` if the driver does not say.
    pub fn peak_gbytes_per_s(&self) -> Option<f64> {
        let attribute = |which| {
            // SAFETY: `device` is from the driver.
            unsafe { result::device::get_attribute(self.device, which) }.ok().filter(|&value| value > 0).map(f64::from)
        };
        let khz = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        Some(2.0 * khz * 1e3 * bits / 8.0 / 1e9)
    }

    /// Free and total bytes of device memory.
    pub fn memory(&self) -> Result<(u64, u64), DeviceError> {
        let (free, total) = result::mem_get_info().map_err(failed("reading the free memory"))?;
        Ok((free as u64, total as u64))
    }

    /// Switches the collection of a profiling tool that waits for it.
    pub fn profiler(&self, switch: Profiler) -> Result<(), DeviceError> {
        // SAFETY: the context is current; without a tool these do nothing.
        let done = unsafe {
            match switch {
                Profiler::Start => sys::cuProfilerStart(),
                Profiler::Stop => sys::cuProfilerStop(),
            }
        };
        done.result().map_err(failed("switching the profiler"))
    }

    /// Waits for everything that was queued.
    pub fn synchronise(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("waiting for the device"))
    }

    /// Queues a launch of `kernel` with its one parameter struct.
    pub fn launch<P: Copy>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        threads: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        self.launch_with(kernel, grid, threads, kernel.shared_bytes, params)
    }

    /// Like `launch`, with dynamic shared memory of up to what the kernel was resolved with.
    pub fn launch_with<P: Copy>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        let attribute = match kernel.start {
            Start::Early if self.capability.0 >= 9 => Some(launch_attribute(
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            )),
            _ => None,
        };
        self.launch_by(attribute, kernel, grid, threads, shared_bytes, params)
    }

    /// Like `launch`, with all CTAs on the device at once, so that they may wait for each other.
    pub fn launch_cooperative<P: Copy>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        threads: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        let attribute = launch_attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            sys::CUlaunchAttributeValue { cooperative: 1 },
        );
        self.launch_by(Some(attribute), kernel, grid, threads, kernel.shared_bytes, params)
    }

    /// CTAs of `kernel` that the device holds at once.
    pub fn resident_ctas(&self, kernel: &Kernel, threads: u32) -> Result<u32, DeviceError> {
        self.resident_ctas_with(kernel, threads, kernel.shared_bytes)
    }

    /// Like `resident_ctas`, with dynamic shared memory of up to what the kernel was resolved with.
    pub fn resident_ctas_with(&self, kernel: &Kernel, threads: u32, shared_bytes: u32) -> Result<u32, DeviceError> {
        let mut per_sm = 0;
        // SAFETY: the function is of a loaded module.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut per_sm,
                kernel.function,
                threads as i32,
                shared_bytes as usize,
            )
        }
        .result()
        .map_err(failed(kernel.name))?;
        Ok(per_sm as u32 * self.sm_count)
    }

    fn launch_by<P: Copy>(
        &self,
        attribute: Option<sys::CUlaunchAttribute>,
        kernel: &Kernel,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), DeviceError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let mut arguments = [std::ptr::from_ref(params) as *mut c_void];
        let mut attributes = attribute;
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream,
            numAttrs: attributes.iter().len() as u32,
            attrs: attributes.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut),
        };
        // SAFETY: the kernel takes one struct of type `P` (a test compares sizes), which the driver copies before it returns; the
        // addresses in it are of buffers that the device owns until the stream is idle.
        unsafe { sys::cuLaunchKernelEx(&config, kernel.function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(failed(kernel.name))
    }
}

impl Gpu {
    /// What `queue` queues, as a graph. Nothing of it runs.
    pub fn capture(self: &Arc<Self>, queue: impl FnOnce() -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        let operation = "capturing a graph";
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`, and is ended below, whatever `queue` returns.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed(operation))?;
        let queued = queue();
        // SAFETY: as above; the graph is destroyed below.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        let graph = match queued {
            Ok(()) => graph.map_err(failed(operation))?,
            Err(error) => {
                // SAFETY: what was captured so far, if anything was, is used nowhere.
                let _ = graph.map(|graph| unsafe { result::graph::destroy(graph) });
                return Err(error);
            }
        };
        // SAFETY: the graph was just made. An executable graph does not need it any more.
        let exec = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above.
        let destroyed = unsafe { result::graph::destroy(graph) };
        let graph = Graph { gpu: self.clone(), exec: exec.map_err(failed("instantiating a graph"))? };
        destroyed.map_err(failed("destroying a graph"))?;
        // SAFETY: both live as long as `self`.
        unsafe { result::graph::upload(graph.exec, self.stream) }.map_err(failed("uploading a graph"))?;
        Ok(graph)
    }
}

/// Launches that are queued with one call.
#[derive(Debug)]
pub struct Graph {
    gpu: Arc<Gpu>,
    exec: sys::CUgraphExec,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Graph {}

impl Graph {
    /// Queues all of it.
    pub fn launch(&self) -> Result<(), DeviceError> {
        // SAFETY: graph and stream live as long as `self`; the addresses in it are of buffers that the device owns.
        unsafe { result::graph::launch(self.exec, self.gpu.stream) }.map_err(failed("launching a decode step"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        // SAFETY: made in `capture`, destroyed only here; the driver waits where it must.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: made in `open`, and nothing can be queued any more.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Device memory.
#[derive(Debug)]
pub struct DeviceBuffer {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: u64,
}

impl DeviceBuffer {
    /// `bytes` of zeroed memory.
    pub fn zeroed(gpu: &Arc<Gpu>, purpose: Purpose, bytes: u64) -> Result<Self, DeviceError> {
        let bytes = bytes.max(256);
        let why = || (gpu.memory().ok().map(|(free, _)| free), "the GPU's memory does not suffice");
        // SAFETY: freed once, in `drop`.
        let address = unsafe { result::malloc_sync(bytes as usize) }.map_err(no_memory(
            "allocating device memory",
            purpose,
            bytes,
            why,
        ))?;
        let buffer = DeviceBuffer { gpu: gpu.clone(), address, bytes };
        // SAFETY: the whole of the new buffer.
        unsafe { result::memset_d8_async(address, 0, bytes as usize, gpu.stream) }
            .map_err(failed("clearing memory"))?;
        Ok(buffer)
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Queues a copy of `values` to byte `offset`; they are read before this returns unless the memory is pinned.
    pub fn upload<T: Copy>(&self, offset: u64, values: &[T]) -> Result<(), DeviceError> {
        assert!(offset + size_of_val(values) as u64 <= self.bytes, "an upload fits its buffer");
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: in bounds; callers keep pinned sources alive and unchanged until the stream has passed.
        unsafe { result::memcpy_htod_async(self.address + offset, values, self.gpu.stream) }
            .map_err(failed("copying to the device"))
    }

    /// Waits for the queue and reads `count` values from byte `offset`.
    pub fn download<T: bytemuck::Pod>(&self, offset: u64, count: usize) -> Result<Vec<T>, DeviceError> {
        assert!(offset + (count * size_of::<T>()) as u64 <= self.bytes, "a download fits its buffer");
        self.gpu.synchronise()?;
        let mut values = vec![T::zeroed(); count];
        if count > 0 {
            // SAFETY: in bounds, and any bits are a `T`.
            unsafe { result::memcpy_dtoh_sync(&mut values, self.address + offset) }
                .map_err(failed("copying from the device"))?;
        }
        Ok(values)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        let _ = self.gpu.synchronise();
        // SAFETY: from `malloc_sync`, freed only here, and nothing that uses it is queued any more.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Page-locked host memory, which copies can read while the host goes on.
#[derive(Debug)]
pub struct PinnedBuffer {
    gpu: Arc<Gpu>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    pub fn zeroed(gpu: &Arc<Gpu>, purpose: Purpose, bytes: usize) -> Result<Self, DeviceError> {
        let bytes = bytes.max(256);
        let why = || (None, "the system gives no more page-locked memory");
        // SAFETY: freed once, in `drop`.
        let pointer = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP) }
            .map_err(no_memory("allocating pinned memory", purpose, bytes as u64, why))?
            .cast::<u8>();
        // SAFETY: just allocated, that long.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(PinnedBuffer { gpu: gpu.clone(), pointer, bytes })
    }

    /// Where kernels find it: addresses are unified.
    pub fn address(&self) -> u64 {
        self.pointer as u64
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: owned, initialised, that long. Callers wait for queued copies before they change it.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: owned, initialised, that long.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        let _ = self.gpu.synchronise();
        // SAFETY: from `malloc_host`, freed only here; no copy is queued any more.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

/// A place in the queue.
#[derive(Debug)]
pub struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Event {}

impl Event {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("making an event"))?;
        Ok(Event { gpu: gpu.clone(), event })
    }

    /// One that also notes the time.
    pub fn timing(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("making an event"))?;
        Ok(Event { gpu: gpu.clone(), event })
    }

    /// The GPU's time from `start` to here; both must note it, and have passed.
    pub fn since(&self, start: &Event) -> Result<Duration, DeviceError> {
        // SAFETY: both events live.
        let ms = unsafe { result::event::elapsed(start.event, self.event) }.map_err(failed("reading a time"))?;
        Ok(Duration::from_secs_f64(f64::from(ms) / 1e3))
    }

    /// Marks the end of what is queued now.
    pub fn record(&self) -> Result<(), DeviceError> {
        // SAFETY: event and stream live as long as `self`.
        unsafe { result::event::record(self.event, self.gpu.stream) }.map_err(failed("recording an event"))
    }

    /// Waits until the queue has come here.
    pub fn synchronise(&self) -> Result<(), DeviceError> {
        // SAFETY: the event lives as long as `self`.
        unsafe { result::event::synchronize(self.event) }.map_err(failed("waiting for a step"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        // SAFETY: made in `new`, destroyed only here; the driver waits where it must.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

/// A loaded image.
#[derive(Debug)]
pub struct Module {
    gpu: Arc<Gpu>,
    module: sys::CUmodule,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Module {}

impl Module {
    /// Loads a fatbin; `name` is for messages.
    pub fn load(gpu: &Arc<Gpu>, name: &str, image: &[u8]) -> Result<Self, DeviceError> {
        // The driver reads headers of 64-bit words.
        let mut aligned = vec![0u64; image.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut aligned)[..image.len()].copy_from_slice(image);
        // SAFETY: a whole fatbin, which the driver copies.
        let module = unsafe { result::module::load_data(aligned.as_ptr().cast()) };
        let module = module.map_err(|error| match is_about_image(error.0) {
            true => DeviceError::Unsupported {
                subject: format!("kernels ({name})"),
                expected: "a driver for CUDA 13 and a GPU of compute capability 8.0 or newer".to_owned(),
                found: format!("{error}, compute capability {}.{}", gpu.capability.0, gpu.capability.1),
            },
            false => failed("loading kernels")(error),
        })?;
        Ok(Module { gpu: gpu.clone(), module })
    }

    /// Resolves a kernel that is launched with `shared_bytes` of dynamic shared memory.
    pub fn kernel(&self, name: &'static str, shared_bytes: u32) -> Result<Kernel, DeviceError> {
        let c_name = CString::new(name).map_err(|_| DeviceError::NoGpu { reason: format!("{name} is no name") })?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.module, c_name) }.map_err(failed(name))?;
        const WITHOUT_ASKING: u32 = 48 << 10;
        if shared_bytes > WITHOUT_ASKING {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }
                .map_err(failed(name))?;
        }
        Ok(Kernel { name, function, shared_bytes, start: Start::AfterPredecessor })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.gpu.bind();
        // SAFETY: loaded in `load`, unloaded only here.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A kernel of a module that the device keeps loaded.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub name: &'static str,
    function: sys::CUfunction,
    shared_bytes: u32,
    start: Start,
}

/// When a kernel may start.
#[derive(Clone, Copy, Debug)]
enum Start {
    AfterPredecessor,
    /// While the kernel in front runs, on GPUs that can: it waits by itself (`wait_for_predecessor` of cuda/common.cuh).
    Early,
}

impl Kernel {
    /// A kernel that waits for its predecessor by itself.
    pub fn early(self) -> Kernel {
        Kernel { start: Start::Early, ..self }
    }
}

fn launch_attribute(id: sys::CUlaunchAttributeID, value: sys::CUlaunchAttributeValue) -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Kernel {}

/// The bytes of a value without padding, for uploads.
pub fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: used with the structs of abi.rs, which have no padding (a test compares sums of field sizes with sizes).
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
