//! OpenAI's bodies of `/v1/completions` and `/v1/chat/completions`: requests become what the runtime generates, and answers become
//! JSON again. No transport. Fields that are not supported are refused by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::ids::TokenId;
use crate::sampling::beam::{BeamParams, EarlyStopping};
use crate::sampling::{Answers, FinishReason, GenerateRequest, SamplingParams};
use crate::tokenizer::{AddSpecial, EncodeOptions, GenerationPrompt, Message, ParseSpecial, SpecialText, Tokenizer};

use super::{Generation, Refusal, TextModel, TokenLogprob};

/// Tokens that a completion has at most if its request does not say.
const COMPLETION_TOKENS: u32 = 16;

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
    model: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<TokenId>),
    ManyIds(Vec<Vec<TokenId>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct ChatMessage {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Part {
    Text { text: String },
}

/// A body's fields that nobody has asked for yet.
struct Fields(Map<String, Value>);

impl Fields {
    /// A field's value; null is as good as absent.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| Refusal::bad_request(name.to_owned(), format!("{name}: {error}"))),
        }
    }

    fn take_or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T, Refusal> {
        Ok(self.take(name)?.unwrap_or(default))
    }

    /// Refuses what is left, but for what changes nothing.
    fn finish(mut self) -> Result<(), Refusal> {
        for (name, harmless) in [("stream", Value::Bool(false)), ("echo", Value::Bool(false))] {
            if self.0.get(name) == Some(&harmless) {
                self.0.remove(name);
            }
        }
        self.0.remove("user");
        match self.0.into_iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(Refusal::bad_request(name.clone(), format!("{name} is not supported"))),
            None => Ok(()),
        }
    }
}

/// Understands a request's body.
pub fn parse(endpoint: Endpoint, body: Value, model: &TextModel) -> Result<ApiRequest, Refusal> {
    let Value::Object(fields) = body else { return Err(Refusal::bad_request(None, "the body is no JSON object")) };
    let mut fields = Fields(fields);
    let served_name = fields.take_or("model", Value::Null)?;
    let prompts = match endpoint {
        Endpoint::Completions => completion_prompts(&mut fields, model.tokenizer())?,
        Endpoint::ChatCompletions => vec![chat_prompt(&mut fields, model)?],
    };
    if prompts.is_empty() {
        return Err(missing("prompt"));
    }
    let params = sampling_params(&mut fields, endpoint)?;
    let answers = answers(&mut fields)?;
    fields.finish()?;
    let request = |prompt_ids| GenerateRequest { prompt_ids, params: params.clone(), answers: answers.clone() };
    Ok(ApiRequest { endpoint, prompts: prompts.into_iter().map(request).collect(), model: served_name })
}

fn missing(name: &str) -> Refusal {
    Refusal::bad_request(name.to_owned(), format!("{name} is missing"))
}

fn completion_prompts(fields: &mut Fields, tokenizer: &Tokenizer) -> Result<Vec<Vec<TokenId>>, Refusal> {
    let encode = |text: &String| {
        let ids = tokenizer.encode(text, COMPLETION_PROMPT);
        ids.map_err(|error| Refusal::bad_request("prompt".to_owned(), error.to_string()))
    };
    match fields.take("prompt")?.ok_or_else(|| missing("prompt"))? {
        Prompts::Text(text) => Ok(vec![encode(&text)?]),
        Prompts::Texts(texts) => texts.iter().map(encode).collect(),
        Prompts::Ids(ids) => Ok(vec![ids]),
        Prompts::ManyIds(prompts) => Ok(prompts),
    }
}

fn chat_prompt(fields: &mut Fields, model: &TextModel) -> Result<Vec<TokenId>, Refusal> {
    let messages: Vec<ChatMessage> = fields.take("messages")?.ok_or_else(|| missing("messages"))?;
    let message = |ChatMessage { role, content }| match content {
        Content::Text(text) => Message::new(role, text),
        Content::Parts(parts) => {
            Message::new(role, parts.into_iter().map(|Part::Text { text }| text).collect::<String>())
        }
    };
    let messages: Vec<Message> = messages.into_iter().map(message).collect();
    let refused = |error: String| Refusal::bad_request("messages".to_owned(), error);
    let template = model.chat_template().map_err(|error| refused(error.to_string()))?;
    let text = template.render(&messages, GenerationPrompt::Add).map_err(|error| refused(error.to_string()))?;
    model.tokenizer().encode(&text, EncodeOptions::PROMPT).map_err(|error| refused(error.to_string()))
}

