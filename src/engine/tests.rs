//! The engine on a scripted device: same outputs whatever is in flight, preempted, chunked or beside it.

mod beams;
mod simulation;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::device::{BlockCopy, Checkpoint, KvCacheDType, Limits, MemoryUse, SampleRow, StepOutput};
use crate::ids::BlockId;
use crate::sampling::beam::{BeamParams, BeamSearch, EarlyStopping, Hypothesis};

const VOCAB: u32 = 1000;
const END: TokenId = TokenId(999);
/// Requests for log-probabilities meet bad logits about so often.
const BAD_ROW_EVERY: u32 = 13;

/// The hash of no ids.
const EMPTY_HASH: u32 = 17;

fn hash_with(hash: u32, id: u32) -> u32 {
    hash.wrapping_mul(31).wrapping_add(id)
}

/// What follows ids of this hash.
fn next_id(hash: u32, before_min_length: bool) -> TokenId {
    if !before_min_length && hash.is_multiple_of(23) { END } else { TokenId(hash % 900) }
}

/// What may follow ids of this hash, best first.
fn candidates(hash: u32, before_min_length: bool) -> Vec<Candidate> {
    let candidate = |i: u32| {
        let id = if i == 0 && !before_min_length { END } else { TokenId((hash % 900 + i * 97) % 900) };
        let random = (hash ^ i.wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b) >> 20;
        Candidate { id, logprob: -0.1 - random as f32 / 1024.0 }
    };
    let mut candidates: Vec<Candidate> = (0..40).map(candidate).collect();
    candidates.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id)));
    candidates
}

/// Answers with a function of the sequence's ids, which it reads back from "cache" blocks: so a wrong block table, a lost
/// position or a block written by two sequences changes the answer.
struct Scripted {
    limits: Limits,
    depth: usize,
    cache: HashMap<(BlockId, u32), u32>,
    last: HashMap<SlotId, TokenId>,
    /// Slots whose sequences have a frequency penalty.
    penalised: HashSet<SlotId>,
    queue: VecDeque<Queued>,
    /// Steps submitted so far, and the one that fails.
    submitted: u32,
    fails_at: Option<u32>,
    /// Rows submitted so far.
    rows: Arc<AtomicUsize>,
}

enum Queued {
    Copy(Vec<BlockCopy>),
    Step(Batch, Vec<SampleRow>),
}

impl Scripted {
    fn new(limits: Limits, depth: usize, fails_at: Option<u32>) -> Scripted {
        Scripted {
            limits,
            depth,
            cache: HashMap::new(),
            last: HashMap::new(),
            penalised: HashSet::new(),
            queue: VecDeque::new(),
            submitted: 0,
            fails_at,
            rows: Arc::default(),
        }
    }

