//! OpenAI's bodies of `/v1/completions` and `/v1/chat/completions`: requests become what an engine generates, and answers become
//! JSON again. No transport.
//!
//! Every field is *understood*, *harmless* (it changes no output), *neutral* (unsupported, at a value that changes nothing), a *hint*
//! (honoured where the model can), or refused by its path. What is accepted without effect is named in [`ApiRequest::ignored`].

mod chat;
mod fields;
mod logprobs;
mod response;

use serde_json::{Map, Value, json};

use crate::ids::TokenId;
use crate::sampling::beam::{BeamParams, EarlyStopping};
use crate::sampling::{Answers, GenerateRequest, LOGPROBS_MAX, SamplingParams};
use crate::tokenizer::{AddSpecial, EncodeOptions, ParseSpecial, Tokenizer};

use super::{Refusal, TextModel};
use fields::{Fields, FromJson, Seed, read, unexpected};
pub use response::response;

/// Tokens that a completion has at most if its request does not say.
const COMPLETION_TOKENS: u32 = 16;

/// Prompts of one completion request.
const PROMPTS_MAX: usize = 128;

const COMPLETION_PROMPT: EncodeOptions =
    EncodeOptions { add_special: AddSpecial::Yes, parse_special: ParseSpecial::Yes };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Completions,
    ChatCompletions,
}

impl Endpoint {
    /// The endpoint at a path such as `/v1/completions`.
    pub fn at(path: &str) -> Option<Endpoint> {
        match path {
            "/v1/completions" => Some(Endpoint::Completions),
            "/v1/chat/completions" => Some(Endpoint::ChatCompletions),
            _ => None,
        }
    }
}

/// `{"error": {"message", "type", "param", "code"}}`.
pub fn error_body(refusal: &Refusal) -> Value {
    let Refusal { status, message, param, code } = refusal;
    let kind = if *status < 500 { "invalid_request_error" } else { "server_error" };
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// A request understood.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub endpoint: Endpoint,
    /// One for each prompt.
    pub prompts: Vec<GenerateRequest>,
    /// Paths of fields that were accepted and have no effect, in the body's order.
    pub ignored: Vec<String>,
    /// The model's name as the client gave it.
    model: Option<String>,
}

/// Whether a field of a body changes no output.
fn is_harmless(name: &str) -> bool {
    let names = [
        "user",
        "metadata",
        "request_id",
        "session_id",
        "service_tier",
        "safety_identifier",
        "client_metadata",
        "cache_control",
        "keep_alive",
        "store",
    ];
    names.contains(&name) || name.starts_with("prompt_cache_")
}

/// Understands a request's body.
///
/// # Errors
/// The first field at fault, by its path.
pub fn parse(endpoint: Endpoint, body: Value, model: &TextModel) -> Result<ApiRequest, Refusal> {
    let mut fields = Fields::of("", body)?;
    let name = fields.take("model")?;
    let mut ignored = fields.take_harmless(is_harmless);
    let params = sampling_params(&mut fields, endpoint)?;
    let answers = answers(&mut fields)?;
    take_neutral(&mut fields)?;
    let prompts = match endpoint {
        Endpoint::Completions => completion_prompts(&mut fields, model.tokenizer())?,
        Endpoint::ChatCompletions => vec![chat::prompt(&mut fields, model, &mut ignored)?],
    };
    fields.finish()?;
    let request = |prompt_ids| GenerateRequest { prompt_ids, params: params.clone(), answers: answers.clone() };
    Ok(ApiRequest { endpoint, prompts: prompts.into_iter().map(request).collect(), ignored, model: name })
}

