//! One request on its way through the engine.

use std::time::Instant;

use crate::device::InputToken;
use crate::ids::{SeqId, SlotId, TokenId};
use crate::kv::BlockTable;
use crate::sampling::SamplingParams;

/// What to generate from.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub prompt_ids: Vec<TokenId>,
    pub params: SamplingParams,
    /// The seed to draw with; `params.seed` has been resolved into it.
    pub seed: u64,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// End of sequence, a stop id or a stop string.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// The caller took it back.
    Cancelled,
}

/// A sequence in the engine.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub id: SeqId,
    pub request: Request,
    pub output_ids: Vec<TokenId>,
    /// Output tokens at most, from the request and the context.
    pub max_tokens: u32,
    /// Held while running.
    pub slot: Option<SlotId>,
    pub table: BlockTable,
    /// Positions submitted to the device since the slot started.
    pub submitted: u32,
    /// Prompt positions that were in the cache when the sequence first started.
    pub prompt_tokens_cached: u32,
    /// The last step with rows of this sequence.
    pub last_step: u64,
    /// Tokens being sampled by steps in flight.
    pub pending: u32,
    /// The next batch with this sequence must start its slot.
    pub needs_start: bool,
    pub times: Times,
}

/// When things happened.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub added: Instant,
    pub first_submitted: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
}

impl Sequence {
    pub fn new(id: SeqId, request: Request, max_tokens: u32) -> Sequence {
        let times = Times { added: Instant::now(), first_submitted: None, first_token: None, last_token: None };
        Sequence {
            id,
            request,
            output_ids: Vec::new(),
            max_tokens,
            slot: None,
            table: BlockTable::default(),
            submitted: 0,
            prompt_tokens_cached: 0,
            last_step: 0,
            pending: 0,
            needs_start: true,
            times,
        }
    }

    /// Tokens that the host knows.
    pub fn known(&self) -> u32 {
        (self.request.prompt_ids.len() + self.output_ids.len()) as u32
    }

    /// Prompt and output so far.
    pub fn ids(&self) -> impl Iterator<Item = TokenId> {
        self.request.prompt_ids.iter().chain(&self.output_ids).copied()
    }

    /// Positions that can be submitted now: what is known and not submitted, or the token in flight.
    pub fn ready_rows(&self) -> u32 {
        if self.output_ids.len() as u32 + self.pending >= self.max_tokens {
            return 0;
        }
        self.known() + self.pending - self.submitted
    }

    /// The input of position `position`.
    pub fn input(&self, position: u32) -> InputToken {
        let prompt = &self.request.prompt_ids;
        let position = position as usize;
        match prompt.get(position).or_else(|| self.output_ids.get(position - prompt.len())) {
            Some(id) => InputToken::Id(*id),
            None => InputToken::LastSampled,
        }
    }

    /// Goes on behind the positions in `table`, which are computed.
    pub fn start(&mut self, table: BlockTable, block_tokens: u32) {
        self.submitted = table.blocks().len() as u32 * block_tokens;
        self.table = table;
        if self.times.first_submitted.is_none() {
            self.prompt_tokens_cached = self.submitted;
        }
    }

    /// Back to the start: prompt and output are computed again once there is room.
    pub fn reset(&mut self) {
        self.submitted = 0;
        self.needs_start = true;
    }
}
