//! What the sampler knows of sequences: token counts, biases, masks and the last sampled token, one slot each, on the device.

use std::sync::Arc;

use crate::device::{DeviceError, LOGIT_BIASES_MAX, Limits, Purpose, SlotStart};
use crate::ids::TokenId;

use super::abi::*;
use super::driver::{DeviceBuffer, Gpu, Kernel, PinnedBuffer, bytes_of};

const _: () = assert!(LOGIT_BIASES_MAX == KILN_BIASES_MAX as usize, "tables hold what the contract allows");

/// Words of one upload of starts; longer prompts take several.
const CHUNK_WORDS: usize = 64 << 10;
/// Starts of one upload, whose records come first.
const CHUNK_STARTS: usize = 64;
const DATA_START: usize = CHUNK_STARTS * size_of::<KilnStart>() / 4;

/// The slots.
#[derive(Debug)]
pub struct Slots {
    gpu: Arc<Gpu>,
    buffer: DeviceBuffer,
    pub params: KilnSlots,
    words: DeviceBuffer,
    /// One per step in flight.
    staging: [PinnedBuffer; 2],
}

impl Slots {
    pub fn new(gpu: &Arc<Gpu>, vocab_size: u32, limits: &Limits) -> Result<Slots, DeviceError> {
        let (slots, vocab) = (u64::from(limits.slots_max), u64::from(vocab_size));
        let mask_words = vocab_size.div_ceil(32);
        let mut bytes = 0;
        let mut take = |size: u64| {
            let at = bytes;
            bytes += (size * slots).next_multiple_of(256);
            at
        };
        let last_sampled = take(8);
        let counts = take(size_of::<KilnCounts>() as u64 * vocab);
        let masks = take(4 * u64::from(mask_words));
        let biases = take((size_of::<KilnBias>() * KILN_BIASES_MAX as usize) as u64);
        let num_biases = take(4);
        let buffer = DeviceBuffer::zeroed(gpu, Purpose::Slots, bytes)?;
        let words = DeviceBuffer::zeroed(gpu, Purpose::Slots, 4 * CHUNK_WORDS as u64)?;
        let base = buffer.address();
        let params = KilnSlots {
            last_sampled: base + last_sampled,
            counts: base + counts,
            masks: base + masks,
            biases: base + biases,
            num_biases: base + num_biases,
            vocab_size,
            mask_words,
        };
        let staging = || PinnedBuffer::zeroed(gpu, Purpose::Slots, 4 * CHUNK_WORDS);
        Ok(Slots { gpu: gpu.clone(), buffer, params, words, staging: [staging()?, staging()?] })
    }

    pub fn bytes(&self) -> u64 {
        self.buffer.bytes() + self.words.bytes()
    }

    /// Queues the starts, through the pinned buffer `staging`. Waits only if they are more than one upload takes.
    pub fn start(&mut self, kernel: &Kernel, starts: &[SlotStart], staging: usize) -> Result<(), DeviceError> {
        let mut chunk = Chunk::default();
        for start in starts {
            let mut biases = start.logit_bias.clone();
            biases.sort_by_key(|(id, _)| *id);
            if chunk.room() < 2 * biases.len() || chunk.starts.len() == CHUNK_STARTS {
                self.send(kernel, &mut chunk, staging)?;
                self.gpu.synchronise()?;
            }
            let mut left: [&[TokenId]; 3] = [&start.prompt_ids, &start.output_ids, &start.ids_masked_before_min];
            let mut is_first = true;
            loop {
                let bias_words: Vec<u32> = biases.drain(..).flat_map(|(id, bias)| [id.0, bias.to_bits()]).collect();
                let bias_start = chunk.put(&bias_words);
                let [prompt, output, mask] = left.each_mut().map(|ids| chunk.take(ids));
                chunk.starts.push(KilnStart {
                    slot: start.slot.0,
                    is_first: is_first.into(),
                    last_sampled: start.output_ids.last().map_or(0, |id| id.0),
                    prompt_start: prompt.0,
                    prompt_count: prompt.1,
                    output_start: output.0,
                    output_count: output.1,
                    mask_start: mask.0,
                    mask_count: mask.1,
                    bias_start,
                    bias_count: bias_words.len() as u32 / 2,
                    pad: 0,
                });
                is_first = false;
                if left.iter().all(|ids| ids.is_empty()) {
                    break;
                }
                self.send(kernel, &mut chunk, staging)?;
                self.gpu.synchronise()?;
            }
        }
        self.send(kernel, &mut chunk, staging)
    }

    fn send(&mut self, kernel: &Kernel, chunk: &mut Chunk, staging: usize) -> Result<(), DeviceError> {
        let bytes = self.staging[staging].bytes_mut();
        let records = bytes_of(&chunk.starts);
        bytes[..records.len()].copy_from_slice(records);
        let data = bytes_of(&chunk.data);
        let end = 4 * DATA_START + data.len();
        bytes[4 * DATA_START..end].copy_from_slice(data);
        self.words.upload(0, &self.staging[staging].bytes()[..end])?;
        let address = self.words.address();
        let params = KilnStartParams { slots: self.params, starts: address, words: address };
        let grid = [chunk.starts.len() as u32, 1, 1];
        *chunk = Chunk::default();
        self.gpu.launch(kernel, grid, KILN_SAMPLE_THREADS, &params)
    }
}

/// What one upload brings.
#[derive(Debug, Default)]
struct Chunk {
    starts: Vec<KilnStart>,
    data: Vec<u32>,
}

impl Chunk {
    fn room(&self) -> usize {
        CHUNK_WORDS - DATA_START - self.data.len()
    }

    /// Adds words; returns where they lie.
    fn put(&mut self, words: &[u32]) -> u32 {
        let at = DATA_START + self.data.len();
        self.data.extend_from_slice(words);
        at as u32
    }

    /// Moves as many ids as fit; returns where they lie and how many they are.
    fn take(&mut self, ids: &mut &[TokenId]) -> (u32, u32) {
        let (now, later) = ids.split_at(ids.len().min(self.room()));
        *ids = later;
        let at = DATA_START + self.data.len();
        self.data.extend(now.iter().map(|id| id.0));
        (at as u32, now.len() as u32)
    }
}
