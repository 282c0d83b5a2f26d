//! Sequences, scheduling and steps.
