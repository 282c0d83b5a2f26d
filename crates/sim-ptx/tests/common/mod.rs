//! The corpus, and what tests of it share.

use sim_ptx::read;

/// Forms of PTX by where they come from, in files of their own. `sim-conformance` has ptxas assemble the same files.
pub const CORPUS: &[(&str, &str)] = &[
    ("nvcc", include_str!("../corpus/nvcc.ptx")),
    ("inline_assembly", include_str!("../corpus/inline_assembly.ptx")),
    ("hopper", include_str!("../corpus/hopper.ptx")),
    ("blackwell", include_str!("../corpus/blackwell.ptx")),
    ("blackwell_consumer", include_str!("../corpus/blackwell_consumer.ptx")),
];

/// Reads, prints, and reads again.
///
/// # Panics
/// If the text is refused or the trees differ.
pub fn assert_round_trip(name: &str, text: &str) {
    let tree = read(text).unwrap_or_else(|(line, message)| panic!("{name}:{line}: {message}"));
    let printed = tree.to_string();
    let again = read(&printed).unwrap_or_else(|(line, message)| panic!("{name}, printed:{line}: {message}\n{printed}"));
    assert!(tree.without_lines() == again.without_lines(), "{name}: the tree changed\n{printed}");
}
