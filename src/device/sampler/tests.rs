//! The sampler against a naive oracle, and its draws against the exact distribution.

use proptest::prelude::*;

use super::select::Entry;
use super::*;

fn row(choice: Choice) -> SampleRow {
    SampleRow::plain(0, SlotId(0), choice)
}

#[derive(Clone, Copy, Debug)]
struct Setting {
    temperature: f32,
    top_k: u32,
    top_p: f64,
    min_p: f32,
}

impl Setting {
    fn draw(self, seed: u64, output_index: u32) -> Choice {
        Choice::Draw {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p_q32: (self.top_p * (1u64 << 32) as f64).ceil() as u64,
            min_p: self.min_p,
            seed,
            choice_index: 0,
            output_index,
        }
    }
}

/// Probabilities after all filters, by sorting, in f64.
fn oracle(logits: &[f32], s: Setting) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let weight = |l: f32| (f64::from(l - max) / f64::from(s.temperature)).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    let total: f64 = order.iter().map(|&i| weight(logits[i])).sum();
    let (mut sum, mut kept) = (0.0, Vec::new());
    for &i in &order {
        if !kept.is_empty() && sum >= s.top_p * total {
            break;
        }
        sum += weight(logits[i]);
        kept.push(i);
    }
    kept.retain(|&i| weight(logits[i]) >= f64::from(s.min_p));
    let total: f64 = kept.iter().map(|&i| weight(logits[i])).sum();
    let mut p = vec![0.0; logits.len()];
    for i in kept {
        p[i] = weight(logits[i]) / total;
    }
    p
}

fn sample_many(logits: &[f32], s: Setting, draws: u32) -> Vec<u32> {
    let sampler = HostSampler::new(1, logits.len() as u32);
    let mut counts = vec![0; logits.len()];
    for i in 0..draws {
        let sampled = sampler.sample(logits, &row(s.draw(7, i)));
        counts[sampled.token.unwrap().index()] += 1;
    }
    counts
}

#[test]
fn a_million_draws_follow_the_exact_distribution() {
    let spread: Vec<f32> = (0..40).map(|i| ((i * 37 % 40) as f32) * 0.15).collect();
    let ties = vec![1.0f32, 1.0, 0.0, 1.0, 0.0, -2.0, 1.0, 0.5];
    // As wide as vocabularies go through several chunks of 64, with logits spread as a model's are.
    let wide: Vec<f32> = (0..1024).map(|i| ((i * 769 % 1024) as f32 / 1024.0 - 0.5) * 6.0).collect();
    let settings = [
        (&wide, Setting { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.05 }),
        (&spread, Setting { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }),
        (&spread, Setting { temperature: 0.7, top_k: 12, top_p: 0.9, min_p: 0.0 }),
        (&spread, Setting { temperature: 1.5, top_k: 0, top_p: 0.8, min_p: 0.1 }),
        (&ties, Setting { temperature: 1.0, top_k: 6, top_p: 0.95, min_p: 0.0 }),
    ];
    for (logits, setting) in settings {
        let draws = 1_000_000;
        let counts = sample_many(logits, setting, draws);
        let (mut chi2, mut degrees) = (0.0, -1.0);
        for (count, p) in counts.iter().zip(oracle(logits, setting)) {
            if p == 0.0 {
                assert_eq!(*count, 0, "{setting:?}: a filtered token was drawn");
                continue;
            }
            let expected = p * f64::from(draws);
            chi2 += (f64::from(*count) - expected).powi(2) / expected;
            degrees += 1.0;
        }
        // 5 standard deviations of chi-squared: one false alarm in millions, and the seed is fixed.
        let limit = degrees + 5.0 * (2.0f64 * degrees).sqrt();
        assert!(chi2 <= limit, "{setting:?}: chi2 {chi2} over {degrees} degrees");
    }
}

