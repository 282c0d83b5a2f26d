//! Calls that are there to be found, and refuse: features that no simulation here needs.

use crate::code::{Code, refuse};
use crate::core::table::Handle;

calls! {
    cuImportExternalMemory(_memory: u64, _description: u64) |d| {
        d.context()?;
        refuse(Code::NotSupported, "memory of other interfaces is not simulated")
    };
    cuExternalMemoryGetMappedBuffer(_address: u64, _memory: Handle, _description: u64) |d| {
        d.context()?;
        refuse(Code::InvalidHandle, "there is no external memory")
    };
    cuDestroyExternalMemory(_memory: Handle) |d| {
        d.context()?;
        refuse(Code::InvalidHandle, "there is no external memory")
    };
    cuTensorMapEncodeIm2col(_map: u64) |d| {
        d.context()?;
        refuse(Code::NotSupported, "im2col tensor maps are not simulated")
    };
}
