//! What tests that call the driver API directly share: each function here is one call, or a few that always go together.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUcontext, CUevent, CUfunction, CUmodule, CUresult, CUstream};

/// Stops at a call that fails.
#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// What a call writes to the pointer that it is given.
#[track_caller]
pub fn given<T>(initial: T, call: impl FnOnce(*mut T) -> CUresult) -> T {
    let mut value = initial;
    ok(call(&mut value));
    value
}

/// A retained and current primary context, with the tests' kernels.
#[derive(Clone, Copy)]
pub struct Program {
    pub context: CUcontext,
    pub module: CUmodule,
}

impl Program {
    pub fn start() -> Self {
        Self::on(0)
    }

    pub fn on(device: i32) -> Self {
        ok(unsafe { sys::cuInit(0) });
        let context = given(null_mut(), |c| unsafe { sys::cuDevicePrimaryCtxRetain(c, device) });
        ok(unsafe { sys::cuCtxSetCurrent(context) });
        Program { context, module: load(crate::common::PTX) }
    }

    pub fn function(&self, name: &str) -> CUfunction {
        function(self.module, name)
    }
}

pub fn load(ptx: &str) -> CUmodule {
    let text = CString::new(ptx).unwrap();
    given(null_mut(), |m| unsafe { sys::cuModuleLoadData(m, text.as_ptr().cast()) })
}

pub fn function(module: CUmodule, name: &str) -> CUfunction {
    let name = CString::new(name).unwrap();
    given(null_mut(), |f| unsafe { sys::cuModuleGetFunction(f, module, name.as_ptr()) })
}

pub fn stream() -> CUstream {
    given(null_mut(), |s| unsafe { sys::cuStreamCreate(s, 1) })
}

/// A stream that the legacy stream waits for, and that waits for it.
pub fn blocking_stream() -> CUstream {
    given(null_mut(), |s| unsafe { sys::cuStreamCreate(s, 0) })
}

pub fn event() -> CUevent {
    given(null_mut(), |e| unsafe { sys::cuEventCreate(e, 0) })
}

/// Device memory of zeros.
pub fn words(count: usize) -> u64 {
    let address = given(0, |a| unsafe { sys::cuMemAlloc_v2(a, 4 * count) });
    ok(unsafe { sys::cuMemsetD32_v2(address, 0, count) });
    ok(unsafe { sys::cuCtxSynchronize() });
    address
}

/// Pinned memory of zeros.
pub fn pinned(count: usize) -> &'static mut [u32] {
    let pointer = given(null_mut(), |p| unsafe { sys::cuMemHostAlloc(p, 4 * count, 0) });
    unsafe { std::slice::from_raw_parts_mut(pointer.cast(), count) }
}

/// One launch of one CTA. Arguments of 32 bits are the low halves.
pub fn launch(function: CUfunction, threads: u32, stream: CUstream, arguments: &[u64]) -> CUresult {
    let mut pointers: Vec<*mut c_void> = arguments.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
    unsafe { sys::cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, stream, pointers.as_mut_ptr(), null_mut()) }
}

/// The first word at a device address, by a copy in a stream that the call waits for.
pub fn word(address: u64, stream: CUstream) -> u32 {
    let mut value = 0u32;
    ok(unsafe { sys::cuMemcpyDtoHAsync_v2((&raw mut value).cast(), address, 4, stream) });
    ok(unsafe { sys::cuStreamSynchronize(stream) });
    value
}

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// A call as a function of the type that the test gives it: for values that cudarc's enumerations cannot hold.
pub fn raw<F: Copy>(name: &str) -> F {
    assert_eq!(size_of::<F>(), size_of::<usize>());
    let name = CString::new(name).unwrap();
    // RTLD_NOW.
    let symbol = unsafe { dlsym(dlopen(c"libcuda.so.1".as_ptr(), 2), name.as_ptr()) };
    assert!(!symbol.is_null(), "{name:?} is exported");
    unsafe { std::mem::transmute_copy(&symbol) }
}

/// An attribute of a launch: its number, and its value in words.
pub type LaunchAttribute = (u32, [u32; 16]);

/// Clusters of so many CTAs in x.
pub fn cluster(ctas: u32) -> LaunchAttribute {
    let mut value = [0; 16];
    value[..3].copy_from_slice(&[ctas, 1, 1]);
    (4, value)
}

/// The launch may start before the one in front of it has ended.
pub fn early() -> LaunchAttribute {
    let mut value = [0; 16];
    value[0] = 1;
    (6, value)
}

/// A launch of CTAs of one thread, without parameters, in the default stream.
pub fn launch_ex(function: CUfunction, ctas: u32, attributes: &[LaunchAttribute]) -> CUresult {
    #[repr(C)]
    struct Attribute {
        id: u32,
        pad: u32,
        value: [u32; 16],
    }
    #[repr(C)]
    struct Config {
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        stream: CUstream,
        attributes: *const Attribute,
        count: u32,
    }
    let attributes: Vec<Attribute> = attributes.iter().map(|&(id, value)| Attribute { id, pad: 0, value }).collect();
    let config = Config {
        grid: [ctas, 1, 1],
        block: [1, 1, 1],
        shared_bytes: 0,
        stream: null_mut(),
        attributes: attributes.as_ptr(),
        count: attributes.len() as u32,
    };
    let call: extern "C" fn(&Config, CUfunction, usize, usize) -> CUresult = raw("cuLaunchKernelEx");
    call(&config, function, 0, 0)
}
