//! `sim run`.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use sim_exec::report::LaunchLine;
use sim_exec::{
    Arithmetic, Checks, Finding, Gpu, GpuConfig, Kernel, LaunchConfig, LaunchError, LoadedModule, l2_bytes,
};

use crate::annotate::{self, Sources};
use crate::argument::{self, Argument, Shown};
use crate::error::Error;
use crate::image::Contents;
use crate::{Verdict, capability};

/// Bytes of the workspace that cooperative groups keep their grid barrier in.
const GRID_WORKSPACE_BYTES: u64 = 4096;

/// Run one kernel: findings and counters
///
/// Exits with 1 if a checker finds something, with 2 if the kernel cannot be run as asked.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// PTX text, a fatbin, or an object file, program or library with fatbins in it
    file: PathBuf,

    /// The kernel; its mangled name for C++ [default: the only one]
    #[arg(long)]
    entry: Option<String>,

    /// CTAs: X, X,Y or X,Y,Z
    #[arg(long, default_value = "1", value_parser = extent)]
    grid: [u32; 3],

    /// Threads per CTA: X, X,Y or X,Y,Z
    #[arg(long, default_value = "1", value_parser = extent)]
    block: [u32; 3],

    /// CTAs per cluster [default: what the kernel requires, or none]
    #[arg(long, value_parser = extent)]
    cluster: Option<[u32; 3]>,

    /// All CTAs are resident at once and may wait for each other
    #[arg(long)]
    cooperative: bool,

    /// Bytes of dynamic shared memory
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    shared: u32,

    /// A kernel argument; give one for each parameter, in order
    #[arg(long = "arg", value_name = "ARGUMENT", allow_hyphen_values = true, long_help = argument::HELP)]
    args: Vec<String>,

    /// Compute capability of the device: 8.0, 8.9, 9.0, 10.0 or 12.0
    #[arg(long, default_value = "9.0", value_parser = capability)]
    cc: (u32, u32),

    /// Chooses the schedule of warps and CTAs
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Schedules to run, with the seeds from --seed on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,

    /// Chooses the random contents of buffers
    #[arg(long, default_value_t = 1)]
    data_seed: u64,

    /// Checkers that run; bounds, alignment, barriers and deadlocks are always checked
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    checks: Vec<Check>,

    /// Variations of arithmetic that hardware may show
    #[arg(long, value_enum, value_delimiter = ',')]
    arithmetic: Vec<Variation>,

    /// Threads of the host that run CTAs; with several, which of many findings comes first may differ from run to run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,

    /// Warp instructions after which the kernel counts as hung
    #[arg(long, value_name = "N", default_value_t = GpuConfig::default().instructions_max)]
    instructions_max: u64,

    /// Print the kernel's text with counters beside each line
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "source")]
    annotate: Option<Text>,

    /// Folder to look for source files in, where the paths in the line tables lead nowhere
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,

    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    All,
    None,
    /// Reads of bytes that nothing wrote
    Uninitialised,
    /// Races, missing waits and proxy fences
    Races,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variation {
    /// Approximate instructions err within their documented bounds, by seed
    Perturb,
    /// Matrix products align and truncate, as tensor cores have been observed to do
    Truncate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Text {
    /// The CUDA source, or the PTX if there are no line tables
    Source,
    Ptx,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    compute_capability: (u32, u32),
    runs: Vec<Run>,
}

/// One seed's run.
#[derive(Debug, Serialize)]
struct Run {
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch: Option<LaunchLine>,
    /// What the kernel printed.
    output: String,
    buffers: Vec<Shown>,
}

/// Runs the kernel once for each seed and prints what happened.
///
/// # Errors
/// When the kernel cannot be run as asked.
pub fn run(args: &RunArgs) -> Result<Verdict, Error> {
    let arguments = args.args.iter().map(|text| text.parse()).collect::<Result<Vec<Argument>, Error>>()?;
    let contents = Contents::read(&args.file, args.cc)?;
    let ptx = find_module(&args.file, &contents, args.entry.as_deref())?;
    let mut runs = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        runs.push(run_once(args, ptx, &arguments, seed)?);
    }
    let found = runs.iter().any(|run| run.finding.is_some());
    if args.json {
        let document = Document { compute_capability: args.cc, runs };
        writeln!(stdout().lock(), "{}", serde_json::to_string_pretty(&document)?)?;
    } else {
        print(args, ptx, &runs)?;
    }
    Ok(if found { Verdict::Findings } else { Verdict::Clean })
}