/// Fields that routers and clients write into every body, at values that change nothing.
fn take_neutral(fields: &mut Fields) -> Result<(), Refusal> {
    let (no, yes): (&[Value], &[Value]) = (&[json!(false)], &[json!(true)]);
    fields.take_neutral(&[
        ("stream", no),
        ("stream_options", &[json!({}), json!({"include_usage": false}), json!({"include_usage": true})]),
        ("echo", no),
        ("suffix", &[json!("")]),
        ("include_stop_str_in_output", no),
        ("skip_special_tokens", yes),
        ("spaces_between_special_tokens", yes),
        ("prompt_logprobs", &[]),
        ("return_token_ids", no),
        ("return_hidden_states", no),
        ("no_stop_trim", no),
        ("continue_final_message", no),
        ("separate_reasoning", yes),
        ("stream_reasoning", yes),
        ("include_reasoning", yes),
        ("priority", &[json!(0)]),
        ("response_format", &[json!({"type": "text"})]),
        ("structured_outputs", &[]),
        ("modalities", &[json!(["text"])]),
    ])
}

fn completion_prompts(fields: &mut Fields, tokenizer: &Tokenizer) -> Result<Vec<Vec<TokenId>>, Refusal> {
    let path = fields.path("prompt");
    let prompt: Value = fields.require("prompt")?;
    let expected = "a string, strings, token ids or lists of token ids";
    let encode = |text: &str| {
        let ids = tokenizer.encode(text, COMPLETION_PROMPT);
        ids.map_err(|error| Refusal::bad_request(path.clone(), format!("{path}: {error}")))
    };
    let prompts: Vec<Vec<TokenId>> = match &prompt {
        Value::String(text) => vec![encode(text)?],
        Value::Array(elements) => match elements.first() {
            Some(Value::String(_)) => {
                let each = elements
                    .iter()
                    .enumerate()
                    .map(|(i, text)| encode(&read::<String>(&format!("{path}[{i}]"), text)?));
                each.collect::<Result<_, _>>()?
            }
            Some(Value::Number(_)) => vec![read(&path, &prompt)?],
            Some(Value::Array(_)) => {
                let each = elements.iter().enumerate().map(|(i, ids)| read(&format!("{path}[{i}]"), ids));
                each.collect::<Result<_, _>>()?
            }
            _ => return Err(unexpected(&path, expected, &prompt)),
        },
        _ => return Err(unexpected(&path, expected, &prompt)),
    };
    if prompts.len() > PROMPTS_MAX {
        let message = format!("{path}: expected at most {PROMPTS_MAX} prompts, found {}", prompts.len());
        return Err(Refusal::bad_request(path, message));
    }
    Ok(prompts)
}

fn sampling_params(fields: &mut Fields, endpoint: Endpoint) -> Result<SamplingParams, Refusal> {
    let default = SamplingParams::default();
    let max_tokens: Option<u32> = fields.take("max_tokens")?;
    let (max_tokens, logprobs) = match endpoint {
        Endpoint::Completions => (Some(max_tokens.unwrap_or(COMPLETION_TOKENS)), completion_logprobs(fields)?),
        Endpoint::ChatCompletions => (fields.take("max_completion_tokens")?.or(max_tokens), chat_logprobs(fields)?),
    };
    Ok(SamplingParams {
        temperature: fields.take_or("temperature", default.temperature)?,
        top_k: top_k(fields)?,
        top_p: fields.take_or("top_p", default.top_p)?,
        min_p: fields.take_or("min_p", default.min_p)?,
        presence_penalty: fields.take_or("presence_penalty", default.presence_penalty)?,
        frequency_penalty: fields.take_or("frequency_penalty", default.frequency_penalty)?,
        repetition_penalty: fields.take_or("repetition_penalty", default.repetition_penalty)?,
        penalise_prompt: false,
        logit_bias: logit_bias(fields)?,
        max_tokens,
        min_tokens: fields.take_or("min_tokens", default.min_tokens)?,
        stop: stops(fields)?,
        stop_token_ids: fields.take_or("stop_token_ids", Vec::new())?,
        ignore_eos: fields.take_or("ignore_eos", default.ignore_eos)?,
        seed: fields.take::<Seed>("seed")?.map(|seed| seed.0),
        logprobs,
    })
}

