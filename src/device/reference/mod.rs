//! The naive device: the oracle of all tests.