/// The PTX with the kernel that is asked for.
fn find_module<'c>(path: &Path, contents: &'c Contents, entry: Option<&str>) -> Result<&'c str, Error> {
    let [only] = contents.modules.as_slice() else {
        // Names of kernels stand in the text behind `.entry`: loading every module of a program would take long.
        let names = |ptx| str::split(ptx, ".entry ").skip(1).filter_map(|rest| rest.split(['(', ' ', '\n']).next());
        let found = entry.and_then(|name| contents.modules.iter().find(|m| names(&m.ptx).any(|n| n == name)));
        return found.map(|m| m.ptx.as_str()).ok_or_else(|| Error::NoEntry {
            path: path.to_owned(),
            expected: format!("{} modules: name a kernel that `sim list` shows, with --entry", contents.modules.len()),
            found: entry.unwrap_or("was named").to_owned(),
        });
    };
    Ok(&only.ptx)
}

fn find_kernel<'m>(args: &RunArgs, module: &'m LoadedModule) -> Result<&'m Kernel, Error> {
    let kernel = match &args.entry {
        Some(name) => module.kernels.get(name),
        None if module.kernels.len() == 1 => module.kernels.values().next(),
        None => None,
    };
    kernel.ok_or_else(|| Error::NoEntry {
        path: args.file.clone(),
        expected: module.kernels.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        found: args.entry.clone().unwrap_or_else(|| "was named with --entry".into()),
    })
}

fn run_once(args: &RunArgs, ptx: &str, arguments: &[Argument], seed: u64) -> Result<Run, Error> {
    let gpu = Gpu::new(config(args, seed));
    let module = LoadedModule::load(&gpu, ptx, &args.file.to_string_lossy())?;
    let kernel = find_kernel(args, &module)?;
    let placed = arguments.iter().enumerate().map(|(i, a)| a.place(&gpu, i, args.data_seed));
    let placed = placed.collect::<Result<Vec<_>, _>>()?;
    let bytes: Vec<&[u8]> = placed.iter().map(|p| p.bytes.as_slice()).collect();
    let params = parameters(kernel, arguments, &bytes)?;
    let mut launch = LaunchConfig {
        grid: args.grid,
        block: args.block,
        cluster: args.cluster.or(kernel.cluster).unwrap_or([1; 3]),
        dynamic_shared_bytes: args.shared,
        cooperative: args.cooperative,
        params: &params,
        seed,
        ..LaunchConfig::default()
    };
    if args.cooperative {
        launch.grid_workspace = gpu.memory.alloc(GRID_WORKSPACE_BYTES, "grid barrier")?;
        gpu.memory.write(launch.grid_workspace, &[0; GRID_WORKSPACE_BYTES as usize])?;
    }
    let report = match gpu.launch(kernel, &launch) {
        Ok(report) => report,
        Err(LaunchError::Finding(mut finding)) => {
            finding.message = annotate::shortened(&finding.message);
            finding.place.source = finding.place.source.map(|(file, line)| (annotate::shortened(&file), line));
            let (output, buffers) = (String::new(), Vec::new());
            return Ok(Run { seed, finding: Some(*finding), launch: None, output, buffers });
        }
        Err(refused) => return Err(refused.into()),
    };
    let mut buffers = Vec::new();
    for buffer in &placed {
        buffers.extend(buffer.collect(&gpu)?);
    }
    let mut lines = match args.annotate {
        None => Vec::new(),
        Some(Text::Source) => report.by_source_line(kernel),
        Some(Text::Ptx) => report.by_ptx_line(kernel),
    };
    if args.annotate == Some(Text::Source) && lines.is_empty() {
        lines = report.by_ptx_line(kernel);
    }
    lines.iter_mut().for_each(|line| line.file = line.file.take().map(|file| annotate::shortened(&file)));
    let line = LaunchLine {
        kernel: kernel.name.clone(),
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        dynamic_shared_bytes: launch.dynamic_shared_bytes,
        counters: report.counters,
        lines,
    };
    Ok(Run { seed, finding: None, launch: Some(line), output: report.output, buffers })
}

fn config(args: &RunArgs, seed: u64) -> GpuConfig {
    let has = |check| args.checks.contains(&Check::All) || args.checks.contains(&check);
    GpuConfig {
        compute_capability: args.cc,
        instructions_max: args.instructions_max,
        workers: args.workers as usize,
        checks: Checks { uninitialised: has(Check::Uninitialised), races: has(Check::Races) },
        arithmetic: Arithmetic {
            perturb: args.arithmetic.contains(&Variation::Perturb).then_some(seed),
            mma_truncates: args.arithmetic.contains(&Variation::Truncate),
        },
        ..GpuConfig::default()
    }
}

