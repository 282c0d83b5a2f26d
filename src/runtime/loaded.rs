//! A model file opened and understood, before any device has seen it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use crate::device::cuda::{CudaDevice, OpenGpu};
use crate::device::reference::{Mode, ReferenceDevice};
use crate::device::{Device, DeviceError, Limits};
use crate::model::{ModelSpec, Program, build_spec};
use crate::weights::{DType, GgufFile, TensorSource, TensorView, WeightsError};

use super::DeviceChoice;

/// How far a model's loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of its tensors that have been read or are being read.
    TensorBytes(u64),
    /// Decode steps that a GPU has captured as graphs.
    Graphs { captured: u32, total: u32 },
}

/// Told while a model is loaded.
pub type OnProgress<'a> = dyn Fn(Progress) + Sync + 'a;

/// A device that was chosen and is there, before a model is on it.
#[derive(Debug)]
pub enum OpenDevice {
    #[cfg(feature = "cuda")]
    Cuda(OpenGpu),
    /// The CPU does what this GPU cannot.
    #[cfg(feature = "cuda")]
    CudaOrCpu(OpenGpu),
    Cpu,
    Reference,
}

impl OpenDevice {
    /// `Auto` takes a GPU if there is a real one, else the CPU.
    ///
    /// # Errors
    /// `NoGpu` if one was asked for and there is none.
    pub fn open(choice: DeviceChoice) -> Result<OpenDevice, DeviceError> {
        match choice {
            #[cfg(feature = "cuda")]
            DeviceChoice::Auto => match or_cpu(OpenGpu::open(0))?.filter(OpenGpu::is_hardware) {
                Some(gpu) => Ok(OpenDevice::CudaOrCpu(gpu)),
                None => Ok(OpenDevice::Cpu),
            },
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda => OpenGpu::open(0).map(OpenDevice::Cuda),
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Cuda => {
                Err(DeviceError::NoGpu { reason: "this kiln was built without the `cuda` feature".to_owned() })
            }
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Auto => Ok(OpenDevice::Cpu),
            DeviceChoice::Cpu => Ok(OpenDevice::Cpu),
            DeviceChoice::Reference => Ok(OpenDevice::Reference),
        }
    }

    /// 10^9 bytes per second that the GPU's memory can move; `None` where the host's counts, or the driver does not say.
    pub fn peak_gbytes_per_s(&self) -> Option<f64> {
        match self {
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda(gpu) | OpenDevice::CudaOrCpu(gpu) => gpu.peak_gbytes_per_s(),
            OpenDevice::Cpu | OpenDevice::Reference => None,
        }
    }

    /// Bytes that sequences may take beside weights of `weights_bytes`, an eighth being left for the workspace and everything else;
    /// `None` where that is the host's memory.
    pub fn room_bytes(&self, weights_bytes: u64) -> Result<Option<u64>, DeviceError> {
        match self {
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda(gpu) | OpenDevice::CudaOrCpu(gpu) => {
                let free_bytes = gpu.free_bytes()?;
                Ok(Some((free_bytes - free_bytes / 8).saturating_sub(weights_bytes)))
            }
            OpenDevice::Cpu | OpenDevice::Reference => {
                let _ = weights_bytes;
                Ok(None)
            }
        }
    }
}

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
        let spec = build_spec(file.metadata(), &file).map_err(|error| error.in_file(path))?;
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
        self.file.tensor_bytes()
    }

    /// Weights of all tensors.
    pub fn num_parameters(&self) -> u64 {
        self.file.num_weights()
    }

    /// Architecture and the format that most weights are in, such as `llama Q4_1`.
    pub fn description(&self) -> String {
        let format = self.file.main_format().map_or("without tensors", DType::name);
        format!("{} {format}", self.spec.architecture)
    }

    /// Prepares `program` on a device, telling `on_progress` how far that has come. The file may be closed afterwards; that it did
    /// not change while it was read is checked here.
    pub fn prepare(
        &self,
        program: &Program,
        device: OpenDevice,
        limits: &Limits,
        on_progress: &OnProgress<'_>,
    ) -> Result<Box<dyn Device>, DeviceError> {
        let source = Watched { file: &self.file, bytes: AtomicU64::new(0), on_progress };
        let prepared = prepare_on(device, program, &source, limits, on_progress)?;
        self.file.verify_unchanged()?;
        Ok(prepared)
    }
}

fn prepare_on(
    device: OpenDevice,
    program: &Program,
    weights: &dyn TensorSource,
    limits: &Limits,
    on_progress: &OnProgress<'_>,
) -> Result<Box<dyn Device>, DeviceError> {
    #[cfg(feature = "cuda")]
    let prepare_cuda = |gpu| {
        let on_graph = |captured, total| on_progress(Progress::Graphs { captured, total });
        CudaDevice::prepare_on(gpu, program, weights, limits, &on_graph)
    };
    Ok(match device {
        #[cfg(feature = "cuda")]
        OpenDevice::Cuda(gpu) => Box::new(prepare_cuda(gpu)?),
        #[cfg(feature = "cuda")]
        OpenDevice::CudaOrCpu(gpu) => match or_cpu(prepare_cuda(gpu))? {
            Some(device) => Box::new(device),
            None => prepare_on(OpenDevice::Cpu, program, weights, limits, on_progress)?,
        },
        OpenDevice::Cpu => Box::new(CpuDevice::prepare(program, weights, limits)?),
        OpenDevice::Reference => Box::new(ReferenceDevice::prepare(program, weights, limits, Mode::Int8)?),
    })
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
        (self.on_progress)(Progress::TensorBytes(self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes));
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
