//! A model file opened and understood, before any device has seen it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::{Device, DeviceError, Limits, OpenDevice};
use crate::model::{ModelSpec, Program, build_spec};
use crate::weights::{DType, GgufFile, TensorSource, TensorView, WeightsError};

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
        let on_graph = |captured, total| on_progress(Progress::Graphs { captured, total });
        let prepared = device.prepare(program, &source, limits, &on_graph)?;
        self.file.verify_unchanged()?;
        Ok(prepared)
    }
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