    fn run(&mut self, batch: &Batch, rows: &[SampleRow]) -> StepOutput {
        let mut written: HashMap<(BlockId, u32), SlotId> = HashMap::new();
        let mut hashes = Vec::new();
        for start in &batch.starts {
            self.penalised.remove(&start.slot);
            self.penalised.extend((start.penalties.frequency != 0.0).then_some(start.slot));
        }
        for seq in &batch.seqs {
            for (i, token) in seq.tokens.iter().enumerate() {
                let id = match token {
                    InputToken::Id(id) => *id,
                    // Nothing was sampled if the row was bad; then nobody looks at what follows.
                    InputToken::LastSampled => self.last.get(&seq.slot).copied().unwrap_or_default(),
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
                hashes.push(ids.fold(EMPTY_HASH, hash_with));
            }
        }
        let sampled = rows.iter().map(|row| {
            let hash = hashes[row.logit_row as usize];
            if let Choice::Forced(id) = row.choice {
                return Sampled { slot: row.slot, token: Ok(id), logprob: Some(hash as f32), top: Vec::new() };
            }
            if hash % BAD_ROW_EVERY == 0 && (row.logprobs.is_some() || self.penalised.contains(&row.slot)) {
                return Sampled { slot: row.slot, token: Err(BadRow::NotFinite), logprob: None, top: Vec::new() };
            }
            if let Choice::Candidates { count } = row.choice {
                let best = candidates(hash, row.before_min_length).into_iter().take(count as usize);
                let top: Vec<_> = best.map(|candidate| (candidate.id, candidate.logprob)).collect();
                return Sampled { slot: row.slot, token: Ok(top[0].0), logprob: None, top };
            }
            let id = next_id(hash, row.before_min_length);
            self.last.insert(row.slot, id);
            Sampled { slot: row.slot, token: Ok(id), logprob: None, top: Vec::new() }
        });
        StepOutput { sampled: sampled.collect() }
    }

    fn steps(&self) -> impl Iterator<Item = &Batch> {
        self.queue.iter().filter_map(|queued| if let Queued::Step(batch, _) = queued { Some(batch) } else { None })
    }

    fn copy(&mut self, copies: &[BlockCopy]) {
        for BlockCopy { from, to } in copies {
            self.cache.retain(|(block, _), _| block != to);
            let rows = (0..self.limits.block_tokens).filter_map(|i| Some((i, *self.cache.get(&(*from, i))?)));
            let rows: Vec<_> = rows.collect();
            self.cache.extend(rows.into_iter().map(|(i, row)| ((*to, i), row)));
        }
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
        assert!(self.steps().count() < self.depth, "too many steps in flight");
        self.submitted += 1;
        if Some(self.submitted) == self.fails_at {
            return Err(DeviceError::NoGpu { reason: "this device fails on request".into() });
        }
        let block_tokens = self.limits.block_tokens;
        let written = |seq: &BatchSeq| seq.block_table[(seq.position_start / block_tokens) as usize..].to_vec();
        for queued in self.steps().flat_map(|queued| &queued.seqs) {
            let slot = queued.slot;
            assert!(batch.starts.iter().all(|start| start.slot != slot), "a slot in flight starts anew");
            for seq in batch.seqs.iter().filter(|seq| seq.slot != slot) {
                let clash = |table: &[BlockId], written: Vec<BlockId>| table.iter().any(|b| written.contains(b));
                assert!(!clash(&queued.block_table, written(seq)), "{} writes what {slot} uses in flight", seq.slot);
                assert!(!clash(&seq.block_table, written(queued)), "{} uses what {slot} writes in flight", seq.slot);
            }
        }
        self.rows.fetch_add(batch.num_rows(), Ordering::Relaxed);
        self.queue.push_back(Queued::Step(batch.clone(), Vec::new()));
        Ok(())
    }
    fn sample(&mut self, rows: &[SampleRow]) -> Result<(), DeviceError> {
        let Some(Queued::Step(_, queued)) = self.queue.back_mut() else { panic!("rows of no step") };
        *queued = rows.to_vec();
        Ok(())
    }
    fn collect(&mut self) -> Result<StepOutput, DeviceError> {
        loop {
            match self.queue.pop_front().unwrap() {
                Queued::Copy(copies) => self.copy(&copies),
                Queued::Step(batch, rows) => return Ok(self.run(&batch, &rows)),
            }
        }
    }
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), DeviceError> {
        for copy in copies {
            let uses_target = |other: &&BlockCopy| other.from == copy.to || other.to == copy.to;
            assert_eq!(copies.iter().filter(uses_target).count(), 1, "copies have no order");
        }
        self.queue.push_back(Queued::Copy(copies.to_vec()));
        Ok(())
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
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    }
}

fn engine(depth: usize, num_blocks: u32, step_rows_max: u32) -> Engine {
    failing_engine(depth, num_blocks, step_rows_max, None)
}

fn failing_engine(depth: usize, num_blocks: u32, step_rows_max: u32, fails_at: Option<u32>) -> Engine {
    let device = Scripted::new(limits(num_blocks, step_rows_max), depth, fails_at);
    Engine::new(Box::new(device), VOCAB, vec![END])
}

fn request(i: u32) -> Request {
    let prompt_ids = (0..1 + i * 7 % 60).map(|j| TokenId((i * 131 + j * 17) % 900)).collect();
    let params = SamplingParams { max_tokens: Some(5 + i % 40), min_tokens: i % 4, ..SamplingParams::default() };
    Request::new(prompt_ids, params, u64::from(i))
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
            Event::Found { .. } | Event::Failed { .. } => panic!("{event:?}"),
        }
    }
}

fn finish(engine: &mut Engine) -> Outputs {
    let (mut outputs, mut tokens) = (HashMap::new(), HashMap::new());
    while !engine.is_idle() {
        drain(engine, &mut outputs, &mut tokens);
    }
    outputs
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
    assert_eq!(engine.scheduler.blocks().num_available(), engine.scheduler.blocks().num_blocks(), "blocks leak");
    let preemptions = engine.preemptions();
    (ids.iter().map(|id| outputs.remove(id).unwrap()).collect(), preemptions)
}

