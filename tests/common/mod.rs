//! What device tests share: the list of devices, synthetic weights, small models.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod llama_file;
pub mod requests;
pub mod simulated;
pub mod synthetic;

use std::path::PathBuf;

use kiln::device::cpu::{CpuDevice, IsaPath};
use kiln::device::reference::{Mode, ReferenceDevice};
use kiln::device::{BatchSeq, Device, DeviceError, InputToken, KvCacheDType, Limits};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::Program;
use kiln::weights::{GgufFile, TensorSource};

type Prepare = dyn Fn(&Program, &dyn TensorSource, &Limits) -> Result<Box<dyn Device>, DeviceError>;

/// A device under test.
pub struct Tested {
    pub name: String,
    pub prepare: Box<Prepare>,
}

impl Tested {
    fn new(
        name: impl Into<String>,
        prepare: impl Fn(&Program, &dyn TensorSource, &Limits) -> Result<Box<dyn Device>, DeviceError> + 'static,
    ) -> Tested {
        Tested { name: name.into(), prepare: Box::new(prepare) }
    }

    /// The same device with an int8 cache, whatever the limits say.
    pub fn with_int8_cache(self) -> Tested {
        let prepare = self.prepare;
        Tested::new(format!("{} with an int8 cache", self.name), move |program, weights, limits| {
            prepare(program, weights, &Limits { kv_cache_dtype: KvCacheDType::Int8, ..limits.clone() })
        })
    }

    /// Whether it adds products of 16-bit floats in tensor cores, whose order of sums is their own.
    pub fn has_tensor_cores(&self) -> bool {
        self.name.starts_with("cuda")
    }

    /// The device, ready to run `program`.
    pub fn ready(&self, program: &Program, weights: &dyn TensorSource, limits: &Limits) -> Box<dyn Device> {
        (self.prepare)(program, weights, limits).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// The oracle.
pub fn reference(mode: Mode) -> Tested {
    Tested::new(format!("reference {mode:?}"), move |program, weights, limits| {
        Ok(Box::new(ReferenceDevice::prepare(program, weights, limits, mode)?))
    })
}

/// The CUDA device, on the GPU that the process sees.
#[cfg(feature = "cuda")]
pub fn cuda() -> Tested {
    Tested::new("cuda", |program, weights, limits| {
        Ok(Box::new(kiln::device::cuda::CudaDevice::prepare(program, weights, limits, 0)?))
    })
}

/// The CPU device on every instruction set of this machine.
pub fn cpus() -> Vec<Tested> {
    let cpu = |path: IsaPath| {
        Tested::new(format!("cpu {}", path.name()), move |program, weights, limits| {
            Ok(Box::new(CpuDevice::prepare_on(program, weights, limits, path)?))
        })
    };
    IsaPath::available().into_iter().map(cpu).collect()
}

/// Every device that is not the oracle. A new device joins all suites here.
pub fn devices() -> Vec<Tested> {
    #[cfg(feature = "cuda")]
    if simulated::is_child() {
        return vec![cuda()];
    }
    cpus()
}

/// Where `cargo xtask test` puts the default model.
pub fn smollm2_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf")
}

/// The default model.
pub fn smollm2() -> GgufFile {
    let file = GgufFile::open(&smollm2_path());
    file.unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask test`, which fetches the model"))
}

/// Limits for one sequence of `context` positions that may be one step.
pub fn limits_one_sequence(context: u32, logit_rows_max: u32) -> Limits {
    Limits {
        slots_max: 1,
        context_tokens_max: context,
        step_rows_max: context,
        logit_rows_max,
        block_tokens: 16,
        num_blocks: context.div_ceil(16),
        kv_cache_dtype: KvCacheDType::F16,
        threads: 2,
    }
}

/// Rows of known tokens from `position_start` on.
pub fn rows_of(ids: &[u32], position_start: u32, block_table: &[BlockId], logit_rows: Vec<u32>) -> BatchSeq {
    BatchSeq {
        slot: SlotId(0),
        position_start,
        tokens: ids.iter().map(|id| InputToken::Id(TokenId(*id))).collect(),
        block_table: block_table.to_vec(),
        logit_rows,
    }
}

/// The index of the largest value; the lower one wins ties. NaN is never the largest.
pub fn argmax(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// The natural log-probability of every token.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    logits.iter().map(|l| f64::from(l - max) - sum.ln()).collect()
}
