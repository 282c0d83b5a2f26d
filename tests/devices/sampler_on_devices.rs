//! Every device's sampler against the one on the host: the same tokens, and the same bits of every log-probability.

use crate::common;
use crate::common::synthetic::{Rng, Tensors};
use crate::common::{Tested, reference, rows_of, simulated};
use kiln::device::reference::Mode;
use kiln::device::sampler::HostSampler;
use kiln::device::{
    Batch, BatchSeq, Checkpoint, Choice, Device, DeviceError, InputToken, KvCacheDType, Limits, Penalties, SampleRow,
    Sampled, SlotStart,
};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{EmbedOp, Program, StageOp};
use kiln::weights::DType;

/// The CUDA device on the simulated GPU, and the reference, which checks the tests themselves.
fn tested() -> Tested {
    #[cfg(feature = "cuda")]
    if simulated::is_child() {
        return common::cuda();
    }
    reference(Mode::Int8)
}

fn limits(slots: u32, logit_rows: u32) -> Limits {
    Limits {
        slots_max: slots,
        context_tokens_max: 16,
        step_rows_max: logit_rows.max(slots),
        logit_rows_max: logit_rows,
        block_tokens: 16,
        num_blocks: logit_rows.max(slots),
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    }
}

/// A device that computes nothing: logits are what tests write.
fn device(vocab_size: u32, slots: u32, logit_rows: u32) -> Box<dyn Device> {
    let program = Program { vocab_size, hidden_size: 32, rope_tables: Vec::new(), ops: Vec::new() };
    tested().ready(&program, &Tensors::default(), &limits(slots, logit_rows))
}

/// A sequence of one row for each slot.
fn batch(starts: Vec<SlotStart>, slots: impl IntoIterator<Item = SlotId>) -> Batch {
    let seq = |(slot, block)| BatchSeq { slot, ..rows_of(&[0], 0, &[BlockId(block)], vec![0]) };
    Batch { starts, seqs: slots.into_iter().zip(0..).map(seq).collect() }
}

fn row(logit_row: u32, slot: u32, choice: Choice) -> SampleRow {
    SampleRow::plain(logit_row, SlotId(slot), choice)
}

fn plain_draw(output_index: u32) -> Choice {
    Choice::Draw { temperature: 1.0, top_k: 0, top_p_q32: 1 << 32, min_p: 0.0, seed: 1, choice_index: 0, output_index }
}

/// One step: sequences that start, the logits of each row, and what is sampled from them.
struct Step {
    starts: Vec<SlotStart>,
    logits: Vec<Vec<f32>>,
    rows: Vec<SampleRow>,
}

/// Runs the steps on the device and on the host's sampler.
fn check(name: &str, device: &mut dyn Device, host: &HostSampler, steps: &[Step]) -> Vec<Sampled> {
    let mut all = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        // Rows that nothing is sampled from are of any slot.
        let mut slots = vec![SlotId(0); step.logits.len()];
        step.rows.iter().for_each(|row| slots[row.logit_row as usize] = row.slot);
        let batch = batch(step.starts.clone(), slots);
        device.write(&batch, Checkpoint::Logits, &step.logits.concat()).unwrap();
        device.submit(&batch).unwrap();
        device.sample(&step.rows).unwrap();
        let found = device.collect().unwrap().sampled;
        step.starts.iter().for_each(|start| host.start(start));
        assert_eq!(found.len(), step.rows.len(), "{name}, step {number}");
        for (found, row) in found.iter().zip(&step.rows) {
            let expected = host.sample(&step.logits[row.logit_row as usize], row);
            assert_eq!(bits(found), bits(&expected), "{name}, step {number}, {row:?}: {found:?}, not {expected:?}");
        }
        all.extend(found);
    }
    all
}

type Bits = (SlotId, Result<TokenId, String>, Option<u32>, Vec<(TokenId, u32)>);

fn bits(sampled: &Sampled) -> Bits {
    let top = sampled.top.iter().map(|(id, logprob)| (*id, logprob.to_bits())).collect();
    (sampled.slot, sampled.token.map_err(|e| e.to_string()), sampled.logprob.map(f32::to_bits), top)
}

