//! Source and PTX text with what is known about each line beside it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use sim_exec::report::LineCounters;
use sim_exec::{Counters, Finding, grouped};

use crate::error::Error;

/// Lines shown around a line of interest.
const CONTEXT: u32 = 2;

/// Finds the text of the files that a kernel's line tables name.
#[derive(Debug)]
pub struct Sources {
    /// Folders to look in when the path itself leads nowhere.
    folders: Vec<PathBuf>,
}

impl Sources {
    /// Looks in `folder`, if given, and beside the image.
    pub fn new(image: &Path, folder: Option<&Path>) -> Self {
        let beside = image.parent().map(Path::to_owned);
        Sources { folders: folder.map(Path::to_owned).into_iter().chain(beside).collect() }
    }

    /// The lines of a file, if it can be read.
    pub fn lines(&self, file: &str) -> Option<Vec<String>> {
        let path = Path::new(file);
        let name = path.file_name()?;
        let elsewhere = self.folders.iter().flat_map(|folder| [folder.join(path), folder.join(name)]);
        let text = std::iter::once(path.to_owned()).chain(elsewhere).find_map(|p| std::fs::read_to_string(p).ok())?;
        Some(text.lines().map(str::to_owned).collect())
    }
}

/// Text with paths below the current folder made relative to it: compilers write them in full.
pub fn shortened(text: &str) -> String {
    let here = std::env::current_dir().map(|folder| format!("{}/", folder.display()));
    here.map_or_else(|_| text.to_owned(), |here| text.replace(&here, ""))
}

/// Prints a finding with the source line and the PTX line that it names.
///
/// # Errors
/// When the output cannot be written.
pub fn finding(out: &mut dyn Write, finding: &Finding, ptx: &str, sources: &Sources) -> Result<(), Error> {
    writeln!(out, "finding: {finding}")?;
    if let Some((file, line)) = &finding.place.source {
        match sources.lines(file) {
            Some(lines) => excerpt(out, file, &lines, *line)?,
            None => writeln!(out, "  --> {file}:{line} (the file cannot be read here)")?,
        }
    }
    let lines: Vec<String> = ptx.lines().map(str::to_owned).collect();
    excerpt(out, "PTX", &lines, finding.place.ptx_line)
}

fn excerpt(out: &mut dyn Write, file: &str, lines: &[String], line: u32) -> Result<(), Error> {
    writeln!(out, "  --> {file}:{line}")?;
    if lines.len() < line as usize {
        writeln!(out, "  the file has {} lines now: it is not the one that was compiled", lines.len())?;
    }
    for n in line.saturating_sub(CONTEXT).max(1)..=line + CONTEXT {
        if let Some(text) = lines.get(n as usize - 1) {
            writeln!(out, "{n:>7} {} {text}", if n == line { '>' } else { '|' })?;
        }
    }
    Ok(())
}

/// Prints the files that lines belong to, each line with its counters beside it and a little around it. Lines without a file
/// are of the PTX.
///
/// # Errors
/// When the output cannot be written.
pub fn lines(out: &mut dyn Write, lines: &[LineCounters], ptx: Option<&str>, sources: &Sources) -> Result<(), Error> {
    let mut files: BTreeMap<Option<&str>, BTreeMap<u32, Counters>> = BTreeMap::new();
    for line in lines {
        *files.entry(line.file.as_deref()).or_default().entry(line.line).or_default() += line.counters;
    }
    for (file, counters) in files {
        let text = match file {
            None => ptx.map(|ptx| ptx.lines().map(str::to_owned).collect()),
            Some(file) => sources.lines(file),
        };
        let name = file.unwrap_or("PTX");
        match text {
            Some(text) => annotated(out, name, &text, &counters)?,
            None => writeln!(out, "\n{name}: cannot be read here; name its folder with --source")?,
        }
    }
    Ok(())
}

fn annotated(
    out: &mut dyn Write,
    file: &str,
    text: &[String],
    counters: &BTreeMap<u32, Counters>,
) -> Result<(), Error> {
    writeln!(out, "\n{file}")?;
    writeln!(out, "{:>13} {:>6} {:>17} {:>11}", "instructions", "lanes", "sectors/ideal", "replays")?;
    let near = |n: u32| counters.range(n.saturating_sub(CONTEXT)..=n + CONTEXT).next().is_some();
    let mut gap = false;
    for (n, line) in (1u32..).zip(text) {
        if !near(n) {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) {
            writeln!(out, "{:>13}", "…")?;
        }
        let columns = counters.get(&n).map_or_else(|| " ".repeat(50), columns);
        writeln!(out, "{columns} {n:>6} | {line}")?;
    }
    Ok(())
}

/// Instructions, active lanes, sectors with their ideal, and bank-conflict replays of a line.
fn columns(c: &Counters) -> String {
    let (sectors, ideal) =
        (c.global_load_sectors + c.global_store_sectors, c.global_load_sectors_ideal + c.global_store_sectors_ideal);
    let sectors = if ideal > 0 { format!("{}/{}", grouped(sectors), grouped(ideal)) } else { String::new() };
    let replays = c.shared_load_replays + c.shared_store_replays;
    let replays = if replays > 0 { grouped(replays) } else { String::new() };
    let lanes = format!("{:.0}%", 100.0 * c.active_lane_share());
    format!("{:>13} {lanes:>6} {sectors:>17} {replays:>11}", grouped(c.instructions))
}
