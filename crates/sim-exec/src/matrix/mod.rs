//! Matrix arithmetic on register fragments (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions").
//!
//! Every mma, wmma and wgmma comes down to tiles of 16 × 8 or 8 × 8 accumulators, whose fragments mma.sync defines. With
//! g = lane / 4, t = lane % 4 and e elements per register: register r of A holds row g + 8 (r mod 2) and columns
//! e t + 4 e (r div 2) and on (tiles of 8 rows: row g, columns e t + 4 e r and on); register r of B holds rows e t + 4 e r and on
//! of column g; element r of C holds row g + 8 (r div 2), column 2 t + r mod 2.

pub mod descriptor;
mod element;
pub mod fragments;
pub mod moves;

use std::marker::PhantomData;

use crate::lanes::{Lanes, vector};
use element::{
    AccF16, AccF32, AccF64, AccS32, AccS32Clamped, Accumulator, B1And, B1Xor, Bf16, E4m3, E5m2, Element, F16, F64, S4,
    S8, Term, Tf32, U4, U8,
};

/// How f32 sums are formed: the ISA leaves order and rounding open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summation {
    /// One fma after the other, k ascending.
    InOrder,
    /// Blocks of products aligned to the largest and cut off.
    Truncating,
}

/// `d = a b + c` over whole tiles: A's tiles of rows one after the other, B's panels of eight columns, and C and D with the panels
/// of a row tile together.
pub type MultiplyFn = fn(d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes], summation: Summation);

/// Arithmetic for one tile, and the registers that its operands take.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub multiply: MultiplyFn,
    pub a_registers: usize,
    pub b_registers: usize,
    pub c_registers: usize,
    pub d_registers: usize,
}

/// What kind of numbers a multiplication takes, as counters tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F64,
    F16,
    Bf16,
    Tf32,
    F8,
    I8,
    I4,
    B1,
}

impl Kind {
    /// The kind of a type that [`Tile::find`] knows.
    pub fn of(name: &str) -> Kind {
        match name {
            "f64" => Kind::F64,
            "f16" => Kind::F16,
            "bf16" => Kind::Bf16,
            "tf32" => Kind::Tf32,
            "e4m3" | "e5m2" => Kind::F8,
            "u8" | "s8" => Kind::I8,
            "u4" | "s4" => Kind::I4,
            _ => Kind::B1,
        }
    }
}

/// Types of a multiplication, as PTX spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types<'a> {
    pub d: &'a str,
    pub a: &'a str,
    pub b: &'a str,
    pub c: &'a str,
    /// `.satfinite`
    pub saturate: bool,
    /// `xor` or `and` for one-bit elements.
    pub combine: Option<&'a str>,
}

