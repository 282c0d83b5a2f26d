//! The `kiln` command as users and scripts meet it: real model, real processes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::llama_file::{self, LlamaFile};
use serde_json::Value;

fn model() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
    path
}

fn kiln(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(args).stdin(Stdio::null());
    command
}

fn with_model(command: &str, args: &[&str]) -> Command {
    let mut all = kiln(&[command, "--model"]);
    all.arg(model()).args(args);
    all
}

fn output_of(mut command: Command, stdin: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// Fails, says all of `words` on standard error, and prints nothing on standard output.
fn refuses(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?} was meant to fail");
    assert!(output.status.code().is_some(), "{command:?} was killed: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{command:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{command:?}: no {word:?} in {stderr}");
    }
}

#[test]
fn a_raw_prompt_is_continued_greedily() {
    let args = ["--raw", "--temperature", "0", "--max-tokens", "8", "--quiet", "The capital of France is"];
    let text = stdout(with_model("run", &args));
    assert!(text.starts_with(" Paris."), "{text:?}");
    let output = output_of(with_model("run", &args[..6]), "The capital of France is");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "standard input is a prompt too");
}

#[test]
fn the_json_object_has_what_scripts_read() {
    let args = ["--raw", "--temperature", "0", "-n", "6", "--json", "--logprobs", "3", "The capital of France is"];
    let object = json(with_model("run", &args));
    assert_eq!(object["prompt_ids"], serde_json::json!([504, 3575, 282, 4649, 314]));
    assert_eq!(object["output_ids"].as_array().unwrap().len(), 6);
    assert_eq!(object["output_ids"][0], 7042);
    assert_eq!(object["finish_reason"], "length");
    assert!(object["text"].as_str().unwrap().starts_with(" Paris"));
    let first = &object["logprobs"][0];
    assert_eq!((&first["id"], first["top"].as_array().unwrap().len()), (&Value::from(7042), 3));
    assert_eq!(first["top"][0][0], 7042);
    assert_eq!(first["top"][0][1], first["logprob"]);
    for key in ["time_to_first_token_ms", "time_per_output_token_ms", "output_tokens_per_s", "prompt_tokens_per_s"] {
        assert!(object["timings"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    for key in ["weights_bytes", "kv_arena_bytes", "workspace_bytes"] {
        assert!(object["memory"][key].as_u64().unwrap() > 0, "{key}");
    }
}

#[test]
fn a_chat_answer_ends_by_itself_and_repeats_with_its_seed() {
    let chat = |seed: &str| {
        let args = ["--json", "-n", "40", "--seed", seed, "--ctx-size", "512", "Say hello."];
        json(with_model("run", &args))
    };
    let (first, again, other) = (chat("5"), chat("5"), chat("6"));
    assert_eq!(first["output_ids"], again["output_ids"]);
    assert_ne!(first["output_ids"], other["output_ids"]);
    assert_eq!(first["seed"], 5);
    assert!(first["prompt_ids"].as_array().unwrap().len() > 10, "the chat template was applied");
    let greedy =
        json(with_model("run", &["--json", "--temp", "0", "-n", "200", "What is 2+2? Answer with one number."]));
    assert_eq!(greedy["finish_reason"], "stop");
    assert!(!greedy["text"].as_str().unwrap().contains("<|im_end|>"));
}

#[test]
fn stop_strings_lengths_and_penalties_reach_the_engine() {
    let run = |more: &[&str]| {
        let args = [&["--raw", "--temp", "0", "--json", "-n", "20"], more, &["The capital of France is"]].concat();
        json(with_model("run", &args))
    };
    let stopped = run(&["--stop", "United"]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"], " Paris.\n\nThe ");
    let by_id = run(&["--stop-token-id", "30"]);
    assert_eq!(by_id["output_ids"], serde_json::json!([7042, 30]));
    assert_eq!(by_id["text"], " Paris");
    let longer = run(&["--stop-token-id", "30", "--min-tokens", "10"]);
    assert!(longer["output_ids"].as_array().unwrap().len() > 10);
    assert_ne!(run(&["--logit-bias", "7042=-100"])["output_ids"][0], 7042);
    assert_ne!(run(&["--presence-penalty", "2"])["output_ids"], run(&[])["output_ids"]);
}

#[test]
fn tokenize_score_and_inspect_speak_json() {
    let ids = json(with_model("tokenize", &["--json", "The capital of France is"]));
    assert_eq!(ids, serde_json::json!([504, 3575, 282, 4649, 314]));
    let lines = "{\"text\": \"The capital of France is Paris\"}\n{\"ids\": [504, 3575, 282]}\n";
    let output = output_of(with_model("score", &["--top", "2"]), lines);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scored: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(scored.len(), 2);
    assert_eq!(scored[0]["ids"][5], 7042);
    assert_eq!((&scored[0]["logprobs"][0], &scored[0]["top"][0]), (&Value::Null, &Value::Null));
    assert_eq!(scored[0]["top"][5][0][0], 7042);
    assert_eq!(scored[0]["top"][5][0][1], scored[0]["logprobs"][5]);
    assert_eq!(scored[0]["logprobs"][1], scored[1]["logprobs"][1], "a text's end does not change its beginning");
    let inspected = json(with_model("inspect", &["--json"]));
    assert_eq!(inspected["program"].as_array().unwrap().len(), 2 + 5 * 30);
    // 30 layers, 3 KV heads of 64: two bytes an element, or one and a scale of four per head.
    assert_eq!(
        (&inspected["kv_bytes_per_token"], &inspected["kv_bytes_per_token_int8"]),
        (&23040.into(), &12240.into())
    );
    let seen = stdout(with_model("inspect", &["--program", "--tensors"]));
    assert!(seen.contains("token_embd.weight") && seen.contains("OutProj"), "{seen}");
}

#[test]
fn perplexity_equals_llama_cpps() {
    let golden: Value = serde_json::from_str(include_str!("../golden/perplexity.json")).unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE");
    let found = json(with_model("perplexity", &["--ctx", "512", "--json", text.to_str().unwrap()]));
    assert_eq!(found["tokens"], golden["tokens"]);
    let (found, want) = (found["perplexity"].as_f64().unwrap(), golden["perplexity"].as_f64().unwrap());
    // Rounding to int8 moves single log-probabilities by 0.03 (see golden_smollm2.rs): over 1,020 tokens, 0.1 % of the mean.
    assert!((found / want - 1.0).abs() <= 0.005, "{found} for {want}");
}

#[test]
fn an_int8_cache_costs_less_than_one_per_cent_of_perplexity() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-APACHE");
    let perplexity = |dtype: &str| {
        let args = ["--ctx", "512", "--json", "--kv-cache-dtype", dtype, text.to_str().unwrap()];
        let output = with_model("perplexity", &args).env("KILN_LOG", "info").output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && log.contains(&format!("of {dtype} cache")), "{log}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        found["perplexity"].as_f64().unwrap()
    };
    let (f16, int8) = (perplexity("f16"), perplexity("int8"));
    println!("perplexity {f16} with an f16 cache, {int8} with an int8 cache");
    assert_ne!(f16, int8, "the flag was meant to do something");
    assert!(int8 / f16 <= 1.01, "{int8} instead of {f16}");
}

#[test]
fn bench_has_llama_benchs_keys() {
    let args = ["-p", "32", "-n", "4", "-d", "0,16", "-r", "2", "-o", "json", "--kv-cache-dtype", "int8"];
    let rows = json(with_model("bench", &args));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!((&row["type_k"], &row["type_v"]), (&Value::from("int8"), &Value::from("int8")));
        assert_eq!(row["samples_ts"].as_array().unwrap().len(), 2);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["peak_gbytes_per_s"].as_f64().unwrap() > 0.0);
    }
    let shape = |row: &Value| (row["n_prompt"].as_u64(), row["n_gen"].as_u64(), row["n_depth"].as_u64());
    assert_eq!(shape(&rows[2]), (Some(32), Some(0), Some(16)));
    let table = stdout(with_model("bench", &["-p", "16", "-n", "0", "-r", "1"]));
    assert!(table.contains("| test |") && table.contains("| pp16 |"), "{table}");
}

#[test]
fn bench_measures_many_sequences_at_once() {
    // Steps of 16 rows cut prompts of 12 in the middle, and 20 sequences into two decode steps.
    let args = ["--parallel", "1,20", "-p", "12", "-n", "3", "-r", "2", "--ubatch-size", "16"];
    let rows = json(with_model("bench", &[&args[..], &["-o", "json"]].concat()));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["parallel"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(20)]);
    for row in rows {
        let parallel = row["parallel"].as_f64().unwrap();
        assert_eq!(row["n_kv"].as_f64().unwrap(), 15.0 * parallel);
        // Rates are means over the samples, of all sequences' tokens.
        let samples =
            |key: &str| row[key].as_array().unwrap().iter().map(|ns| ns.as_f64().unwrap()).collect::<Vec<_>>();
        let (prefill, decode) = (samples("samples_pp_ns"), samples("samples_tg_ns"));
        let both: Vec<f64> = prefill.iter().zip(&decode).map(|(pp, tg)| pp + tg).collect();
        for (key, tokens, samples) in [("pp_ts", 12.0, prefill), ("tg_ts", 3.0, decode), ("total_ts", 15.0, both)] {
            let mean = samples.iter().map(|ns| parallel * tokens * 1e9 / ns).sum::<f64>() / 2.0;
            assert!((row[key].as_f64().unwrap() / mean - 1.0).abs() < 1e-9, "{key} of {row}");
        }
    }
    refuses(with_model("bench", &["--parallel", "2", "-n", "0"]), &["nothing to test", "--parallel"]);
    refuses(with_model("bench", &["--parallel", "0"]), &["--parallel"]);
}

