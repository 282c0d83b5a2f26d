//! Beam search against exhaustive search and against itself. Not yet against transformers.

use proptest::prelude::*;

use super::*;

/// A language model: a log-probability for every token after every prefix, from a hash of both.
struct Table {
    seed: u64,
    vocab_size: u32,
}

impl Table {
    fn logprob(&self, prefix: &[TokenId], id: u32) -> f32 {
        let mix = |h: u64, x: u64| (h ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = prefix.iter().fold(mix(self.seed, 1), |h, id| mix(h, u64::from(id.0) + 2));
        -((mix(mix(hash, u64::from(id) + 7), 3) >> 40) as f32) / (1u32 << 22) as f32 - 1e-3
    }

    /// All tokens after a prefix, most likely first.
    fn candidates(&self, prefix: &[TokenId]) -> Vec<Candidate> {
        let candidate = |id| Candidate { id: TokenId(id), logprob: self.logprob(prefix, id) };
        let mut all: Vec<Candidate> = (0..self.vocab_size).map(candidate).collect();
        all.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id)));
        all
    }

    fn search(&self, params: BeamParams, end_ids: &[u32], max_tokens: u32, keep: usize) -> BeamSearch {
        let end_ids = end_ids.iter().copied().map(TokenId).collect();
        let mut search = BeamSearch::new(params, end_ids, max_tokens);
        loop {
            let rows: Vec<Vec<Candidate>> = (0..search.num_live())
                .map(|beam| self.candidates(&search.live_ids(beam)).into_iter().take(keep).collect())
                .collect();
            if search.advance(&rows) == Advance::Done {
                return search;
            }
        }
    }

    /// Every sequence that ends, or is `max_tokens` long, with its score; best first.
    fn exhaustive(&self, end_ids: &[u32], max_tokens: usize, length_penalty: f64) -> Vec<(Vec<TokenId>, f64)> {
        let mut open: Vec<(Vec<TokenId>, f64)> = vec![(Vec::new(), 0.0)];
        let mut all = Vec::new();
        while let Some((prefix, sum)) = open.pop() {
            for c in self.candidates(&prefix) {
                let ids = [&prefix[..], &[c.id]].concat();
                let sum = sum + f64::from(c.logprob);
                if end_ids.contains(&c.id.0) || ids.len() == max_tokens {
                    let score = sum / (ids.len() as f64).powf(length_penalty);
                    all.push((ids, score));
                } else {
                    open.push((ids, sum));
                }
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

fn params(num_beams: u32, length_penalty: f64, early_stopping: EarlyStopping) -> BeamParams {
    BeamParams { num_beams, num_return: num_beams, length_penalty, early_stopping }
}

const STOPPINGS: [EarlyStopping; 3] = [EarlyStopping::First, EarlyStopping::Likely, EarlyStopping::Never];

fn ids_and_scores(search: &BeamSearch) -> Vec<(Vec<TokenId>, f64)> {
    search.results().into_iter().map(|h| (h.ids, h.score)).collect()
}

#[test]
fn nine_beams_over_three_tokens_are_exhaustive_search() {
    for seed in 0..200 {
        let table = Table { seed, vocab_size: 3 };
        let found = ids_and_scores(&table.search(params(9, 0.0, EarlyStopping::Never), &[], 3, 9));
        assert_eq!(found, table.exhaustive(&[], 3, 0.0)[..9], "seed {seed}");
    }
}

#[test]
fn beams_that_prune_nothing_find_the_best_sequences_of_any_length() {
    for seed in 0..200 {
        for length_penalty in [-1.0, 0.0, 0.7, 2.0] {
            let table = Table { seed, vocab_size: 3 };
            // At most 12 candidates a step, so that no end is dropped; the 15 sequences are all kept.
            let found = ids_and_scores(&table.search(params(16, length_penalty, EarlyStopping::Never), &[2], 3, 16));
            assert_eq!(found, table.exhaustive(&[2], 3, length_penalty), "seed {seed}, penalty {length_penalty}");
        }
    }
}

#[test]
fn an_end_ranked_below_the_beams_is_dropped() {
    let candidate = |id, logprob| Candidate { id: TokenId(id), logprob };
    let mut search = BeamSearch::new(params(2, 0.0, EarlyStopping::Never), vec![TokenId(9)], 4);
    let first = search.advance(&[vec![candidate(1, -0.5), candidate(2, -1.0), candidate(9, -1.5)]]);
    let live = |parent, id| Continuation { parent, id: TokenId(id) };
    assert_eq!(first, Advance::Live(vec![live(0, 1), live(0, 2)]));
    assert_eq!(search.results(), [], "rank 2 of 2 beams");
    // Sums: -0.6 (end), -0.7, -1.1 (end, rank 2: dropped), -1.2.
    let rows = [vec![candidate(9, -0.1), candidate(3, -0.2)], vec![candidate(9, -0.1), candidate(4, -0.2)]];
    assert_eq!(search.advance(&rows), Advance::Live(vec![live(0, 3), live(1, 4)]));
    assert_eq!(search.results().iter().map(|h| h.ids.clone()).collect::<Vec<_>>(), [[TokenId(1), TokenId(9)]]);
}

#[test]
fn early_stopping_stops_in_order() {
    // Both beams end early; a live beam at -1.05 could still beat the worse result, -1.1, if length were rewarded.
    let candidate = |id, logprob| Candidate { id: TokenId(id), logprob };
    let step = |early_stopping, length_penalty, live: f32| {
        let mut search = BeamSearch::new(params(1, length_penalty, early_stopping), vec![TokenId(9)], 10);
        search.advance(&[vec![candidate(9, -1.0), candidate(1, live)]])
    };
    let done = |advance| advance == Advance::Done;
    let stops = |penalty, live| STOPPINGS.map(|early_stopping| done(step(early_stopping, penalty, live)));
    assert_eq!(stops(0.0, -1.1), [true, true, true]);
    assert_eq!(stops(1.0, -1.1), [true, true, false], "-1.1 / 10 could be reached");
    assert_eq!(stops(-1.0, -1.1), [true, true, true]);
}

#[test]
fn masked_tokens_are_never_taken() {
    let masked = Candidate { id: TokenId(0), logprob: f32::NEG_INFINITY };
    let mut search = BeamSearch::new(params(2, 0.0, EarlyStopping::Never), Vec::new(), 3);
    let live = search.advance(&[vec![masked, Candidate { id: TokenId(1), logprob: -1.0 }]]);
    assert_eq!(live, Advance::Live(vec![Continuation { parent: 0, id: TokenId(1) }]));
    assert_eq!(search.advance(&[vec![masked]]), Advance::Done);
    assert_eq!(search.results(), []);
}

#[test]
fn what_beams_do_not_do_is_rejected() {
    let beams = BeamParams { num_beams: 4, num_return: 4, ..BeamParams::default() };
    let ok = SamplingParams::default();
    let name = |beams: &BeamParams, sampling: &SamplingParams| beams.validate(sampling, 2).map_err(|e| e.name);
    assert_eq!(name(&beams, &ok), Ok(()));
    assert_eq!(name(&beams, &SamplingParams::greedy(4)), Ok(()));
    let sampling = [
        ("temperature", SamplingParams { temperature: 0.7, ..ok.clone() }),
        ("top_k", SamplingParams { top_k: 40, ..ok.clone() }),
        ("top_p", SamplingParams { top_p: 0.9, ..ok.clone() }),
        ("min_p", SamplingParams { min_p: 0.1, ..ok.clone() }),
        ("seed", SamplingParams { seed: Some(1), ..ok.clone() }),
        ("stop", SamplingParams { stop: vec!["x".into()], ..ok.clone() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 1.1, ..ok.clone() }),
        ("logprobs", SamplingParams { logprobs: Some(1), ..ok.clone() }),
        ("max_tokens", SamplingParams { max_tokens: Some(0), ..ok.clone() }),
    ];
    for (field, sampling) in sampling {
        assert_eq!(name(&beams, &sampling), Err(field));
    }
    let fields = [
        ("num_beams", BeamParams { num_beams: 0, ..beams.clone() }),
        ("num_beams", BeamParams { num_beams: 17, ..beams.clone() }),
        ("num_return", BeamParams { num_return: 5, ..beams.clone() }),
        ("num_return", BeamParams { num_return: 0, ..beams.clone() }),
        ("length_penalty", BeamParams { length_penalty: f64::NAN, ..beams.clone() }),
    ];
    for (field, beams) in fields {
        assert_eq!(name(&beams, &ok), Err(field));
    }
    assert_eq!(beams.validate(&ok, BEAM_END_IDS_MAX + 1).map_err(|e| e.name), Err("stop_token_ids"));
}

proptest! {
    /// That few candidates of each beam are enough, against all of them.
    #[test]
    fn candidates_per_beam_lose_nothing(
        seed in any::<u64>(),
        num_beams in 1u32..=10,
        num_ends in 0u32..4,
        stopping in 0usize..3,
        length_penalty in -1.5f64..2.0,
    ) {
        let table = Table { seed, vocab_size: 40 };
        let params = params(num_beams, length_penalty, STOPPINGS[stopping]);
        let ends: Vec<u32> = (0..num_ends).collect();
        let keep = params.candidates_per_beam(ends.len()) as usize;
        let few = table.search(params.clone(), &ends, 6, keep).results();
        prop_assert_eq!(&few, &table.search(params, &ends, 6, 40).results());

        prop_assert!(!few.is_empty() && few.len() <= num_beams as usize);
        prop_assert!(few.windows(2).all(|w| w[0].score >= w[1].score));
        for h in &few {
            let mut sum = 0.0;
            for (i, (&id, &logprob)) in h.ids.iter().zip(&h.logprobs).enumerate() {
                prop_assert_eq!(logprob, table.logprob(&h.ids[..i], id.0));
                prop_assert_eq!(ends.contains(&id.0), h.is_stopped && i + 1 == h.ids.len(), "an end is the last");
                sum += f64::from(logprob);
            }
            prop_assert_eq!(h.sum_logprob, sum);
            prop_assert_eq!(h.score, sum / (h.ids.len() as f64).powf(length_penalty));
            prop_assert!(h.is_stopped || h.ids.len() == 6);
        }
        for (i, h) in few.iter().enumerate() {
            prop_assert!(few[..i].iter().all(|other| other.ids != h.ids), "no result twice");
        }
    }

    #[test]
    fn one_beam_without_an_end_is_greedy(seed in any::<u64>()) {
        let table = Table { seed, vocab_size: 20 };
        let mut greedy = Vec::new();
        for _ in 0..8 {
            let best = table.candidates(&greedy)[0].id;
            greedy.push(best);
        }
        let found = table.search(params(1, 0.0, EarlyStopping::Never), &[], 8, 1).results();
        prop_assert_eq!(&found[0].ids, &greedy);
    }
}
