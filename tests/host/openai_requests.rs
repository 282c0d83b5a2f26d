//! OpenAI's bodies: which fields are understood, refused by path or named as ignored, and how log-probabilities keep their tokens.

use kiln::ids::TokenId;
use kiln::sampling::{Answers, FinishReason, GenerateRequest, SamplingParams, SequenceMetrics};
use kiln::text::openai::{self, ApiRequest, Endpoint, parse};
use kiln::text::{Generation, Refusal, TextModel, TokenLogprob, json};
use kiln::tokenizer::SpecialText;
use kiln::weights::{MetaArray, MetaValue, Metadata};
use serde_json::{Value, json};

/// Tokens: 3 specials, the 256 bytes, then two that spell the same and one of two characters.
fn model(template: &str) -> TextModel {
    let tokens = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = tokens.chain(bytes).chain(["a", "ab"].map(str::to_owned)).collect();
    let types = [2, 3, 3].into_iter().chain([6; 256]).chain([1; 2]).collect();
    let scores = vec![0.0; tokens.len()];
    let metadata = Metadata::from_pairs([
        ("tokenizer.ggml.model", MetaValue::from("llama")),
        ("tokenizer.ggml.tokens", MetaValue::Array(MetaArray::String(tokens.into_iter().collect()))),
        ("tokenizer.ggml.scores", MetaValue::Array(MetaArray::F32(scores))),
        ("tokenizer.ggml.token_type", MetaValue::Array(MetaArray::I32(types))),
        ("tokenizer.ggml.add_space_prefix", MetaValue::from(false)),
        ("tokenizer.chat_template", MetaValue::from(template)),
    ]);
    TextModel::from_metadata(&metadata.unwrap()).unwrap()
}

const PLAIN: &str = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";

fn byte(byte: u8) -> TokenId {
    TokenId(3 + u32::from(byte))
}

const A: TokenId = TokenId(259);
const AB: TokenId = TokenId(260);

fn completion(body: Value) -> Result<ApiRequest, Refusal> {
    parse(Endpoint::Completions, body, &model(PLAIN))
}

fn chat(body: Value) -> Result<ApiRequest, Refusal> {
    parse(Endpoint::ChatCompletions, body, &model(PLAIN))
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn prompt() -> Value {
    json!({"prompt": "x"})
}

fn turn() -> Value {
    json!({"messages": [{"role": "user", "content": "x"}]})
}

/// The prompt's text, without BOS.
fn text_of(request: &ApiRequest) -> String {
    let ids = &request.prompts[0].prompt_ids;
    model(PLAIN).tokenizer().decode(ids, SpecialText::Skip)
}

#[test]
fn wrong_values_are_refused_by_path_in_plain_words() {
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "x"}, message]});
    let part = |part: Value| message(json!({"role": "user", "content": [part]}));
    let call = |call: Value| message(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    let cases = [
        (completion(json!([])), None, "the body: expected an object, found []"),
        (completion(json!({})), Some("prompt"), "prompt: missing"),
        (completion(json!({"prompt": null})), Some("prompt"), "prompt: missing"),
        (completion(json!({"prompt": [1, "x"]})), Some("prompt"), "prompt: expected an array of token ids"),
        (completion(json!({"prompt": ["x", 1]})), Some("prompt[1]"), "prompt[1]: expected a string, found 1"),
        (completion(json!({"prompt": vec!["x"; 129]})), Some("prompt"), "at most 128 prompts, found 129"),
        (
            completion(with(prompt(), "temperature", json!("hot"))),
            Some("temperature"),
            "expected a number, found \"hot\"",
        ),
        (completion(with(prompt(), "max_tokens", json!(-1))), Some("max_tokens"), "expected an integer from 0"),
        (completion(with(prompt(), "max_tokens", json!(1.5))), Some("max_tokens"), "found 1.5"),
        (completion(with(prompt(), "seed", json!(1.5))), Some("seed"), "expected an integer from -9223372036854775808"),
        (completion(with(prompt(), "stop", json!(["x", 7]))), Some("stop[1]"), "expected a string, found 7"),
        (
            completion(with(prompt(), "logit_bias", json!({"x": 1}))),
            Some("logit_bias"),
            "token ids as keys, found \"x\"",
        ),
        (completion(with(prompt(), "logit_bias", json!({"5": "1"}))), Some("logit_bias.5"), "expected a number"),
        (completion(with(prompt(), "top_k", json!(-2))), Some("top_k"), "expected an integer, -1 or more, found -2"),
        (completion(with(prompt(), "temprature", json!(1))), Some("temprature"), "not a field that kiln knows"),
        (completion(with(prompt(), "echo", json!(true))), Some("echo"), "echo: not supported; expected false"),
        (completion(with(prompt(), "stream", json!(true))), Some("stream"), "not supported"),
        (completion(with(prompt(), "length_penalty", json!(0.5))), Some("length_penalty"), "only with use_beam_search"),
        (chat(json!({"messages": []})), Some("messages"), "at least one"),
        (chat(json!({"messages": [7]})), Some("messages[0]"), "messages[0]: expected an object, found 7"),
        (chat(json!({"messages": [{"content": "x"}]})), Some("messages[0].role"), "messages[0].role: missing"),
        (chat(message(json!({"role": "user", "text": "x"}))), Some("messages[1].text"), "not a field"),
        (chat(message(json!({"role": "user", "content": 7}))), Some("messages[1].content"), "a string or parts"),
        (chat(part(json!({"type": "image_url"}))), Some("messages[1].content[0].type"), "expected \"text\""),
        (chat(part(json!({"type": "text"}))), Some("messages[1].content[0].text"), "missing"),
        (chat(call(json!({"type": "custom"}))), Some("messages[1].tool_calls[0].type"), "expected \"function\""),
        (
            chat(call(json!({"function": {"arguments": "{}"}}))),
            Some("messages[1].tool_calls[0].function.name"),
            "missing",
        ),
        (
            chat(call(json!({"function": {"name": "f", "arguments": "{"}}))),
            Some("messages[1].tool_calls[0].function.arguments"),
            "a JSON object, or a string that holds one",
        ),
        (
            chat(with(turn(), "response_format", json!({"type": "json_object"}))),
            Some("response_format"),
            "not supported",
        ),
        (chat(with(turn(), "top_logprobs", json!(2))), Some("top_logprobs"), "expected logprobs to be true"),
        (chat(with(turn(), "tools", json!([{"type": "function"}]))), Some("tools"), "does not read tools"),
        (
            chat(with(turn(), "chat_template_kwargs", json!({"messages": []}))),
            Some("chat_template_kwargs.messages"),
            "field of its own",
        ),
    ];
    for (result, param, message) in cases {
        let refusal = result.unwrap_err();
        assert_eq!((refusal.status, refusal.param.as_deref()), (400, param), "{refusal:?}");
        assert!(refusal.message.contains(message), "no {message:?} in {:?}", refusal.message);
        assert!(!refusal.message.contains("variant") && !refusal.message.contains("line 1"), "{}", refusal.message);
    }
}

