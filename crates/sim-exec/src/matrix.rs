//! mma and the 8×8 matrix moves, on register fragments (PTX ISA, "Matrix Fragments for mma").
//!
//! With g = lane / 4, t = lane % 4 and e elements per 32-bit register, register r of A holds row g + 8 (r mod 2) and columns
//! e t + 4 e (r div 2) and on; register r of B holds rows e t + 4 e r and on of column g; element r of C holds row g + 8 (r div 2), column 2 t + r mod 2.

// Lanes and registers are indices in the layout formulas.
#![allow(clippy::needless_range_loop)]

use half::f16;

use crate::lanes::convert::{Conversion, CvtRound, Number};
use crate::lanes::{Lane, Lanes, WARP};

/// Element type of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    U8,
    S8,
}

impl Element {
    /// Elements in a 32-bit register.
    pub fn per_register(self) -> usize {
        match self {
            Element::Tf32 => 1,
            Element::F16 | Element::Bf16 => 2,
            _ => 4,
        }
    }

    #[inline(always)]
    fn float(self, bits: u32) -> f32 {
        let fp8 = |from| {
            let c = Conversion {
                to: Number::F32,
                from,
                round: CvtRound::Zero,
                integral: false,
                ftz: false,
                sat: false,
                satfinite: false,
                relu: false,
            };
            f32::from_bits(c.lane(bits.into()) as u32)
        };
        match self {
            Element::F16 => f16_to_f32(bits as u16),
            Element::Bf16 => f32::from_bits(bits << 16),
            Element::Tf32 => f32::from_bits(bits & 0xffff_e000),
            Element::E4m3 => fp8(Number::E4m3),
            Element::E5m2 => fp8(Number::E5m2),
            Element::U8 | Element::S8 => panic!("{self:?} is an integer"),
        }
    }

    fn integer(self, bits: u32) -> i32 {
        if self == Element::S8 { i32::from(bits as i8) } else { i32::from(bits as u8) }
    }

    fn is_integer(self) -> bool {
        matches!(self, Element::U8 | Element::S8)
    }
}

/// f16 to f32 without branches, so that whole fragments convert together: the exponent is rebased by a multiplication, which
/// also normalises subnormals.
#[inline(always)]
fn f16_to_f32(h: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(h & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(h & 0x8000) << 16)
}

/// The accumulator's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulator {
    F32,
    F16,
    S32 { saturate: bool },
}

/// An m16n8 multiply-add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmaShape {
    pub k: usize,
    pub a: Element,
    pub b: Element,
    pub accumulator: Accumulator,
}

/// 16 × 8 accumulators.
type Tile<T> = [[T; 8]; 16];

