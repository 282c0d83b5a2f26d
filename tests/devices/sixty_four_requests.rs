//! Row invariance end to end: what a request gives, ids and log-probabilities to the bit, is the same alone, in company, in any order, in
//! pieces of any size, found in the cache, preempted, on any number of threads and after a restart.

use crate::common;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

use crate::common::Tested;
use crate::common::requests::{self, Output, generate};
use crate::common::synthetic::{Rng, TinyModel};
use kiln::device::{KvCacheDType, Limits};
use kiln::engine::{Engine, FinishReason, Request};
use kiln::ids::TokenId;
use kiln::model::Program;
use kiln::sampling::SamplingParams;
use kiln::sampling::beam::BeamParams;

const MODEL: TinyModel = TinyModel::GROUPED;
const REQUESTS: u32 = 64;
const BLOCK_TOKENS: u32 = 16;

/// Set, to the device's name, in the process that stands for a restart.
const RESTARTED: &str = "KILN_TEST_RESTARTED";

/// How requests run.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Rows of a step: prompts are cut into pieces of at most so many.
    step_rows_max: u32,
    num_blocks: u32,
    threads: u32,
}

/// Whole prompts, and room for everything.
const AMPLE: Way = Way { step_rows_max: 512, num_blocks: 1000, threads: 2 };

/// Every sixteenth prompt is longer than the largest step, every eighth request is a beam search, and neighbours share prompts and seeds:
/// they are different answers to one prompt.
fn request(i: u32) -> Request {
    let mixed = requests::mixed(i, MODEL.vocab_size);
    match i % 16 {
        5 => {
            let long = (0..520 + i).map(|j| TokenId((i * 131 + j * 17 + 6) % MODEL.vocab_size));
            Request { prompt_ids: long.collect(), ..mixed }
        }
        3 | 11 => {
            let num_beams = 2 + i / 16;
            let beams = BeamParams { num_beams, num_return: num_beams, ..BeamParams::default() };
            let params = SamplingParams {
                max_tokens: Some(10),
                stop_token_ids: (100..120).map(TokenId).collect(),
                ..SamplingParams::default()
            };
            Request { params, beams: Some(beams), ..mixed }
        }
        7 => {
            let neighbour = requests::mixed(i - 1, MODEL.vocab_size);
            Request { choice_index: 1, ..neighbour }
        }
        _ => mixed,
    }
}

struct Bench<'a> {
    tested: &'a Tested,
}

impl Bench<'_> {
    fn engine(&self, way: Way) -> Engine {
        let (spec, tensors) = MODEL.build(3);
        let limits = Limits {
            slots_max: 80,
            context_tokens_max: 704,
            step_rows_max: way.step_rows_max,
            logit_rows_max: way.step_rows_max.min(80),
            block_tokens: BLOCK_TOKENS,
            num_blocks: way.num_blocks,
            kv_cache_dtype: KvCacheDType::F16,
            threads: way.threads,
        };
        let device = self.tested.ready(&Program::of(&spec), &tensors, &limits);
        Engine::new(device, MODEL.vocab_size, vec![TokenId(5)])
    }

    fn alone(&self, requests: &[Request]) -> Vec<Output> {
        requests.iter().flat_map(|request| generate(&mut self.engine(AMPLE), [request.clone()]).0).collect()
    }
}

/// Runs `requests` in the order of `order`, and returns their outputs in their own.
fn in_order(engine: &mut Engine, requests: &[Request], order: &[usize]) -> (Vec<Output>, u32) {
    let (ordered, cached) = generate(engine, order.iter().map(|&i| requests[i].clone()));
    let mut outputs = vec![Output::default(); requests.len()];
    order.iter().zip(ordered).for_each(|(&i, output)| outputs[i] = output);
    (outputs, cached)
}

fn shuffled(seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..REQUESTS as usize).collect();
    Rng(seed).shuffle(&mut order);
    order
}

