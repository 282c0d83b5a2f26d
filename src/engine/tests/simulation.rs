//! Random schedules of arrivals, cancels, faults and memory pressure, with prompts that share their starts. The engine asserts
//! its invariants after every step; here every output is compared with what its request alone must give.
//!
//! `KILN_SCHEDULES=1000000` runs so many; `KILN_SCHEDULE=7` replays the one of seed 7.

use super::beams::search_alone;
use super::*;

const SCHEDULES: u64 = 20_000;
const STEPS_MAX: u32 = 5_000;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % u64::from(end)) as u32
    }
}

/// How a sequence ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished(FinishReason),
    Failed,
}

/// What a request gives.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    ids: Vec<TokenId>,
    found: Vec<Hypothesis>,
    end: End,
}

/// A request in a schedule: what it must give, and what it gave so far.
struct Running {
    expected: Answer,
    cancelled: bool,
    ids: Vec<TokenId>,
    found: Vec<Hypothesis>,
    end: Option<End>,
}

/// What the scripted device answers to a request alone.
fn expected(request: &Request) -> Answer {
    if request.beams.is_some() {
        let found = search_alone(request);
        let reason =
            |best: &Hypothesis| if best.is_stopped { FinishReason::EndOfSequence } else { FinishReason::Length };
        let end = found.as_ref().map_or(End::Failed, |found| End::Finished(reason(&found[0])));
        return Answer { ids: Vec::new(), found: found.unwrap_or_default(), end };
    }
    let (ids, end) = expected_tokens(request);
    Answer { ids, found: Vec::new(), end }
}

fn expected_tokens(request: &Request) -> (Vec<TokenId>, End) {
    let params = &request.params;
    let mut hash = request.prompt_ids.iter().fold(EMPTY_HASH, |hash, id| hash_with(hash, id.0));
    let mut ids = Vec::new();
    loop {
        if hash.is_multiple_of(BAD_ROW_EVERY) && params.frequency_penalty != 0.0 {
            return (ids, End::Failed);
        }
        let id = next_id(hash, (ids.len() as u32) < params.min_tokens);
        ids.push(id);
        hash = hash_with(hash, id.0);
        if id == END {
            return (ids, End::Finished(FinishReason::EndOfSequence));
        }
        if Some(ids.len() as u32) == params.max_tokens {
            return (ids, End::Finished(FinishReason::Length));
        }
    }
}

/// A prompt that starts like others: one of two families, or an earlier request's prompt with what was generated.
fn random_request(rng: &mut Rng, earlier: &[(Vec<TokenId>, Vec<TokenId>)]) -> Request {
    let mut prompt_ids: Vec<TokenId> = match earlier.len() as u32 {
        n if n > 0 && rng.below(3) == 0 => {
            let (prompt, output) = &earlier[rng.below(n) as usize];
            prompt.iter().chain(output).copied().take(30).collect()
        }
        _ => {
            let family = rng.below(2);
            (0..rng.below(28)).map(|i| TokenId(family * 100 + i)).collect()
        }
    };
    prompt_ids.extend((0..1 + rng.below(3)).map(|_| TokenId(rng.below(900))));
    let max_tokens = 1 + rng.below(12);
    let beams = (rng.below(4) == 0).then(|| BeamParams {
        num_beams: 1 + rng.below(4),
        length_penalty: f64::from(rng.below(3)) - 1.0,
        early_stopping: [EarlyStopping::First, EarlyStopping::Likely, EarlyStopping::Never][rng.below(3) as usize],
        ..BeamParams::default()
    });
    let meets_bad_rows = rng.below(8) == 0;
    let params = SamplingParams {
        max_tokens: Some(max_tokens),
        min_tokens: rng.below(3).min(max_tokens),
        frequency_penalty: if meets_bad_rows { 1.0 } else { 0.0 },
        ..SamplingParams::default()
    };
    Request { beams, ..Request::new(prompt_ids, params, 0) }
}

/// What schedules met, all together.
#[derive(Debug, Default)]
struct Met {
    preemptions: u64,
    /// Beam searches of several beams that found something.
    searches: u64,
    refusals: u32,
    cancels: u32,
    bad_rows: u32,
    device_failures: u32,
    prompt_tokens_cached: u64,
}

