//! Instructions against scalar models written from the PTX ISA: every case runs as PTX text on 64 random and special operands.
// Threads are indices in the models.
#![allow(clippy::needless_range_loop, clippy::type_complexity)]

mod common;

use common::Bench;

type Model = fn(u64, u64, u64) -> u64;

/// Deterministic operands: special values first, then noise.
fn operands(seed: u64, bits: u32) -> Vec<u64> {
    let special: &[u64] = match bits {
        64 => &[0, 1, !0, 1 << 63, 0x7ff0_0000_0000_0000, 0x3ff0_0000_0000_0000, 31, 32, 63, 64],
        _ => &[
            0,
            1,
            0xffff_ffff,
            0x8000_0000,
            0x7fff_ffff,
            0x3f80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0001,
            1 << 23,
            31,
            32,
            33,
        ],
    };
    let mut state = seed;
    (0..64)
        .map(|i| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let noise = state ^ state >> 29;
            let value = if i % 3 == 0 { special[noise as usize % special.len()] } else { noise };
            if bits == 64 { value } else { value & 0xffff_ffff }
        })
        .collect()
}

/// Runs `text`, which computes %d from %a, %b and %c, on 64 threads.
fn run(text: &str, wide_in: bool, wide_out: bool, columns: &[Vec<u64>; 3]) -> Vec<u64> {
    let (bits_in, bits_out) = (if wide_in { 64 } else { 32 }, if wide_out { 64 } else { 32 });
    let (step_in, step_out) = (bits_in / 8, bits_out / 8);
    let mut bench = Bench::new(&format!(
        ".visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd) {{
          .reg .b{bits_in} %a, %b, %c; .reg .b{bits_out} %d; .reg .b32 %t<8>; .reg .b16 %h<8>; .reg .b64 %rd<12>; .reg .pred %p<4>;
          ld.param.u64 %rd1, [pa]; ld.param.u64 %rd2, [pb]; ld.param.u64 %rd3, [pc]; ld.param.u64 %rd4, [pd];
          mov.u32 %t0, %tid.x; mul.wide.u32 %rd5, %t0, {step_in}; mul.wide.u32 %rd6, %t0, {step_out};
          add.s64 %rd1, %rd1, %rd5; add.s64 %rd2, %rd2, %rd5; add.s64 %rd3, %rd3, %rd5; add.s64 %rd4, %rd4, %rd6;
          ld.global.b{bits_in} %a, [%rd1]; ld.global.b{bits_in} %b, [%rd2]; ld.global.b{bits_in} %c, [%rd3];
          {text}
          st.global.b{bits_out} [%rd4], %d; ret; }}"
    ));
    for column in columns {
        let words: Vec<u32> = match wide_in {
            true => column.iter().flat_map(|v| [*v as u32, (*v >> 32) as u32]).collect(),
            false => column.iter().map(|v| *v as u32).collect(),
        };
        bench.buffer(&words);
    }
    let out = bench.room(64 * u64::from(step_out as u32));
    bench.run(64).unwrap_or_else(|e| panic!("{text}: {e}"));
    let words = bench.words(out, 64 * step_out as usize / 4);
    if wide_out {
        words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect()
    } else {
        words.into_iter().map(u64::from).collect()
    }
}

fn check(cases: &[(&str, Model)], wide_in: bool, wide_out: bool) {
    for (text, model) in cases {
        for seed in 1..5 {
            let bits = if wide_in { 64 } else { 32 };
            let columns = [operands(seed, bits), operands(seed * 77, bits), operands(seed * 991, bits)];
            let got = run(text, wide_in, wide_out, &columns);
            for i in 0..64 {
                let (a, b, c) = (columns[0][i], columns[1][i], columns[2][i]);
                let mask = if wide_out { !0 } else { 0xffff_ffff };
                assert_eq!(got[i], model(a, b, c) & mask, "{text} of {a:#x}, {b:#x}, {c:#x}");
            }
        }
    }
}

