//! Numbers that overflow end their sequence with an error on every device alike, and leave its neighbours untouched.
use crate::common::synthetic::{Rng, Tensors, TinyModel};
use crate::common::{Tested, devices, reference, rows_of, simulated};
use kiln::device::reference::Mode;
use kiln::device::{
    BadRow, Batch, BatchSeq, Checkpoint, Choice, Device, InputToken, KvCacheDType, Limits, SampleRow, Sampled,
};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{AttendOp, Program, StageOp};
use kiln::weights::DType;

const LIMITS: Limits = Limits {
    slots_max: 3,
    context_tokens_max: 32,
    step_rows_max: 32,
    logit_rows_max: 3,
    block_tokens: 16,
    num_blocks: 6,
    kv_cache_dtype: KvCacheDType::F16,
    threads: 2,
};

fn model(dtype: DType) -> TinyModel {
    TinyModel {
        num_layers: 1,
        hidden_size: 32,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        intermediate_size: 32,
        vocab_size: 33,
        window: None,
        dtype,
    }
}

/// One step of sequences of these slots and positions, and what is sampled from their last rows, log-probabilities and all.
fn step(device: &mut dyn Device, seqs: &[(u32, u32, &[u32])]) -> Vec<Sampled> {
    let seq = |&(slot, start, ids): &(u32, u32, &[u32])| BatchSeq {
        slot: SlotId(slot),
        ..rows_of(ids, start, &[BlockId(2 * slot), BlockId(2 * slot + 1)], vec![ids.len() as u32 - 1])
    };
    device.submit(&Batch { starts: Vec::new(), seqs: seqs.iter().map(seq).collect() }).unwrap();
    let row = |(logit_row, &(slot, ..)): (u32, &(u32, u32, &[u32]))| SampleRow {
        logprobs: Some(3),
        ..SampleRow::plain(logit_row, SlotId(slot), Choice::Greedy)
    };
    device.sample(&(0..).zip(seqs).map(row).collect::<Vec<_>>()).unwrap();
    device.collect().unwrap().sampled
}

/// What a sequence gives: the token after a prompt and the one after the next id, or why not.
fn outcome(device: &mut dyn Device) -> [Result<TokenId, BadRow>; 2] {
    [step(device, &[(0, 0, &[1, 2, 3])]), step(device, &[(0, 3, &[4])])].map(|sampled| sampled[0].token)
}

#[test]
fn weights_of_any_size_give_the_same_token_or_the_same_error_everywhere() {
    let (mut index, mut failures, mut tokens) = (0, 0, 0);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_1] {
        for (name, stored, rows) in model(dtype).build(7).1.names() {
            for factor in [1e8, 1e20, 1e38, 3e38] {
                // What cannot grow further than a smaller factor has taken it.
                if factor > 1e8 && matches!(stored, DType::F16 | DType::Q8_0 | DType::Q4_1) {
                    continue;
                }
                index += 1;
                if !simulated::has_share(index) {
                    continue;
                }
                let (spec, mut tensors) = model(dtype).build(7);
                tensors.scale(&name, 0..rows, factor);
                let program = Program::of(&spec);
                for kv_cache_dtype in [KvCacheDType::F16, KvCacheDType::Int8] {
                    let limits = Limits { kv_cache_dtype, ..LIMITS };
                    let of = |tested: &Tested| outcome(tested.ready(&program, &tensors, &limits).as_mut());
                    let expected = of(&reference(Mode::Int8));
                    for tested in devices() {
                        let what =
                            format!("{}: {dtype} model, {name} times {factor:e}, {kv_cache_dtype:?}", tested.name);
                        assert_eq!(of(&tested), expected, "{what}");
                    }
                    let is_error = expected.contains(&Err(BadRow::NotFinite));
                    *(if is_error { &mut failures } else { &mut tokens }) += 1;
                }
            }
        }
    }
    assert!(failures >= 10 && tokens >= 10, "{failures} failures and {tokens} generations");
}

