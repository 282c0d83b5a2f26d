//! Every bit operation that the executor takes, in every type and mode, against models that look at one bit at a time, as the
//! PTX ISA defines them ("Integer Arithmetic Instructions", "Logic and Shift Instructions", "prmt").

mod common;

use common::Bench;
use proptest::prelude::*;

/// Bits of a, b and c, lowest first, to bits of d.
type Model = Box<dyn Fn(&[bool], &[bool], &[bool]) -> Vec<bool>>;
/// What happens to two bits.
type OfTwo = fn(bool, bool) -> bool;

/// One instruction: what it is without its operands, how wide they are (0: there is none), and its model.
struct Case {
    text: String,
    /// Of d, a, b and c.
    widths: [usize; 4],
    model: Model,
}

fn case(text: &str, widths: [usize; 4], model: impl Fn(&[bool], &[bool], &[bool]) -> Vec<bool> + 'static) -> Case {
    Case { text: text.to_owned(), widths, model: Box::new(model) }
}

fn bits(value: u64, width: usize) -> Vec<bool> {
    (0..width).map(|i| value >> i & 1 != 0).collect()
}

fn number(bits: &[bool]) -> u64 {
    bits.iter().enumerate().fold(0, |n, (i, bit)| n | u64::from(*bit) << i)
}

/// The bits of a 32-bit result.
fn word(value: u64) -> Vec<bool> {
    bits(value, 32)
}

fn logic_and_shifts(cases: &mut Vec<Case>) {
    for width in [16, 32, 64] {
        let two: [(&str, OfTwo); 3] = [("and", |a, b| a && b), ("or", |a, b| a || b), ("xor", |a, b| a != b)];
        for (name, f) in two {
            cases.push(case(&format!("{name}.b{width}"), [width, width, width, 0], move |a, b, _| {
                a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
            }));
        }
        cases.push(case(&format!("not.b{width}"), [width, width, 0, 0], |a, _, _| a.iter().map(|a| !a).collect()));
        cases.push(case(&format!("cnot.b{width}"), [width, width, 0, 0], |a, _, _| {
            bits(u64::from(!a.contains(&true)), a.len())
        }));
        cases.push(case(&format!("shl.b{width}"), [width, width, 32, 0], |a, b, _| {
            let by = number(b) as usize;
            (0..a.len()).map(|i| i >= by && a[i - by]).collect()
        }));
        for ty in ["b", "u", "s"] {
            cases.push(case(&format!("shr.{ty}{width}"), [width, width, 32, 0], move |a, b, _| {
                let by = number(b) as usize;
                let fill = ty == "s" && a[a.len() - 1];
                (0..a.len()).map(|i| a.get(i.saturating_add(by)).copied().unwrap_or(fill)).collect()
            }));
        }
    }
    for mode in ["clamp", "wrap"] {
        let amount = move |c: &[bool]| {
            let by = number(c) as usize;
            if mode == "clamp" { by.min(32) } else { by % 32 }
        };
        cases.push(case(&format!("shf.l.{mode}.b32"), [32, 32, 32, 32], move |a, b, c| {
            let both = [a, b].concat();
            (0..32).map(|i| both[32 + i - amount(c)]).collect()
        }));
        cases.push(case(&format!("shf.r.{mode}.b32"), [32, 32, 32, 32], move |a, b, c| {
            let both = [a, b].concat();
            (0..32).map(|i| both[i + amount(c)]).collect()
        }));
    }
    for table in 0..=255u32 {
        cases.push(case(&format!("lop3.b32 %wd, %wa, %wb, %wc, {table:#x};"), [32; 4], move |a, b, c| {
            let entry = |i: usize| u32::from(a[i]) << 2 | u32::from(b[i]) << 1 | u32::from(c[i]);
            (0..32).map(|i| table >> entry(i) & 1 != 0).collect()
        }));
    }
}

