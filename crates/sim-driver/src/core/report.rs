//! One JSON line for each launch and copy, for whoever counts.

use std::fs::File;
use std::io::Write;

use sim_exec::Counters;

/// Where the lines go.
#[derive(Debug)]
pub struct Report {
    file: Option<File>,
}

impl Report {
    /// A file that cannot be made is said on stderr, once.
    pub fn new(path: Option<&str>) -> Self {
        let file = path.and_then(|p| File::create(p).map_err(|e| eprintln!("simulated GPU: no report: {p}: {e}")).ok());
        Report { file }
    }

    pub fn launch(&mut self, kernel: &str, grid: [u32; 3], block: [u32; 3], counters: &Counters) {
        self.line(|| {
            format!(
                "{{\"event\":\"launch\",\"kernel\":{kernel:?},\"grid\":{grid:?},\"block\":{block:?},\"counters\":{}}}",
                counters.to_json()
            )
        });
    }

    pub fn graph_launch(&mut self, nodes: usize) {
        self.line(|| format!("{{\"event\":\"graph_launch\",\"nodes\":{nodes}}}"));
    }

    /// `direction` is from and to, such as `host_to_device`.
    pub fn copy(&mut self, direction: &str, bytes: u64) {
        self.line(|| format!("{{\"event\":\"copy\",\"direction\":\"{direction}\",\"bytes\":{bytes}}}"));
    }

    fn line(&mut self, make: impl FnOnce() -> String) {
        if let Some(file) = &mut self.file {
            // A full disk is no reason to fail a launch.
            let _ = writeln!(file, "{}", make());
        }
    }
}
