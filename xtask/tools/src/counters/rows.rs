//! Which numbers are counted, and their gates (from the project's table of numbers).

use super::llama::LlamaCounters;
use super::machine::{ARCHS, KernelCode, MachineCode, bytes_in_flight, count, loads};
use super::problem;
use super::report::{Step, Steps};
use crate::error::Error;

/// One number.
pub struct Row {
    pub name: String,
    pub value: f64,
    pub better: Better,
    pub gate: Option<f64>,
    pub unit: Unit,
    pub source: Source,
}

#[derive(Clone, Copy)]
pub enum Better {
    Lower,
    Higher,
}

#[derive(Clone, Copy)]
pub enum Unit {
    Count,
    Ratio,
    Percent,
    Kibibytes,
}

/// Where a number comes from.
#[derive(Clone, Copy)]
pub enum Source {
    /// Counted by the simulated GPU of compute capability 9.0.
    Simulated,
    /// Read off the machine code.
    Static,
}

impl Better {
    pub fn sign(self) -> &'static str {
        match self {
            Better::Lower => "≤",
            Better::Higher => "≥",
        }
    }
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Simulated => "simulated",
            Source::Static => "static",
        }
    }
}

impl Row {
    pub fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::Count => grouped(value),
            Unit::Ratio => format!("{value:.3}"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::Kibibytes => format!("{value:.1} KiB"),
        }
    }

    pub fn meets_gate(&self) -> Option<bool> {
        self.gate.map(|gate| self.at_least_as_good_as(gate))
    }

    /// Numbers repeat exactly, but for the decimals that the file keeps.
    pub fn is_worse_than(&self, before: f64) -> bool {
        let slack = before.abs() * 1e-9;
        !self.at_least_as_good_as(match self.better {
            Better::Lower => before + slack,
            Better::Higher => before - slack,
        })
    }

    fn at_least_as_good_as(&self, other: f64) -> bool {
        match self.better {
            Better::Lower => self.value <= other,
            Better::Higher => self.value >= other,
        }
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

pub fn all(steps: &Steps, machine: &MachineCode, llama_cpp: &LlamaCounters) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    smollm2(&steps.smollm2, llama_cpp, &mut rows);
    for (format, step) in &steps.llama {
        llama(format, step, &mut rows);
    }
    let replays = |kernel: &str| {
        let sum = |counter| steps.prefills.iter().map(|step| step.sum(kernel, counter)).sum::<f64>();
        100.0 * (sum("shared_load_replays") + sum("shared_store_replays"))
            / (sum("shared_loads") + sum("shared_stores"))
    };
    for (name, kernel) in [("matrix–matrix", "kiln_linear_large"), ("attention", "kiln_attend")] {
        let name = format!("bank-conflict replays per shared-memory access, {name} kernel");
        rows.push(simulated(name, replays(kernel), Better::Lower, Some(1.0), Unit::Percent));
    }
    matrix_vector(machine, &mut rows)?;
    prefill(machine, &mut rows)?;
    let spills = machine.spill_bytes as f64;
    rows.push(fixed(
        "bytes spilled by ptxas, all kernels, six architectures".into(),
        spills,
        Better::Lower,
        Some(0.0),
        Unit::Count,
    ));
    Ok(rows)
}

fn simulated(name: String, value: f64, better: Better, gate: Option<f64>, unit: Unit) -> Row {
    Row { name, value, better, gate, unit, source: Source::Simulated }
}

fn fixed(name: String, value: f64, better: Better, gate: Option<f64>, unit: Unit) -> Row {
    Row { name, value, better, gate, unit, source: Source::Static }
}

/// A whole decode token of the default model, seeing 128 keys.
fn smollm2(step: &Step, llama_cpp: &LlamaCounters, rows: &mut Vec<Row>) {
    let mut row = |name: &str, value, gate, unit| {
        rows.push(simulated(format!("{name}, SmolLM2"), value, Better::Lower, gate, unit));
    };
    row("device-wide waits per decode token (launches)", step.launches.len() as f64, Some(182.0), Unit::Count);
    row("graph launches per decode token", step.graph_launches as f64, Some(1.0), Unit::Count);
    let half = llama_cpp.warp_instructions() / 2;
    row("warp instructions per decode token", step.sum("", "instructions"), Some(half as f64), Unit::Count);
    row("bytes to the host per token", step.sum("", "mapped_store_bytes"), Some(64.0), Unit::Count);
    shared_by_decodes("SmolLM2", step, rows);
}

fn shared_by_decodes(model: &str, step: &Step, rows: &mut Vec<Row>) {
    let lanes = 100.0 * step.sum("", "active_lanes") / (32.0 * step.sum("", "instructions"));
    rows.push(simulated(format!("active lanes in decode, {model}"), lanes, Better::Higher, Some(95.0), Unit::Percent));
    let linear = |counter| step.sum("kiln_linear", counter);
    let sectors = linear("global_load_sectors") / linear("global_load_sectors_ideal");
    let name = format!("sectors loaded by linear kernels over ideal, {model}");
    rows.push(simulated(name, sectors, Better::Lower, Some(1.05), Unit::Ratio));
}

