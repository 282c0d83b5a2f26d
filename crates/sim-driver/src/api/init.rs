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
    guarded("cuGetProcAddress", || address.give(|| find(&symbol.get()?, version, flags)))
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
        let found = find(&symbol.get()?, version, flags);
        // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND is 1.
        status.offer(found.is_err().into())?;
        address.give(|| Ok(found.as_ref().map_or(0, |&a| a)))?;
        found.map(drop)
    })
}

/// The newest form of a call. Forms are told apart by suffixes of their exported names, which callers leave out.
fn find(symbol: &str, version: i32, flags: u64) -> Res<usize> {
    require(flags <= 2, Code::InvalidValue, format!("flags {flags:#x}"))?;
    require((2000..=VERSION).contains(&version), Code::InvalidValue, format!("CUDA version {version}"))?;
    let table = super::table();
    // Since CUDA 12 this name means another call.
    let renamed = if symbol == "cuGraphInstantiate" { "cuGraphInstantiateWithFlags" } else { symbol };
    let forms = ["_v4", "_v3", "_v2", ""].map(|suffix| format!("{renamed}{suffix}"));
    let found = forms.iter().find_map(|form| table.iter().find(|(name, _)| name == form));
    found.map_or_else(|| refuse(Code::NotFound, format!("no call {symbol}")), |&(_, address)| Ok(address))
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
