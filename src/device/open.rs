//! Which device there is, and a program prepared on it.

use crate::model::Program;
use crate::weights::TensorSource;

use super::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use super::cuda::{CudaDevice, OpenGpu};
use super::reference::{Mode, ReferenceDevice};
use super::{Device, DeviceError, GpuKind, Limits, free_bytes};

/// What runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest device there is.
    #[default]
    Auto,
    /// A GPU of at least compute capability 8.0.
    Cuda,
    Cpu,
    Reference,
}

/// More than this is not offered of the host's memory, which everything else that runs shares.
const HOST_ROOM_BYTES_MAX: u64 = 4 << 30;

/// Told how many of how many decode steps a GPU has captured as graphs.
pub type OnGraph<'a> = dyn Fn(u32, u32) + 'a;

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
            DeviceChoice::Auto => match or_cpu(OpenGpu::open(0))?.filter(|gpu| gpu.kind() == GpuKind::Hardware) {
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

    /// The kind of GPU that was opened, if it is one.
    pub fn gpu_kind(&self) -> Option<GpuKind> {
        match self {
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda(gpu) | OpenDevice::CudaOrCpu(gpu) => Some(gpu.kind()),
            OpenDevice::Cpu | OpenDevice::Reference => None,
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
    /// of the host's memory no more than 4 GiB. `None` where the system does not say how much is free.
    pub fn room_bytes(&self, weights_bytes: u64) -> Result<Option<u64>, DeviceError> {
        let room = |free_bytes: u64| (free_bytes - free_bytes / 8).saturating_sub(weights_bytes);
        Ok(match self {
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda(gpu) | OpenDevice::CudaOrCpu(gpu) => Some(room(gpu.free_bytes()?)),
            OpenDevice::Cpu | OpenDevice::Reference => free_bytes().map(|free| room(free).min(HOST_ROOM_BYTES_MAX)),
        })
    }

    /// Prepares `program` here.
    ///
    /// # Errors
    /// `OutOfMemory` and `Threads` with the numbers, `Unsupported` for what the device cannot run, and what is wrong with the weights.
    pub fn prepare(
        self,
        program: &Program,
        weights: &dyn TensorSource,
        limits: &Limits,
        on_graph: &OnGraph<'_>,
    ) -> Result<Box<dyn Device>, DeviceError> {
        #[cfg(not(feature = "cuda"))]
        let _ = on_graph;
        Ok(match self {
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda(gpu) => Box::new(CudaDevice::prepare_on(gpu, program, weights, limits, on_graph)?),
            #[cfg(feature = "cuda")]
            OpenDevice::CudaOrCpu(gpu) => {
                match or_cpu(CudaDevice::prepare_on(gpu, program, weights, limits, on_graph))? {
                    Some(device) => Box::new(device),
                    None => OpenDevice::Cpu.prepare(program, weights, limits, on_graph)?,
                }
            }
            OpenDevice::Cpu => Box::new(CpuDevice::prepare(program, weights, limits)?),
            OpenDevice::Reference => Box::new(ReferenceDevice::prepare(program, weights, limits, Mode::Int8)?),
        })
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
    use super::super::Purpose;
    use super::*;

    #[test]
    fn only_what_the_cpu_can_do_instead_is_done_by_it() {
        let text = || "text".to_owned();
        let too_old = DeviceError::Unsupported { subject: text(), expected: text(), found: text() };
        let purpose = Purpose::KvArena;
        let no_memory = DeviceError::OutOfMemory { purpose, asked_bytes: 1, free_bytes: None, reason: text() };
        assert!(matches!(or_cpu(Ok(7)), Ok(Some(7))));
        assert!(matches!(or_cpu::<()>(Err(DeviceError::NoGpu { reason: text() })), Ok(None)));
        assert!(matches!(or_cpu::<()>(Err(too_old)), Ok(None)));
        assert!(matches!(or_cpu::<()>(Err(no_memory)), Err(DeviceError::OutOfMemory { .. })));
    }
}
