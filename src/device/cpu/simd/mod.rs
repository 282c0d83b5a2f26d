//! Sixteen lanes, three ways: AVX-512 VNNI, AVX2 and portable code with equal bits. Kernels are generic over [`Isa`].
//!
//! Lanes are rows of a weight tile, keys of a cache group, or dimensions of a row. Every operation is the IEEE one, with
//! `fma` fused, and sums over lanes use one fixed tree, so the three paths agree bit for bit.

// SAFETY, for this folder: every function is `unsafe` because it may execute instructions that the machine lacks;
// `super::Path::detect` picks an implementation only after asking the machine. Pointers cover what the name says.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::{Avx512, NativePairs};
pub use portable::Portable;

/// Lanes of every vector here.
pub const LANES: usize = 16;

/// One instruction set. All methods are inlined into a kernel that was compiled with the set's features.
pub trait Isa: Copy {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 16 lanes of four unsigned bytes.
    type B: Copy;

    /// Activation columns that an integer kernel can hold in registers.
    const COLS: usize;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Rounds to nearest even.
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }` per lane.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for integral `n` in -126..=127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// Lanes below `n` of `a`, the others of `b`.
    unsafe fn first(n: usize, a: Self::F, b: Self::F) -> Self::F;
    /// Tree: halves of 8, 4, 2, 1 lanes.
    unsafe fn sum(a: Self::F) -> f32;
    unsafe fn max_lane(a: Self::F) -> f32;
    /// The largest of all lanes' magnitudes, as bits: infinities sort above numbers, and NaN above those.
    unsafe fn max_magnitude_bits(a: Self::F, b: Self::F) -> u32;
    /// Sixteen integers in -128..=127 as bytes.
    unsafe fn store_i8(p: *mut i8, x: Self::F);

    unsafe fn int_splat(x: i32) -> Self::I;
    unsafe fn int_add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn int_mul(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn int_shl<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn int_to_f(a: Self::I) -> Self::F;
    /// Sixteen bytes, zero-extended.
    unsafe fn int_load_u8(p: *const u8) -> Self::I;
    /// Sixteen bytes, sign-extended.
    unsafe fn int_load_i8(p: *const u8) -> Self::I;

    unsafe fn bytes_load(p: *const u8) -> Self::B;
    unsafe fn bytes_and(a: Self::B, mask: u8) -> Self::B;
    unsafe fn bytes_or(a: Self::B, b: Self::B) -> Self::B;
    /// The lanes' bits as f32.
    unsafe fn bytes_to_f(a: Self::B) -> Self::F;
    /// The lanes' high halves as f32: bf16 widened.
    unsafe fn bytes_high(a: Self::B) -> Self::F;
    /// Shifts of 32-bit lanes: mask afterwards.
    unsafe fn bytes_shl<const N: i32>(a: Self::B) -> Self::B;
    unsafe fn bytes_shr<const N: i32>(a: Self::B) -> Self::B;
    /// `acc + Σ w·a` over the four bytes of each lane; `w` below 128, `a` four signed bytes.
    unsafe fn dot(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// Like [`Isa::dot`] for any unsigned `w`.
    unsafe fn dot_wide(acc: Self::I, w: Self::B, a: i32) -> Self::I;

    /// Hints that the line at `p` is wanted soon. Never faults.
    unsafe fn prefetch(p: *const u8);

    /// `2^x` for `x <= 127`, 0 below -126, NaN of NaN; relative error under 2^-22 (Taylor–minimax of degree 6 on ±1/2).
    #[inline(always)]
    unsafe fn exp2(x: Self::F) -> Self::F {
        unsafe {
            let clamped = Self::max(Self::splat(-126.0), x);
            let n = Self::round(clamped);
            let f = Self::sub(clamped, n);
            let mut p = Self::splat(EXP2[0]);
            let mut i = 1;
            while i < EXP2.len() {
                p = Self::fma(p, f, Self::splat(EXP2[i]));
                i += 1;
            }
            Self::zero_below_min(x, Self::mul(p, Self::pow2(n)))
        }
    }

    /// 0 where `x < -126`, else `y`, also where `x` is NaN.
    unsafe fn zero_below_min(x: Self::F, y: Self::F) -> Self::F;
}

/// Coefficients of 2^f on [-1/2, 1/2], highest power first: ln2^k / k!, k = 6..0.
pub const EXP2: [f32; 7] = [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];
