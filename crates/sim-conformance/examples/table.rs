//! Writes the table of conformance cases into the docs: `cargo run -p sim-conformance --example table`.

use std::fs;
use std::io;

use sim_conformance::{DOCS, with_table, workspace_root};

fn main() -> io::Result<()> {
    let path = workspace_root().join(DOCS);
    let docs = fs::read_to_string(&path)?;
    fs::write(&path, with_table(&docs))
}
