//! What is written down about a program's use of a device: one JSON object per line, each with its event's name.

use serde::{Deserialize, Serialize};

use crate::counters::Counters;

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ReportLine {
    /// The first line: what the launches ran on.
    Device { compute_capability: (u32, u32), sm_count: u32, l2_bytes: u64 },
    /// A launch that ended well.
    Launch(Box<LaunchLine>),
    /// A launch of a graph, before the launches of its nodes.
    GraphLaunch { nodes: usize },
    /// Memory of the device, or pinned memory of the host, that the program allocated.
    Allocation { is_host: bool, bytes: u64 },
    /// Memory that it gave back.
    Free { is_host: bool, bytes: u64 },
    /// A context ended, and took with it what the program had allocated in it and not freed.
    ContextEnd { device_bytes: u64, host_bytes: u64 },
    /// `cuProfilerStart` or `cuProfilerStop`.
    Profiler { is_on: bool },
    /// A copy; `direction` is from and to, such as `host_to_device`.
    Copy { direction: String, bytes: u64 },
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchLine {
    pub kernel: String,
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// CTAs per cluster.
    pub cluster: [u32; 3],
    pub dynamic_shared_bytes: u32,
    pub counters: Counters,
    /// Empty if lines were not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<LineCounters>,
}

/// Counters of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCounters {
    /// The CUDA source file; none for a line of the PTX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// 1-based.
    pub line: u32,
    pub counters: Counters,
}
