//! Every misuse gets the code that the driver API documents for it. The tables of this folder are also those of the docs.
//!
//! Each row runs in a context of its own, of which nothing is left for the next. `KILN_UPDATE_DOCS=1 cargo test -p sim-driver --test
//! misuse` writes the tables into the page.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod captures;
mod contexts;
mod graphs;
mod launches;
mod memory;
mod modules;
mod streams;
mod tensor_maps;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::ptr::null_mut;

use common::in_child;
use common::program::{Program, given, load, ok};
use cudarc::driver::sys::{self, CUresult};

/// Where a row runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// Two devices of compute capability 9.0, with 4 SMs and 64 MiB each.
    Usual,
    /// The same, before `cuInit`.
    Uninitialised,
    /// No device.
    Empty,
    /// Compute capability 8.0.
    Older,
}

impl Machine {
    fn settings(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = vec![("KILN_SIM_VRAM_MIB", "64"), ("KILN_SIM_SMS", "4")];
        settings.push(("KILN_SIM_DEVICES", if self == Machine::Empty { "0" } else { "2" }));
        settings.push(("KILN_SIM_CC", if self == Machine::Older { "8.0" } else { "9.0" }));
        settings
    }
}

/// A row: the mistake, and the code that the last call of `run` must return. Calls before it must succeed.
struct Misuse {
    call: &'static str,
    mistake: &'static str,
    code: CUresult,
    machine: Machine,
    run: fn(Program) -> CUresult,
}

/// A row on the usual machine.
fn row(call: &'static str, mistake: &'static str, code: CUresult, run: fn(Program) -> CUresult) -> Misuse {
    Misuse { call, mistake, code, machine: Machine::Usual, run }
}

/// A row on another machine.
fn on(machine: Machine, row: Misuse) -> Misuse {
    Misuse { machine, ..row }
}

/// The tables with their titles.
fn sections() -> Vec<(&'static str, Vec<Misuse>)> {
    vec![
        ("Initialisation, devices and contexts", contexts::rows()),
        ("Memory and pools", memory::rows()),
        ("Modules and functions", modules::rows()),
        ("Launches and occupancy", launches::rows()),
        ("Streams and events", streams::rows()),
        ("Stream capture", captures::rows()),
        ("Graphs", graphs::rows()),
        ("Tensor maps", tensor_maps::rows()),
    ]
}

/// A new context on the first device, current, with the tests' kernels.
fn start() -> Program {
    ok(unsafe { sys::cuInit(0) });
    let context = given(null_mut(), |c| unsafe { sys::cuCtxCreate_v4(c, null_mut(), 0, 0) });
    Program { context, module: load(common::PTX) }
}

/// Runs the rows of a machine in a process of their own.
fn check(name: &str, machine: Machine) {
    in_child(name, &machine.settings(), || {
        let rows = sections().into_iter().flat_map(|(_, rows)| rows).filter(|r| r.machine == machine);
        let mut wrong = Vec::new();
        for row in rows {
            let has_context = matches!(machine, Machine::Usual | Machine::Older);
            let nothing = Program { context: null_mut(), module: null_mut() };
            let program = if has_context { start() } else { nothing };
            let found = (row.run)(program);
            if found != row.code {
                wrong.push(format!("{}, {}: {found:?}, not {:?}", row.call, row.mistake, row.code));
            }
            if has_context {
                // Some rows destroy it themselves.
                let _ = unsafe { sys::cuCtxDestroy_v2(program.context) };
                ok(unsafe { sys::cuCtxSetCurrent(null_mut()) });
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn misuses_get_the_documented_codes() {
    check("misuses_get_the_documented_codes", Machine::Usual);
}

#[test]
fn misuses_before_initialisation() {
    check("misuses_before_initialisation", Machine::Uninitialised);
}

#[test]
fn misuses_without_a_device() {
    check("misuses_without_a_device", Machine::Empty);
}

#[test]
fn misuses_on_an_older_device() {
    check("misuses_on_an_older_device", Machine::Older);
}

const BEGIN: &str = "<!-- misuses: begin -->\n";
const END: &str = "<!-- misuses: end -->\n";

fn tables() -> String {
    let mut out = String::new();
    for (title, rows) in sections() {
        let _ = write!(out, "\n### {title}\n\n| Call | Mistake | Result |\n|---|---|---|\n");
        for row in rows {
            let _ = writeln!(
                out,
                "| `{}` | {} | `{}` |",
                row.call,
                row.mistake,
                format!("{:?}", row.code).replace("CUDA_ERROR_", "")
            );
        }
    }
    out + "\n"
}

#[test]
fn the_docs_hold_the_tables() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulator-driver.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let fresh = format!("{head}{BEGIN}{}{END}{tail}", tables());
    if std::env::var_os("KILN_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &fresh).unwrap();
    }
    assert!(text == fresh, "{} is stale: run this test with KILN_UPDATE_DOCS=1", page.display());
    let all: Vec<Misuse> = sections().into_iter().flat_map(|(_, rows)| rows).collect();
    let names: BTreeSet<_> = all.iter().map(|r| (r.call, r.mistake)).collect();
    assert_eq!(names.len(), all.len(), "a row is there twice");
}
