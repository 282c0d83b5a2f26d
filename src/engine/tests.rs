//! The engine on a scripted device: same outputs whatever is in flight, preempted, chunked or beside it.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::device::{BlockCopy, Checkpoint, Limits, SampleRow, StepOutput};
use crate::ids::BlockId;

const VOCAB: u32 = 1000;
const END: TokenId = TokenId(999);

/// Answers with a function of the sequence's ids, which it reads back from "cache" blocks: so a wrong block table, a lost
/// position or a block written by two sequences changes the answer.
struct Scripted {
    limits: Limits,
    depth: usize,
    cache: HashMap<(BlockId, u32), u32>,
    last: HashMap<SlotId, TokenId>,
    queue: VecDeque<(Batch, Vec<SampleRow>)>,
}

impl Scripted {
    fn run(&mut self, batch: &Batch, rows: &[SampleRow]) -> StepOutput {
        let mut written: HashMap<(BlockId, u32), SlotId> = HashMap::new();
        let mut hashes = Vec::new();
        for seq in &batch.seqs {
            for (i, token) in seq.tokens.iter().enumerate() {
                let id = match token {
                    InputToken::Id(id) => *id,
                    InputToken::LastSampled => self.last[&seq.slot],
                };
                let at = self.place(seq, seq.position_start + i as u32);
                assert_eq!(written.insert(at, seq.slot), None, "two rows write one place");
                self.cache.insert(at, id.0);
            }
        }
        for seq in &batch.seqs {
            for row in &seq.logit_rows {
                let end = seq.position_start + row + 1;
                let ids = (0..end).map(|p| self.cache[&self.place(seq, p)]);
                hashes.push(ids.fold(17u32, |h, id| h.wrapping_mul(31).wrapping_add(id)));
            }
        }
        let sampled = rows.iter().map(|row| {
            let hash = hashes[row.logit_row as usize];
            let id = if !row.before_min_length && hash % 23 == 0 { END } else { TokenId(hash % 900) };
            self.last.insert(row.slot, id);
            Sampled { slot: row.slot, token: Ok(id), logprob: None, top: Vec::new() }
        });
        StepOutput { sampled: sampled.collect() }
    }

    fn place(&self, seq: &BatchSeq, position: u32) -> (BlockId, u32) {
        let block = seq.block_table[(position / self.limits.block_tokens) as usize];
        (block, position % self.limits.block_tokens)
    }
}

impl Device for Scripted {
    fn name(&self) -> String {
        "scripted".into()
    }
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn steps_in_flight_max(&self) -> usize {
        self.depth
    }
    fn submit(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        batch.check(&self.limits, VOCAB)?;
        assert!(self.queue.len() < self.depth, "too many steps in flight");
        self.queue.push_back((batch.clone(), Vec::new()));
        Ok(())
    }
    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        self.queue.back_mut().unwrap().1 = rows.to_vec();
        Ok(())
    }
    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        let (batch, rows) = self.queue.pop_front().unwrap();
        Ok(self.run(&batch, &rows))
    }
    fn copy_blocks(&mut self, _: &[BlockCopy]) -> Result<(), DeviceError> {
        unreachable!("the engine copies no blocks yet")
    }
    fn read(&self, _: Checkpoint) -> Result<Vec<f32>, DeviceError> {
        unreachable!("the engine reads no checkpoints")
    }
    fn write(&mut self, _: &Batch, _: Checkpoint, _: &[f32]) -> Result<(), DeviceError> {
        unreachable!("the engine writes no checkpoints")
    }
}

fn limits(num_blocks: u32, step_rows_max: u32) -> Limits {
    Limits {
        slots_max: 4,
        context_tokens_max: 256,
        step_rows_max,
        logit_rows_max: 3,
        block_tokens: 16,
        num_blocks,
        threads: 1,
    }
}

fn engine(depth: usize, num_blocks: u32, step_rows_max: u32) -> Engine {
    let device = Scripted {
        limits: limits(num_blocks, step_rows_max),
        depth,
        cache: HashMap::new(),
        last: HashMap::new(),
        queue: VecDeque::new(),
    };
    Engine::new(Box::new(device), VOCAB, vec![END])
}

fn request(i: u32) -> Request {
    let prompt_ids = (0..1 + i * 7 % 60).map(|j| TokenId((i * 131 + j * 17) % 900)).collect();
    let params = SamplingParams { max_tokens: Some(5 + i % 40), min_tokens: i % 4, ..SamplingParams::default() };
    Request { prompt_ids, params, seed: u64::from(i) }
}

type Outputs = HashMap<SeqId, (Vec<TokenId>, FinishReason)>;

