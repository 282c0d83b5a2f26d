//! The registered cases, one list per family.

mod cooperative_groups;
mod cub;
mod cute_tiles;
mod cutlass;
mod language;
mod libcudacxx;
mod tma;
mod triton;
mod wmma;

use crate::case::Case;

/// In the order of the table.
pub const FAMILIES: &[&[Case]] = &[
    cub::CASES,
    cooperative_groups::CASES,
    libcudacxx::CASES,
    language::CASES,
    wmma::CASES,
    cutlass::CASES,
    cute_tiles::CASES,
    tma::CASES,
    triton::CASES,
];
