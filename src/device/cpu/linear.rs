//! `linear`: rows × weight tiles.
//!
//! Mathematics: `out[c][r] = Σ_segments Σ_blocks (idot · (dw · da) [+ min · sa])`, in the order of `ARCHITECTURE.md`
//! ("row invariance"): blocks ascending inside a segment by fma, segments added ascending.
//! Shapes: activations are a panel of `S` columns ([`super::panel`]), weights tiles of 16 rows ([`super::tile`]).
//! Bytes: a tile is read once per panel; a decode step reads every tile once.
//! Method: one `vpdpbusd` per 64 weights and column with activations broadcast from memory, 12 columns in registers.
// SAFETY, for this file: kernels are `unsafe fn`s whose callers vouch for the pointers (they come from `prepare`'s buffers and
// `plan`'s offsets) and for the instruction set (`IsaPath::available`). Blocks inside only pass that on.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::needless_range_loop)] // Indices as in the formulas.

use std::marker::PhantomData;

use crate::weights::DType;

use super::panel::{META_ROWS, Meta, record_words};
use super::simd::{Isa, LANES};
use super::tile::{head_bytes, offset_shift, record_bytes};

/// The operands of one kernel call: `tiles` consecutive tiles of one format against one panel.
#[derive(Clone, Copy, Debug)]
pub struct LinearCall {
    pub weights: *const u8,
    pub tiles: usize,
    pub tile_bytes: usize,
    /// Columns of the weights (K).
    pub cols: usize,
    pub segment_blocks: usize,
    pub panel: *const u32,
    /// Columns of the panel: 1, 2, 4, 8 or 12.
    pub panel_cols: usize,
    /// `out[c * out_stride + 16 * tile + lane]`.
    pub out: *mut f32,
    pub out_stride: usize,
}

/// One quantised format, as the kernel sees it. Numbers are [`DType`] discriminants' facts made constant.
pub trait Quantised {
    const DTYPE: DType;
    const HEAD: usize = head_bytes(Self::DTYPE);
    const RECORD: usize = record_bytes(Self::DTYPE);
    const BLOCKS_PER_SUPER: usize = Self::DTYPE.block_weights() as usize / 32;
    const HAS_MIN: bool = matches!(Self::DTYPE, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K);
    const WIDE: bool = matches!(Self::DTYPE, DType::Q8_0);

    /// Groups `g` and `g + 4` of a record.
    #[inline(always)]
    unsafe fn groups<I: Isa>(record: *const u8, g: usize) -> (I::B, I::B) {
        unsafe {
            let v = I::bytes_load(record.add(g * 64));
            let low = I::bytes_and(v, 15);
            let high = I::bytes_and(I::bytes_shr::<4>(v), 15);
            match Self::DTYPE {
                DType::Q8_0 => (v, I::bytes_load(record.add(256 + g * 64))),
                DType::Q5_0 | DType::Q5_1 | DType::Q5_K => {
                    let bits = I::bytes_load(record.add(256));
                    let fifth_low = match g {
                        0 => I::bytes_shl::<4>(bits),
                        1 => I::bytes_shl::<3>(bits),
                        2 => I::bytes_shl::<2>(bits),
                        _ => I::bytes_shl::<1>(bits),
                    };
                    let fifth_high = match g {
                        0 => bits,
                        1 => I::bytes_shr::<1>(bits),
                        2 => I::bytes_shr::<2>(bits),
                        _ => I::bytes_shr::<3>(bits),
                    };
                    (I::bytes_or(low, I::bytes_and(fifth_low, 16)), I::bytes_or(high, I::bytes_and(fifth_high, 16)))
                }
                DType::Q6_K => {
                    let place = |bits: I::B| match g {
                        0 => I::bytes_shl::<4>(bits),
                        1 => I::bytes_shl::<2>(bits),
                        2 => bits,
                        _ => I::bytes_shr::<2>(bits),
                    };
                    let high_bits = place(I::bytes_load(record.add(320)));
                    let low_bits = place(I::bytes_load(record.add(256)));
                    (I::bytes_or(low, I::bytes_and(low_bits, 48)), I::bytes_or(high, I::bytes_and(high_bits, 48)))
                }
                _ => (low, high),
            }
        }
    }

    /// Scale and minimum of the 16 rows.
    #[inline(always)]
    unsafe fn scales<I: Isa>(head: *const u8, record: *const u8) -> (I::F, I::F) {
        unsafe {
            let last = record.add(Self::RECORD - 32);
            match Self::DTYPE {
                DType::Q4_1 | DType::Q5_1 => (I::load_f16(last.sub(32).cast()), I::load_f16(last.cast())),
                DType::Q4_K | DType::Q5_K => {
                    let sc = I::int_to_f(I::int_load_u8(last));
                    let mn = I::int_to_f(I::int_load_u8(last.add(16)));
                    let min = I::mul(I::load_f16(head.add(32).cast()), mn);
                    (I::mul(I::load_f16(head.cast()), sc), I::sub(I::splat(-0.0), min))
                }
                DType::Q6_K => (I::load_f16(head.cast()), I::zero()),
                _ => (I::load_f16(last.cast()), I::zero()),
            }
        }
    }
}