fn counts_and_searches(cases: &mut Vec<Case>) {
    for width in [32, 64] {
        cases.push(case(&format!("popc.b{width}"), [32, width, 0, 0], |a, _, _| {
            word(a.iter().filter(|a| **a).count() as u64)
        }));
        cases.push(case(&format!("clz.b{width}"), [32, width, 0, 0], |a, _, _| {
            word(a.iter().rev().take_while(|a| !**a).count() as u64)
        }));
        cases.push(case(&format!("brev.b{width}"), [width, width, 0, 0], |a, _, _| a.iter().rev().copied().collect()));
        for (ty, mode) in [("u", ""), ("s", ""), ("u", ".shiftamt"), ("s", ".shiftamt")] {
            cases.push(case(&format!("bfind{mode}.{ty}{width}"), [32, width, 0, 0], move |a, _, _| {
                // The most significant bit that is not the sign.
                let sign = ty == "s" && a[width - 1];
                let found = a.iter().rposition(|a| *a != sign);
                word(found.map_or(!0, |at| if mode.is_empty() { at } else { width - 1 - at } as u64))
            }));
        }
    }
    cases.push(case("fns.b32", [32, 32, 32, 32], |mask, base, offset| {
        let (base, offset) = (number(base) as i64 % 32, i64::from(number(offset) as i32));
        let mut left = (offset.abs() - 1).max(0);
        let mut at = base;
        while (0..32).contains(&at) {
            match mask[at as usize] {
                true if left == 0 => return word(at as u64),
                true => left -= 1,
                false if offset == 0 => break,
                false => {}
            }
            at += if offset < 0 { -1 } else { 1 };
        }
        word(!0)
    }));
}

