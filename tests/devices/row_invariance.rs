//! A row's bits depend on its sequence's ids and positions alone: not on other rows, its place among them, the cut of its
//! prompt, block placement, or threads. Logits, cache and what is sampled are compared with `==` on bits.

use crate::common;
use crate::common::synthetic::{Rng, TinyModel};
use crate::common::{Tested, reference};
use kiln::device::reference::Mode;
use kiln::device::{
    Batch, BatchSeq, BlockCopy, Checkpoint, Choice, Device, InputToken, KvCacheDType, Limits, SampleRow,
};
use kiln::ids::{BlockId, SlotId, TokenId};
use kiln::model::{Program, build_spec};
use kiln::weights::{DType, TensorSource};

/// Most sequences of a batch.
const SEQS_MAX: usize = 65;
const BLOCK_TOKENS: u32 = 16;
/// Blocks per sequence.
const SEQ_BLOCKS: u32 = 3;
const PROMPT_TOKENS: usize = 40;

/// Devices and how many threads each is tried with.
fn cpus_by_threads() -> Vec<(Tested, u32)> {
    (1..=2).flat_map(|threads| common::cpus().into_iter().map(move |tested| (tested, threads))).collect()
}

/// What a sequence left: what its last row gave, and every layer's keys and values.
#[derive(Clone, PartialEq)]
struct Bits {
    row: RowBits,
    cache: Vec<Vec<u32>>,
}

/// A row's logits, and the id drawn from them with its log-probability.
#[derive(Clone, PartialEq)]
struct RowBits {
    logits: Vec<u32>,
    sampled: (TokenId, u32),
}

/// A device with a model, and the sequences that tests play on it.
struct Bench {
    device: Box<dyn Device>,
    num_layers: u32,
    vocab_size: usize,
}

impl Bench {
    fn new(tested: &Tested, threads: u32, program: &Program, weights: &dyn TensorSource) -> Bench {
        let limits = Limits {
            slots_max: SEQS_MAX as u32,
            context_tokens_max: SEQ_BLOCKS * BLOCK_TOKENS,
            step_rows_max: (SEQS_MAX + PROMPT_TOKENS) as u32,
            logit_rows_max: SEQS_MAX as u32,
            block_tokens: BLOCK_TOKENS,
            num_blocks: (SEQS_MAX as u32 + 1) * SEQ_BLOCKS,
            kv_cache_dtype: KvCacheDType::F16,
            threads,
        };
        let device = tested.ready(program, weights, &limits);
        Bench { device, num_layers: program.num_layers() as u32, vocab_size: program.vocab_size as usize }
    }

    /// Runs one step of these sequences, each with one logit row, and returns what those gave.
    fn step(&mut self, seqs: Vec<BatchSeq>) -> Vec<RowBits> {
        let draw = Choice::Draw {
            temperature: 1.0,
            top_k: 0,
            top_p_q32: 1 << 32,
            min_p: 0.0,
            seed: 3,
            choice_index: 0,
            output_index: 0,
        };
        let sample =
            |(seq, row): (&BatchSeq, u32)| SampleRow { logprobs: Some(0), ..SampleRow::plain(row, seq.slot, draw) };
        let rows: Vec<SampleRow> = seqs.iter().zip(0..).map(sample).collect();
        self.device.submit(&Batch { starts: Vec::new(), seqs }).unwrap();
        self.device.sample(&rows).unwrap();
        let sampled = self.device.collect().unwrap().sampled;
        let logits = self.device.read(Checkpoint::Logits).unwrap();
        assert!(logits.iter().all(|x| x.is_finite()), "logits are numbers");
        let rows = logits.chunks_exact(self.vocab_size).zip(sampled);
        rows.map(|(logits, sampled)| RowBits {
            logits: bits(logits),
            sampled: (sampled.token.unwrap(), sampled.logprob.unwrap().to_bits()),
        })
        .collect()
    }

    /// Keys and values of sequence `seq` of the last step.
    fn cache(&self, seq: u32) -> Vec<Vec<u32>> {
        let both = |layer| [Checkpoint::Keys { layer, seq }, Checkpoint::Values { layer, seq }];
        (0..self.num_layers).flat_map(both).map(|c| bits(&self.device.read(c).unwrap())).collect()
    }

