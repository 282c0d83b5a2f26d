//! `kiln batch`: OpenAI's batch format, errors as answers, and going on after a kill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn batch(input: &Path, output: &Path) -> Command {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(model.exists(), "{} is missing: run `cargo xtask setup`", model.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(["batch", "--parallel", "4", "--ctx-size", "256", "--quiet", "--model"]).arg(model);
    command.args([input, output]).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn line(custom_id: &str, url: &str, body: Value) -> Value {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body})
}

fn completion(custom_id: &str, body: Value) -> Value {
    line(custom_id, "/v1/completions", body)
}

fn write(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

/// Answers by custom_id, without what differs from run to run; each is there once.
fn answers(path: &Path) -> BTreeMap<String, Value> {
    let mut answers = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut answer: Value = serde_json::from_str(line).unwrap();
        let body = answer["response"]["body"].as_object_mut().unwrap();
        body.remove("created");
        // What is cached depends on what ran before.
        body.get_mut("usage").map(|usage| usage["prompt_tokens_details"].take());
        let id = answer["custom_id"].as_str().unwrap().to_owned();
        assert_eq!(answers.insert(id, answer), None, "answered twice");
    }
    answers
}

#[test]
fn requests_are_answered_and_errors_are_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (france, greedy) = ("The capital of France is", 0);
    let lines = [
        completion(
            "plain",
            json!({"model": "m", "prompt": france, "max_tokens": 2, "temperature": greedy, "logprobs": 2}),
        ),
        completion("prompts", json!({"prompt": [france, "Once upon a"], "max_tokens": 1, "temperature": greedy})),
        completion("ids", json!({"prompt": [504, 3575, 282, 4649, 314], "max_tokens": 2, "temperature": greedy})),
        completion("best", json!({"prompt": france, "max_tokens": 4, "n": 2, "best_of": 4, "seed": 3, "logprobs": 0})),
        completion("beams", json!({"prompt": france, "max_tokens": 4, "n": 3, "best_of": 4, "use_beam_search": true})),
        line(
            "chat",
            "/v1/chat/completions",
            json!({
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
                "max_completion_tokens": 5, "temperature": greedy, "logprobs": true, "top_logprobs": 2,
            }),
        ),
        completion("range", json!({"prompt": france, "top_p": 1.5})),
        completion("field", json!({"prompt": france, "suffix": "!"})),
        completion("long", json!({"prompt": "word ".repeat(300)})),
        completion("nothing", json!({"prompt": []})),
        line("url", "/v1/embeddings", json!({"input": france})),
    ];
    let (input, output) = (write(folder.path(), "in.jsonl", &lines), folder.path().join("out.jsonl"));
    finish(batch(&input, &output));
    let answers = answers(&output);
    assert_eq!(answers.len(), lines.len());
    let body = |id: &str| {
        let response = &answers[id]["response"];
        assert_eq!(response["status_code"], 200, "{response}");
        &response["body"]
    };
    let plain = body("plain");
    assert_eq!((&plain["object"], &plain["model"]), (&json!("text_completion"), &json!("m")));
    assert_eq!(plain["choices"][0]["text"], " Paris.");
    assert_eq!(plain["choices"][0]["finish_reason"], "length");
    let logprobs = &plain["choices"][0]["logprobs"];
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!([" Paris", "."]), &json!([0, 6])));
    assert_eq!(logprobs["top_logprobs"][0][" Paris"], logprobs["token_logprobs"][0]);
    assert_eq!(plain["usage"]["total_tokens"], 7);
    assert_eq!(body("ids")["choices"][0]["text"], " Paris.");
    let texts = |id: &str| -> Vec<&str> {
        body(id)["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect()
    };
    assert_eq!(texts("prompts"), [" Paris", " time"]);
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|logprob| logprob.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    let best = body("best")["choices"].as_array().unwrap();
    assert!(best.len() == 2 && mean(&best[0]) >= mean(&best[1]), "{best:?}");
    let beams = texts("beams");
    assert!(beams.len() == 3 && beams[0].starts_with(" Paris") && beams[0] != beams[1], "{beams:?}");
    assert_eq!((&plain["id"], &body("chat")["id"]), (&json!("cmpl-plain"), &json!("chatcmpl-chat")));
    let chat = &body("chat")["choices"][0];
    assert_eq!(chat["message"]["role"], "assistant");
    assert!(chat["message"]["content"].as_str().unwrap().contains("Hello"), "{chat}");
    let first = &chat["logprobs"]["content"][0];
    assert_eq!(first["top_logprobs"][0]["token"], first["token"]);
    for (id, status, param) in [
        ("range", 400, json!("top_p")),
        ("field", 400, json!("suffix")),
        ("long", 400, Value::Null),
        ("nothing", 400, json!("prompt")),
        ("url", 404, json!("url")),
    ] {
        let response = &answers[id]["response"];
        let error = &response["body"]["error"];
        assert_eq!((&response["status_code"], &error["param"]), (&json!(status), &param), "{response}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn a_killed_batch_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let request = |i: u32| {
        let prompt = format!("Number {i} is");
        completion(&format!("r{i}"), json!({"prompt": prompt, "max_tokens": 24, "seed": i, "ignore_eos": true}))
    };
    let input = write(folder.path(), "in.jsonl", &(0..24).map(request).collect::<Vec<_>>());
    let (whole, output) = (folder.path().join("whole.jsonl"), folder.path().join("out.jsonl"));
    finish(batch(&input, &whole));
    let mut killed = batch(&input, &output).spawn().unwrap();
    let lines = || std::fs::read_to_string(&output).unwrap_or_default().lines().count();
    let started = Instant::now();
    while lines() < 5 {
        assert!(started.elapsed() < Duration::from_secs(60), "no answers come");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = std::fs::read_to_string(&output).unwrap();
    assert!((5..24).contains(&before.lines().count()), "the kill was meant to come in the middle");
    // A kill can also tear a line.
    let torn = before.lines().next().unwrap().replace("\"r", "\"torn");
    std::fs::write(&output, format!("{before}{}", &torn[..torn.len() / 2])).unwrap();
    finish(batch(&input, &output));
    assert!(std::fs::read_to_string(&output).unwrap().starts_with(&before), "what was done is done once");
    assert_eq!(answers(&output), answers(&whole));
    // Nothing is left to do.
    let done = std::fs::read_to_string(&output).unwrap();
    finish(batch(&input, &output));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), done);
}

#[test]
fn files_that_are_no_batch_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let twice = [completion("a", json!({"prompt": "x"})), completion("a", json!({"prompt": "y"}))];
    let cases = [
        (write(folder.path(), "twice.jsonl", &twice), "out.jsonl", "line 2: custom_id \"a\" is there twice"),
        (write(folder.path(), "no-id.jsonl", &[json!({"method": "POST"})]), "out.jsonl", "line 1: missing field"),
        (folder.path().join("none.jsonl"), "out.jsonl", "none.jsonl"),
        (write(folder.path(), "one.jsonl", &twice[..1]), "text", "text line 1 is no answer"),
    ];
    std::fs::write(folder.path().join("text"), "not json\n").unwrap();
    for (input, output, message) in cases {
        let result = batch(&input, &folder.path().join(output)).output().unwrap();
        let stderr = String::from_utf8_lossy(&result.stderr);
        assert!(!result.status.success() && stderr.contains(message), "{message:?} is not in {stderr}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("text")).unwrap(), "not json\n");
}
