//! Beam search against recordings of transformers (`xtask/goldens/beams.py`): the same hypotheses in the same order.
//!
//! transformers computes the same model in f32 in another order of sums. That changes last bits, and now and then which way a key or a value is
//! rounded to f16, which moves a log-probability by some 1e-5. Decisions in the recorded searches are at least 1e-4 apart.

use crate::common;
use std::collections::{BTreeMap, BTreeSet};

use crate::common::Tested;
use crate::common::synthetic::TinyModel;
use kiln::device::Limits;
use kiln::device::reference::Mode;
use kiln::engine::{Engine, Event, Request};
use kiln::ids::{SeqId, TokenId};
use kiln::model::{KvCacheDType, Program};
use kiln::sampling::SamplingParams;
use kiln::sampling::beam::{BeamParams, EarlyStopping, Hypothesis};
use kiln::weights::DType;

const MODEL: TinyModel = TinyModel { dtype: DType::F32, ..TinyModel::GROUPED };

/// Distance of a hypothesis' log-probability from the recorded one: half of them differ in last bits, all of them by little.
const SUM_ERROR_MEDIAN_MAX: f64 = 1e-5;
const SUM_ERROR_MAX: f64 = 5e-4;

#[derive(serde::Deserialize)]
struct Golden {
    seed: u64,
    end: u32,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    num_beams: u32,
    early_stopping: EarlyStopping,
    length_penalty: f64,
    max_tokens: u32,
    /// What is added to the end's log-probability.
    end_bias: f32,
    hypotheses: Vec<Recorded>,
}

#[derive(serde::Deserialize)]
struct Recorded {
    ids: Vec<u32>,
    score: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/beams.json")).unwrap()
}

impl Case {
    fn request(&self, end: TokenId) -> Request {
        let beams = BeamParams {
            num_beams: self.num_beams,
            num_return: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
        };
        let params = SamplingParams {
            max_tokens: Some(self.max_tokens),
            logit_bias: vec![(end, self.end_bias)],
            ..SamplingParams::default()
        };
        let prompt_ids = self.prompt_ids.iter().map(|id| TokenId(*id)).collect();
        Request { beams: Some(beams), ..Request::new(prompt_ids, params, 0) }
    }

    fn ends_early(&self, hypothesis: &Recorded) -> bool {
        (hypothesis.ids.len() as u32) < self.max_tokens
    }

    /// Checks ids; returns how far the log-probability of each hypothesis is from the recorded one.
    fn sum_errors(&self, found: &[Hypothesis], what: &str) -> Vec<f64> {
        let ids = |ids: &[u32]| ids.iter().map(|id| TokenId(*id)).collect::<Vec<_>>();
        let expected: Vec<_> = self.hypotheses.iter().map(|hypothesis| ids(&hypothesis.ids)).collect();
        assert_eq!(found.iter().map(|hypothesis| hypothesis.ids.clone()).collect::<Vec<_>>(), expected, "{what}");
        let error = |(found, recorded): (&Hypothesis, &Recorded)| {
            let divisor = (recorded.ids.len() as f64).powf(self.length_penalty);
            let error = (found.score - recorded.score).abs() * divisor;
            // The recording has six decimals.
            assert!(error <= SUM_ERROR_MAX + 5e-7 * divisor, "{what}: {} for {}", found.score, recorded.score);
            error
        };
        found.iter().zip(&self.hypotheses).map(error).collect()
    }
}

#[test]
fn the_recording_covers_what_it_should() {
    let golden = golden();
    let all = |value: fn(&Case) -> String| golden.cases.iter().map(value).collect::<BTreeSet<_>>();
    assert_eq!(all(|case| format!("{:2}", case.num_beams)).len(), 10);
    assert_eq!(all(|case| format!("{:?}", case.early_stopping)).len(), 3);
    assert_eq!(all(|case| format!("{}", case.length_penalty)).len(), 5);
    let hypotheses = || golden.cases.iter().flat_map(|case| case.hypotheses.iter().map(move |one| (case, one)));
    let early: Vec<usize> =
        hypotheses().filter(|(case, one)| case.ends_early(one)).map(|(_, one)| one.ids.len()).collect();
    assert!(early.len() * 10 >= hypotheses().count() * 3, "{} of {} end early", early.len(), hypotheses().count());
    assert!(early.iter().collect::<BTreeSet<_>>().len() >= 8, "early ends have many lengths");
    assert!(golden.cases.len() >= 200);
}

fn limits() -> Limits {
    Limits {
        slots_max: 20,
        context_tokens_max: 64,
        step_rows_max: 64,
        logit_rows_max: 20,
        block_tokens: 16,
        num_blocks: 80,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 2,
    }
}

/// Every `every`-th recorded search (57: five, with every `early_stopping`) on a device, as many at a time as there is room for.
fn check(tested: &Tested, every: usize) {
    let golden = golden();
    let (spec, tensors) = MODEL.build(golden.seed);
    let device = tested.ready(&Program::of(&spec), &tensors, &limits());
    let end = TokenId(golden.end);
    let mut engine = Engine::new(device, MODEL.vocab_size, vec![end]);
    let cases: BTreeMap<SeqId, &Case> =
        (golden.cases.iter().step_by(every)).map(|case| (engine.add(case.request(end)).unwrap(), case)).collect();
    let mut errors = Vec::new();
    let mut checked = 0;
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                Event::Found { seq, results } => {
                    let case = cases[&seq];
                    let Case { num_beams, early_stopping, length_penalty, .. } = case;
                    let how = format!("{num_beams} beams, {early_stopping:?}, length penalty {length_penalty}");
                    errors.extend(case.sum_errors(&results, &format!("{}, {seq}: {how}", tested.name)));
                    checked += 1;
                }
                Event::Failed { seq, error } => panic!("{}, {seq}: {error}", tested.name),
                _ => {}
            }
        }
    }
    assert_eq!(checked, cases.len());
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    // The simulated GPU runs with approximations as rough as they may be.
    let median_max = if common::simulated::is_child() { 10.0 * SUM_ERROR_MEDIAN_MAX } else { SUM_ERROR_MEDIAN_MAX };
    assert!(median <= median_max, "{}: log-probabilities differ by {median}", tested.name);
}

#[test]
fn searches_find_what_transformers_finds() {
    if common::simulated::is_child() {
        return common::devices().iter().for_each(|tested| check(tested, 57));
    }
    check(&common::reference(Mode::F32), 1);
    common::devices().iter().for_each(|tested| check(tested, 1));
}

common::simulated::on_the_simulated_gpu! {
    searches_find_what_transformers_finds
}
