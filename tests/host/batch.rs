//! `kiln batch`: OpenAI's batch format, errors as answers, and going on after a kill.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::llama_file::{self, LlamaFile};
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
    let ended = batch(&input, &output).output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    for words in ["11 requests: 6 answered, 5 failed, 0 done before", "5 of 11 requests failed", "raise --ctx-size"] {
        assert!(stderr.contains(words), "no {words:?} in {stderr}");
    }
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
    let torn = before.lines().next().unwrap().replacen("batch_req_r", "batch_req_torn", 1).replacen(
        "\"custom_id\":\"r",
        "\"custom_id\":\"torn",
        1,
    );
    std::fs::write(&output, format!("{before}{}", &torn[..torn.len() / 2])).unwrap();
    finish(batch(&input, &output));
    assert!(std::fs::read_to_string(&output).unwrap().starts_with(&before), "what was done is done once");
    assert_eq!(answers(&output), answers(&whole));
    // Nothing is left to do.
    let done = std::fs::read_to_string(&output).unwrap();
    finish(batch(&input, &output));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), done);
}

/// A model of a few kilobytes, whose answers are nonsense, and a folder for it and for a batch's files.
struct Tiny {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Tiny {
    fn new() -> Tiny {
        let folder = tempfile::tempdir().unwrap();
        let model = llama_file::write(folder.path(), "tiny.gguf", &LlamaFile::PLAIN.writer());
        Tiny { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn requests(&self, name: &str, lines: &[Value]) -> PathBuf {
        write(self.folder.path(), name, lines)
    }

    /// Two requests of a few greedy tokens.
    fn two(&self) -> PathBuf {
        let request = |id: &str| completion(id, json!({"prompt": id, "max_tokens": 2, "temperature": 0}));
        self.requests("two.jsonl", &[request("a"), request("b")])
    }

    fn command(&self, input: &Path, output: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command
            .args(["batch", "--device", "cpu", "--model"])
            .arg(&self.model)
            .args([input, output])
            .stdin(Stdio::null());
        command
    }

    /// What the command says of its end, which must have this exit code.
    fn ends(&self, code: i32, mut command: Command) -> String {
        let ended: Output = command.output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{command:?}: {stderr}");
        stderr
    }

    fn says(&self, code: i32, command: Command, words: &str) {
        let stderr = self.ends(code, command);
        assert!(stderr.contains(words), "no {words:?} in {stderr}");
    }
}

#[test]
fn files_that_are_no_batch_are_refused() {
    let tiny = Tiny::new();
    let twice = [completion("a", json!({"prompt": "x"})), completion("a", json!({"prompt": "y"}))];
    let text = |name: &str, bytes: &[u8]| {
        std::fs::write(tiny.path(name), bytes).unwrap();
        tiny.path(name)
    };
    for (input, words) in [
        (tiny.requests("twice.jsonl", &twice), "twice.jsonl line 2: custom_id \"a\" is there twice, first on line 1"),
        (tiny.requests("no-id.jsonl", &[json!({"method": "POST"})]), "no-id.jsonl line 1: custom_id is missing"),
        (tiny.path("none.jsonl"), "none.jsonl: "),
        (
            text("no.json", b"{\"custom_id\""),
            "no.json line 1: expected an object with custom_id, method, url and body; no JSON",
        ),
        (text("latin1", b"\n{\"a\": \"Ren\xe9\"}\n"), "latin1 line 2: expected UTF-8, found the byte 0xE9 at byte 11"),
    ] {
        tiny.says(1, tiny.command(&input, &tiny.path("out.jsonl")), words);
    }
    assert!(!tiny.path("out.jsonl").exists(), "nothing was written");
}

#[test]
fn what_a_batch_did_not_write_stays_as_it_is() {
    let tiny = Tiny::new();
    let input = tiny.two();
    let good = tiny.path("good.jsonl");
    tiny.ends(0, tiny.command(&input, &good));
    let good = std::fs::read_to_string(good).unwrap();
    for content in [
        "some text\n".to_owned(),
        "some text without an end of line".to_owned(),
        "{".to_owned(),
        "\n".to_owned(),
        std::fs::read_to_string(&input).unwrap(),
        std::fs::read_to_string(&input).unwrap().trim_end().to_owned(),
        format!("{good}some text"),
        format!("{good}{{\"custom_id\": \"a\"}}\n"),
        format!("[1, 2]\n{good}"),
    ] {
        let output = tiny.path("output");
        std::fs::write(&output, &content).unwrap();
        tiny.says(1, tiny.command(&input, &output), "is no answer of `kiln batch`, so the file stays as it is");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), content);
    }
    let before = std::fs::read(&tiny.model).unwrap();
    tiny.says(1, tiny.command(&input, &tiny.model), "is no answer");
    assert_eq!(std::fs::read(&tiny.model).unwrap(), before);
}

#[test]
fn the_input_is_no_output_under_any_name() {
    let tiny = Tiny::new();
    let input = tiny.two();
    let before = std::fs::read_to_string(&input).unwrap();
    let (hard, soft) = (tiny.path("hard"), tiny.path("soft"));
    std::fs::hard_link(&input, &hard).unwrap();
    std::os::unix::fs::symlink(&input, &soft).unwrap();
    for output in [&input, &hard, &soft] {
        tiny.says(1, tiny.command(&input, output), "is the file of requests too");
    }
    let mut through_stdin = tiny.command(Path::new("-"), &input);
    through_stdin.stdin(File::open(&input).unwrap());
    tiny.says(1, through_stdin, "is the file of requests too");
    let mut to_stdout = tiny.command(&input, Path::new("-"));
    to_stdout.stdout(File::options().append(true).open(&input).unwrap());
    tiny.says(1, to_stdout, "is the file of requests too");
    assert_eq!(std::fs::read_to_string(&input).unwrap(), before);
    tiny.says(1, tiny.command(&input, tiny.folder.path()), "is a folder");
}

#[test]
fn a_file_that_another_process_writes_is_refused() {
    let tiny = Tiny::new();
    let output = tiny.path("out.jsonl");
    let other = File::options().create(true).append(true).open(&output).unwrap();
    other.lock().unwrap();
    tiny.says(1, tiny.command(&tiny.two(), &output), "is being written by another process");
    drop(other);
    tiny.says(0, tiny.command(&tiny.two(), &output), "2 requests: 2 answered, 0 failed, 0 done before");
}

#[test]
fn standard_streams_pipes_and_devices_are_written_and_not_read_back() {
    let tiny = Tiny::new();
    let input = tiny.two();
    let mut through = tiny.command(Path::new("-"), Path::new("-"));
    let ended = through.stdin(File::open(&input).unwrap()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let text = String::from_utf8(ended.stdout).unwrap();
    let ids: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["custom_id"].clone()).collect();
    assert!(ids.len() == 2 && ids.contains(&json!("a")) && ids.contains(&json!("b")), "{text}");
    tiny.says(0, tiny.command(&input, Path::new("/dev/null")), "2 answered");
    tiny.says(1, tiny.command(&input, Path::new("/dev/full")), "/dev/full: ");
    let pipe = tiny.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut writer = tiny.command(&input, &pipe).stderr(Stdio::null()).spawn().unwrap();
    let mut piped = String::new();
    File::open(&pipe).unwrap().read_to_string(&mut piped).unwrap();
    assert!(writer.wait().unwrap().success() && piped.lines().count() == 2, "{piped}");
    // A reader that goes away.
    let mut closed =
        tiny.command(&input, Path::new("-")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(closed.stdout.take());
    let ended = closed.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.code() == Some(1) && stderr.contains("2 requests: ") && !stderr.contains("panicked"),
        "{stderr}"
    );
}

#[test]
fn a_torn_line_is_cut_off_and_a_whole_one_gets_its_end() {
    let tiny = Tiny::new();
    let (input, output) = (tiny.two(), tiny.path("out.jsonl"));
    tiny.ends(0, tiny.command(&input, &output));
    let whole = std::fs::read_to_string(&output).unwrap();
    let first = whole.lines().next().unwrap();
    for end in [1, 18, 25, 60, first.len() - 1] {
        std::fs::write(&output, format!("{first}\n{}", &first[..end])).unwrap();
        tiny.says(0, tiny.command(&input, &output), "1 answered, 0 failed, 1 done before");
        assert_eq!(answers(&output).len(), 2, "{end}");
    }
    std::fs::write(&output, first).unwrap();
    tiny.says(0, tiny.command(&input, &output), "1 answered, 0 failed, 1 done before");
    assert!(std::fs::read_to_string(&output).unwrap().starts_with(&format!("{first}\n{{")));
    std::fs::write(&output, whole.trim_end()).unwrap();
    tiny.says(0, tiny.command(&input, &output), "0 answered, 0 failed, 2 done before");
}

#[test]
fn edited_and_failed_requests_are_done_again_and_others_are_not() {
    let tiny = Tiny::new();
    let output = tiny.path("out.jsonl");
    let request = |id: &str, body: Value| completion(id, body);
    let (a, b) = (json!({"prompt": "a", "max_tokens": 2}), json!({"prompt": "b", "max_tokens": 2, "top_p": 7}));
    let input = tiny.requests("in.jsonl", &[request("a", a.clone()), request("b", b)]);
    let summary = |code: i32, more: &[&str], words: &str| {
        let mut command = tiny.command(&input, &output);
        command.args(more);
        tiny.says(code, command, words);
    };
    summary(
        1,
        &[],
        "2 requests: 1 answered, 1 failed, 0 done before\nfailed: \"b\": 400: top_p: expected 0 to 1, found 7",
    );
    summary(1, &["--quiet"], "2 requests: 0 answered, 1 failed, 1 done before");
    tiny.requests("in.jsonl", &[request("a", a.clone()), request("b", json!({"prompt": "b", "max_tokens": 2}))]);
    summary(0, &[], "1 answered, 0 failed, 1 done before");
    summary(0, &[], "0 answered, 0 failed, 2 done before");
    // What changes nothing of an answer.
    summary(0, &["--threads", "2", "--parallel", "1", "--ubatch-size", "8"], "0 answered, 0 failed, 2 done before");
    for more in [["--ctx-size", "64"], ["--kv-cache-dtype", "int8"]] {
        summary(0, &more, "2 answered, 0 failed, 0 done before");
    }
    // The last line of an id counts: it was answered with another cache.
    summary(0, &[], "2 answered");
    let mut other = LlamaFile::PLAIN.writer();
    other.metadata("general.description", "another");
    llama_file::write(tiny.folder.path(), "tiny.gguf", &other);
    summary(0, &[], "2 answered, 0 failed, 0 done before");
}

#[test]
fn what_is_ignored_is_named() {
    let tiny = Tiny::new();
    let mut line = completion("a", json!({"prompt": "a", "max_tokens": 1, "user": "me", "metadata": {"x": "y"}}));
    line["priority"] = json!(3);
    let (input, output) = (tiny.requests("in.jsonl", &[line]), tiny.path("out.jsonl"));
    let stderr = tiny.ends(0, tiny.command(&input, &output));
    for field in ["user (1)", "metadata (1)", "priority (1)"] {
        assert!(stderr.contains(field), "no {field} in {stderr}");
    }
    assert_eq!(answers(&output)["a"]["ignored"], json!(["priority", "user", "metadata"]));
}

#[test]
fn an_interrupted_batch_tells_what_is_left() {
    let tiny = Tiny::new();
    let request = |i: u32| {
        let body = json!({"prompt": "x", "max_tokens": 200, "seed": i, "ignore_eos": true, "n": 16});
        completion(&format!("r{i}"), body)
    };
    let requests: Vec<Value> = (0..400).map(request).collect();
    let (input, output) = (tiny.requests("in.jsonl", &requests), tiny.path("out.jsonl"));
    let child = tiny.command(&input, &output).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while std::fs::metadata(&output).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "no answers come");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("400 requests: ") && stderr.contains(" left: give the same command to go on"), "{stderr}");
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(text.ends_with('\n') && answers(&output).len() < 400);
}
