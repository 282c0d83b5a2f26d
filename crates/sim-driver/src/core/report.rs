//! One JSON line for each launch, copy and allocation, for whoever counts ([`sim_exec::report`]).

use std::fs::File;
use std::io::Write;

use sim_exec::LaunchReport;
use sim_exec::report::{LaunchLine, ReportLine};

use super::device::Limits;
use super::work::KernelWork;

/// Where the lines go.
#[derive(Debug)]
pub struct Report {
    file: Option<File>,
    lines: bool,
}

impl Report {
    /// A file that cannot be made is said on stderr, once.
    pub fn new(path: Option<&str>, lines: bool) -> Self {
        let file = path.and_then(|p| File::create(p).map_err(|e| eprintln!("simulated GPU: no report: {p}: {e}")).ok());
        Report { file, lines }
    }

    pub fn device(&mut self, limits: &Limits) {
        self.line(|| ReportLine::Device {
            compute_capability: limits.compute_capability,
            sm_count: limits.sm_count,
            l2_bytes: limits.l2_bytes as u64,
        });
    }

    pub fn launch(&mut self, work: &KernelWork, done: &LaunchReport) {
        let lines = self.lines;
        self.line(|| {
            ReportLine::Launch(Box::new(LaunchLine {
                kernel: work.kernel.name.clone(),
                grid: work.grid,
                block: work.block,
                cluster: work.cluster,
                dynamic_shared_bytes: work.dynamic_shared_bytes,
                counters: done.counters,
                lines: if lines { done.by_source_line(&work.kernel) } else { Vec::new() },
            }))
        });
    }

    pub fn graph_launch(&mut self, nodes: usize) {
        self.line(|| ReportLine::GraphLaunch { nodes });
    }

    pub fn allocation(&mut self, is_host: bool, bytes: u64) {
        self.line(|| ReportLine::Allocation { is_host, bytes });
    }

    pub fn free(&mut self, is_host: bool, bytes: u64) {
        self.line(|| ReportLine::Free { is_host, bytes });
    }

    /// With the allocations that were still live.
    pub fn context_end(&mut self, device_bytes: u64, host_bytes: u64) {
        self.line(|| ReportLine::ContextEnd { device_bytes, host_bytes });
    }

    pub fn profiler(&mut self, is_on: bool) {
        self.line(|| ReportLine::Profiler { is_on });
    }

    /// `direction` is from and to, such as `host_to_device`.
    pub fn copy(&mut self, direction: &str, bytes: u64) {
        self.line(|| ReportLine::Copy { direction: direction.to_owned(), bytes });
    }

    fn line(&mut self, make: impl FnOnce() -> ReportLine) {
        if let Some(file) = &mut self.file {
            // A full disk is no reason to fail a launch.
            let _ = serde_json::to_string(&make()).map(|line| writeln!(file, "{line}"));
        }
    }
}
