//! `cuModule*`, `cuLibrary*`, `cuKernel*` and `cuFunc*`.

use crate::abi::{ImagePtr, In, Out, Text};
use crate::code::{Code, Res, refuse, require};
use crate::core::Driver;
use crate::core::table::Handle;
use crate::host::HostRange;

/// `CU_JIT_*` options that name a buffer for messages and its length.
const JIT_INFO_LOG: (u32, u32) = (3, 4);
const JIT_ERROR_LOG: (u32, u32) = (5, 6);

/// Loads an image and puts messages where the options say.
fn load(d: &mut Driver, image: &ImagePtr, options: &[u32], values: &[u64]) -> Res<Handle> {
    let cc = d.devices[d.current()?.device].limits.compute_capability;
    let loaded = image.ptx(cc).and_then(|ptx| d.module_load(&ptx));
    log(options, values, JIT_INFO_LOG, "")?;
    log(options, values, JIT_ERROR_LOG, loaded.as_ref().err().map_or("", |r| &r.why))?;
    loaded
}

/// Writes a NUL-terminated message into the buffer that a pair of options gives, if they do.
fn log(options: &[u32], values: &[u64], (buffer, length): (u32, u32), message: &str) -> Res {
    let value = |option| options.iter().position(|&o| o == option).map(|i| values[i]);
    let (Some(buffer), Some(length)) = (value(buffer), value(length)) else { return Ok(()) };
    // The length is 32-bit; what is above it in the pointer-sized value is undefined.
    let room = HostRange::new(buffer, length & 0xffff_ffff)?;
    room.write(|bytes| {
        let count = message.len().min(bytes.len().saturating_sub(1));
        bytes[..count].copy_from_slice(&message.as_bytes()[..count]);
        if let Some(end) = bytes.get_mut(count) {
            *end = 0;
        }
    });
    Ok(())
}

/// The PTX in a file.
fn read_file(d: &Driver, path: &str) -> Res<String> {
    let (major, minor) = match d.current() {
        Ok(context) => d.devices[context.device].limits.compute_capability,
        Err(_) => d.settings.compute_capability,
    };
    let bytes = std::fs::read(path).or_else(|e| refuse(Code::FileNotFound, format!("{path}: {e}")))?;
    let magic = bytes.first_chunk::<4>().copied().unwrap_or_default();
    match sim_fatbin::Image::classify(magic) {
        sim_fatbin::Image::Fatbin => {
            let fatbin = sim_fatbin::Fatbin::parse(&bytes).or_else(|e| refuse(Code::InvalidImage, e.to_string()))?;
            fatbin.ptx_for(major, minor).map(str::to_owned).or_else(|e| refuse(Code::NoBinaryForGpu, e.to_string()))
        }
        sim_fatbin::Image::Text => String::from_utf8(bytes).or_else(|e| refuse(Code::InvalidImage, e.to_string())),
        _ => refuse(Code::NoBinaryForGpu, format!("{path} has no PTX to run")),
    }
}

fn function_context(d: &mut Driver, function: Handle) -> Res<Handle> {
    let function = d.resolve_function(function)?;
    Ok(d.functions.get(function)?.context)
}

