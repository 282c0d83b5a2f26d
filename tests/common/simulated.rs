//! Tests of the CUDA device on the simulated GPU: the same tests again, each in a process of its own that finds the simulated
//! driver as `libcuda.so`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the processes that [`rerun`] starts: the device under test is the CUDA device.
const CHILD: &str = "KILN_TEST_CUDA";

/// Whether this process is one that [`rerun`] started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test `name` of this binary again, with every checker on, once for each list of settings.
pub fn rerun(name: &str, runs: &[&[(&str, &str)]]) {
    for settings in runs {
        rerun_with(name, settings);
    }
}

/// Like [`rerun`], once; returns what it printed.
pub fn rerun_with(name: &str, settings: &[(&str, &str)]) -> String {
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

/// Tests of this binary that also run on the simulated GPU, under their own names in a module of that name. Compute capabilities 8.0 and
/// 9.0, different schedules, perturbed approximations, and both ways in which tensor cores may round.
#[allow(unused_macros)]
macro_rules! on_the_simulated_gpu {
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
