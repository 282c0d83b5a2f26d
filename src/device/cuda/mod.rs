//! The CUDA device: hand-written kernels (`cuda/`), one parameter struct each, launched on one stream.
//!
//! `driver` talks to the GPU, `upload` brings the weights into tiles, `plan` makes launches of a program, `inputs` is what changes from
//! step to step, `nvtx` names them for profiling tools, `abi` is shared with the kernels.

mod abi;
mod checkpoints;
mod driver;
mod graphs;
mod inputs;
mod kernels;
mod nvtx;
mod plan;
mod sampler;
mod slots;
mod upload;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::model::Program;
use crate::weights::TensorSource;

use super::host::CallOrder;
use super::sampler::SampleRow;
use super::{
    Batch, BlockCopy, Checkpoint, Device, DeviceError, GpuKind, Limits, MemoryUse, Profiler, Purpose, StepOutput,
};

use abi::*;
use driver::{DeviceBuffer, Event, Gpu, PinnedBuffer};
use graphs::DecodeGraphs;
use inputs::StepShape;
use kernels::{Kernels, LARGE_ROWS, LARGE_THREADS, SMALL_ROWS};
use nvtx::Ranges;
use plan::{Launch, Plan, PlannedLinear};
use sampler::{Sampler, StepAddresses};
use slots::Slots;

/// A GPU, opened, with nothing of ours on it.
#[derive(Clone, Debug)]
pub struct OpenGpu(Arc<Gpu>);

impl OpenGpu {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// `NoGpu` without a driver or GPU.
    pub fn open(ordinal: i32) -> Result<OpenGpu, DeviceError> {
        Gpu::open(ordinal).map(OpenGpu)
    }

    /// Whether this is a physical GPU: simulated ones are only used when asked for.
    pub fn kind(&self) -> GpuKind {
        self.0.kind
    }

    /// Free bytes of its memory.
    pub fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.0.bind()?;
        Ok(self.0.memory()?.0)
    }

    /// 10^9 bytes per second that its memory can move, if its driver says so.
    pub fn peak_gbytes_per_s(&self) -> Option<f64> {
        self.0.peak_gbytes_per_s()
    }
}

/// The device.
#[derive(Debug)]
pub struct CudaDevice {
    // Dropped in this order: what was allocated before the context it was allocated in.
    graphs: DecodeGraphs,
    plan: Plan,
    sampler: Sampler,
    /// One per step in flight: its inputs on the host, and its end.
    staging: [PinnedBuffer; STEPS_IN_FLIGHT],
    ends: [Event; STEPS_IN_FLIGHT],
    copies: DeviceBuffer,
    kernels: Kernels,
    gpu: Arc<Gpu>,
    ranges: Ranges,
    order: CallOrder,
    vocab_size: usize,
    hidden_size: usize,
    /// Submitted, but for its launches, which wait for what is sampled.
    open: Option<Step>,
    /// Launched and not collected.
    queue: VecDeque<Step>,
    /// Steps submitted.
    num_steps: usize,
    /// The last collected step.
    last: Batch,
}

/// A step on its way.
#[derive(Debug)]
struct Step {
    batch: Batch,
    shape: StepShape,
    samples: Vec<SampleRow>,
    chains: u32,
    /// Which of the buffers.
    buffer: usize,
}

const STEPS_IN_FLIGHT: usize = 2;

/// Blocks of one launch of the copy kernel.
const COPIES_MAX: usize = 1024;

impl CudaDevice {
    /// Like `prepare_on`, of GPU `ordinal`.
    ///
    /// # Errors
    /// `NoGpu` without a driver or GPU, and those of `prepare_on`.
    pub fn prepare(
        program: &Program,
        weights: &dyn TensorSource,
        limits: &Limits,
        ordinal: i32,
    ) -> Result<CudaDevice, DeviceError> {
        CudaDevice::prepare_on(OpenGpu::open(ordinal)?, program, weights, limits, &|_, _| {})
    }

