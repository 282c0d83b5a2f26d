//! llama.cpp's own tools, built for this machine from the source that the package llama-cpp-python carries.

use crate::error::Error;
use crate::process;
use crate::references;
use crate::repo::Repo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where llama-batched-bench and llama-quantize are.
pub struct LlamaTools {
    folder: PathBuf,
    description: String,
}

impl LlamaTools {
    /// Uses the llama-batched-bench given, and the llama-quantize beside it; or builds both into `.venv-llama-tools`.
    pub fn ready(repo: &Repo, given: Option<&Path>) -> Result<LlamaTools, Error> {
        let tools = match given {
            Some(path) => {
                let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
                LlamaTools { folder, description: "llama.cpp: the llama-batched-bench given".to_owned() }
            }
            None => built(repo)?,
        };
        for tool in [tools.batched_bench(), tools.quantize()] {
            if !tool.is_file() {
                let problem =
                    "no such file; --llama-batched-bench takes the path of one that has llama-quantize beside it";
                return Err(Error::Compare { subject: tool.display().to_string(), problem: problem.to_owned() });
            }
        }
        Ok(tools)
    }

    pub fn description(&self) -> &str {
        &self.description
    }

    pub fn batched_bench(&self) -> PathBuf {
        self.folder.join("llama-batched-bench")
    }

    pub fn quantize(&self) -> PathBuf {
        self.folder.join("llama-quantize")
    }
}

/// The note that ends a build holds what it was built from and with, so that an interrupted or outdated one is repeated.
fn built(repo: &Repo) -> Result<LlamaTools, Error> {
    let compare = repo.root().join("xtask/compare");
    let read = |path: &Path| fs::read_to_string(path).map_err(Error::io("reading", path));
    let (packages, builders) = (compare.join("requirements.txt"), compare.join("builders.txt"));
    let wanted = read(&packages)? + &read(&builders)?;
    let venv = repo.root().join(".venv-llama-tools");
    let (bin, build) = (venv.join("bin"), venv.join("build"));
    let description =
        format!("llama-batched-bench from the source in {}, built with GGML_NATIVE=ON", references::PACKAGE);
    let tools = LlamaTools { folder: build.join("bin"), description };
    let note = venv.join("installed.txt");
    if fs::read_to_string(&note).is_ok_and(|found| found == wanted) {
        return Ok(tools);
    }
    eprintln!("building llama.cpp's tools in .venv-llama-tools, which takes several minutes");
    process::run(process::python().args(["-m", "venv", "--clear"]).arg(&venv))?;
    let python = |args: &[&str]| {
        let mut command = Command::new(bin.join("python"));
        command.args(args);
        command
    };
    process::run(python(&["-m", "pip", "--disable-pip-version-check", "install", "-r"]).arg(&builders))?;
    process::run(python(&["-m", "tarfile", "-e"]).arg(references::package(repo)?).arg(venv.join("unpacked")))?;
    let mut configure = Command::new(bin.join("cmake"));
    configure.arg("-S").arg(only_entry(&venv.join("unpacked"))?.join("vendor/llama.cpp")).arg("-B").arg(&build);
    configure.args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"]);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", bin.join("ninja").display()));
    for part in ["CURL", "OPENSSL", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER", "BUILD_UI"] {
        configure.arg(format!("-DLLAMA_{part}=OFF"));
    }
    process::run(&mut configure)?;
    let mut make = Command::new(bin.join("cmake"));
    process::run(make.arg("--build").arg(&build).args(["--target", "llama-batched-bench", "llama-quantize"]))?;
    fs::write(&note, wanted).map_err(Error::io("writing", &note))?;
    Ok(tools)
}

fn only_entry(folder: &Path) -> Result<PathBuf, Error> {
    let mut entries = fs::read_dir(folder).map_err(Error::io("listing", folder))?.filter_map(|entry| entry.ok());
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => Err(Error::Compare {
            subject: folder.display().to_string(),
            problem: "one entry was expected in it".to_owned(),
        }),
    }
}