impl MmaShape {
    /// `d = a b + c`. Registers per operand: A `16 k / (32 e)`, B `8 k / (32 e)`, C and D 4, or 2 for f16.
    pub fn run(&self, d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], truncate: bool) {
        if self.a.is_integer() {
            return self.run_integers(d, a, b, c);
        }
        let (mut rows, mut columns) = ([[0f32; 32]; 16], [[0f32; 8]; 32]);
        // One loop per element type, so that conversion compiles into it.
        macro_rules! unpack {
            ($($element:ident),*) => {
                match self.a {
                    $(Element::$element => self.each_a(a, Element::$element.per_register(), |row, col, bits| {
                        rows[row][col] = Element::$element.float(bits);
                    }),)*
                    Element::U8 | Element::S8 => {}
                }
                match self.b {
                    $(Element::$element => self.each_b(b, Element::$element.per_register(), |row, col, bits| {
                        columns[row][col] = Element::$element.float(bits);
                    }),)*
                    Element::U8 | Element::S8 => {}
                }
            };
        }
        unpack!(F16, Bf16, Tf32, E4m3, E5m2);
        let mut sums: Tile<f32> = match self.accumulator {
            Accumulator::F16 => unpack_halves(c),
            _ => unpack_words(c, |bits| f32::from_bits(bits as u32)),
        };
        if truncate {
            accumulate_truncating(&mut sums, &rows, &columns, self.k);
        } else {
            accumulate(&mut sums, &rows, &columns, self.k);
        }
        match self.accumulator {
            Accumulator::F16 => pack_halves(d, &sums),
            _ => pack_words(d, &sums, |x| x.put()),
        }
    }

    fn run_integers(&self, d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
        let (mut rows, mut columns) = ([[0i32; 32]; 16], [[0i32; 8]; 32]);
        self.each_a(a, 4, |row, col, bits| rows[row][col] = self.a.integer(bits));
        self.each_b(b, 4, |row, col, bits| columns[row][col] = self.b.integer(bits));
        let mut sums: Tile<i32> = unpack_words(c, |bits| bits as i32);
        let saturate = self.accumulator == Accumulator::S32 { saturate: true };
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let mut products = [0i32; 8];
            for (x, column) in row.iter().zip(&columns).take(self.k) {
                for j in 0..8 {
                    products[j] += x * column[j];
                }
            }
            for j in 0..8 {
                sum[j] = if saturate { sum[j].saturating_add(products[j]) } else { sum[j].wrapping_add(products[j]) };
            }
        }
        pack_words(d, &sums, |x| u64::from(x as u32));
    }

    #[inline(always)]
    fn each_a(&self, a: &[&Lanes], per: usize, mut put: impl FnMut(usize, usize, u32)) {
        let bits = 32 / per;
        for (r, register) in a.iter().enumerate() {
            for (lane, &value) in register.iter().enumerate() {
                for i in 0..per {
                    let col = per * (lane % 4) + i + (r >> 1) * 4 * per;
                    put((lane / 4 + 8 * (r & 1)) & 15, col & 31, field(value, i, bits));
                }
            }
        }
    }

    #[inline(always)]
    fn each_b(&self, b: &[&Lanes], per: usize, mut put: impl FnMut(usize, usize, u32)) {
        let bits = 32 / per;
        for (r, register) in b.iter().enumerate() {
            for (lane, &value) in register.iter().enumerate() {
                for i in 0..per {
                    put((per * (lane % 4) + i + r * 4 * per) & 31, lane / 4, field(value, i, bits));
                }
            }
        }
    }
}

#[inline(always)]
fn field(value: u64, i: usize, bits: usize) -> u32 {
    let shifted = (value as u32) >> (i * bits % 32);
    if bits == 32 { shifted } else { shifted & ((1 << bits) - 1) }
}

/// One product after the other in f32. Products of f16, tf32 and fp8 are exact in f32, so this is a chain of fma.
fn accumulate(sums: &mut Tile<f32>, a: &[[f32; 32]; 16], b: &[[f32; 8]; 32], k: usize) {
    // Two rows at a time: each row of B is loaded once for both.
    for (pair, rows) in sums.chunks_exact_mut(2).zip(a.chunks_exact(2)) {
        let (mut first, mut second) = (pair[0], pair[1]);
        for ((x, y), column) in rows[0].iter().zip(&rows[1]).zip(b).take(k) {
            for j in 0..8 {
                first[j] += x * column[j];
                second[j] += y * column[j];
            }
        }
        (pair[0], pair[1]) = (first, second);
    }
}

