//! What llama.cpp's kernels execute for a token of the default model, on the simulated GPU. Recorded, because it takes
//! llama.cpp's source; compiled from that, and neither changed nor copied here.
//!
//! Only the products with matrices are counted, and the rounding of their inputs, as llama.cpp's CUDA backend launches them: gate and up
//! in one launch, every product with its input rounded before it. Norms, RoPE, the cache, attention and residual sums are left out,
//! in llama.cpp's favour.

use super::problem;
use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const RECORD: &str = "xtask/llama_counters.json";
const LAYERS: u64 = 30;
/// Rows of activations are padded to this many.
const PADDING: u32 = 512;
const CTA_WARPS: u32 = 4;

/// What is recorded.
#[derive(Serialize, Deserialize)]
pub struct LlamaCounters {
    /// Of the package llama-cpp-python.
    version: String,
    launches: Vec<Recorded>,
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    what: String,
    kernel: String,
    /// Launches per token.
    times: u64,
    warp_instructions: u64,
}

impl LlamaCounters {
    pub fn read(repo: &Repo) -> Result<LlamaCounters, Error> {
        let path = repo.root().join(RECORD);
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        serde_json::from_str(&text).map_err(|e| problem(RECORD, &e.to_string()))
    }

    pub fn warp_instructions(&self) -> u64 {
        self.launches.iter().map(|launch| launch.times * launch.warp_instructions).sum()
    }
}

/// Runs the kernels of an unpacked source package of llama-cpp-python, and replaces the record.
pub fn record(repo: &Repo, tools: &Path, package: &Path) -> Result<(), Error> {
    let simulator = Simulator::prepare(repo, tools, package)?;
    let counters = LlamaCounters { version: version(package)?, launches: simulator.token()? };
    println!("{} warp instructions per token of SmolLM2 in {RECORD}", counters.warp_instructions());
    let text = serde_json::to_string_pretty(&counters).map_err(|e| problem(RECORD, &e.to_string()))?;
    let path = repo.root().join(RECORD);
    fs::write(&path, text + "\n").map_err(Error::io("writing", &path))
}

fn version(package: &Path) -> Result<String, Error> {
    let path = package.join("llama_cpp/__init__.py");
    let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    quoted.map(|q| q.trim_matches('"').to_owned()).ok_or_else(|| problem(&path.to_string_lossy(), "no __version__"))
}

/// A block format of llama.cpp: its number in `enum ggml_type`, and the bytes of 32 weights.
struct Format {
    number: u32,
    bytes: u32,
}

const Q4_1: Format = Format { number: 3, bytes: 20 };
const Q8_0: Format = Format { number: 8, bytes: 34 };
const ACTIVATION_BYTES: u32 = 36;

struct Simulator {
    program: PathBuf,
    products: PathBuf,
    rounding: PathBuf,
}

impl Simulator {
    fn prepare(repo: &Repo, tools: &Path, package: &Path) -> Result<Simulator, Error> {
        process::run(process::cargo(repo).args(["build", "--release", "--package", "sim-cli"]))?;
        let out = repo.root().join("target/counters/llama");
        fs::create_dir_all(&out).map_err(Error::io("creating", &out))?;
        // The backend's common header wants cuBLAS declared; no kernel that is counted calls it.
        let header = out.join("cublas_v2.h");
        fs::write(&header, CUBLAS).map_err(Error::io("writing", &header))?;
        let ggml = package.join("vendor/llama.cpp/ggml");
        let compile = |name: &str| {
            let (toolkit, ptx) = (tools.join("nvidia/cu13"), out.join(format!("{name}.ptx")));
            let mut nvcc = Command::new(toolkit.join("bin/nvcc"));
            // As llama.cpp's build has them.
            nvcc.args(["-ptx", "-w", "-std=c++17", "-O3", "-use_fast_math", "-extended-lambda", "-arch=compute_90"]);
            let includes = [toolkit.join("include"), toolkit.join("include/cccl"), out.clone()];
            for folder in includes.iter().chain(&[ggml.join("include"), ggml.join("src")]) {
                nvcc.arg("-I").arg(folder);
            }
            nvcc.arg(ggml.join(format!("src/ggml-cuda/{name}.cu"))).arg("-o").arg(&ptx);
            process::run(&mut nvcc).map(|()| ptx)
        };
        Ok(Simulator {
            program: repo.root().join("target/release/sim"),
            products: compile("mmvq")?,
            rounding: compile("quantize")?,
        })
    }

    fn token(&self) -> Result<Vec<Recorded>, Error> {
        let product = |what: &str, times, format: &Format, cols, rows, gated| {
            let (kernel, arguments) = product(format, cols, rows, gated);
            self.run(what, times, &self.products, &kernel, rows / CTA_WARPS, "32,4", &arguments)
        };
        let rounding = |what: &str, times, cols: u32| {
            let (kernel, arguments) = rounding(&self.rounding, cols)?;
            self.run(what, times, &self.rounding, &kernel, cols.next_multiple_of(PADDING) / 256, "256", &arguments)
        };
        Ok(vec![
            product("query and output, 576 × 576, Q4_1", 2 * LAYERS, &Q4_1, 576, 576, false)?,
            product("keys and values, 192 × 576, Q4_1", 2 * LAYERS, &Q4_1, 576, 192, false)?,
            product("gate and up, 2 × 1536 × 576, Q4_1", LAYERS, &Q4_1, 576, 1536, true)?,
            product("down, 576 × 1536, Q4_1", LAYERS, &Q4_1, 1536, 576, false)?,
            product("head, 49152 × 576, Q8_0", 1, &Q8_0, 576, 49152, false)?,
            rounding("inputs of 576", 5 * LAYERS + 1, 576)?,
            rounding("inputs of 1536", LAYERS, 1536)?,
        ])
    }