    /// Uploads the weights of `program` and allocates everything for `limits`. When decode steps are captured as graphs, `on_graph` is
    /// told how many of how many there are.
    ///
    /// # Errors
    /// `OutOfMemory` with what it was for, `Unsupported` for what no kernel does.
    pub fn prepare_on(
        OpenGpu(gpu): OpenGpu,
        program: &Program,
        weights: &dyn TensorSource,
        limits: &Limits,
        on_graph: &dyn Fn(u32, u32),
    ) -> Result<CudaDevice, DeviceError> {
        gpu.bind()?;
        let kernels = Kernels::load(&gpu)?;
        let slots = Slots::new(&gpu, program.vocab_size, limits)?;
        let plan = Plan::new(&gpu, &kernels, program, weights, limits, slots.params.last_sampled)?;
        let inputs = plan.inputs.address();
        let at =
            StepAddresses { step: inputs, sample_rows: inputs + plan.layout.sample_rows, logits: plan.work.logits };
        let sampler = Sampler::new(&gpu, slots, limits, at)?;
        let staging = || PinnedBuffer::zeroed(&gpu, Purpose::StepInputs, plan.layout.bytes as usize);
        let staging = [staging()?, staging()?];
        let ends = [Event::new(&gpu)?, Event::new(&gpu)?];
        let copies = DeviceBuffer::zeroed(&gpu, Purpose::BlockCopies, 8 * COPIES_MAX as u64)?;
        let mut device = CudaDevice {
            graphs: DecodeGraphs::default(),
            plan,
            sampler,
            staging,
            ends,
            copies,
            kernels,
            gpu,
            ranges: Ranges::connect(),
            order: CallOrder::new(limits, program.vocab_size, STEPS_IN_FLIGHT),
            vocab_size: program.vocab_size as usize,
            hidden_size: program.hidden_size as usize,
            open: None,
            queue: VecDeque::new(),
            num_steps: 0,
            last: Batch::default(),
        };
        device.graphs = DecodeGraphs::capture(&device.gpu, program, limits, on_graph, |rows| {
            let _capture = device.ranges.open(|| format!("capture of {rows} rows"));
            device.queue_kernels(&device.plan.layout.decode_shape(rows), rows)
        })?;
        device.gpu.synchronise()?;
        let (memory, (free, total)) = (device.memory(), device.gpu.memory()?);
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        tracing::info!(
            "{}: {} MiB of weights, {} MiB of KV arena ({} blocks of {} tokens), {} MiB of workspace, for {} sequences of up to {} \
             tokens; {} of {} MiB are free",
            device.name(),
            mib(memory.weights_bytes),
            mib(memory.kv_arena_bytes),
            limits.num_blocks,
            limits.block_tokens,
            mib(memory.workspace_bytes),
            limits.slots_max,
            limits.context_tokens_max,
            mib(free),
            mib(total),
        );
        Ok(device)
    }

    /// Runs `work` and waits for it. The time is the GPU's own, from the end of what was queued before to the end of `work`.
    pub fn timed(
        &mut self,
        work: impl FnOnce(&mut CudaDevice) -> Result<(), DeviceError>,
    ) -> Result<Duration, DeviceError> {
        self.gpu.bind()?;
        let (start, end) = (Event::timing(&self.gpu)?, Event::timing(&self.gpu)?);
        start.record()?;
        work(self)?;
        end.record()?;
        end.synchronise()?;
        end.since(&start)
    }

    /// Queues the open step, if there is one: one upload, then its kernels, which are one graph if every sequence decodes.
    fn flush(&mut self) -> Result<(), DeviceError> {
        let Some(step) = self.open.take() else { return Ok(()) };
        let _step = self.ranges.open(|| format!("step {}: {} rows", self.num_steps, step.shape.rows));
        self.plan.inputs.upload(0, &self.staging[step.buffer].bytes()[..step.shape.upload_bytes])?;
        let decodes = step.shape.is_decode && step.chains == step.shape.rows;
        match self.graphs.for_rows(step.shape.rows).filter(|_| decodes) {
            Some(graph) => graph.launch()?,
            None => self.queue_kernels(&step.shape, step.chains)?,
        }
        self.ends[step.buffer].record()?;
        self.queue.push_back(step);
        Ok(())
    }

    fn queue_kernels(&self, shape: &StepShape, chains: u32) -> Result<(), DeviceError> {
        for stages in self.plan.stages.chunk_by(|a, b| a.layer == b.layer) {
            let _layer = stages[0].layer.map(|layer| self.ranges.open(|| format!("layer {layer}")));
            for stage in stages {
                let _stage = self.ranges.open(|| format!("{:?}", stage.stage));
                for launch in &stage.launches {
                    self.launch(launch, shape)?;
                }
            }
        }
        let _sample = self.ranges.open(|| "Sample".to_owned());
        self.sampler.launch(chains)
    }

    fn launch(&self, launch: &Launch, shape: &StepShape) -> Result<(), DeviceError> {
        let (gpu, kernels, rows) = (&self.gpu, &self.kernels, shape.rows);
        match launch {
            Launch::Embed(p) => gpu.launch(&kernels.embed, [rows, 1, 1], 256, p),
            Launch::Linear(linear) => {
                let rows = if linear.params.linear.logit_rows == 0 { rows } else { shape.logit_rows };
                self.launch_linear(linear, rows)
            }
            Launch::Attend(p, kernel) => {
                let grid = [shape.attend_ctas, p.kv_heads, 1];
                gpu.launch(&kernels.attend[*kernel], grid, KILN_ATTEND_THREADS, p.as_ref())
            }
            Launch::QuantiseAttended(p) => {
                gpu.launch(&kernels.quantise, [rows, 1, 1], 256, &KilnQuantiseParams { num_rows: rows, ..*p })
            }
        }
    }
}

