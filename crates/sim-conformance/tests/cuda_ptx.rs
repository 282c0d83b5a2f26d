//! Instructions by name, through `cuda::ptx`.

use sim_conformance::{Launch, Random, assert_same, conform};

#[test]
fn cuda_ptx_mbarrier() {
    conform("cuda_ptx_mbarrier", |sim| {
        let phases = 1 + sim.seed as usize % 7;
        let x = Random::new(1).list(32 * phases, |r| r.i32() >> 4);
        let out = sim.room::<i32>(x.len());
        sim.launch("cuda_ptx_mbarrier", Launch::new(1, 64), &[&sim.buffer(&x), &out, &(phases as i32)]);
        let expected: Vec<i32> = x.chunks(32).flat_map(|phase| phase.iter().rev().map(|v| v + 1)).collect();
        assert_same(&sim.read(&out), &expected);
    });
}

#[test]
fn cuda_ptx_bits() {
    conform("cuda_ptx_bits", |sim| {
        let mut x = Random::new(2 + sim.seed).list(64, |r| r.u32() >> r.below(32));
        x[..3].copy_from_slice(&[0, u32::MAX, 1 << 31]);
        let out = sim.room::<u32>(8 * 64);
        sim.launch("cuda_ptx_bits", Launch::new(1, 64), &[&sim.buffer(&x), &out]);
        let mut expected = Vec::new();
        for i in 0..64 {
            let (a, b, lane) = (x[i], x[(i + 1) % 64], i as u32 % 32);
            let width = (b % 40).min(32);
            let field = ((1u64 << width) - 1).checked_shl(a % 40).unwrap_or(0) as u32;
            let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
            let down = if lane + 3 < 32 { x[i + 3].wrapping_add(1) } else { a };
            expected.extend([
                a.checked_ilog2().unwrap_or(u32::MAX),
                field,
                u32::from_le_bytes([bytes[1], bytes[3], bytes[5], bytes[7]]),
                a.checked_shr(b % 40).unwrap_or(0),
                a.checked_shl(b % 40).unwrap_or(0),
                ((1 << lane) - 1) ^ lane,
                down,
                u32::from(lane == 0),
            ]);
        }
        assert_same(&sim.read(&out), &expected);
    });
}
