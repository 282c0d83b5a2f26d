//! Stages and whole decode steps at the sizes of SmolLM2-135M and of one layer of Llama-3-8B.
//!
//! `cargo bench --bench stages [FILTER]` runs the cases whose names hold FILTER, such as `linear/cpu/smollm2/Q4_1/1`: kind, device, sizes,
//! format and rows. The CPU is timed by the clock, a GPU by its own events, each with what the host does for a step in it. A simulated GPU
//! has no times: the lines say *simulated*, with what `KILN_SIM_REPORT` counted of one step.
//!
//! `cargo test --bench stages` runs every case once.

#[allow(dead_code, clippy::unwrap_used)] // Made for tests, which use more of it and panic.
#[path = "../tests/common/synthetic.rs"]
mod synthetic;

use std::time::Duration;

use criterion::Criterion;
#[cfg(feature = "cuda")]
use kiln::device::GpuKind;
use kiln::device::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use kiln::device::cuda::{CudaDevice, OpenGpu};
use kiln::device::{
    Batch, BatchSeq, Checkpoint, Choice, Device, DeviceError, InputToken, KvCacheDType, Limits, SampleRow,
};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{AttendOp, DeltaInput, Epilogue, LinearOp, Program, Prologue, Stage, StageOp};
use kiln::weights::DType;

use synthetic::{Rng, Tensors, TinyModel};

const BLOCK_TOKENS: u32 = 16;
/// Rows of a large step.
const ROWS_MAX: u32 = 512;
/// Keys that a decode row sees in a long context.
const CONTEXT_TOKENS: u32 = 4096;

/// Sizes of a model.
#[derive(Clone, Copy)]
struct Sizes {
    name: &'static str,
    layers: u32,
    hidden_size: u32,
    heads: (u32, u32),
    head_dim: u32,
    intermediate_size: u32,
    vocab_size: u32,
}

const SIZES: [Sizes; 2] = [
    Sizes {
        name: "smollm2",
        layers: 30,
        hidden_size: 576,
        heads: (9, 3),
        head_dim: 64,
        intermediate_size: 1536,
        vocab_size: 49152,
    },
    // One of 32 layers: all of them take 4.5 GB.
    Sizes {
        name: "llama-3-8b",
        layers: 1,
        hidden_size: 4096,
        heads: (32, 8),
        head_dim: 128,
        intermediate_size: 14336,
        vocab_size: 128_256,
    },
];

/// What one case runs, again and again.
struct Case {
    program: Program,
    weights: Tensors,
    batch: Batch,
    inputs: Vec<(Checkpoint, Vec<f32>)>,
    samples: Vec<SampleRow>,
}

