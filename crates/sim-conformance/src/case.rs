//! What a conformance case is, and the table of all of them.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::cases;

/// Where a case's device code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCode {
    /// A file in `kernels/`, compiled by nvcc for `arch`.
    Cuda { file: &'static str, arch: &'static str },
    /// A kernel in a Python file in `kernels/`, compiled by Triton for `cuda:<capability>`.
    Triton { file: &'static str, kernel: &'static str, capability: u32 },
}

/// One kernel, or one algorithm of several, from outside this project.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name of the test, and unless its source says otherwise of the kernel.
    pub name: &'static str,
    pub code: DeviceCode,
    /// The package that the device code under test comes from.
    pub package: &'static str,
    /// What runs and what it is compared with.
    pub checks: &'static str,
    /// Instructions and special registers that must occur in the PTX, by the beginning of their spelling: so that the case
    /// goes on covering what the table says.
    pub exercises: &'static [&'static str],
}

impl Case {
    /// The registered case of this name.
    ///
    /// # Panics
    /// If there is none: a test without an entry would be missing in the table.
    pub fn named(name: &str) -> &'static Case {
        let case = Case::all().find(|c| c.name == name);
        case.unwrap_or_else(|| panic!("{name} is not registered in crates/sim-conformance/src/cases"))
    }

    /// Every registered case, by family.
    pub fn all() -> impl Iterator<Item = &'static Case> {
        cases::FAMILIES.iter().flat_map(|family| family.iter())
    }

    /// Asserts that the case's instructions occur in the kernels that it launched, or in functions of their module.
    ///
    /// # Panics
    /// Names the instruction that does not.
    pub(crate) fn assert_exercises<'a>(&self, ptx: &str, launched: impl Iterator<Item = &'a String> + Clone) {
        // Braces also group inline assembly and vectors: a body ends where all are closed.
        let (mut body, mut depth) = (false, 0);
        let mut words = BTreeSet::new();
        for line in ptx.lines() {
            if depth == 0 && line.contains(".func ") {
                body = true;
            } else if let (0, Some((_, name))) = (depth, line.split_once(".entry ")) {
                body = launched.clone().any(|l| l == name.trim_end_matches(['(', ')']));
            }
            depth += line.matches('{').count();
            depth = depth.saturating_sub(line.matches('}').count());
            if body && depth > 0 {
                words.extend(line.split([' ', '\t', ';', ',', '{', '}']));
            }
        }
        for instruction in self.exercises {
            let found = words.iter().any(|word| word.starts_with(instruction));
            assert!(found, "{}: no {instruction} in its PTX: the table in the docs would be wrong", self.name);
        }
    }
}

/// Where the docs hold the table.
pub const DOCS: &str = "docs/simulator-conformance.md";

/// `docs` with the table of all cases in place of the one that starts at its column heads, or at the end if it has none.
pub fn with_table(docs: &str) -> String {
    let start = docs.find(HEADS).unwrap_or(docs.len());
    let rows = docs[start..].lines().take_while(|line| line.starts_with('|'));
    let end = start + rows.map(|row| row.len() + 1).sum::<usize>();
    format!("{}{}{}", &docs[..start], table(), docs.get(end..).unwrap_or(""))
}

const HEADS: &str = "| Case | Device code from | Compiled for | Checks | Exercises |";

/// The Markdown table of all cases.
fn table() -> String {
    let mut out = format!("{HEADS}\n|---|---|---|---|---|\n");
    for case in Case::all() {
        let target = match case.code {
            DeviceCode::Cuda { arch, .. } => arch.to_owned(),
            DeviceCode::Triton { capability, .. } => format!("cuda:{capability}"),
        };
        let exercises: Vec<String> = case.exercises.iter().map(|i| format!("`{i}`")).collect();
        let Case { name, package, checks, .. } = case;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| `{name}` | {package} | {target} | {checks} | {} |", exercises.join(" "));
    }
    out
}