fn run(seed: u64, met: &mut Met) {
    let mut rng = Rng(seed);
    let limits = Limits {
        slots_max: 1 + rng.below(4),
        context_tokens_max: 48,
        step_rows_max: [3, 8, 64][rng.below(3) as usize],
        logit_rows_max: 1 + rng.below(4),
        block_tokens: 4,
        num_blocks: 8 + rng.below(12),
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    };
    let num_blocks = limits.num_blocks;
    let beams_max = limits.slots_max.min(limits.step_rows_max).min(limits.logit_rows_max);
    let fails_at = (rng.below(16) == 0).then(|| 1 + rng.below(30));
    let mut engine =
        Engine::new(Box::new(Scripted::new(limits, 1 + rng.below(2) as usize, fails_at)), VOCAB, vec![END]);
    let mut running: HashMap<SeqId, Running> = HashMap::new();
    let mut earlier = Vec::new();
    let mut arrivals = 1 + rng.below(10);
    for step in 0.. {
        assert!(step < STEPS_MAX, "the queue does not drain");
        while arrivals > 0 && rng.below(3) == 0 {
            arrivals -= 1;
            let request = random_request(&mut rng, &earlier);
            let positions = request.prompt_ids.len() as u32 + request.params.max_tokens.unwrap_or(0) - 1;
            let shared = request.prompt_ids.len() as u32 / 4;
            let most = shared + request.lanes_max() * (positions.div_ceil(4) - shared);
            let expected = expected(&request);
            match engine.add(request.clone()) {
                Ok(id) => {
                    let output = expected.found.first().map_or(&expected.ids, |best| &best.ids);
                    earlier.push((request.prompt_ids, output.clone()));
                    let (ids, found) = (Vec::new(), Vec::new());
                    running.insert(id, Running { expected, cancelled: false, ids, found, end: None });
                }
                Err(EngineError::NeverFits { needed, blocks, .. }) => {
                    assert_eq!((needed, blocks), (most, num_blocks));
                    assert!(needed > blocks);
                    met.refusals += 1;
                }
                Err(EngineError::TooManyBeams { num_beams, most }) => {
                    assert_eq!((num_beams, most), (request.lanes_max(), beams_max));
                    assert!(num_beams > most);
                }
                Err(error) => panic!("{error}"),
            }
        }
        if rng.below(20) == 0 && !running.is_empty() {
            let id = SeqId(rng.below(running.len() as u32));
            let sequence = running.get_mut(&id).unwrap();
            assert_eq!(engine.cancel(id), sequence.end.is_none());
            sequence.cancelled = true;
            met.cancels += 1;
        }
        match engine.step() {
            Ok(events) => events.into_iter().for_each(|event| receive(event, &mut running, met)),
            Err(error) => {
                assert!(fails_at.is_some() && matches!(error, EngineError::Lost { .. }), "{error}");
                assert!(engine.is_idle());
                met.device_failures += 1;
                return;
            }
        }
        if arrivals == 0 && engine.is_idle() {
            break;
        }
    }
    assert!(running.values().all(|sequence| sequence.end.is_some()), "a request has no end");
    assert_eq!(engine.scheduler.blocks().num_available(), num_blocks, "blocks leak");
    met.preemptions += engine.preemptions();
}

fn receive(event: Event, running: &mut HashMap<SeqId, Running>, met: &mut Met) {
    let (seq, end) = match event {
        Event::Token { seq, id, ends, .. } => {
            let sequence = running.get_mut(&seq).unwrap();
            assert_eq!(sequence.end, None, "a token after the end");
            sequence.ids.push(id);
            let is_last = sequence.ids == sequence.expected.ids;
            let end = Some(sequence.expected.end).filter(|end| is_last && *end != End::Failed);
            assert_eq!(ends.map(End::Finished), end, "{seq} says with the token whether it ends");
            assert!(sequence.expected.ids.starts_with(&sequence.ids), "{seq} gives {:?}", sequence.ids);
            return;
        }
        Event::Found { seq, results } => {
            met.searches += u64::from(results[0].ids.len() > 1);
            let sequence = running.get_mut(&seq).unwrap();
            assert_eq!((sequence.end, std::mem::replace(&mut sequence.found, results)), (None, Vec::new()));
            return;
        }
        Event::Finished { seq, reason, metrics } => {
            met.prompt_tokens_cached += u64::from(metrics.prompt_tokens_cached);
            (seq, End::Finished(reason))
        }
        Event::Failed { seq, .. } => {
            met.bad_rows += 1;
            (seq, End::Failed)
        }
    };
    let sequence = running.get_mut(&seq).unwrap();
    assert_eq!(sequence.end.replace(end), None, "{seq} ends twice");
    let is_cancel = end == End::Finished(FinishReason::Cancelled);
    assert!(!is_cancel || sequence.cancelled, "nobody cancelled {seq}");
    if !is_cancel {
        let (ids, found) = (sequence.ids.clone(), sequence.found.clone());
        assert_eq!(Answer { ids, found, end }, sequence.expected, "{seq}");
    }
}

#[test]
fn random_schedules_keep_every_promise() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let mut met = Met::default();
    if let Some(seed) = number("KILN_SCHEDULE") {
        return run(seed, &mut met);
    }
    for seed in 0..number("KILN_SCHEDULES").unwrap_or(SCHEDULES) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut met)));
        assert!(outcome.is_ok(), "KILN_SCHEDULE={seed} replays what failed above");
    }
    let counts = [met.preemptions, met.searches, met.prompt_tokens_cached];
    let faults = [met.refusals, met.cancels, met.bad_rows, met.device_failures];
    assert!(counts.iter().all(|n| *n > 1000) && faults.iter().all(|n| *n > 20), "schedules are too tame: {met:?}");
}
