//! Every call that programs look for is there, by its exported name and through `cuGetProcAddress`.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::ffi::{CString, c_char, c_int, c_void};

/// The calls that cudarc 0.19.10's safe layers can make: it looks each up when it is first called, and panics if it is missing.
const CUDARC: &str = include_str!("cudarc-symbols.txt");

/// What programs that use more of the API ask for besides.
const MORE: &[&str] = &[
    "cuCtxGetDevice",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDriverGetVersion",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGraphAddKernelNode_v2",
    "cuGraphCreate",
    "cuGraphExecKernelNodeSetParams_v2",
    "cuGraphExecUpdate_v2",
    "cuKernelGetFunction",
    "cuLaunchKernelEx",
    "cuLibraryGetKernel",
    "cuLibraryLoadData",
    "cuMemAllocHost_v2",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpy",
    "cuMemcpyAsync",
    "cuMemsetD16Async",
    "cuMemsetD16_v2",
    "cuMemsetD32Async",
    "cuMemsetD32_v2",
    "cuModuleLoadDataEx",
    "cuModuleLoadFatBinary",
    "cuPointerGetAttribute",
    "cuPointerGetAttributes",
    "cuStreamGetCaptureInfo_v2",
    "cuStreamQuery",
    "cuTensorMapEncodeIm2col",
    "cuTensorMapEncodeTiled",
];

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The driver under the name that programs open.
struct Library(*mut c_void);

impl Library {
    fn open() -> Self {
        // RTLD_NOW.
        let library = unsafe { dlopen(c"libcuda.so.1".as_ptr(), 2) };
        assert!(!library.is_null(), "libcuda.so.1 opens");
        Library(library)
    }

    fn symbol(&self, name: &str) -> usize {
        let name = CString::new(name).unwrap();
        unsafe { dlsym(self.0, name.as_ptr()) }.addr()
    }

    /// Result, address and status of `cuGetProcAddress_v2`.
    fn ask(&self, name: &str, version: i32, flags: u64) -> (u32, usize, u32) {
        type Ask = extern "C" fn(*const c_char, *mut usize, i32, u64, *mut u32) -> u32;
        let ask: Ask = unsafe { std::mem::transmute(self.symbol("cuGetProcAddress_v2")) };
        let (name, mut address, mut status) = (CString::new(name).unwrap(), 1, 9);
        let result = ask(name.as_ptr(), &mut address, version, flags, &mut status);
        (result, address, status)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    CUDARC.lines().chain(MORE.iter().copied())
}

#[test]
fn every_call_is_exported() {
    assert_eq!(CUDARC.lines().count(), 98);
    common::in_child("every_call_is_exported", &[], || {
        let library = Library::open();
        let missing: Vec<&str> = names().filter(|name| library.symbol(name) == 0).collect();
        assert_eq!(missing, [""; 0]);
        assert_eq!(library.symbol("cuNoSuchCall"), 0);
    });
}

#[test]
fn names_without_suffix_find_the_newest_form() {
    common::in_child("names_without_suffix_find_the_newest_form", &[], || {
        let library = Library::open();
        for name in names() {
            let base = name.trim_end_matches("_v2").trim_end_matches("_v3").trim_end_matches("_v4");
            let forms = ["_v4", "_v3", "_v2", ""].map(|suffix| library.symbol(&format!("{base}{suffix}")));
            let newest = match base {
                // The name has meant another call since CUDA 12.
                "cuGraphInstantiate" => library.symbol("cuGraphInstantiateWithFlags"),
                _ => forms.into_iter().find(|&f| f != 0).unwrap(),
            };
            assert_eq!(library.ask(base, 13000, 0), (0, newest, 0), "{base}");
        }
        assert_eq!(library.ask("cuNoSuchCall", 13000, 0), (500, 0, 1), "CUDA_ERROR_NOT_FOUND");
        assert_eq!(library.ask("cuTensorMapEncodeTiled", 11080, 0), (500, 0, 2), "came with CUDA 12.0");
        let older = library.symbol("cuCtxCreate_v3");
        assert_eq!(library.ask("cuCtxCreate", 12040, 0), (0, older, 0), "the fourth form came with CUDA 12.5");
        assert_eq!(library.ask("cuInit", 13000, 4).0, 1, "CUDA_ERROR_INVALID_VALUE");
    });
}
