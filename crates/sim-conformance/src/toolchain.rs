//! The CUDA compiler and the packages whose device code is compiled, from a folder that `cargo xtask setup` fills.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names another folder with the toolchain.
const VARIABLE: &str = "KILN_CUDA_TOOLS";

/// Why device code could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    #[error(
        "the CUDA toolchain is incomplete: {missing} is not there. Run `cargo xtask setup`, or set KILN_CUDA_TOOLS to a \
         folder with its wheels' files"
    )]
    Missing { missing: PathBuf },
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{command} failed ({status}):\n{output}")]
    Failed { command: String, status: String, output: String },
}

/// A folder with the files of the CUDA compiler's wheels (`pip install --target`).
#[derive(Clone, Debug)]
pub struct Toolchain {
    packages: PathBuf,
    version: String,
}

impl Toolchain {
    /// The toolchain in `KILN_CUDA_TOOLS`, or else in `target/tools/cuda` of this workspace.
    ///
    /// # Errors
    /// `Missing`, with the remedy, if the folder or the compiler in it is not there; `Failed` if the compiler does not run.
    pub fn find() -> Result<Self, ToolchainError> {
        let root = std::env::var_os(VARIABLE).map_or_else(|| workspace_root().join("target/tools/cuda"), PathBuf::from);
        let mut toolchain = Toolchain { packages: root, version: String::new() };
        toolchain.version = run(Command::new(toolchain.nvcc()?).arg("--version"))?;
        Ok(toolchain)
    }

    /// The folder of the wheels' files.
    pub fn packages(&self) -> &Path {
        &self.packages
    }

    /// What the compiler says about itself: part of every cache key.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Headers of CUTLASS and CuTe.
    ///
    /// # Errors
    /// `Missing`.
    pub fn cutlass_include(&self) -> Result<PathBuf, ToolchainError> {
        existing(self.packages.join("cutlass_library/source/include"))
    }

    /// Compiles a CUDA source file to PTX for `arch`, such as `sm_90a`; cached in `target/conformance` by the source, the
    /// headers beside it, the flags and the compiler's version.
    ///
    /// # Errors
    /// `Failed` with the compiler's messages.
    pub fn compile(&self, source: &Path, arch: &str, flags: &[&str]) -> Result<String, ToolchainError> {
        let text = read(source)?;
        let headers = headers_beside(source)?;
        let key = (text, headers, arch, flags, self.version());
        cached(&stem(source), &key, |out| {
            let mut command = Command::new(self.nvcc()?);
            command.args(["-ptx", "-lineinfo", "-std=c++17", "--expt-relaxed-constexpr", "-arch", arch]);
            command.arg("-isystem").arg(self.cutlass_include()?).args(flags);
            run(command.arg(source).arg("-o").arg(out)).map(drop)
        })
    }

    /// Compiles all kernels of a Triton script, which writes `<kernel>-<capability>.ptx` and `.json` into the folder that it is given; cached by
    /// the script's text. Returns the text of one kernel's PTX and of its facts.
    ///
    /// # Errors
    /// `Failed` with Python's messages.
    pub fn compile_triton(
        &self,
        script: &Path,
        kernel: &str,
        capability: u32,
    ) -> Result<(String, String), ToolchainError> {
        let mut hasher = DefaultHasher::new();
        read(script)?.hash(&mut hasher);
        let folder = workspace_root().join(format!("target/conformance/{}-{:016x}", stem(script), hasher.finish()));
        // The list of what was made is the cached text: it exists once everything does.
        cached(&stem(script), &read(script)?, |out| {
            fs::create_dir_all(&folder).map_err(io_error("creating", &folder))?;
            let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
            let mut command = Command::new(python);
            command.arg(script).arg(&folder).env("PYTHONPATH", &self.packages).env("TRITON_DEFAULT_FP_FUSION", "1");
            let printed = run(command.env("TRITON_CACHE_DIR", folder.join("cache")))?;
            fs::write(out, printed).map_err(io_error("writing", out))
        })?;
        let text = |extension: &str| read(&folder.join(format!("{kernel}-{capability}.{extension}")));
        Ok((text("ptx")?, text("json")?))
    }

    /// Assembles PTX text for `arch` with ptxas, and throws the machine code away; cached as in [`Toolchain::compile`].
    ///
    /// # Errors
    /// `Failed` with the assembler's messages.
    pub fn assemble(&self, name: &str, ptx: &str, arch: &str) -> Result<(), ToolchainError> {
        let key = (ptx, arch, self.version());
        cached(name, &key, |out| {
            let source = out.with_extension("source");
            fs::write(&source, ptx).map_err(io_error("writing", &source))?;
            let ptxas = existing(self.packages.join("nvidia/cu13/bin/ptxas"))?;
            let machine_code = out.with_extension("cubin");
            run(Command::new(ptxas).args(["-O0", "-arch", arch, "-o"]).arg(&machine_code).arg(&source))?;
            fs::remove_file(&machine_code).map_err(io_error("removing", &machine_code))?;
            fs::rename(&source, out).map_err(io_error("renaming", &source))
        })
        .map(drop)
    }

    fn nvcc(&self) -> Result<PathBuf, ToolchainError> {
        existing(self.packages.join("nvidia/cu13/bin/nvcc"))
    }
}

/// Runs `make(path)`, which writes a file, unless a file for the same key is in `target/conformance` already; returns its
/// text. Tests in several threads and processes may ask for one key at once: one makes the file, the others wait.
///
/// # Errors
/// Those of `make`, and of reading and writing files.
pub(crate) fn cached(
    name: &str,
    key: &impl Hash,
    make: impl FnOnce(&Path) -> Result<(), ToolchainError>,
) -> Result<String, ToolchainError> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let folder = workspace_root().join("target/conformance");
    fs::create_dir_all(&folder).map_err(io_error("creating", &folder))?;
    let file = folder.join(format!("{name}-{:016x}.ptx", hasher.finish()));
    let lock_path = file.with_extension("lock");
    let lock = File::create(&lock_path).map_err(io_error("creating", &lock_path))?;
    lock.lock().map_err(io_error("locking", &lock_path))?;
    if !file.exists() {
        // An interrupted compilation must not leave half a file under the final name.
        let unfinished = file.with_extension("unfinished");
        make(&unfinished)?;
        fs::rename(&unfinished, &file).map_err(io_error("renaming", &unfinished))?;
    }
    read(&file)
}

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.ancestors().nth(2).unwrap_or(here).to_owned()
    })
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, ToolchainError> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(io_error("running", Path::new(&shown)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let output_text = text(&output.stdout) + &text(&output.stderr);
    let shown = format!("{command:?}");
    Err(ToolchainError::Failed { command: shown, status: output.status.to_string(), output: output_text })
}

/// The text of every header in the source's folder: a source may include any of them.
fn headers_beside(source: &Path) -> Result<Vec<String>, ToolchainError> {
    let Some(folder) = source.parent() else { return Ok(Vec::new()) };
    let entries = fs::read_dir(folder).map_err(io_error("listing", folder))?;
    let mut headers: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    headers.retain(|p| p.extension() == Some(OsStr::new("cuh")));
    headers.sort();
    headers.iter().map(|p| read(p)).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn existing(path: PathBuf) -> Result<PathBuf, ToolchainError> {
    if path.exists() { Ok(path) } else { Err(ToolchainError::Missing { missing: path }) }
}

fn read(path: &Path) -> Result<String, ToolchainError> {
    fs::read_to_string(path).map_err(io_error("reading", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ToolchainError {
    let path = path.to_owned();
    move |source| ToolchainError::Io { action, path, source }
}