fn sampling_params(fields: &mut Fields, endpoint: Endpoint) -> Result<SamplingParams, Refusal> {
    let default = SamplingParams::default();
    let (max_tokens, logprobs) = match endpoint {
        Endpoint::Completions => (Some(fields.take_or("max_tokens", COMPLETION_TOKENS)?), fields.take("logprobs")?),
        Endpoint::ChatCompletions => {
            let top = fields.take_or("top_logprobs", 0)?;
            let max_tokens = fields.take("max_tokens")?;
            let wants_logprobs = fields.take_or("logprobs", false)?;
            (fields.take("max_completion_tokens")?.or(max_tokens), wants_logprobs.then_some(top))
        }
    };
    let biases: BTreeMap<String, f32> = fields.take_or("logit_bias", BTreeMap::new())?;
    let bias = |(id, bias): (String, f32)| match id.parse() {
        Ok(id) => Ok((TokenId(id), bias)),
        Err(_) => Err(Refusal::bad_request("logit_bias".to_owned(), format!("logit_bias: {id:?} is no token id"))),
    };
    let stop = match fields.take("stop")? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    };
    Ok(SamplingParams {
        temperature: fields.take_or("temperature", default.temperature)?,
        top_k: fields.take_or("top_k", default.top_k)?,
        top_p: fields.take_or("top_p", default.top_p)?,
        min_p: fields.take_or("min_p", default.min_p)?,
        presence_penalty: fields.take_or("presence_penalty", default.presence_penalty)?,
        frequency_penalty: fields.take_or("frequency_penalty", default.frequency_penalty)?,
        repetition_penalty: fields.take_or("repetition_penalty", default.repetition_penalty)?,
        penalise_prompt: false,
        logit_bias: biases.into_iter().map(bias).collect::<Result<_, _>>()?,
        max_tokens,
        min_tokens: fields.take_or("min_tokens", default.min_tokens)?,
        stop,
        stop_token_ids: fields.take_or("stop_token_ids", Vec::new())?,
        ignore_eos: fields.take_or("ignore_eos", default.ignore_eos)?,
        seed: fields.take("seed")?,
        logprobs,
    })
}

fn answers(fields: &mut Fields) -> Result<Answers, Refusal> {
    let n = fields.take_or("n", 1)?;
    let best_of = fields.take_or("best_of", n)?;
    if !fields.take_or("use_beam_search", false)? {
        return Ok(Answers::Sampled { n, best_of });
    }
    let early_stopping = match fields.take_or("early_stopping", Value::from("never"))? {
        Value::Bool(true) => EarlyStopping::First,
        Value::Bool(false) => EarlyStopping::Likely,
        Value::String(never) if never == "never" => EarlyStopping::Never,
        found => {
            let message = format!("early_stopping: expected true, false or \"never\", found {found}");
            return Err(Refusal::bad_request("early_stopping".to_owned(), message));
        }
    };
    let length_penalty = fields.take_or("length_penalty", 0.0)?;
    Ok(Answers::Beams(BeamParams { num_beams: best_of, num_return: n, length_penalty, early_stopping }))
}

/// The response to a request: `answers[p]` are those to prompt `p`. `id` names it, `created` is in seconds since 1970.
pub fn response(
    request: &ApiRequest,
    answers: &[Vec<Generation>],
    tokenizer: &Tokenizer,
    id: &str,
    created: u64,
) -> Value {
    let choices = (0..).zip(answers.iter().flatten());
    let (object, choices): (&str, Vec<Value>) = match request.endpoint {
        Endpoint::Completions => {
            ("text_completion", choices.map(|(i, g)| completion_choice(i, g, tokenizer)).collect())
        }
        Endpoint::ChatCompletions => ("chat.completion", choices.map(|(i, g)| chat_choice(i, g, tokenizer)).collect()),
    };
    let prompt_tokens: usize = request.prompts.iter().map(|prompt| prompt.prompt_ids.len()).sum();
    let completion_tokens: usize = answers.iter().flatten().map(|generation| generation.output_ids.len()).sum();
    let cached = |answers: &Vec<Generation>| answers.iter().map(|g| g.timings.prompt_tokens_cached).min().unwrap_or(0);
    json!({
        "id": id,
        "object": object,
        "created": created,
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": answers.iter().map(cached).sum::<u32>()},
        },
    })
}

fn finish_reason(generation: &Generation) -> &'static str {
    match generation.finish_reason {
        FinishReason::Cancelled => FinishReason::EndOfSequence.name(),
        reason => reason.name(),
    }
}

fn token_text(tokenizer: &Tokenizer, id: TokenId) -> String {
    tokenizer.decode(&[id], SpecialText::Keep)
}

fn completion_choice(index: u32, generation: &Generation, tokenizer: &Tokenizer) -> Value {
    let logprobs = generation.logprobs.as_ref().map(|tokens| {
        let texts: Vec<String> = tokens.iter().map(|token| token_text(tokenizer, token.id)).collect();
        let offsets = texts.iter().scan(0, |at, text| Some(std::mem::replace(at, *at + text.chars().count())));
        let top = |token: &TokenLogprob| -> Map<String, Value> {
            token.top.iter().map(|&(id, logprob)| (token_text(tokenizer, id), Value::from(logprob))).collect()
        };
        json!({
            "text_offset": offsets.collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
            "tokens": texts,
        })
    });
    json!({
        "text": generation.text,
        "index": index,
        "logprobs": logprobs,
        "finish_reason": finish_reason(generation),
    })
}

fn chat_choice(index: u32, generation: &Generation, tokenizer: &Tokenizer) -> Value {
    let entry = |id: TokenId, logprob: f32| json!({"token": token_text(tokenizer, id), "logprob": logprob, "bytes": tokenizer.token_bytes(id)});
    let content = |token: &TokenLogprob| {
        let mut object = entry(token.id, token.logprob);
        object["top_logprobs"] = token.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
        object
    };
    let logprobs =
        generation.logprobs.as_ref().map(|tokens| json!({"content": tokens.iter().map(content).collect::<Vec<_>>()}));
    json!({
        "index": index,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": logprobs,
        "finish_reason": finish_reason(generation),
    })
}