/// One layer of Llama-3-8B with a head of 1,024 rows, decoding one token that sees 4,096 keys.
fn llama(format: &str, step: &Step, rows: &mut Vec<Row>) {
    let model = format!("Llama-3-8B layer {format}");
    shared_by_decodes(&model, step, rows);
    let moved = step.sum("", "dram_read_bytes") + step.sum("", "dram_write_bytes");
    let name = format!("DRAM bytes per decode token over the minimum, {model}");
    rows.push(simulated(name, moved / step.floor_bytes as f64, Better::Lower, Some(1.05), Unit::Ratio));
    let instructions = step.sum("", "instructions");
    rows.push(simulated(
        format!("warp instructions per decode token, {model}"),
        instructions,
        Better::Lower,
        None,
        Unit::Count,
    ));
    // The head is as small as the vocabulary here.
    let stages = ["Qkv", "OutProj", "GateUp", "Down"].into_iter().zip(step.of("kiln_linear"));
    for (stage, launch) in stages.chain(step.of("kiln_attend").map(|launch| ("Attend", launch))) {
        let ctas: u32 = launch.grid.iter().product();
        let share = 100.0 * f64::from(ctas.min(step.sm_count)) / f64::from(step.sm_count);
        let name = format!("SMs with work in {stage} at batch 1, {model}");
        rows.push(simulated(name, share, Better::Higher, Some(90.0), Unit::Percent));
    }
}

/// The loop of the fused matrix–vector kernel for one row that loads four blocks at a time.
fn matrix_vector(machine: &MachineCode, rows: &mut Vec<Row>) -> Result<(), Error> {
    const BLOCKS: usize = 4;
    const WEIGHTS: usize = 32 * BLOCKS;
    // A dot product of four per instruction. Loads of 16, 8, 4 and 2 bytes tell the formats apart: quants and scales of each block,
    // and of K formats what two super-blocks have.
    let formats = [("Q4_1", [BLOCKS, 0, BLOCKS, 0], 1.0), ("Q4_K", [BLOCKS, 0, 2, BLOCKS], 1.4)];
    // Segments of a row of 4,096 weights or more: warps of one CTA.
    const WARPS: f64 = 16.0;
    for arch in ARCHS {
        let kernel = machine.kernel("kiln_linear_fused_1", arch)?;
        for (format, loads_of_format, gate) in formats {
            let is_format = |body: &&[String]| count(body, "IDP") == WEIGHTS / 4 && loads(body) == loads_of_format;
            let body = one_loop(kernel, is_format, &format!("the loop of {format}"))?;
            let per_weight = body.len() as f64 / WEIGHTS as f64;
            let name = format!("machine instructions per weight in the matrix–vector loop, {format}, sm_{arch}");
            rows.push(fixed(name, per_weight, Better::Lower, Some(gate), Unit::Ratio));
            let in_flight = bytes_in_flight(body) as f64 * 32.0 * WARPS / 1024.0;
            let gate = if arch == "90a" { 32.0 } else { 16.0 };
            let name = format!("weight bytes in flight per SM in decode, one CTA, {format}, sm_{arch}");
            rows.push(fixed(name, in_flight, Better::Higher, Some(gate), Unit::Kibibytes));
        }
    }
    Ok(())
}

fn one_loop<'a>(
    kernel: &'a KernelCode,
    is_wanted: impl Fn(&&[String]) -> bool,
    what: &str,
) -> Result<&'a [String], Error> {
    let mut found = kernel.loops().filter(is_wanted);
    match (found.next(), found.next()) {
        (Some(body), None) => Ok(body),
        (None, _) => Err(problem(&kernel.name, &format!("{what} was not found for sm_{}", kernel.arch))),
        (Some(_), Some(_)) => Err(problem(&kernel.name, &format!("{what} was found twice for sm_{}", kernel.arch))),
    }
}

/// That the intended instructions are there, and what surrounds a matrix instruction.
fn prefill(machine: &MachineCode, rows: &mut Vec<Row>) -> Result<(), Error> {
    let expected: [(&str, &[&str]); 2] =
        [("kiln_linear_large", &["IMMA", "HMMA", "LDGSTS", "LDSM"]), ("kiln_attend_128", &["HMMA", "LDGSTS", "LDSM"])];
    for arch in ARCHS {
        for (name, opcodes) in expected {
            let kernel = machine.kernel(name, arch)?;
            for opcode in opcodes {
                let found = f64::from(kernel.has(opcode));
                let name = format!("{opcode} in the machine code of {name}, sm_{arch}");
                rows.push(fixed(name, found, Better::Higher, Some(1.0), Unit::Count));
            }
        }
        let kernel = machine.kernel("kiln_linear_large", arch)?;
        // The leanest format's loop over blocks: eight mma for a warp's 32 x 32 outputs.
        let ratio = |body: &[String]| {
            let mma = count(body, "IMMA");
            (mma > 0).then(|| (body.len() - mma) as f64 / mma as f64)
        };
        let best = kernel.loops().filter_map(ratio).fold(f64::INFINITY, f64::min);
        let name = format!("other machine instructions per mma in the prefill loop, leanest format, sm_{arch}");
        rows.push(fixed(name, best, Better::Lower, None, Unit::Ratio));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units() {
        let row = |unit| fixed(String::new(), 0.0, Better::Lower, None, unit);
        assert_eq!(row(Unit::Count).shown(12_345_678.0), "12,345,678");
        assert_eq!(row(Unit::Count).shown(1.0), "1");
        assert_eq!(row(Unit::Percent).shown(95.125), "95.12 %");
        assert_eq!(row(Unit::Kibibytes).shown(40.0), "40.0 KiB");
    }
}