/// Rows of logits of every kind that a model or an accident can make.
fn logits(rng: &mut Rng, vocab_size: u32, kind: usize) -> Vec<f32> {
    let n = vocab_size as usize;
    // A few tokens stand out, as they do in a model's distributions.
    let peaked = |rng: &mut Rng| {
        let mut values = rng.values(n, 6.0);
        for _ in 0..8 {
            values[rng.below(n)] = rng.uniform(4.0, 16.0);
        }
        values
    };
    match kind {
        0..4 => peaked(rng),
        4 => (0..n).map(|_| rng.below(7) as f32 - 3.0).collect(),
        5 => (0..n).map(|_| [0.0, -0.0][rng.below(2)]).collect(),
        6 => (0..n).map(|_| [0.0, -0.0, -1.0, -1e-40, -40.0][rng.below(5)]).collect(),
        7 => rng.values(n, 3.4e38),
        8 => vec![-2.5; n],
        9 => (0..n).map(|i| -(i as f32) * 0.01).collect(),
        _ => {
            let mut values = peaked(rng);
            values[rng.below(n)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][kind % 3];
            values
        }
    }
}

const KINDS: usize = 13;

fn one_of<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.below(values.len())]
}

fn choice(rng: &mut Rng, vocab_size: u32) -> Choice {
    match rng.below(9) {
        0 => Choice::Greedy,
        8 => Choice::Candidates { count: one_of(rng, &[1, 4, 10, 26, 128]) },
        1 => Choice::Forced(TokenId(rng.below(vocab_size as usize) as u32)),
        _ => {
            let share = rng.uniform(0.0, 1.0);
            let top_p = one_of(rng, &[1.0, 1.0, 0.9, 0.95, 0.0, 0.9999999, f64::from(share)]);
            let (warm, few, many) = (rng.uniform(0.05, 4.0), rng.below(40) as u32, rng.below(1 << 18) as u32);
            let least = rng.uniform(0.0, 1.0);
            Choice::Draw {
                temperature: one_of(rng, &[1.0, 0.7, warm, warm, 1e-30, 1e30]),
                top_k: one_of(rng, &[0, 0, few, few, many % vocab_size, 1]),
                top_p_q32: (top_p * (1u64 << 32) as f64).ceil() as u64,
                min_p: one_of(rng, &[0.0, 0.0, 0.05, least, 1.0]),
                seed: rng.next_u64(),
                choice_index: rng.below(4) as u32,
                output_index: rng.below(1000) as u32,
            }
        }
    }
}

fn sample_row(rng: &mut Rng, vocab_size: u32, logit_row: u32, slot: u32) -> SampleRow {
    let choice = choice(rng, vocab_size);
    let logprobs = one_of(rng, &[None, None, Some(0), Some(1), Some(5), Some(20), Some(128)]);
    SampleRow {
        before_min_length: rng.below(2) == 0,
        logprobs: if matches!(choice, Choice::Candidates { .. }) { None } else { logprobs },
        ..row(logit_row, slot, choice)
    }
}

fn slot_start(rng: &mut Rng, vocab_size: u32, slot: u32) -> SlotStart {
    let ids = |rng: &mut Rng, most: usize| -> Vec<TokenId> {
        (0..rng.below(most)).map(|_| TokenId(rng.below(vocab_size as usize) as u32)).collect()
    };
    let biased = one_of(rng, &[1, 1, 30, 1025]);
    let penalties = Penalties {
        presence: one_of(rng, &[0.0, 0.5, 2.0, -1.3]),
        frequency: one_of(rng, &[0.0, 0.3, -0.7, 1e30]),
        repetition: one_of(rng, &[1.0, 1.2, 0.01, 100.0]),
        count_prompt: rng.below(2) == 0,
    };
    SlotStart {
        slot: SlotId(slot),
        prompt_ids: ids(rng, 300),
        output_ids: ids(rng, 40),
        penalties: if rng.below(2) == 0 { Penalties::default() } else { penalties },
        logit_bias: ids(rng, biased).into_iter().map(|id| (id, rng.uniform(-20.0, 20.0))).collect(),
        ids_masked_before_min: match rng.below(6) {
            0 => (0..vocab_size.min(1000)).map(TokenId).collect(),
            1 => Vec::new(),
            _ => ids(rng, 6),
        },
    }
}

