//! The contract of `Device`: every device refuses the same calls with the same errors, and goes on as if they had not come.

use crate::common::synthetic::{Tensors, TinyModel};
use crate::common::{Tested, devices, reference, rows_of, simulated};
use kiln::device::reference::Mode;
use kiln::device::{
    Batch, BatchSeq, BlockCopy, Checkpoint, Choice, Device, DeviceError, InputToken, KvCacheDType, LOGIT_BIASES_MAX,
    Limits, MalformedError, OrderError, REPORTED_TOKENS_MAX, SampleRow, SlotStart,
};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::Program;
use kiln::weights::DType;

const VOCAB: u32 = 33;
const LIMITS: Limits = Limits {
    slots_max: 3,
    context_tokens_max: 48,
    step_rows_max: 40,
    logit_rows_max: 4,
    block_tokens: 16,
    num_blocks: 8,
    kv_cache_dtype: KvCacheDType::F16,
    threads: 2,
};

fn tiny() -> (Program, Tensors) {
    let model = TinyModel {
        num_layers: 1,
        hidden_size: 32,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        intermediate_size: 64,
        vocab_size: VOCAB,
        window: None,
        dtype: DType::Q8_0,
    };
    let (spec, tensors) = model.build(3);
    (Program::of(&spec), tensors)
}

/// Every device, and the oracle.
fn tested() -> Vec<Tested> {
    let mut all = devices();
    if !simulated::is_child() {
        all.push(reference(Mode::Int8));
    }
    all
}

/// Runs `case` on a fresh device of every kind.
fn on_each(case: impl Fn(&str, &mut dyn Device)) {
    let (program, tensors) = tiny();
    for tested in tested() {
        case(&tested.name, tested.ready(&program, &tensors, &LIMITS).as_mut());
    }
}

fn seq(slot: u32, position_start: u32, ids: &[u32]) -> BatchSeq {
    let blocks: Vec<BlockId> = (2 * slot..2 * slot + 2).map(BlockId).collect();
    BatchSeq { slot: SlotId(slot), ..rows_of(ids, position_start, &blocks, vec![ids.len() as u32 - 1]) }
}

fn batch(seqs: Vec<BatchSeq>) -> Batch {
    Batch { starts: Vec::new(), seqs }
}

fn started(start: SlotStart) -> Batch {
    Batch { starts: vec![start], seqs: vec![seq(0, 0, &[1, 2])] }
}

fn last_sampled(slot: u32) -> BatchSeq {
    BatchSeq { tokens: vec![InputToken::LastSampled], ..seq(slot, 2, &[0]) }
}

fn greedy(logit_row: u32, slot: u32) -> SampleRow {
    SampleRow::plain(logit_row, SlotId(slot), Choice::Greedy)
}

fn copies(pairs: &[(u32, u32)]) -> Vec<BlockCopy> {
    pairs.iter().map(|&(from, to)| BlockCopy { from: BlockId(from), to: BlockId(to) }).collect()
}

