//! Memory and pools.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUmemoryPool, CUresult, CUresult::*};

use super::common::program::{given, ok, raw, stream, words};
use super::{Misuse, row};

const MIB: usize = 1 << 20;

fn alloc(bytes: usize) -> u64 {
    given(0, |a| unsafe { sys::cuMemAlloc_v2(a, bytes) })
}

fn host_alloc(bytes: usize) -> *mut c_void {
    given(null_mut(), |p| unsafe { sys::cuMemHostAlloc(p, bytes, 0) })
}

pub fn rows() -> Vec<Misuse> {
    let mut rows = device_memory();
    rows.extend(host_memory());
    rows.extend(copies());
    rows.extend(pools());
    rows
}

fn device_memory() -> Vec<Misuse> {
    vec![
        row("cuMemAlloc", "0 bytes", CUDA_ERROR_INVALID_VALUE, |_| unsafe { sys::cuMemAlloc_v2(&mut 0, 0) }),
        row("cuMemAlloc", "more than the device has", CUDA_ERROR_OUT_OF_MEMORY, |_| unsafe {
            sys::cuMemAlloc_v2(&mut 0, 65 * MIB)
        }),
        row("cuMemAlloc", "more than is left", CUDA_ERROR_OUT_OF_MEMORY, |_| unsafe {
            alloc(48 * MIB);
            sys::cuMemAlloc_v2(&mut 0, 32 * MIB)
        }),
        row("cuMemAllocPitch", "elements of 3 bytes", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemAllocPitch_v2(&mut 0, &mut 0, 100, 10, 3)
        }),
        row("cuMemAllocManaged", "no flag that says who may use it", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemAllocManaged(&mut 0, 4, 0)
        }),
        row("cuMemFree", "an address that was never given", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemFree_v2(0x1000)
        }),
        row("cuMemFree", "an address inside an allocation", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemFree_v2(alloc(1024) + 256)
        }),
        row("cuMemFree", "twice", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let address = alloc(4);
            ok(sys::cuMemFree_v2(address));
            sys::cuMemFree_v2(address)
        }),
        row("cuMemFree", "pinned host memory", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemFree_v2(host_alloc(4) as u64)
        }),
        row("cuMemFree", "a variable of a module", CUDA_ERROR_INVALID_VALUE, |p| unsafe {
            let bumps = given(0, |a| sys::cuModuleGetGlobal_v2(a, null_mut(), p.module, c"bumps".as_ptr()));
            sys::cuMemFree_v2(bumps)
        }),
        row("cuMemGetAddressRange", "an address that was never given", CUDA_ERROR_NOT_FOUND, |_| unsafe {
            sys::cuMemGetAddressRange_v2(&mut 0, &mut 0, 0x1000)
        }),
        row("cuPointerGetAttribute", "a pointer that the driver does not know", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let attribute = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            let mut kind = 0u32;
            sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, 0x1000)
        }),
    ]
}

fn host_memory() -> Vec<Misuse> {
    vec![
        row("cuMemHostAlloc", "flags that do not exist", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemHostAlloc(&mut null_mut(), 4, 0x100)
        }),
        row("cuMemFreeHost", "device memory", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemFreeHost(alloc(4) as *mut c_void)
        }),
        row("cuMemFreeHost", "twice", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let pointer = host_alloc(4);
            ok(sys::cuMemFreeHost(pointer));
            sys::cuMemFreeHost(pointer)
        }),
        row("cuMemHostRegister", "0 bytes", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemHostRegister_v2([0u8; 8].as_mut_ptr().cast(), 0, 0)
        }),
        row("cuMemHostRegister", "memory that is registered", CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, |_| unsafe {
            let block = vec![0u64; 1024].leak();
            ok(sys::cuMemHostRegister_v2(block.as_mut_ptr().cast(), 8192, 0));
            sys::cuMemHostRegister_v2(block.as_mut_ptr().cast(), 8192, 0)
        }),
        row(
            "cuMemHostUnregister",
            "memory that is not registered",
            CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
            |_| unsafe { sys::cuMemHostUnregister([0u64; 8].as_mut_ptr().cast()) },
        ),
        row("cuMemHostGetDevicePointer", "memory that is not pinned", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemHostGetDevicePointer_v2(&mut 0, [0u64; 8].as_mut_ptr().cast(), 0)
        }),
        row("cuMemHostGetFlags", "memory that is not pinned", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemHostGetFlags(&mut 0, [0u64; 8].as_mut_ptr().cast())
        }),
    ]
}

