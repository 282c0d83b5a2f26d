//! The sampler on the device: sample rows to numbers, one launch, and results from memory that the kernel writes and the host reads.

use std::sync::Arc;

use crate::device::sampler::{self, BadRow, Choice, Distribution, Penalties, SampleRow, Sampled};
use crate::device::{DeviceError, Limits, Purpose, REPORTED_TOKENS_MAX, SlotStart};
use crate::ids::TokenId;

use super::abi::*;
use super::driver::{DeviceBuffer, Gpu, Kernel, Module, PinnedBuffer};
use super::slots::Slots;

const _: () = assert!(REPORTED_TOKENS_MAX == KILN_TOP_MAX, "results hold what the contract allows");

/// `sizeof(SampleShared)` of cuda/sample.cu without the scores.
const SHARED_BYTES: u32 = KILN_SAMPLE_BINS * 12 + KILN_SAMPLE_THREADS / 32 * 8 + 32;
const RESULT_BYTES: usize = size_of::<KilnSampled>();
const TOP_BYTES: usize = size_of::<KilnTop>();

/// The sampler.
#[derive(Debug)]
pub struct Sampler {
    slots: Slots,
    params: KilnSampleParams,
    scratch: DeviceBuffer,
    /// One per step in flight: results of all rows, then their most likely tokens.
    results: [PinnedBuffer; 2],
    /// Sample rows of each slot since it started.
    orders: Vec<u32>,
    /// Of each slot. Rows carry them to the kernel, which has a row's numbers at hand before it needs a slot's.
    penalties: Vec<Penalties>,
    rows_max: usize,
    /// Of a row, and rows at a time.
    ctas: u32,
    groups_max: u32,
    kernel: Kernel,
    start_kernel: Kernel,
    gpu: Arc<Gpu>,
    /// Kept loaded.
    _module: Module,
}

/// Where a step's numbers lie on the device.
#[derive(Clone, Copy, Debug)]
pub struct StepAddresses {
    pub step: u64,
    pub sample_rows: u64,
    pub logits: u64,
}