/// What an error is, for comparisons.
#[derive(Debug, PartialEq)]
enum Refusal {
    Limit { what: &'static str, limit: u64, asked: u64 },
    Order(OrderError),
    Malformed(MalformedError),
    NoCheckpoint(Checkpoint),
    Unsupported,
    Other(String),
}

fn refusal<T>(result: Result<T, DeviceError>) -> Option<Refusal> {
    Some(match result.err()? {
        DeviceError::Limit { what, limit, asked } => Refusal::Limit { what, limit, asked },
        DeviceError::Order(error) => Refusal::Order(error),
        DeviceError::Malformed(error) => Refusal::Malformed(error),
        DeviceError::NoCheckpoint(checkpoint) => Refusal::NoCheckpoint(checkpoint),
        DeviceError::Unsupported { .. } => Refusal::Unsupported,
        other => Refusal::Other(other.to_string()),
    })
}

fn limit(what: &'static str, limit: u64, asked: u64) -> Refusal {
    Refusal::Limit { what, limit, asked }
}

/// The token after a prompt, and the one after that: what a device gives that has been through nothing.
fn two_tokens(device: &mut dyn Device) -> Vec<TokenId> {
    let prompt = Batch { starts: vec![SlotStart::default()], seqs: vec![seq(0, 0, &[5, 6])] };
    let step = |device: &mut dyn Device, batch: &Batch| {
        device.submit(batch).unwrap();
        device.sample(&[greedy(0, 0)]).unwrap();
        device.collect().unwrap().sampled[0].token.unwrap()
    };
    vec![step(device, &prompt), step(device, &batch(vec![last_sampled(0)]))]
}

/// A call is refused with one error everywhere, and what comes later is as if it had not been.
fn refuses(what: &str, expected: &Refusal, call: impl Fn(&mut dyn Device) -> Result<(), DeviceError>) {
    on_each(|name, device| {
        let fresh = two_tokens(device);
        assert_eq!(refusal(call(device)).as_ref(), Some(expected), "{name}: {what}");
        assert_eq!(refusal(device.collect()), Some(Refusal::Order(OrderError::NothingInFlight)), "{name}: {what}");
        assert_eq!(two_tokens(device), fresh, "{name} after {what}");
    });
}

#[test]
fn batches_that_no_device_can_run_are_refused() {
    use MalformedError::*;
    let malformed = Refusal::Malformed;
    let one = |seq: BatchSeq| batch(vec![seq]);
    let good = || seq(0, 0, &[1, 2]);
    let ids = |count: u32| vec![1; count as usize];
    let blocks = |ids: &[u32]| BatchSeq { block_table: ids.iter().map(|&id| BlockId(id)).collect(), ..good() };
    let cases = [
        ("no sequences", batch(Vec::new()), malformed(EmptyBatch)),
        (
            "no rows",
            batch(vec![good(), BatchSeq { tokens: Vec::new(), logit_rows: Vec::new(), ..seq(1, 0, &[1]) }]),
            malformed(EmptySequence { seq: 1 }),
        ),
        ("a slot too high", one(BatchSeq { slot: SlotId(3), ..good() }), limit("slot", 2, 3)),
        ("an unknown token", one(seq(0, 0, &[1, 33])), limit("token id", 32, 33)),
        ("an unknown block", one(blocks(&[8])), limit("block id", 7, 8)),
        ("an unknown block behind the rows", one(blocks(&[0, u32::MAX])), limit("block id", 7, u32::MAX.into())),
        ("too few blocks", one(seq(0, 31, &[1, 2])), limit("positions in the sequence's blocks", 32, 33)),
        ("no blocks", one(blocks(&[])), limit("positions in the sequence's blocks", 0, 2)),
        ("too many positions", one(seq(0, 47, &[1, 2])), limit("positions of a sequence", 48, 49)),
        ("positions that overflow", one(seq(0, u32::MAX, &[1])), limit("positions of a sequence", 48, 1 << 32)),
        ("too many rows", one(seq(0, 0, &ids(41))), limit("rows of a step", 40, 41)),
        (
            "too many logit rows",
            one(BatchSeq { logit_rows: (0..5).collect(), ..seq(0, 0, &ids(5)) }),
            limit("logit rows of a step", 4, 5),
        ),
        (
            "a logit row behind the rows",
            one(BatchSeq { logit_rows: vec![2], ..good() }),
            limit("logit row of a sequence", 1, 2),
        ),
        (
            "logit rows that descend",
            one(BatchSeq { logit_rows: vec![1, 0], ..good() }),
            malformed(LogitRowsOutOfOrder { seq: 0, row: 0 }),
        ),
        (
            "a logit row twice",
            one(BatchSeq { logit_rows: vec![1, 1], ..good() }),
            malformed(LogitRowsOutOfOrder { seq: 0, row: 1 }),
        ),
        (
            "a block that two sequences write",
            batch(vec![good(), BatchSeq { slot: SlotId(1), ..good() }]),
            malformed(BlockWrittenTwice { block: BlockId(0) }),
        ),
        (
            "a block that one sequence writes twice",
            one(BatchSeq { tokens: vec![InputToken::Id(TokenId(1)); 17], logit_rows: Vec::new(), ..blocks(&[4, 4]) }),
            malformed(BlockWrittenTwice { block: BlockId(4) }),
        ),
        (
            "nothing sampled yet",
            batch(vec![good(), last_sampled(1)]),
            Refusal::Order(OrderError::NothingSampled { slot: SlotId(1) }),
        ),
        (
            "nothing sampled since the start",
            Batch { starts: vec![SlotStart::default()], seqs: vec![last_sampled(0)] },
            Refusal::Order(OrderError::NothingSampled { slot: SlotId(0) }),
        ),
    ];
    for (what, bad, expected) in &cases {
        refuses(what, expected, |device| device.submit(bad));
    }
    // A checkpoint is written for the same batches.
    let (what, bad, expected) = &cases[0];
    refuses(what, expected, |device| device.write(bad, Checkpoint::Residual, &[]));
}

#[test]
fn starts_that_no_device_can_keep_are_refused() {
    let start = SlotStart::default();
    let unknown = || vec![TokenId(1), TokenId(33)];
    let twice = Batch { starts: vec![start.clone(), start.clone()], ..batch(vec![seq(0, 0, &[1])]) };
    let biases = (LOGIT_BIASES_MAX as u64, LOGIT_BIASES_MAX as u64 + 1);
    let cases = [
        ("a slot too high", started(SlotStart { slot: SlotId(3), ..start.clone() }), limit("slot", 2, 3)),
        ("a prompt's token", started(SlotStart { prompt_ids: unknown(), ..start.clone() }), limit("token id", 32, 33)),
        ("an output's token", started(SlotStart { output_ids: unknown(), ..start.clone() }), limit("token id", 32, 33)),
        (
            "a masked token",
            started(SlotStart { ids_masked_before_min: unknown(), ..start.clone() }),
            limit("token id", 32, 33),
        ),
        (
            "a biased token",
            started(SlotStart { logit_bias: vec![(TokenId(33), 1.0)], ..start.clone() }),
            limit("token id", 32, 33),
        ),
        (
            "too many biases",
            started(SlotStart { logit_bias: vec![(TokenId(3), 1.0); LOGIT_BIASES_MAX + 1], ..start.clone() }),
            limit("logit biases of a sequence", biases.0, biases.1),
        ),
        ("a start twice", twice, Refusal::Malformed(MalformedError::SlotStartsTwice { slot: SlotId(0) })),
    ];
    for (what, bad, expected) in &cases {
        refuses(what, expected, |device| device.submit(bad));
    }
}

#[test]
fn sample_rows_that_do_not_fit_the_step_are_refused_and_may_come_again() {
    use MalformedError::*;
    let malformed = Refusal::Malformed;
    let with = |choice: Choice| SampleRow { choice, ..greedy(0, 0) };
    let most = u64::from(REPORTED_TOKENS_MAX);
    let many = REPORTED_TOKENS_MAX + 1;
    let cases = [
        ("more rows than can be", vec![greedy(0, 0); 5], limit("sample rows of a step", 4, 5)),
        ("a logit row that is not there", vec![greedy(2, 0)], limit("logit row of a sample row", 1, 2)),
        ("a slot too high", vec![greedy(0, 3)], limit("slot", 2, 3)),
        (
            "another sequence's slot",
            vec![greedy(0, 0), greedy(1, 0)],
            malformed(SlotOfOtherSequence { logit_row: 1, expected: SlotId(1), found: SlotId(0) }),
        ),
        ("rows that descend", vec![greedy(1, 1), greedy(0, 0)], malformed(SampleRowsOutOfOrder { logit_row: 0 })),
        ("a row twice", vec![greedy(0, 0), greedy(0, 0)], malformed(SampleRowsOutOfOrder { logit_row: 0 })),
        ("an unknown token", vec![with(Choice::Forced(TokenId(33)))], limit("token id", 32, 33)),
        (
            "too many to report",
            vec![SampleRow { logprobs: Some(many), ..greedy(0, 0) }],
            limit("most likely tokens to report", most, most + 1),
        ),
        (
            "too many candidates",
            vec![with(Choice::Candidates { count: many })],
            limit("most likely tokens to report", most, most + 1),
        ),
        (
            "candidates with log-probabilities",
            vec![SampleRow { logprobs: Some(1), ..with(Choice::Candidates { count: 2 }) }],
            malformed(LogprobsOfCandidates { logit_row: 0 }),
        ),
    ];
    on_each(|name, device| {
        let two = batch(vec![seq(0, 0, &[5, 6]), seq(1, 0, &[7])]);
        let good = [greedy(0, 0), greedy(1, 1)];
        device.submit(&two).unwrap();
        device.sample(&good).unwrap();
        let expected = device.collect().unwrap();
        for (what, rows, refused) in &cases {
            device.submit(&two).unwrap();
            assert_eq!(refusal(device.sample(rows)).as_ref(), Some(refused), "{name}: {what}");
            device.sample(&good).unwrap();
            assert_eq!(device.collect().unwrap(), expected, "{name} after {what}");
        }
    });
}

#[test]
fn copies_that_have_an_order_or_no_block_are_refused() {
    let overlap = |block| Refusal::Malformed(MalformedError::CopiesOverlap { block: BlockId(block) });
    let cases = [
        ("from nowhere", copies(&[(8, 1)]), limit("block id", 7, 8)),
        ("to nowhere", copies(&[(6, 7), (1, u32::MAX)]), limit("block id", 7, u32::MAX.into())),
        ("to one block twice", copies(&[(0, 6), (1, 6)]), overlap(6)),
        ("on from a copy", copies(&[(0, 6), (6, 7)]), overlap(6)),
        ("into a source", copies(&[(6, 7), (0, 6)]), overlap(6)),
        ("to itself", copies(&[(6, 6)]), overlap(6)),
    ];
    for (what, bad, expected) in &cases {
        refuses(what, expected, |device| device.copy_blocks(bad));
    }
}

#[test]
fn copies_of_one_block_go_everywhere_and_wait_for_steps() {
    on_each(|name, device| {
        let keys = |device: &mut dyn Device, block: u32| {
            // Position 16 is in the second block: the first one is read, and not written.
            let table = vec![BlockId(block), BlockId(7)];
            device.submit(&batch(vec![BatchSeq { block_table: table, ..seq(0, 16, &[3]) }])).unwrap();
            device.collect().unwrap();
            device.read(Checkpoint::Keys { layer: 0, seq: 0 }).unwrap()
        };
        device.submit(&batch(vec![seq(0, 0, &[5; 16])])).unwrap();
        device.copy_blocks(&copies(&[(0, 3), (0, 4)])).unwrap();
        device.copy_blocks(&copies(&[(4, 5)])).unwrap();
        device.collect().unwrap();
        let expected = keys(device, 0);
        assert!(expected.iter().any(|key| *key != 0.0));
        for block in [3, 4, 5] {
            assert_eq!(keys(device, block), expected, "{name}: block {block}");
        }
        // With nothing in flight they are done at once, before the next step.
        device.copy_blocks(&copies(&[(3, 6)])).unwrap();
        assert_eq!(keys(device, 6), expected, "{name}");
    });
}

#[test]
fn calls_out_of_order_are_refused() {
    use OrderError::*;
    let order = |error| Some(Refusal::Order(error));
    on_each(|name, device| {
        let prompt = || batch(vec![seq(0, 0, &[5, 6])]);
        let logits = |device: &mut dyn Device| device.read(Checkpoint::Logits);
        assert_eq!(refusal(logits(device)), Some(Refusal::NoCheckpoint(Checkpoint::Logits)), "{name}: nothing was run");
        assert_eq!(refusal(device.sample(&[greedy(0, 0)])), order(NothingToSample), "{name}: no step");
        assert_eq!(refusal(device.sample(&[])), order(NothingToSample), "{name}: no step and no rows");
        assert_eq!(refusal(device.collect()), order(NothingInFlight), "{name}");

        device.submit(&prompt()).unwrap();
        device.sample(&[greedy(0, 0)]).unwrap();
        assert_eq!(refusal(device.sample(&[greedy(0, 0)])), order(SampledTwice), "{name}");
        let first = device.collect().unwrap();
        assert_eq!(refusal(device.sample(&[greedy(0, 0)])), order(NothingToSample), "{name}: it was collected");

        device.submit(&prompt()).unwrap();
        device.copy_blocks(&copies(&[(6, 7)])).unwrap();
        assert_eq!(refusal(device.sample(&[greedy(0, 0)])), order(NothingToSample), "{name}: copies came between");
        assert_eq!(device.collect().unwrap().sampled, [], "{name}: a step without sample rows");

        // Its rows are sampled from, and the slot has a token.
        device.submit(&batch(vec![last_sampled(0)])).unwrap();
        let steps = 1;
        assert_eq!(refusal(logits(device)), order(StepsInFlight { steps }), "{name}: reading");
        let write = device.write(&prompt(), Checkpoint::Residual, &[0.0; 64]);
        assert_eq!(refusal(write), order(StepsInFlight { steps }), "{name}: writing");
        let limit = device.steps_in_flight_max();
        for _ in 1..limit {
            device.submit(&prompt()).unwrap();
        }
        assert_eq!(refusal(device.submit(&prompt())), order(TooManySteps { limit }), "{name}");
        for _ in 0..limit {
            device.collect().unwrap();
        }
        assert_eq!(refusal(device.collect()), order(NothingInFlight), "{name}");

        device.submit(&prompt()).unwrap();
        device.sample(&[greedy(0, 0)]).unwrap();
        assert_eq!(device.collect().unwrap(), first, "{name}: as if nothing had been refused");
    });
}

#[test]
fn checkpoints_that_are_not_there_are_refused() {
    on_each(|name, device| {
        let prompt = batch(vec![seq(0, 0, &[5, 6])]);
        device.submit(&prompt).unwrap();
        device.collect().unwrap();
        assert_eq!(device.read(Checkpoint::Logits).unwrap().len(), VOCAB as usize, "{name}");
        for checkpoint in [
            Checkpoint::Keys { layer: 1, seq: 0 },
            Checkpoint::Values { layer: 0, seq: 1 },
            Checkpoint::Keys { layer: u32::MAX, seq: u32::MAX },
        ] {
            assert_eq!(refusal(device.read(checkpoint)), Some(Refusal::NoCheckpoint(checkpoint)), "{name}");
            let write = device.write(&prompt, checkpoint, &[0.0; 16]);
            assert_eq!(refusal(write), Some(Refusal::NoCheckpoint(checkpoint)), "{name}");
        }
        for (checkpoint, count) in [
            (Checkpoint::Residual, 63),
            (Checkpoint::Delta, 3 * 32 + 1),
            (Checkpoint::Keys { layer: 0, seq: 0 }, 15),
            (Checkpoint::Values { layer: 0, seq: 0 }, 33 * 16),
        ] {
            let write = device.write(&prompt, checkpoint, &vec![0.0; count]);
            assert_eq!(refusal(write), Some(Refusal::Unsupported), "{name}: {count} values of {checkpoint:?}");
        }
    });
}

#[test]
fn limits_that_no_device_can_have_are_refused() {
    let (program, tensors) = tiny();
    for tested in tested() {
        for limits in [
            Limits { block_tokens: 0, ..LIMITS },
            Limits { block_tokens: 24, ..LIMITS },
            Limits { threads: 0, ..LIMITS },
        ] {
            let result = (tested.prepare)(&program, &tensors, &limits);
            assert_eq!(refusal(result), Some(Refusal::Unsupported), "{}: {limits:?}", tested.name);
        }
    }
}

simulated::on_the_simulated_gpu! {
    batches_that_no_device_can_run_are_refused
    starts_that_no_device_can_keep_are_refused
    sample_rows_that_do_not_fit_the_step_are_refused_and_may_come_again
    copies_that_have_an_order_or_no_block_are_refused
    copies_of_one_block_go_everywhere_and_wait_for_steps
    calls_out_of_order_are_refused
    checkpoints_that_are_not_there_are_refused
    limits_that_no_device_can_have_are_refused
}
