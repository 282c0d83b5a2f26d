//! What a generation took.

use kiln::runtime::Runtime;
use kiln::text::Generation;

use crate::cli::streams::say;

/// Prints the statistics of a generation.
pub fn print(runtime: &Runtime, generation: &Generation) {
    let t = &generation.timings;
    let m = &generation.memory;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(format_args!(
        "\n{}\n\
         time to first token   {:.1} ms ({} prompt tokens, {:.0} tokens/s)\n\
         time per output token {:.2} ms ({} tokens, {:.1} tokens/s)\n\
         memory                {:.1} MiB weights, {:.1} MiB KV arena, {:.1} MiB workspace\n\
         context               {} of {} tokens\n\
         finish                {}{}{}",
        runtime.facts().device_name,
        t.time_to_first_token_ms,
        t.prompt_tokens,
        t.prompt_tokens_per_s,
        t.time_per_output_token_ms,
        t.output_tokens,
        t.output_tokens_per_s,
        mib(m.weights_bytes),
        mib(m.kv_arena_bytes),
        mib(m.workspace_bytes),
        t.context_tokens_used,
        t.context_tokens_max,
        generation.finish_reason.name(),
        generation.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default(),
        generation.sum_logprob.map(|sum| format!(", log-probability {sum:.4}")).unwrap_or_default(),
    ));
}
