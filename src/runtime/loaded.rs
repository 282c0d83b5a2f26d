//! A model file opened and understood, before any device has seen it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
use crate::device::reference::{Mode, ReferenceDevice};
use crate::device::{Device, DeviceError, Limits};
use crate::model::{ModelSpec, Program, build_spec};
use crate::weights::{GgufFile, TensorSource, TensorView, WeightsError};

use super::DeviceChoice;

/// Told, while a model is loaded, how many bytes of its tensors have been read or are being read.
pub type OnProgress<'a> = dyn Fn(u64) + Sync + 'a;

/// A mapped model file and its spec.
#[derive(Debug)]
pub struct LoadedModel {
    file: GgufFile,
    spec: ModelSpec,
}

impl LoadedModel {
    /// Opens and validates the file at `path`.
    pub fn open(path: &Path) -> Result<LoadedModel, WeightsError> {
        let file = GgufFile::open(path)?;
        let spec = build_spec(file.metadata(), &file)?;
        Ok(LoadedModel { file, spec })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// Bytes of all tensors as stored.
    pub fn tensor_bytes(&self) -> u64 {
        self.file.tensors().map(|t| t.data.len() as u64).sum()
    }

    /// Weights of all tensors.
    pub fn num_parameters(&self) -> u64 {
        self.file.tensors().map(|t| t.rows * t.cols).sum()
    }

    /// Architecture and the format that most weights are in, such as `llama Q4_1`.
    pub fn description(&self) -> String {
        let mut weights_by_format = std::collections::BTreeMap::new();
        for TensorView { dtype, rows, cols, .. } in self.file.tensors() {
            *weights_by_format.entry(dtype).or_insert(0) += rows * cols;
        }
        let most = weights_by_format.iter().max_by_key(|(_, weights)| **weights).map(|(dtype, _)| dtype.name());
        format!("{} {}", self.spec.architecture, most.unwrap_or("without tensors"))
    }

    /// Prepares `program` on a device, telling `on_progress` how many bytes of tensors it has come to. The file may be closed
    /// afterwards; that it did not change while it was read is checked here.
    pub fn prepare(
        &self,
        program: &Program,
        choice: DeviceChoice,
        limits: &Limits,
        on_progress: &OnProgress<'_>,
    ) -> Result<Box<dyn Device>, DeviceError> {
        let source = Watched { file: &self.file, bytes: AtomicU64::new(0), on_progress };
        let device: Box<dyn Device> = match choice {
            DeviceChoice::Auto => prepare_fastest(program, &source, limits)?,
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda => Box::new(CudaDevice::prepare(program, &source, limits, 0)?),
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Cuda => {
                return Err(DeviceError::NoGpu { reason: "this kiln was built without the `cuda` feature".to_owned() });
            }
            DeviceChoice::Cpu => Box::new(CpuDevice::prepare(program, &source, limits)?),
            DeviceChoice::Reference => Box::new(ReferenceDevice::prepare(program, &source, limits, Mode::Int8)?),
        };
        self.file.verify_unchanged()?;
        Ok(device)
    }

    /// Bytes of KV cache that a device has room for beside the weights; `None` where that is the host's memory.
    pub fn cache_bytes_max(&self, choice: DeviceChoice) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if choice == DeviceChoice::Cuda || choice == DeviceChoice::Auto && CudaDevice::is_hardware(0).unwrap_or(false) {
            let free_bytes = CudaDevice::free_bytes(0).ok()?;
            return Some((free_bytes - free_bytes / 8).saturating_sub(self.tensor_bytes()));
        }
        let _ = choice;
        None
    }
}

/// A GPU if there is a real one that can be used, else the CPU; says so where a GPU is there but cannot be used.
fn prepare_fastest(
    program: &Program,
    weights: &dyn TensorSource,
    limits: &Limits,
) -> Result<Box<dyn Device>, DeviceError> {
    #[cfg(feature = "cuda")]
    if or_cpu(CudaDevice::is_hardware(0))? == Some(true)
        && let Some(device) = or_cpu(CudaDevice::prepare(program, weights, limits, 0))?
    {
        return Ok(Box::new(device));
    }
    Ok(Box::new(CpuDevice::prepare(program, weights, limits)?))
}

/// A model file whose tensors' bytes are counted as a device asks for them.
struct Watched<'a> {
    file: &'a GgufFile,
    bytes: AtomicU64,
    on_progress: &'a OnProgress<'a>,
}

impl TensorSource for Watched<'_> {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let view = self.file.tensor(name)?;
        let bytes = view.data.len() as u64;
        (self.on_progress)(self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
        Some(view)
    }
}

/// Of errors about a GPU, those after which the CPU does: there is none, it cannot run this program, or its driver does not work.
/// That memory is short is for the user to decide.
#[cfg(feature = "cuda")]
fn or_cpu<T>(result: Result<T, DeviceError>) -> Result<Option<T>, DeviceError> {
    match result {
        Ok(value) => return Ok(Some(value)),
        Err(DeviceError::NoGpu { reason }) => tracing::debug!("{reason}; using the CPU"),
        Err(error @ (DeviceError::Unsupported { .. } | DeviceError::Cuda { .. })) => {
            tracing::warn!("{error}; using the CPU")
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_cpu_can_do_instead_is_done_by_it() {
        let text = || "text".to_owned();
        let too_old = DeviceError::Unsupported { subject: text(), expected: text(), found: text() };
        let no_memory = DeviceError::OutOfMemory { purpose: "", bytes: 1, reason: text(), flag: "--ctx-size" };
        assert!(matches!(or_cpu(Ok(7)), Ok(Some(7))));
        assert!(matches!(or_cpu::<()>(Err(DeviceError::NoGpu { reason: text() })), Ok(None)));
        assert!(matches!(or_cpu::<()>(Err(too_old)), Ok(None)));
        assert!(matches!(or_cpu::<()>(Err(no_memory)), Err(DeviceError::OutOfMemory { .. })));
    }
}