    /// Runs `ids` alone, cut into chunks of these lengths, in `blocks`.
    fn alone(&mut self, ids: &[u32], chunks: &[usize], blocks: &[u32]) -> Bits {
        let (mut start, mut row) = (0, None);
        for chunk in chunks {
            let end = start + chunk;
            row = self.step(vec![seq(0, &ids[start..end], start, blocks)]).pop();
            start = end;
        }
        assert_eq!(start, ids.len(), "chunks cover the ids");
        Bits { row: row.unwrap(), cache: self.cache(0) }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Rows of `ids` from position `start` on; the last asks for logits.
fn seq(slot: usize, ids: &[u32], start: usize, blocks: &[u32]) -> BatchSeq {
    BatchSeq {
        slot: SlotId(slot as u32),
        position_start: start as u32,
        tokens: ids.iter().map(|id| InputToken::Id(TokenId(*id))).collect(),
        block_table: blocks.iter().map(|block| BlockId(*block)).collect(),
        logit_rows: vec![ids.len() as u32 - 1],
    }
}

fn blocks_of(slot: usize) -> Vec<u32> {
    (0..SEQ_BLOCKS).map(|i| slot as u32 * SEQ_BLOCKS + i).collect()
}

/// Two layers, odd widths, a window that cuts, and a format with minima.
fn tiny(dtype: DType) -> (Program, impl TensorSource) {
    let (spec, tensors) = TinyModel {
        num_layers: 2,
        hidden_size: if dtype.block_weights() == 256 { 256 } else { 96 },
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: if dtype.block_weights() == 256 { 128 } else { 48 },
        intermediate_size: if dtype.block_weights() == 256 { 256 } else { 160 },
        vocab_size: 257,
        window: Some(24),
        dtype,
    }
    .build(7);
    (Program::of(&spec), tensors)
}

fn prompt(seed: u64, tokens: usize, vocab_size: u32) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..tokens).map(|_| rng.below(vocab_size as usize) as u32).collect()
}

/// A decode row at `slots` of batches of `batch_sizes`, among neighbours of other lengths.
fn check_slots(bench: &mut Bench, name: &str, batch_sizes: &[usize], slots: impl Fn(usize) -> Vec<usize>) {
    let vocab_size = bench.vocab_size as u32;
    let ids = prompt(1, 19, vocab_size);
    let expected = bench.alone(&ids, &[18, 1], &blocks_of(0));
    // Histories, each of its own length, are written once: steps below write only the last position of each.
    let num_neighbours = batch_sizes.iter().copied().max().unwrap_or(0);
    let neighbours: Vec<Vec<u32>> =
        (0..num_neighbours).map(|i| prompt(100 + i as u64, 2 + i % 30, vocab_size)).collect();
    for (slot, ids) in neighbours.iter().enumerate() {
        bench.alone(&ids[..ids.len() - 1], &[ids.len() - 1], &blocks_of(slot));
    }
    let own_blocks = blocks_of(SEQS_MAX);
    bench.alone(&ids[..18], &[18], &own_blocks);
    for &batch_size in batch_sizes {
        for slot in slots(batch_size) {
            let row = |i: usize| match i == slot {
                true => seq(i, &ids[18..], 18, &own_blocks),
                false => seq(i, &neighbours[i][neighbours[i].len() - 1..], neighbours[i].len() - 1, &blocks_of(i)),
            };
            let row = bench.step((0..batch_size).map(row).collect()).swap_remove(slot);
            let found = Bits { row, cache: bench.cache(slot as u32) };
            assert!(found == expected, "{name}: slot {slot} of {batch_size}");
        }
    }
}

/// A prompt in two chunks, cut at `cuts`; token by token; and again after a preemption.
fn check_cuts(bench: &mut Bench, name: &str, cuts: impl Iterator<Item = usize>) {
    let ids = prompt(2, PROMPT_TOKENS, bench.vocab_size as u32);
    let expected = bench.alone(&ids, &[PROMPT_TOKENS], &blocks_of(0));
    for cut in cuts {
        let found = bench.alone(&ids, &[cut, PROMPT_TOKENS - cut], &blocks_of(1));
        assert!(found == expected, "{name}: cut at {cut}");
    }
    let found = bench.alone(&ids, &[1; PROMPT_TOKENS], &blocks_of(2));
    assert!(found == expected, "{name}: token by token");
    // 20 tokens of prompt and 20 decoded, then all 40 recomputed at once in other blocks.
    let mut chunks = vec![20];
    chunks.extend([1; 20]);
    assert!(bench.alone(&ids, &chunks, &blocks_of(1)) == expected, "{name}: prompt and decode");
    assert!(bench.alone(&ids, &[PROMPT_TOKENS], &[5, 100, 3]) == expected, "{name}: recomputed in permuted blocks");
}

