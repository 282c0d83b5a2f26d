//! One request on its way through the engine.

use std::borrow::Cow;
use std::time::Instant;

use crate::device::InputToken;
use crate::ids::{SeqId, SlotId, TokenId};
use crate::kv::BlockTable;
use crate::sampling::beam::{BeamParams, BeamSearch};
use crate::sampling::{FinishReason, SamplingParams};

use super::Admitted;

/// What to generate from.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub prompt_ids: Vec<TokenId>,
    pub params: SamplingParams,
    /// The seed to draw with; `params.seed` has been resolved into it.
    pub seed: u64,
    /// Which of several answers to one prompt this is: with the seed, it fixes the draws.
    pub choice_index: u32,
    /// Search for the best continuations in place of choosing one token after the other.
    pub beams: Option<BeamParams>,
}

impl Request {
    /// One answer, without beams.
    pub fn new(prompt_ids: Vec<TokenId>, params: SamplingParams, seed: u64) -> Request {
        Request { prompt_ids, params, seed, choice_index: 0, beams: None }
    }

    /// Live beams at most, each with a slot and blocks of its own; 1 without beams.
    pub fn lanes_max(&self) -> u32 {
        self.beams.as_ref().map_or(1, |beams| beams.num_beams)
    }

    /// Why a token ends the output, if it does. `end_ids` are the model's own.
    pub fn end_of(&self, id: TokenId, end_ids: &[TokenId]) -> Option<FinishReason> {
        if !self.params.ignore_eos && end_ids.contains(&id) {
            Some(FinishReason::EndOfSequence)
        } else if self.params.stop_token_ids.contains(&id) {
            Some(FinishReason::StopToken)
        } else {
            None
        }
    }

    /// The ids that end the output.
    pub fn ends(&self, end_ids: &[TokenId]) -> Vec<TokenId> {
        let all = end_ids.iter().chain(&self.params.stop_token_ids).copied();
        all.filter(|&id| self.end_of(id, end_ids).is_some()).collect()
    }
}

/// A request in the engine.
///
/// It has one *lane*, and with beams one for every live beam once the prompt is computed. Lanes are at the same position always,
/// run in the same steps, and are admitted, preempted and ended together.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub id: SeqId,
    pub request: Request,
    /// Without beams.
    pub output_ids: Vec<TokenId>,
    /// With beams: their tokens.
    pub search: Option<BeamSearch>,
    /// Output tokens at most, from the request and the context.
    pub max_tokens: u32,
    /// Held while running: one for every lane that there can be.
    pub slots: Vec<Slot>,
    /// The lanes' blocks, while running.
    pub tables: Vec<BlockTable>,
    /// Positions of each lane submitted to the device since the sequence started.
    pub submitted: u32,
    /// Prompt positions that were in the cache when the sequence first started.
    pub prompt_tokens_cached: u32,
    /// The last step with rows of this sequence.
    pub last_step: u64,
    /// Tokens being sampled by steps in flight; of beams, steps whose candidates are awaited.
    pub pending: u32,
    pub times: Times,
}

/// A device's slot that a sequence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub id: SlotId,
    /// The next batch with this slot's lane must start it.
    pub needs_start: bool,
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
    /// `end_ids` end a sequence of this model.
    pub fn new(id: SeqId, admitted: Admitted, end_ids: &[TokenId]) -> Sequence {
        let Admitted { request, max_tokens } = admitted;
        let search = request.beams.clone().map(|beams| BeamSearch::new(beams, request.ends(end_ids), max_tokens));
        let times = Times { added: Instant::now(), first_submitted: None, first_token: None, last_token: None };
        Sequence {
            id,
            request,
            output_ids: Vec::new(),
            search,
            max_tokens,
            slots: Vec::new(),
            tables: Vec::new(),
            submitted: 0,
            prompt_tokens_cached: 0,
            last_step: 0,
            pending: 0,
            times,
        }
    }

    /// Output tokens of every lane that the host knows.
    pub fn output_tokens(&self) -> u32 {
        self.search.as_ref().map_or(self.output_ids.len() as u32, BeamSearch::length)
    }

    /// Tokens of every lane that the host knows.
    pub fn known(&self) -> u32 {
        self.request.prompt_ids.len() as u32 + self.output_tokens()
    }

    /// Tokens of a lane at most, prompt and output. The last one is never computed.
    pub fn tokens_max(&self) -> u32 {
        self.request.prompt_ids.len() as u32 + self.max_tokens
    }

    /// A lane's output so far.
    pub fn output(&self, lane: usize) -> Cow<'_, [TokenId]> {
        match &self.search {
            Some(search) => Cow::Owned(search.live_ids(lane)),
            None => Cow::Borrowed(&self.output_ids),
        }
    }

    /// Positions of each lane that can be submitted now: what is known and not submitted, or the token in flight. Which beams
    /// go on is known only when all their candidates are.
    pub fn ready_rows(&self) -> u32 {
        let waits_for_candidates = self.search.is_some() && self.pending > 0;
        if waits_for_candidates || self.output_tokens() + self.pending >= self.max_tokens {
            return 0;
        }
        self.known() + self.pending - self.submitted
    }

    /// The input of position `position` of a lane with this output.
    pub fn input(&self, output: &[TokenId], position: u32) -> InputToken {
        let prompt = &self.request.prompt_ids;
        let position = position as usize;
        match prompt.get(position).or_else(|| output.get(position - prompt.len())) {
            Some(id) => InputToken::Id(*id),
            None => InputToken::LastSampled,
        }
    }

    /// Takes up its slots and goes on behind the positions in `table`, which are computed.
    pub fn start(&mut self, slots: impl Iterator<Item = SlotId>, table: BlockTable, block_tokens: u32) {
        self.slots = slots.map(|id| Slot { id, needs_start: true }).collect();
        self.submitted = table.blocks().len() as u32 * block_tokens;
        self.tables = vec![table];
        if self.times.first_submitted.is_none() {
            self.prompt_tokens_cached = self.submitted;
        }
    }

    /// Back to the start: prompt and output are computed again once there is room. Beams are searched again from the prompt, with
    /// the same results; the candidates in flight are of no use any more.
    pub fn reset(&mut self) {
        self.submitted = 0;
        if let Some(search) = &mut self.search {
            search.restart();
            self.pending = 0;
        }
    }

    /// The live beams go on: slots whose counts matter start again with the beam that is theirs now.
    pub fn restart_slots(&mut self) {
        let params = &self.request.params;
        let has_counts = params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        self.slots.iter_mut().for_each(|slot| slot.needs_start |= has_counts);
    }
}
