//! Tests of the CUDA device on the simulated GPU: the same tests again, each in a process of its own that finds the simulated
//! driver as `libcuda.so`.

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the processes that [`rerun`] starts: the device under test is the CUDA device.
const CHILD: &str = "KILN_TEST_CUDA";

/// Whether this process is one that [`rerun`] started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test `name` of the caller's file again, with every checker on, once for each list of settings.
#[track_caller]
pub fn rerun(name: &str, runs: &[&[(&str, &str)]]) {
    for settings in runs {
        rerun_with(name, settings);
    }
}

/// Like [`rerun`], once; returns what it printed.
#[track_caller]
pub fn rerun_with(name: &str, settings: &[(&str, &str)]) -> String {
    let name = &format!("{}{name}", module_of(Location::caller().file()));
    let folder = library_folder();
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1").env("KILN_SIM_LOG", "1");
    // The executor's memory for a CTA comes and goes by megabytes: kept, not returned to the system each time.
    command.envs([("MALLOC_TRIM_THRESHOLD_", "1000000000"), ("MALLOC_MMAP_THRESHOLD_", "1000000000")]);
    let output = command.env("LD_LIBRARY_PATH", folder.path()).envs(settings.iter().copied()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} on the simulated GPU, {settings:?}:\n{text}");
    assert!(text.contains("1 passed"), "no test is called {name}:\n{text}");
    text
}

/// What the names of a file's tests begin with: `tests/devices/stages/cases.rs` → `stages::cases::`, `tests/devices/cuda_steps.rs` →
/// `cuda_steps::`, and nothing for a test program's own file.
fn module_of(file: &str) -> String {
    let path = Path::new(file).with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let below = parts.iter().rposition(|part| part == "tests").map_or(parts.len(), |at| at + 1);
    let modules = parts[below..].iter().skip(1).filter(|part| !["mod", "main"].contains(&part.as_str()));
    modules.map(|part| format!("{part}::")).collect()
}

/// A folder with both names that programs look for.
pub fn library_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(library(), folder.path().join(name)).unwrap();
    }
    folder
}

/// The shared library, which cargo builds beside the tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap_or(Path::new(".")).join("libkiln_simcuda.so");
    assert!(library.is_file(), "{} is not built", library.display());
    library
}

/// Which cases of a test a child runs: `INDEX/NUMBER`, every NUMBER-th from INDEX on.
const SHARE: &str = "KILN_TEST_SHARE";

/// Whether it is this child's turn to run case `index`; everywhere else all are run.
pub fn has_share(index: usize) -> bool {
    let Ok(share) = std::env::var(SHARE) else { return true };
    let (first, number): (usize, usize) =
        share.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?))).unwrap();
    index % number == first
}

/// Runs the cases of the test `name` for compute capabilities 8.0 and 9.0 under five schedules, with approximations as exact as can be and
/// perturbed, and with both ways in which tensor cores may round. Each case has one of the five schedules per compute capability, and
/// with `KILN_TEST_MATRIX=full` all of them, under every arithmetic. None of the counters in `matrices` may stay zero.
#[track_caller]
pub fn rerun_cases(name: &str, matrices: &[&str]) {
    const ARITHMETIC: [&str; 3] = ["perturb,truncate", "perturb", ""];
    let is_full = std::env::var("KILN_TEST_MATRIX").is_ok_and(|matrix| matrix == "full");
    let report = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let report_path = report.path().to_str().unwrap();
    let mut multiply_adds = vec![0; matrices.len()];
    for (turn, capability) in ["8.0", "9.0"].into_iter().enumerate() {
        for seed in 0..5usize {
            let arithmetic = if is_full { &ARITHMETIC[..] } else { &ARITHMETIC[(seed + turn) % 3..][..1] };
            for arithmetic in arithmetic {
                let (share, seed) = (format!("{}/5", (seed + 2 * turn) % 5), (seed + 1).to_string());
                let mut settings =
                    vec![("KILN_SIM_CC", capability), ("KILN_SIM_SEED", &seed), ("KILN_SIM_REPORT", report_path)];
                settings.extend((!arithmetic.is_empty()).then_some(("KILN_SIM_ARITHMETIC", *arithmetic)));
                settings.extend((!is_full).then_some((SHARE, share.as_str())));
                rerun_with(name, &settings);
                for (sum, counter) in multiply_adds.iter_mut().zip(matrices) {
                    *sum += counted_in(report.path(), counter);
                }
            }
        }
    }
    assert!(!multiply_adds.contains(&0), "{name}: {matrices:?} are {multiply_adds:?}");
}

/// A counter, over all launches of a report.
fn counted_in(report: &Path, counter: &str) -> u64 {
    let text = std::fs::read_to_string(report).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["counters"][counter].as_u64()).sum()
}

/// Tests of this binary that also run on the simulated GPU, under their own names in a module of that name; `cases` are tests whose cases
/// are spread over many settings, with the counters of tensor cores none of which may stay zero.
#[allow(unused_macros)]
macro_rules! on_the_simulated_gpu {
    (cases: $($test:ident $([$($counter:literal)*])?)*) => {
        #[cfg(feature = "cuda")]
        mod on_the_simulated_gpu {
            $(
                #[test]
                fn $test() {
                    crate::common::simulated::rerun_cases(stringify!($test), &[$($($counter),*)?]);
                }
            )*
        }
    };
    ($($test:ident)*) => {
        #[cfg(feature = "cuda")]
        mod on_the_simulated_gpu {
            $(
                #[test]
                fn $test() {
                    crate::common::simulated::rerun(
                        stringify!($test),
                        &[
                            &[("KILN_SIM_CC", "8.0"), ("KILN_SIM_SEED", "1"), ("KILN_SIM_ARITHMETIC", "perturb,truncate")],
                            &[("KILN_SIM_CC", "9.0"), ("KILN_SIM_SEED", "2")],
                        ],
                    );
                }
            )*
        }
    };
}
#[allow(unused_imports)]
pub(crate) use on_the_simulated_gpu;
