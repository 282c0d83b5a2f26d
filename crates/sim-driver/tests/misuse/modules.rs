//! Modules and functions.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUfunction_attribute_enum::*, CUresult, CUresult::*};

use super::common::program::{function, launch, load, ok, raw};
use super::common::{PTX, fatbin};
use super::{Machine, Misuse, on, row};

fn load_text(ptx: &str) -> CUresult {
    let text = CString::new(ptx).unwrap();
    unsafe { sys::cuModuleLoadData(&mut null_mut(), text.as_ptr().cast()) }
}

fn load_bytes(bytes: &[u8]) -> CUresult {
    unsafe { sys::cuModuleLoadData(&mut null_mut(), bytes.as_ptr().cast::<c_void>()) }
}

fn shared_limit(function: sys::CUfunction, bytes: i32) -> CUresult {
    unsafe { sys::cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes) }
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = images();
    rows.extend(modules());
    rows.extend(functions());
    rows
}

fn images() -> Vec<Misuse> {
    vec![
        row("cuModuleLoadData", "a null pointer", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuModuleLoadData(&mut null_mut(), std::ptr::null())
        }),
        row("cuModuleLoadData", "PTX with a syntax error", CUDA_ERROR_INVALID_PTX, |_| {
            load_text(&PTX.replace("ret;", "ret"))
        }),
        row("cuModuleLoadData", "PTX with an instruction that does not exist", CUDA_ERROR_INVALID_PTX, |_| {
            load_text(&PTX.replace("trap;", "surrender;"))
        }),
        row("cuModuleLoadData", "PTX for a newer device", CUDA_ERROR_INVALID_PTX, |_| {
            load_text(&PTX.replace("sm_80", "sm_100"))
        }),
        row(
            "cuModuleLoadData",
            "PTX of an ISA that the driver does not know",
            CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            |_| load_text(&PTX.replace(".version 8.0", ".version 99.0")),
        ),
        row("cuModuleLoadData", "an empty text", CUDA_ERROR_INVALID_IMAGE, |_| load_text("")),
        row("cuModuleLoadData", "machine code of another device", CUDA_ERROR_NO_BINARY_FOR_GPU, |_| {
            load_bytes(b"\x7fELF\x02\x01\x01\x41\0\0\0\0\0\0\0\0")
        }),
        row("cuModuleLoadData", "a fatbin with code for newer devices only", CUDA_ERROR_NO_BINARY_FOR_GPU, |_| {
            load_bytes(&fatbin(&PTX.replace("sm_80", "sm_100"), 100))
        }),
        on(
            Machine::Older,
            row("cuModuleLoadFatBinary", "a fatbin with code for 9.0 on 8.0", CUDA_ERROR_NO_BINARY_FOR_GPU, |_| {
                let image = fatbin(&PTX.replace("sm_80", "sm_90"), 90);
                unsafe { sys::cuModuleLoadFatBinary(&mut null_mut(), image.as_ptr().cast()) }
            }),
        ),
        row("cuModuleLoadData", "a fatbin whose contents are damaged", CUDA_ERROR_INVALID_IMAGE, |_| {
            let mut image = fatbin(PTX, 80);
            image[80..96].fill(0xff);
            load_bytes(&image)
        }),
        row("cuModuleLoad", "a file that does not exist", CUDA_ERROR_FILE_NOT_FOUND, |_| unsafe {
            sys::cuModuleLoad(&mut null_mut(), c"/no/such/file.ptx".as_ptr())
        }),
    ]
}

fn modules() -> Vec<Misuse> {
    vec![
        row("cuModuleGetFunction", "a kernel that the module does not have", CUDA_ERROR_NOT_FOUND, |p| unsafe {
            sys::cuModuleGetFunction(&mut null_mut(), p.module, c"vector_mul".as_ptr())
        }),
        row("cuModuleGetFunction", "a module that was unloaded", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let module = load(PTX);
            ok(sys::cuModuleUnload(module));
            sys::cuModuleGetFunction(&mut null_mut(), module, c"step".as_ptr())
        }),
        row("cuModuleGetGlobal", "a variable that the module does not have", CUDA_ERROR_NOT_FOUND, |p| unsafe {
            sys::cuModuleGetGlobal_v2(&mut 0, &mut 0, p.module, c"humps".as_ptr())
        }),
        row("cuModuleUnload", "twice", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let module = load(PTX);
            ok(sys::cuModuleUnload(module));
            sys::cuModuleUnload(module)
        }),
        row("cuLaunchKernel", "a function whose module was unloaded", CUDA_ERROR_INVALID_HANDLE, |_| {
            let module = load(PTX);
            let bump = function(module, "bump");
            ok(unsafe { sys::cuModuleUnload(module) });
            launch(bump, 1, null_mut(), &[])
        }),
        row("cuLibraryGetKernel", "a kernel that the library does not have", CUDA_ERROR_NOT_FOUND, |_| unsafe {
            let (text, mut library) = (CString::new(PTX).unwrap(), null_mut());
            let none = null_mut;
            ok(sys::cuLibraryLoadData(
                &mut library,
                text.as_ptr().cast(),
                none(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                0,
            ));
            let result = sys::cuLibraryGetKernel(&mut null_mut(), library, c"vector_mul".as_ptr());
            ok(sys::cuLibraryUnload(library));
            result
        }),
    ]
}

fn functions() -> Vec<Misuse> {
    vec![
        row("cuFuncGetAttribute", "an attribute that does not exist", CUDA_ERROR_INVALID_VALUE, |p| {
            let call: extern "C" fn(&mut i32, i32, sys::CUfunction) -> CUresult = raw("cuFuncGetAttribute");
            call(&mut 0, 99, p.function("step"))
        }),
        row("cuFuncSetAttribute", "an attribute that can only be read", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            sys::cuFuncSetAttribute(p.function("step"), CU_FUNC_ATTRIBUTE_NUM_REGS, 16)
        }),
        row("cuFuncSetAttribute", "more dynamic shared memory than a block can have", CUDA_ERROR_INVALID_VALUE, |p| {
            shared_limit(p.function("through_shared"), (227 << 10) + 1)
        }),
        on(
            Machine::Older,
            row("cuFuncSetAttribute", "227 KiB of shared memory on 8.0", CUDA_ERROR_INVALID_VALUE, |p| {
                ok(shared_limit(p.function("through_shared"), 163 << 10));
                shared_limit(p.function("through_shared"), 227 << 10)
            }),
        ),
        row("cuFuncGetParamInfo", "a parameter beyond the last", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            sys::cuFuncGetParamInfo(p.function("step"), 2, &mut 0, &mut 0)
        }),
    ]
}