proptest! {
    #[test]
    fn only_what_the_oracle_keeps_is_drawn(
        logits in prop::collection::vec(-8f32..8.0, 1..200),
        temperature in 0.2f32..3.0,
        top_k in 0u32..50,
        top_p in 0f64..1.0,
        min_p in 0f32..0.5,
        seed: u64,
    ) {
        let setting = Setting { temperature, top_k, top_p, min_p };
        let p = oracle(&logits, setting);
        let sampler = HostSampler::new(1, logits.len() as u32);
        for i in 0..8 {
            let id = sampler.sample(&logits, &row(setting.draw(seed, i))).token.unwrap();
            // The oracle's own rounding decides at the last ulp of a boundary: a neighbour there may survive.
            let relaxed = Setting { top_p: (top_p + 1e-6).min(1.0), min_p: min_p - 1e-6, ..setting };
            prop_assert!(p[id.index()] > 0.0 || oracle(&logits, relaxed)[id.index()] > 0.0);
        }
    }

    #[test]
    fn draws_equal_sorting_in_integers(
        logits in prop::collection::vec(prop_oneof![-6f32..6.0, (-3i8..4).prop_map(f32::from)], 1..700),
        temperature in prop_oneof![Just(1e-30f32), 0.05f32..4.0, Just(1e30)],
        top_k in prop_oneof![Just(0u32), 1u32..20, 1u32..800],
        top_p in prop_oneof![Just(0.0), Just(1.0), Just(0.9999999), 0f64..1.0],
        min_p in prop_oneof![Just(0f32), 0f32..1.0, Just(1.0)],
        seed: u64,
    ) {
        let setting = Setting { temperature, top_k, top_p, min_p };
        let sampler = HostSampler::new(1, logits.len() as u32);
        for i in 0..4 {
            let choice = setting.draw(seed, i);
            let got = sampler.sample(&logits, &row(choice)).token.unwrap();
            prop_assert_eq!(got.0, naive_draw(&logits, choice));
        }
    }

    #[test]
    fn top_p_equals_sorting(
        ranks in prop::collection::btree_set(any::<u64>(), 1..300),
        masses in prop::collection::vec(prop_oneof![Just(1u64), 1u64..1000, Just(1u64 << 44)], 300),
        p_q32 in 0u64..=1 << 32,
        order: u64,
    ) {
        let mut entries: Vec<Entry> =
            ranks.into_iter().zip(masses).map(|(rank, mass)| Entry { rank, mass }).collect();
        entries.sort_by_key(|e| e.rank.wrapping_mul(order | 1));
        let mut best_first = entries.clone();
        best_first.sort_by_key(|e| std::cmp::Reverse(e.rank));
        let target = select::target_mass(entries.iter().map(|e| e.mass).sum(), p_q32);
        let mut sum = 0;
        let want: Vec<Entry> =
            best_first.into_iter().take_while(|e| { let before = sum; sum += e.mass; before < target }).collect();
        let mut got = entries.clone();
        select::keep_top_p(&mut got, &mut Vec::new(), target);
        prop_assert_eq!(got, entries.into_iter().filter(|e| want.contains(e)).collect::<Vec<_>>());
    }

    #[test]
    fn the_best_are_those_of_sorting(
        logits in prop::collection::vec(prop_oneof![-6f32..6.0, (-3i8..4).prop_map(f32::from)], 1..1500),
        n in prop_oneof![0usize..30, 0usize..1600],
    ) {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let mut peaks = Peaks::default();
        prop_assert!(peaks.scan(&logits));
        prop_assert_eq!(peaks.argmax(&logits), order[0]);
        order.truncate(n);
        prop_assert_eq!(peaks.best(&logits, n, &mut Drawer::default()), order);
    }
}

/// The definition, step by step over a sorted vocabulary, in integers.
fn naive_draw(logits: &[f32], choice: Choice) -> u32 {
    let Choice::Draw { temperature, top_k, top_p_q32, min_p, seed, choice_index, output_index } = choice else {
        panic!("not a draw")
    };
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut kept: Vec<(usize, u64)> = logits.iter().map(|l| mass::mass((l - max) / temperature)).enumerate().collect();
    kept.sort_by(|a, b| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0)));
    if top_k > 0 {
        kept.truncate(top_k as usize);
    }
    let total: u128 = kept.iter().map(|k| u128::from(k.1)).sum();
    let target = (total * u128::from(top_p_q32)).div_ceil(1 << 32);
    let mut sum = 0;
    let count = kept
        .iter()
        .take_while(|k| {
            let before = sum;
            sum += u128::from(k.1);
            before < target
        })
        .count();
    kept.truncate(count.max(1));
    kept.retain(|k| k.1 as f64 >= f64::from(min_p) * MASS_ONE as f64);
    kept.sort();
    let total: u128 = kept.iter().map(|k| u128::from(k.1)).sum();
    let mut left = (u128::from(philox::draw(seed, choice_index, output_index)) * total) >> 64;
    for (id, mass) in kept {
        if left < u128::from(mass) {
            return id as u32;
        }
        left -= u128::from(mass);
    }
    panic!("nothing was kept")
}