impl Tile {
    /// The tile of `rows` × 8 with depth `k`, if there is one for these types.
    pub fn find(rows: usize, k: usize, types: Types<'_>) -> Option<Tile> {
        if types.combine.is_some() != (types.a == "b1") {
            return None;
        }
        macro_rules! pick {
            ($a:ident, $b:ident, $c:ident, $d:ident: $($rows:literal x $k:literal),*) => {
                match (rows, k) {
                    $(($rows, $k) => Some(tile::<$a, $b, $c, $d, $rows, $k>()),)*
                    _ => None,
                }
            };
        }
        macro_rules! halves {
            ($a:ident, $b:ident: $($shape:tt)*) => {
                match (types.c, types.d) {
                    ("f32", "f32") => pick!($a, $b, AccF32, AccF32: $($shape)*),
                    ("f16", "f16") => pick!($a, $b, AccF16, AccF16: $($shape)*),
                    ("f16", "f32") => pick!($a, $b, AccF16, AccF32: $($shape)*),
                    ("f32", "f16") => pick!($a, $b, AccF32, AccF16: $($shape)*),
                    _ => None,
                }
            };
        }
        macro_rules! integers {
            ($a:ident, $b:ident: $($shape:tt)*) => {
                match (types.c, types.d, types.saturate) {
                    ("s32", "s32", false) => pick!($a, $b, AccS32, AccS32: $($shape)*),
                    ("s32", "s32", true) => pick!($a, $b, AccS32Clamped, AccS32Clamped: $($shape)*),
                    _ => None,
                }
            };
        }
        if types.saturate && types.c != "s32" {
            return None;
        }
        match (types.a, types.b, types.combine) {
            ("f16", "f16", _) => halves!(F16, F16: 8 x 16, 16 x 8, 16 x 16),
            ("bf16", "bf16", _) if (types.c, types.d) == ("f32", "f32") => {
                pick!(Bf16, Bf16, AccF32, AccF32: 8 x 16, 16 x 8, 16 x 16)
            }
            ("tf32", "tf32", _) if (types.c, types.d) == ("f32", "f32") => {
                pick!(Tf32, Tf32, AccF32, AccF32: 16 x 4, 16 x 8)
            }
            ("f64", "f64", _) if (types.c, types.d) == ("f64", "f64") => {
                pick!(F64, F64, AccF64, AccF64: 8 x 4, 16 x 4, 16 x 8, 16 x 16)
            }
            ("e4m3", "e4m3", _) => halves!(E4m3, E4m3: 16 x 16, 16 x 32),
            ("e4m3", "e5m2", _) => halves!(E4m3, E5m2: 16 x 16, 16 x 32),
            ("e5m2", "e4m3", _) => halves!(E5m2, E4m3: 16 x 16, 16 x 32),
            ("e5m2", "e5m2", _) => halves!(E5m2, E5m2: 16 x 16, 16 x 32),
            ("s8", "s8", _) => integers!(S8, S8: 8 x 16, 16 x 16, 16 x 32),
            ("s8", "u8", _) => integers!(S8, U8: 8 x 16, 16 x 16, 16 x 32),
            ("u8", "s8", _) => integers!(U8, S8: 8 x 16, 16 x 16, 16 x 32),
            ("u8", "u8", _) => integers!(U8, U8: 8 x 16, 16 x 16, 16 x 32),
            ("s4", "s4", _) => integers!(S4, S4: 8 x 32, 16 x 32, 16 x 64),
            ("s4", "u4", _) => integers!(S4, U4: 8 x 32, 16 x 32, 16 x 64),
            ("u4", "s4", _) => integers!(U4, S4: 8 x 32, 16 x 32, 16 x 64),
            ("u4", "u4", _) => integers!(U4, U4: 8 x 32, 16 x 32, 16 x 64),
            // Words of 32 elements stand for one value each.
            ("b1", "b1", Some(combine)) if !types.saturate && k.is_multiple_of(32) => {
                let possible = (types.c, types.d) == ("s32", "s32");
                Tile::find_bits(rows, k / 32, combine).filter(|_| possible)
            }
            _ => None,
        }
    }

    fn find_bits(rows: usize, words: usize, combine: &str) -> Option<Tile> {
        Some(match (rows, words, combine) {
            (8, 4, "xor") => tile::<B1Xor, B1Xor, AccS32, AccS32, 8, 4>(),
            (16, 4, "xor") => tile::<B1Xor, B1Xor, AccS32, AccS32, 16, 4>(),
            (16, 8, "xor") => tile::<B1Xor, B1Xor, AccS32, AccS32, 16, 8>(),
            (8, 4, "and") => tile::<B1And, B1And, AccS32, AccS32, 8, 4>(),
            (16, 4, "and") => tile::<B1And, B1And, AccS32, AccS32, 16, 4>(),
            (16, 8, "and") => tile::<B1And, B1And, AccS32, AccS32, 16, 8>(),
            _ => return None,
        })
    }
}

fn tile<A, B, C, D, const ROWS: usize, const K: usize>() -> Tile
where
    A: Element,
    B: Element<Value = A::Value>,
    C: Accumulator<Value = <A::Value as Term>::Sum>,
    D: Accumulator<Value = <A::Value as Term>::Sum>,
{
    let blocks = ROWS / 8;
    Tile {
        multiply: multiply::<A, B, C, D, ROWS, K>,
        a_registers: blocks * K / (4 * A::PER),
        b_registers: K / (4 * B::PER),
        c_registers: blocks * C::REGISTERS,
        d_registers: blocks * D::REGISTERS,
    }
}

