//! SmolLM2 against llama.cpp, teacher-forced on the ids of its greedy answers.
//!
//! Two recordings of the same 1,718 steps: `smollm2-q4_1-greedy.json` is llama.cpp on the Q4_1 file, which quantises
//! activations to int8 as kiln does; `smollm2-exact.json` is llama.cpp on the same weights dequantised to F32
//! (`xtask/goldens/smollm2_exact.py`). Rounding to int8 amplifies the last bit of a sum to a whole step within a few
//! layers, so two int8 engines that both work differ from each other, and from the exact model, by 0.03 in the
//! log-probability of a token; llama.cpp with and without flash attention does. Exact arithmetic does not. So:
//!
//! - the reference in f32 must agree with the exact recording closely: that proves the spec, the numerics and the order of
//!   everything;
//! - int8 devices must be as near to the exact recording as llama.cpp's int8 run is, up to chance;
//! - what a device decodes token by token must be what the same device says when it is given the whole text.

use crate::common;
use crate::common::{Tested, argmax, log_softmax, rows_of, simulated};
use kiln::device::reference::Mode;
use kiln::device::{Batch, BatchSeq, Checkpoint, Choice, Device, InputToken, SampleRow, SlotStart};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{Program, build_spec};
use kiln::weights::GgufFile;

/// Lead of the best token over the second, in natural log-probability, from which exact arithmetic must agree.
const GAP_MIN: f64 = 0.05;
/// Mean distance of log-probabilities in exact arithmetic. llama.cpp's own f32 runs differ by 0.0004 (f16 or f32 cache) to
/// 0.0006 (flash attention or not).
const EXACT_MEAN_MAX: f64 = 0.001;

/// More than any answer has.
const STEPS_ALL: usize = usize::MAX;

#[derive(serde::Deserialize)]
struct Golden {
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    steps: Vec<GoldenStep>,
}

#[derive(Clone, serde::Deserialize)]
struct GoldenStep {
    id: u32,
    logprob: f64,
    /// The three most likely tokens with their log-probabilities.
    top: Vec<(u32, f64)>,
}

impl GoldenStep {
    fn best(&self) -> u32 {
        self.top[0].0
    }

    fn is_binding(&self) -> bool {
        self.top[0].1 - self.top[1].1 >= GAP_MIN
    }
}

fn goldens() -> Vec<Golden> {
    serde_json::from_str(include_str!("../golden/smollm2-q4_1-greedy.json")).unwrap()
}

/// Per prompt, the steps in exact arithmetic.
fn exact() -> Vec<Vec<GoldenStep>> {
    serde_json::from_str(include_str!("../golden/smollm2-exact.json")).unwrap()
}

/// One step of a run: the most likely token, and the log-probability of the golden id.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    best: u32,
    logprob: f64,
}

/// How far a run is from another over all their steps.
#[derive(Debug)]
struct Distance {
    /// Mean distance of log-probabilities and its standard error.
    mean: f64,
    mean_error: f64,
    /// Steps with another choice although the lead was binding.
    binding_flips: usize,
}

impl Distance {
    fn of(run: &[Vec<Step>], from: &[Vec<GoldenStep>]) -> Distance {
        let pairs: Vec<(&Step, &GoldenStep)> = run.iter().flatten().zip(from.iter().flatten()).collect();
        let count = pairs.len() as f64;
        let mean_of =
            |f: &dyn Fn(f64) -> f64| pairs.iter().map(|(a, b)| f((a.logprob - b.logprob).abs())).sum::<f64>() / count;
        let mean = mean_of(&|d| d);
        let variance = mean_of(&|d| (d - mean).powi(2));
        let binding_flips = pairs.iter().filter(|(a, b)| b.is_binding() && a.best != b.best()).count();
        Distance { mean, mean_error: (variance / count).sqrt(), binding_flips }
    }

    /// Whether this is no larger than `other`, up to three standard errors of the difference. Flips are counts of rare
    /// events: their variance is their number.
    fn is_at_most(&self, other: &Distance) -> bool {
        let mean_max = other.mean + 3.0 * self.mean_error.hypot(other.mean_error);
        let flips_max = other.binding_flips as f64 + 3.0 * (2.0 * other.binding_flips as f64).sqrt();
        self.mean <= mean_max && self.binding_flips as f64 <= flips_max
    }
}

struct Ready {
    device: Box<dyn Device>,
    blocks: Vec<BlockId>,
    vocab_size: usize,
}

fn ready(tested: &Tested, file: &GgufFile) -> Ready {
    let program = Program::of(&build_spec(file.metadata(), file).unwrap());
    let limits = common::limits_one_sequence(192, 64);
    let blocks = (0..limits.num_blocks).map(BlockId).collect();
    let vocab_size = program.vocab_size as usize;
    Ready { device: tested.ready(&program, file, &limits), blocks, vocab_size }
}