fn param_info(d: &mut Driver, function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Res {
    let (slots, _) = d.param_slots(function)?;
    let Some(&(start, length)) = slots.get(index) else {
        return refuse(Code::InvalidValue, format!("parameter {index} of {}", slots.len()));
    };
    offset.give(|| Ok(start))?;
    bytes.offer(length)
}

calls! {
    cuModuleLoadData(module: Out<Handle>, image: ImagePtr) |d| module.give(|| load(d, &image, &[], &[]));
    cuModuleLoadFatBinary(module: Out<Handle>, image: ImagePtr) |d| module.give(|| load(d, &image, &[], &[]));
    cuModuleLoadDataEx(module: Out<Handle>, image: ImagePtr, count: u32, options: In<u32>, values: In<u64>) |d| {
        let (options, values) = (options.slice(count as usize)?, values.slice(count as usize)?);
        module.give(|| load(d, &image, &options, &values))
    };
    cuModuleLoad(module: Out<Handle>, path: Text) |d| module.give(|| {
        let ptx = read_file(d, &path.get()?)?;
        d.module_load(&ptx)
    });
    cuModuleUnload(module: Handle) |d| d.module_unload(module);
    cuModuleGetLoadingMode(mode: Out<u32>) |_| mode.give(|| Ok(1));
    cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) |d| {
        function.give(|| d.function(module, &name.get()?))
    };
    cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) |d| {
        let (start, length) = d.global(module, &name.get()?)?;
        address.offer(start)?;
        bytes.offer(length as usize)
    };
    cuLibraryLoadData(
        library: Out<Handle>, image: ImagePtr, _options: In<u32>, _values: In<u64>, _count: u32,
        _library_options: In<u32>, _library_values: In<u64>, _library_count: u32,
    ) |d| {
        let cc = d.settings.compute_capability;
        library.give(|| d.library_load(&image.ptx(cc)?))
    };
    cuLibraryLoadFromFile(
        library: Out<Handle>, path: Text, _options: In<u32>, _values: In<u64>, _count: u32,
        _library_options: In<u32>, _library_values: In<u64>, _library_count: u32,
    ) |d| library.give(|| {
        let ptx = read_file(d, &path.get()?)?;
        d.library_load(&ptx)
    });
    cuLibraryUnload(library: Handle) |d| d.library_unload(library);
    cuLibraryGetModule(module: Out<Handle>, library: Handle) |d| module.give(|| d.library_module(library));
    cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) |d| {
        kernel.give(|| d.library_kernel(library, &name.get()?))
    };
    cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) |d| {
        let module = d.library_module(library)?;
        let (start, length) = d.global(module, &name.get()?)?;
        address.offer(start)?;
        bytes.offer(length as usize)
    };
    cuKernelGetFunction(function: Out<Handle>, kernel: Handle) |d| {
        d.library_kernels.get(kernel)?;
        function.give(|| d.resolve_function(kernel))
    };
    cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) |d| library.give(|| Ok(d.library_kernels.get(kernel)?.library));
    cuKernelGetAttribute(value: Out<i32>, attribute: i32, kernel: Handle, device: i32) |d| {
        d.device(device)?;
        value.give(|| d.function_attribute(kernel, attribute))
    };
    cuKernelSetAttribute(attribute: i32, value: i32, kernel: Handle, device: i32) |d| {
        d.device(device)?;
        d.function_set_attribute(kernel, attribute, value)
    };
    cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) |d| {
        param_info(d, kernel, index, offset, bytes)
    };
    cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) |d| {
        param_info(d, function, index, offset, bytes)
    };
    cuFuncGetModule(module: Out<Handle>, function: Handle) |d| module.give(|| {
        let function = d.resolve_function(function)?;
        Ok(d.functions.get(function)?.module)
    });
    cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: Handle) |d| {
        value.give(|| d.function_attribute(function, attribute))
    };
    cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) |d| {
        d.function_set_attribute(function, attribute, value)
    };
    cuFuncSetCacheConfig(function: Handle, config: u32) |d| {
        require(config <= 3, Code::InvalidValue, format!("cache configuration {config}"))?;
        function_context(d, function).map(drop)
    };
    cuFuncSetSharedMemConfig(function: Handle, config: u32) |d| {
        require(config <= 2, Code::InvalidValue, format!("bank configuration {config}"))?;
        function_context(d, function).map(drop)
    };
    cuFuncIsLoaded(state: Out<u32>, function: Handle) |d| state.give(|| function_context(d, function).map(|_| 1));
    cuFuncLoad(function: Handle) |d| function_context(d, function).map(drop);
}
