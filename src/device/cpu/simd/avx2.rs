//! AVX2 with FMA and F16C: two registers per vector.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::Isa;

/// Needs `avx2, fma, f16c`.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

#[inline(always)]
unsafe fn dot_one(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1))) }
}

/// Bytes of 128 and more would saturate `maddubs`: widen even and odd bytes to 16 bits instead.
#[inline(always)]
unsafe fn dot_wide_one(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    unsafe {
        let (we, wo) = (_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(w));
        let (ae, ao) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a)), _mm256_srai_epi16::<8>(a));
        let sum = _mm256_add_epi32(_mm256_madd_epi16(we, ae), _mm256_madd_epi16(wo, ao));
        _mm256_add_epi32(acc, sum)
    }
}

#[rustfmt::skip]
impl Isa for Avx2 {
    type F = F;
    type I = I;
    type B = I;
    const COLS: usize = 4;

    #[inline(always)] unsafe fn zero() -> F { unsafe { [_mm256_setzero_ps(); 2] } }
    #[inline(always)] unsafe fn splat(x: f32) -> F { unsafe { [_mm256_set1_ps(x); 2] } }
    #[inline(always)] unsafe fn load(p: *const f32) -> F { unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] } }
    #[inline(always)] unsafe fn store(p: *mut f32, x: F) { unsafe { _mm256_storeu_ps(p, x[0]); _mm256_storeu_ps(p.add(8), x[1]) } }
    #[inline(always)] unsafe fn load_f16(p: *const u16) -> F {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)] unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)] unsafe fn add(a: F, b: F) -> F { unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] } }
    #[inline(always)] unsafe fn sub(a: F, b: F) -> F { unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] } }
    #[inline(always)] unsafe fn mul(a: F, b: F) -> F { unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] } }
    #[inline(always)] unsafe fn div(a: F, b: F) -> F { unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] } }
    #[inline(always)] unsafe fn fma(a: F, b: F, c: F) -> F { unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] } }
    #[inline(always)] unsafe fn max(a: F, b: F) -> F { unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] } }
    #[inline(always)] unsafe fn round(a: F) -> F {
        unsafe { [_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]), _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1])] }
    }
    #[inline(always)] unsafe fn pow2(n: F) -> F {
        unsafe {
            let one = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
            [one(n[0]), one(n[1])]
        }
    }
    #[inline(always)] unsafe fn first(n: usize, a: F, b: F) -> F {
        unsafe {
            let n = _mm256_set1_epi32(n as i32);
            let lo = _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            let hi = _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
            [_mm256_blendv_ps(b[0], a[0], _mm256_castsi256_ps(lo)), _mm256_blendv_ps(b[1], a[1], _mm256_castsi256_ps(hi))]
        }
    }
    #[inline(always)] unsafe fn sum(a: F) -> f32 {
        unsafe {
            let h = _mm256_add_ps(a[0], a[1]);
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)] unsafe fn max_lane(a: F) -> f32 {
        unsafe {
            let h = _mm256_max_ps(a[0], a[1]);
            let q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)] unsafe fn max_magnitude_bits(a: F, b: F) -> u32 {
        unsafe {
            let magnitude = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
            let two = |x: F| _mm256_max_epu32(magnitude(x[0]), magnitude(x[1]));
            let h = _mm256_max_epu32(two(a), two(b));
            let q = _mm_max_epu32(_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h));
            let d = _mm_max_epu32(q, _mm_shuffle_epi32::<0b1110>(q));
            _mm_cvtsi128_si32(_mm_max_epu32(d, _mm_shuffle_epi32::<1>(d))) as u32
        }
    }
    #[inline(always)] unsafe fn store_i8(p: *mut i8, x: F) {
        unsafe {
            // Packing works within halves: words 0-3 and 8-11 come first.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)] unsafe fn int_splat(x: i32) -> I { unsafe { [_mm256_set1_epi32(x); 2] } }
    #[inline(always)] unsafe fn int_add(a: I, b: I) -> I { unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] } }
    #[inline(always)] unsafe fn int_mul(a: I, b: I) -> I { unsafe { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] } }
    #[inline(always)] unsafe fn int_shl<const N: i32>(a: I) -> I { unsafe { [_mm256_slli_epi32::<N>(a[0]), _mm256_slli_epi32::<N>(a[1])] } }
    #[inline(always)] unsafe fn int_to_f(a: I) -> F { unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] } }
    #[inline(always)] unsafe fn int_load_u8(p: *const u8) -> I {
        unsafe { [_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()))] }
    }
    #[inline(always)] unsafe fn int_load_i8(p: *const u8) -> I {
        unsafe { [_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))] }
    }
    #[inline(always)] unsafe fn bytes_load(p: *const u8) -> I { unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] } }
    #[inline(always)] unsafe fn bytes_and(a: I, mask: u8) -> I {
        unsafe { let m = _mm256_set1_epi8(mask as i8); [_mm256_and_si256(a[0], m), _mm256_and_si256(a[1], m)] }
    }
    #[inline(always)] unsafe fn bytes_or(a: I, b: I) -> I { unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] } }
    #[inline(always)] unsafe fn bytes_to_f(a: I) -> F { unsafe { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] } }
    #[inline(always)] unsafe fn bytes_high(a: I) -> F {
        unsafe { let m = _mm256_set1_epi32(0xffff_0000_u32 as i32); Self::bytes_to_f([_mm256_and_si256(a[0], m), _mm256_and_si256(a[1], m)]) }
    }
    #[inline(always)] unsafe fn bytes_shl<const N: i32>(a: I) -> I { unsafe { Self::int_shl::<N>(a) } }
    #[inline(always)] unsafe fn bytes_shr<const N: i32>(a: I) -> I { unsafe { [_mm256_srli_epi32::<N>(a[0]), _mm256_srli_epi32::<N>(a[1])] } }
    #[inline(always)] unsafe fn dot(acc: I, w: I, a: i32) -> I {
        unsafe { let a = _mm256_set1_epi32(a); [dot_one(acc[0], w[0], a), dot_one(acc[1], w[1], a)] }
    }
    #[inline(always)] unsafe fn dot_wide(acc: I, w: I, a: i32) -> I {
        unsafe { let a = _mm256_set1_epi32(a); [dot_wide_one(acc[0], w[0], a), dot_wide_one(acc[1], w[1], a)] }
    }
    #[inline(always)] unsafe fn prefetch(p: *const u8) { unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) } }
    #[inline(always)] unsafe fn zero_below_min(x: F, y: F) -> F {
        unsafe {
            let min = _mm256_set1_ps(-126.0);
            [_mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[0], min), y[0]), _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[1], min), y[1])]
        }
    }
}