#[test]
fn neighbours_of_a_sequence_that_overflows_are_untouched() {
    let spoilt = 7;
    for (index, dtype) in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_1].into_iter().enumerate() {
        if !simulated::has_share(index) {
            continue;
        }
        let (spec, mut tensors) = model(dtype).build(7);
        // One token's row of the table: its sum of squares leaves f32.
        tensors.scale("token_embd", spoilt..spoilt + 1, 1e38);
        let program = Program::of(&spec);
        for kv_cache_dtype in [KvCacheDType::F16, KvCacheDType::Int8] {
            let limits = Limits { kv_cache_dtype, ..LIMITS };
            for tested in devices().into_iter().chain([reference(Mode::Int8)]) {
                let ready = || tested.ready(&program, &tensors, &limits);
                let what = format!("{} of a {dtype} model, {kv_cache_dtype:?}", tested.name);
                let prompt: &[u32] = &[1, 2, 3, 4, 5];
                let mut alone = ready();
                let expected = [step(alone.as_mut(), &[(1, 0, prompt)]), step(alone.as_mut(), &[(1, 5, &[6])])];
                let mut device = ready();
                let bad: &[u32] = &[1, spoilt as u32, 3, 4];
                let first = step(device.as_mut(), &[(0, 0, bad), (1, 0, prompt), (2, 0, &[2, spoilt as u32])]);
                // A position behind a spoilt one sees its key and value.
                let second = step(device.as_mut(), &[(0, 4, &[5]), (1, 5, &[6]), (2, 2, &[1])]);
                for (sampled, expected) in [(first, &expected[0]), (second, &expected[1])] {
                    assert_eq!(sampled[0].token, Err(BadRow::NotFinite), "{what}");
                    assert_eq!(sampled[1], expected[0], "{what}");
                    assert_eq!(sampled[2].token, Err(BadRow::NotFinite), "{what}");
                }
            }
        }
    }
}

/// A key or a scaled query that leaves f16 must not read as "masked", whatever its sign, and wherever it lies.
#[test]
fn keys_and_queries_beyond_f16_are_not_masked() {
    const KEYS: u32 = 300;
    let attend = AttendOp { layer: 0, num_heads: 2, num_kv_heads: 1, head_dim: 16, window: None, score_scale: 0.25 };
    let program =
        Program { vocab_size: 4, hidden_size: 32, rope_tables: Vec::new(), ops: vec![StageOp::Attend(attend)] };
    for (index, (key, query)) in
        [(-7e4f32, 0.1f32), (7e4, 0.1), (f32::NEG_INFINITY, 0.1), (0.5, -1e30), (0.5, 1e38), (0.5, 0.1)]
            .into_iter()
            .enumerate()
    {
        if !simulated::has_share(index) {
            continue;
        }
        for (position, kv_cache_dtype) in
            [0, 255, 299].into_iter().flat_map(|p| [(p, KvCacheDType::F16), (p, KvCacheDType::Int8)])
        {
            let limits = Limits {
                slots_max: 1,
                context_tokens_max: KEYS,
                num_blocks: KEYS.div_ceil(16),
                kv_cache_dtype,
                ..LIMITS
            };
            for tested in devices().into_iter().chain([reference(Mode::Int8)]) {
                let mut device = tested.ready(&program, &Tensors::default(), &limits);
                let mut rng = Rng(3);
                let seq = BatchSeq {
                    tokens: vec![InputToken::Id(TokenId(0))],
                    logit_rows: Vec::new(),
                    ..rows_of(&[0], KEYS - 1, &(0..KEYS.div_ceil(16)).map(BlockId).collect::<Vec<_>>(), Vec::new())
                };
                let batch = Batch { starts: Vec::new(), seqs: vec![seq] };
                let (mut keys, mut queries) = (rng.values(16 * KEYS as usize, 1.0), rng.values(32, 1.0));
                keys[16 * position + 5] = key;
                queries[20] = query;
                let mut write = |checkpoint, values: &[f32]| device.write(&batch, checkpoint, values).unwrap();
                write(Checkpoint::Keys { layer: 0, seq: 0 }, &keys);
                write(Checkpoint::Values { layer: 0, seq: 0 }, &rng.values(16 * KEYS as usize, 1.0));
                write(Checkpoint::Query, &queries);
                device.submit(&batch).unwrap();
                device.collect().unwrap();
                let out = device.read(Checkpoint::AttendOutput).unwrap();
                let is_key_bad = key.abs() > 6.6e4;
                let what = format!("{}: key {key:e} at {position}, query {query:e}, {kv_cache_dtype:?}", tested.name);
                // The first head's query is sound; both heads share the key.
                for (head, is_bad) in [(0, is_key_bad), (1, is_key_bad || query.abs() > 6.6e4)] {
                    let out = &out[16 * head..][..16];
                    assert!(out.iter().all(|x| x.is_finite() != is_bad), "{what}, head {head}: {out:?}");
                }
            }
        }
    }
}

simulated::on_the_simulated_gpu! {
    cases:
    weights_of_any_size_give_the_same_token_or_the_same_error_everywhere
    neighbours_of_a_sequence_that_overflows_are_untouched
    keys_and_queries_beyond_f16_are_not_masked
}