#[test]
fn outputs_do_not_depend_on_company_chunks_flight_or_preemption() {
    let alone: Vec<_> = (0..24)
        .map(|i| {
            let mut engine = engine(1, 16, 512);
            let id = engine.add(request(i)).unwrap();
            finish(&mut engine).remove(&id).unwrap()
        })
        .collect();
    assert!(
        alone.iter().any(|o| o.1 == FinishReason::EndOfSequence) && alone.iter().any(|o| o.1 == FinishReason::Length)
    );
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
        let (ids, reason) = finish(&mut engine).remove(&id).unwrap();
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
            assert_eq!(engine.scheduler.blocks().num_available(), 16);
        }
    }
}

#[test]
fn impossible_requests_are_refused_with_the_numbers() {
    let mut engine = engine(1, 8, 64);
    let ask = |len: usize, max: u32| {
        let params = SamplingParams { max_tokens: Some(max), ..SamplingParams::default() };
        Request::new(vec![TokenId(1); len], params, 0)
    };
    let text = |engine: &mut Engine, request| engine.add(request).unwrap_err().to_string();
    assert!(text(&mut engine, ask(256, 1)).contains("256 tokens > 255 maximum"));
    assert!(
        text(&mut engine, ask(100, 100))
            .contains("8 blocks of 16 tokens, the request with its 100 prompt tokens (context 256) can need 13")
    );
    assert!(text(&mut engine, ask(0, 1)).contains("empty"));
    let unknown = Request { prompt_ids: vec![TokenId(VOCAB)], ..ask(1, 1) };
    assert!(text(&mut engine, unknown).contains("1000"));
    assert!(engine.is_idle());
    engine.add(ask(100, 29)).unwrap();
}

#[test]
fn a_bad_row_ends_its_sequence_alone() {
    for depth in [1, 2] {
        let mut engine = engine(depth, 64, 32);
        let mut want = HashMap::new();
        for i in 0..12 {
            let mut request = request(i);
            request.params.logprobs = (i % 3 == 0).then_some(0);
            let id = engine.add(request).unwrap();
            want.insert(id, i % 3 == 0);
        }
        let (mut failed, mut finished) = (0, 0);
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                match event {
                    Event::Token { seq, .. } => assert!(want.contains_key(&seq), "a token after the end"),
                    Event::Finished { seq, .. } => {
                        want.remove(&seq).unwrap();
                        finished += 1;
                    }
                    Event::Found { .. } => panic!("nobody searches"),
                    Event::Failed { seq, error } => {
                        assert_eq!(error, BadRow::NotFinite);
                        assert_eq!(want.remove(&seq), Some(true), "a neighbour failed");
                        failed += 1;
                    }
                }
            }
        }
        assert!(want.is_empty() && failed > 0 && finished >= 8, "{failed} failed, {finished} finished");
        assert_eq!(engine.scheduler.blocks().num_available(), 64);
    }
}

#[test]
fn stop_ids_end_and_ignored_ends_do_not() {
    let mut engine = engine(2, 16, 512);
    let base = request(20);
    engine.add(base.clone()).unwrap();
    let (ids, _) = finish(&mut engine).into_values().next().unwrap();
    let stop = ids[2];
    let params = SamplingParams { stop_token_ids: vec![stop], ..base.params.clone() };
    engine.add(Request { params, ..base.clone() }).unwrap();
    let (stopped, reason) = finish(&mut engine).into_values().next().unwrap();
    let first = ids.iter().position(|id| *id == stop).unwrap();
    assert_eq!((&stopped[..], reason), (&ids[..=first], FinishReason::StopToken));

    for i in 0..30 {
        let params = SamplingParams { ignore_eos: true, max_tokens: Some(60), ..SamplingParams::default() };
        engine.add(Request { params, ..request(i) }).unwrap();
    }
    let outputs = finish(&mut engine);
    assert!(outputs.values().all(|(ids, reason)| ids.len() == 60 && *reason == FinishReason::Length));
    assert!(outputs.values().any(|(ids, _)| ids.contains(&END)));
}

#[test]
fn without_max_tokens_the_context_and_the_cache_are_filled() {
    for (num_blocks, length) in [(64, 256), (4, 4 * 16 + 1)] {
        let mut engine = engine(2, num_blocks, 64);
        let params = SamplingParams { ignore_eos: true, ..SamplingParams::default() };
        engine.add(Request::new(vec![TokenId(5); 30], params, 0)).unwrap();
        let (ids, reason) = finish(&mut engine).into_values().next().unwrap();
        assert_eq!((30 + ids.len(), reason), (length, FinishReason::Length));
    }
}