fn digest(outputs: &[Output]) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{outputs:?}").hash(&mut hasher);
    hasher.finish()
}

fn check(tested: &Tested) {
    let bench = Bench { tested };
    let requests: Vec<Request> = (0..REQUESTS).map(request).collect();
    let (as_they_come, name): (Vec<usize>, _) = ((0..requests.len()).collect(), &tested.name);
    if std::env::var_os(RESTARTED).is_some() {
        let (outputs, _) = in_order(&mut bench.engine(AMPLE), &requests, &as_they_come);
        return println!("digest {:016x}", digest(&outputs));
    }

    let alone = bench.alone(&requests);
    for reason in [FinishReason::StopToken, FinishReason::Length] {
        assert!(alone.iter().any(|output| output.reason == Some(reason)), "{name}: no request ends by {reason:?}");
    }

    let little = Way { num_blocks: 46, ..AMPLE };
    let ways = [
        ("together", AMPLE, as_they_come.clone()),
        ("shuffled", AMPLE, shuffled(1)),
        ("in pieces of 16", Way { step_rows_max: 16, ..AMPLE }, as_they_come.clone()),
        ("with little memory", little, as_they_come.clone()),
        ("shuffled, in pieces of 16, with little memory", Way { step_rows_max: 16, ..little }, shuffled(2)),
        ("on one thread", Way { threads: 1, ..AMPLE }, as_they_come.clone()),
        ("on one thread, shuffled, with little memory", Way { threads: 1, ..little }, shuffled(3)),
    ];
    for (how, way, order) in ways {
        let mut engine = bench.engine(way);
        let (outputs, _) = in_order(&mut engine, &requests, &order);
        assert!(outputs == alone, "{name}, {how}: other outputs");
        assert_eq!(engine.preemptions() > 0, way.num_blocks < AMPLE.num_blocks, "{name}, {how}: preemptions");
    }

    let following: Vec<Request> =
        requests.iter().zip(&alone).map(|(request, output)| requests::following(request, output, 8)).collect();
    let following_alone = bench.alone(&following);
    let mut engine = bench.engine(AMPLE);
    in_order(&mut engine, &requests, &as_they_come);
    let (again, cached) = in_order(&mut engine, &requests, &shuffled(4));
    assert!(again == alone, "{name}, found in the cache: other outputs");
    assert!(cached > 4 * 512, "{name}: {cached} prompt tokens were in the cache");
    let (followed, cached) = in_order(&mut engine, &following, &shuffled(5));
    assert!(followed == following_alone, "{name}, after generated text that is in the cache: other outputs");
    let prompts_and_text = |i: usize| (following[i].prompt_ids.len() as u32 - 2) / BLOCK_TOKENS * BLOCK_TOKENS;
    let prompts = |i: usize| requests[i].prompt_ids.len() as u32 / BLOCK_TOKENS * BLOCK_TOKENS;
    let sum = |tokens: &dyn Fn(usize) -> u32| as_they_come.iter().map(|&i| tokens(i)).sum::<u32>();
    let (least, most) = (sum(&prompts), sum(&prompts_and_text));
    assert!(cached > least && cached <= most, "{name}: {cached} of {least} to {most} prompt tokens were in the cache");

    let test = std::env::current_exe().unwrap();
    let mut restarted = Command::new(test);
    restarted
        .args(["--exact", "sixty_four_requests::outputs_depend_on_requests_alone", "--nocapture"])
        .env(RESTARTED, name);
    let printed = restarted.output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let expected = format!("digest {:016x}", digest(&alone));
    assert!(printed.contains(&expected), "{name}, after a restart: not {expected}, but\n{printed}");
}

/// On every instruction set.
#[test]
fn outputs_depend_on_requests_alone() {
    let only = std::env::var(RESTARTED);
    let is_meant = |tested: &&Tested| only.as_ref().is_ok_and(|name| *name == tested.name) || only.is_err();
    common::devices().iter().filter(is_meant).for_each(check);
}
