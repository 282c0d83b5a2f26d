//! What a sequence took.

use super::sequence::Sequence;
use crate::sampling::SequenceMetrics;

pub(super) fn metrics_of(seq: &Sequence, context_tokens_max: u32) -> SequenceMetrics {
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