/// A case that is made when its turn comes.
type Recipe = (&'static str, String, Box<dyn Fn() -> Case>);

fn main() {
    let recipes: Vec<Recipe> = SIZES.iter().flat_map(|sizes| recipes(*sizes)).collect();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for (kind, label, make) in &recipes {
        on_cpu(&mut criterion, kind, label, make.as_ref());
        #[cfg(feature = "cuda")]
        on_gpu(&mut criterion, kind, label, make.as_ref());
    }
    criterion.final_summary();
}

fn recipes(sizes: Sizes) -> Vec<Recipe> {
    let name = sizes.name;
    let mut recipes: Vec<Recipe> = Vec::new();
    for dtype in [DType::Q4_1, DType::Q4_K, DType::Q8_0, DType::BF16] {
        // Rows of Q4_K are whole blocks of 256 weights.
        if dtype == DType::Q4_K && !sizes.hidden_size.is_multiple_of(256) {
            continue;
        }
        for rows in [1, 4, 8, 32, ROWS_MAX] {
            recipes.push(("linear", format!("{name}/{dtype}/{rows}"), Box::new(move || linear(sizes, dtype, rows))));
        }
    }
    for (rows, position) in [(1, CONTEXT_TOKENS - 1), (ROWS_MAX, 0)] {
        let label = format!("{name}/{rows} at {position}");
        recipes.push(("attend", label, Box::new(move || attend(sizes, rows, position))));
    }
    for choice in ["greedy", "draw"] {
        recipes.push(("sample", format!("{name}/{choice}"), Box::new(move || sample(sizes, choice))));
    }
    recipes.push(("decode", format!("{name}/{}", DType::Q4_1), Box::new(move || decode(sizes))));
    recipes
}

/// The output projection: hidden × hidden, nothing fused but the quantisation of its rows.
fn linear(sizes: Sizes, dtype: DType, rows: u32) -> Case {
    let (mut rng, mut weights) = (Rng(1), Tensors::default());
    let matrix = weights.matrix(&mut rng, "matrix", dtype, sizes.hidden_size, sizes.hidden_size);
    let op = LinearOp {
        stage: Stage::OutProj,
        layer: 0,
        prologue: Prologue::AttendOutput,
        weights: vec![matrix],
        epilogue: Epilogue::Delta,
    };
    let input = rng.values((rows * sizes.hidden_size) as usize, 1.0);
    Case {
        program: program(sizes, 1, StageOp::Linear(op)),
        weights,
        batch: batch(rows, 0, &[]),
        inputs: vec![(Checkpoint::AttendOutput, input)],
        samples: Vec::new(),
    }
}

/// Attention alone, of `rows` rows from `position` on.
fn attend(sizes: Sizes, rows: u32, position: u32) -> Case {
    let ((num_heads, num_kv_heads), head_dim) = (sizes.heads, sizes.head_dim);
    let op = AttendOp {
        layer: 0,
        num_heads,
        num_kv_heads,
        head_dim,
        window: None,
        score_scale: 1.0 / (head_dim as f32).sqrt(),
    };
    let mut rng = Rng(2);
    let cached = ((position + rows) * num_kv_heads * head_dim) as usize;
    let inputs = vec![
        (Checkpoint::Query, rng.values((rows * num_heads * head_dim) as usize, 2.0)),
        (Checkpoint::Keys { layer: 0, seq: 0 }, rng.values(cached, 2.0)),
        (Checkpoint::Values { layer: 0, seq: 0 }, rng.values(cached, 2.0)),
    ];
    Case {
        program: program(sizes, 1, StageOp::Attend(op)),
        weights: Tensors::default(),
        batch: batch(rows, position, &[]),
        inputs,
        samples: Vec::new(),
    }
}

/// The sampler over a whole vocabulary, behind a head that is as small as can be: 32 columns.
fn sample(sizes: Sizes, choice: &'static str) -> Case {
    const HIDDEN_SIZE: u32 = 32;
    let (mut rng, mut weights) = (Rng(3), Tensors::default());
    let matrix = weights.matrix(&mut rng, "matrix", DType::Q8_0, sizes.vocab_size, HIDDEN_SIZE);
    let norm = weights.vector(&mut rng, "norm", HIDDEN_SIZE, 1.0, 0.0);
    let op = LinearOp {
        stage: Stage::Head,
        layer: 0,
        prologue: Prologue::AddNorm { delta: DeltaInput::None, norm, norm_eps: 1e-5 },
        weights: vec![matrix],
        epilogue: Epilogue::Logits,
    };
    let draw = Choice::Draw {
        temperature: 0.8,
        top_k: 40,
        top_p_q32: (0.95 * (1u64 << 32) as f64) as u64,
        min_p: 0.05,
        seed: 1,
        choice_index: 0,
        output_index: 0,
    };
    let choice_of_row = if choice == "greedy" { Choice::Greedy } else { draw };
    let small = Sizes { hidden_size: HIDDEN_SIZE, ..sizes };
    Case {
        program: program(small, sizes.vocab_size, StageOp::Linear(op)),
        weights,
        batch: batch(1, 0, &[0]),
        inputs: vec![(Checkpoint::Residual, rng.values(HIDDEN_SIZE as usize, 1.0))],
        samples: vec![SampleRow::plain(0, SlotId(0), choice_of_row)],
    }
}

/// A decode step of all layers that sees 128 keys.
fn decode(sizes: Sizes) -> Case {
    // Beside a single layer, the whole head would be all that is seen.
    let vocab_size = if sizes.layers > 1 { sizes.vocab_size } else { 1024 };
    let (mut spec, weights) = TinyModel {
        num_layers: sizes.layers,
        hidden_size: sizes.hidden_size,
        num_heads: sizes.heads.0,
        num_kv_heads: sizes.heads.1,
        head_dim: sizes.head_dim,
        intermediate_size: sizes.intermediate_size,
        vocab_size,
        window: None,
        dtype: DType::Q4_1,
    }
    .build(1);
    for layer in &mut spec.layers {
        (layer.tensors.q_bias, layer.tensors.k_bias) = (None, None);
    }
    Case {
        program: Program::of(&spec),
        weights,
        batch: batch(1, 127, &[0]),
        inputs: Vec::new(),
        samples: vec![SampleRow::plain(0, SlotId(0), Choice::Greedy)],
    }
}

fn program(sizes: Sizes, vocab_size: u32, op: StageOp) -> Program {
    Program { vocab_size, hidden_size: sizes.hidden_size, rope_tables: Vec::new(), ops: vec![op] }
}

fn batch(rows: u32, position_start: u32, logit_rows: &[u32]) -> Batch {
    let seq = BatchSeq {
        slot: SlotId(0),
        position_start,
        tokens: vec![InputToken::Id(TokenId(0)); rows as usize],
        block_table: (0..(position_start + rows).div_ceil(BLOCK_TOKENS)).map(BlockId).collect(),
        logit_rows: logit_rows.to_vec(),
    };
    Batch { starts: Vec::new(), seqs: vec![seq] }
}

impl Case {
    fn limits(&self) -> Limits {
        let seq = &self.batch.seqs[0];
        let context_tokens_max = seq.position_start + seq.tokens.len() as u32;
        Limits {
            slots_max: 1,
            context_tokens_max,
            step_rows_max: seq.tokens.len() as u32,
            logit_rows_max: 1,
            block_tokens: BLOCK_TOKENS,
            num_blocks: context_tokens_max.div_ceil(BLOCK_TOKENS),
            kv_cache_dtype: KvCacheDType::F16,
            threads: std::thread::available_parallelism().map_or(1, |threads| threads.get() as u32),
        }
    }

    /// Gives a device that was prepared for the case what it starts from.
    fn write_inputs(&self, device: &mut dyn Device) -> Result<(), DeviceError> {
        self.inputs.iter().try_for_each(|(checkpoint, values)| device.write(&self.batch, *checkpoint, values))
    }

    fn step(&self, device: &mut dyn Device) -> Result<(), DeviceError> {
        device.submit(&self.batch)?;
        device.sample(&self.samples)?;
        device.collect().map(drop)
    }
}

fn must<T>(name: &str, result: Result<T, DeviceError>) -> T {
    result.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn on_cpu(criterion: &mut Criterion, kind: &str, label: &str, make: &dyn Fn() -> Case) {
    let name = format!("{kind}/cpu/{label}");
    // Criterion calls this several times for one case.
    let mut ready: Option<(Case, CpuDevice)> = None;
    criterion.bench_function(&name, |bencher| {
        let (case, device) = ready.get_or_insert_with(|| {
            let case = make();
            let mut device = must(&name, CpuDevice::prepare(&case.program, &case.weights, &case.limits()));
            must(&name, case.write_inputs(&mut device));
            (case, device)
        });
        bencher.iter(|| must(&name, case.step(device)));
    });
}

/// Nothing without a GPU.
#[cfg(feature = "cuda")]
fn on_gpu(criterion: &mut Criterion, kind: &str, label: &str, make: &dyn Fn() -> Case) {
    let Ok(gpu) = OpenGpu::open(0) else { return };
    let name = format!("{kind}/cuda/{label}");
    let prepare = |case: &Case| {
        let prepared = CudaDevice::prepare_on(gpu.clone(), &case.program, &case.weights, &case.limits(), &|_, _| {});
        let mut device = must(&name, prepared);
        must(&name, case.write_inputs(&mut device));
        device
    };
    if gpu.kind() != GpuKind::Hardware {
        return once_simulated(&name, || {
            let case = make();
            let mut device = prepare(&case);
            // What writing the inputs queued is done after a step.
            must(&name, case.step(&mut device));
            let before = simulated_work();
            must(&name, case.step(&mut device));
            simulated_work().map(|after| after - before.unwrap_or_default())
        });
    }
    let mut ready: Option<(Case, CudaDevice)> = None;
    criterion.bench_function(&name, |bencher| {
        let (case, device) = ready.get_or_insert_with(|| {
            let case = make();
            let device = prepare(&case);
            (case, device)
        });
        bencher.iter_custom(|steps| must(&name, device.timed(|device| (0..steps).try_for_each(|_| case.step(device)))));
    });
}

/// What a simulated GPU has done so far, by its report.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    launches: u64,
    warp_instructions: u64,
    dram_bytes: u64,
}

#[cfg(feature = "cuda")]
impl std::ops::Sub for Work {
    type Output = Work;

    fn sub(self, before: Work) -> Work {
        Work {
            launches: self.launches - before.launches,
            warp_instructions: self.warp_instructions - before.warp_instructions,
            dram_bytes: self.dram_bytes - before.dram_bytes,
        }
    }
}

/// `None` without `KILN_SIM_REPORT`.
#[cfg(feature = "cuda")]
fn simulated_work() -> Option<Work> {
    use sim_exec::report::ReportLine;
    let text = std::fs::read_to_string(std::env::var_os("KILN_SIM_REPORT")?).ok()?;
    let mut work = Work::default();
    for line in text.lines() {
        if let Ok(ReportLine::Launch(launch)) = serde_json::from_str(line) {
            work.launches += 1;
            work.warp_instructions += launch.counters.instructions;
            work.dram_bytes += launch.counters.dram_read_bytes + launch.counters.dram_write_bytes;
        }
    }
    Some(work)
}

/// A case of the simulated GPU: it runs if the filter on the command line allows it, and no time is taken.
#[cfg(feature = "cuda")]
fn once_simulated(name: &str, run: impl FnOnce() -> Option<Work>) {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
        return;
    }
    match run() {
        Some(Work { launches, warp_instructions, dram_bytes }) => println!(
            "{name}: *simulated*: {launches} launches, {warp_instructions} warp instructions, {dram_bytes} DRAM bytes"
        ),
        None => println!("{name}: *simulated*: ran; KILN_SIM_REPORT=FILE counts its work"),
    }
}