impl CudaDevice {
    /// One launch for one or two rows; else the norm first, then matrix-vector for up to 8 rows and matrix-matrix above: the same bits.
    fn launch_linear(&self, linear: &PlannedLinear, rows: u32) -> Result<(), DeviceError> {
        let (gpu, kernels, p) = (&self.gpu, &self.kernels, &linear.params.linear);
        let gated = matches!(p.epilogue, KILN_GATED_SILU | KILN_GATED_GELU);
        let (tiles, threads) = (linear.tiles, linear.threads);
        match (rows, linear.fused) {
            (1..=2, Some(fused)) => {
                let (kernel, fused) = (&kernels.linear_fused[rows as usize - 1], fused[rows as usize - 1]);
                gpu.launch_with(kernel, [fused.ctas, 1, 1], threads, fused.shared_bytes, &linear.params)?;
            }
            _ => {
                if linear.params.norm.norm != 0 {
                    gpu.launch(&kernels.norm, [rows, 1, 1], KILN_NORM_THREADS, &linear.params.norm)?;
                }
                match SMALL_ROWS.iter().position(|&n| rows <= n) {
                    Some(bucket) => gpu.launch(&kernels.linear_small[bucket], [tiles, 1, 1], threads, p)?,
                    None => {
                        let tile_groups = if gated { tiles } else { tiles.div_ceil(2) };
                        let grid = [tile_groups, rows.div_ceil(LARGE_ROWS), 1];
                        gpu.launch(&kernels.linear_large, grid, LARGE_THREADS, p)?;
                    }
                }
            }
        }
        match &linear.finish {
            Some(finish) => gpu.launch(&kernels.finish_qkv, [rows, 1, 1], 128, finish),
            None => Ok(()),
        }
    }
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        let (major, minor) = self.gpu.capability;
        format!("cuda ({}, compute capability {major}.{minor})", self.gpu.name)
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weights_bytes: self.plan.weights.bytes(),
            kv_arena_bytes: self.plan.kv.buffer.bytes(),
            workspace_bytes: self.plan.work.buffer.bytes()
                + self.plan.inputs.bytes()
                + self.copies.bytes()
                + self.sampler.bytes(),
        }
    }

    fn limits(&self) -> &Limits {
        self.order.limits()
    }

    fn gpu_kind(&self) -> Option<GpuKind> {
        Some(self.gpu.kind)
    }

    fn steps_in_flight_max(&self) -> usize {
        self.order.steps_max()
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        self.order.submit(batch)?;
        self.gpu.bind()?;
        self.flush()?;
        let buffer = self.num_steps % STEPS_IN_FLIGHT;
        self.sampler.start(&batch.starts, buffer)?;
        let shape = self.plan.layout.fill(self.staging[buffer].bytes_mut(), batch, buffer)?;
        self.num_steps += 1;
        self.open = Some(Step { batch: batch.clone(), shape, samples: Vec::new(), chains: 0, buffer });
        Ok(())
    }

    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        self.order.sample(rows)?;
        let Some(step) = &mut self.open else { unreachable!("a step was just submitted") };
        let packed;
        (packed, step.chains) = self.sampler.rows(rows);
        self.plan.layout.fill_samples(self.staging[step.buffer].bytes_mut(), &packed, step.chains)?;
        step.samples = rows.to_vec();
        self.gpu.bind()?;
        self.flush()
    }

    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        self.order.collect()?;
        self.gpu.bind()?;
        self.flush()?;
        let Some(step) = self.queue.pop_front() else { unreachable!("a step is in flight") };
        self.ends[step.buffer].synchronise()?;
        let sampled = self.sampler.results(&step.samples, step.buffer);
        self.last = step.batch;
        Ok(StepOutput { sampled })
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        self.order.copy_blocks(copies)?;
        self.gpu.bind()?;
        self.flush()?;
        for copies in copies.chunks(COPIES_MAX) {
            let pairs: Vec<[u32; 2]> = copies.iter().map(|c| [c.from.0, c.to.0]).collect();
            self.copies.upload(0, &pairs)?;
            let params = KilnCopyBlocksParams {
                cache: self.plan.kv.buffer.address(),
                pairs: self.copies.address(),
                block_stride: self.plan.kv.block_stride,
                num_pairs: pairs.len() as u32,
                pad: 0,
            };
            self.gpu.launch(&self.kernels.copy_blocks, [params.num_pairs, 16, 1], 256, &params)?;
        }
        Ok(())
    }

    fn read(&self, checkpoint: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        self.order.read(checkpoint)?;
        self.gpu.bind()?;
        self.read_checkpoint(checkpoint)
    }

    fn profiler(&mut self, switch: Profiler) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        self.gpu.synchronise()?;
        self.gpu.profiler(switch)
    }

    fn write(&mut self, batch: &Batch, checkpoint: Checkpoint, values: &[f32]) -> Result<(), DeviceError> {
        self.order.write(batch)?;
        self.gpu.bind()?;
        self.write_checkpoint(batch, checkpoint, values)
    }
}
