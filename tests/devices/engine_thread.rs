//! An engine on a thread of its own, and handles to it: what comes of a request is what the engine gives alone, from however many
//! threads requests come; a request that its caller drops ends.

use crate::common;
use std::time::{Duration, Instant};

use crate::common::synthetic::TinyModel;
use kiln::device::{KvCacheDType, Limits};
use kiln::engine::{Engine, EngineError, Event, FinishReason};
use kiln::ids::TokenId;
use kiln::model::Program;
use kiln::runtime::{EngineHandle, Runtime};
use kiln::sampling::beam::BeamParams;
use kiln::sampling::{Answers, GenerateRequest, SamplingParams};
use kiln::text::TextModel;

const MODEL: TinyModel = TinyModel::GROUPED;
const CONTEXT: u32 = 512;

fn handle() -> EngineHandle {
    let (spec, tensors) = MODEL.build(3);
    let limits = Limits {
        slots_max: 6,
        context_tokens_max: CONTEXT,
        step_rows_max: 64,
        logit_rows_max: 6,
        block_tokens: 16,
        num_blocks: 6 * CONTEXT / 16,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    };
    let device = common::cpus().remove(0).ready(&Program::of(&spec), &tensors, &limits);
    EngineHandle::spawn(Engine::new(device, MODEL.vocab_size, vec![TokenId(5)])).unwrap()
}

fn request(i: u32, answers: Answers, max_tokens: u32) -> GenerateRequest {
    let prompt_ids = (0..1 + i * 7 % 40).map(|j| TokenId((i * 31 + j * 17) % MODEL.vocab_size)).collect();
    let params = SamplingParams { max_tokens: Some(max_tokens), logprobs: Some(1), ..SamplingParams::default() };
    let params = match &answers {
        Answers::Sampled { .. } => SamplingParams { seed: Some(u64::from(i)), ..params },
        Answers::Beams(_) => SamplingParams { logprobs: Some(0), ..params },
    };
    GenerateRequest { prompt_ids, params, answers }
}

/// For every sequence of a request, its tokens or what its search found, and why it ended.
type Outcome = Vec<(Vec<TokenId>, Option<FinishReason>)>;

fn outcome(handle: &EngineHandle, request: &GenerateRequest) -> Outcome {
    let admitted = handle.facts().admit(request).unwrap();
    let mut sequences: Outcome = vec![(Vec::new(), None); admitted.sequences.len()];
    let events = handle.submit(admitted);
    while sequences.iter().any(|(_, reason)| reason.is_none()) {
        let (index, event) = events.receive().unwrap();
        let (ids, end) = &mut sequences[index as usize];
        assert_eq!(*end, None, "an event after the last one");
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Found { results, .. } => ids.extend(results.into_iter().flat_map(|found| found.ids)),
            Event::Finished { reason, .. } => *end = Some(reason),
            Event::Failed { error, .. } => panic!("{error}"),
        }
    }
    assert!(matches!(*events.receive().unwrap_err(), EngineError::Stopped), "nothing follows the last events");
    sequences
}

fn kinds(i: u32) -> GenerateRequest {
    let beams = BeamParams { num_beams: 3, num_return: 3, ..BeamParams::default() };
    let answers = [Answers::ONE, Answers::Sampled { n: 3, best_of: 3 }, Answers::Beams(beams)];
    request(i, answers[i as usize % 3].clone(), 5 + i % 20)
}

#[test]
fn requests_of_many_threads_give_what_each_gives_alone() {
    let alone: Vec<Outcome> = (0..12).map(|i| outcome(&handle(), &kinds(i))).collect();
    let shared = handle();
    let (shared, alone) = (&shared, &alone);
    std::thread::scope(|scope| {
        for i in 0..12 {
            let handle = shared.clone();
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(outcome(&handle, &kinds(i)), alone[i as usize], "request {i}");
                }
            });
        }
    });
}

/// Five requests that would take the whole context hold all but one slot until they are dropped; then six more run at once.
#[test]
fn a_request_that_is_dropped_ends() {
    let handle = handle();
    let endless = |i| GenerateRequest {
        params: SamplingParams { ignore_eos: true, ..request(i, Answers::ONE, CONTEXT).params },
        ..request(i, Answers::ONE, CONTEXT)
    };
    let start = |i| handle.submit(handle.facts().admit(&endless(i)).unwrap());
    let running: Vec<_> = (0..6).map(start).collect();
    running.iter().for_each(|events| drop(events.receive().unwrap()));
    let cancelled = &running[5];
    cancelled.ticket().cancel();
    let last = loop {
        let (_, event) = cancelled.receive().unwrap();
        if event.is_last() {
            break event;
        }
    };
    assert!(matches!(last, Event::Finished { reason: FinishReason::Cancelled, .. }), "{last:?}");
    let since = Instant::now();
    drop(running);
    // Scores wait until nothing is under way.
    let ids: Vec<TokenId> = (0..9).map(TokenId).collect();
    assert_eq!(handle.score(ids, 0).unwrap().len(), 9);
    assert!(since.elapsed() < Duration::from_secs(20), "dropped requests run on");
    assert_eq!(outcome(&handle, &request(1, Answers::ONE, 4))[0].0.len(), 4);
}

/// A stop string ends one answer; the others go on.
#[test]
fn one_of_several_answers_can_be_cancelled() {
    let handle = handle();
    let mut request = request(4, Answers::Sampled { n: 3, best_of: 3 }, 60);
    request.params.ignore_eos = true;
    let events = handle.submit(handle.facts().admit(&request).unwrap());
    let (mut reasons, mut is_cancelled) = ([None; 3], false);
    while reasons.contains(&None) {
        let (index, event) = events.receive().unwrap();
        if index == 1 && !is_cancelled {
            events.ticket().cancel_sequence(1);
            is_cancelled = true;
        }
        if let Event::Finished { reason, .. } = event {
            reasons[index as usize] = Some(reason);
        }
    }
    let [first, second, third] = reasons.map(Option::unwrap);
    assert_eq!((first, second, third), (FinishReason::Length, FinishReason::Cancelled, FinishReason::Length));
}

#[test]
fn requests_are_checked_before_they_reach_the_engine() {
    let handle = handle();
    let admit = |request: &GenerateRequest| handle.facts().admit(request).unwrap_err().to_string();
    let ask = |answers| request(3, answers, 4);
    let many = ask(Answers::Sampled { n: 17, best_of: 17 });
    assert_eq!(admit(&many), "n: expected 1 to 16, found 17");
    let few = ask(Answers::Sampled { n: 3, best_of: 2 });
    assert_eq!(admit(&few), "best_of: expected 3 to 16, found 2");
    let long = GenerateRequest { prompt_ids: vec![TokenId(1); 600], ..ask(Answers::ONE) };
    assert_eq!(admit(&long), "prompt is too long: 600 tokens > 511 maximum");
    let beams = ask(Answers::Beams(BeamParams { num_beams: 7, num_return: 1, ..BeamParams::default() }));
    assert_eq!(admit(&beams), "7 beams run as so many sequences at once, and at most 6 can");
}

#[test]
fn text_and_handles_are_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<TextModel>();
    shared::<EngineHandle>();
    shared::<Runtime>();
}
