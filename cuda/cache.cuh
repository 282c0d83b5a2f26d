// The paged cache: where keys and values lie, and how 8-bit ones become 16-bit floats. T is kiln_u16 for f16 and kiln_i8 for int8.
#pragma once

#include "common.cuh"

namespace kiln {

// src/device/quant.rs, CACHE_OVERFLOW: from here on f16 rounds to infinity, in which an int8 cache follows it.
constexpr unsigned CACHE_OVERFLOW_BITS = 0x477ff000u;

// A key's or value's element in an f16 cache. Infinity becomes NaN: products with it may be -inf, which is what masked scores are.
__device__ inline kiln_u16 cached_f16(float x) {
    const kiln_u16 bits = __half_as_ushort(__float2half_rn(x));
    return (bits & 0x7fffu) >= 0x7c00u ? (kiln_u16)0x7fffu : bits;
}

// Of a position of a sequence: its block, and how many tokens of keys or values lie in front of those of a KV head there.
struct CachePlace {
    const KilnCache &c;
    kiln_u8 *layer;
    size_t plane_start;
    unsigned token;

    __device__ CachePlace(const KilnCache &c, unsigned seq, unsigned position, unsigned kv_head, bool value)
        : c(c), plane_start((size_t)(2 * kv_head + (value ? 1 : 0)) * c.block_tokens), token(position % c.block_tokens) {
        const size_t block = c.block_tables[(size_t)seq * c.blocks_per_seq + position / c.block_tokens];
        layer = c.data + block * c.block_stride + c.layer_offset;
    }

    // The first of head_dim elements.
    template <typename T> __device__ T *elements() const {
        const size_t scale_bytes = sizeof(T) == 1 ? sizeof(float) * plane_start : 0;
        return (T *)(layer + scale_bytes) + (plane_start + token) * c.head_dim;
    }

    // Of int8, behind the elements of the block's tokens.
    __device__ float *scale() const {
        return (float *)(layer + (plane_start + c.block_tokens) * c.head_dim) + plane_start + token;
    }
};

// A head's scale, and how its values become integers, by the rule of src/device/quant.rs. quantise_block (common.cuh) has it in other words:
// with these, ptxas spills in the linear kernels.
struct HeadQuantiser {
    float scale, inverse;

    // Of the largest magnitude.
    __device__ explicit HeadQuantiser(unsigned amax_bits) {
        const float amax = __uint_as_float(amax_bits);
        const bool is_finite = amax_bits < CACHE_OVERFLOW_BITS, is_zero = amax < AMAX_MIN;
        inverse = is_finite && !is_zero ? 127.0f / amax : 0.0f;
        scale = !is_finite ? __uint_as_float(0x7fc00000u) : is_zero ? 0.0f : amax / 127.0f;
    }

    // NaN, as infinity times 0 is, becomes 0.
    __device__ kiln_i8 integer(float x) const { return (kiln_i8)__float2int_rn(x * inverse); }
};

// Eight signed bytes as f16: 1024 + (x + 128) is put together from bits, and 1152 subtracted, exactly.
__device__ inline uint4 bytes_to_f16(const uint2 &bytes) {
    const unsigned words[2] = {bytes.x ^ 0x80808080u, bytes.y ^ 0x80808080u};
    unsigned halves[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const unsigned biased = __byte_perm(words[i / 2], 0x64646464u, i % 2 ? 0x4342 : 0x4140);
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(halves[i]) : "r"(biased), "r"(0x64806480u));
    }
    return make_uint4(halves[0], halves[1], halves[2], halves[3]);
}

// Two signed bytes, 0 and 2 of four or (ODD) 1 and 3, as bf16: 128 plus the low seven bits, less 128 or, of a negative one, 256.
template <bool ODD> __device__ inline unsigned bytes_to_bf16(unsigned bytes) {
    const unsigned pair = __byte_perm(bytes, 0x43434343u, ODD ? 0x4341 : 0x4240), magnitude = pair & 0xff7fff7fu;
    const unsigned minus_base = (pair & 0xff80ff80u) | 0x80008000u;
    unsigned result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(magnitude), "r"(0x3f803f80u), "r"(minus_base));
    return result;
}

}  // namespace kiln