/// What vllm-router and smg write into every body, and null, are as good as absent.
#[test]
fn neutral_values_pass_and_harmless_fields_are_named() {
    let bare = chat(turn()).unwrap();
    let mut body = turn();
    for (name, value) in [
        ("logprobs", json!(false)),
        ("ignore_eos", json!(false)),
        ("skip_special_tokens", json!(true)),
        ("no_stop_trim", json!(false)),
        ("continue_final_message", json!(false)),
        ("separate_reasoning", json!(true)),
        ("stream_reasoning", json!(true)),
        ("include_reasoning", json!(true)),
        ("return_hidden_states", json!(false)),
        ("temperature", json!(1.0)),
        ("priority", json!(0)),
        ("top_k", json!(-1)),
        ("min_p", json!(0.0)),
        ("repetition_penalty", json!(1.0)),
        ("stream", json!(false)),
        ("response_format", json!({"type": "text"})),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("stop", json!(null)),
        ("anything", json!(null)),
        ("n", json!(1.0)),
    ] {
        body[name] = value;
    }
    let routed = chat(body.clone()).unwrap();
    assert_eq!((&routed.prompts, routed.ignored.len()), (&bare.prompts, 0), "{:?}", routed.ignored);
    for (name, value) in [
        ("user", json!("u")),
        ("metadata", json!({"a": 1})),
        ("prompt_cache_key", json!("k")),
        ("reasoning_effort", json!("high")),
        ("verbosity", json!("low")),
        ("chat_template_kwargs", json!({"enable_thinking": true})),
    ] {
        body[name] = value;
    }
    body["messages"][0]["cache_control"] = json!({"type": "ephemeral"});
    let named = chat(body).unwrap();
    assert_eq!(named.prompts, bare.prompts);
    let mut ignored = named.ignored;
    ignored.sort();
    let want = [
        "chat_template_kwargs.enable_thinking",
        "messages[0].cache_control",
        "metadata",
        "prompt_cache_key",
        "reasoning_effort",
        "user",
        "verbosity",
    ];
    assert_eq!(ignored, want);
}

#[test]
fn signed_and_unsigned_seeds_are_the_same_bits() {
    let seed = |value: Value| completion(with(prompt(), "seed", value)).unwrap().prompts[0].params.seed;
    assert_eq!(seed(json!(-1)), Some(u64::MAX));
    assert_eq!(seed(json!(i64::MIN)), Some(1 << 63));
    assert_eq!(seed(json!(u64::MAX)), Some(u64::MAX));
    assert_eq!(seed(json!(7)), Some(7));
}

