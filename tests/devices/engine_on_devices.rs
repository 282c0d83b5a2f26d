//! A request's seed fixes its output on one device: whatever runs beside it, in however many pieces its prompt is computed,
//! whether it is preempted and computed again or found in the cache, and with a step in flight or none. Tokens are compared with their
//! log-probabilities' bits.

use crate::common;
use crate::common::requests::{self, Output, generate};
use crate::common::synthetic::TinyModel;
use kiln::device::reference::{Mode, ReferenceDevice};
use kiln::device::{Device, KvCacheDType, Limits};
use kiln::engine::{Engine, FinishReason, Request};
use kiln::ids::TokenId;
use kiln::model::Program;

/// Fewer on the simulated GPU, where a step takes a thousand times as long.
fn num_requests() -> u32 {
    if common::simulated::is_child() { 5 } else { 10 }
}

const MODEL: TinyModel = TinyModel::GROUPED;

fn limits(num_blocks: u32, step_rows_max: u32) -> Limits {
    Limits {
        slots_max: 6,
        context_tokens_max: 128,
        step_rows_max,
        logit_rows_max: 6,
        block_tokens: 16,
        num_blocks,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 2,
    }
}

fn request(i: u32) -> Request {
    requests::mixed(i, MODEL.vocab_size)
}

fn run(device: Box<dyn Device>, requests: impl IntoIterator<Item = u32>) -> (Vec<Output>, u64) {
    let mut engine = engine(device);
    let (outputs, _) = generate(&mut engine, requests.into_iter().map(request));
    (outputs, engine.preemptions())
}

fn engine(device: Box<dyn Device>) -> Engine {
    Engine::new(device, MODEL.vocab_size, vec![TokenId(5)])
}

fn check(name: &str, device: impl Fn(&Limits) -> Box<dyn Device>) {
    let alone: Vec<Output> = (0..num_requests()).flat_map(|i| run(device(&limits(8, 128)), [i]).0).collect();
    assert!(
        alone.iter().any(|output| output.reason == Some(FinishReason::StopToken)),
        "{name}: stop ids were meant to be met"
    );
    assert!(alone.iter().any(|output| output.reason == Some(FinishReason::Length)));
    let mut preempted = 0;
    // Plenty of room and whole prompts; prompts in pieces; memory for one sequence or two.
    for (num_blocks, step_rows_max) in [(48, 128), (48, 7), (6, 33)] {
        let (together, preemptions) = run(device(&limits(num_blocks, step_rows_max)), 0..num_requests());
        assert_eq!(together, alone, "{name}: {num_blocks} blocks, {step_rows_max} rows");
        preempted += preemptions;
    }
    assert!(preempted > 0, "{name}: memory was meant to run out");
}

#[test]
fn seeds_fix_outputs_on_every_device() {
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    for tested in common::devices() {
        check(&tested.name, |limits| tested.ready(&program, &tensors, limits));
    }
}

#[test]
fn seeds_fix_outputs_with_an_int8_cache() {
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    let tested = common::devices().remove(0).with_int8_cache();
    check(&tested.name, |limits| tested.ready(&program, &tensors, limits));
}

/// The same requests again, and requests that go on after what was generated, find their starts in the cache.
#[test]
fn what_is_found_in_the_cache_changes_no_output() {
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    for tested in common::devices() {
        let fresh = |num_blocks| engine(tested.ready(&program, &tensors, &limits(num_blocks, 33)));
        let first: Vec<Request> = (0..num_requests().div_ceil(2)).map(request).collect();
        let alone = |requests: &[Request]| -> Vec<Output> {
            requests.iter().flat_map(|request| generate(&mut fresh(8), [request.clone()]).0).collect()
        };
        let first_outputs = alone(&first);
        let follow_ups: Vec<Request> = std::iter::zip(&first, &first_outputs)
            .map(|(request, output)| requests::following(request, output, 12))
            .collect();
        let follow_up_outputs = alone(&follow_ups);
        // Rows are computed up to a request's last prompt token, and up to but not with a generation's last.
        let whole_blocks = |requests: &[Request], not_computed: usize| -> usize {
            requests.iter().map(|request| (request.prompt_ids.len() - not_computed) / 16 * 16).sum()
        };
        // With room for everything, and so little that blocks are evicted and sequences preempted.
        for num_blocks in [80, 8] {
            let (name, mut engine) = (format!("{}, {num_blocks} blocks", tested.name), fresh(num_blocks));
            assert_eq!(generate(&mut engine, first.clone()).0, first_outputs, "{name}");
            let again = generate(&mut engine, first.clone());
            assert_eq!(again.0, first_outputs, "{name}: again");
            let followed = generate(&mut engine, follow_ups.clone());
            assert_eq!(followed.0, follow_up_outputs, "{name}: after what was generated");
            if num_blocks == 80 {
                assert_eq!(again.1 as usize, whole_blocks(&first, 1), "{name}");
                assert_eq!(followed.1 as usize, whole_blocks(&follow_ups, 2), "{name}: generated text is found");
            }
        }
    }
}

#[test]
fn seeds_fix_outputs_with_a_step_in_flight() {
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    for steps in [1, 2, 3] {
        check(&format!("reference, {steps} steps in flight"), |limits| {
            let device = ReferenceDevice::prepare(&program, &tensors, limits, Mode::Int8).unwrap();
            Box::new(device.with_steps_in_flight(steps))
        });
    }
    let output = |steps: usize| {
        let device = ReferenceDevice::prepare(&program, &tensors, &limits(9, 33), Mode::Int8).unwrap();
        run(Box::new(device.with_steps_in_flight(steps)), 0..num_requests()).0
    };
    assert_eq!(output(2), output(1));
}

common::simulated::on_the_simulated_gpu! {
    seeds_fix_outputs_on_every_device
    what_is_found_in_the_cache_changes_no_output
}