/// Operands of a [`MultiplyFn`] with their types.
struct Tiles<'x, A, B, C, D, const ROWS: usize, const K: usize> {
    d: &'x mut [Lanes],
    a: &'x [&'x Lanes],
    b: &'x [&'x Lanes],
    c: &'x [&'x Lanes],
    summation: Summation,
    types: PhantomData<(A, B, C, D)>,
}

fn multiply<A, B, C, D, const ROWS: usize, const K: usize>(
    d: &mut [Lanes],
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    summation: Summation,
) where
    A: Element,
    B: Element<Value = A::Value>,
    C: Accumulator<Value = <A::Value as Term>::Sum>,
    D: Accumulator<Value = <A::Value as Term>::Sum>,
{
    vector::run(Tiles::<A, B, C, D, ROWS, K> { d, a, b, c, summation, types: PhantomData });
}

impl<A, B, C, D, const ROWS: usize, const K: usize> vector::Work for Tiles<'_, A, B, C, D, ROWS, K>
where
    A: Element,
    B: Element<Value = A::Value>,
    C: Accumulator<Value = <A::Value as Term>::Sum>,
    D: Accumulator<Value = <A::Value as Term>::Sum>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let blocks = ROWS / 8;
        let mut c = self.c.chunks_exact(C::REGISTERS);
        let mut d = self.d.chunks_exact_mut(D::REGISTERS);
        for a in self.a.chunks_exact(blocks * K / (4 * A::PER)) {
            let rows = unpack_a::<A, ROWS, K>(a);
            for b in self.b.chunks_exact(K / (4 * B::PER)) {
                let columns = unpack_b::<B, K>(b);
                for (rows, (c, d)) in rows.chunks_exact(8).zip(c.by_ref().zip(d.by_ref())) {
                    let start = C::unpack(c);
                    let mut sums = if C::SATURATES { Default::default() } else { start };
                    A::Value::accumulate(&mut sums, rows, &columns, self.summation);
                    if C::SATURATES {
                        for (sum, start) in sums.as_flattened_mut().iter_mut().zip(start.as_flattened()) {
                            *sum = C::saturating_add(*start, *sum);
                        }
                    }
                    D::pack(&sums, d);
                }
            }
        }
    }
}

/// A's rows from its registers: first bits to their places, then conversion of whole rows.
#[inline(always)]
fn unpack_a<E: Element, const ROWS: usize, const K: usize>(registers: &[&Lanes]) -> [[E::Value; K]; ROWS] {
    let mut rows = [[E::Bits::default(); K]; ROWS];
    let (blocks, width) = (ROWS / 8, 4 * E::PER);
    for (r, register) in registers.iter().enumerate() {
        for (g, row) in E::bits(register).as_ref().chunks_exact(width).enumerate() {
            rows[r % blocks * 8 + g][r / blocks * width..][..width].copy_from_slice(row);
        }
    }
    convert::<E, K, ROWS>(&rows)
}

/// B's rows from its registers, which hold columns.
#[inline(always)]
fn unpack_b<E: Element, const K: usize>(registers: &[&Lanes]) -> [[E::Value; 8]; K] {
    let mut rows = [[E::Bits::default(); 8]; K];
    for (register, rows) in registers.iter().zip(rows.chunks_exact_mut(4 * E::PER)) {
        for (words, rows) in transpose::<E>(register).iter().zip(rows.chunks_exact_mut(E::PER)) {
            rows.iter_mut().enumerate().for_each(|(i, row)| *row = words.map(|word| E::bits_of_word(word, i)));
        }
    }
    convert::<E, 8, K>(&rows)
}

#[inline(always)]
fn convert<E: Element, const N: usize, const M: usize>(bits: &[[E::Bits; N]; M]) -> [[E::Value; N]; M] {
    let mut values = [[E::Value::default(); N]; M];
    for (value, &bits) in values.as_flattened_mut().iter_mut().zip(bits.as_flattened()) {
        *value = E::value(bits);
    }
    values
}

/// The words of each column of eight lanes: word n of row t is that of lane 4 n + t.
#[inline(always)]
fn transpose<E: Element>(register: &Lanes) -> [[E::Bits; 8]; 4] {
    std::array::from_fn(|t| std::array::from_fn(|n| E::word(register[4 * n + t])))
}
