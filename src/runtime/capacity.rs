//! How many sequences of which length fit: limits derived from what the user asked for and what the device has free.

use std::num::NonZeroUsize;

use crate::device::{KvCacheDType, Limits};
use crate::model::ModelSpec;

use super::{RuntimeError, RuntimeOptions, Sequences};

/// Positions per KV-cache block.
const BLOCK_TOKENS: u32 = 16;

/// The default context is what the model was trained for, but no more than this much cache. On a GPU it is also no more than what is
/// free beside the weights, of which an eighth is left for everything else.
const DEFAULT_ARENA_BYTES_MAX: u64 = 4 << 30;

/// Sequences at once, where as many as fit were asked for.
const FITTING_SEQUENCES_MAX: u32 = 64;

const SEQUENCES_LIMIT: u32 = 1024;
const CONTEXT_TOKENS_LIMIT: u32 = 1 << 20;

/// What a model needs for each sequence.
#[derive(Clone, Copy, Debug)]
pub struct SequenceNeed {
    pub context_tokens_trained: u32,
    /// Cache per position.
    pub token_bytes: u64,
    /// Beside the cache: a row of logits, two counts of every token, and a mask.
    pub slot_bytes: u64,
}

impl SequenceNeed {
    pub fn of(spec: &ModelSpec, kv_cache_dtype: KvCacheDType) -> SequenceNeed {
        let vocab_size = u64::from(spec.vocab_size);
        SequenceNeed {
            context_tokens_trained: spec.context_tokens_trained,
            token_bytes: spec.kv_bytes_per_token(kv_cache_dtype).max(1),
            slot_bytes: vocab_size * (4 + 8) + vocab_size.div_ceil(8),
        }
    }

    /// Bytes that a sequence of `context_tokens` takes, in whole blocks.
    fn sequence_bytes(&self, context_tokens: u64) -> u64 {
        let positions = context_tokens.div_ceil(BLOCK_TOKENS.into()).saturating_mul(BLOCK_TOKENS.into());
        positions.saturating_mul(self.token_bytes).saturating_add(self.slot_bytes)
    }
}

/// A cache for so many sequences of such a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePlan {
    pub slots_max: u32,
    pub context_tokens_max: u32,
    pub block_tokens: u32,
    pub num_blocks: u32,
}

impl CachePlan {
    /// The cache that was asked for, whatever the numbers are.
    ///
    /// # Errors
    /// More tokens or sequences than there can be. Whether the memory is there is for the device to say, which has the numbers.
    pub fn of(sequences: u64, context_tokens: u64) -> Result<CachePlan, RuntimeError> {
        if !(1..=u64::from(CONTEXT_TOKENS_LIMIT)).contains(&context_tokens) {
            return Err(RuntimeError::Context { asked: context_tokens, limit: CONTEXT_TOKENS_LIMIT });
        }
        if !(1..=u64::from(SEQUENCES_LIMIT)).contains(&sequences) {
            return Err(RuntimeError::Sequences { asked: sequences, limit: SEQUENCES_LIMIT });
        }
        // Both are within their limits: the blocks are at most 2^26.
        let (slots_max, context_tokens_max) = (sequences as u32, context_tokens as u32);
        let num_blocks = context_tokens_max.div_ceil(BLOCK_TOKENS) * slots_max;
        Ok(CachePlan { slots_max, context_tokens_max, block_tokens: BLOCK_TOKENS, num_blocks })
    }
}