/// One record of `NT` tiles (`stride` bytes apart) against `NC` of a panel's `S` columns: exact integer dots.
#[inline(always)]
unsafe fn idots<I: Isa, Q: Quantised, const NT: usize, const NC: usize, const S: usize>(
    record: *const u8,
    stride: usize,
    activations: *const u32,
) -> [[I::I; NC]; NT] {
    unsafe {
        let meta = activations.add(8 * S);
        let mut dots = [[I::int_splat(0); NC]; NT];
        let start = |row: Meta, c: usize| {
            let negative_sum = I::int_splat(*meta.add(row as usize * S + c) as i32);
            match offset_shift(Q::DTYPE) {
                Some(3) => I::int_shl::<3>(negative_sum),
                Some(4) => I::int_shl::<4>(negative_sum),
                Some(5) => I::int_shl::<5>(negative_sum),
                Some(7) => I::int_shl::<7>(negative_sum),
                _ => I::int_splat(0),
            }
        };
        let dot = |acc, w, a: *const u32| {
            let a = *a as i32;
            if Q::WIDE { I::dot_wide(acc, w, a) } else { I::dot(acc, w, a) }
        };
        if matches!(Q::DTYPE, DType::Q6_K) {
            for t in 0..NT {
                let tile = record.add(t * stride);
                let subs = tile.add(Q::RECORD - 32);
                for half in 0..2 {
                    let row = if half == 0 { Meta::NegativeSumLow } else { Meta::NegativeSumHigh };
                    let mut part = [I::int_splat(0); NC];
                    for c in 0..NC {
                        part[c] = start(row, c);
                    }
                    for g in 0..4 {
                        let (low, high) = Q::groups::<I>(tile, g);
                        let w = if half == 0 { low } else { high };
                        for c in 0..NC {
                            part[c] = dot(part[c], w, activations.add((half * 4 + g) * S + c));
                        }
                    }
                    let sub = I::int_load_i8(subs.add(16 * half));
                    for c in 0..NC {
                        dots[t][c] = I::int_add(dots[t][c], I::int_mul(part[c], sub));
                    }
                }
            }
            return dots;
        }
        if offset_shift(Q::DTYPE).is_some() {
            for c in 0..NC {
                let first = start(Meta::NegativeSum, c);
                for t in 0..NT {
                    dots[t][c] = first;
                }
            }
        }
        for g in 0..4 {
            for t in 0..NT {
                let (low, high) = Q::groups::<I>(record.add(t * stride), g);
                for c in 0..NC {
                    dots[t][c] = dot(dots[t][c], low, activations.add(g * S + c));
                }
                for c in 0..NC {
                    dots[t][c] = dot(dots[t][c], high, activations.add((g + 4) * S + c));
                }
            }
        }
        dots
    }
}

/// `NT` tiles against `NC` of a panel's `S` columns, the whole of K.
#[inline(always)]
unsafe fn block<I: Isa, Q: Quantised, const NT: usize, const NC: usize, const S: usize>(
    call: &LinearCall,
    tile: usize,
    column: usize,
) {
    unsafe {
        let weights = call.weights.add(tile * call.tile_bytes);
        let panel = call.panel.add(column);
        let num_blocks = call.cols / 32;
        let super_bytes = Q::HEAD + Q::BLOCKS_PER_SUPER * Q::RECORD;
        let ahead = prefetch_distance(NT * call.tile_bytes);
        let mut totals = [[I::zero(); NC]; NT];
        let mut first = 0;
        while first < num_blocks {
            let end = (first + call.segment_blocks).min(num_blocks);
            let mut sums = [[I::zero(); NC]; NT];
            for b in first..end {
                let head = weights.add(b / Q::BLOCKS_PER_SUPER * super_bytes);
                let record = head.add(Q::HEAD + b % Q::BLOCKS_PER_SUPER * Q::RECORD);
                if NC <= 2 {
                    for t in 0..NT {
                        prefetch::<I>(record.wrapping_add(t * call.tile_bytes + ahead), Q::RECORD);
                    }
                }
                let activations = panel.add(b * record_words(S));
                let dots = idots::<I, Q, NT, NC, S>(record, call.tile_bytes, activations);
                let meta = activations.add(8 * S).cast::<f32>();
                for t in 0..NT {
                    let (scale, min) = Q::scales::<I>(head.add(t * call.tile_bytes), record.add(t * call.tile_bytes));
                    for c in 0..NC {
                        let da = I::splat(*meta.add(Meta::Scale as usize * S + c));
                        sums[t][c] = I::fma(I::int_to_f(dots[t][c]), I::mul(scale, da), sums[t][c]);
                        if Q::HAS_MIN {
                            let sa = I::splat(*meta.add(Meta::ScaledSum as usize * S + c));
                            sums[t][c] = I::fma(min, sa, sums[t][c]);
                        }
                    }
                }
            }
            for t in 0..NT {
                for c in 0..NC {
                    totals[t][c] = I::add(totals[t][c], sums[t][c]);
                }
            }
            first = end;
        }
        store::<I, NT, NC>(call, tile, column, &totals);
    }
}