/// As tensor cores have been observed to add (Fasi et al. 2021): all terms of a block are aligned to the largest exponent, cut to
/// 24 bits plus 2, and added exactly.
fn accumulate_truncating(sums: &mut Tile<f32>, a: &[[f32; 32]; 16], b: &[[f32; 8]; 32], k: usize) {
    const BLOCK: usize = 8;
    for i in 0..16 {
        for j in 0..8 {
            for start in (0..k).step_by(BLOCK) {
                let terms: [f64; BLOCK + 1] = std::array::from_fn(|t| match t {
                    BLOCK => sums[i][j].into(),
                    t => f64::from(a[i][start + t]) * f64::from(b[start + t][j]),
                });
                let largest = terms.iter().fold(0f64, |m, t| m.max(t.abs()));
                if largest == 0.0 || !largest.is_finite() || terms.iter().any(|t| t.is_nan()) {
                    sums[i][j] = terms.iter().sum::<f64>() as f32;
                    continue;
                }
                let quantum = 2f64.powi(largest.log2().floor() as i32 - 25);
                let sum: f64 = terms.iter().map(|t| (t / quantum).trunc() * quantum).sum();
                sums[i][j] = crate::lanes::rounding::narrow(sum, crate::lanes::rounding::Round::Zero);
            }
        }
    }
}

fn unpack_words<T: Copy + Default>(c: &[&Lanes], convert: impl Fn(u64) -> T) -> Tile<T> {
    let mut tile = [[T::default(); 8]; 16];
    for (r, register) in c.iter().enumerate() {
        for (lane, &value) in register.iter().enumerate() {
            tile[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)] = convert(value);
        }
    }
    tile
}

fn pack_words<T: Copy>(d: &mut [Lanes], tile: &Tile<T>, convert: impl Fn(T) -> u64) {
    for (r, register) in d.iter_mut().enumerate() {
        for (lane, value) in register.iter_mut().enumerate() {
            *value = convert(tile[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)]);
        }
    }
}

fn unpack_halves(c: &[&Lanes]) -> Tile<f32> {
    let mut tile = [[0.0; 8]; 16];
    for (r, register) in c.iter().enumerate() {
        for (lane, &value) in register.iter().enumerate() {
            for i in 0..2 {
                tile[lane / 4 + 8 * r][2 * (lane % 4) + i] = f16::get(value >> (16 * i)).to_f32();
            }
        }
    }
    tile
}

fn pack_halves(d: &mut [Lanes], tile: &Tile<f32>) {
    for (r, register) in d.iter_mut().enumerate() {
        for (lane, value) in register.iter_mut().enumerate() {
            let half = |i: usize| f16::from_f32(tile[lane / 4 + 8 * r][2 * (lane % 4) + i]).put();
            *value = half(0) | half(1) << 16;
        }
    }
}

/// The register of one lane after loading an 8×8 matrix of 16-bit elements whose rows are `rows`.
pub fn matrix_fragment(rows: &[[u16; 8]; 8], lane: usize, transposed: bool) -> u64 {
    let (major, minor) = (lane / 4, 2 * (lane % 4));
    let at = |i: usize| if transposed { rows[minor + i][major] } else { rows[major][minor + i] };
    u64::from(at(0)) | u64::from(at(1)) << 16
}