/// `room_bytes`: what the device has free beside weights and workspace, if that is known; else the cache's default size counts.
pub fn limits_of(
    need: SequenceNeed,
    options: &RuntimeOptions,
    room_bytes: Option<u64>,
) -> Result<Limits, RuntimeError> {
    let SequenceNeed { context_tokens_trained, token_bytes, .. } = need;
    let fitting_bytes = room_bytes.unwrap_or(DEFAULT_ARENA_BYTES_MAX);
    // Whole blocks: an arena has no other room.
    let affordable = fitting_bytes.min(DEFAULT_ARENA_BYTES_MAX) / token_bytes / u64::from(BLOCK_TOKENS);
    let affordable = (affordable * u64::from(BLOCK_TOKENS)).min(u64::from(CONTEXT_TOKENS_LIMIT)) as u32;
    let default = context_tokens_trained.min(affordable).max(BLOCK_TOKENS);
    let context_tokens = options.context_tokens.unwrap_or(default);
    if context_tokens < 2 {
        return Err(RuntimeError::Context { asked: context_tokens.into(), limit: CONTEXT_TOKENS_LIMIT });
    }
    let sequences = match options.sequences {
        Sequences::Exactly(count) => count.get(),
        Sequences::AsManyAsFit => {
            let fitting = fitting_bytes / need.sequence_bytes(context_tokens.into());
            fitting.clamp(1, FITTING_SEQUENCES_MAX.into()) as u32
        }
    };
    let plan = CachePlan::of(sequences.into(), context_tokens.into())?;
    let CachePlan { slots_max, context_tokens_max, block_tokens, num_blocks } = plan;
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32;
    let step_rows_max = options.step_rows_max.min(context_tokens_max.saturating_mul(slots_max));
    tracing::info!(
        "plan: {slots_max} sequences of up to {context_tokens_max} tokens need {} MiB of {} cache; there is room for {} MiB",
        (u64::from(num_blocks) * u64::from(BLOCK_TOKENS)).saturating_mul(token_bytes).div_ceil(1 << 20),
        options.kv_cache_dtype.name(),
        fitting_bytes >> 20,
    );
    Ok(Limits {
        slots_max,
        context_tokens_max,
        step_rows_max,
        logit_rows_max: options.logit_rows_max.max(slots_max.min(step_rows_max)),
        block_tokens,
        num_blocks,
        kv_cache_dtype: options.kv_cache_dtype,
        threads: options.threads.unwrap_or_else(cores),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const NEED: SequenceNeed =
        SequenceNeed { context_tokens_trained: 4096, token_bytes: 1 << 10, slot_bytes: 256 << 10 };

    fn limits(context_tokens: Option<u32>, sequences: Sequences, room_bytes: Option<u64>) -> Limits {
        let options = RuntimeOptions { context_tokens, sequences, ..RuntimeOptions::default() };
        limits_of(NEED, &options, room_bytes).unwrap()
    }

    fn exactly(count: u32) -> Sequences {
        Sequences::Exactly(NonZeroU32::new(count).unwrap())
    }

    #[test]
    fn the_context_is_what_was_trained_for_as_far_as_there_is_room() {
        let context = |asked, room_bytes| limits(asked, exactly(1), room_bytes).context_tokens_max;
        assert_eq!(context(None, None), 4096);
        assert_eq!(context(None, Some(1 << 20)), 1024);
        assert_eq!(context(None, Some((1 << 20) - 1)), 1008, "whole blocks");
        assert_eq!(context(None, Some(0)), 16);
        assert_eq!(context(Some(9000), Some(1 << 20)), 9000, "what was asked for; the device says if it does not fit");
    }

    #[test]
    fn what_was_asked_for_must_be_possible() {
        let plan = CachePlan::of;
        let fits = CachePlan { slots_max: 3, context_tokens_max: 33, block_tokens: 16, num_blocks: 9 };
        assert_eq!(plan(3, 33).unwrap(), fits);
        assert_eq!(plan(1024, 1 << 20).unwrap().num_blocks, 1 << 26);
        for (sequences, context_tokens) in [(1, 0), (1, (1 << 20) + 1), (1, u64::MAX), (1, 1 << 32)] {
            let refused = plan(sequences, context_tokens);
            assert!(matches!(refused, Err(RuntimeError::Context { asked, .. }) if asked == context_tokens));
        }
        for sequences in [0, 1025, 1 << 32, u64::MAX] {
            assert!(matches!(plan(sequences, 16), Err(RuntimeError::Sequences { asked, .. }) if asked == sequences));
        }
    }

    #[test]
    fn as_many_sequences_as_fit_are_no_more_than_that() {
        // 4 MiB of cache and 256 KiB beside it.
        let seq_bytes = (4 << 20) + (256 << 10);
        let slots = |room_bytes| limits(None, Sequences::AsManyAsFit, Some(room_bytes)).slots_max;
        assert_eq!((slots(7 * seq_bytes), slots(7 * seq_bytes - 1)), (7, 6));
        assert_eq!((slots(0), slots(u64::MAX)), (1, FITTING_SEQUENCES_MAX));
        let shorter = limits(Some(100), Sequences::AsManyAsFit, Some(seq_bytes));
        // 112 positions are 7 blocks.
        assert_eq!((shorter.slots_max, shorter.num_blocks), (11, 77));
    }

    #[test]
    fn an_int8_cache_holds_nearly_twice_the_context() {
        let token_bytes = |dtype: KvCacheDType| 2 * dtype.head_bytes(64);
        let context = |dtype| {
            let need = SequenceNeed { context_tokens_trained: 1 << 20, token_bytes: token_bytes(dtype), slot_bytes: 0 };
            let options = RuntimeOptions { kv_cache_dtype: dtype, ..RuntimeOptions::default() };
            let limits = limits_of(need, &options, Some(1 << 20)).unwrap();
            assert_eq!(limits.kv_cache_dtype, dtype);
            limits.context_tokens_max
        };
        assert_eq!((context(KvCacheDType::F16), context(KvCacheDType::Int8)), (4096, 7696));
    }

    #[test]
    fn every_sequence_has_its_blocks_and_a_row_of_logits() {
        let limits = limits(Some(40), exactly(5), None);
        assert_eq!((limits.num_blocks, limits.logit_rows_max, limits.step_rows_max), (15, 5, 200));
        let options = RuntimeOptions { sequences: exactly(SEQUENCES_LIMIT + 1), ..RuntimeOptions::default() };
        assert!(matches!(limits_of(NEED, &options, None), Err(RuntimeError::Sequences { .. })));
    }
}
