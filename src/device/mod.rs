//! What runs a program. Devices know no sampling policy and no strings: numbers in, numbers out.

mod batch;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod host;
mod open;
pub mod quant;
pub mod reference;
pub mod sampler;

pub use crate::model::KvCacheDType;
pub use batch::{Batch, BatchSeq, InputToken, Limits, MemoryUse, SlotStart, StepOutput};
pub use error::{DeviceError, Dimension, MalformedError, OrderError, Purpose};
pub use host::{LOGIT_BIASES_MAX, REPORTED_TOKENS_MAX, free_bytes};
pub use open::{DeviceChoice, OnGraph, OpenDevice};
pub use sampler::{BadRow, Choice, Penalties, SampleRow, Sampled};

use crate::ids::BlockId;

/// A place in the program where devices can be compared, and, in tests, fed. All values are f32 on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// `[batch row][hidden_size]`: the residual stream as the last `AddNorm` (or `Embed`) left it.
    Residual,
    /// `[batch row][hidden_size]`: what `OutProj` or `Down` wrote last.
    Delta,
    /// `[batch row][num_heads * head_dim]`: queries after bias, norm and RoPE, of the last `Qkv`.
    Query,
    /// `[position][num_kv_heads * head_dim]` of the batch's sequence `seq`, positions `0..` its length after the step.
    Keys { layer: u32, seq: u32 },
    /// Like `Keys`.
    Values { layer: u32, seq: u32 },
    /// `[batch row][num_heads * head_dim]` of the last `Attend`.
    AttendOutput,
    /// `[batch row][intermediate_size]` of the last `GateUp`.
    GatedOutput,
    /// `[logit row][vocab_size]`.
    Logits,
}

/// Copies whole KV-cache blocks, all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    pub from: BlockId,
    pub to: BlockId,
}

/// The switch of a profiling tool that collects only between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profiler {
    Start,
    Stop,
}

/// Whether a GPU is a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuKind {
    Hardware,
    /// Computes the same and measures nothing; used only where it is asked for.
    Simulated,
}

/// A device with a prepared program. Each device's `prepare(program, weights, limits)` makes one; it copies what it
/// needs into its own layout and touches no mapped page afterwards.
///
/// Steps are asynchronous: `submit`, right after it `sample` (if tokens are to be chosen), and later `collect`. At most
/// [`Device::steps_in_flight_max`] steps are submitted and not collected. A submitted batch may name "the last sampled
/// token of a slot" as input, so step n+1 can be submitted before step n is collected.
///
/// # Errors
///
/// All devices refuse the same calls with the same errors (`device/host` checks them), and a refused call has done nothing: the
/// device goes on as if it had not come.
///
/// | call | refused with |
/// |---|---|
/// | a number beyond what the device was prepared for: rows, slots, positions, blocks (in tables and copies), tokens outside the vocabulary, logit rows, biases, tokens to report | `Limit` |
/// | a batch without sequences, a sequence without rows, a slot that starts twice, logit rows that do not ascend, a block that two rows of a batch write | `Malformed` |
/// | sample rows that do not ascend, or name another slot than their logit row's sequence; candidates with log-probabilities | `Malformed` |
/// | copies of which one writes what another reads or writes | `Malformed` |
/// | `submit` of more steps than may be in flight; an input that is the last sampled token of a slot for which nothing was sampled since it started | `Order` |
/// | `sample` anywhere but right after `submit`, or twice | `Order` |
/// | `collect` with nothing in flight | `Order` |
/// | `read` and `write` while a step is in flight | `Order` |
/// | `read` of what the last collected step did not compute | `NoCheckpoint` |
///
/// A step that nothing was sampled from is collected with an empty output. A row that gives no token (`BadRow`) leaves its slot's last
/// sampled token as it was, and token 0 stands in where there is none. Other errors are the device's own, and it is of no more use.
pub trait Device: Send {
    /// A short name for people, such as `cpu (AVX-512 VNNI, 2 threads)`.
    fn name(&self) -> String;

    /// What kind of GPU this is; `None` if it is none.
    fn gpu_kind(&self) -> Option<GpuKind> {
        None
    }

    /// What the device holds, by purpose. Constant after `prepare`.
    fn memory(&self) -> MemoryUse;

    /// The limits it was prepared with.
    fn limits(&self) -> &Limits;

    /// 1: collect each step before the next is submitted. 2: one step in flight.
    fn steps_in_flight_max(&self) -> usize;

    /// Queues one step.
    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError>;

    /// Queues the choice of a token for logit rows of the step just submitted. `rows[i].logit_row` ascends.
    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError>;

    /// Waits for the oldest step that was not collected.
    fn collect(&mut self) -> Result<StepOutput, DeviceError>;

    /// Copies cache blocks, after all queued steps and before later ones. Copies have no order among themselves.
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError>;

    /// Reads a checkpoint of the last collected step.
    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError>;

    /// Tells a profiling tool, once nothing is queued, that the part to look at starts or stops. Devices that such tools do not know do
    /// nothing.
    fn profiler(&mut self, _switch: Profiler) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Sets what `batch`, which must be the next to be submitted, starts from: how tests feed programs of single stages.
    /// Shapes as for `read`. `Keys` and `Values` may hold fewer positions than the sequence has, or more, as far as its
    /// block table reaches.
    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError>;
}