#[inline(always)]
unsafe fn store<I: Isa, const NT: usize, const NC: usize>(
    call: &LinearCall,
    tile: usize,
    column: usize,
    totals: &[[I::F; NC]; NT],
) {
    for (t, totals) in totals.iter().enumerate() {
        for (c, &total) in totals.iter().enumerate() {
            unsafe { I::store(call.out.add((column + c) * call.out_stride + (tile + t) * LANES), total) };
        }
    }
}

/// How far ahead decode asks for weights: the same place in the next group of tiles while that stays in the nearest cache,
/// else a few records on in the same tile.
#[inline(always)]
fn prefetch_distance(group_bytes: usize) -> usize {
    const NEAR_BYTES: usize = 32 << 10;
    if group_bytes <= NEAR_BYTES { group_bytes } else { PREFETCH_BYTES }
}

const PREFETCH_BYTES: usize = 4096;

/// Hints that `bytes` from `from` on are wanted soon.
#[inline(always)]
pub unsafe fn prefetch<I: Isa>(from: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        unsafe { I::prefetch(from.wrapping_add(line)) };
        line += 64;
    }
}

const _: () = assert!(META_ROWS == 5);

/// A format of weights, and how a tile of it meets a panel.
pub trait Product<I: Isa> {
    const IS_FLOAT: bool;
    /// Whether a tile can meet all 12 columns of a panel in 32 registers; otherwise half of them.
    const IS_LEAN: bool;

    /// `NT` tiles against `NC` of a panel's `S` columns, the whole of K.
    unsafe fn block<const NT: usize, const NC: usize, const S: usize>(call: &LinearCall, tile: usize, column: usize);
}

/// All tiles of a call.
#[inline(always)]
pub unsafe fn linear<I: Isa, P: Product<I>>(call: &LinearCall) {
    let (wide, floats) = (I::COLS >= 12, P::IS_FLOAT);
    let mut tile = 0;
    unsafe {
        match call.panel_cols {
            1 => {
                if wide || floats {
                    pass::<I, P, 4, 1, 1>(call, &mut tile);
                }
                pass::<I, P, 2, 1, 1>(call, &mut tile);
                pass::<I, P, 1, 1, 1>(call, &mut tile);
            }
            2 => {
                pass::<I, P, 2, 2, 2>(call, &mut tile);
                pass::<I, P, 1, 2, 2>(call, &mut tile);
            }
            4 => pass::<I, P, 1, 4, 4>(call, &mut tile),
            8 => {
                if wide && floats {
                    pass::<I, P, 2, 4, 8>(call, &mut tile);
                } else if wide && P::IS_LEAN {
                    pass::<I, P, 1, 8, 8>(call, &mut tile);
                }
                pass::<I, P, 1, 4, 8>(call, &mut tile);
            }
            12 => {
                if wide && floats {
                    // 12 sums, 6 activations and 2 weights in registers. With all 12 columns the compiler keeps 12
                    // activations beside 24 sums, and spills.
                    pass::<I, P, 2, 6, 12>(call, &mut tile);
                } else if wide && P::IS_LEAN {
                    pass::<I, P, 1, 12, 12>(call, &mut tile);
                } else if wide {
                    pass::<I, P, 1, 6, 12>(call, &mut tile);
                }
                pass::<I, P, 1, 4, 12>(call, &mut tile);
            }
            other => unreachable!("panels have 1, 2, 4, 8 or 12 columns, not {other}"),
        }
    }
}

/// Tiles from `tile` on, `NT` at a time while so many are left, each against all columns.
#[inline(always)]
unsafe fn pass<I: Isa, P: Product<I>, const NT: usize, const NC: usize, const S: usize>(
    call: &LinearCall,
    tile: &mut usize,
) {
    while *tile + NT <= call.tiles {
        let mut column = 0;
        while column < S {
            unsafe { P::block::<NT, NC, S>(call, *tile, column) };
            column += NC;
        }
        *tile += NT;
    }
}

