//! What a shared prompt saves: a later request computes only what the cache does not hold.

use crate::common;
use kiln::ids::TokenId;
use kiln::runtime::{Control, DeviceChoice, Runtime, RuntimeOptions};
use kiln::sampling::{Answers, GenerateRequest, SamplingParams};

const SHARED_TOKENS: u32 = 2000;
const BLOCK_TOKENS: u32 = 16;

/// SmolLM2, a system prompt of 2,000 tokens and two questions: the second one's first token comes at least ten times sooner.
#[test]
fn the_second_request_on_a_shared_prompt_starts_ten_times_sooner() {
    let options = RuntimeOptions { device: DeviceChoice::Cpu, context_tokens: Some(2100), ..RuntimeOptions::default() };
    let runtime = Runtime::open(&common::smollm2_path(), &options).unwrap();
    let timings = |question: u32| {
        let shared = (0..SHARED_TOKENS).map(|i| TokenId(100 + i * 31 % 40_000));
        let prompt_ids = shared.chain((0..10).map(|i| TokenId(100 + question * 1000 + i))).collect();
        let params = SamplingParams { max_tokens: Some(4), temperature: 0.0, ..SamplingParams::default() };
        let request = GenerateRequest { prompt_ids, params, answers: Answers::ONE };
        runtime.generate(request, &mut |_| Control::Continue).unwrap().remove(0).timings
    };
    let (first, second) = (timings(1), timings(2));
    assert_eq!(first.prompt_tokens_cached, 0);
    assert_eq!(second.prompt_tokens_cached, SHARED_TOKENS / BLOCK_TOKENS * BLOCK_TOKENS);
    let (first_ms, second_ms) = (first.time_to_first_token_ms, second.time_to_first_token_ms);
    println!("time to first token: {first_ms:.1} ms, then {second_ms:.1} ms: {:.1} times sooner", first_ms / second_ms);
    assert!(second_ms > 0.0 && first_ms >= 10.0 * second_ms, "{first_ms} ms, then {second_ms} ms");
}