/// A number; `false` of chat requests, which routers write everywhere, is none.
fn completion_logprobs(fields: &mut Fields) -> Result<Option<u32>, Refusal> {
    match fields.take::<Value>("logprobs")? {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(value) => read("logprobs", &value).map(Some),
    }
}

fn chat_logprobs(fields: &mut Fields) -> Result<Option<u32>, Refusal> {
    let top: Option<u32> = fields.take("top_logprobs")?;
    let wants_logprobs = fields.take_or("logprobs", false)?;
    let refuse = |message: String| Err(Refusal::bad_request("top_logprobs".to_owned(), message));
    match top {
        Some(top) if top > LOGPROBS_MAX => {
            refuse(format!("top_logprobs: expected at most {LOGPROBS_MAX}, found {top}"))
        }
        Some(top) if top > 0 && !wants_logprobs => {
            refuse(format!("top_logprobs: expected logprobs to be true with it, found {top} without"))
        }
        _ => Ok(wants_logprobs.then(|| top.unwrap_or(0))),
    }
}

/// vLLM's -1 keeps all, as 0 does.
fn top_k(fields: &mut Fields) -> Result<u32, Refusal> {
    match fields.take::<Value>("top_k")? {
        None => Ok(SamplingParams::default().top_k),
        Some(value) if value.as_i64() == Some(-1) => Ok(0),
        Some(value) => u32::from_json(&value).ok_or_else(|| unexpected("top_k", "an integer, -1 or more", &value)),
    }
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, Refusal> {
    let biases: Map<String, Value> = fields.take_or("logit_bias", Map::new())?;
    let bias = |(id, bias): (&String, &Value)| match id.parse() {
        Ok(number) => Ok((TokenId(number), read(&format!("logit_bias.{id}"), bias)?)),
        Err(_) => {
            let message = format!("logit_bias: expected token ids as keys, found {id:?}");
            Err(Refusal::bad_request("logit_bias".to_owned(), message))
        }
    };
    biases.iter().map(bias).collect()
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    match fields.take::<Value>("stop")? {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(texts)) => {
            texts.iter().enumerate().map(|(i, text)| read(&format!("stop[{i}]"), text)).collect()
        }
        Some(found) => Err(unexpected("stop", "a string or strings", &found)),
    }
}

fn answers(fields: &mut Fields) -> Result<Answers, Refusal> {
    let n = fields.take_or("n", 1)?;
    let best_of = fields.take_or("best_of", n)?;
    let length_penalty: Option<f64> = fields.take("length_penalty")?;
    let early_stopping: Option<Value> = fields.take("early_stopping")?;
    if !fields.take_or("use_beam_search", false)? {
        let only_beams = |name: &str, is_neutral: bool| {
            let message = format!("{name}: only with use_beam_search");
            if is_neutral { Ok(()) } else { Err(Refusal::bad_request(name.to_owned(), message)) }
        };
        only_beams("length_penalty", length_penalty.is_none_or(|penalty| penalty == 1.0 || penalty == 0.0))?;
        only_beams("early_stopping", early_stopping.is_none_or(|stopping| stopping == json!(false)))?;
        return Ok(Answers::Sampled { n, best_of });
    }
    let early_stopping = match early_stopping {
        None => EarlyStopping::Never,
        Some(Value::Bool(true)) => EarlyStopping::First,
        Some(Value::Bool(false)) => EarlyStopping::Likely,
        Some(Value::String(never)) if never == "never" => EarlyStopping::Never,
        Some(found) => return Err(unexpected("early_stopping", "true, false or \"never\"", &found)),
    };
    let length_penalty = length_penalty.unwrap_or(0.0);
    Ok(Answers::Beams(BeamParams { num_beams: best_of, num_return: n, length_penalty, early_stopping }))
}
