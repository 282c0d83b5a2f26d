//! PTX syntax to programs: names, immediates and special registers become register slots, device functions are inlined, and
//! whatever the executor does not know is an error with file and line.

mod arithmetic;
mod calls;
mod control;
mod convert;
mod fragments;
mod functions;
mod lexer;
mod matrices;
mod memory;
mod modifiers;
mod operands;
mod source;
mod synchronise;
mod text;
mod wgmma;

use crate::gpu::{Gpu, LoadError, LoadedModule};

/// See [`LoadedModule::load`].
pub fn load(gpu: &Gpu, ptx: &str, file: &str) -> Result<LoadedModule, LoadError> {
    let module =
        text::read(ptx).map_err(|(line, message)| LoadError::Unsupported { file: file.to_owned(), line, message })?;
    functions::load(gpu, &module, file)
}
