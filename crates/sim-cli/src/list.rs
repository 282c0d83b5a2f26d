//! `sim list`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use clap::Args;
use sim_exec::{Gpu, GpuConfig, Kernel, LoadedModule};
use sim_fatbin::EntryKind;

use crate::capability;
use crate::error::Error;
use crate::image::Contents;

/// List the kernels of a file: parameters, registers, memory
#[derive(Debug, Args)]
pub struct ListArgs {
    /// PTX text, a fatbin, or an object file, program or library with fatbins in it
    file: PathBuf,

    /// Compute capability of the device that the PTX is chosen for: 8.0, 8.9, 9.0, 10.0 or 12.0
    #[arg(long, default_value = "9.0", value_parser = capability)]
    cc: (u32, u32),
}

/// Prints what the file holds.
///
/// # Errors
/// When it cannot be read or loaded.
pub fn list(args: &ListArgs) -> Result<(), Error> {
    let contents = Contents::read(&args.file, args.cc)?;
    let mut out = stdout().lock();
    for (arch, kind, bytes) in &contents.entries {
        match kind {
            EntryKind::Ptx => writeln!(out, "PTX for sm_{arch}, {bytes} bytes")?,
            EntryKind::Elf => writeln!(out, "machine code for sm_{arch}")?,
            EntryKind::Other(kind) => writeln!(out, "entry of kind {kind} for sm_{arch}")?,
        }
    }
    for module in &contents.modules {
        let gpu = Gpu::new(GpuConfig { compute_capability: args.cc, ..GpuConfig::default() });
        let loaded = match LoadedModule::load(&gpu, &module.ptx, &args.file.to_string_lossy()) {
            Ok(loaded) => loaded,
            // Other modules of the file may be fine.
            Err(error) if contents.modules.len() > 1 => {
                writeln!(out, "a module for {} cannot be loaded: {error}", module.target)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for kernel in loaded.kernels.values() {
            writeln!(out, "{} ({})", kernel.name, module.target)?;
            print(&mut out, kernel)?;
        }
    }
    Ok(())
}

fn print(out: &mut dyn Write, kernel: &Kernel) -> Result<(), Error> {
    for (i, slot) in kernel.params.iter().enumerate() {
        writeln!(out, "  parameter {i}: {} bytes at {}", slot.bytes, slot.offset)?;
    }
    writeln!(out, "  about {} registers, {} bytes of local memory per thread", kernel.registers, kernel.local_bytes)?;
    writeln!(out, "  {} bytes of static shared memory", kernel.static_shared_bytes)?;
    writeln!(out, "  at most {} threads per CTA", kernel.threads_max())?;
    if let Some([x, y, z]) = kernel.cluster {
        writeln!(out, "  clusters of {x}×{y}×{z} CTAs")?;
    }
    Ok(())
}
