//! The fast device for CPUs.
