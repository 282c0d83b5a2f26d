//! `kiln profile`: a measured region for profiling tools.

use std::io::Write;
use std::process::Command;
use std::time::Instant;

use clap::{Args, ValueEnum};
use kiln::device::{Device, GpuKind, Profiler};
use kiln::model::Program;
use kiln::runtime::{LoadedModel, OpenDevice};

use super::CliError;
use super::args::{DeviceArgs, ModelArgs, StepArgs};
use super::bench::steps::{self, Extent, Sequences};
use super::progress::{Loading, Shown};

/// Run a model for a profiling tool to look at: a prompt and a generation, warmed up
///
/// Between cudaProfilerStart and cudaProfilerStop one sequence of random ids computes a prompt and then decodes, greedily. Under a tool
/// that shows NVTX ranges (Nsight Systems and Nsight Compute), steps, layers and stages have their names; a decode step is one graph
/// launch, so its stages are named where the graph was captured. Prints the speed and the command lines of both tools, or runs one.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of the prompt
    #[arg(short = 'p', long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    n_prompt: u32,

    /// Tokens to decode
    #[arg(short = 'n', long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    n_gen: u32,

    #[command(flatten)]
    step: StepArgs,

    /// Run under this tool, which must be installed
    #[arg(long, value_enum, value_name = "TOOL")]
    run: Option<Tool>,

    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// Nsight Systems: when what runs
    Nsys,
    /// Nsight Compute: what each kernel does; it runs every kernel many times
    Ncu,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Tool::Nsys => "nsys",
            Tool::Ncu => "ncu",
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Tool::Nsys => &[
                "profile",
                "--capture-range=cudaProfilerApi",
                "--capture-range-end=stop",
                "--trace=cuda,nvtx",
                "--cuda-graph-trace=node",
                "--output=kiln",
            ],
            Tool::Ncu => &["--profile-from-start=off", "--nvtx", "--set=full", "--export=kiln"],
        }
    }

    /// The tool on this command, without its `--run`.
    fn command(self, args: &ProfileArgs) -> Result<Command, CliError> {
        let mut command = Command::new(self.program());
        let itself = std::env::current_exe()
            .map_err(|error| CliError::usage(format!("the path of this program is not known: {error}")))?;
        command.args(self.args()).arg(itself).arg("profile").arg("--model").arg(args.model.path()?);
        for (flag, value) in
            [("--n-prompt", args.n_prompt), ("--n-gen", args.n_gen), ("--ubatch-size", args.step.rows_max())]
        {
            command.arg(flag).arg(value.to_string());
        }
        command.args(["--device", "cuda"]);
        Ok(command)
    }
}

/// Runs the command.
pub fn run(args: &ProfileArgs) -> Result<(), CliError> {
    match args.run {
        Some(tool) => run_under(tool, args),
        None => measure(args),
    }
}

fn run_under(tool: Tool, args: &ProfileArgs) -> Result<(), CliError> {
    let mut command = tool.command(args)?;
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CliError::usage(format!("`{}` failed ({status})", shown(&command)))),
        Err(error) => Err(CliError::usage(format!(
            "{} cannot be started: {error}; install it and put it on PATH, or leave --run out",
            tool.program()
        ))),
    }
}

fn measure(args: &ProfileArgs) -> Result<(), CliError> {
    let extent = Extent { sequences: 1, positions: u64::from(args.n_prompt) + u64::from(args.n_gen) };
    let loaded = LoadedModel::open(&args.model.path()?)?;
    let program = Program::of(loaded.spec());
    let device = OpenDevice::open(args.device.choice())?;
    let limits = steps::limits(extent, args.step.rows_max(), &args.device)?;
    let loading = Loading::of(&loaded, Shown::Yes);
    let mut device = loaded.prepare(&program, device, &limits, &|progress| loading.show(progress))?;
    drop((loading, loaded));
    run_once(args, &program, device.as_mut())?;
    device.profiler(Profiler::Start)?;
    let [prefill_s, decode_s] = run_once(args, &program, device.as_mut())?;
    device.profiler(Profiler::Stop)?;
    let (name, mut out) = (device.name(), std::io::stdout().lock());
    let is_simulated = device.gpu_kind() == Some(GpuKind::Simulated);
    let rate = |tokens: u32, seconds: f64| match is_simulated {
        true => "simulated: no time".to_owned(),
        false => format!("{:.1} tokens/s", f64::from(tokens) / seconds),
    };
    writeln!(out, "device   {name}")?;
    writeln!(out, "prefill  {} tokens, {}", args.n_prompt, rate(args.n_prompt, prefill_s))?;
    writeln!(out, "decode   {} tokens, {}", args.n_gen, rate(args.n_gen, decode_s))?;
    if device.gpu_kind().is_none() {
        writeln!(out, "\nThe tools below look at GPUs: give --device cuda.")?;
    } else if is_simulated {
        writeln!(out, "\nThe tools below see nothing of a simulated GPU.")?;
    }
    for tool in Tool::value_variants() {
        writeln!(out, "\n{}", shown(&tool.command(args)?))?;
    }
    Ok(())
}

/// A prompt and a generation; seconds of each.
fn run_once(args: &ProfileArgs, program: &Program, device: &mut dyn Device) -> Result<[f64; 2], CliError> {
    let mut sequence = Sequences::new(device, program, 1);
    let start = Instant::now();
    sequence.prefill(args.n_prompt)?;
    let prefill_s = start.elapsed().as_secs_f64();
    sequence.decode(args.n_gen)?;
    Ok([prefill_s, start.elapsed().as_secs_f64() - prefill_s])
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