/// Steps of random rows over random slots. Some slots have several rows in a step.
fn random_steps(rng: &mut Rng, vocab_size: u32, slots: u32, num_rows: u32, num_steps: usize) -> Vec<Step> {
    let mut kind = rng.below(KINDS);
    (0..num_steps)
        .map(|number| {
            let starts = (0..slots).filter(|_| number == 0 || rng.below(4) == 0).collect::<Vec<_>>();
            let starts = starts.into_iter().map(|slot| slot_start(rng, vocab_size, slot)).collect();
            let logits = (0..num_rows).map(|_| {
                kind += 1;
                logits(rng, vocab_size, kind % KINDS)
            });
            let logits = logits.collect();
            let rows = (0..num_rows).map(|i| {
                let slot = rng.below(slots as usize) as u32;
                sample_row(rng, vocab_size, i, slot)
            });
            Step { starts, logits, rows: rows.collect() }
        })
        .collect()
}

#[test]
fn random_rows_of_small_vocabularies() {
    let mut rng = Rng(1);
    for vocab_size in [1, 2, 31, 33, 256, 257, 1000, 2049] {
        let mut device = device(vocab_size, 5, 9);
        let host = HostSampler::new(5, vocab_size);
        let steps = random_steps(&mut rng, vocab_size, 5, 9, 12);
        let sampled = check(&format!("{vocab_size} tokens"), device.as_mut(), &host, &steps);
        assert!(sampled.iter().any(|s| s.token.is_ok()) && sampled.iter().any(|s| s.token.is_err()));
    }
}

#[test]
fn random_rows_of_vocabularies_that_several_ctas_share() {
    let mut rng = Rng(2);
    for vocab_size in [8192, 8193, 32_000, 49_152] {
        let mut device = device(vocab_size, 3, 5);
        let host = HostSampler::new(3, vocab_size);
        let steps = random_steps(&mut rng, vocab_size, 3, 5, 4);
        check(&format!("{vocab_size} tokens"), device.as_mut(), &host, &steps);
    }
}

#[test]
fn random_rows_of_the_largest_vocabularies() {
    let mut rng = Rng(3);
    for vocab_size in [128_256, 151_936, 262_144] {
        let mut device = device(vocab_size, 2, 2);
        let host = HostSampler::new(2, vocab_size);
        let steps = random_steps(&mut rng, vocab_size, 2, 2, 3);
        check(&format!("{vocab_size} tokens"), device.as_mut(), &host, &steps);
    }
}

#[test]
fn draws_of_every_filter() {
    let mut rng = Rng(4);
    let vocab_size = 12_000;
    let rows: Vec<Vec<f32>> = [0, 4, 5, 6, 7, 8, 9].map(|kind| logits(&mut rng, vocab_size, kind)).into();
    let mut device = device(vocab_size, 1, rows.len() as u32);
    let host = HostSampler::new(1, vocab_size);
    let mut steps = Vec::new();
    for top_k in [0, 1, 50, 11_999] {
        for top_p in [0.0, 0.9, 0.999_999, 1.0] {
            for min_p in [0.0, 0.3] {
                let choice = Choice::Draw {
                    temperature: 0.8,
                    top_k,
                    top_p_q32: (top_p * (1u64 << 32) as f64) as u64,
                    min_p,
                    seed: rng.next_u64(),
                    choice_index: 0,
                    output_index: 3,
                };
                let samples = (0..rows.len() as u32).map(|i| SampleRow { logprobs: Some(3), ..row(i, 0, choice) });
                steps.push(Step { starts: Vec::new(), logits: rows.clone(), rows: samples.collect() });
            }
        }
    }
    check("filters", device.as_mut(), &host, &steps);
}

