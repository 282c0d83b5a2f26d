//! What the compiler makes of the language: calls, memory spaces, parameters, output.

use bytemuck::{Pod, Zeroable};
use sim_conformance::{Argument, Launch, Random, assert_same, conform};
use sim_exec::FindingKind;

#[test]
fn language_function_pointers() {
    conform("language_function_pointers", |sim| {
        let mut random = Random::new(1);
        let x = random.list(128, |r| r.below(1000) as i32 - 500);
        let which = random.list(128, |r| r.below(3) as i32);
        let out = sim.room::<i32>(128);
        let arguments: [&dyn Argument; 3] = [&sim.buffer(&x), &sim.buffer(&which), &out];
        sim.launch("language_function_pointers", Launch::new(2, 64), &arguments);
        let gcd = |mut a: i32, mut b: i32| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a.abs()
        };
        let expected = (0..128).map(|i| match (which[i], x[i], i as i32 + 1) {
            (0, a, b) => a + b,
            (1, a, b) => a - b,
            (_, a, b) => gcd(a, b),
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn language_virtual_calls() {
    conform("language_virtual_calls", |sim| {
        let x = Random::new(2).list(64, |r| r.below(100) as i32);
        let out = sim.room::<i32>(64);
        sim.launch("language_virtual_calls", Launch::new(1, 64), &[&sim.buffer(&x), &out]);
        let area = |i: usize| match (x[i], i as i32) {
            (a, b) if a % 2 == 0 => a * b * 10 + 4,
            (a, b) => a * (b + 1) / 2 * 10 + 3,
        };
        assert_same(&sim.read(&out), &(0..64).map(area).collect::<Vec<_>>());
    });
}

fn ackermann(m: i32, n: i32) -> i32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

#[test]
fn language_recursion() {
    conform("language_recursion", |sim| {
        let m: Vec<i32> = (0..40).map(|i| i % 3).collect();
        let n: Vec<i32> = (0..40).map(|i| i % 5).collect();
        let out = sim.room::<i32>(40);
        sim.launch("language_recursion", Launch::new(1, 40), &[&sim.buffer(&m), &sim.buffer(&n), &out]);
        let expected = m.iter().zip(&n).map(|(m, n)| ackermann(*m, *n));
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Big {
    scale: i32,
    offsets: [i32; 12],
    padding: [i32; 3],
    weights: [f32; 8],
}

#[test]
fn language_grid_constant() {
    conform("language_grid_constant", |sim| {
        let x = Random::new(4).list(96, |r| r.below(1000) as i32);
        let offsets = std::array::from_fn(|i| 100 - 7 * i as i32);
        let weights = std::array::from_fn(|i| 0.25 * i as f32);
        let big = Big { scale: 3, offsets, padding: [0; 3], weights };
        let out = sim.room::<f32>(96);
        sim.launch("language_grid_constant", Launch::new(1, 96), &[&big, &sim.buffer(&x), &out]);
        let expected = x.iter().map(|&v| (3 * offsets[v as usize % 12]) as f32 + weights[v as usize % 8]);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn language_dynamic_shared() {
    conform("language_dynamic_shared", |sim| {
        let count = 300;
        let x = Random::new(5).list(count, |r| f64::from(r.unit()));
        let out = sim.room::<f64>(count);
        let launch = Launch::new(1, 64).shared(12 * count as u32);
        sim.launch("language_dynamic_shared", launch, &[&sim.buffer(&x), &out, &(count as i32)]);
        assert_same(&sim.read(&out), &x.iter().rev().copied().collect::<Vec<_>>());
    });
}

#[test]
fn language_local_arrays() {
    conform("language_local_arrays", |sim| {
        let (threads, rounds) = (64, 50);
        let x = Random::new(6).list(threads, |r| r.below(300) as i32);
        let out = sim.room::<i32>(threads);
        sim.launch("language_local_arrays", Launch::new(1, threads as u32), &[&sim.buffer(&x), &out, &rounds]);
        let expected = (0..threads).map(|i| {
            let (mut stack, mut top) = ([0i32; 32], 0);
            for r in 0..rounds as usize {
                let v = x[(i + r) % threads];
                if v % 3 != 0 && top < 32 {
                    stack[top] = v;
                    top += 1;
                } else if top > 0 {
                    top -= 1;
                    stack[top / 2] += v;
                }
            }
            stack[..top].iter().fold(top as i32, |sum, v| sum.wrapping_mul(31).wrapping_add(*v))
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn language_switch() {
    conform("language_switch", |sim| {
        let x = Random::new(7).list(96, |r| r.below(12) as i32 - 1);
        let out = sim.buffer(&[-1i32; 96]);
        sim.launch("language_switch", Launch::new(1, 96), &[&sim.buffer(&x), &out, &96i32]);
        let expected = (0..96).map(|i| match x[i] {
            0 => -3,
            1 => (x[(i + 1) % 96] - 100) ^ 0x55,
            2 => 0x55,
            3 => x[..i].iter().sum(),
            4 => (i * i) as i32,
            5 => -1,
            6 => 7,
            7 => i as i32 % 7,
            8 => x[i / 2],
            9 => 9i32.count_ones() as i32 + x[0],
            _ => 12345,
        });
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
    });
}

#[test]
fn language_variables() {
    conform("language_variables", |sim| {
        let x = Random::new(8).list(64, |r| r.below(1000) as i32);
        let (out, last) = (sim.room::<i32>(64), sim.room::<i32>(1));
        sim.launch("language_variables", Launch::new(1, 64), &[&sim.buffer(&x), &out, &last]);
        let primes = [2, 3, 5, 7, 11, 13, 17, 19];
        let expected = x.iter().map(|&v| primes[v as usize % 8] * 10 + [4, 3, 3][v as usize % 3]);
        assert_same(&sim.read(&out), &expected.collect::<Vec<_>>());
        assert_eq!(sim.read(&last), [5 + 64]);
    });
}

#[test]
fn language_printf() {
    conform("language_printf", |sim| {
        let (x, y) = (sim.buffer(&[-3i32, 17]), sim.buffer(&[1.5f32, -0.125]));
        let report = sim.launch("language_printf", Launch::new(1, 32), &[&x, &y]);
        let expected = "start 100%\n\
            -3 7 1099511627776 ff [   17] [42   ] [00042] z text\n\
            1.500000 -0.12 1.234568e+04 0.5   -1.000|\n";
        assert_eq!(report.output, expected);
    });
}

#[test]
fn language_assert() {
    conform("language_assert", |sim| {
        let mut x = [1i32; 64];
        sim.launch("language_assert", Launch::new(1, 64), &[&sim.buffer(&x)]);
        x[40] = -1;
        let finding = sim.launch_to_finding("language_assert", Launch::new(1, 64), &[&sim.buffer(&x)]);
        assert_eq!((finding.kind, finding.thread), (FindingKind::Assert, Some([40, 0, 0])), "{finding}");
        assert!(finding.message.contains("x[i] >= 0") && finding.message.contains("language.cu"), "{finding}");
    });
}

#[test]
fn language_trap() {
    conform("language_trap", |sim| {
        let mut x = [1i32; 64];
        sim.launch("language_trap", Launch::new(1, 64), &[&sim.buffer(&x)]);
        x[40] = -1;
        let finding = sim.launch_to_finding("language_trap", Launch::new(1, 64), &[&sim.buffer(&x)]);
        assert_eq!((finding.kind, finding.thread), (FindingKind::Trap, Some([40, 0, 0])), "{finding}");
    });
}
