//! `cuCtx*` and the profiler's switches.

use crate::abi::{In, Out};
use crate::code::{Code, refuse, require};
use crate::core::stream::PRIORITIES;
use crate::core::table::Handle;
use crate::core::thread;

/// `CUctxCreateParams`: execution affinity and graphics interoperation, neither of which is simulated.
type CreateParams = [usize; 3];

calls! {
    cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) |d| context.give(|| d.context_create(flags, device));
    cuCtxCreate_v3(context: Out<Handle>, _affinity: In<u8>, count: i32, flags: u32, device: i32) |d| {
        require(count == 0, Code::NotSupported, "execution affinity is not simulated")?;
        context.give(|| d.context_create(flags, device))
    };
    cuCtxCreate_v4(context: Out<Handle>, params: In<CreateParams>, flags: u32, device: i32) |d| {
        let asks = !params.is_null() && params.get()?.iter().any(|&p| p != 0);
        require(!asks, Code::NotSupported, "execution affinity and graphics contexts are not simulated")?;
        context.give(|| d.context_create(flags, device))
    };
    cuCtxDestroy_v2(context: Handle) |d| d.context_destroy(context);
    cuCtxGetCurrent(context: Out<Handle>) |_| context.give(|| Ok(thread::current().unwrap_or(0)));
    cuCtxSetCurrent(context: Handle) |d| d.set_current(context);
    cuCtxPushCurrent_v2(context: Handle) |d| d.push_current(context);
    cuCtxPopCurrent_v2(context: Out<Handle>) |d| {
        let popped = d.pop_current()?;
        context.offer(popped)
    };
    cuCtxGetDevice(device: Out<i32>) |d| device.give(|| Ok(d.current()?.device as i32));
    cuCtxGetFlags(flags: Out<u32>) |d| flags.give(|| Ok(d.current()?.flags));
    cuCtxSetFlags(flags: u32) |d| d.set_context_flags(flags);
    cuCtxGetId(context: Handle, id: Out<u64>) |d| id.give(|| {
        let context = if context == 0 { d.context()? } else { context };
        d.contexts.get(context).map(|_| context)
    });
    cuCtxGetApiVersion(context: Handle, version: Out<u32>) |d| version.give(|| {
        let context = if context == 0 { d.context()? } else { context };
        d.contexts.get(context).map(|_| 3020)
    });
    cuCtxGetCacheConfig(config: Out<u32>) |d| config.give(|| Ok(d.current()?.cache_config));
    cuCtxSetCacheConfig(config: u32) |d| d.set_cache_config(config);
    cuCtxGetSharedMemConfig(config: Out<u32>) |d| config.give(|| Ok(d.current()?.shared_config));
    cuCtxSetSharedMemConfig(config: u32) |d| {
        require(config <= 2, Code::InvalidValue, format!("bank configuration {config}"))?;
        d.current_mut()?.shared_config = config;
        Ok(())
    };
    cuCtxGetLimit(value: Out<usize>, limit: i32) |d| {
        require((0..=10).contains(&limit), Code::InvalidValue, format!("limit {limit}"))?;
        value.give(|| d.limit(limit))
    };
    cuCtxSetLimit(limit: i32, value: usize) |d| d.set_limit(limit, value);
    cuCtxResetPersistingL2Cache() |d| d.context().map(drop);
    cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) |d| {
        d.context()?;
        least.offer(PRIORITIES.1)?;
        greatest.offer(PRIORITIES.0)
    };
    cuCtxSynchronize() |d| d.context_synchronize();
    cuProfilerStart() |d| d.profiler(true);
    cuProfilerStop() |d| d.profiler(false);
    cuCtxAttach(_context: Out<Handle>, _flags: u32) |_| refuse(Code::NotSupported, "cuCtxAttach is deprecated");
}
