//! The registered cases, one list per family.

mod cub;

use crate::case::Case;

/// In the order of the table.
pub const FAMILIES: &[&[Case]] = &[cub::CASES];
