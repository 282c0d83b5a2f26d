//! The reference device's own promises: pipelining, and programs that it refuses.

use crate::common::synthetic::{Tensors, TinyModel};
use crate::common::{limits_one_sequence, rows_of};
use kiln::device::reference::{Mode, ReferenceDevice};
use kiln::device::{Batch, BatchSeq, Choice, Device, DeviceError, InputToken, SampleRow, SlotStart};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{MatrixRef, Program, StageOp};
use kiln::weights::{DType, WeightsError};

const BLOCKS: [BlockId; 2] = [BlockId(1), BlockId(0)];

fn tiny() -> (Program, Tensors) {
    let (spec, tensors) = TinyModel {
        num_layers: 1,
        hidden_size: 32,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        intermediate_size: 64,
        vocab_size: 33,
        window: None,
        dtype: DType::Q8_0,
    }
    .build(3);
    (Program::of(&spec), tensors)
}

fn device() -> ReferenceDevice {
    let (program, tensors) = tiny();
    ReferenceDevice::prepare(&program, &tensors, &limits_one_sequence(32, 4), Mode::Int8).unwrap()
}

fn one_seq(seq: BatchSeq) -> Batch {
    Batch { starts: Vec::new(), seqs: vec![seq] }
}

fn greedy(logit_row: u32) -> SampleRow {
    SampleRow::plain(logit_row, SlotId(0), Choice::Greedy)
}

/// Eight tokens after a prompt of three, with up to `in_flight` steps submitted ahead.
fn generate(mut device: ReferenceDevice, in_flight: usize) -> Vec<TokenId> {
    assert_eq!(device.steps_in_flight_max(), in_flight);
    let mut tokens = Vec::new();
    for step in 0..8 {
        let mut batch = one_seq(rows_of(&[5, 6, 7], 0, &BLOCKS, vec![2]));
        batch.starts = vec![SlotStart { prompt_ids: [5, 6, 7].map(TokenId).to_vec(), ..SlotStart::default() }];
        if step > 0 {
            let seq = BatchSeq { tokens: vec![InputToken::LastSampled], ..rows_of(&[0], 2 + step, &BLOCKS, vec![0]) };
            batch = one_seq(seq);
        }
        device.submit(&batch).unwrap();
        device.sample(&[greedy(0)]).unwrap();
        if step as usize + 1 >= in_flight {
            tokens.push(device.collect().unwrap().sampled[0].token.unwrap());
        }
    }
    while tokens.len() < 8 {
        tokens.push(device.collect().unwrap().sampled[0].token.unwrap());
    }
    tokens
}

#[test]
fn steps_in_flight_give_the_same_tokens() {
    let expected = generate(device(), 1);
    assert_eq!(generate(device().with_steps_in_flight(2), 2), expected);
    assert_eq!(generate(device().with_steps_in_flight(3), 3), expected);
}

#[test]
fn programs_and_limits_that_do_not_fit_are_refused() {
    let (mut program, tensors) = tiny();
    let limits = limits_one_sequence(32, 4);
    let prepare = |program: &Program, limits: &_| ReferenceDevice::prepare(program, &tensors, limits, Mode::F32);
    for (threads, block_tokens) in [(0, 16), (1, 0), (1, 24)] {
        let limits = kiln::device::Limits { threads, block_tokens, ..limits.clone() };
        assert!(matches!(prepare(&program, &limits), Err(DeviceError::Unsupported { .. })), "{threads} {block_tokens}");
    }
    let StageOp::Embed(embed) = &mut program.ops[0] else { panic!("programs begin with Embed") };
    embed.table = MatrixRef { name: "nowhere".into(), ..embed.table.clone() };
    let missing = prepare(&program, &limits);
    assert!(
        matches!(missing, Err(DeviceError::Weights(WeightsError::MissingTensor { name, .. })) if name == "nowhere")
    );
}