fn copies() -> Vec<Misuse> {
    vec![
        row("cuMemcpyHtoD", "past the end of an allocation", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemcpyHtoD_v2(alloc(8), [0u8; 16].as_ptr().cast(), 9)
        }),
        row("cuMemcpyHtoD", "from a null pointer", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemcpyHtoD_v2(alloc(8), null_mut(), 8)
        }),
        row("cuMemcpyDtoH", "from memory that was freed", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let address = words(2);
            ok(sys::cuMemFree_v2(address));
            sys::cuMemcpyDtoH_v2([0u8; 8].as_mut_ptr().cast(), address, 8)
        }),
        row("cuMemcpyDtoD", "a host pointer that is not registered", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemcpyDtoD_v2(alloc(8), [0u64; 1].as_ptr() as u64, 8)
        }),
        row("cuMemcpyDtoHAsync", "a device address as the host's", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemcpyDtoHAsync_v2(words(2) as *mut c_void, words(2), 8, stream())
        }),
        row("cuMemcpyHtoDAsync", "a stream that was destroyed", CUDA_ERROR_INVALID_HANDLE, |_| unsafe {
            let stream = stream();
            ok(sys::cuStreamDestroy_v2(stream));
            sys::cuMemcpyHtoDAsync_v2(alloc(8), [0u64; 1].as_ptr().cast(), 8, stream)
        }),
        row("cuMemsetD32", "an address that is no multiple of 4", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemsetD32_v2(alloc(64) + 2, 0, 1)
        }),
        row("cuMemsetD8", "past the end of an allocation", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemsetD8_v2(alloc(64) + 32, 0, 33)
        }),
        row("cuMemsetD2D8", "rows that are longer than their pitch", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemsetD2D8_v2(alloc(1024), 16, 0, 17, 4)
        }),
    ]
}

fn pool(bytes_max: usize) -> CUmemoryPool {
    let mut props: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    props.maxSize = bytes_max;
    given(null_mut(), |p| unsafe { sys::cuMemPoolCreate(p, &props) })
}

fn default_pool(device: i32) -> CUmemoryPool {
    given(null_mut(), |p| unsafe { sys::cuDeviceGetDefaultMemPool(p, device) })
}

fn set_attribute(pool: CUmemoryPool, attribute: i32) -> CUresult {
    let call: extern "C" fn(CUmemoryPool, i32, &u64) -> CUresult = raw("cuMemPoolSetAttribute");
    call(pool, attribute, &0)
}

fn pools() -> Vec<Misuse> {
    vec![
        row("cuMemAllocAsync", "0 bytes", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemAllocAsync(&mut 0, 0, stream())
        }),
        row("cuMemAllocAsync", "more than the device has", CUDA_ERROR_OUT_OF_MEMORY, |_| unsafe {
            sys::cuMemAllocAsync(&mut 0, 65 * MIB, stream())
        }),
        row("cuMemFreeAsync", "twice", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let stream = stream();
            let address = given(0, |a| sys::cuMemAllocAsync(a, 64, stream));
            ok(sys::cuMemFreeAsync(address, stream));
            sys::cuMemFreeAsync(address, stream)
        }),
        row("cuMemPoolCreate", "properties without a type of allocation", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemPoolCreate(&mut null_mut(), &std::mem::zeroed())
        }),
        row("cuMemAllocFromPoolAsync", "more than the pool may hold", CUDA_ERROR_OUT_OF_MEMORY, |_| unsafe {
            sys::cuMemAllocFromPoolAsync(&mut 0, 2 * MIB, pool(MIB), stream())
        }),
        row("cuMemAllocFromPoolAsync", "a pool that was destroyed", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            let pool = pool(0);
            ok(sys::cuMemPoolDestroy(pool));
            sys::cuMemAllocFromPoolAsync(&mut 0, 64, pool, stream())
        }),
        row("cuMemPoolDestroy", "a device's default pool", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuMemPoolDestroy(default_pool(0))
        }),
        row("cuMemPoolSetAttribute", "an attribute that can only be read", CUDA_ERROR_INVALID_VALUE, |_| {
            set_attribute(default_pool(0), 7)
        }),
        row("cuMemPoolSetAttribute", "an attribute that does not exist", CUDA_ERROR_INVALID_VALUE, |_| {
            set_attribute(default_pool(0), 99)
        }),
        row("cuDeviceSetMemPool", "a pool of another device", CUDA_ERROR_INVALID_VALUE, |_| unsafe {
            sys::cuDeviceSetMemPool(0, default_pool(1))
        }),
    ]
}
