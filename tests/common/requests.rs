//! Requests of all kinds, and all that comes of them, to the bit.

use std::collections::BTreeMap;

use kiln::engine::{Engine, Event, FinishReason, Request};
use kiln::ids::{SeqId, TokenId};
use kiln::sampling::SamplingParams;

use super::synthetic::Rng;

/// A token, its log-probability's bits and the best alternatives.
pub type Token = (TokenId, Option<u32>, Vec<(TokenId, u32)>);

/// All that a request gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub tokens: Vec<Token>,
    /// Of a beam search, best first: ids, and their log-probabilities' bits.
    pub found: Vec<(Vec<TokenId>, Vec<u32>)>,
    pub reason: Option<FinishReason>,
}

/// The `i`-th of many requests that use every part of sampling, some of them stopping early.
pub fn mixed(i: u32, vocab_size: u32) -> Request {
    let mut rng = Rng(u64::from(i) + 1);
    let id = |rng: &mut Rng| TokenId(rng.below(vocab_size as usize) as u32);
    let prompt_ids = (0..1 + rng.below(50)).map(|_| id(&mut rng)).collect();
    let params = SamplingParams {
        temperature: [0.0, 0.7, 1.0, 1.5][i as usize % 4],
        top_k: [0, 20, 0][i as usize % 3],
        top_p: [1.0, 0.9, 0.97][i as usize % 3],
        min_p: [0.0, 0.02][i as usize % 2],
        presence_penalty: [0.0, 0.5][i as usize / 2 % 2],
        frequency_penalty: [0.0, 0.3, 0.0][i as usize % 3],
        repetition_penalty: [1.0, 1.2][i as usize / 3 % 2],
        penalise_prompt: i.is_multiple_of(5),
        logit_bias: vec![(id(&mut rng), 3.0), (id(&mut rng), -100.0)],
        max_tokens: Some(15 + rng.below(25) as u32),
        min_tokens: i % 3 * 4,
        stop_token_ids: (0..10).map(|_| id(&mut rng)).collect(),
        logprobs: [None, Some(0), Some(3)][i as usize % 3],
        ..SamplingParams::default()
    };
    Request::new(prompt_ids, params, u64::from(i) * 77)
}

/// A request that goes on after what `request` gave.
pub fn following(request: &Request, output: &Output, max_tokens: u32) -> Request {
    let searched = output.found.first().map(|(ids, _)| &ids[..]).unwrap_or_default();
    let generated = output.tokens.iter().map(|(id, ..)| id).chain(searched);
    let prompt_ids = request.prompt_ids.iter().chain(generated).chain([&TokenId(9)]).copied().collect();
    let logprobs = if request.beams.is_some() { request.params.logprobs } else { Some(2) };
    let params = SamplingParams { max_tokens: Some(max_tokens), logprobs, ..request.params.clone() };
    Request { prompt_ids, params, ..request.clone() }
}

/// Outputs in the order of the requests, and how many prompt tokens were in the cache already.
pub fn generate(engine: &mut Engine, requests: impl IntoIterator<Item = Request>) -> (Vec<Output>, u32) {
    let ids: Vec<SeqId> = requests.into_iter().map(|request| engine.add(request).unwrap()).collect();
    let mut outputs: BTreeMap<SeqId, Output> = ids.iter().map(|id| (*id, Output::default())).collect();
    let mut prompt_tokens_cached = 0;
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            let output = outputs.get_mut(&event.seq()).unwrap();
            match event {
                Event::Token { id, logprob, top, .. } => {
                    let top = top.into_iter().map(|(id, logprob)| (id, logprob.to_bits())).collect();
                    output.tokens.push((id, logprob.map(f32::to_bits), top));
                }
                Event::Found { results, .. } => {
                    let bits = |logprobs: Vec<f32>| logprobs.into_iter().map(f32::to_bits).collect();
                    output.found = results.into_iter().map(|found| (found.ids, bits(found.logprobs))).collect();
                }
                Event::Finished { reason, metrics, .. } => {
                    prompt_tokens_cached += metrics.prompt_tokens_cached;
                    output.reason = Some(reason);
                }
                Event::Failed { .. } => panic!("{event:?}"),
            }
        }
    }
    (ids.iter().map(|id| outputs.remove(id).unwrap()).collect(), prompt_tokens_cached)
}