/// A float format: `[k / K][16 rows]` weights of `K` columns each, against words of a panel that hold as many activations.
pub trait Floats<I: Isa> {
    const K: usize;
    const BYTES: usize;
    type Weights: Copy;

    unsafe fn load(p: *const u8) -> Self::Weights;
    /// `sum + Σ w·a` over the `K` columns, ascending.
    unsafe fn add(sum: I::F, w: Self::Weights, a: u32) -> I::F;
}

#[inline(always)]
unsafe fn float_block<I: Isa, W: Floats<I>, const NT: usize, const NC: usize, const S: usize>(
    call: &LinearCall,
    tile: usize,
    column: usize,
) {
    unsafe {
        let weights = call.weights.add(tile * call.tile_bytes);
        let panel = call.panel.add(column);
        let steps = call.cols.div_ceil(W::K);
        let mut totals = [[I::zero(); NC]; NT];
        let mut first = 0;
        while first < steps {
            let end = (first + call.segment_blocks * (32 / W::K)).min(steps);
            let mut sums = [[I::zero(); NC]; NT];
            for k in first..end {
                for t in 0..NT {
                    let at = weights.add(t * call.tile_bytes + k * LANES * W::BYTES);
                    if NC == 1 {
                        I::prefetch(at.wrapping_add(PREFETCH_BYTES));
                    }
                    let w = W::load(at);
                    for c in 0..NC {
                        sums[t][c] = W::add(sums[t][c], w, *panel.add(k * S + c));
                    }
                }
            }
            for t in 0..NT {
                for c in 0..NC {
                    totals[t][c] = I::add(totals[t][c], sums[t][c]);
                }
            }
            first = end;
        }
        store::<I, NT, NC>(call, tile, column, &totals);
    }
}

/// The product with a float format.
#[derive(Clone, Copy, Debug)]
pub struct OfFloats<W>(PhantomData<W>);

impl<I: Isa, W: Floats<I>> Product<I> for OfFloats<W> {
    const IS_FLOAT: bool = true;
    const IS_LEAN: bool = true;

    #[inline(always)]
    unsafe fn block<const NT: usize, const NC: usize, const S: usize>(call: &LinearCall, tile: usize, column: usize) {
        unsafe { float_block::<I, W, NT, NC, S>(call, tile, column) }
    }
}

/// f32 weights.
#[derive(Clone, Copy, Debug)]
pub struct F32;
/// f16 weights.
#[derive(Clone, Copy, Debug)]
pub struct F16;
/// bf16 weights times bf16 activations, words that hold k in their high and k + 1 in their low half. The sums are those of two
/// fused multiply–adds, k ascending: products of bf16 are exact in f32. So they are computed here.
#[derive(Clone, Copy, Debug)]
pub struct BF16;

impl<I: Isa> Floats<I> for F32 {
    const K: usize = 1;
    const BYTES: usize = 4;
    type Weights = I::F;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> I::F {
        unsafe { I::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(sum: I::F, w: I::F, a: u32) -> I::F {
        unsafe { I::fma(w, I::splat(f32::from_bits(a)), sum) }
    }
}

impl<I: Isa> Floats<I> for F16 {
    const K: usize = 1;
    const BYTES: usize = 2;
    type Weights = I::F;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> I::F {
        unsafe { I::load_f16(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(sum: I::F, w: I::F, a: u32) -> I::F {
        unsafe { I::fma(w, I::splat(f32::from_bits(a)), sum) }
    }
}

impl<I: Isa> Floats<I> for BF16 {
    const K: usize = 2;
    const BYTES: usize = 4;
    type Weights = I::B;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> I::B {
        unsafe { I::bytes_load(p) }
    }

    #[inline(always)]
    unsafe fn add(sum: I::F, w: I::B, a: u32) -> I::F {
        unsafe {
            let high = I::fma(I::bytes_high(w), I::splat(f32::from_bits(a & 0xffff_0000)), sum);
            I::fma(I::bytes_to_f(I::bytes_shl::<16>(w)), I::splat(f32::from_bits(a << 16)), high)
        }
    }
}

macro_rules! quantised {
    ($($name:ident),*) => {$(
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Quantised for $name {
            const DTYPE: DType = DType::$name;
        }

        impl<I: Isa> Product<I> for $name {
            const IS_FLOAT: bool = false;
            const IS_LEAN: bool = !matches!(DType::$name, DType::Q6_K);

            #[inline(always)]
            unsafe fn block<const NT: usize, const NC: usize, const S: usize>(
                call: &LinearCall,
                tile: usize,
                column: usize,
            ) {
                unsafe { block::<I, $name, NT, NC, S>(call, tile, column) }
            }
        }
    )*};
}

quantised!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K);
