//! The kernels' machine code, as release builds have it: compiled by nvcc, disassembled by nvdisasm, and searched for loops.

use super::problem;
use crate::error::Error;
use crate::process;
use crate::repo::Repo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whose machine code is read: the oldest architecture, and Hopper.
pub const ARCHS: [&str; 2] = ["80", "90a"];
/// The others that release builds have machine code for: nothing may spill there either.
const OTHER_ARCHS: [&str; 4] = ["86", "89", "100", "120"];

/// All kernels of [`ARCHS`], and what all kernels of all architectures spill.
pub struct MachineCode {
    kernels: Vec<KernelCode>,
    pub spill_bytes: u64,
}

pub struct KernelCode {
    pub name: String,
    pub arch: &'static str,
    /// Opcode and operands, without predicates' braces and addresses.
    pub instructions: Vec<String>,
    /// Index of the instruction that a label names.
    labels: HashMap<String, usize>,
}

impl MachineCode {
    pub fn compile(repo: &Repo, tools: &Path) -> Result<MachineCode, Error> {
        let bin = tools.join("nvidia/cu13/bin");
        let out = repo.root().join("target/counters");
        std::fs::create_dir_all(&out).map_err(Error::io("creating", &out))?;
        let folder = repo.root().join("cuda");
        let entries = std::fs::read_dir(&folder).map_err(Error::io("reading", &folder))?;
        let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cu");
        let sources: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_source).collect();
        let mut code = MachineCode { kernels: Vec::new(), spill_bytes: 0 };
        for source in &sources {
            for arch in ARCHS.into_iter().chain(OTHER_ARCHS) {
                let cubin = out.join(format!("{}.{arch}.cubin", source.file_stem().unwrap_or_default().display()));
                code.spill_bytes += compile(repo, &bin, source, arch, &cubin)?;
                if ARCHS.contains(&arch) {
                    let listing = process::capture(Command::new(bin.join("nvdisasm")).arg("-c").arg(&cubin))?;
                    code.kernels.extend(disassembled(&listing, arch));
                }
            }
        }
        Ok(code)
    }

    /// The kernel of an architecture.
    pub fn kernel(&self, name: &str, arch: &str) -> Result<&KernelCode, Error> {
        let found = self.kernels.iter().find(|kernel| kernel.name == name && kernel.arch == arch);
        found.ok_or_else(|| problem(name, &format!("not in the machine code for sm_{arch}")))
    }
}

/// Compiles a file and returns what its kernels spill.
fn compile(repo: &Repo, bin: &Path, source: &Path, arch: &str, cubin: &Path) -> Result<u64, Error> {
    let mut nvcc = Command::new(bin.join("nvcc"));
    nvcc.current_dir(repo.root()).args(["--options-file=cuda/nvcc.opt", "-cubin", "-Xptxas=-v"]);
    nvcc.arg(format!("-arch=sm_{arch}")).arg("-o").arg(cubin).arg(source);
    let output = nvcc.output().map_err(|source| process::start_error(&nvcc, source))?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(problem(&process::shown(&nvcc), &messages));
    }
    spills(&messages).ok_or_else(|| problem(&process::shown(&nvcc), "`ptxas -v` says nothing of spills"))
}

/// Bytes of spill stores and loads of all kernels, from what `ptxas -v` says; `None` if it speaks of no kernel.
fn spills(messages: &str) -> Option<u64> {
    let of = |line: &str, what: &str| line.split_once(what)?.0.split_whitespace().next_back()?.parse::<u64>().ok();
    let kernels =
        messages.lines().filter_map(|line| Some(of(line, " bytes spill stores")? + of(line, " bytes spill loads")?));
    kernels.reduce(|a, b| a + b)
}

/// The kernels of a listing of `nvdisasm -c`.
fn disassembled(listing: &str, arch: &'static str) -> Vec<KernelCode> {
    let mut kernels: Vec<KernelCode> = Vec::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            kernels.push(KernelCode { name: name.to_owned(), arch, instructions: Vec::new(), labels: HashMap::new() });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        let line = line.trim();
        if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L_")) {
            kernel.labels.insert(label.to_owned(), kernel.instructions.len());
        } else if let Some((_, code)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
            && let Some((instruction, _)) = code.split_once(';')
        {
            kernel.instructions.push(instruction.trim().to_owned());
        }
    }
    kernels
}

