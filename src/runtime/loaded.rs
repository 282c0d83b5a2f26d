//! A model file opened and understood, before any device has seen it.

use std::path::Path;

use crate::device::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
use crate::device::reference::{Mode, ReferenceDevice};
use crate::device::{Device, DeviceError, Limits};
use crate::model::{ModelSpec, Program, build_spec};
use crate::weights::{GgufFile, TensorView, WeightsError};

use super::DeviceChoice;

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

    /// Prepares `program` on a device. The file may be closed afterwards; that it did not change while it was read is
    /// checked here.
    pub fn prepare(
        &self,
        program: &Program,
        choice: DeviceChoice,
        limits: &Limits,
    ) -> Result<Box<dyn Device>, DeviceError> {
        let device: Box<dyn Device> = match choice {
            DeviceChoice::Auto => self.prepare_fastest(program, limits)?,
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda => Box::new(CudaDevice::prepare(program, &self.file, limits, 0)?),
            #[cfg(not(feature = "cuda"))]
            DeviceChoice::Cuda => {
                return Err(DeviceError::NoGpu { reason: "this kiln was built without the `cuda` feature".to_owned() });
            }
            DeviceChoice::Cpu => Box::new(CpuDevice::prepare(program, &self.file, limits)?),
            DeviceChoice::Reference => Box::new(ReferenceDevice::prepare(program, &self.file, limits, Mode::Int8)?),
        };
        self.file.verify_unchanged()?;
        Ok(device)
    }

    /// A GPU if there is a real one that can be used, else the CPU; says so where a GPU is there but cannot be used.
    fn prepare_fastest(&self, program: &Program, limits: &Limits) -> Result<Box<dyn Device>, DeviceError> {
        #[cfg(feature = "cuda")]
        match CudaDevice::is_hardware(0) {
            Ok(true) => return Ok(Box::new(CudaDevice::prepare(program, &self.file, limits, 0)?)),
            Ok(false) => {}
            Err(DeviceError::NoGpu { reason }) => tracing::debug!("{reason}; using the CPU"),
            Err(error) => tracing::warn!("{error}; using the CPU"),
        }
        Ok(Box::new(CpuDevice::prepare(program, &self.file, limits)?))
    }
}
