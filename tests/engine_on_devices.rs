//! A request's seed fixes its output on one device: whatever runs beside it, in however many pieces its prompt is computed,
//! whether it is preempted and computed again or found in the cache, and with a step in flight or none. Tokens are compared with their
//! log-probabilities' bits.
#![allow(clippy::unwrap_used)] // A panic is how a test fails, also in its helpers.

mod common;

use std::collections::BTreeMap;

use common::synthetic::{Rng, TinyModel};
use kiln::device::reference::{Mode, ReferenceDevice};
use kiln::device::{Device, KvCacheDType, Limits};
use kiln::engine::{Engine, Event, FinishReason, Request};
use kiln::ids::{SeqId, TokenId};
use kiln::model::Program;
use kiln::sampling::SamplingParams;

/// Fewer on the simulated GPU, where a step takes a thousand times as long.
fn num_requests() -> u32 {
    if common::simulated::is_child() { 5 } else { 10 }
}

const MODEL: TinyModel = TinyModel::GROUPED;

/// A token, its log-probability's bits and the best alternatives.
type Token = (TokenId, Option<u32>, Vec<(TokenId, u32)>);
type Output = (Vec<Token>, FinishReason);

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

/// Requests that use every part of sampling, some of them stopping early.
fn request(i: u32) -> Request {
    let mut rng = Rng(u64::from(i) + 1);
    let id = |rng: &mut Rng| TokenId(rng.below(MODEL.vocab_size as usize) as u32);
    let prompt_ids = (0..1 + rng.below(50)).map(|_| id(&mut rng)).collect();
    let params = SamplingParams {
        temperature: [0.0, 0.7, 1.0, 1.5][i as usize % 4],
        top_k: [0, 20, 0][i as usize % 3],
        top_p: [1.0, 0.9, 0.97][i as usize % 3],
        min_p: [0.0, 0.02][i as usize % 2],
        presence_penalty: [0.0, 0.5][i as usize / 2 % 2],
        frequency_penalty: [0.0, 0.3, 0.0][i as usize % 3],
        repetition_penalty: [1.0, 1.2][i as usize / 3 % 2],
        penalise_prompt: i.is_multiple_of(5),
        logit_bias: vec![(id(&mut rng), 3.0), (id(&mut rng), -100.0)],
        max_tokens: Some(15 + rng.below(25) as u32),
        min_tokens: i % 3 * 4,
        stop_token_ids: (0..10).map(|_| id(&mut rng)).collect(),
        logprobs: [None, Some(0), Some(3)][i as usize % 3],
        ..SamplingParams::default()
    };
    Request::new(prompt_ids, params, u64::from(i) * 77)
}

fn run(device: Box<dyn Device>, requests: impl IntoIterator<Item = u32>) -> (Vec<Output>, u64) {
    let mut engine = engine(device);
    let (outputs, _) = generate(&mut engine, requests.into_iter().map(request));
    (outputs, engine.preemptions())
}

fn engine(device: Box<dyn Device>) -> Engine {
    Engine::new(device, MODEL.vocab_size, vec![TokenId(5)])
}

/// Outputs, and how many prompt tokens were in the cache already.
fn generate(engine: &mut Engine, requests: impl IntoIterator<Item = Request>) -> (Vec<Output>, u32) {
    let ids: Vec<SeqId> = requests.into_iter().map(|request| engine.add(request).unwrap()).collect();
    let (mut tokens, mut outputs) = (BTreeMap::<SeqId, Vec<Token>>::new(), BTreeMap::new());
    let mut prompt_tokens_cached = 0;
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { seq, id, logprob, top } => {
                    let top = top.into_iter().map(|(id, logprob)| (id, logprob.to_bits())).collect();
                    tokens.entry(seq).or_default().push((id, logprob.map(f32::to_bits), top));
                }
                Event::Finished { seq, reason, metrics } => {
                    prompt_tokens_cached += metrics.prompt_tokens_cached;
                    outputs.insert(seq, (tokens.remove(&seq).unwrap_or_default(), reason));
                }
                Event::Found { .. } | Event::Failed { .. } => panic!("{event:?}"),
            }
        }
    }
    (ids.iter().map(|id| outputs.remove(id).unwrap()).collect(), prompt_tokens_cached)
}

fn check(name: &str, device: impl Fn(&Limits) -> Box<dyn Device>) {
    let alone: Vec<Output> = (0..num_requests()).flat_map(|i| run(device(&limits(8, 128)), [i]).0).collect();
    assert!(alone.iter().any(|output| output.1 == FinishReason::Stop), "{name}: stop ids were meant to be met");
    assert!(alone.iter().any(|output| output.1 == FinishReason::Length));
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
            .map(|(request, (output, _))| {
                let generated = output.iter().map(|(id, ..)| *id);
                let prompt_ids = request.prompt_ids.iter().copied().chain(generated).chain([TokenId(9)]).collect();
                let params = SamplingParams { max_tokens: Some(12), logprobs: Some(2), ..request.params.clone() };
                Request { prompt_ids, params, ..request.clone() }
            })
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