#[test]
fn rows_of_one_slot_see_each_other() {
    let mut rng = Rng(5);
    let vocab_size = 9000;
    let mut device = device(vocab_size, 2, 8);
    let host = HostSampler::new(2, vocab_size);
    let best = logits(&mut rng, vocab_size, 0);
    // Every row takes the best token that no row before it has taken.
    let start = |slot: u32, penalties: Penalties| SlotStart { slot: SlotId(slot), penalties, ..SlotStart::default() };
    let starts = vec![start(1, Penalties { presence: 1e6, ..Penalties::default() })];
    let rows = (0..8).map(|i| row(i, 1, Choice::Greedy)).collect();
    let sampled = check("a chain", device.as_mut(), &host, &[Step { starts, logits: vec![best.clone(); 8], rows }]);
    let distinct: std::collections::BTreeSet<TokenId> = sampled.iter().map(|s| s.token.unwrap()).collect();
    assert_eq!(distinct.len(), 8);
    // Rows of two slots take turns, one with penalties and one without, and each sees the counts of its own.
    let starts = vec![start(0, Penalties { frequency: 1.0, ..Penalties::default() }), start(1, Penalties::default())];
    let rows = (0..8).map(|i| row(i, i % 2, plain_draw(i))).collect();
    let after = SampleRow { logprobs: Some(2), ..row(0, 0, Choice::Greedy) };
    let steps = [
        Step { starts, logits: vec![best.clone(); 8], rows },
        Step { starts: Vec::new(), logits: vec![best], rows: vec![after] },
    ];
    check("side by side", device.as_mut(), &host, &steps);
}

#[test]
fn prompts_of_any_length_are_counted() {
    let mut rng = Rng(6);
    let vocab_size = 300;
    let mut device = device(vocab_size, 70, 70);
    let host = HostSampler::new(70, vocab_size);
    // More than one upload takes, and more starts.
    let mut starts: Vec<SlotStart> = (0..70).map(|slot| slot_start(&mut rng, vocab_size, slot)).collect();
    starts[7].prompt_ids = (0..150_000).map(|_| TokenId(rng.below(300) as u32 / 2)).collect();
    starts[8].output_ids = (0..70_000).map(|i| TokenId(i % 299)).collect();
    for start in &mut starts {
        start.penalties = Penalties { presence: 0.0, frequency: 1e-3, repetition: 1.1, count_prompt: true };
    }
    let logits = (0..70).map(|i| logits(&mut rng, vocab_size, i % 4)).collect();
    let rows = (0..70).map(|i| SampleRow { logprobs: Some(4), ..row(i, i, plain_draw(i)) });
    let step = Step { starts, logits, rows: rows.collect() };
    check("long prompts", device.as_mut(), &host, &[step]);
}

