//! What runs a program. Devices know no sampling policy and no strings: numbers in, numbers out.

mod batch;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
pub mod quant;
pub mod reference;
pub mod sampler;

pub use crate::model::KvCacheDType;
pub use batch::{Batch, BatchSeq, InputToken, Limits, MemoryUse, SlotStart, StepOutput};
pub use error::DeviceError;
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

/// A device with a prepared program. Each device's `prepare(program, weights, limits)` makes one; it copies what it
/// needs into its own layout and touches no mapped page afterwards.
///
/// Steps are asynchronous: `submit`, `sample`, and later `collect`, in this order for every step. At most
/// [`Device::steps_in_flight_max`] steps are submitted and not collected. A submitted batch may name "the last sampled
/// token of a slot" as input, so step n+1 can be submitted before step n is collected.
pub trait Device: Send {
    /// A short name for people, such as `cpu (AVX-512 VNNI, 2 threads)`.
    fn name(&self) -> String;

    /// What the device holds, by purpose. Constant after `prepare`.
    fn memory(&self) -> MemoryUse;

    /// The limits it was prepared with.
    fn limits(&self) -> &Limits;

    /// 1: collect each step before the next is submitted. 2: one step in flight.
    fn steps_in_flight_max(&self) -> usize;

    /// Queues one step. Errors are about the batch's shape against the limits; the batch is then not queued.
    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError>;

    /// Queues the choice of a token for logit rows of the step just submitted. `rows[i].logit_row` ascends.
    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError>;

    /// Waits for the oldest step that was not collected.
    fn collect(&mut self) -> Result<StepOutput, DeviceError>;

    /// Copies cache blocks, after all queued steps and before later ones.
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError>;

    /// Reads a checkpoint of the last collected step. It may be gone once a later one has been submitted.
    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError>;

    /// Tells a profiling tool, once nothing is queued, that the part to look at starts or stops. Devices that such tools do not know do
    /// nothing.
    fn profiler(&mut self, _switch: Profiler) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Sets what `batch`, which must be the next to be submitted, starts from: how tests feed programs of single stages.
    /// Shapes as for `read`. `Keys` and `Values` may hold fewer positions than the sequence has, or more, as far as its
    /// block table reaches. Not while a step is in flight.
    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError>;
}
