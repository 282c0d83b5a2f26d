//! AVX-512 with VNNI: one register per vector.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::Isa;

/// Needs `avx512f, avx512bw, avx512vl, avx512dq, avx512vnni, f16c, fma`.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

#[rustfmt::skip]
impl Isa for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const COLS: usize = 12;

    #[inline(always)] unsafe fn zero() -> __m512 { unsafe { _mm512_setzero_ps() } }
    #[inline(always)] unsafe fn splat(x: f32) -> __m512 { unsafe { _mm512_set1_ps(x) } }
    #[inline(always)] unsafe fn load(p: *const f32) -> __m512 { unsafe { _mm512_loadu_ps(p) } }
    #[inline(always)] unsafe fn store(p: *mut f32, x: __m512) { unsafe { _mm512_storeu_ps(p, x) } }
    #[inline(always)] unsafe fn load_f16(p: *const u16) -> __m512 { unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) } }
    #[inline(always)] unsafe fn store_f16(p: *mut u16, x: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)] unsafe fn add(a: __m512, b: __m512) -> __m512 { unsafe { _mm512_add_ps(a, b) } }
    #[inline(always)] unsafe fn sub(a: __m512, b: __m512) -> __m512 { unsafe { _mm512_sub_ps(a, b) } }
    #[inline(always)] unsafe fn mul(a: __m512, b: __m512) -> __m512 { unsafe { _mm512_mul_ps(a, b) } }
    #[inline(always)] unsafe fn div(a: __m512, b: __m512) -> __m512 { unsafe { _mm512_div_ps(a, b) } }
    #[inline(always)] unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { unsafe { _mm512_fmadd_ps(a, b, c) } }
    #[inline(always)] unsafe fn max(a: __m512, b: __m512) -> __m512 { unsafe { _mm512_max_ps(a, b) } }
    #[inline(always)] unsafe fn round(a: __m512) -> __m512 { unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) } }
    #[inline(always)] unsafe fn pow2(n: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)))) }
    }
    #[inline(always)] unsafe fn first(n: usize, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_mov_ps(b, ((1u32 << n) - 1) as u16, a) }
    }
    #[inline(always)] unsafe fn sum(a: __m512) -> f32 {
        unsafe {
            let h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)] unsafe fn max_lane(a: __m512) -> f32 { unsafe { _mm512_reduce_max_ps(a) } }
    #[inline(always)] unsafe fn max_magnitude_bits(a: __m512, b: __m512) -> u32 {
        unsafe {
            let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
            _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(a), magnitude(b)))
        }
    }
    #[inline(always)] unsafe fn store_i8(p: *mut i8, x: __m512) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))) }
    }
    #[inline(always)] unsafe fn int_splat(x: i32) -> __m512i { unsafe { _mm512_set1_epi32(x) } }
    #[inline(always)] unsafe fn int_add(a: __m512i, b: __m512i) -> __m512i { unsafe { _mm512_add_epi32(a, b) } }
    #[inline(always)] unsafe fn int_mul(a: __m512i, b: __m512i) -> __m512i { unsafe { _mm512_mullo_epi32(a, b) } }
    #[inline(always)] unsafe fn int_shl<const N: i32>(a: __m512i) -> __m512i { unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) } }
    #[inline(always)] unsafe fn int_to_f(a: __m512i) -> __m512 { unsafe { _mm512_cvtepi32_ps(a) } }
    #[inline(always)] unsafe fn int_load_u8(p: *const u8) -> __m512i { unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) } }
    #[inline(always)] unsafe fn int_load_i8(p: *const u8) -> __m512i { unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) } }
    #[inline(always)] unsafe fn bytes_load(p: *const u8) -> __m512i { unsafe { _mm512_loadu_si512(p.cast()) } }
    #[inline(always)] unsafe fn bytes_and(a: __m512i, mask: u8) -> __m512i { unsafe { _mm512_and_si512(a, _mm512_set1_epi8(mask as i8)) } }
    #[inline(always)] unsafe fn bytes_or(a: __m512i, b: __m512i) -> __m512i { unsafe { _mm512_or_si512(a, b) } }
    #[inline(always)] unsafe fn bytes_to_f(a: __m512i) -> __m512 { unsafe { _mm512_castsi512_ps(a) } }
    #[inline(always)] unsafe fn bytes_high(a: __m512i) -> __m512 { unsafe { _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(0xffff_0000_u32 as i32))) } }
    #[inline(always)] unsafe fn bytes_shl<const N: i32>(a: __m512i) -> __m512i { unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) } }
    #[inline(always)] unsafe fn bytes_shr<const N: i32>(a: __m512i) -> __m512i { unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(N)) } }
    #[inline(always)] unsafe fn dot(acc: __m512i, w: __m512i, a: i32) -> __m512i { unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)) } }
    #[inline(always)] unsafe fn dot_wide(acc: __m512i, w: __m512i, a: i32) -> __m512i { unsafe { Self::dot(acc, w, a) } }
    #[inline(always)] unsafe fn prefetch(p: *const u8) { unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) } }
    #[inline(always)] unsafe fn zero_below_min(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-126.0)), y) }
    }
}

/// `vdpbf16ps`: needs `avx512bf16` besides, and a machine whose instruction rounds like two fused multiply–adds, high half
/// first, which `super::super::kernels` checks before it uses this.
#[derive(Clone, Copy, Debug)]
pub struct NativePairs;

impl super::super::linear::Floats<Avx512> for NativePairs {
    const K: usize = 2;
    const BYTES: usize = 4;
    type Weights = __m512i;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: the caller's.
        unsafe { Avx512::bytes_load(p) }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512, w: __m512i, a: u32) -> __m512 {
        // SAFETY: same size, any bits are valid.
        unsafe {
            let a = _mm512_set1_epi32(a as i32);
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(w),
                std::mem::transmute::<__m512i, __m512bh>(a),
            )
        }
    }
}