#[test]
fn limits_of_the_filters() {
    let logits = vec![0.0f32, 3.0, 1.0, 3.0, -1.0];
    let all = Setting { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let support = |s: Setting| -> Vec<usize> {
        let counts = sample_many(&logits, s, 20_000);
        (0..counts.len()).filter(|&i| counts[i] > 0).collect()
    };
    assert_eq!(support(all), [0, 1, 2, 3, 4]);
    assert_eq!(support(Setting { top_p: 0.0, ..all }), [1], "p = 0 keeps the first of the best");
    assert_eq!(support(Setting { top_p: 0.999_999_9, ..all }), [0, 1, 2, 3, 4]);
    assert_eq!(support(Setting { top_k: 1, ..all }), [1]);
    assert_eq!(support(Setting { top_k: 2, ..all }), [1, 3]);
    assert_eq!(support(Setting { top_k: 5, ..all }), [0, 1, 2, 3, 4]);
    assert_eq!(support(Setting { min_p: 1.0, ..all }), [1, 3]);
    assert_eq!(support(Setting { temperature: 1e-30, ..all }), [1, 3], "ties survive any temperature");
    let even = sample_many(&logits, Setting { temperature: 1e30, ..all }, 50_000);
    assert!(even.iter().all(|&c| (9_500..10_500).contains(&c)), "{even:?}");
}

#[test]
fn bad_rows_are_errors_and_touch_nothing() {
    let sampler = HostSampler::new(2, 3);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let sampled = sampler.sample(&[0.0, bad, 1.0], &row(Choice::Greedy));
        assert_eq!(sampled.token, Err(BadRow::NotFinite));
        assert_eq!(sampler.last_sampled(SlotId(0)), None);
    }
    let ids: Vec<TokenId> = (0..3).map(TokenId).collect();
    sampler.start(&SlotStart { slot: SlotId(0), ids_masked_before_min: ids, ..SlotStart::default() });
    let masked = SampleRow { before_min_length: true, ..row(Choice::Greedy) };
    assert_eq!(sampler.sample(&[0.0, 2.0, 1.0], &masked).token, Err(BadRow::AllMasked));
    let other = SampleRow { slot: SlotId(1), ..masked };
    assert_eq!(sampler.sample(&[0.0, 2.0, 1.0], &other).token, Ok(TokenId(1)));
}

#[test]
fn penalties_count_their_scope() {
    let start = |output: &[u32], penalties: Penalties| SlotStart {
        prompt_ids: vec![TokenId(0), TokenId(0)],
        output_ids: output.iter().map(|&i| TokenId(i)).collect(),
        penalties,
        ..SlotStart::default()
    };
    let off = Penalties::default();
    let cases = [
        ("none", off, 0),
        ("presence counts the output only", Penalties { presence: 2.0, ..off }, 0),
        ("and the prompt if asked", Penalties { presence: 2.0, count_prompt: true, ..off }, 2),
        ("frequency per occurrence", Penalties { frequency: 0.6, count_prompt: true, ..off }, 2),
        ("repetition divides positive logits", Penalties { repetition: 2.0, ..off }, 2),
        ("a negative penalty rewards", Penalties { presence: -5.0, ..off }, 1),
    ];
    let row = row(Choice::Greedy);
    for (name, penalties, want) in cases {
        let sampler = HostSampler::new(1, 4);
        sampler.start(&start(&[1], penalties));
        assert_eq!(sampler.sample(&[3.0, 2.5, 2.0, -1.0], &row).token, Ok(TokenId(want)), "{name}");
        // The next sequence of the slot has its own.
        sampler.start(&start(&[1], off));
        assert_eq!(sampler.sample(&[3.0, 2.5, 2.0, -1.0], &row).token, Ok(TokenId(0)), "after {name}");
    }
    // Tokens that are sampled count from then on.
    let sampler = HostSampler::new(1, 4);
    sampler.start(&SlotStart { penalties: Penalties { presence: 1.0, ..off }, ..SlotStart::default() });
    let ids: Vec<_> = (0..3).map(|_| sampler.sample(&[3.0, 2.5, 2.2, 0.0], &row).token.unwrap().0).collect();
    assert_eq!(ids, [0, 1, 2]);
}

