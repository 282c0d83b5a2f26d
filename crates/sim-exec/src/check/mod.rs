//! The checkers' state: clocks that say what happened before what, and shadows that remember who touched a word last.

pub mod clock;
pub mod global_race;
pub mod shared;
