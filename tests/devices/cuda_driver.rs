//! `kiln` where there is no driver, no GPU, or too little memory on it: one clear line, and `--device auto` goes on with the CPU.
#![cfg(feature = "cuda")]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::simulated;

/// Runs the default model for two tokens with `libraries` in front of the system's.
fn run(libraries: &Path, device: &[&str], settings: &[(&str, &str)]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(["run", "--raw", "--temperature", "0", "--max-tokens", "2", "The capital of France is", "--model"]);
    command.arg(model).args(device).env("LD_LIBRARY_PATH", libraries).env_remove("KILN_LOG");
    command.envs(settings.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn runs_on_the_cpu(output: &Output) {
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(text(&output.stdout).contains("Paris"), "{}", text(&output.stdout));
    assert!(errors.lines().any(|line| line.starts_with("cpu (")), "the device is named: {errors}");
}

/// One line, which says all of `words`.
fn refuses(output: &Output, words: &[&str]) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
}

#[test]
fn without_a_driver_the_cpu_does_it() {
    // Found before any driver of the system, and no library.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    runs_on_the_cpu(&run(folder.path(), &[], &[]));
    refuses(&run(folder.path(), &["--device", "cuda"], &[]), &["error: no GPU: no CUDA driver is installed"]);
}

#[test]
fn without_a_gpu_the_cpu_does_it() {
    let folder = simulated::library_folder();
    let none = [("KILN_SIM_DEVICES", "0")];
    runs_on_the_cpu(&run(folder.path(), &[], &none));
    refuses(&run(folder.path(), &["--device", "cuda"], &none), &["error: no GPU: ", "no CUDA-capable device"]);
}

#[test]
fn a_simulated_gpu_is_used_only_when_asked_for() {
    runs_on_the_cpu(&run(simulated::library_folder().path(), &[], &[]));
}

#[test]
fn short_memory_names_what_was_asked_what_is_free_and_what_to_lower() {
    let folder = simulated::library_folder();
    let run = |mib, ctx_size| {
        run(folder.path(), &["--device", "cuda", "--ctx-size", ctx_size], &[("KILN_SIM_VRAM_MIB", mib)])
    };
    // 8192 tokens of 30 layers, 3 heads of 64, f16, keys and values: 180 MiB.
    refuses(
        &run("160", "8192"),
        &["keys and values", "180.0 MiB", "are free", "take a smaller --ctx-size", "a smaller --parallel"],
    );
    refuses(&run("16", "512"), &["weights", "MiB", "free", "take a smaller model or format"]);
}
