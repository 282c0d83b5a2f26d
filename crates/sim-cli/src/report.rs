//! `sim report`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sim_exec::report::{LineCounters, ReportLine};
use sim_exec::{Counters, grouped};

use crate::annotate::{self, Sources};
use crate::error::Error;

/// Summarise what a program did, from the file that KILN_SIM_REPORT named
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The file
    file: PathBuf,

    /// Print every counter of each kernel
    #[arg(long)]
    all: bool,

    /// Print the source of a kernel with counters beside each line; the program must have run with KILN_SIM_REPORT_LINES=1
    #[arg(long, value_name = "KERNEL")]
    annotate: Option<String>,

    /// Folder to look for source files in, where the paths in the line tables lead nowhere
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,

    /// Print one JSON object in place of text
    #[arg(long, conflicts_with_all = ["all", "annotate"])]
    json: bool,
}

/// A program's work.
#[derive(Debug, Default, Serialize)]
struct Summary {
    #[serde(skip)]
    l2_bytes: Option<u64>,
    kernels: BTreeMap<String, KernelSummary>,
    /// By direction.
    copies: BTreeMap<String, Copies>,
    graph_launches: u64,
    allocations: Allocations,
}

#[derive(Debug, Default, Serialize)]
struct KernelSummary {
    launches: u64,
    /// Of all launches together.
    counters: Counters,
    footprint_bytes_max: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<LineCounters>,
}

/// Allocations and frees, of device and pinned memory.
#[derive(Debug, Default, Serialize)]
struct Allocations {
    number: u64,
    bytes: u64,
    bytes_not_freed: u64,
}

#[derive(Debug, Default, Serialize)]
struct Copies {
    number: u64,
    bytes: u64,
}

impl Summary {
    fn add(&mut self, line: ReportLine) {
        match line {
            ReportLine::Device { l2_bytes, .. } => self.l2_bytes = Some(l2_bytes),
            ReportLine::Launch(launch) => {
                let kernel = self.kernels.entry(launch.kernel).or_default();
                kernel.launches += 1;
                kernel.counters += launch.counters;
                for line in launch.lines {
                    match kernel.lines.iter_mut().find(|l| l.file == line.file && l.line == line.line) {
                        Some(sum) => sum.counters += line.counters,
                        None => kernel.lines.push(line),
                    }
                }
                kernel.footprint_bytes_max = kernel.footprint_bytes_max.max(launch.counters.footprint_bytes);
            }
            ReportLine::GraphLaunch { .. } => self.graph_launches += 1,
            ReportLine::Allocation { bytes, .. } => {
                self.allocations.number += 1;
                self.allocations.bytes += bytes;
                self.allocations.bytes_not_freed += bytes;
            }
            ReportLine::Free { bytes, .. } => self.allocations.bytes_not_freed -= bytes,
            // What a context took with it was not freed by the program.
            ReportLine::ContextEnd { .. } | ReportLine::Profiler { .. } => {}
            ReportLine::Copy { direction, bytes } => {
                let copies = self.copies.entry(direction).or_default();
                copies.number += 1;
                copies.bytes += bytes;
            }
        }
    }
}

/// Prints the summary.
///
/// # Errors
/// When the file cannot be read, or has a line that is none of a report.
pub fn report(args: &ReportArgs) -> Result<(), Error> {
    let file = std::fs::File::open(&args.file).map_err(Error::io("reading", &args.file))?;
    let mut summary = Summary::default();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io("reading", &args.file))?;
        let wrong = |source| Error::ReportLine { path: args.file.clone(), line: i + 1, source };
        summary.add(serde_json::from_str(&line).map_err(wrong)?);
    }
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?;
        return Ok(());
    }
    if let Some(name) = &args.annotate {
        return annotate(&mut out, args, &summary, name);
    }
    print(&mut out, &summary)?;
    if args.all {
        for (name, kernel) in &summary.kernels {
            write!(out, "\n{name}, {} launches\n{}", kernel.launches, kernel.counters)?;
        }
    }
    Ok(())
}

fn annotate(out: &mut dyn Write, args: &ReportArgs, summary: &Summary, name: &str) -> Result<(), Error> {
    let kernel = summary.kernels.get(name).ok_or_else(|| Error::NoEntry {
        path: args.file.clone(),
        expected: summary.kernels.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        found: name.to_owned(),
    })?;
    if kernel.lines.is_empty() {
        return Err(Error::NoLines { path: args.file.clone(), kernel: name.to_owned() });
    }
    let mut lines = kernel.lines.clone();
    lines.iter_mut().for_each(|line| line.file = line.file.take().map(|file| annotate::shortened(&file)));
    write!(out, "{name}, {} launches\n{}", kernel.launches, kernel.counters)?;
    annotate::lines(out, &lines, None, &Sources::new(&args.file, args.source.as_deref()))
}

fn print(out: &mut dyn Write, summary: &Summary) -> Result<(), Error> {
    let mut kernels: Vec<(&String, &KernelSummary)> = summary.kernels.iter().collect();
    kernels.sort_by_key(|(_, k)| std::cmp::Reverse(k.counters.instructions));
    if !kernels.is_empty() {
        let header = [
            "launches",
            "warp instr.",
            "lanes",
            "sectors/ideal",
            "DRAM read",
            "DRAM written",
            "replays",
            "multiply-adds",
        ];
        writeln!(out, "{}  kernel", row(&header.map(str::to_owned)))?;
    }
    let mut beyond_l2 = false;
    for (name, kernel) in kernels {
        let c = &kernel.counters;
        let exceeds = summary.l2_bytes.is_some_and(|l2| kernel.footprint_bytes_max > l2);
        beyond_l2 |= exceeds;
        let cells = [
            grouped(kernel.launches),
            grouped(c.instructions),
            format!("{:.1}%", 100.0 * c.active_lane_share()),
            c.sectors_over_ideal().map_or_else(|| "-".into(), |r| format!("{r:.2}")),
            grouped(c.dram_read_bytes) + if exceeds { "+" } else { "" },
            grouped(c.dram_write_bytes),
            grouped(c.shared_load_replays + c.shared_store_replays),
            grouped(c.multiply_adds()),
        ];
        writeln!(out, "{}  {name}", row(&cells))?;
    }
    if beyond_l2 {
        writeln!(out, "+: a launch touches more than the L2 holds, so that this is a lower bound")?;
    }
    for (direction, copies) in &summary.copies {
        writeln!(
            out,
            "{} copies {}, {} bytes",
            grouped(copies.number),
            direction.replace('_', " "),
            grouped(copies.bytes)
        )?;
    }
    if summary.graph_launches > 0 {
        writeln!(out, "{} graph launches", grouped(summary.graph_launches))?;
    }
    Ok(())
}

fn row(cells: &[String; 8]) -> String {
    let widths = [9, 15, 7, 14, 16, 16, 12, 18];
    cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect()
}