impl Sampler {
    /// A sampler for rows of `slots.params.vocab_size` logits.
    ///
    /// # Errors
    /// `Unsupported` if the vocabulary is larger than the slices of all CTAs that the GPU holds at once, or than 2^20.
    pub fn new(gpu: &Arc<Gpu>, slots: Slots, limits: &Limits, at: StepAddresses) -> Result<Sampler, DeviceError> {
        let vocab_size = slots.params.vocab_size;
        let (name, image) = super::kernels::fatbin!("sample");
        let module = Module::load(gpu, name, image)?;
        let of_slice = |slice: u32| module.kernel("kiln_sample", SHARED_BYTES + 4 * slice);
        let resident = |slice: u32| gpu.resident_ctas(&of_slice(slice)?, KILN_SAMPLE_THREADS);
        let mut slice = KILN_SAMPLE_SLICE;
        while slice < KILN_SAMPLE_SLICE_MAX && resident(slice)? < vocab_size.div_ceil(slice) {
            slice *= 2;
        }
        let ctas = vocab_size.div_ceil(slice).max(1);
        let slice = vocab_size.div_ceil(ctas);
        let kernel = of_slice(slice)?;
        let resident = resident(slice)?;
        if ctas > resident || vocab_size > sampler::VOCAB_SIZE_MAX {
            let tokens = u64::from(resident) * u64::from(KILN_SAMPLE_SLICE_MAX);
            return Err(DeviceError::Unsupported {
                subject: "vocabulary".to_owned(),
                expected: format!("at most {} tokens", tokens.min(sampler::VOCAB_SIZE_MAX.into())),
                found: vocab_size.to_string(),
            });
        }
        let rows_max = limits.logit_rows_max.max(1);
        // More rows at a time than two per SM gain nothing.
        let groups_max = (resident.min(2 * gpu.sm_count) / ctas).clamp(1, rows_max);
        let mut bytes = 0;
        let mut take = |size: usize, count: u32| {
            let at = bytes;
            bytes += (size as u64 * u64::from(count)).next_multiple_of(256);
            at
        };
        let states = take(size_of::<KilnSampleState>(), rows_max);
        let sums = take(8, rows_max.saturating_mul(ctas));
        let bin_counts = take(4 * 3, groups_max * KILN_SAMPLE_BINS);
        let bin_masses = take(8 * 3, groups_max * KILN_SAMPLE_BINS);
        let scratch = DeviceBuffer::zeroed(gpu, Purpose::Sampler, bytes)?;
        let rows = rows_max as usize;
        let row_bytes = RESULT_BYTES + KILN_TOP_MAX as usize * TOP_BYTES;
        let buffer = || PinnedBuffer::zeroed(gpu, Purpose::Sampler, rows * row_bytes);
        let results = [buffer()?, buffer()?];
        let addresses = [results[0].address(), results[1].address()];
        let base = scratch.address();
        let params = KilnSampleParams {
            step: at.step,
            rows: at.sample_rows,
            logits: at.logits,
            slots: slots.params,
            states: base + states,
            sums: base + sums,
            bin_counts: base + bin_counts,
            bin_masses: base + bin_masses,
            results: addresses,
            top: addresses.map(|address| address + (rows * RESULT_BYTES) as u64),
            slice,
            pad: 0,
        };
        Ok(Sampler {
            slots,
            params,
            scratch,
            results,
            orders: vec![0; limits.slots_max as usize],
            penalties: vec![Penalties::default(); limits.slots_max as usize],
            rows_max: rows,
            ctas,
            groups_max,
            kernel,
            start_kernel: module.kernel("kiln_start_slots", 0)?,
            gpu: gpu.clone(),
            _module: module,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.slots.bytes() + self.scratch.bytes()
    }

    /// Queues the starts of sequences; `buffer` is the step's.
    pub fn start(&mut self, starts: &[SlotStart], buffer: usize) -> Result<(), DeviceError> {
        if starts.is_empty() {
            return Ok(());
        }
        for start in starts {
            self.orders[start.slot.index()] = 0;
            self.penalties[start.slot.index()] = start.penalties;
        }
        self.slots.start(&self.start_kernel, starts, buffer)
    }

    /// The kernel's rows, and how many of them start chains. Rows of one slot that penalise what others of them sample must wait for
    /// these; all others run side by side.
    pub fn rows(&mut self, rows: &[SampleRow]) -> (Vec<KilnSampleRow>, u32) {
        let is_ordered: Vec<bool> = self.penalties.iter().map(Penalties::any).collect();
        let mut has_head = vec![false; self.orders.len()];
        let (mut heads, mut others) = (Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            let slot = row.slot.index();
            let follows = is_ordered[slot] && std::mem::replace(&mut has_head[slot], true);
            if follows { others.push(i) } else { heads.push(i) }
        }
        let num_chains = heads.len() as u32;
        let mut top_starts = Vec::with_capacity(rows.len());
        let mut tops = 0;
        for row in rows {
            top_starts.push(tops);
            tops += self.top_count(row);
        }
        let order: Vec<usize> = heads.into_iter().chain(others).collect();
        let mut packed: Vec<KilnSampleRow> = Vec::with_capacity(rows.len());
        let mut last_of_chain = vec![None; self.orders.len()];
        for (at, &i) in order.iter().enumerate() {
            let slot = rows[i].slot.index();
            if is_ordered[slot]
                && let Some(last) = last_of_chain[slot].replace(at)
            {
                packed[last].next = at as u32;
            }
            let order = self.orders[slot] + 1 + rows[..i].iter().filter(|r| r.slot == rows[i].slot).count() as u32;
            packed.push(self.pack(&rows[i], i as u32, top_starts[i], order));
        }
        rows.iter().for_each(|row| self.orders[row.slot.index()] += 1);
        (packed, num_chains)
    }

    fn top_count(&self, row: &SampleRow) -> u32 {
        row.choice.num_reported(row.logprobs).min(self.params.slots.vocab_size)
    }

    fn pack(&self, row: &SampleRow, result: u32, top_start: u32, order: u32) -> KilnSampleRow {
        let penalties = &self.penalties[row.slot.index()];
        let mut packed = KilnSampleRow {
            logit_row: row.logit_row,
            slot: row.slot.0,
            choice: KILN_GREEDY,
            flags: flags(row, penalties),
            presence_penalty: penalties.presence,
            frequency_penalty: penalties.frequency,
            repetition_penalty: penalties.repetition,
            temperature: 1.0,
            top_p: 1 << 32,
            min_mass: 0,
            random: 0,
            top_k: 0,
            forced: 0,
            order,
            next: KILN_NO_ROW,
            result,
            top_start,
            top_count: self.top_count(row),
            pad: 0,
        };
        match row.choice {
            Choice::Greedy => {}
            Choice::Forced(id) => (packed.choice, packed.forced) = (KILN_FORCED, id.0),
            Choice::Candidates { .. } => packed.choice = KILN_CANDIDATES,
            Choice::Draw { temperature, top_k, top_p_q32, min_p, seed, choice_index, output_index } => {
                packed.choice = KILN_DRAW;
                packed.temperature = temperature;
                packed.top_k = top_k;
                packed.top_p = top_p_q32.min(1 << 32);
                packed.min_mass = sampler::min_mass(min_p);
                packed.random = sampler::random(seed, choice_index, output_index);
            }
        }
        packed
    }

    /// Queues the kernel for about `chains` chains: the grid depends on their power of two alone.
    pub fn launch(&self, chains: u32) -> Result<(), DeviceError> {
        if chains == 0 {
            return Ok(());
        }
        let grid = [self.ctas, chains.next_power_of_two().min(self.groups_max), 1];
        self.gpu.launch_cooperative(&self.kernel, grid, KILN_SAMPLE_THREADS, &self.params)
    }

    /// The results of a step that has been waited for.
    pub fn results(&self, rows: &[SampleRow], buffer: usize) -> Vec<Sampled> {
        let words: &[u32] = bytemuck::cast_slice(self.results[buffer].bytes());
        let (results, tops) = words.split_at(self.rows_max * RESULT_BYTES / 4);
        let mut tops = tops.chunks_exact(TOP_BYTES / 4);
        let results = results.chunks_exact(RESULT_BYTES / 4);
        let finish = |(row, result): (&SampleRow, &[u32])| {
            let top: Vec<&[u32]> = tops.by_ref().take(self.top_count(row) as usize).collect();
            let [status, token, max, logit, mass_low, mass_high] = *result else { unreachable!("six words") };
            let token = match status {
                KILN_SAMPLED => Ok(TokenId(token)),
                KILN_ALL_MASKED => Err(BadRow::AllMasked),
                _ => Err(BadRow::NotFinite),
            };
            let mut sampled = Sampled { slot: row.slot, token, logprob: None, top: Vec::new() };
            if reports(row) && token.is_ok() {
                let total_mass = u64::from(mass_high) << 32 | u64::from(mass_low);
                let model = Distribution::new(f32::from_bits(max), total_mass);
                sampled.logprob = row.logprobs.map(|_| model.log_probability(f32::from_bits(logit)));
                let mut best: Vec<(u32, f32)> = top.iter().map(|t| (t[0], f32::from_bits(t[1]))).collect();
                best.sort_by_key(|&(id, logit)| std::cmp::Reverse(sampler::rank(id, logit)));
                sampled.top = best.iter().map(|&(id, logit)| (TokenId(id), model.log_probability(logit))).collect();
            }
            sampled
        };
        rows.iter().zip(results).map(finish).collect()
    }
}

fn flags(row: &SampleRow, penalties: &Penalties) -> u32 {
    let flag = |holds: bool, flag: u32| if holds { flag } else { 0 };
    flag(penalties.any(), KILN_SAMPLE_PENALTIES)
        | flag(penalties.count_prompt, KILN_SAMPLE_PENALISE_PROMPT)
        | flag(row.before_min_length, KILN_SAMPLE_MASKS)
        | flag(reports(row), KILN_SAMPLE_LOGPROBS)
}

/// Whether the row needs the raw distribution's mass.
fn reports(row: &SampleRow) -> bool {
    row.logprobs.is_some() || matches!(row.choice, Choice::Candidates { .. })
}