    #[allow(clippy::too_many_arguments, reason = "a launch has that many sides")]
    fn run(
        &self,
        what: &str,
        times: u64,
        ptx: &Path,
        kernel: &str,
        ctas: u32,
        block: &str,
        arguments: &[String],
    ) -> Result<Recorded, Error> {
        let mut sim = Command::new(&self.program);
        sim.arg("run").arg(ptx).args(["--json", "--cc", "9.0", "--entry", kernel, "--block", block]);
        sim.args(["--grid", &ctas.to_string()]).args(arguments.iter().flat_map(|a| ["--arg", a.as_str()]));
        let report: serde_json::Value =
            serde_json::from_str(&process::capture(&mut sim)?).map_err(|e| problem(what, &e.to_string()))?;
        let counted = report["runs"][0]["launch"]["counters"]["instructions"].as_u64();
        let warp_instructions = counted.ok_or_else(|| problem(what, "`sim run` counted no instructions"))?;
        Ok(Recorded { what: what.to_owned(), kernel: kernel.to_owned(), times, warp_instructions })
    }
}

/// `mul_mat_vec_q` for one column, with its arguments. Both of these shapes have too few columns to occupy four warps with one row, so that
/// llama.cpp takes the instance that gives a CTA four rows.
fn product(format: &Format, cols: u32, rows: u32, gated: bool) -> (String, Vec<String>) {
    let kernel = format!(
        "_Z13mul_mat_vec_qIL9ggml_type{}ELi1ELb{}ELb1ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_devicePfj5uint3jjjS7_jjjS7_jjjj",
        format.number,
        u8::from(gated)
    );
    let (blocks, padded) = (cols / 32, cols.next_multiple_of(PADDING) / 32);
    let weights = format!("buffer:u8:{}:zero", blocks * rows * format.bytes);
    let gate = if gated { weights.clone() } else { "u64:0".to_owned() };
    let swiglu = "i32:2";
    let strides = [format!("u32:{}", blocks * rows), format!("u32:{padded}"), format!("u32:{rows}")];
    let mut arguments = vec![
        weights,
        format!("buffer:u8:{}:zero", padded * ACTIVATION_BYTES),
        "u64:0".to_owned(),
        format!("struct{{u64:0,{gate},u64:0,u64:0,u64:0,{swiglu},f32:0}}"),
        format!("buffer:f32:{rows}:zero"),
        format!("u32:{cols}"),
        DIVIDE_BY_ONE.to_owned(),
        format!("u32:{blocks}"),
        format!("u32:{padded}"),
        format!("u32:{rows}"),
    ];
    // Channels and samples: one of each.
    for _ in 0..2 {
        arguments.push(DIVIDE_BY_ONE.to_owned());
        arguments.extend(strides.clone());
    }
    arguments.push("u32:0".to_owned());
    (kernel, arguments)
}

/// `quantize_q8_1` for one row, with its arguments.
fn rounding(ptx: &Path, cols: u32) -> Result<(String, Vec<String>), Error> {
    let text = fs::read_to_string(ptx).map_err(Error::io("reading", ptx))?;
    let names = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(".visible .entry ").or(line.strip_prefix(".entry ")));
    let mut names = names.map(|name| name.trim_end_matches('('));
    let kernel = names.find(|name| name.contains("quantize_q8_1P"));
    let kernel = kernel.ok_or_else(|| problem("quantize.cu", "no kernel quantize_q8_1"))?.to_owned();
    let padded = cols.next_multiple_of(PADDING);
    let mut arguments =
        vec![format!("buffer:f32:{cols}"), format!("buffer:u8:{}:zero", padded / 32 * ACTIVATION_BYTES)];
    arguments.extend(vec![format!("i64:{cols}"); 4]);
    arguments.extend([format!("i64:{padded}"), "u32:1".to_owned(), DIVIDE_BY_ONE.to_owned()]);
    Ok((kernel, arguments))
}

/// The constants with which llama.cpp's kernels divide by one.
const DIVIDE_BY_ONE: &str = "struct{u32:1,u32:0,u32:1}";

const CUBLAS: &str = "#pragma once
typedef void *cublasHandle_t;
typedef int cublasStatus_t, cublasOperation_t, cublasComputeType_t;
enum { CUBLAS_STATUS_SUCCESS, CUBLAS_TF32_TENSOR_OP_MATH, CUBLAS_COMPUTE_16F, CUBLAS_COMPUTE_32F };
const char *cublasGetStatusString(int);
int cublasCreate(cublasHandle_t *), cublasDestroy(cublasHandle_t), cublasSetMathMode(cublasHandle_t, int);
int cublasSetStream(cublasHandle_t, void *);
";
