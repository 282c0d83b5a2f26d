//! A program as launches: parameter structs with every address filled in, once. `weights` says what lies among the weights, `memory`
//! allocates what steps work in, `launches` fills in the structs.

mod launches;
mod memory;
mod weights;

use std::sync::Arc;

use crate::device::host::check_limits;
use crate::device::{DeviceError, KvCacheDType, Limits, Purpose};
use crate::model::{Epilogue, Program, Stage, StageOp};
use crate::weights::TensorSource;

use super::abi::*;
use super::driver::{DeviceBuffer, Gpu};
use super::inputs::StepLayout;
use super::kernels::Kernels;
use super::upload::{WeightPlan, Weights};

pub use launches::with_cols;
pub use memory::{KvArena, KvLayer, Workspace};

/// A stage of the program, for people to find in a profile, with its launches.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    pub stage: Stage,
    /// `None` in front of the first layer and behind the last.
    pub layer: Option<u32>,
    pub launches: Vec<Launch>,
}

/// One launch of a step, but for its grid.
#[derive(Clone, Debug)]
pub enum Launch {
    Embed(KilnEmbedParams),
    Linear(Box<PlannedLinear>),
    /// With the index of the kernel for its cache and head size.
    Attend(Box<KilnAttendParams>, usize),
    /// The attention outputs' int8 blocks, where heads are no whole blocks.
    QuantiseAttended(KilnQuantiseParams),
}

/// A linear and what belongs to it. For one or two rows it is one launch where there is a [`PlannedLinear::fused`]; for more, its norm is a
/// launch of its own in front.
#[derive(Clone, Debug)]
pub struct PlannedLinear {
    /// `params.norm.norm` is 0 if the input rows are there already.
    pub params: KilnFusedParams,
    /// Where the epilogue cannot do it: bias, norms and RoPE of Q, K and V.
    pub finish: Option<KilnFinishQkvParams>,
    /// The fused kernel for one row and for two; `None` if a matrix holds floats, or if the rows do not fit.
    pub fused: Option<[FusedLaunch; 2]>,
    /// Of all matrices; pairs of them if gated.
    pub tiles: u32,
    /// Of a matrix-vector kernel: a warp per segment.
    pub threads: u32,
}

/// How a fused kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct FusedLaunch {
    /// As many as the device holds at once, at most one per tile: each makes its input once.
    pub ctas: u32,
    /// Dynamic.
    pub shared_bytes: u32,
}

/// A program, ready.
#[derive(Debug)]
pub struct Plan {
    pub stages: Vec<PlannedStage>,
    pub weights: Weights,
    pub work: Workspace,
    pub kv: KvArena,
    pub inputs: DeviceBuffer,
    pub layout: StepLayout,
}

impl Plan {
    pub fn new(
        gpu: &Arc<Gpu>,
        kernels: &Kernels,
        program: &Program,
        source: &dyn TensorSource,
        limits: &Limits,
        last_sampled: u64,
    ) -> Result<Plan, DeviceError> {
        check(program, limits)?;
        let mut weight_plan = WeightPlan::default();
        weights::plan(program, &mut weight_plan);
        let ropes = weights::plan_ropes(program, limits, &mut weight_plan)?;
        // The large allocations come before anything is uploaded: what does not fit is known at once.
        let weights = weight_plan.allocate(gpu)?;
        let layout = StepLayout::new(program, limits, gpu.sm_count);
        let inputs = DeviceBuffer::zeroed(gpu, Purpose::StepInputs, layout.bytes)?;
        let kv = KvArena::new(gpu, program, limits)?;
        let mut work = Workspace::new(gpu, program, limits, &layout)?;
        weights.upload(gpu, kernels, source)?;
        let mut builder = launches::Builder {
            gpu,
            kernels,
            program,
            limits,
            weights: &weights,
            ropes,
            layout: &layout,
            inputs: &inputs,
            last_sampled,
            kv: &kv,
            work: &work,
            residual: 0,
        };
        let stages = builder.stages()?;
        work.residual_last = builder.residual;
        Ok(Plan { stages, weights, work, kv, inputs, layout })
    }
}

fn unsupported(subject: &str, expected: &str, found: impl ToString) -> DeviceError {
    DeviceError::Unsupported { subject: subject.into(), expected: expected.into(), found: found.to_string() }
}

fn check(program: &Program, limits: &Limits) -> Result<(), DeviceError> {
    check_limits(limits)?;
    // 16 bytes are copied at once.
    let dims = if limits.kv_cache_dtype == KvCacheDType::Int8 { 16 } else { 8 };
    for op in &program.ops {
        match op {
            StageOp::Attend(op) if !op.head_dim.is_multiple_of(dims) || op.head_dim > KILN_HEAD_DIM_MAX => {
                let expected =
                    format!("a multiple of {dims} with an {} cache, at most 256", limits.kv_cache_dtype.name());
                return Err(unsupported("head_dim", &expected, op.head_dim));
            }
            StageOp::Linear(op) if matches!(op.epilogue, Epilogue::Delta) && op.rows() != program.hidden_size => {
                return Err(unsupported("rows of a delta", &program.hidden_size.to_string(), op.rows()));
            }
            _ => {}
        }
    }
    Ok(())
}
