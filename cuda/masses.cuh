// Probabilities as integers and logits as keys that sort like them: src/device/sampler/mass.rs, operation by operation.
#pragma once

#include "common.cuh"

namespace kiln {

// rint(exp(x) * 2^44) for x <= 0, 0 for NaN: f32 operations, each rounded on its own.
__device__ inline kiln_u64 mass(float x) {
    constexpr float ROUND = 12582912.0f;
    x = x > -32.0f ? x : -32.0f;
    const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), ROUND);
    const float n = __fsub_rn(shifted, ROUND);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
    float q = 0.0013814202f;
    q = __fadd_rn(__fmul_rn(q, r), 0.008368897f);
    q = __fadd_rn(__fmul_rn(q, r), 0.041668408f);
    q = __fadd_rn(__fmul_rn(q, r), 0.1666652f);
    q = __fadd_rn(__fmul_rn(q, r), 0.49999994f);
    const float p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(r, r), q), r), 1.0f);
    const float scale = __uint_as_float((__float_as_uint(shifted) - __float_as_uint(ROUND) + 44 + 127) << 23);
    return __float2ull_rn(__fmul_rn(p, scale));
}

// Orders as the floats do; 0 and -0 have one key. Finite floats and -inf have keys above 0.
__device__ inline kiln_u32 order_key(float x) {
    const kiln_u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits ^ ((kiln_u32)((int)bits >> 31) | 0x80000000u);
}

// The float of a key; zero is positive.
__device__ inline float key_value(kiln_u32 key) {
    return __uint_as_float(key ^ ((kiln_u32)((int)~key >> 31) | 0x80000000u));
}

// A greater rank is a more likely token; among equal logits the lower id comes first.
__device__ inline kiln_u64 rank_of(float score, kiln_u32 id) { return (kiln_u64)order_key(score) << 32 | (kiln_u32)~id; }

__device__ inline kiln_u32 rank_id(kiln_u64 rank) { return ~(kiln_u32)rank; }
__device__ inline float rank_score(kiln_u64 rank) { return key_value((kiln_u32)(rank >> 32)); }

// ceil(total * share / 2^32), at least 1.
__device__ inline kiln_u64 share_of(kiln_u64 total, kiln_u64 share_q32) {
    const kiln_u64 low = total * share_q32, high = __umul64hi(total, share_q32);
    const kiln_u64 target = (high << 32 | low >> 32) + ((kiln_u32)low != 0);
    return target == 0 ? 1 : target;
}

}  // namespace kiln
