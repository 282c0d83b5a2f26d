//! How many CTAs of a kernel fit on an SM: the rules of NVIDIA's occupancy calculator.

use super::device::{Limits, REGISTERS_PER_SM, SHARED_BYTES_RESERVED};

/// Registers are given to warps in units of 256.
const REGISTER_UNIT: u32 = 256;
/// Warps get their registers in fours, one for each part of the SM.
const WARP_UNIT: u32 = 4;
/// Shared memory is given to CTAs in units of 128 bytes.
const SHARED_UNIT: u32 = 128;

/// What a CTA takes.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    pub threads: u32,
    /// Per thread.
    pub registers: u32,
    /// Static and dynamic.
    pub shared_bytes: u32,
}

/// CTAs per SM; 0 when not even one fits.
pub fn blocks_per_sm(limits: &Limits, footprint: Footprint) -> u32 {
    if footprint.threads == 0 || footprint.shared_bytes > limits.shared_bytes_per_block_optin {
        return 0;
    }
    let warps = footprint.threads.div_ceil(32);
    let by_warps = limits.threads_per_sm / 32 / warps;
    let registers_per_warp = (footprint.registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let warps_by_registers = REGISTERS_PER_SM / registers_per_warp / WARP_UNIT * WARP_UNIT;
    let by_registers = warps_by_registers / warps.next_multiple_of(WARP_UNIT);
    let shared = (footprint.shared_bytes + SHARED_BYTES_RESERVED).next_multiple_of(SHARED_UNIT);
    let by_shared = limits.shared_bytes_per_sm / shared;
    limits.blocks_per_sm.min(by_warps).min(by_registers).min(by_shared)
}

/// Most dynamic shared memory per CTA that lets `blocks` CTAs share an SM, beside `static_bytes` each.
pub fn dynamic_shared_bytes(limits: &Limits, blocks: u32, static_bytes: u32) -> u32 {
    let each = limits.shared_bytes_per_sm / blocks.max(1) / SHARED_UNIT * SHARED_UNIT;
    each.saturating_sub(SHARED_BYTES_RESERVED).min(limits.shared_bytes_per_block_optin).saturating_sub(static_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::device::Device;
    use crate::core::settings::Settings;

    fn limits(cc: &str) -> Limits {
        let settings = Settings::read(&|name| (name == "KILN_SIM_CC").then(|| cc.to_owned())).expect("good");
        Device::new(0, &settings, 0, 0).limits
    }

    /// Results of NVIDIA's occupancy calculator.
    #[test]
    fn known_footprints() {
        let cases = [
            ("9.0", 256, 32, 0, 8),
            ("9.0", 1024, 64, 0, 1),
            ("9.0", 1024, 65, 0, 0),
            ("9.0", 256, 255, 0, 1),
            ("9.0", 128, 40, 0, 12),
            ("9.0", 32, 16, 0, 32),
            ("9.0", 128, 32, 227 << 10, 1),
            ("9.0", 128, 32, (227 << 10) + 1, 0),
            ("9.0", 128, 32, 100 << 10, 2),
            ("8.9", 256, 32, 0, 6),
            ("8.9", 32, 16, 0, 24),
            ("8.9", 128, 32, 48 << 10, 2),
            ("8.0", 128, 32, 48 << 10, 3),
            ("12.0", 1024, 32, 0, 1),
        ];
        for (cc, threads, registers, shared_bytes, expected) in cases {
            let got = blocks_per_sm(&limits(cc), Footprint { threads, registers, shared_bytes });
            assert_eq!(got, expected, "{threads} threads, {registers} registers, {shared_bytes} bytes on {cc}");
        }
    }

    #[test]
    fn shared_memory_left_lets_exactly_that_many_blocks_fit() {
        let limits = limits("9.0");
        for blocks in [1, 2, 3, 7, 16] {
            let bytes = dynamic_shared_bytes(&limits, blocks, 256);
            let fits = |shared_bytes| blocks_per_sm(&limits, Footprint { threads: 32, registers: 16, shared_bytes });
            assert!(
                fits(bytes + 256) >= blocks && (blocks == 1 || fits(bytes + 256 + 129) < blocks),
                "{blocks}: {bytes}"
            );
        }
    }
}