#[test]
fn the_next_step_starts_before_the_host_knows_the_token() {
    let mut rng = Rng(7);
    let vocab_size = 500;
    let mut weights = Tensors::default();
    let table = weights.matrix(&mut rng, "table", DType::F32, vocab_size, 32);
    let ops = vec![StageOp::Embed(EmbedOp { table, scale: 1.0 })];
    let program = Program { vocab_size, hidden_size: 32, rope_tables: Vec::new(), ops };
    let mut device = tested().ready(&program, &weights, &limits(2, 2));
    let step = |input: InputToken, starts: Vec<SlotStart>| {
        let seq = |slot: u32| BatchSeq {
            slot: SlotId(slot),
            position_start: 0,
            tokens: vec![input],
            block_table: vec![BlockId(slot)],
            logit_rows: vec![0],
        };
        Batch { starts, seqs: vec![seq(0), seq(1)] }
    };
    let first = step(InputToken::Id(TokenId(3)), Vec::new());
    let logits: Vec<Vec<f32>> = (0..2).map(|_| logits(&mut rng, vocab_size, 0)).collect();
    device.write(&first, Checkpoint::Logits, &logits.concat()).unwrap();
    let rows: Vec<SampleRow> = (0..2).map(|i| row(i, i, plain_draw(7 + i))).collect();
    device.submit(&first).unwrap();
    device.sample(&rows).unwrap();
    let pipelined = device.steps_in_flight_max() > 1;
    let mut sampled = Vec::new();
    if !pipelined {
        sampled = device.collect().unwrap().sampled;
    }
    device.submit(&step(InputToken::LastSampled, Vec::new())).unwrap();
    if pipelined {
        assert!(matches!(device.read(Checkpoint::Residual), Err(DeviceError::Order(_))));
        sampled = device.collect().unwrap().sampled;
    }
    device.collect().unwrap();
    let host = HostSampler::new(2, vocab_size);
    for ((found, row), logits) in sampled.iter().zip(&rows).zip(&logits) {
        assert_eq!(bits(found), bits(&host.sample(logits, row)));
    }
    let embedded = device.read(Checkpoint::Residual).unwrap();
    let mut known = step(InputToken::Id(TokenId(0)), Vec::new());
    for (seq, sampled) in known.seqs.iter_mut().zip(&sampled) {
        seq.tokens = vec![InputToken::Id(sampled.token.unwrap())];
    }
    device.submit(&known).unwrap();
    device.collect().unwrap();
    assert_eq!(embedded, device.read(Checkpoint::Residual).unwrap());
    assert_ne!(sampled[0].token, sampled[1].token);
    // A restarted slot's last token is the output's.
    let start = SlotStart { slot: SlotId(1), output_ids: vec![TokenId(9), TokenId(4)], ..SlotStart::default() };
    device.submit(&step(InputToken::LastSampled, vec![start])).unwrap();
    device.collect().unwrap();
    let restarted = device.read(Checkpoint::Residual).unwrap();
    device.submit(&step(InputToken::Id(TokenId(4)), Vec::new())).unwrap();
    device.collect().unwrap();
    let fourth = device.read(Checkpoint::Residual).unwrap();
    assert_eq!(restarted[..32], embedded[..32]);
    assert_eq!(restarted[32..], fourth[32..]);
}

/// Beams as a search uses them: sixteen rows, with and without what processes logits. Ties go to the lower id.
#[test]
fn candidates_of_sixteen_beams() {
    let mut rng = Rng(8);
    let (vocab_size, beams) = (9000, 16);
    let mut device = device(vocab_size, beams, beams);
    let host = HostSampler::new(beams, vocab_size);
    let logits: Vec<Vec<f32>> = (0..beams).map(|i| logits(&mut rng, vocab_size, i as usize % 7)).collect();
    let mut starts: Vec<SlotStart> = (0..beams).map(|slot| slot_start(&mut rng, vocab_size, slot)).collect();
    for start in &mut starts {
        start.penalties = Penalties { presence: 0.5, frequency: 0.2, ..start.penalties };
    }
    let candidates = |i: u32| row(i, i, Choice::Candidates { count: 19 });
    let processed = |i: u32| SampleRow { before_min_length: true, ..candidates(i) };
    let step =
        |starts: &[SlotStart], rows: Vec<SampleRow>| Step { starts: starts.to_vec(), logits: logits.clone(), rows };
    let steps = [
        step(&[], (0..beams).map(candidates).collect()),
        step(&starts, (0..beams).map(processed).collect()),
        // Candidates are not counted, so that these are the same again.
        step(&[], (0..beams).map(processed).collect()),
    ];
    let sampled = check("beams", device.as_mut(), &host, &steps);
    let (first, processed) = sampled.split_at(beams as usize);
    assert!(first.iter().all(|s| s.top.len() == 19 && s.top[0].0 == s.token.unwrap() && s.logprob.is_none()));
    assert!(first.iter().all(|s| s.top.windows(2).all(|w| w[0].1 >= w[1].1)));
    let (once, again) = processed.split_at(beams as usize);
    assert!(once.iter().zip(again).all(|(a, b)| bits(a) == bits(b)));
    assert!(first.iter().zip(once).any(|(a, b)| bits(a) != bits(b)), "something was processed");
}

simulated::on_the_simulated_gpu! {
    random_rows_of_small_vocabularies
    random_rows_of_vocabularies_that_several_ctas_share
    random_rows_of_the_largest_vocabularies
    draws_of_every_filter
    candidates_of_sixteen_beams
    rows_of_one_slot_see_each_other
    prompts_of_any_length_are_counted
    the_next_step_starts_before_the_host_knows_the_token
}
