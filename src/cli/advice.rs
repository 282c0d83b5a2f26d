//! What to do about an error, in this command line's words. Errors from below name resources; flags have names only here.

use kiln::device::{DeviceError, Dimension, Purpose};
use kiln::engine::EngineError;
use kiln::runtime::RuntimeError;
use kiln::sampling::ParamError;
use kiln::tokenizer::TokenizerError;

use super::CliError;

/// Advice that follows the error's text, if there is any.
pub fn on(error: &CliError) -> Option<String> {
    match error {
        CliError::At { source, .. } => on(source),
        CliError::Device(error) => on_device(error),
        CliError::Tokenizer(error) => on_tokenizer(error),
        CliError::Param(error) => on_param(error),
        CliError::Runtime(error) => on_runtime(error),
        _ => None,
    }
}

fn on_runtime(error: &RuntimeError) -> Option<String> {
    let advice = match error {
        RuntimeError::Device(error) => return on_device(error),
        RuntimeError::Tokenizer(error) => return on_tokenizer(error),
        RuntimeError::Context { .. } => "give another --ctx-size (bench: smaller -p, -n, -d)",
        RuntimeError::Sequences { .. } => "lower --parallel",
        RuntimeError::Thread(_) => {
            "the system's limits allow no more threads or memory: raise them, or lower --threads"
        }
        _ => return on_engine(error.engine_error()?),
    };
    Some(advice.to_owned())
}

fn on_engine(error: &EngineError) -> Option<String> {
    match error {
        EngineError::Param(error) => on_param(error),
        EngineError::PromptTooLong { n_prompt_tokens, .. } => {
            Some(format!("raise --ctx-size above {n_prompt_tokens}, or shorten the prompt"))
        }
        EngineError::NeverFits { .. } => {
            Some("raise --ctx-size or --parallel, or lower --max-tokens or --beams".into())
        }
        EngineError::TooManyBeams { num_beams, .. } => {
            Some(format!("lower --beams, or raise --ubatch-size (and --parallel) to {num_beams}"))
        }
        EngineError::Device(error) | EngineError::Lost { source: error, .. } => on_device(error),
        _ => None,
    }
}

fn on_device(error: &DeviceError) -> Option<String> {
    match error {
        DeviceError::NoGpu { .. } => Some("--device cpu runs the model without one".to_owned()),
        DeviceError::Threads { .. } => Some("lower --threads, or raise the system's limits".to_owned()),
        DeviceError::Limit { .. } => Some("lower --ctx-size, --parallel or --ubatch-size".to_owned()),
        DeviceError::OutOfMemory { purpose, .. } => {
            let flags: Vec<&str> = purpose.grows_with().iter().map(|dimension| less_of(*dimension)).collect();
            let int8 = (*purpose == Purpose::KvArena).then_some("--kv-cache-dtype int8");
            let all: Vec<&str> = flags.into_iter().chain(int8).collect();
            (!all.is_empty()).then(|| format!("take {}", all.join(", or ")))
        }
        _ => None,
    }
}

fn less_of(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Model => "a smaller model or format, or another --device",
        Dimension::Context => "a smaller --ctx-size (bench: -p, -n, -d; perplexity: --ctx)",
        Dimension::Sequences => "a smaller --parallel (run: --n, --best-of, --beams)",
        Dimension::StepRows | Dimension::LogitRows => "a smaller --ubatch-size",
        Dimension::Threads => "a smaller --threads",
    }
}

fn on_tokenizer(error: &TokenizerError) -> Option<String> {
    match error {
        TokenizerError::NoChatTemplate { .. } | TokenizerError::Template(_) => {
            Some("kiln run --raw takes the prompt as it is".to_owned())
        }
        _ => None,
    }
}

/// The flag of a parameter, which has the name that requests give it.
fn on_param(error: &ParamError) -> Option<String> {
    let flag = match error.name {
        "num_beams" => "beams",
        "num_return" => "n",
        "stop_token_ids" => "stop-token-id",
        "n" | "best_of" | "temperature" | "top_k" | "top_p" | "min_p" | "presence_penalty" | "frequency_penalty"
        | "repetition_penalty" | "logit_bias" | "max_tokens" | "min_tokens" | "stop" | "seed" | "logprobs"
        | "length_penalty" => error.name,
        _ => return None,
    };
    Some(format!("see --{} in `kiln run --help`", flag.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_flag_of_what_ran_out() {
        let engine = |error: EngineError| CliError::Runtime(RuntimeError::Engine(error));
        let param = ParamError { name: "stop_token_ids", expected: String::new(), found: String::new() };
        let cases = [
            (
                engine(EngineError::PromptTooLong { n_prompt_tokens: 99, n_prompt_tokens_max: 15 }),
                "--ctx-size above 99",
            ),
            (engine(EngineError::TooManyBeams { num_beams: 5, most: 4 }), "--ubatch-size"),
            (engine(EngineError::Param(param.clone())), "--stop-token-id"),
            (CliError::Param(param), "--stop-token-id"),
            (CliError::Runtime(RuntimeError::Sequences { asked: 2000, limit: 1024 }), "--parallel"),
            (CliError::Runtime(RuntimeError::Context { asked: 1, limit: 9 }).at("line 7"), "--ctx-size"),
            (
                CliError::Device(DeviceError::OutOfMemory {
                    purpose: kiln::device::Purpose::KvArena,
                    asked_bytes: 9,
                    free_bytes: None,
                    reason: String::new(),
                }),
                "--ctx-size",
            ),
            (CliError::Device(DeviceError::NoGpu { reason: String::new() }), "--device cpu"),
        ];
        for (error, words) in cases {
            assert!(on(&error).is_some_and(|advice| advice.contains(words)), "{error}: {words}");
        }
        assert_eq!(on(&CliError::usage("nothing to add")), None);
    }
}
