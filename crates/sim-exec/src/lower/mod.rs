//! PTX syntax to programs: names, immediates and special registers become register slots, device functions are inlined, and
//! whatever the executor does not know is an error with file and line.

mod arithmetic;
mod bulk;
mod calls;
mod control;
mod convert;
mod fragments;
mod functions;
mod matrices;
mod memory;
mod modifiers;
mod operands;
mod registers;
mod synchronise;
mod wgmma;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::gpu::{Gpu, Kernel, LoadError, LoadedModule};

/// Texts that were lowered before, by their hash, with file name and kernels. A module without variables depends on nothing but its text.
type Lowered = Mutex<HashMap<u64, (String, String, BTreeMap<String, Kernel>)>>;

/// Programs load the same few modules again and again; tests do so thousands of times.
fn lowered() -> &'static (RandomState, Lowered) {
    static LOWERED: OnceLock<(RandomState, Lowered)> = OnceLock::new();
    LOWERED.get_or_init(Default::default)
}

/// See [`LoadedModule::load`].
pub fn load(gpu: &Gpu, ptx: &str, file: &str) -> Result<LoadedModule, LoadError> {
    let (hasher, lowered) = lowered();
    let key = hasher.hash_one((ptx, file));
    let known = || lowered.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((text, name, kernels)) = known().get(&key)
        && text == ptx
        && name == file
    {
        return Ok(LoadedModule { kernels: kernels.clone(), globals: BTreeMap::new() });
    }
    let module = sim_ptx::read(ptx).map_err(|(line, message)| LoadError::Unsupported {
        file: file.to_owned(),
        line,
        message,
    })?;
    let loaded = functions::load(gpu, &module, file)?;
    if loaded.globals.is_empty() {
        known().insert(key, (ptx.to_owned(), file.to_owned(), loaded.kernels.clone()));
    }
    Ok(loaded)
}
