//! The Python environment that holds llama.cpp: `.venv-llama`, or one that the user names.

use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// An interpreter that imports llama_cpp and gguf, with llama.cpp built for this machine.
pub struct LlamaPython {
    path: PathBuf,
    server: PathBuf,
}

impl LlamaPython {
    /// Uses `given`, or installs into `.venv-llama` whatever xtask/compare/requirements.txt pins.
    pub fn ready(repo: &Repo, given: Option<&Path>) -> Result<LlamaPython, Error> {
        let server = repo.root().join("xtask/compare/llama_bench.py");
        match given {
            Some(path) => Ok(LlamaPython { path: path.to_path_buf(), server }),
            None => Ok(LlamaPython { path: installed(repo)?, server }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The committed script that does what llama-bench does.
    pub fn server(&self) -> &Path {
        &self.server
    }
}

/// The note that ends an installation holds what was installed, so that an interrupted or outdated one is repeated.
fn installed(repo: &Repo) -> Result<PathBuf, Error> {
    let venv = repo.root().join(".venv-llama");
    let python = venv.join("bin/python");
    let requirements = repo.root().join("xtask/compare/requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(Error::io("reading", &requirements))?;
    let note = venv.join("installed.txt");
    if fs::read_to_string(&note).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    eprintln!("installing llama.cpp into .venv-llama: it is compiled for this machine, which takes several minutes");
    process::run(process::python().args(["-m", "venv", "--clear"]).arg(&venv)).map_err(|error| match error {
        xtask::Error::Failed { .. } => Error::Compare {
            subject: "`python3 -m venv`".to_owned(),
            problem: "failed; on Debian and Ubuntu it needs `apt install python3-venv`".to_owned(),
        },
        other => other.into(),
    })?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir"]);
    // Only this package from source: a wheel, or one cached from another machine, would not use this one's vectors.
    pip.args(["--no-binary", "llama-cpp-python", "-r"]).arg(&requirements).env("CMAKE_ARGS", "-DGGML_NATIVE=ON");
    process::run(&mut pip)?;
    fs::write(&note, wanted).map_err(Error::io("writing", &note))?;
    Ok(python)
}

/// The vector extensions that this CPU has and llama.cpp, by its own account, was built without.
pub fn unused_extensions(system_info: &str) -> Vec<&'static str> {
    let missing = cpu_extensions().into_iter().filter(|name| !system_info.contains(&format!("{name} = 1")));
    missing.collect()
}

/// The names are those of llama.cpp's system info.
#[cfg(target_arch = "x86_64")]
fn cpu_extensions() -> Vec<&'static str> {
    let extensions = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("AVX512", is_x86_feature_detected!("avx512f")),
        ("AVX512_VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX512_BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    extensions.into_iter().filter(|&(_, present)| present).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_extensions() -> Vec<&'static str> {
    Vec::new()
}

/// CPU model, cores and the extensions that matter here.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (family, model) = (field("cpu family"), field("model"));
    let extensions = cpu_extensions().join(" ");
    format!("{} (family {family}, model {model}), {cores} cores, {extensions}", field("model name"))
}

/// How many cores are in use while this process sleeps; 0 where the system does not say.
pub fn busy_cores(interval: Duration) -> f64 {
    let ticks = || cpu_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let before = ticks();
    std::thread::sleep(interval);
    let (Some((busy_before, total_before)), Some((busy, total))) = (before, ticks()) else { return 0.0 };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (busy - busy_before) as f64 / (total - total_before).max(1) as f64;
    share * cores as f64
}

/// (busy, total) from the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. Stolen time is
/// busy: another guest has the core.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let total: u64 = ticks.iter().sum();
    let idle: u64 = ticks.get(3..5)?.iter().sum();
    Some((total - idle, total))
}

#[cfg(test)]
mod stat_tests {
    use super::*;

    #[test]
    fn idle_and_waiting_ticks_are_not_busy() {
        let stat = "cpu  10 1 5 100 4 0 2 3 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cpu_ticks(stat), Some((21, 125)), "guest time is part of user time already");
        assert_eq!(cpu_ticks(""), None);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_ignores_this_cpu_is_found_out() {
        assert_eq!(unused_extensions("CPU : SSE3 = 1 |"), cpu_extensions());
        let everything = "AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AVX512_BF16 = 1";
        assert!(unused_extensions(everything).is_empty());
    }
}