#[test]
fn a_second_request_computes_only_what_is_new() {
    let limits = Limits { context_tokens_max: 2100, num_blocks: 400, ..limits(0, 512) };
    let device = Scripted::new(limits, 2, None);
    let rows = Arc::clone(&device.rows);
    let mut engine = Engine::new(Box::new(device), VOCAB, vec![END]);
    let shared: Vec<TokenId> = (0..2000).map(|i| TokenId(i * 7 % 900)).collect();
    let params = SamplingParams { max_tokens: Some(40), ignore_eos: true, ..SamplingParams::default() };
    let mut run = |prompt_ids: Vec<TokenId>, max_tokens| {
        let before = rows.load(Ordering::Relaxed);
        let params = SamplingParams { max_tokens: Some(max_tokens), ..params.clone() };
        engine.add(Request::new(prompt_ids, params, 0)).unwrap();
        let (mut ids, mut cached) = (Vec::new(), 0);
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                match event {
                    Event::Token { id, .. } => ids.push(id),
                    Event::Finished { metrics, .. } => cached = metrics.prompt_tokens_cached,
                    Event::Found { .. } | Event::Failed { .. } => panic!("{event:?}"),
                }
            }
        }
        (ids, cached, rows.load(Ordering::Relaxed) - before)
    };
    let (first, cached, computed) = run(shared.clone(), 40);
    assert_eq!((cached, computed), (0, 2000 + 39));
    // The last of 125 full blocks holds the last prompt token, whose row must be computed.
    assert_eq!(run(shared.clone(), 1), (first[..1].to_vec(), 1984, 16));
    let longer = [&shared[..], &[TokenId(5); 8]].concat();
    let (_, cached, computed) = run(longer, 1);
    assert_eq!((cached, computed), (2000, 8));
    // Generated text is found as well: 2,020 tokens are 126 full blocks.
    let conversation = [&shared[..], &first[..20]].concat();
    assert_eq!(run(conversation, 1), (first[20..21].to_vec(), 2016, 4));
}

#[test]
fn a_failing_device_ends_everything_once() {
    for depth in [1, 2] {
        for fails_at in 1..12 {
            let mut engine = failing_engine(depth, 16, 16, Some(fails_at));
            for i in 10..14 {
                engine.add(request(i)).unwrap();
            }
            let (mut finished, mut tokens) = (0, 0);
            let failure = loop {
                match engine.step() {
                    Ok(events) => events.iter().for_each(|event| match event {
                        Event::Token { .. } => tokens += 1,
                        Event::Found { .. } => panic!("nobody searches"),
                        Event::Finished { .. } | Event::Failed { .. } => finished += 1,
                    }),
                    Err(error) => break error,
                }
            };
            let EngineError::Lost { sequences, output_tokens, .. } = failure else { panic!("{failure:?}") };
            assert_eq!(sequences, 4 - finished);
            assert!(output_tokens <= tokens, "{output_tokens} of {tokens}, less those of finished sequences");
            assert!(finished > 0 || output_tokens == tokens);
            assert!(engine.is_idle());
            assert_eq!(engine.step().unwrap(), []);
            assert!(matches!(engine.add(request(1)), Err(EngineError::Broken)));
            assert!(matches!(engine.score(&[TokenId(1)], 0), Err(EngineError::Broken)));
            assert_eq!(engine.scheduler.blocks().num_available(), 16);
        }
    }
}

#[test]
fn scores_are_of_every_prefix_whatever_the_pieces() {
    let ids: Vec<TokenId> = (0..100).map(|i| TokenId(i * 37 % 900)).collect();
    let hash = |ids: &[TokenId]| ids.iter().fold(17u32, |h, id| h.wrapping_mul(31).wrapping_add(id.0)) as f32;
    for step_rows_max in [1, 2, 512] {
        let mut engine = engine(1, 16, step_rows_max);
        for length in [1, 2, 33, 100] {
            let scored = engine.score(&ids[..length], 0).unwrap();
            assert_eq!(scored.len(), length);
            assert_eq!(scored[0], None);
            for (i, scored) in scored.iter().enumerate().skip(1) {
                let scored = scored.as_ref().unwrap();
                assert_eq!((scored.token, scored.logprob), (Ok(ids[i]), Some(hash(&ids[..i]))));
            }
            assert_eq!(engine.scheduler.blocks().num_available(), 16);
        }
        engine.add(request(3)).unwrap();
        assert!(matches!(engine.score(&ids, 0), Err(EngineError::Busy)));
    }
    assert!(engine(1, 4, 64).score(&ids, 0).unwrap_err().to_string().contains("4 blocks of 16 tokens"));
}