/// The parameter buffer.
fn parameters(kernel: &Kernel, arguments: &[Argument], bytes: &[&[u8]]) -> Result<Vec<u8>, Error> {
    if arguments.len() != kernel.params.len() {
        let slots: Vec<String> = kernel.params.iter().map(|p| format!("{} bytes", p.bytes)).collect();
        return Err(Error::ArgumentCount {
            kernel: kernel.name.clone(),
            expected: kernel.params.len(),
            slots: slots.join(", "),
            found: arguments.len(),
        });
    }
    let mut params = vec![0; kernel.param_bytes as usize];
    for (number, ((argument, bytes), slot)) in arguments.iter().zip(bytes).zip(&kernel.params).enumerate() {
        if bytes.len() != slot.bytes as usize {
            return Err(Error::ArgumentSize {
                number,
                text: argument.text.clone(),
                kernel: kernel.name.clone(),
                expected: slot.bytes,
                found: bytes.len(),
            });
        }
        params[slot.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(params)
}

fn print(args: &RunArgs, ptx: &str, runs: &[Run]) -> Result<(), Error> {
    let mut out = stdout().lock();
    let sources = Sources::new(&args.file, args.source.as_deref());
    let mut findings: Vec<(&Finding, Vec<u64>)> = Vec::new();
    for run in runs {
        let Some(finding) = &run.finding else { continue };
        match findings.iter_mut().find(|(f, _)| f.kind == finding.kind && f.place == finding.place) {
            Some((_, seeds)) => seeds.push(run.seed),
            None => findings.push((finding, vec![run.seed])),
        }
    }
    for (finding, seeds) in &findings {
        annotate::finding(&mut out, finding, ptx, &sources)?;
        match seeds.as_slice() {
            [only] => writeln!(out, "  with --seed {only}")?,
            [first, ..] => writeln!(out, "  with --seed {first} and {} others of {}", seeds.len() - 1, runs.len())?,
            [] => {}
        }
    }
    let clean: Vec<&Run> = runs.iter().filter(|r| r.finding.is_none()).collect();
    if let Some((&run, rest)) = clean.split_first() {
        print_run(&mut out, args, run)?;
        if let Some(launch) = &run.launch {
            annotate::lines(&mut out, &launch.lines, Some(ptx), &sources)?;
        }
        print_differences(&mut out, run, rest)?;
    }
    if runs.len() > 1 {
        writeln!(out, "{} of {} schedules ran without a finding", clean.len(), runs.len())?;
    }
    Ok(())
}

fn print_run(out: &mut dyn Write, args: &RunArgs, run: &Run) -> Result<(), Error> {
    let Some(launch) = &run.launch else { return Ok(()) };
    let shape = |n: [u32; 3]| format!("{}×{}×{}", n[0], n[1], n[2]);
    let (grid, block) = (shape(launch.grid), shape(launch.block));
    out.write_all(run.output.as_bytes())?;
    writeln!(out, "{}: grid {grid}, block {block}, seed {}", launch.kernel, run.seed)?;
    write!(out, "{}", launch.counters)?;
    let (footprint, l2) = (launch.counters.footprint_bytes, l2_bytes(args.cc));
    if footprint > l2 {
        writeln!(out, "The footprint exceeds the L2 of {} MiB: DRAM bytes are a lower bound.", l2 >> 20)?;
    }
    run.buffers.iter().try_for_each(|shown| writeln!(out, "{shown}"))?;
    Ok(())
}

/// What other schedules did differently.
fn print_differences(out: &mut dyn Write, first: &Run, rest: &[&Run]) -> Result<(), Error> {
    let counters = |run: &Run| run.launch.as_ref().map(|l| l.counters);
    let values = |run: &Run| run.buffers.iter().map(|b| b.values.clone()).collect::<Vec<_>>();
    if let Some(other) = rest.iter().find(|run| values(run) != values(first)) {
        writeln!(out, "The buffers shown differ between seeds {} and {}.", first.seed, other.seed)?;
    }
    if let Some(other) = rest.iter().find(|run| counters(run) != counters(first)) {
        writeln!(out, "Counters differ between seeds {} and {}.", first.seed, other.seed)?;
    }
    Ok(())
}

/// Reads `16`, `16,16` or `16,16,4`.
fn extent(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(format!("expected 1 to 3 numbers, found {}", parts.len()));
    }
    for (n, part) in out.iter_mut().zip(parts) {
        *n = part.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("expected a number from 1, found {part:?}"))?;
    }
    Ok(out)
}