fn drain(engine: &mut Engine, outputs: &mut Outputs, tokens: &mut HashMap<SeqId, Vec<TokenId>>) {
    for event in engine.step().unwrap() {
        match event {
            Event::Token { seq, id, .. } => tokens.entry(seq).or_default().push(id),
            Event::Finished { seq, reason, metrics } => {
                let ids = tokens.remove(&seq).unwrap_or_default();
                assert_eq!(metrics.output_tokens as usize, ids.len());
                assert!(outputs.insert(seq, (ids, reason)).is_none(), "two terminal events");
            }
            Event::Failed { seq, error } => panic!("{seq}: {error}"),
        }
    }
}

fn run_all(mut engine: Engine, count: u32) -> (Vec<(Vec<TokenId>, FinishReason)>, u64) {
    let ids: Vec<SeqId> = (0..count).map(|i| engine.add(request(i)).unwrap()).collect();
    let (mut outputs, mut tokens) = (HashMap::new(), HashMap::new());
    for _ in 0..100_000 {
        if engine.is_idle() {
            break;
        }
        drain(&mut engine, &mut outputs, &mut tokens);
    }
    assert!(engine.is_idle(), "the queue does not drain");
    assert_eq!(engine.scheduler.blocks().num_free(), engine.scheduler.blocks().num_blocks(), "blocks leak");
    let preemptions = engine.preemptions();
    (ids.iter().map(|id| outputs.remove(id).unwrap()).collect(), preemptions)
}

#[test]
fn outputs_do_not_depend_on_company_chunks_flight_or_preemption() {
    let alone: Vec<_> = (0..24)
        .map(|i| {
            let mut engine = engine(1, 16, 512);
            let id = engine.add(request(i)).unwrap();
            let (mut outputs, mut tokens) = (HashMap::new(), HashMap::new());
            while !engine.is_idle() {
                drain(&mut engine, &mut outputs, &mut tokens);
            }
            outputs.remove(&id).unwrap()
        })
        .collect();
    assert!(alone.iter().any(|o| o.1 == FinishReason::Stop) && alone.iter().any(|o| o.1 == FinishReason::Length));
    let mut preempted = 0;
    for depth in [1, 2] {
        for blocks in [7, 10, 64] {
            for rows in [4, 16, 512] {
                let (together, preemptions) = run_all(engine(depth, blocks, rows), 24);
                assert_eq!(together, alone, "depth {depth}, {blocks} blocks, {rows} rows");
                preempted += preemptions;
            }
        }
    }
    assert!(preempted > 10, "memory pressure was meant to preempt: {preempted}");
}

#[test]
fn the_least_length_holds_and_ends_are_reported_once() {
    let mut engine = engine(2, 16, 512);
    for i in 0..40 {
        let mut request = request(i);
        request.params = SamplingParams { min_tokens: 12, max_tokens: Some(30), ..SamplingParams::default() };
        let id = engine.add(request).unwrap();
        let (mut outputs, mut tokens) = (HashMap::new(), HashMap::new());
        while !engine.is_idle() {
            drain(&mut engine, &mut outputs, &mut tokens);
        }
        let (ids, reason) = outputs.remove(&id).unwrap();
        assert!(ids.len() > 12 || reason == FinishReason::Length, "{ids:?}");
        assert!(!ids[..ids.len() - 1].contains(&END));
    }
}

#[test]
fn cancelling_frees_everything_at_any_moment() {
    for depth in [1, 2] {
        for cancel_after in 0..20 {
            let mut engine = engine(depth, 16, 16);
            let ids: Vec<_> = (10..14).map(|i| engine.add(request(i)).unwrap()).collect();
            let (mut outputs, mut tokens) = (HashMap::new(), HashMap::new());
            for _ in 0..cancel_after {
                drain(&mut engine, &mut outputs, &mut tokens);
            }
            let was_running = !outputs.contains_key(&ids[1]);
            assert_eq!(engine.cancel(ids[1]), was_running);
            while !engine.is_idle() {
                drain(&mut engine, &mut outputs, &mut tokens);
            }
            assert_eq!(outputs.len(), 4);
            assert_eq!(outputs[&ids[1]].1 == FinishReason::Cancelled, was_running);
            assert_eq!(engine.scheduler.blocks().num_free(), 16);
        }
    }
}

#[test]
fn impossible_requests_are_refused_with_the_numbers() {
    let mut engine = engine(1, 8, 64);
    let ask = |len: usize, max: u32| Request {
        prompt_ids: vec![TokenId(1); len],
        params: SamplingParams { max_tokens: Some(max), ..SamplingParams::default() },
        seed: 0,
    };
    let text = |engine: &mut Engine, request| engine.add(request).unwrap_err().to_string();
    assert!(text(&mut engine, ask(256, 1)).contains("256 tokens, the context 256"));
    assert!(text(&mut engine, ask(100, 100)).contains("8 blocks, the request can need 13"));
    assert!(text(&mut engine, ask(0, 1)).contains("empty"));
    let unknown = Request { prompt_ids: vec![TokenId(VOCAB)], ..ask(1, 1) };
    assert!(text(&mut engine, unknown).contains("1000"));
    assert!(engine.is_idle());
    engine.add(ask(100, 29)).unwrap();
}
