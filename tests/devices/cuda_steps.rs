//! What the CUDA device asks of the driver from step to step, by the simulated driver's own account: one upload and one graph launch per
//! decode step, a few bytes back, and no memory once it has opened.
#![cfg(feature = "cuda")]

use crate::common;
use crate::common::simulated;
use crate::common::synthetic::TinyModel;
use kiln::device::{KvCacheDType, Limits};
use kiln::engine::{Engine, Event, Request};
use kiln::ids::TokenId;
use kiln::model::Program;
use kiln::sampling::SamplingParams;
use kiln::weights::DType;
use sim_exec::report::{LaunchLine, ReportLine};

const LAYERS: usize = 3;
const MODEL: TinyModel = TinyModel {
    num_layers: LAYERS as u32,
    hidden_size: 64,
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 32,
    intermediate_size: 96,
    vocab_size: 331,
    window: None,
    dtype: DType::Q4_1,
};
const OUTPUT_TOKENS: usize = 9;

/// In the child: as many sequences as `KILN_TEST_SEQUENCES` says, greedy, side by side.
fn generate() {
    let sequences: u32 = std::env::var("KILN_TEST_SEQUENCES").unwrap().parse().unwrap();
    let (spec, tensors) = MODEL.build(3);
    let limits = Limits {
        slots_max: 5,
        context_tokens_max: 64,
        step_rows_max: 32,
        logit_rows_max: 5,
        block_tokens: 16,
        num_blocks: 20,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    };
    let device = common::cuda().ready(&Program::of(&spec), &tensors, &limits);
    let mut engine = Engine::new(device, MODEL.vocab_size, Vec::new());
    for i in 0..sequences {
        let prompt_ids = (0..6).map(|at| TokenId((7 * i + at) % MODEL.vocab_size)).collect();
        let params = SamplingParams::greedy(OUTPUT_TOKENS as u32);
        engine.add(Request::new(prompt_ids, params, 1)).unwrap();
    }
    let mut tokens = 0;
    while !engine.is_idle() {
        tokens += engine.step().unwrap().iter().filter(|event| matches!(event, Event::Token { .. })).count();
    }
    assert_eq!(tokens, sequences as usize * OUTPUT_TOKENS);
}

/// The report of a run, from the upload of the first step's inputs on, and what came before.
fn run(name: &str, sequences: usize) -> (Vec<ReportLine>, Vec<ReportLine>) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("report.jsonl");
    let sequences = sequences.to_string();
    simulated::rerun(name, &[&[("KILN_SIM_REPORT", path.to_str().unwrap()), ("KILN_TEST_SEQUENCES", &sequences)]]);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<ReportLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The sampler's slots are the first thing that a sequence needs.
    let steps = lines.split_off(lines.iter().position(|line| is_launch_of(line, "kiln_start_slots")).unwrap());
    (lines, steps)
}

fn launches(lines: &[ReportLine]) -> impl Iterator<Item = &LaunchLine> {
    lines.iter().filter_map(|line| match line {
        ReportLine::Launch(launch) => Some(launch.as_ref()),
        _ => None,
    })
}

fn is_launch_of(line: &ReportLine, kernel: &str) -> bool {
    matches!(line, ReportLine::Launch(launch) if launch.kernel == kernel)
}

fn graph_nodes(line: &ReportLine) -> Option<usize> {
    match line {
        ReportLine::GraphLaunch { nodes } => Some(*nodes),
        _ => None,
    }
}

#[test]
fn a_decode_step_is_one_upload_and_one_graph_launch() {
    if simulated::is_child() {
        return generate();
    }
    // Sequences that fill their graph, and that share one with room for more.
    for sequences in [1, 2, 3, 5] {
        let (_, steps) = run("a_decode_step_is_one_upload_and_one_graph_launch", sequences);
        // Embed, five stages per layer, Head and the sampler; above two rows the norms are launches of their own.
        let norms = if sequences > 2 { 2 * LAYERS + 1 } else { 0 };
        let expected = 1 + 5 * LAYERS + 1 + 1 + norms;
        let graphs: Vec<usize> = steps.iter().filter_map(graph_nodes).collect();
        assert_eq!(graphs, [expected; OUTPUT_TOKENS - 1], "{sequences} sequences: every step but the first decodes");
        // Graph launches are reported when they are queued; copies and kernels when they run.
        let starts: Vec<usize> = (0..steps.len()).filter(|&i| is_launch_of(&steps[i], "kiln_embed")).collect();
        for (i, &start) in starts.iter().enumerate().skip(1) {
            let end = starts.get(i + 1).copied().unwrap_or(steps.len());
            let of_step = &steps[start..end];
            assert_eq!(
                launches(of_step).count(),
                expected,
                "{sequences} sequences: nothing is launched besides the graph"
            );
            let copies = of_step.iter().filter(|line| matches!(line, ReportLine::Copy { .. })).count();
            assert_eq!(copies, usize::from(end < steps.len()), "{sequences} sequences: the next step's inputs");
        }
        assert_eq!(starts.len(), OUTPUT_TOKENS);
    }
}

#[test]
fn few_bytes_come_back() {
    if simulated::is_child() {
        return generate();
    }
    for sequences in [1, 5] {
        let (_, steps) = run("few_bytes_come_back", sequences);
        let copied_back =
            |line: &ReportLine| matches!(line, ReportLine::Copy { direction, .. } if direction == "device_to_host");
        assert!(!steps.iter().any(copied_back), "results are stored by the kernel");
        let bytes: u64 = launches(&steps).map(|launch| launch.counters.mapped_store_bytes).sum();
        let tokens = (sequences * OUTPUT_TOKENS) as u64;
        assert!(bytes > 0 && bytes <= 64 * tokens, "{bytes} bytes for {tokens} tokens");
    }
}

#[test]
fn memory_is_allocated_once_and_given_back() {
    if simulated::is_child() {
        return generate();
    }
    let (opening, steps) = run("memory_is_allocated_once_and_given_back", 5);
    let allocates = |line: &&ReportLine| matches!(line, ReportLine::Allocation { .. });
    assert!(opening.iter().any(|line| allocates(&line)));
    assert_eq!(steps.iter().filter(allocates).count(), 0, "nothing is allocated after the start");
    let held = opening.iter().chain(&steps).fold(0i64, |held, line| match line {
        ReportLine::Allocation { bytes, .. } => held + *bytes as i64,
        ReportLine::Free { bytes, .. } => held - *bytes as i64,
        _ => held,
    });
    assert_eq!(held, 0, "bytes that were not freed");
}
