//! The table in the docs, the registered cases and the tests name the same kernels.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sim_conformance::{Case, DOCS, with_table, workspace_root};

#[test]
fn the_docs_hold_the_table_of_the_registered_cases() {
    let docs = fs::read_to_string(workspace_root().join(DOCS)).expect(DOCS);
    assert!(with_table(&docs) == docs, "{DOCS} is stale: run `cargo run -p sim-conformance --example table`");
}

#[test]
fn every_registered_case_is_a_test_and_every_name_is_used_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(folder).expect("tests/").flatten();
    let text: String = files.map(|f| fs::read_to_string(f.path()).expect("a test file")).collect();
    let mut names = BTreeSet::new();
    for case in Case::all() {
        assert!(text.contains(&format!("#[test]\nfn {}()", case.name)), "{} has no test", case.name);
        assert!(names.insert(case.name), "{} is registered twice", case.name);
    }
}