/// A prompt chunk beside decode rows, in scattered blocks, after one of its blocks was moved.
fn check_mixed_and_moved(bench: &mut Bench, name: &str) {
    let vocab_size = bench.vocab_size as u32;
    let (ids, other) = (prompt(3, PROMPT_TOKENS, vocab_size), prompt(4, 30, vocab_size));
    let expected = bench.alone(&ids, &[PROMPT_TOKENS], &blocks_of(0));
    let other_expected = bench.alone(&other, &[30], &blocks_of(0));
    bench.alone(&ids[..17], &[17], &[9, 40, 2]);
    bench.alone(&other[..29], &[29], &[70, 11, 30]);
    bench.device.copy_blocks(&[BlockCopy { from: BlockId(40), to: BlockId(99) }]).unwrap();
    let step = vec![seq(0, &other[29..], 29, &[70, 11, 30]), seq(1, &ids[17..], 17, &[9, 99, 2])];
    let mut rows = bench.step(step);
    let found = Bits { row: rows.pop().unwrap(), cache: bench.cache(1) };
    assert!(found == expected, "{name}: chunk beside a decode row");
    let found = Bits { row: rows.pop().unwrap(), cache: bench.cache(0) };
    assert!(found == other_expected, "{name}: decode row beside a chunk");
}

#[test]
fn cpu_rows_do_not_see_their_slot() {
    for dtype in [DType::Q4_1, DType::Q6_K, DType::F16, DType::BF16] {
        let (program, tensors) = tiny(dtype);
        for (tested, threads) in cpus_by_threads() {
            let mut bench = Bench::new(&tested, threads, &program, &tensors);
            let name = format!("{} {threads} {dtype}", tested.name);
            // The whole triangle once, its edges everywhere.
            if dtype == DType::Q4_1 && tested.name == common::cpus()[0].name {
                check_slots(&mut bench, &name, &(1..=SEQS_MAX).collect::<Vec<_>>(), |size| (0..size).collect());
            } else {
                check_slots(&mut bench, &name, &[1, 2, 12, 13, 24, 65], |size| vec![0, size / 2, size - 1]);
            }
        }
    }
}

#[test]
fn cpu_rows_do_not_see_cuts_blocks_or_neighbours() {
    for dtype in DType::ALL {
        let (program, tensors) = tiny(dtype);
        for (tested, threads) in cpus_by_threads() {
            let mut bench = Bench::new(&tested, threads, &program, &tensors);
            let name = format!("{} {threads} {dtype}", tested.name);
            // Every cut once per format, on the fastest path.
            let step = if tested.name == common::cpus()[0].name { 1 } else { 6 };
            check_cuts(&mut bench, &name, (1..PROMPT_TOKENS).step_by(step));
            check_mixed_and_moved(&mut bench, &name);
        }
    }
}

#[test]
fn cpu_bits_do_not_depend_on_threads_or_instructions() {
    for dtype in DType::ALL {
        let (program, tensors) = tiny(dtype);
        let ids = prompt(5, PROMPT_TOKENS, program.vocab_size);
        let mut expected: Option<Bits> = None;
        for (tested, threads) in cpus_by_threads() {
            let found = Bench::new(&tested, threads, &program, &tensors).alone(&ids, &[33, 7], &blocks_of(0));
            match &expected {
                None => expected = Some(found),
                Some(expected) => assert!(found == *expected, "{} {threads} {dtype}", tested.name),
            }
        }
    }
}