fn fields(cases: &mut Vec<Case>) {
    let byte = |x: &[bool]| number(&x[..8]) as usize;
    for width in [32, 64] {
        for ty in ["u", "s"] {
            cases.push(case(&format!("bfe.{ty}{width}"), [width, width, 32, 32], move |a, b, c| {
                let (position, length) = (byte(b), byte(c));
                let fill = ty == "s" && length > 0 && a[(position + length - 1).min(width - 1)];
                (0..width).map(|i| if i < length && position + i < width { a[position + i] } else { fill }).collect()
            }));
        }
        // The field's place comes from c and the lower half of it, so that both vary.
        let (a, b, d) = if width == 64 { ("%a", "%b", "%d") } else { ("%wa", "%wb", "%wd") };
        let text = format!("shr.u32 %t, %wc, 8; bfi.b{width} {d}, {a}, {b}, %wc, %t;");
        cases.push(case(&text, [width, width, width, 32], move |a, b, c| {
            let (position, length) = (byte(c), byte(&c[8..]));
            (0..width)
                .map(|i| if (position..position + length).contains(&i) { a[i - position] } else { b[i] })
                .collect()
        }));
    }
    for mode in ["clamp", "wrap"] {
        let limit = move |x: &[bool]| {
            let x = number(x) as usize;
            if mode == "clamp" { x.min(32) } else { x % 32 }
        };
        cases.push(case(&format!("bmsk.{mode}.b32"), [32, 32, 32, 0], move |a, b, _| {
            let (from, count) = (limit(a), limit(b));
            (0..32).map(|i| (from..from + count).contains(&i)).collect()
        }));
        for ty in ["u", "s"] {
            cases.push(case(&format!("szext.{mode}.{ty}32"), [32, 32, 32, 0], move |a, b, _| {
                let kept = limit(b);
                let fill = ty == "s" && kept > 0 && a[kept - 1];
                (0..32).map(|i| if i < kept { a[i] } else { fill }).collect()
            }));
        }
    }
    let bytes_of = |a: &[bool], b: &[bool]| [a, b].concat().chunks(8).map(<[bool]>::to_vec).collect::<Vec<_>>();
    cases.push(case("prmt.b32", [32; 4], move |a, b, c| {
        let bytes = bytes_of(a, b);
        c.chunks(4)
            .take(4)
            .flat_map(|selector| {
                let byte = bytes[number(&selector[..3]) as usize].clone();
                if selector[3] { vec![byte[7]; 8] } else { byte }
            })
            .collect()
    }));
    // The ISA's table of modes: sources of bytes 0 to 3 for selectors 0 to 3.
    let modes: [(&str, [[usize; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in modes {
        cases.push(case(&format!("prmt.b32.{mode}"), [32; 4], move |a, b, c| {
            let bytes = bytes_of(a, b);
            table[number(&c[..2]) as usize].iter().flat_map(|&at| bytes[at].clone()).collect()
        }));
    }
}

fn register(name: char, width: usize) -> String {
    match width {
        16 => format!("%h{name}"),
        32 => format!("%w{name}"),
        _ => format!("%{name}"),
    }
}

impl Case {
    /// Runs it on 64 threads.
    fn run(&self, operands: &[[u64; 3]; 64]) -> Vec<u64> {
        let text = if self.text.ends_with(';') {
            self.text.clone()
        } else {
            let used = "dabc".chars().zip(self.widths).filter(|(_, width)| *width > 0);
            let list: Vec<String> = used.map(|(name, width)| register(name, width)).collect();
            format!("{} {};", self.text, list.join(", "))
        };
        let widen = match self.widths[0] {
            16 => "cvt.u64.u16 %d, %hd;",
            32 => "cvt.u64.u32 %d, %wd;",
            _ => "",
        };
        let mut bench = Bench::new(&format!(
            ".visible .entry k(.param .u64 operands, .param .u64 out) {{
              .reg .b64 %a, %b, %c, %d, %p<4>; .reg .b32 %wa, %wb, %wc, %wd, %t; .reg .b16 %ha, %hb, %hc, %hd;
              ld.param.u64 %p0, [operands]; ld.param.u64 %p1, [out]; mov.u32 %t, %tid.x;
              mul.wide.u32 %p2, %t, 24; add.s64 %p0, %p0, %p2; mul.wide.u32 %p3, %t, 8; add.s64 %p1, %p1, %p3;
              ld.global.b64 %a, [%p0]; ld.global.b64 %b, [%p0+8]; ld.global.b64 %c, [%p0+16];
              cvt.u32.u64 %wa, %a; cvt.u32.u64 %wb, %b; cvt.u32.u64 %wc, %c;
              cvt.u16.u64 %ha, %a; cvt.u16.u64 %hb, %b; cvt.u16.u64 %hc, %c;
              {text} {widen}
              st.global.b64 [%p1], %d; ret; }}"
        ));
        let words: Vec<u32> = operands.as_flattened().iter().flat_map(|v| [*v as u32, (*v >> 32) as u32]).collect();
        bench.buffer(&words);
        let out = bench.room(64 * 8);
        bench.run(64).unwrap_or_else(|e| panic!("{text}: {e}"));
        let words = bench.words(out, 128);
        words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect()
    }

    fn check(&self, operands: &[[u64; 3]; 64]) {
        for (&[a, b, c], got) in operands.iter().zip(self.run(operands)) {
            let [_, wa, wb, wc] = self.widths;
            let want = (self.model)(&bits(a, wa), &bits(b, wb), &bits(c, wc));
            assert_eq!(want.len(), self.widths[0], "the model of {}", self.text);
            assert_eq!(got, number(&want), "{} of {a:#x}, {b:#x}, {c:#x}", self.text);
        }
    }
}

/// Noise, small numbers for places and lengths, and the ends of the ranges.
fn operand() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..70,
        any::<u8>().prop_map(|shift| 1 << (shift % 64)),
        any::<u8>().prop_map(|shift| !0 << (shift % 64)),
        any::<u32>().prop_map(|places| u64::from(places & 0x3f3f)),
        any::<i8>().prop_map(|small| i64::from(small) as u64),
        Just(0),
        Just(!0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_bit_operation_is_what_its_bits_say(
        operands in prop::collection::vec(operand(), 3 * 64),
    ) {
        let mut cases = Vec::new();
        logic_and_shifts(&mut cases);
        counts_and_searches(&mut cases);
        fields(&mut cases);
        let mut rows = [[0; 3]; 64];
        rows.as_flattened_mut().copy_from_slice(&operands);
        // fns is defined for a base within the mask.
        cases.iter().for_each(|case| {
            let mut operands = rows;
            if case.text.starts_with("fns") {
                operands.iter_mut().for_each(|[_, base, _]| *base %= 32);
            }
            case.check(&operands);
        });
    }
}