#[test]
fn integer_arithmetic() {
    check(
        &[
            ("add.u32 %d, %a, %b;", |a, b, _| a + b),
            ("sub.s32 %d, %a, %b;", |a, b, _| a.wrapping_sub(b)),
            ("mul.lo.s32 %d, %a, %b;", |a, b, _| a.wrapping_mul(b)),
            ("mul.hi.u32 %d, %a, %b;", |a, b, _| (a * b) >> 32),
            ("mul.hi.s32 %d, %a, %b;", |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u64),
            ("mad.lo.u32 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("min.s32 %d, %a, %b;", |a, b, _| (a as i32).min(b as i32) as u64),
            ("max.u32 %d, %a, %b;", |a, b, _| a.max(b)),
            ("max.s32 %d, %a, -5;", |a, _, _| (a as i32).max(-5) as u64),
            ("abs.s32 %d, %a;", |a, _, _| (a as i32).wrapping_abs() as u64),
            ("neg.s32 %d, %a;", |a, _, _| (a as i32).wrapping_neg() as u64),
            ("add.sat.s32 %d, %a, %b;", |a, b, _| (a as i32).saturating_add(b as i32) as u64),
            ("sad.u32 %d, %a, %b, %c;", |a, b, c| a.abs_diff(b) + c),
            ("add.cc.u32 %d, %a, %b; addc.u32 %d, %c, 0;", |a, b, c| c + ((a + b) >> 32)),
            ("sub.cc.u32 %d, %a, %b; subc.u32 %d, %c, %b;", |a, b, c| c.wrapping_sub(b).wrapping_sub(u64::from(a < b))),
            ("mad.lo.cc.u32 %d, %a, %b, %c; madc.hi.u32 %d, %a, %b, 7;", |a, b, c| {
                ((a * b) >> 32) + 7 + ((((a * b) & 0xffff_ffff) + c) >> 32)
            }),
            ("dp4a.s32.s32 %d, %a, %b, %c;", |a, b, c| {
                (0..4).fold(c as i32, |s, i| {
                    s.wrapping_add(i32::from((a >> (8 * i)) as i8) * i32::from((b >> (8 * i)) as i8))
                }) as u64
            }),
            ("dp4a.u32.s32 %d, %a, %b, %c;", |a, b, c| {
                (0..4).fold(c as i32, |s, i| {
                    s.wrapping_add(i32::from((a >> (8 * i)) as u8) * i32::from((b >> (8 * i)) as i8))
                }) as u64
            }),
            ("dp2a.hi.s32.u32 %d, %a, %b, %c;", |a, b, c| {
                (0..2).fold(c as i32, |s, i| {
                    s.wrapping_add(i32::from((a >> (16 * i)) as i16) * i32::from((b >> (16 + 8 * i)) as u8))
                }) as u64
            }),
        ],
        false,
        false,
    );
    check(
        &[
            ("mul.wide.s32 %d, %a, %b;", |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64),
            ("cvt.u64.u32 %rd7, %c; mad.wide.u32 %d, %a, %b, %rd7;", |a, b, c| (a * b).wrapping_add(c)),
            ("mov.b64 %d, {%a, %b};", |a, b, _| a | b << 32),
            ("cvt.s64.s32 %d, %a;", |a, _, _| a as i32 as i64 as u64),
        ],
        false,
        true,
    );
}

#[test]
fn wide_integers() {
    check(
        &[
            ("add.s64 %d, %a, %b;", |a, b, _| a.wrapping_add(b)),
            ("mul.lo.u64 %d, %a, %b;", |a, b, _| a.wrapping_mul(b)),
            ("mul.hi.u64 %d, %a, %b;", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            ("mad.lo.s64 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("or.b64 %rd7, %b, 1; div.u64 %d, %a, %rd7;", |a, b, _| a / (b | 1)),
            ("or.b64 %rd7, %b, 1; rem.s64 %d, %a, %rd7;", |a, b, _| (a as i64).wrapping_rem((b | 1) as i64) as u64),
            ("cvt.u32.u64 %t1, %b; shl.b64 %d, %a, %t1;", |a, b, _| a.checked_shl(b as u32).unwrap_or(0)),
            ("cvt.u32.u64 %t1, %b; shr.s64 %d, %a, %t1;", |a, b, _| ((a as i64) >> (b as u32).min(63)) as u64),
            ("selp.b64 %d, %a, %b, 1;", |a, _, _| a),
            ("setp.lt.s64 %p1, %a, %b; selp.b64 %d, %a, %b, %p1;", |a, b, _| (a as i64).min(b as i64) as u64),
        ],
        true,
        true,
    );
}

#[test]
fn bit_operations() {
    check(
        &[
            ("shl.b32 %d, %a, %b;", |a, b, _| if b > 31 { 0 } else { a << b }),
            ("shr.u32 %d, %a, %b;", |a, b, _| if b > 31 { 0 } else { a >> b }),
            ("shr.s32 %d, %a, %b;", |a, b, _| ((a as i32) >> b.min(31)) as u64),
            ("shf.l.wrap.b32 %d, %a, %b, %c;", |a, b, c| ((b << 32 | a) << (c & 31)) >> 32),
            ("shf.r.clamp.b32 %d, %a, %b, %c;", |a, b, c| (b << 32 | a) >> c.min(32)),
            ("popc.b32 %d, %a;", |a, _, _| a.count_ones().into()),
            ("clz.b32 %d, %a;", |a, _, _| (a as u32).leading_zeros().into()),
            ("brev.b32 %d, %a;", |a, _, _| (a as u32).reverse_bits().into()),
            ("bfind.u32 %d, %a;", |a, _, _| (0..32).rev().find(|i| a >> i & 1 != 0).map_or(!0, |i| i)),
            ("bfind.shiftamt.s32 %d, %a;", |a, _, _| {
                let sign = a >> 31 & 1;
                (0..32).rev().find(|i| a >> i & 1 != sign).map_or(!0, |i| 31 - i)
            }),
            // PTX ISA's own loops for bfe and bfi.
            ("bfe.u32 %d, %a, %b, %c;", |a, b, c| bfe(a, b, c, false)),
            ("bfe.s32 %d, %a, %b, %c;", |a, b, c| bfe(a, b, c, true)),
            ("bfi.b32 %d, %a, %b, %c, 9;", |a, b, c| {
                let mut f = b;
                for i in 0..9 {
                    if i + (c & 255) < 32 {
                        f = f & !(1 << (i + (c & 255))) | (a >> i & 1) << (i + (c & 255));
                    }
                }
                f
            }),
            ("lop3.b32 %d, %a, %b, %c, 0xb8;", |a, b, c| {
                (0..32).fold(0, |o, i| {
                    let entry = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
                    o | (0xb8 >> entry & 1) << i
                })
            }),
            ("prmt.b32 %d, %a, %b, %c;", |a, b, c| {
                (0..4).fold(0, |o, i| {
                    let sel = c >> (4 * i) & 15;
                    let byte = (b << 32 | a) >> (8 * (sel & 7)) & 255;
                    o | (if sel & 8 != 0 { if byte & 128 != 0 { 255 } else { 0 } } else { byte }) << (8 * i)
                })
            }),
            ("not.b32 %d, %a;", |a, _, _| !a),
            ("bmsk.clamp.b32 %d, %a, %b;", |a, b, _| {
                (0..32).filter(|i| *i >= a && *i < a + b.min(32)).fold(0, |m, i| m | 1 << i)
            }),
        ],
        false,
        false,
    );
}

fn bfe(a: u64, b: u64, c: u64, signed: bool) -> u64 {
    let (pos, len) = (b & 255, c & 255);
    let sbit = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(31) & 1 };
    (0..32).fold(0, |d, i| d | if i < len && pos + i <= 31 { a >> (pos + i) & 1 } else { sbit } << i)
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn canonical(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

fn ftz(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn single_precision() {
    check(
        &[
            ("add.f32 %d, %a, %b;", |a, b, _| canonical(f(a) + f(b))),
            ("sub.rn.ftz.f32 %d, %a, %b;", |a, b, _| canonical(ftz(ftz(f(a)) - ftz(f(b))))),
            ("mul.ftz.sat.f32 %d, %a, %b;", |a, b, _| {
                let x = ftz(f(a)) * ftz(f(b));
                canonical(if x.is_nan() { 0.0 } else { ftz(x).clamp(0.0, 1.0) + 0.0 })
            }),
            ("fma.rn.f32 %d, %a, %b, %c;", |a, b, c| canonical(f(a).mul_add(f(b), f(c)))),
            ("div.rn.f32 %d, %a, %b;", |a, b, _| canonical(f(a) / f(b))),
            ("rcp.rn.f32 %d, %a;", |a, _, _| canonical(1.0 / f(a))),
            ("sqrt.rn.f32 %d, %a;", |a, _, _| canonical(f(a).sqrt())),
            ("neg.f32 %d, %a;", |a, _, _| a ^ 1 << 31),
            ("abs.f32 %d, %a;", |a, _, _| a & 0x7fff_ffff),
            ("max.f32 %d, %a, %b;", |a, b, _| {
                let (x, y) = (f(a), f(b));
                canonical(if x.is_nan() {
                    y
                } else if y.is_nan() || x > y || x == y && y.is_sign_negative() {
                    x
                } else {
                    y
                })
            }),
            ("min.NaN.f32 %d, %a, %b;", |a, b, _| {
                let (x, y) = (f(a), f(b));
                canonical(if x.is_nan() || y.is_nan() {
                    f32::NAN
                } else if x < y || x == y && x.is_sign_negative() {
                    x
                } else {
                    y
                })
            }),
            ("setp.gtu.f32 %p1, %a, %b; selp.b32 %d, 1, 0, %p1;", |a, b, _| {
                u64::from(f(a) > f(b) || f(a).is_nan() || f(b).is_nan())
            }),
            (
                "setp.eq.and.f32 %p1|%p2, %a, %a, 1; selp.b32 %t1, 1, 0, %p1; selp.b32 %t2, 2, 0, %p2; or.b32 %d, %t1, %t2;",
                |a, _, _| if f(a).is_nan() { 2 } else { 1 },
            ),
            ("cvt.rni.f32.f32 %d, %a;", |a, _, _| canonical(f(a).round_ties_even())),
            ("cvt.rzi.s32.f32 %d, %a;", |a, _, _| f(a) as i32 as u64),
            ("cvt.rmi.ftz.u32.f32 %d, %a;", |a, _, _| ftz(f(a)).floor() as u32 as u64),
            ("cvt.rn.f32.s32 %d, %a;", |a, _, _| canonical(a as i32 as f32)),
            ("cvt.rn.f16.f32 %h1, %a; cvt.f32.f16 %d, %h1;", |a, _, _| canonical(half::f16::from_f32(f(a)).to_f32())),
            ("cvt.rn.bf16x2.f32 %d, %a, %b;", |a, b, _| {
                let brain = |x: f32| if x.is_nan() { 0x7fff } else { half::bf16::from_f32(x).to_bits() };
                u64::from(brain(f(a))) << 16 | u64::from(brain(f(b)))
            }),
            ("ex2.approx.ftz.f32 %d, %a;", |a, _, _| canonical(ftz(f64::from(ftz(f(a))).exp2() as f32))),
        ],
        false,
        false,
    );
}

#[test]
fn half_precision_pairs() {
    fn each(a: u64, b: u64, op: fn(f64, f64) -> f64) -> u64 {
        let one = |a: u64, b: u64| {
            let h = |x: u64| half::f16::from_bits(x as u16).to_f64();
            let out = half::f16::from_f64(op(h(a), h(b)));
            u64::from(if out.is_nan() { 0x7fff } else { out.to_bits() })
        };
        one(a, b) | one(a >> 16, b >> 16) << 16
    }
    check(
        &[
            ("add.f16x2 %d, %a, %b;", |a, b, _| each(a, b, |x, y| x + y)),
            ("mul.rn.f16x2 %d, %a, %b;", |a, b, _| each(a, b, |x, y| x * y)),
            // 0.5 and 0x3800: the product is exact in f64, and so is the sum.
            ("fma.rn.f16x2 %d, %a, %b, 0x38003800;", |a, b, _| each(a, b, |x, y| x * y + 0.5)),
        ],
        false,
        false,
    );
}

#[test]
fn exchanges_between_lanes() {
    let columns = [operands(1, 32), operands(2, 32), operands(3, 32)];
    let lane = |i: usize, j: usize| i / 32 * 32 + j;
    let cases: &[(&str, &dyn Fn(usize, &[u64]) -> u64)] = &[
        ("shfl.sync.bfly.b32 %d, %a, 5, 0x1f, -1;", &|i, a| a[i ^ 5]),
        ("shfl.sync.up.b32 %d, %a, 3, 0, -1;", &|i, a| if i % 32 >= 3 { a[i - 3] } else { a[i] }),
        ("shfl.sync.down.b32 %d|%p1, %a, 2, 0x180f, -1; selp.b32 %d, %d, 99, %p1;", &|i, a| {
            if i % 8 + 2 < 8 { a[i + 2] } else { 99 }
        }),
        ("shfl.sync.idx.b32 %d, %a, 9, 0x1f, -1;", &|i, a| a[lane(i, 9)]),
        ("setp.lt.s32 %p1, %a, 0; vote.sync.ballot.b32 %d, %p1, -1;", &|i, a| {
            (0..32).fold(0, |m, j| m | (a[lane(i, j)] >> 31 & 1) << j)
        }),
        ("and.b32 %t1, %a, 3; match.any.sync.b32 %d, %t1, -1;", &|i, a| {
            (0..32).fold(0, |m, j| m | u64::from(a[lane(i, j)] & 3 == a[i] & 3) << j)
        }),
        ("redux.sync.add.s32 %d, %a, -1;", &|i, a| (0..32).map(|j| a[lane(i, j)]).sum::<u64>() & 0xffff_ffff),
        ("redux.sync.min.s32 %d, %a, -1;", &|i, a| (0..32).map(|j| a[lane(i, j)] as i32).min().unwrap() as u32 as u64),
        ("elect.sync %d|%p1, -1; selp.b32 %d, 1, %d, %p1;", &|i, _| u64::from(i % 32 == 0)),
        ("setp.lt.u32 %p1, %t0, 40; @%p1 activemask.b32 %d; @!%p1 mov.u32 %d, 0;", &|i, _| {
            if i < 32 {
                0xffff_ffff
            } else if i < 40 {
                0xff
            } else {
                0
            }
        }),
    ];
    for (text, model) in cases {
        let got = run(text, false, false, &columns);
        for i in 0..64 {
            assert_eq!(got[i], model(i, &columns[0]), "{text} in thread {i}");
        }
    }
}

#[test]
fn atomics_add_up() {
    let mut bench = Bench::new(
        ".visible .entry k(.param .u64 p) {
          .reg .b32 %r<8>; .reg .f32 %f<3>; .reg .b64 %rd<6>; .shared .align 4 .b8 s[4]; .reg .pred %p<2>;
          ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mov.u32 %r2, s;
          setp.eq.u32 %p1, %r1, 0; mov.u32 %r3, 0; @%p1 st.shared.u32 [%r2], %r3; bar.sync 0;
          atom.shared.add.u32 %r4, [%r2], 2; red.global.add.u32 [%rd1], %r1; red.global.max.s32 [%rd1+4], %r1;
          mov.f32 %f1, 0f3F000000; red.global.add.f32 [%rd1+8], %f1; atom.global.inc.u32 %r5, [%rd1+12], 9;
          mov.u64 %rd2, 1; red.global.add.u64 [%rd1+16], %rd2;
          mov.b32 %r6, 0x3c003c00; red.global.add.noftz.f16x2 [%rd1+24], %r6;
          cvt.u64.u32 %rd3, %r4; bar.sync 0; ld.shared.u32 %r7, [%r2]; st.global.u32 [%rd1+28], %r7; ret; }",
    );
    let out = bench.buffer(&[0; 8]);
    bench.launch(sim_exec::LaunchConfig { grid: [3, 1, 1], block: [96, 1, 1], ..Default::default() }).unwrap();
    let got = bench.words(out, 8);
    assert_eq!(got[0], 3 * (0..96).sum::<u32>());
    assert_eq!(got[1], 95);
    assert_eq!(f32::from_bits(got[2]), 144.0);
    assert_eq!(got[3], 288 % 10);
    assert_eq!((got[4], got[5]), (288, 0));
    assert_eq!(half::f16::from_bits(got[6] as u16).to_f32(), 288.0);
    assert_eq!(got[7], 192);
}

/// Comparisons of pairs, absolute differences of bytes, and directives without a space between them.
#[test]
fn pairs_compare_half_by_half() {
    let mut bench = Bench::new(
        ".visible .entry pairs(.param .u64 out) {
           .reg.b32 %r<9>; .reg.pred %p<3>; .reg .b64 %rd<2>;
           ld.param.u64 %rd1, [out];
           mov.b32 %r1, 0x40003c00; mov.b32 %r2, 0x3c003c00;
           set.gt.f16x2.f16x2 %r3, %r1, %r2;
           setp.le.f16x2 %p1|%p2, %r1, %r2;
           selp.b32 %r4, 1, 0, %p1; selp.b32 %r5, 1, 0, %p2;
           vabsdiff4.u32.u32.u32 %r6, 0x01ff1080, 0x02001180, 0;
           vabsdiff4.s32.s32.s32.add %r7, 0x01ff1080, 0x0200107f, 1000;
           st.global.v4.b32 [%rd1], {%r3, %r4, %r5, %r6}; st.global.b32 [%rd1+16], %r7;
           ret;
         }",
    );
    let out = bench.room(20);
    bench.run(1).unwrap();
    assert_eq!(bench.words(out, 5), [0x3c00_0000, 1, 0, 0x01ff_0100, 1000 + 1 + 1 + 255]);
}