#[test]
fn profile_measures_and_says_how_to_look_closer() {
    let text = stdout(with_model("profile", &["-p", "16", "-n", "2", "--device", "cpu"]));
    for words in ["prefill  16 tokens, ", "decode   2 tokens, ", "--device cuda", "\nnsys profile ", "\nncu "] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[test]
fn profile_runs_itself_under_a_tool() {
    let tools = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = with_model("profile", &["-p", "16", "-n", "2", "--run", "nsys"]);
        command.env("PATH", tools.path());
        command
    };
    refuses(run(), &["nsys cannot be started", "PATH", "--run"]);
    let nsys = tools.path().join("nsys");
    std::fs::write(&nsys, "#!/bin/sh\necho \"$@\"\n").unwrap();
    std::fs::set_permissions(&nsys, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = stdout(run());
    assert!(said.starts_with("profile --capture-range=cudaProfilerApi --capture-range-end=stop "), "{said}");
    let itself = format!("{} profile --model ", env!("CARGO_BIN_EXE_kiln"));
    assert!(
        said.contains(&itself) && said.ends_with("--n-prompt 16 --n-gen 2 --ubatch-size 512 --device cuda\n"),
        "{said}"
    );
    assert!(!said.contains("--run"), "{said}");
}

#[test]
fn mistakes_are_refused_with_the_numbers() {
    refuses(kiln(&["run", "-m", "no/such/model.gguf", "hi"]), &["no/such/model.gguf"]);
    refuses(with_model("run", &["--ctx-size", "16", &"word ".repeat(100)]), &["131 tokens > 15 maximum", "--ctx-size"]);
    refuses(with_model("run", &["--top-p", "1.5", "hi"]), &["top_p", "1.5"]);
    refuses(with_model("run", &["--temperature", "nan", "hi"]), &["temperature"]);
    refuses(with_model("run", &["--logit-bias", "99999=1", "hi"]), &["logit_bias", "49152"]);
    refuses(with_model("run", &["--logit-bias", "x", "hi"]), &["ID=BIAS"]);
    refuses(with_model("run", &["--logprobs", "3", "hi"]), &["--json"]);
    refuses(with_model("run", &["--no-such-flag", "hi"]), &["--no-such-flag"]);
    refuses(with_model("bench", &["-p", "0", "-n", "0"]), &["nothing to test"]);
    refuses(with_model("perplexity", &["no/such/file.txt"]), &["no/such/file.txt"]);
}

#[test]
fn broken_model_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model()).unwrap();
    let broken = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let half = broken("half.gguf", &whole[..whole.len() / 2]);
    refuses(kiln(&["run", "-m", &half, "hi"]), &["half.gguf", "tensor"]);
    let text = broken("text.gguf", b"this is no model");
    refuses(kiln(&["run", "-m", &text, "hi"]), &["text.gguf"]);
    let empty = broken("empty.gguf", b"");
    refuses(kiln(&["inspect", "-m", &empty]), &["empty.gguf"]);
    let mut overwritten = whole;
    overwritten[..1 << 20].fill(0xff);
    let overwritten = broken("overwritten.gguf", &overwritten);
    refuses(kiln(&["run", "-m", &overwritten, "hi"]), &["overwritten.gguf"]);
}