/// All steps of `prompts`, given the golden's own ids in one batch per prompt.
fn teacher_forced(ready: &mut Ready, prompts: &[Golden]) -> Vec<Vec<Step>> {
    let run = |golden: &Golden| {
        let first = golden.prompt_ids.len() as u32 - 1;
        let ids = [&golden.prompt_ids[..], &golden.output_ids[..golden.output_ids.len() - 1]].concat();
        let seq = rows_of(&ids, 0, &ready.blocks, (first..ids.len() as u32).collect());
        ready.device.submit(&Batch { starts: Vec::new(), seqs: vec![seq] }).unwrap();
        ready.device.collect().unwrap();
        let logits = ready.device.read(Checkpoint::Logits).unwrap();
        let rows = logits.chunks_exact(ready.vocab_size).zip(&golden.steps);
        rows.map(|(row, step)| Step { best: argmax(row) as u32, logprob: log_softmax(row)[step.id as usize] }).collect()
    };
    prompts.iter().map(run).collect()
}

/// Generates greedily, feeding the device's own choices, until the golden chose otherwise: that choice too must be the
/// one that `forced` has from the whole text.
fn free_running_equals(ready: &mut Ready, prompts: &[Golden], forced: &[Vec<Step>]) {
    for (prompt, (golden, forced)) in prompts.iter().zip(forced).enumerate() {
        let prompt_ids: Vec<TokenId> = golden.prompt_ids.iter().map(|id| TokenId(*id)).collect();
        let mut batch = Batch {
            starts: vec![SlotStart { prompt_ids, ..SlotStart::default() }],
            seqs: vec![rows_of(&golden.prompt_ids, 0, &ready.blocks, vec![golden.prompt_ids.len() as u32 - 1])],
        };
        for (index, step) in golden.steps.iter().enumerate() {
            ready.device.submit(&batch).unwrap();
            ready.device.sample(&[SampleRow::plain(0, SlotId(0), Choice::Greedy)]).unwrap();
            let token = ready.device.collect().unwrap().sampled[0].token.unwrap();
            assert_eq!(token.0, forced[index].best, "prompt {prompt}, step {index}");
            if token.0 != step.id {
                break;
            }
            let position_start = (golden.prompt_ids.len() + index) as u32;
            let tokens = vec![InputToken::LastSampled];
            let block_table = ready.blocks.clone();
            let seq = BatchSeq { slot: SlotId(0), position_start, tokens, block_table, logit_rows: vec![0] };
            batch = Batch { starts: Vec::new(), seqs: vec![seq] };
        }
    }
}

/// Checks an int8 device on the first `steps` steps of `count` prompts; on the first `free` prompts it also runs free.
fn check_int8(tested: &Tested, count: usize, steps: usize, free: usize) {
    let (file, mut goldens, mut exact) = (common::smollm2(), goldens(), exact());
    goldens.truncate(count);
    exact.truncate(count);
    for (golden, exact) in goldens.iter_mut().zip(&mut exact) {
        golden.output_ids.truncate(steps);
        golden.steps.truncate(steps);
        exact.truncate(steps);
    }
    let (goldens, exact) = (&goldens[..], &exact[..]);
    let mut ready = ready(tested, &file);
    let forced = teacher_forced(&mut ready, goldens);
    let llama_cpp: Vec<Vec<Step>> = goldens
        .iter()
        .map(|golden| golden.steps.iter().map(|s| Step { best: s.id, logprob: s.logprob }).collect())
        .collect();
    let greedy: Vec<Vec<GoldenStep>> = goldens.iter().map(|golden| golden.steps.clone()).collect();
    let (ours, theirs) = (Distance::of(&forced, exact), Distance::of(&llama_cpp, exact));
    println!("{} from exact: {ours:?}", tested.name);
    println!("llama.cpp from exact: {theirs:?}");
    println!("{} from llama.cpp: {:?}", tested.name, Distance::of(&forced, &greedy));
    assert!(ours.is_at_most(&theirs), "{}: {ours:?}, llama.cpp {theirs:?}", tested.name);
    free_running_equals(&mut ready, &goldens[..free], &forced[..free]);
}

/// Steps are slow on the simulated GPU, so one prompt, or as many as `KILN_TEST_PROMPTS` says.
#[cfg(feature = "cuda")]
#[test]
fn cuda_is_as_near_to_the_exact_model_as_llama_cpp() {
    if simulated::is_child() {
        let prompts = std::env::var("KILN_TEST_PROMPTS").map_or(1, |prompts| prompts.parse().unwrap());
        return check_int8(&common::cuda(), prompts, 16, prompts / 10);
    }
    // The stage tests run the same kernels with every checker on.
    let settings = [("KILN_SIM_CHECKS", "none")];
    println!("{}", simulated::rerun_with("cuda_is_as_near_to_the_exact_model_as_llama_cpp", &settings));
}

#[test]
fn cpu_is_as_near_to_the_exact_model_as_llama_cpp() {
    check_int8(&common::cpus()[0], 30, STEPS_ALL, 30);
}

/// Slow, so a few prompts.
#[test]
fn int8_reference_is_as_near_to_the_exact_model_as_llama_cpp() {
    check_int8(&common::reference(Mode::Int8), 4, STEPS_ALL, 4);
}

#[test]
fn f32_reference_is_the_exact_model() {
    let (file, goldens, exact) = (common::smollm2(), &goldens()[..4], &exact()[..4]);
    let mut ready = ready(&common::reference(Mode::F32), &file);
    let found = Distance::of(&teacher_forced(&mut ready, goldens), exact);
    println!("reference F32 from exact: {found:?}");
    assert!(found.mean <= EXACT_MEAN_MAX && found.binding_flips == 0, "{found:?}");
}
