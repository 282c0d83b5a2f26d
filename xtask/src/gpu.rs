//! What NVIDIA GPUs this machine has, and which of kiln's architectures they run.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// Architectures that `build.rs` compiles for, with the compute capability that each needs.
const ARCHS: [(&str, Capability); 6] =
    [("80", (8, 0)), ("86", (8, 6)), ("89", (8, 9)), ("90a", (9, 0)), ("100", (10, 0)), ("120", (12, 0))];

/// Major and minor number of a compute capability.
pub type Capability = (u32, u32);

/// The NVIDIA driver of this machine.
#[derive(Debug, PartialEq)]
pub enum Driver {
    Missing,
    /// With the GPUs that it names; none if they could not be asked for.
    Present {
        capabilities: Vec<Capability>,
    },
}

impl Driver {
    /// Asks `nvidia-smi`; where that does not run (many containers lack it), looks for the driver's files.
    pub fn detect() -> Driver {
        if let Some(capabilities) = ask_nvidia_smi() {
            return Driver::Present { capabilities };
        }
        if has_device_node() && has_library(&library_folders()) {
            return Driver::Present { capabilities: Vec::new() };
        }
        Driver::Missing
    }
}

/// Architectures for `KILN_CUDA_ARCHS` that these GPUs run, in ascending order: `None` if one of them is older than all.
pub fn archs_for(capabilities: &[Capability]) -> Option<Vec<&'static str>> {
    let mut archs: Vec<&'static str> = capabilities.iter().map(|&gpu| arch_for(gpu)).collect::<Option<_>>()?;
    archs.sort_by_key(|arch| ARCHS.iter().position(|(name, _)| name == arch));
    archs.dedup();
    Some(archs)
}

/// The newest architecture that a GPU runs: its machine code within a major number, and its PTX beyond that. Code for 9.0 runs nowhere else
/// ("a" names instructions that later GPUs lack).
fn arch_for(gpu: Capability) -> Option<&'static str> {
    let runs = |&&(name, needed): &&(&str, Capability)| needed == gpu || needed < gpu && !name.ends_with('a');
    ARCHS.iter().rfind(runs).map(|(name, _)| *name)
}

/// Compute capabilities as the driver's own program tells them.
fn ask_nvidia_smi() -> Option<Vec<Capability>> {
    // Under WSL it lies where the driver's library does.
    ["nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(["--query-gpu=compute_cap", "--format=csv,noheader"]).stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        let capabilities = capabilities_in(&String::from_utf8_lossy(&output.stdout));
        // "No devices were found" ends with success in some versions.
        (!capabilities.is_empty()).then_some(capabilities)
    })
}

fn capabilities_in(printed: &str) -> Vec<Capability> {
    let capability = |line: &str| {
        let (major, minor) = line.trim().split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    printed.lines().filter_map(capability).collect()
}

/// What the kernel shows of a GPU: on servers and desktops, under WSL, on Jetson.
fn has_device_node() -> bool {
    ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu"].iter().any(|node| Path::new(node).exists())
}

fn has_library(folders: &[OsString]) -> bool {
    folders.iter().any(|folder| Path::new(folder).join("libcuda.so.1").exists())
}

/// Where a program's `libcuda.so.1` may lie: LD_LIBRARY_PATH, the linker's cache, and where drivers put it.
fn library_folders() -> Vec<OsString> {
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib64-nvidia",
        "/run/opengl-driver/lib",
    ];
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let listing = Command::new("ldconfig").arg("-p").stderr(Stdio::null()).output().map(|output| output.stdout);
    let listing = String::from_utf8_lossy(&listing.unwrap_or_default()).into_owned();
    let cached = listing.lines().filter_map(|line| line.split_once("libcuda.so.1 ")?.1.split_once("=> "));
    let cached = cached.filter_map(|(_, library)| Some(Path::new(library.trim()).parent()?.into()));
    std::env::split_paths(&path).map(OsString::from).chain(cached).chain(usual.map(OsString::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_the_newest_code_that_it_runs() {
        let cases = [
            ((7, 5), None),
            ((8, 0), Some("80")),
            ((8, 6), Some("86")),
            ((8, 7), Some("86")),
            ((8, 9), Some("89")),
            ((9, 0), Some("90a")),
            ((10, 0), Some("100")),
            ((10, 3), Some("100")),
            ((11, 0), Some("100")),
            ((12, 1), Some("120")),
            ((13, 0), Some("120")),
        ];
        for (gpu, arch) in cases {
            assert_eq!(arch_for(gpu), arch, "{gpu:?}");
        }
    }

    #[test]
    fn several_gpus_get_each_architecture_once() {
        assert_eq!(archs_for(&[(9, 0), (8, 0), (9, 0)]), Some(vec!["80", "90a"]));
        assert_eq!(archs_for(&[(9, 0), (7, 0)]), None);
        assert_eq!(archs_for(&[]), Some(vec![]));
    }

    #[test]
    fn what_nvidia_smi_prints_is_read() {
        assert_eq!(capabilities_in("9.0\n12.0\n"), [(9, 0), (12, 0)]);
        assert_eq!(capabilities_in("No devices were found\n[N/A]\n"), []);
    }

    #[test]
    fn architectures_are_those_of_the_build() {
        let build = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../build.rs")).unwrap();
        let names = ARCHS.map(|(name, _)| format!("\"{name}\"")).join(", ");
        assert!(build.contains(&format!("const ARCHS: [&str; 6] = [{names}];")), "build.rs has others");
    }

    #[test]
    fn the_driver_is_a_library_and_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().as_os_str().to_owned()];
        assert!(!has_library(&folders));
        std::fs::write(folder.path().join("libcuda.so.1"), "").unwrap();
        assert!(has_library(&folders));
    }
}