#[test]
fn reference_rows_are_invariant() {
    for mode in [Mode::F32, Mode::Int8] {
        for threads in 1..=2 {
            let (program, tensors) = tiny(DType::Q4_1);
            let tested = reference(mode);
            let mut bench = Bench::new(&tested, threads, &program, &tensors);
            check_slots(&mut bench, &tested.name, &[1, 2, 13], |size| vec![0, size - 1]);
            check_cuts(&mut bench, &tested.name, (1..PROMPT_TOKENS).step_by(7));
            check_mixed_and_moved(&mut bench, &tested.name);
        }
    }
}

#[test]
fn rows_are_invariant_with_an_int8_cache() {
    let (program, tensors) = tiny(DType::Q4_1);
    let devices = common::cpus().into_iter().chain([reference(Mode::Int8)]);
    for tested in devices.map(Tested::with_int8_cache) {
        let mut bench = Bench::new(&tested, 2, &program, &tensors);
        check_slots(&mut bench, &tested.name, &[1, 2, 13], |size| vec![0, size - 1]);
        check_cuts(&mut bench, &tested.name, (1..PROMPT_TOKENS).step_by(7));
        check_mixed_and_moved(&mut bench, &tested.name);
    }
}

/// On the simulated GPU: every kernel for one to eight rows and the one for more, in 1 to 20 decode rows and in prompts cut before, at and
/// behind those sizes. Integer and float weights take different kernels.
#[cfg(feature = "cuda")]
#[test]
fn gpu_rows_do_not_see_slots_cuts_blocks_or_neighbours() {
    use common::simulated;
    const DTYPE: &str = "KILN_TEST_DTYPE";
    if !simulated::is_child() {
        let name = "gpu_rows_do_not_see_slots_cuts_blocks_or_neighbours";
        simulated::rerun_with(name, &[("KILN_SIM_CC", "8.0"), ("KILN_SIM_SEED", "1"), (DTYPE, "Q4_1")]);
        simulated::rerun_with(name, &[("KILN_SIM_CC", "9.0"), ("KILN_SIM_SEED", "2"), (DTYPE, "BF16")]);
        return;
    }
    let asked = std::env::var(DTYPE).unwrap();
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.to_string() == asked).unwrap();
    let (program, tensors) = tiny(dtype);
    let mut bench = Bench::new(&common::cuda(), 1, &program, &tensors);
    let name = format!("cuda {dtype}");
    check_slots(&mut bench, &name, &(1..=20).collect::<Vec<_>>(), |size| vec![size / 2]);
    check_cuts(&mut bench, &name, [1, 2, 8, 9, 32].into_iter());
    check_mixed_and_moved(&mut bench, &name);
}

/// The kernels that an int8 cache changes: its own attention, and the step that rounds whole heads.
#[cfg(feature = "cuda")]
#[test]
fn gpu_rows_are_invariant_with_an_int8_cache() {
    use common::simulated;
    if !simulated::is_child() {
        simulated::rerun_with(
            "gpu_rows_are_invariant_with_an_int8_cache",
            &[("KILN_SIM_CC", "9.0"), ("KILN_SIM_SEED", "3")],
        );
        return;
    }
    let (program, tensors) = tiny(DType::Q4_1);
    let tested = common::cuda().with_int8_cache();
    let mut bench = Bench::new(&tested, 1, &program, &tensors);
    check_slots(&mut bench, &tested.name, &[1, 2, 9], |size| vec![size / 2]);
    check_cuts(&mut bench, &tested.name, [1, 9, 32].into_iter());
    check_mixed_and_moved(&mut bench, &tested.name);
}

#[test]
fn smollm2_on_the_cpu() {
    let file = common::smollm2();
    let program = Program::of(&build_spec(file.metadata(), &file).unwrap());
    let tested = common::cpus().remove(0);
    let mut expected: Option<Bits> = None;
    for threads in 1..=2 {
        let mut bench = Bench::new(&tested, threads, &program, &file);
        check_slots(&mut bench, "SmolLM2", &[1, 2, 13, 33, 65], |size| vec![size - 1]);
        check_cuts(&mut bench, "SmolLM2", [1, 12, 13, 16, 31, 39].into_iter());
        check_mixed_and_moved(&mut bench, "SmolLM2");
        let found = bench.alone(&prompt(6, PROMPT_TOKENS, program.vocab_size), &[PROMPT_TOKENS], &blocks_of(0));
        assert!(expected.get_or_insert_with(|| found.clone()) == &found, "SmolLM2: {threads} threads");
    }
}