#[test]
fn a_run_can_be_killed_at_any_moment() {
    for delay_ms in [0, 20, 60, 120, 200, 350] {
        let args = ["--raw", "--temp", "0", "-n", "400", "--quiet", "Once upon a time"];
        let mut child = with_model("run", &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let after = stdout(with_model("run", &["--raw", "--temp", "0", "-n", "2", "--quiet", "The capital of France is"]));
    assert!(after.starts_with(" Paris"));
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let args = ["--raw", "--temp", "0", "--ignore-eos", "-n", "2000", "--quiet", "Once upon a time"];
    let mut child = with_model("run", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn several_answers_come_best_first_with_their_scores() {
    let several = |more: &[&str]| -> Vec<Value> {
        let args = [&["--raw", "--json", "-n", "6", "--ctx-size", "256"], more, &["The capital of France is"]].concat();
        stdout(with_model("run", &args)).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let number = |answer: &Value, key: &str| answer[key].as_f64().unwrap();
    let beams = several(&["--beams", "4", "--n", "3"]);
    assert_eq!(beams.len(), 3);
    assert!(beams.windows(2).all(|pair| number(&pair[0], "score") >= number(&pair[1], "score")));
    assert!(beams.iter().all(|answer| answer["score"] == answer["sum_logprob"] && answer["seed"].is_null()));
    let greedy = several(&["--temperature", "0", "--logprobs", "0"]);
    assert!(number(&beams[0], "sum_logprob") >= number(&greedy[0], "sum_logprob") - 1e-9, "{beams:?}");
    let one_beam = several(&["--beams", "1", "--ignore-eos"]);
    assert_eq!(one_beam[0]["output_ids"], greedy[0]["output_ids"]);
    let mean = several(&["--beams", "4", "--length-penalty", "1", "--early-stopping", "true"]);
    let length = mean[0]["output_ids"].as_array().unwrap().len() as f64;
    assert!((number(&mean[0], "score") - number(&mean[0], "sum_logprob") / length).abs() < 1e-9);

    let all = several(&["--n", "3", "--seed", "7"]);
    assert_eq!(all.len(), 3);
    assert!(all[0]["output_ids"] != all[1]["output_ids"] || all[1]["output_ids"] != all[2]["output_ids"]);
    let alone = several(&["--seed", "7"]);
    assert_eq!(alone[0]["output_ids"], all[0]["output_ids"], "the first of several is the only one");
    let best = several(&["--n", "2", "--best-of", "5", "--seed", "7"]);
    assert!(best.len() == 2 && number(&best[0], "score") >= number(&best[1], "score"));
    let text =
        stdout(with_model("run", &["--raw", "--quiet", "-n", "2", "--beams", "2", "--n", "2", "The capital of"]));
    assert!(text.starts_with("--- answer 1 (score -") && text.contains("\n--- answer 2 (score -"), "{text}");

    refuses(with_model("run", &["--beams", "17", "hi"]), &["num_beams", "17"]);
    refuses(with_model("run", &["--beams", "4", "--temperature", "0.5", "hi"]), &["temperature", "with beams"]);
    refuses(with_model("run", &["--beams", "2", "--n", "3", "hi"]), &["num_return", "3"]);
    refuses(with_model("run", &["--n", "2", "--best-of", "1", "hi"]), &["best_of", "2 to 16"]);
    refuses(with_model("run", &["--n", "17", "hi"]), &["n:", "1 to 16"]);
    refuses(with_model("run", &["--length-penalty", "1", "hi"]), &["--beams"]);
}

/// A model of a few kilobytes, whose answers are nonsense.
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

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = kiln(&[name, "--model"]);
        command.arg(&self.model).args(args);
        command
    }

    /// Greedy decoding of a raw prompt.
    fn run(&self, args: &[&str]) -> Command {
        self.command("run", &[&["--raw", "--temp", "0", "--device", "cpu", "--threads", "1"], args].concat())
    }
}

/// A file that was never a model, in place of one: a command that gets to it says so.
const NO_MODEL: &str = "no/such/model.gguf";

#[test]
fn flags_and_prompts_are_checked_before_a_model_is_loaded() {
    let run = |args: &[&str]| kiln(&[&["run", "-m", NO_MODEL], args].concat());
    for (args, words) in [
        (&["--top-p", "1.5", "hi"][..], &["top_p: expected 0 to 1, found 1.5", "--top-p"][..]),
        (&["--temperature", "-1", "hi"], &["--temperature"]),
        (&["--stop-token-id", "4294967295", "hi"], &["stop_token_ids", "--stop-token-id"]),
        (&["--n", "17", "hi"], &["1 to 16"]),
        (&["--beams", "17", "hi"], &["num_beams", "--beams"]),
        (&["--beams", "2", "--temperature", "0.5", "hi"], &["with beams"]),
        (&["--min-tokens", "3", "-n", "2", "hi"], &["min_tokens"]),
        (&["--logprobs", "3", "hi"], &["--json"]),
        (&["--ctx-size", "1", "hi"], &["--ctx-size"]),
        (&["--ctx-size", "9999999999", "hi"], &["--ctx-size"]),
        (&[""], &["the prompt is empty"]),
        (&["--chat-template", "no/such.jinja", "hi"], &["no/such.jinja"]),
        (&["--raw", "--chat-template", "no/such.jinja", "hi"], &["--raw"]),
        (&["hi"], &[NO_MODEL]),
    ] {
        refuses(run(args), words);
    }
    refuses(kiln(&["batch", "-m", NO_MODEL, "--parallel", "0", "in", "out"]), &["--parallel"]);
    refuses(kiln(&["batch", "-m", NO_MODEL, "--parallel", "5000", "in", "out"]), &["--parallel"]);
}

#[test]
fn the_newline_that_ends_standard_input_is_no_part_of_the_prompt() {
    let tiny = Tiny::new();
    let ids = |stdin: &str| {
        let output = output_of(tiny.run(&["--json", "-n", "1"]), stdin);
        assert!(output.status.success(), "{stdin:?}: {}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        object["prompt_ids"].clone()
    };
    let two = ids("ab");
    assert_eq!(two.as_array().unwrap().len(), 2);
    assert_eq!((ids("ab\n"), ids("ab\r\n")), (two.clone(), two));
    assert_eq!(ids("ab\n\n").as_array().unwrap().len(), 3);
    for stdin in ["", "\n"] {
        let output = output_of(tiny.run(&[]), stdin);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("the prompt is empty"), "{stderr}");
    }
    let mut latin1 = tiny.run(&[]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    latin1.stdin.take().unwrap().write_all(b"one\nRen\xe9\n").unwrap();
    let stderr = String::from_utf8(latin1.wait_with_output().unwrap().stderr).unwrap();
    assert!(stderr.contains("standard input line 2: expected UTF-8, found the byte 0xE9 at byte 4"), "{stderr}");
}

#[test]
fn full_and_closed_streams_are_errors_and_never_panics() {
    let tiny = Tiny::new();
    let completions = || kiln(&["completions", "bash"]);
    let commands: [&dyn Fn() -> Command; 8] = [
        &|| tiny.run(&["-n", "3", "hi"]),
        &|| tiny.run(&["-n", "3", "--json", "hi"]),
        &|| tiny.command("bench", &["-p", "4", "-n", "0", "-r", "1", "-o", "json"]),
        &|| tiny.command("tokenize", &["hi"]),
        &|| tiny.command("inspect", &["--json"]),
        &completions,
        &|| kiln(&["--help"]),
        &|| kiln(&["--version"]),
    ];
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for make in commands {
        let mut command = make();
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0), "{command:?}: {:?} {stderr}", output.status);
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
        let mut command = make();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some() && !stderr.contains("panicked"), "{command:?}: {stderr}");
        let mut command = make();
        let status = command.stdout(Stdio::null()).stderr(full()).env("KILN_LOG", "info").status().unwrap();
        assert_eq!(status.code(), Some(0), "{command:?}: a full standard error is no failure");
        let mut closed = Command::new("sh");
        closed.args(["-c", "exec \"$@\" 2>&- >&- <&-", "sh"]).arg(command.get_program()).args(command.get_args());
        assert!(closed.status().unwrap().code().is_some_and(|code| code < 2), "{command:?}: all streams closed");
    }
    let mut mistaken = tiny.run(&["--top-p", "7", "hi"]);
    assert_eq!(mistaken.stdout(Stdio::null()).stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn sizes_beyond_all_memory_are_refused_with_numbers() {
    let tiny = Tiny::new();
    for args in [
        &["-p", "4294967295", "-n", "0"][..],
        &["-p", "4294967295", "-d", "4294967295"],
        &["-n", "4294967295"],
        &["--parallel", "1024", "-p", "4294967295", "-n", "4294967295"],
    ] {
        refuses(tiny.command("bench", args), &["a context of "]);
    }
    refuses(
        with_model("bench", &["--parallel", "1024", "-p", "1000000", "-n", "1"]),
        &["keys and values", "are free", "-p"],
    );
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.jsonl");
    std::fs::write(
        &input,
        "{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/completions\", \"body\": {\"prompt\": \"a\"}}\n",
    )
    .unwrap();
    let (input, output) = (input.to_str().unwrap(), folder.path().join("out"));
    let args = ["--ctx-size", "1048576", "--parallel", "1024", input, output.to_str().unwrap()];
    let ended = with_model("batch", &args).output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    for words in ["keys and values", "are free", "--ctx-size", "--parallel"] {
        assert!(stderr.contains(words), "no {words:?} in {stderr}");
    }
}

#[test]
fn errors_are_one_line_without_colours_times_or_control_characters() {
    let tiny = Tiny::new();
    let output = output_of(tiny.command("score", &[]), "{\"ids\": [1, 2]}\n{\"te\\u001bxt\": 1}\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.ends_with(b"\n"), "the first line is answered");
    assert!(stderr.starts_with("error: standard input line 2: expected {\"text\""), "{stderr}");
    for bad in ["\u{1b}", "line 1", "variant"] {
        assert!(!stderr.contains(bad), "{bad:?} in {stderr}");
    }
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let logged = |level: &str| {
        let output = tiny.run(&["-n", "1", "--quiet", "hi"]).env("KILN_LOG", level).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let log = logged("info");
    assert!(log.contains("INFO") && log.contains("plan: 1 sequences") && !log.contains('\u{1b}'), "{log}");
    assert!(log.trim_start().starts_with("INFO"), "no time: {log}");
    assert!(logged("loud").contains("warning: KILN_LOG: found \"loud\""));
    let too_long = tiny.run(&["--ctx-size", "16", &"word ".repeat(10)]).output().unwrap();
    let stderr = String::from_utf8(too_long.stderr).unwrap();
    assert!(stderr.contains("prompt is too long: 50 tokens > 15 maximum: raise --ctx-size above 50"), "{stderr}");
}

#[test]
fn a_model_may_be_named_by_the_variable_or_be_where_the_set_up_puts_it() {
    let tiny = Tiny::new();
    let tokenize = |folder: &Path, variable: Option<&Path>| {
        let mut command = kiln(&["tokenize", "--json", "hi"]);
        command.current_dir(folder).env_remove("KILN_MODEL");
        command.envs(variable.map(|path| ("KILN_MODEL", path)));
        command
    };
    assert_eq!(json(tokenize(tiny.folder.path(), Some(&tiny.model))), serde_json::json!([104, 105]));
    refuses(tokenize(tiny.folder.path(), Some(Path::new("none.gguf"))), &["KILN_MODEL names none.gguf"]);
    // In the current folder before the repository, which has SmolLM2.
    let weights = tiny.folder.path().join("weights");
    std::fs::create_dir(&weights).unwrap();
    std::fs::copy(&tiny.model, weights.join("SmolLM2-135M-Instruct-Q4_1.gguf")).unwrap();
    assert_eq!(json(tokenize(tiny.folder.path(), None)), serde_json::json!([104, 105]));
}

#[test]
fn ctrl_c_ends_the_answer_and_tells_what_it_took() {
    let args = ["--raw", "--temp", "0", "--ignore-eos", "-n", "8000", "Once upon a time"];
    let mut child = with_model("run", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first byte of the answer.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("time per output token") && stderr.contains("finish                cancelled"), "{stderr}");
}

#[test]
fn shells_get_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(kiln(&["completions", shell]));
        assert!(script.contains("kiln") && script.contains("ctx-size"), "{shell}: {script}");
    }
    refuses(kiln(&["completions", "csh"]), &["bash", "zsh"]);
}

#[test]
fn a_chat_template_from_a_file_takes_the_place_of_the_models() {
    let tiny = Tiny::new();
    let path = tiny.folder.path().join("chat.jinja");
    let prompt = |source: &str| {
        std::fs::write(&path, source).unwrap();
        let mut command = tiny.command("run", &["--temp", "0", "-n", "1", "--json", "--chat-template"]);
        command.arg(&path).arg("ab");
        command
    };
    let ids = json(prompt("{% for m in messages %}<{{ m.content }}>{% endfor %}"))["prompt_ids"].clone();
    assert_eq!(ids, serde_json::json!([60, 97, 98, 62]));
    refuses(prompt("{% for %}"), &["chat template"]);
    refuses(tiny.command("run", &["ab"]), &["no chat template", "--raw", "--chat-template"]);
}