#[test]
fn message_fields_reach_the_template() {
    let template = "{% for m in messages %}<{{ m.role }}|{{ m.name }}|{{ m.content }}|{{ m.reasoning_content }}|\
                    {{ m.tool_call_id }}|{% for c in m.tool_calls %}{{ c.id }}={{ c.function.name }}({{ c.function.arguments.x }})\
                    {% endfor %}>{% endfor %}{% if enable_thinking %}T{% endif %}{% for t in tools %}{{ t.function.name }}{% endfor %}";
    let body = json!({
        "messages": [
            {"role": "developer", "content": "S"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 5}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "7"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "reasoning_effort": "low",
    });
    let request = parse(Endpoint::ChatCompletions, body, &model(template)).unwrap();
    let want = "<system||S|||><user|ann|ab|||><assistant|||hm||c1=f(5)><tool|f|7||c1|>Tf";
    assert_eq!(text_of(&request), want);
    assert_eq!(request.ignored, ["tool_choice"], "calls stay text");
}

/// A generation of these tokens, each with alternatives.
fn generation(text: &str, tokens: Vec<TokenLogprob>) -> Generation {
    Generation {
        prompt_ids: Vec::new(),
        output_ids: tokens.iter().map(|token| token.id).collect(),
        text: text.to_owned(),
        finish_reason: FinishReason::Length,
        logprobs: Some(tokens),
        sum_logprob: None,
        score: None,
        seed: None,
        index: 0,
        timings: SequenceMetrics::default(),
        memory: Default::default(),
    }
}

fn token(id: TokenId, logprob: f32, top: &[(TokenId, f32)]) -> TokenLogprob {
    TokenLogprob { id, logprob, top: top.to_vec() }
}

fn answer(endpoint: Endpoint, generation: Generation) -> Value {
    let model = model(PLAIN);
    let body = if endpoint == Endpoint::Completions { prompt() } else { turn() };
    let request = parse(endpoint, body, &model).unwrap();
    openai::response(&request, &[vec![generation]], model.tokenizer(), "id", 0)["choices"][0].clone()
}

#[test]
fn log_probabilities_of_completions_belong_to_tokens() {
    // "é" in two bytes, then a token whose text another one has as well, then the beginning of a stop string that was cut off.
    let tokens = vec![
        token(byte(0xc3), -0.5, &[(byte(0xc3), -0.5), (byte(0xc4), -1.5), (byte(0xc5), -2.5)]),
        token(byte(0xa9), -0.25, &[(byte(0xa9), -0.25)]),
        token(A, -3.0, &[(byte(b'a'), -1.0), (byte(b'b'), -2.0)]),
        token(byte(b'b'), -1.0, &[(A, -0.5), (byte(b'a'), -0.75)]),
        token(AB, -0.125, &[(AB, -0.125)]),
    ];
    let choice = answer(Endpoint::Completions, generation("éab", tokens));
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["bytes:\\xc3", "bytes:\\xa9", "a", "b", "ab"]));
    assert_eq!(logprobs["text_offset"], json!([0, 0, 1, 2, 3]), "no offset beyond the text");
    let top = &logprobs["top_logprobs"];
    assert_eq!(top[0], json!({"bytes:\\xc3": -0.5, "bytes:\\xc4": -1.5, "bytes:\\xc5": -2.5}));
    assert_eq!(top[2], json!({"a": -3.0, "b": -2.0}), "the chosen token keeps its name");
    assert_eq!(top[3], json!({"b": -1.0, "a": -0.5}), "of two others, the likelier one");
    for (i, value) in logprobs["token_logprobs"].as_array().unwrap().iter().enumerate() {
        assert_eq!(&top[i][logprobs["tokens"][i].as_str().unwrap()], value);
    }
}

#[test]
fn log_probabilities_of_chats_lose_no_token() {
    let tokens = vec![token(A, -3.0, &[(byte(b'a'), -1.0), (A, -3.0), (byte(0xff), -4.0)])];
    let choice = answer(Endpoint::ChatCompletions, generation("a", tokens));
    let top = choice["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    assert_eq!(top[0], json!({"token": "a", "logprob": -1.0, "bytes": [97]}));
    assert_eq!(top[2], json!({"token": "bytes:\\xff", "logprob": -4.0, "bytes": [255]}));
}

#[test]
fn keys_that_stand_twice_and_limits_are_seen_before_anything_runs() {
    assert!(json::parse(r#"{"prompt": "x", "n": 1, "n": 2}"#).is_err_and(|error| error.contains("\"n\" stands twice")));
    let params = |stops: usize| SamplingParams { stop: vec!["x".into(); stops], ..SamplingParams::default() };
    assert!(params(16).validate(9).is_ok());
    assert_eq!(params(17).validate(9).unwrap_err().to_string(), "stop: expected at most 16 strings, found 17");
    let answers = completion(with(with(prompt(), "n", json!(2)), "best_of", json!(5))).unwrap().prompts.remove(0);
    assert_eq!(answers, GenerateRequest { answers: Answers::Sampled { n: 2, best_of: 5 }, ..answers.clone() });
}
