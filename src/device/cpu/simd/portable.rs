//! Plain Rust with the same bits, for machines with neither extension. `mul_add` is exact everywhere, if slow.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::needless_range_loop)] // Indices as in the formulas.

use half::f16;

use super::{Isa, LANES};

/// Needs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type F = [f32; LANES];
type I = [i32; LANES];
type B = [u32; LANES];

#[inline(always)]
fn map<T: Copy, U: Copy + Default>(a: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    let mut out = [U::default(); LANES];
    for l in 0..LANES {
        out[l] = f(a[l]);
    }
    out
}

#[inline(always)]
fn zip<T: Copy + Default>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> T) -> [T; LANES] {
    let mut out = [T::default(); LANES];
    for l in 0..LANES {
        out[l] = f(a[l], b[l]);
    }
    out
}

#[inline(always)]
unsafe fn read<T: Copy, const N: usize>(p: *const T) -> [T; N] {
    unsafe { p.cast::<[T; N]>().read_unaligned() }
}

#[rustfmt::skip]
impl Isa for Portable {
    type F = F;
    type I = I;
    type B = B;
    const COLS: usize = 4;

    #[inline(always)] unsafe fn zero() -> F { [0.0; LANES] }
    #[inline(always)] unsafe fn splat(x: f32) -> F { [x; LANES] }
    #[inline(always)] unsafe fn load(p: *const f32) -> F { unsafe { read(p) } }
    #[inline(always)] unsafe fn store(p: *mut f32, x: F) { unsafe { p.cast::<F>().write_unaligned(x) } }
    #[inline(always)] unsafe fn load_f16(p: *const u16) -> F { unsafe { map(read(p), |x| f16::from_bits(x).to_f32()) } }
    #[inline(always)] unsafe fn store_f16(p: *mut u16, x: F) { unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(x, |x| f16::from_f32(x).to_bits())) } }
    #[inline(always)] unsafe fn add(a: F, b: F) -> F { zip(a, b, |a, b| a + b) }
    #[inline(always)] unsafe fn sub(a: F, b: F) -> F { zip(a, b, |a, b| a - b) }
    #[inline(always)] unsafe fn mul(a: F, b: F) -> F { zip(a, b, |a, b| a * b) }
    #[inline(always)] unsafe fn div(a: F, b: F) -> F { zip(a, b, |a, b| a / b) }
    #[inline(always)] unsafe fn fma(a: F, b: F, c: F) -> F {
        let mut out = c;
        for l in 0..LANES { out[l] = a[l].mul_add(b[l], c[l]); }
        out
    }
    #[inline(always)] unsafe fn max(a: F, b: F) -> F { zip(a, b, |a, b| if a > b { a } else { b }) }
    #[inline(always)] unsafe fn round(a: F) -> F { map(a, f32::round_ties_even) }
    #[inline(always)] unsafe fn pow2(n: F) -> F { map(n, |n| f32::from_bits(((n as i32 + 127) as u32) << 23)) }
    #[inline(always)] unsafe fn first(n: usize, a: F, b: F) -> F {
        let mut out = b;
        let n = n.min(LANES);
        out[..n].copy_from_slice(&a[..n]);
        out
    }
    #[inline(always)] unsafe fn sum(a: F) -> f32 {
        let mut t = a;
        for half in [8, 4, 2, 1] {
            for l in 0..half { t[l] += t[l + half]; }
        }
        t[0]
    }
    #[inline(always)] unsafe fn max_lane(a: F) -> f32 { a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m }) }
    #[inline(always)] unsafe fn max_magnitude_bits(a: F, b: F) -> u32 { a.into_iter().chain(b).fold(0, |max, x| max.max(x.abs().to_bits())) }
    #[inline(always)] unsafe fn store_i8(p: *mut i8, x: F) { unsafe { p.cast::<[i8; LANES]>().write_unaligned(map(x, |x| x as i8)) } }
    #[inline(always)] unsafe fn int_splat(x: i32) -> I { [x; LANES] }
    #[inline(always)] unsafe fn int_add(a: I, b: I) -> I { zip(a, b, i32::wrapping_add) }
    #[inline(always)] unsafe fn int_mul(a: I, b: I) -> I { zip(a, b, i32::wrapping_mul) }
    #[inline(always)] unsafe fn int_shl<const N: i32>(a: I) -> I { map(a, |a| a << N) }
    #[inline(always)] unsafe fn int_to_f(a: I) -> F { map(a, |a| a as f32) }
    #[inline(always)] unsafe fn int_load_u8(p: *const u8) -> I { unsafe { map(read(p), |x: u8| i32::from(x)) } }
    #[inline(always)] unsafe fn int_load_i8(p: *const u8) -> I { unsafe { map(read(p), |x: u8| i32::from(x as i8)) } }
    #[inline(always)] unsafe fn bytes_load(p: *const u8) -> B { unsafe { map(read::<[u8; 4], LANES>(p.cast()), u32::from_le_bytes) } }
    #[inline(always)] unsafe fn bytes_and(a: B, mask: u8) -> B { map(a, |a| a & u32::from_le_bytes([mask; 4])) }
    #[inline(always)] unsafe fn bytes_or(a: B, b: B) -> B { zip(a, b, |a, b| a | b) }
    #[inline(always)] unsafe fn bytes_to_f(a: B) -> F { map(a, f32::from_bits) }
    #[inline(always)] unsafe fn bytes_high(a: B) -> F { map(a, |a| f32::from_bits(a & 0xffff_0000)) }
    #[inline(always)] unsafe fn bytes_shl<const N: i32>(a: B) -> B { map(a, |a| a << N) }
    #[inline(always)] unsafe fn bytes_shr<const N: i32>(a: B) -> B { map(a, |a| a >> N) }
    #[inline(always)] unsafe fn dot(acc: I, w: B, a: i32) -> I {
        let a = a.to_le_bytes().map(|b| i32::from(b as i8));
        let mut out = acc;
        for l in 0..LANES {
            let w = w[l].to_le_bytes();
            // Wrapping, as in hardware: unused columns of a panel may hold anything.
            for j in 0..4 { out[l] = out[l].wrapping_add(i32::from(w[j]) * a[j]); }
        }
        out
    }
    #[inline(always)] unsafe fn dot_wide(acc: I, w: B, a: i32) -> I { unsafe { Self::dot(acc, w, a) } }
    #[inline(always)] unsafe fn prefetch(_: *const u8) {}
    #[inline(always)] unsafe fn zero_below_min(x: F, y: F) -> F { zip(x, y, |x, y| if x < -126.0 { 0.0 } else { y }) }
}