#[test]
fn no_penalty_makes_a_logit_infinite() {
    let sampler = HostSampler::new(1, 3);
    let draw = Choice::Draw {
        temperature: 1.0,
        top_k: 0,
        top_p_q32: 1 << 31,
        min_p: 0.0,
        seed: 0,
        choice_index: 0,
        output_index: 0,
    };
    // 3.6 / 1e-38 and -3.6 · 1e38 leave f32; the penalised token must stay the best, or the worst, of finite ones.
    for choice in [Choice::Greedy, draw] {
        for (logit, repetition, want) in [(3.6, 1e-38, 0), (-3.6, 1e38, 1), (3.6, 1e38, 1)] {
            let penalties = Penalties { repetition, ..Penalties::default() };
            sampler.start(&SlotStart { prompt_ids: vec![TokenId(0)], penalties, ..SlotStart::default() });
            let got = sampler.sample(&[logit, 1.0, -90.0], &row(choice)).token;
            assert_eq!(got, Ok(TokenId(want)), "{choice:?} {logit} {repetition}");
        }
    }
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let logits = [1.0f32, 2.0, 0.5, 2.0];
    let exact = |l: f32| f64::from(l) - logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
    let sampler = HostSampler::new(1, 4);
    sampler.start(&SlotStart { logit_bias: vec![(TokenId(2), 50.0)], ..SlotStart::default() });
    let sampled = sampler.sample(&logits, &SampleRow { logprobs: Some(3), ..row(Choice::Greedy) });
    assert_eq!(sampled.token, Ok(TokenId(2)));
    assert!((f64::from(sampled.logprob.unwrap()) - exact(0.5)).abs() <= 1e-6);
    assert_eq!(sampled.top.iter().map(|t| t.0.0).collect::<Vec<_>>(), [1, 3, 0]);
    for (id, logprob) in sampled.top {
        assert!((f64::from(logprob) - exact(logits[id.index()])).abs() <= 1e-6);
    }
}

#[test]
fn a_draw_depends_on_its_name_alone() {
    let logits: Vec<f32> = (0..500).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
    let s = Setting { temperature: 0.9, top_k: 0, top_p: 0.95, min_p: 0.0 };
    let a = HostSampler::new(3, 500);
    let b = HostSampler::new(3, 500);
    let mut distinct = std::collections::HashSet::new();
    for i in (0..50).rev() {
        a.sample(&logits, &SampleRow { slot: SlotId(1), ..row(s.draw(3, 99)) });
        let first = a.sample(&logits, &row(s.draw(11, i))).token;
        let second = b.sample(&logits, &SampleRow { slot: SlotId(2), ..row(s.draw(11, i)) }).token;
        assert_eq!(first, second);
        distinct.insert(first.unwrap());
    }
    assert!(distinct.len() > 20);
}

#[test]
fn threads_choose_what_one_thread_chooses() {
    const VOCAB: usize = 300;
    let s = Setting { temperature: 1.3, top_k: 40, top_p: 0.9, min_p: 0.0 };
    let all_logits: Vec<Vec<f32>> =
        (0..40).map(|seed| (0..VOCAB).map(|i| ((i * 7 + seed * 131) as f32 * 0.37).sin() * 5.0).collect()).collect();
    // Slots with one to three rows, next to each other or not, which count each other's tokens.
    let slot = |i: u32| SlotId(i / 6 * 3 + [0, 1, 2, 2, 1, 2][i as usize % 6]);
    let rows: Vec<SampleRow> = (0..40)
        .map(|i| {
            let logprobs = (i % 5 == 0).then_some(2);
            SampleRow { logit_row: i, slot: slot(i), logprobs, ..row(s.draw(5, i)) }
        })
        .collect();
    let logits = |row: &SampleRow| &all_logits[row.logit_row as usize][..];
    let one = HostSampler::new(21, VOCAB as u32);
    let three = HostSampler::new(21, VOCAB as u32).with_threads(3);
    for slot in (0..21).filter(|slot| slot % 4 != 0) {
        let penalties = Penalties { frequency: 2.0, ..Penalties::default() };
        let start = SlotStart { slot: SlotId(slot), penalties, ..SlotStart::default() };
        one.start(&start);
        three.start(&start);
    }
    for _ in 0..20 {
        let expected: Vec<Sampled> = rows.iter().map(|row| one.sample(logits(row), row)).collect();
        let sampling = three.begin(&rows);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let sampling = &sampling;
                scope.spawn(move || sampling.run(thread, logits));
            }
        });
        assert_eq!(sampling.finish(), expected);
    }
    assert!((0..21).all(|i| one.last_sampled(SlotId(i)) == three.last_sampled(SlotId(i))));
}
