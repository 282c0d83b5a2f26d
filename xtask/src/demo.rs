//! `cargo xtask demo`: the shortest way from a fresh clone to an answer. Builds only what this machine can use.

use crate::gpu::{self, Driver};
use crate::repo::Repo;
use crate::{Error, cuda_tools, model, process, simulated};
use std::process::Command;

/// The profile in Cargo.toml that compiles fast: kiln itself as in release builds, what it depends on less optimised.
const PROFILE: &str = "demo";

/// What is built for a demo.
#[derive(Debug, PartialEq)]
struct Plan {
    kernels: Kernels,
    /// What the user should know about it.
    note: Option<String>,
}

/// Code of the CUDA device.
#[derive(Debug, PartialEq)]
enum Kernels {
    /// The CPU devices alone: no CUDA compiler is needed.
    None,
    /// For `KILN_CUDA_ARCHS`; all if empty.
    Archs(String),
}

/// Fetches the model, builds kiln, asks it.
pub fn run(repo: &Repo, prompt: &str, device: Option<&str>) -> Result<(), Error> {
    let plan = plan(device, &Driver::detect())?;
    if let Some(note) = &plan.note {
        eprintln!("{note}");
    }
    let model = model::ensure_default_model(repo)?;
    let mut command = kiln(repo, &plan.kernels)?;
    command.arg("run").arg("-m").arg(repo.relative(&model));
    match device {
        Some("sim") => {
            let libraries = simulated::library_folder(repo, PROFILE)?;
            command.args(["--device", "cuda", "-n", "16", "--ctx-size", "512"]).env("LD_LIBRARY_PATH", libraries);
        }
        Some(device) => {
            command.args(["--device", device]);
        }
        None => {}
    }
    // A prompt may start with a hyphen.
    process::run(command.arg("--").arg(prompt))
}

fn plan(device: Option<&str>, driver: &Driver) -> Result<Plan, Error> {
    let cpu_alone = Plan { kernels: Kernels::None, note: None };
    match device {
        Some("cpu" | "reference") => Ok(cpu_alone),
        // The oldest architecture and Hopper, which the simulated GPU is by default: as tests have them.
        Some("sim") => Ok(Plan { kernels: Kernels::Archs("80-virtual,90a-virtual".to_owned()), note: None }),
        Some("cuda") => for_gpus(driver).map_err(|problem| {
            Error::Device(format!(
                "--device cuda: {problem}\n  `--device sim` runs the same kernels on the simulated GPU; leave --device out for the CPU"
            ))
        }),
        None | Some("auto") => Ok(for_gpus(driver).unwrap_or_else(|problem| {
            let note = format!("{problem}: building the CPU device alone (`cargo build --release` builds all devices)");
            Plan { note: Some(note), ..cpu_alone }
        })),
        Some(other) => Err(Error::Usage(format!("--device {other}: expected cpu, cuda, reference, sim or auto"))),
    }
}

/// Kernels for this machine's GPUs, or why there are none.
fn for_gpus(driver: &Driver) -> Result<Plan, String> {
    let Driver::Present { capabilities } = driver else {
        return Err(
            "no NVIDIA driver found (nvidia-smi does not run, libcuda.so.1 or /dev/nvidia* is missing)".to_owned()
        );
    };
    let archs = gpu::archs_for(capabilities).ok_or_else(|| {
        let found: Vec<String> = capabilities.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
        format!("kiln needs GPUs of compute capability 8.0 or newer, found {}", found.join(", "))
    })?;
    let note = archs.is_empty().then(|| {
        "nvidia-smi does not tell which GPU this is: building for every architecture (KILN_CUDA_ARCHS=90a builds one)".to_owned()
    });
    Ok(Plan { kernels: Kernels::Archs(archs.join(",")), note })
}

/// Builds kiln and returns a command that runs it at the repository's root.
fn kiln(repo: &Repo, kernels: &Kernels) -> Result<Command, Error> {
    let mut build = process::cargo(repo);
    build.args(["build", "--package", "kiln", "--bin", "kiln", "--profile", PROFILE]);
    match kernels {
        Kernels::None => {
            build.arg("--no-default-features");
        }
        Kernels::Archs(archs) => {
            cuda_tools::ensure_compiler(repo)?;
            // What a user sets is meant.
            if !archs.is_empty() && std::env::var_os("KILN_CUDA_ARCHS").is_none() {
                build.env("KILN_CUDA_ARCHS", archs);
            }
        }
    }
    process::run(&mut build)?;
    let mut command = Command::new(repo.built()?.join(PROFILE).join("kiln"));
    command.current_dir(repo.root());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(capabilities: &[gpu::Capability]) -> Driver {
        Driver::Present { capabilities: capabilities.to_vec() }
    }

    /// Architectures, `none` for the CPU alone, or `error`; and whether there is a note.
    fn planned(device: Option<&str>, driver: &Driver) -> (String, bool) {
        match plan(device, driver) {
            Ok(Plan { kernels: Kernels::None, note }) => ("none".to_owned(), note.is_some()),
            Ok(Plan { kernels: Kernels::Archs(archs), note }) => (archs, note.is_some()),
            Err(_) => ("error".to_owned(), false),
        }
    }

    #[test]
    fn a_demo_builds_what_the_machine_can_use() {
        let (hopper, old, unknown) = (driver(&[(9, 0)]), driver(&[(7, 5)]), driver(&[]));
        let cases = [
            (None, &Driver::Missing, "none", true),
            (None, &hopper, "90a", false),
            (None, &old, "none", true),
            (None, &unknown, "", true),
            (Some("auto"), &hopper, "90a", false),
            (Some("cpu"), &hopper, "none", false),
            (Some("reference"), &Driver::Missing, "none", false),
            (Some("cuda"), &Driver::Missing, "error", false),
            (Some("cuda"), &old, "error", false),
            (Some("cuda"), &driver(&[(12, 0), (8, 6)]), "86,120", false),
            (Some("sim"), &Driver::Missing, "80-virtual,90a-virtual", false),
            (Some("sim"), &hopper, "80-virtual,90a-virtual", false),
            (Some("gpu"), &hopper, "error", false),
        ];
        for (device, driver, archs, has_note) in cases {
            assert_eq!(planned(device, driver), (archs.to_owned(), has_note), "{device:?} with {driver:?}");
        }
    }

    #[test]
    fn messages_say_what_is_missing_and_what_to_do() {
        let error = plan(Some("cuda"), &Driver::Missing).expect_err("there is no driver").to_string();
        assert!(error.contains("--device cuda: no NVIDIA driver") && error.contains("--device sim"), "{error}");
        let note = plan(None, &driver(&[(7, 5)])).unwrap().note.unwrap();
        assert!(note.contains("found 7.5") && note.contains("cargo build --release"), "{note}");
    }
}