impl KernelCode {
    /// Bodies of innermost loops, from a branch's target to the branch.
    pub fn loops(&self) -> impl Iterator<Item = &[String]> {
        let is_backward = |at: usize| self.target(at).is_some_and(|target| target <= at);
        (0..self.instructions.len()).filter_map(move |end| {
            let start = self.target(end).filter(|start| *start <= end)?;
            (!(start..end).any(is_backward)).then(|| &self.instructions[start..=end])
        })
    }

    /// Where the instruction at that index may jump to.
    fn target(&self, at: usize) -> Option<usize> {
        let branch = self.instructions.get(at).filter(|instruction| opcode(instruction).starts_with("BRA"))?;
        let label = branch.split("`(").nth(1)?.split(')').next()?;
        self.labels.get(label).copied()
    }

    pub fn has(&self, opcode: &str) -> bool {
        count(&self.instructions, opcode) > 0
    }
}

/// Without the predicate in front.
fn opcode(instruction: &str) -> &str {
    let mut words = instruction.split_whitespace();
    let first = words.next().unwrap_or("");
    if first.starts_with('@') { words.next().unwrap_or("") } else { first }
}

/// Instructions whose opcode starts so.
pub fn count(instructions: &[String], start: &str) -> usize {
    instructions.iter().filter(|instruction| opcode(instruction).starts_with(start)).count()
}

/// Bytes per lane that global loads have asked for when the first loaded register is used.
pub fn bytes_in_flight(body: &[String]) -> u64 {
    let (mut loaded, mut bytes) = (Vec::new(), 0);
    for instruction in body {
        let mut operands = instruction.split([' ', ',', '[', ']', '|', '-']).filter(|word| !word.is_empty());
        let code = opcode(instruction);
        if code.starts_with("LDG") {
            let width = load_bytes(code);
            let register = operands.find_map(register_number);
            loaded.extend(register.into_iter().flat_map(|first| first..first + width.div_ceil(4)));
            bytes += width;
        } else if operands.filter_map(register_number).any(|register| loaded.contains(&register)) {
            break;
        }
    }
    bytes
}

/// Of `R12`, `R12.reuse`, `R12.H0_H0`, `R12.64`.
fn register_number(operand: &str) -> Option<u64> {
    operand.strip_prefix('R')?.split('.').next()?.parse().ok()
}

fn load_bytes(opcode: &str) -> u64 {
    let has = |part| opcode.split('.').any(|p| p == part);
    match () {
        () if has("128") => 16,
        () if has("64") => 8,
        () if has("U16") || has("S16") => 2,
        () if has("U8") || has("S8") => 1,
        () => 4,
    }
}

/// Global loads of a loop body by width: 16, 8, 4 and 2 bytes.
pub fn loads(body: &[String]) -> [usize; 4] {
    let of = |bytes| body.iter().filter(|i| opcode(i).starts_with("LDG") && load_bytes(opcode(i)) == bytes).count();
    [16, 8, 4, 2].map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\t.section\t.text.one,\"ax\"
.text.one:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128.CONSTANT R8, [R2.64] ;
        /*0020*/                   LDG.E.U16 R12, [R4.64+0x40] ;
        /*0030*/                   IADD3 R2, P0, R2, 0x200, RZ ;
        /*0040*/                   IDP.4A.U8.S8 R9, R9, R20, R21 ;
        /*0050*/                   LDG.E R13, [R2.64] ;
        /*0060*/              @!P0 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
.text.two:
        /*0000*/                   BRA `(.L_x_9) ;
";

    #[test]
    fn loops_are_found_by_their_labels() {
        let kernels = disassembled(LISTING, "80");
        assert_eq!(kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let bodies: Vec<&[String]> = kernels[0].loops().collect();
        assert_eq!(bodies.len(), 1);
        assert_eq!((bodies[0].len(), count(bodies[0], "IDP"), loads(bodies[0])), (6, 1, [1, 0, 1, 1]));
        assert!(kernels[0].has("EXIT") && !kernels[0].has("HMMA"));
        assert_eq!(kernels[1].loops().count(), 0);
    }

    #[test]
    fn loads_in_flight_end_where_one_is_used() {
        let kernels = disassembled(LISTING, "80");
        assert_eq!(
            bytes_in_flight(kernels[0].loops().next().unwrap()),
            18,
            "R9 is part of the first load's four registers"
        );
    }

    #[test]
    fn what_kernels_spill_is_added_up() {
        let messages = "ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function 'b' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";
        assert_eq!(spills(messages), Some(16));
        assert_eq!(spills("nothing"), None);
    }
}
