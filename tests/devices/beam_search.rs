//! Beam search on devices: what exhaustive search finds, greedy decoding with one beam, and the same bits whatever runs beside it.

use crate::common;
use std::collections::BTreeMap;

use crate::common::synthetic::TinyModel;
use kiln::device::{Device, KvCacheDType, Limits};
use kiln::engine::{Engine, Event, Request};
use kiln::ids::{SeqId, TokenId};
use kiln::model::Program;
use kiln::sampling::SamplingParams;
use kiln::sampling::beam::{BeamParams, Hypothesis};

const MODEL: TinyModel = TinyModel::GROUPED;

const END: TokenId = TokenId(5);

fn limits(num_blocks: u32) -> Limits {
    Limits {
        slots_max: 12,
        context_tokens_max: 128,
        step_rows_max: 33,
        logit_rows_max: 12,
        block_tokens: 16,
        num_blocks,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 2,
    }
}

/// An engine on each device under test.
fn on_devices(num_blocks: u32, check: impl Fn(&str, &dyn Fn() -> Engine)) {
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    for tested in common::devices() {
        let device = || -> Box<dyn Device> { tested.ready(&program, &tensors, &limits(num_blocks)) };
        check(&tested.name, &|| Engine::new(device(), MODEL.vocab_size, vec![END]));
    }
}

fn prompt(i: u32) -> Vec<TokenId> {
    (0..20 + i).map(|j| TokenId((i * 131 + j * 17 + 6) % MODEL.vocab_size)).collect()
}

fn beam_request(i: u32, num_beams: u32, params: SamplingParams) -> Request {
    let beams = BeamParams { num_beams, num_return: num_beams, ..BeamParams::default() };
    Request { beams: Some(beams), ..Request::new(prompt(i), params, 0) }
}

/// What searches find and what ordinary requests say, in order of the requests.
fn run(engine: &mut Engine, requests: Vec<Request>) -> (Vec<Vec<Hypothesis>>, Vec<Vec<TokenId>>) {
    let ids: Vec<SeqId> = requests.into_iter().map(|request| engine.add(request).unwrap()).collect();
    let (mut found, mut tokens) = (BTreeMap::new(), BTreeMap::<SeqId, Vec<TokenId>>::new());
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { seq, id, .. } => tokens.entry(seq).or_default().push(id),
                Event::Found { seq, results } => assert_eq!(found.insert(seq, results), None, "{seq} finds twice"),
                Event::Finished { .. } => {}
                Event::Failed { seq, error } => panic!("{seq}: {error}"),
            }
        }
    }
    assert!(found.keys().chain(tokens.keys()).all(|seq| ids.contains(seq)));
    (found.into_values().collect(), tokens.into_values().collect())
}

#[test]
fn nine_beams_over_three_tokens_are_exhaustive_search() {
    const ALLOWED: [TokenId; 3] = [TokenId(40), TokenId(123), TokenId(300)];
    let forbidden = (0..MODEL.vocab_size).map(TokenId).filter(|id| !ALLOWED.contains(id));
    let params = SamplingParams {
        logit_bias: forbidden.map(|id| (id, -100.0)).collect(),
        max_tokens: Some(3),
        ignore_eos: true,
        ..SamplingParams::default()
    };
    on_devices(32, |name, engine| {
        let mut engine = engine();
        let request = beam_request(1, 9, params.clone());
        let mut all = Vec::new();
        for (a, b, c) in (0..27).map(|i| (ALLOWED[i / 9], ALLOWED[i / 3 % 3], ALLOWED[i % 3])) {
            let ids = [&request.prompt_ids[..], &[a, b, c]].concat();
            let scored = engine.score(&ids, 0).unwrap();
            let logprobs: Vec<f32> =
                scored[request.prompt_ids.len()..].iter().map(|s| s.as_ref().unwrap().logprob.unwrap()).collect();
            let sum: f64 = logprobs.iter().copied().map(f64::from).sum();
            all.push((vec![a, b, c], logprobs, sum));
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        let (found, _) = run(&mut engine, vec![request]);
        let found: Vec<_> = found[0].iter().map(|h| (h.ids.clone(), h.logprobs.clone(), h.sum_logprob)).collect();
        assert_eq!(found, all[..9], "{name}");
    });
}

#[test]
fn beams_are_the_same_alone_and_in_company() {
    let (num_searches, max_tokens) = if common::simulated::is_child() { (2, 4) } else { (4, 20) };
    let params = SamplingParams { max_tokens: Some(max_tokens), frequency_penalty: 0.1, ..SamplingParams::default() };
    let searches = || (0..num_searches).map(|i| beam_request(i, 2 + i % 3, params.clone()));
    let (spec, tensors) = MODEL.build(3);
    let program = Program::of(&spec);
    for tested in common::devices() {
        let engine = |num_blocks| {
            Engine::new(tested.ready(&program, &tensors, &limits(num_blocks)), MODEL.vocab_size, vec![END])
        };
        let alone: Vec<_> = searches().flat_map(|search| run(&mut engine(32), vec![search]).0).collect();
        assert!(alone.iter().all(|found| found.len() >= 2), "{}", tested.name);
        let mut preemptions = 0;
        // With room for all, and for hardly more than one.
        for num_blocks in [48, 10] {
            let mut engine = engine(num_blocks);
            let neighbours = (0..3).map(|i| Request::new(prompt(i), SamplingParams::greedy(30), 0));
            let (together, _) = run(&mut engine, searches().chain(neighbours).collect());
            assert_eq!(together, alone, "{}, {num_blocks} blocks", tested.name);
            preemptions += engine.preemptions();
        }
        assert!(preemptions > 0 || common::simulated::is_child(), "{}: memory was meant to run out", tested.name);
    }
}

#[test]
fn one_beam_is_greedy() {
    on_devices(32, |name, engine| {
        for i in 0..6 {
            let params =
                SamplingParams { stop_token_ids: (200..230).map(TokenId).collect(), ..SamplingParams::greedy(30) };
            let (found, _) = run(&mut engine(), vec![beam_request(i, 1, params.clone())]);
            let (_, greedy) = run(&mut engine(), vec![Request::new(prompt(i), params, 0)]);
            assert_eq!(found[0][0].ids, greedy[0], "{name}, prompt {i}");
        }
    });
}

common::simulated::on_the_simulated_gpu! {
    beams_are_the_same_alone_and_in_company
}
