//! Initialisation, versions, errors, and finding calls by name. These work before `cuInit`.

use std::ffi::c_char;

use super::guarded;
use crate::abi::{Out, Text};
use crate::code::{Code, Res, describe, refuse, require};

/// CUDA 13.0.
const VERSION: i32 = 13000;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> u32 {
    guarded("cuInit", || {
        require(flags == 0, Code::InvalidValue, format!("flags {flags:#x}, expected 0"))?;
        super::initialise()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> u32 {
    guarded("cuDriverGetVersion", || version.give(|| Ok(VERSION)))
}

/// A pointer to a static string, as C has it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct StaticText(*const c_char);

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: u32, text: Out<StaticText>) -> u32 {
    guarded("cuGetErrorName", || tell(error, text, |(name, _)| name.as_ptr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: u32, text: Out<StaticText>) -> u32 {
    guarded("cuGetErrorString", || tell(error, text, |(_, meaning)| meaning.as_ptr()))
}

type Description = (&'static std::ffi::CStr, &'static std::ffi::CStr);

fn tell(error: u32, text: Out<StaticText>, part: fn(Description) -> *const c_char) -> Res {
    match describe(error) {
        Some(description) => text.give(|| Ok(StaticText(part(description)))),
        None => {
            text.give(|| Ok(StaticText(std::ptr::null())))?;
            refuse(Code::InvalidValue, format!("{error} is no error code"))
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress(symbol: Text, address: Out<usize>, version: i32, flags: u64) -> u32 {
    guarded("cuGetProcAddress", || address.give(|| find(&symbol.get()?, version, flags)?.or_else(SymbolStatus::refuse)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    address: Out<usize>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> u32 {
    guarded("cuGetProcAddress_v2", || {
        let found = find(&symbol.get()?, version, flags)?;
        status.offer(found.as_ref().map_or_else(|&s| s as u32, |_| 0))?;
        address.give(|| Ok(*found.as_ref().unwrap_or(&0)))?;
        found.map(drop).or_else(SymbolStatus::refuse)
    })
}

/// `CUdriverProcAddressQueryResult`, for names without an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SymbolStatus {
    NotFound = 1,
    /// The call is newer than the version that was asked for.
    VersionNotSufficient = 2,
}

impl SymbolStatus {
    fn refuse<T>(self) -> Res<T> {
        match self {
            SymbolStatus::NotFound => refuse(Code::NotFound, "no call has this name"),
            SymbolStatus::VersionNotSufficient => {
                refuse(Code::NotFound, "the call is newer than the version asked for")
            }
        }
    }
}

/// CUDA versions in which forms of calls appeared, where that is later than 4.0, which brought most `_v2`.
const SINCE: &[(&str, i32)] = &[
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuDeviceGetUuid_v2", 11040),
    ("cuDevicePrimaryCtxRelease_v2", 11000),
    ("cuDevicePrimaryCtxReset_v2", 11000),
    ("cuDevicePrimaryCtxSetFlags_v2", 11000),
    ("cuEventElapsedTime_v2", 12080),
    ("cuEventRecordWithFlags", 11010),
    ("cuGetProcAddress", 11030),
    ("cuGetProcAddress_v2", 12000),
    ("cuGraphAddDependencies_v2", 12030),
    ("cuGraphAddKernelNode_v2", 12000),
    ("cuGraphExecKernelNodeSetParams_v2", 12000),
    ("cuGraphExecUpdate_v2", 12000),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphInstantiateWithFlags", 11040),
    ("cuGraphInstantiateWithParams", 12000),
    ("cuGraphKernelNodeSetParams_v2", 12000),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuKernelGetFunction", 12000),
    ("cuLaunchKernelEx", 11060),
    ("cuLibraryGetKernel", 12000),
    ("cuLibraryLoadData", 12000),
    ("cuMemAdvise_v2", 12020),
    ("cuMemAllocAsync", 11020),
    ("cuMemFreeAsync", 11020),
    ("cuMemPrefetchAsync_v2", 12020),
    ("cuOccupancyMaxActiveClusters", 11070),
    ("cuOccupancyMaxPotentialClusterSize", 11070),
    ("cuStreamBeginCapture_v2", 10010),
    ("cuStreamGetCaptureInfo_v2", 11030),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuTensorMapEncodeIm2col", 12000),
    ("cuTensorMapEncodeTiled", 12000),
    ("cuTensorMapReplaceAddress", 12000),
];

/// The newest form of a call that the version has. Forms are told apart by suffixes of their exported names, which callers leave
/// out.
fn find(symbol: &str, version: i32, flags: u64) -> Res<Result<usize, SymbolStatus>> {
    require(flags <= 2, Code::InvalidValue, format!("flags {flags:#x}"))?;
    require(flags != 2, Code::NotSupported, "calls whose null stream is the thread's own are not simulated")?;
    require(version >= 2000, Code::InvalidValue, format!("CUDA version {version}"))?;
    let table = super::table();
    // Since CUDA 12 this name means another call.
    let renamed =
        if symbol == "cuGraphInstantiate" && version >= 12000 { "cuGraphInstantiateWithFlags" } else { symbol };
    let forms = ["_v4", "_v3", "_v2", ""].map(|suffix| format!("{renamed}{suffix}"));
    let forms: Vec<_> = forms.iter().filter_map(|form| table.iter().find(|(name, _)| name == form)).collect();
    let is_old_enough = |name: &str| SINCE.iter().all(|&(n, since)| n != name || since <= version);
    Ok(match forms.iter().find(|(name, _)| is_old_enough(name)) {
        Some(&&(_, address)) => Ok(address),
        None if forms.is_empty() => Err(SymbolStatus::NotFound),
        None => Err(SymbolStatus::VersionNotSufficient),
    })
}

/// The calls above by name.
pub fn table() -> Vec<(&'static str, usize)> {
    vec![
        ("cuInit", cuInit as *const () as usize),
        ("cuDriverGetVersion", cuDriverGetVersion as *const () as usize),
        ("cuGetErrorName", cuGetErrorName as *const () as usize),
        ("cuGetErrorString", cuGetErrorString as *const () as usize),
        ("cuGetProcAddress", cuGetProcAddress as *const () as usize),
        ("cuGetProcAddress_v2", cuGetProcAddress_v2 as *const () as usize),
    ]
}
