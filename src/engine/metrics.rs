//! What a sequence took.

use serde::Serialize;

use super::sequence::Sequence;

/// The four numbers of a generation, and what they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SequenceMetrics {
    pub prompt_tokens: u32,
    /// Those whose rows were in the cache already.
    pub prompt_tokens_cached: u32,
    /// With beams, those of the longest.
    pub output_tokens: u32,
    /// From the request's arrival to its first token.
    pub time_to_first_token_ms: f64,
    /// Mean over the tokens after the first; 0 with fewer than two.
    pub time_per_output_token_ms: f64,
    /// Prompt tokens that were computed over the time from submission to the first token.
    pub prompt_tokens_per_s: f64,
    /// Output tokens after the first over their time.
    pub output_tokens_per_s: f64,
    /// Arrival to last token.
    pub total_ms: f64,
    pub context_tokens_used: u32,
    pub context_tokens_max: u32,
}

impl SequenceMetrics {
    pub(super) fn of(seq: &Sequence, context_tokens_max: u32) -> SequenceMetrics {
        let times = &seq.times;
        let seconds = |from, to| match (from, to) {
            (Some(from), Some(to)) => std::time::Instant::duration_since(&to, from).as_secs_f64(),
            _ => 0.0,
        };
        let rate = |count: f64, seconds: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let (prompt, output) = (seq.request.prompt_ids.len() as u32, seq.output_tokens());
        let decode_s = seconds(times.first_token, times.last_token);
        let decoded = f64::from(output.saturating_sub(1));
        SequenceMetrics {
            prompt_tokens: prompt,
            prompt_tokens_cached: seq.prompt_tokens_cached,
            output_tokens: output,
            time_to_first_token_ms: 1e3 * seconds(Some(times.added), times.first_token),
            time_per_output_token_ms: if decoded > 0.0 { 1e3 * decode_s / decoded } else { 0.0 },
            prompt_tokens_per_s: rate(
                f64::from(prompt - seq.prompt_tokens_cached),
                seconds(times.first_submitted, times.first_token),
            ),
            output_tokens_per_s: rate(decoded, decode_s),
            total_ms: 1e3 * seconds(Some(times.added), times.last_token),
            context_tokens_used: prompt + output,
            context_tokens_max,
        }
    }
}
