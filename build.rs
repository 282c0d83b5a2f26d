//! Compiles `cuda/*.cu` with nvcc into one fatbin per file under `OUT_DIR`; `src/device/cuda` embeds them.
//!
//! Development builds hold PTX for the oldest architecture and for Hopper; release builds hold machine code and PTX for every
//! supported one. `KILN_CUDA_ARCHS` (such as `80,90a`) narrows either; `90a-virtual` is PTX alone. A fatbin whose inputs have not changed is taken from a cache
//! that is keyed by their content, so that switching branches and profiles compiles nothing twice.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
const DEVELOPMENT_ARCHS: [&str; 2] = ["80", "90a"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["KILN_CUDA_ARCHS", "NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = find_nvcc().unwrap_or_else(|| {
        fail(
            "the `cuda` feature needs nvcc 13, and there is none at NVCC, CUDA_HOME, PATH or target/tools/cuda.\n\
             Type `cargo xtask setup` (it installs one from Python wheels), or build without it: \
             `cargo build --no-default-features`",
        )
    });
    let build = Build::new(nvcc);
    let mut sources: Vec<PathBuf> =
        files("cuda").into_iter().filter(|p| p.extension().is_some_and(|e| e == "cu")).collect();
    sources.sort();
    // Files compile side by side; each nvcc is one thread for most of its time.
    std::thread::scope(|scope| {
        for source in &sources {
            let build = &build;
            scope.spawn(move || build.compile(source));
        }
    });
}

struct Build {
    nvcc: PathBuf,
    flags: Vec<String>,
    /// Of everything besides a file's own text that decides what nvcc makes of it.
    common_hash: u64,
    out: PathBuf,
    cache: PathBuf,
}

impl Build {
    fn new(nvcc: PathBuf) -> Build {
        let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
        let archs = env::var("KILN_CUDA_ARCHS")
            .unwrap_or_else(|_| if release { ARCHS.join(",") } else { DEVELOPMENT_ARCHS.join(",") });
        let mut flags: Vec<String> =
            ["--options-file=cuda/nvcc.opt", "-Xptxas=--warn-on-spills", "--Werror=all-warnings"]
                .map(str::to_owned)
                .into();
        for arch in archs.split(',').map(str::trim).filter(|arch| !arch.is_empty()) {
            let (arch, is_virtual) = arch.strip_suffix("-virtual").map_or((arch, !release), |arch| (arch, true));
            if !ARCHS.contains(&arch) {
                fail(&format!(
                    "KILN_CUDA_ARCHS: expected a list of {}, each also with `-virtual` behind it, found `{arch}`",
                    ARCHS.join(", ")
                ));
            }
            flags.push(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
            if !is_virtual {
                flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
            }
        }
        if let Ok(compiler) = cc::Build::new().cpp(true).cargo_metadata(false).try_get_compiler() {
            flags.push(format!("-ccbin={}", compiler.path().display()));
        }
        let mut hasher = DefaultHasher::new();
        flags.hash(&mut hasher);
        fs::metadata(&nvcc).map(|m| (m.len(), m.modified().ok())).ok().hash(&mut hasher);
        for header in files("cuda").iter().filter(|p| p.extension().is_some_and(|e| e != "cu")) {
            read(header).hash(&mut hasher);
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("cargo sets OUT_DIR")));
        // OUT_DIR is target/<profile>/build/<package>/out; the cache lies beside the profiles.
        let cache = out.ancestors().nth(4).unwrap_or(&out).join("cuda-cache");
        fs::create_dir_all(&cache).unwrap_or_else(|e| fail(&format!("creating {}: {e}", cache.display())));
        Build { nvcc, flags, common_hash: hasher.finish(), out, cache }
    }

    fn compile(&self, source: &Path) {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut hasher = DefaultHasher::new();
        (self.common_hash, read(source)).hash(&mut hasher);
        let cached = self.cache.join(format!("{stem}-{:016x}.fatbin", hasher.finish()));
        if !cached.is_file() {
            let partial = cached.with_extension(format!("{}.partial", std::process::id()));
            let mut command = Command::new(&self.nvcc);
            command.arg("-fatbin").args(&self.flags).arg("-o").arg(&partial).arg(source);
            match command.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => fail(&format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr))),
                Err(error) => fail(&format!("{}: {error}", self.nvcc.display())),
            }
            fs::rename(&partial, &cached).unwrap_or_else(|e| fail(&format!("{}: {e}", cached.display())));
        }
        let target = self.out.join(format!("{stem}.fatbin"));
        fs::copy(&cached, &target).unwrap_or_else(|e| fail(&format!("{}: {e}", target.display())));
    }
}

/// `NVCC`, `CUDA_HOME`, the one that `cargo xtask setup` installs, `PATH`.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Some(nvcc.into());
    }
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let wheels = manifest.join("target/tools/cuda/nvidia/cu13/bin/nvcc");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    home.into_iter().chain([wheels]).chain(on_path).find(|nvcc| nvcc.is_file())
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| fail(&format!("{folder}: {e}")));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())))
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}
