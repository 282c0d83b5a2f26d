//! Runs a test in a process of its own that finds the simulated driver as `libcuda.so`.
#![allow(dead_code)]

pub mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const PTX: &str = include_str!("../kernels/kernels.ptx");

const CHILD: &str = "KILN_SIM_TEST_CHILD";

/// The shared library, which cargo builds beside the tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let library = test.parent().expect("it lies in a folder").join("libkiln_simcuda.so");
    assert!(library.is_file(), "{} is not built", library.display());
    library
}

/// A folder with both names that programs look for.
pub fn library_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder takes files");
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(library(), folder.path().join(name)).expect("links can be made");
    }
    folder
}

/// A command that finds the simulated driver, with no other settings than these.
pub fn command(program: &Path, libraries: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("KILN_SIM_")) {
        command.env_remove(name);
    }
    command.env("LD_LIBRARY_PATH", libraries).env("KILN_SIM_LOG", "1").envs(settings.iter().copied());
    command
}

pub fn assert_success(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `body` in a child process of the test `name`; what the child printed comes back to the parent, `None` to the child.
pub fn in_child(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let folder = library_folder();
    let test = std::env::current_exe().expect("a test knows its path");
    let output = command(&test, folder.path(), settings)
        .env(CHILD, "1")
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .expect("a test can run itself");
    assert_success(name, &output);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 passed"), "no test is called {name}: {stdout}");
    Some(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A fatbin with one zstd-compressed PTX entry, as nvcc makes by default.
pub fn fatbin(ptx: &str, arch: u32) -> Vec<u8> {
    let packed = ruzstd::encoding::compress_to_vec(ptx.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let padded = packed.len().next_multiple_of(8);
    let mut out = vec![0; 16 + 64];
    out[0..4].copy_from_slice(&0xBA55_ED50u32.to_le_bytes());
    out[4..8].copy_from_slice(&[1, 0, 16, 0]);
    out[8..16].copy_from_slice(&(64 + padded as u64).to_le_bytes());
    out[16..20].copy_from_slice(&[1, 0, 1, 1]);
    out[20..24].copy_from_slice(&64u32.to_le_bytes());
    out[24..32].copy_from_slice(&(padded as u64).to_le_bytes());
    out[32..36].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    out[44..48].copy_from_slice(&arch.to_le_bytes());
    out[56..64].copy_from_slice(&0x8000u64.to_le_bytes());
    out[72..80].copy_from_slice(&(ptx.len() as u64).to_le_bytes());
    out.extend(packed);
    out.resize(80 + padded, 0);
    out
}