/// The matrix whose fragments are `register`: the inverse of [`matrix_fragment`].
pub fn matrix_rows(register: &Lanes, transposed: bool) -> [[u16; 8]; 8] {
    let mut rows = [[0; 8]; 8];
    for lane in 0..WARP {
        let (major, minor) = (lane / 4, 2 * (lane % 4));
        for i in 0..2 {
            let value = (register[lane] >> (16 * i)) as u16;
            if transposed {
                rows[minor + i][major] = value;
            } else {
                rows[major][minor + i] = value;
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_f16_converts() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#x}");
        }
    }

    /// Element (row, column) of A for m16n8k16 .f16, by the formulas of the PTX ISA, independent of `each_a`.
    fn isa_a_f16(registers: &[Lanes; 4], row: usize, col: usize) -> u16 {
        let lane = (row % 8) * 4 + (col % 8) / 2;
        let i = (col % 2) + 2 * usize::from(row >= 8) + 4 * usize::from(col >= 8);
        (registers[i / 2][lane] >> (16 * (i % 2))) as u16
    }

    fn isa_b_f16(registers: &[Lanes; 2], row: usize, col: usize) -> u16 {
        let lane = col * 4 + (row % 8) / 2;
        (registers[row / 8][lane] >> (16 * (row % 2))) as u16
    }

    #[test]
    fn mma_f16_equals_the_scalar_sum() {
        let mut rng = Rng::new(3);
        let mut register = || -> Lanes {
            std::array::from_fn(|_| {
                let half = |x: u64| u64::from(f16::from_f32((x % 17) as f32 - 8.0).to_bits());
                half(rng.next_u64()) | half(rng.next_u64()) << 16
            })
        };
        let a: [Lanes; 4] = std::array::from_fn(|_| register());
        let b: [Lanes; 2] = std::array::from_fn(|_| register());
        let c: [Lanes; 4] =
            std::array::from_fn(|r| std::array::from_fn(|l| u64::from(((r * 32 + l) as f32).to_bits())));
        let shape = MmaShape { k: 16, a: Element::F16, b: Element::F16, accumulator: Accumulator::F32 };
        for truncate in [false, true] {
            let mut d = [[0; WARP]; 4];
            shape.run(&mut d, &a.each_ref(), &b.each_ref(), &c.each_ref(), truncate);
            for lane in 0..WARP {
                for r in 0..4 {
                    let (row, col) = (lane / 4 + 8 * (r / 2), (lane % 4) * 2 + r % 2);
                    let sum: f32 = (0..16)
                        .map(|k| {
                            f16::from_bits(isa_a_f16(&a, row, k)).to_f32()
                                * f16::from_bits(isa_b_f16(&b, k, col)).to_f32()
                        })
                        .sum();
                    // Small integers: every order and rounding gives the same sum.
                    assert_eq!(
                        f32::from_bits(d[r][lane] as u32),
                        sum + (r * 32 + lane) as f32,
                        "lane {lane} register {r}"
                    );
                }
            }
        }
    }

    #[test]
    fn mma_s8_equals_the_scalar_sum() {
        let mut rng = Rng::new(4);
        let mut register = || -> Lanes { std::array::from_fn(|_| rng.next_u64() & 0xffff_ffff) };
        let a: [Lanes; 4] = std::array::from_fn(|_| register());
        let b: [Lanes; 2] = std::array::from_fn(|_| register());
        let c = [[7; WARP]; 4];
        let shape =
            MmaShape { k: 32, a: Element::S8, b: Element::U8, accumulator: Accumulator::S32 { saturate: false } };
        let mut d = [[0; WARP]; 4];
        shape.run(&mut d, &a.each_ref(), &b.each_ref(), &c.each_ref(), false);
        for row in 0..16 {
            for col in 0..8 {
                let mut sum = 7i32;
                for k in 0..32 {
                    // PTX ISA, m16n8k32: lane and byte of each element.
                    let a_reg = usize::from(row >= 8) + 2 * usize::from(k >= 16);
                    let x = (a[a_reg][(row % 8) * 4 + k % 16 / 4] >> (8 * (k % 4))) as i8;
                    let y = (b[k / 16][col * 4 + k % 16 / 4] >> (8 * (k % 4))) as u8;
                    sum += i32::from(x) * i32::from(y);
                }
                let r = col % 2 + 2 * usize::from(row >= 8);
                assert_eq!(d[r][(row % 8) * 4 + col / 2] as i32, sum);
            }
        }
    }

    #[test]
    fn matrix_moves_invert_each_other() {
        let register: Lanes = std::array::from_fn(|l| (l as u64) << 16 | (l as u64 + 100));
        for transposed in [false, true] {
            let rows = matrix_rows(&register, transposed);
            for lane in 0..WARP {
                assert_eq!(matrix_fragment(&rows, lane, transposed), register[lane]);
            }
        }
        assert_eq!(matrix_rows(&register, false)[2][5], 10);
        assert_eq!(matrix_rows(&register, true)[5][2], 10);
    }
}
