//! The parser on PTX that compilers write, beside every conformance case: it is read, printed and read again to the same tree, and what is printed is PTX to
//! NVIDIA's assembler. What the executor can run of it is another question.

use std::path::Path;

use sim_conformance::{Toolchain, assert_survives_printing, workspace_root};

/// The files of the parser's corpus, and what they are for.
const CORPUS: &[(&str, &str)] = &[
    ("nvcc", "sm_80"),
    ("inline_assembly", "sm_90"),
    ("hopper", "sm_90a"),
    ("blackwell", "sm_100a"),
    ("blackwell_consumer", "sm_120a"),
];

fn toolchain() -> Toolchain {
    Toolchain::find().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_corpus_is_ptx_before_and_after_printing() {
    let toolchain = toolchain();
    for (name, arch) in CORPUS {
        let path = workspace_root().join(format!("crates/sim-ptx/tests/corpus/{name}.ptx"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for text in [text.clone(), assert_survives_printing(name, &text)] {
            toolchain.assemble(name, &text, arch).unwrap_or_else(|e| panic!("{name} for {arch}: {e}\n{text}"));
        }
    }
}

/// A kernel source of the repository: its text for an architecture, read, printed and read again; the printed text.
fn of_source(toolchain: &Toolchain, source: &Path, arch: &str, flags: &[&str]) -> String {
    let ptx = toolchain.compile(source, arch, flags).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    assert_survives_printing(&format!("{} for {arch}", source.display()), &ptx)
}

#[test]
fn kernels_survive_for_every_architecture() {
    let toolchain = toolchain();
    // Small, with tables, inline assembly and asserts; the large ones differ in length alone.
    let source = workspace_root().join("cuda/rows.cu");
    for arch in ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_100a", "sm_120"] {
        let printed = of_source(&toolchain, &source, arch, &[]);
        if matches!(arch, "sm_80" | "sm_120") {
            toolchain.assemble("rows", &printed, arch).unwrap_or_else(|e| panic!("rows.cu for {arch}: {e}"));
        }
    }
}

#[test]
fn all_kernels_of_the_engine_survive() {
    let toolchain = toolchain();
    for name in ["sample", "repack", "linear_small", "linear_large", "attend"] {
        of_source(&toolchain, &workspace_root().join(format!("cuda/{name}.cu")), "sm_80", &[]);
    }
}
