// Block formats on the device: how the planes of a KilnMatrix (abi.h) become 32 weights. The values are those of
// src/weights/blocks.rs bit for bit.
#pragma once

#include "common.cuh"

namespace kiln {

// What a format's planes hold per block and row.
template <int F> struct Format {
    static constexpr bool is_half = F == KILN_F16 || F == KILN_BF16;
    static constexpr bool is_float = is_half || F == KILN_F32;
    static constexpr bool is_k = F == KILN_Q4_K || F == KILN_Q5_K || F == KILN_Q6_K;
    static constexpr bool has_min = F == KILN_Q4_1 || F == KILN_Q5_1 || F == KILN_Q4_K || F == KILN_Q5_K;
    // 16-byte words in the quants plane.
    static constexpr int words = F == KILN_F32 ? 8 : is_float ? 4 : F == KILN_Q8_0 ? 2 : 1;
    // Bytes in the highs plane.
    static constexpr int high_bytes = F == KILN_Q6_K ? 8 : F == KILN_Q5_0 || F == KILN_Q5_1 || F == KILN_Q5_K ? 4 : 0;
    // All of a weight is in the quants plane's nibbles.
    static constexpr bool is_nibbles = F == KILN_Q4_0 || F == KILN_Q4_1 || F == KILN_Q4_K;
    // Subtracted from every stored integer.
    static constexpr int offset = F == KILN_Q4_0 ? 8 : F == KILN_Q5_0 ? 16 : F == KILN_Q6_K ? 32 : 0;
};

// 32 stored weights of one row, as loaded.
template <int F> struct StoredBlock {
    uint4 quants[Format<F>::words];
    uint2 highs;
    // Bits of the scales plane, and of the supers plane.
    unsigned scales;
    unsigned super;
};

// Walks the blocks of a lane's row in a tile. Pointers advance, so that loads of neighbouring blocks need no address arithmetic.
template <int F> struct BlockCursor {
    static constexpr unsigned scale_bytes = F == KILN_Q4_1 || F == KILN_Q5_1 ? 4 : Format<F>::is_float ? 0 : 2;
    const uint4 *quants;
    const unsigned char *highs, *scales, *supers;
    unsigned block;

    __device__ BlockCursor(const KilnMatrix &m, unsigned tile, unsigned start, unsigned lane) : block(start) {
        const size_t at = ((size_t)tile * m.blocks + start) * KILN_TILE_ROWS;
        quants = (const uint4 *)m.quants + at * Format<F>::words + lane;
        highs = (const unsigned char *)m.highs + (at + lane) * Format<F>::high_bytes;
        scales = (const unsigned char *)m.scales + (at + lane) * scale_bytes;
        supers = (const unsigned char *)m.supers + ((size_t)tile * (m.blocks / 8) * KILN_TILE_ROWS + lane) * (F == KILN_Q6_K ? 2 : 4);
    }

    __device__ void advance(unsigned blocks) {
        quants += blocks * Format<F>::words * KILN_TILE_ROWS;
        highs += blocks * Format<F>::high_bytes * KILN_TILE_ROWS;
        scales += blocks * scale_bytes * KILN_TILE_ROWS;
        block += blocks;
    }

    // What the supers plane has for block `block + i`.
    __device__ unsigned super(unsigned i) const {
        const unsigned at = (block + i) / 8 * KILN_TILE_ROWS;
        return F == KILN_Q6_K ? __ldg((const unsigned short *)supers + at) : __ldg((const unsigned *)supers + at);
    }

    // Loads DEPTH blocks, at most eight, so that they lie in two super-blocks at most.
    template <int DEPTH> __device__ void load(StoredBlock<F> (&s)[DEPTH]) const {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            constexpr int WORDS = Format<F>::words;
#pragma unroll
            for (int j = 0; j < WORDS; j++) s[i].quants[j] = __ldg(quants + (i * WORDS + j) * KILN_TILE_ROWS);
            const unsigned char *high = highs + i * Format<F>::high_bytes * KILN_TILE_ROWS, *scale = scales + i * scale_bytes * KILN_TILE_ROWS;
            if constexpr (Format<F>::high_bytes == 4) s[i].highs.x = __ldg((const unsigned *)high);
            if constexpr (Format<F>::high_bytes == 8) s[i].highs = __ldg((const uint2 *)high);
            if constexpr (scale_bytes == 4) s[i].scales = __ldg((const unsigned *)scale);
            if constexpr (scale_bytes == 2) s[i].scales = __ldg((const unsigned short *)scale);
        }
        if constexpr (Format<F>::is_k) {
            const unsigned first = super(0), last = DEPTH > 1 ? super(DEPTH - 1) : first;
#pragma unroll
            for (int i = 0; i < DEPTH; i++) s[i].super = block % 8 + i < 8 ? first : last;
        }
    }
};

// Bits 0..3 of `bits` to bit `to` of the four bytes of a word.
__device__ inline unsigned spread_bits(unsigned bits, unsigned to) {
    // Each product bit is a copy of one of the four: 1 << 0, 7, 14, 21 moves bit i to 8 i.
    return ((bits & 15u) * 0x00204081u & 0x01010101u) << to;
}

// Bit pairs 0..3 of `bits` to bits 4 and 5 of the four bytes of a word.
__device__ inline unsigned spread_pairs(unsigned bits) {
    const unsigned b = bits & 255u;
    return (b & 3u) << 4 | (b & 12u) << 10 | (b & 48u) << 16 | (b & 192u) << 22;
}

// The stored integers as bytes: word i holds weights 4i..4i+3, before Format::offset is subtracted.
template <int F> __device__ inline void unpack_words(const StoredBlock<F> &s, unsigned (&w)[8]) {
    static_assert(!Format<F>::is_float, "floats are no integers");
    if constexpr (F == KILN_Q8_0) {
        w[0] = s.quants[0].x, w[1] = s.quants[0].y, w[2] = s.quants[0].z, w[3] = s.quants[0].w;
        w[4] = s.quants[1].x, w[5] = s.quants[1].y, w[6] = s.quants[1].z, w[7] = s.quants[1].w;
    } else {
        const unsigned q[4] = {s.quants[0].x, s.quants[0].y, s.quants[0].z, s.quants[0].w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = q[i] & 0x0f0f0f0fu;
            w[4 + i] = q[i] >> 4 & 0x0f0f0f0fu;
        }
        if constexpr (Format<F>::high_bytes == 4) {
#pragma unroll
            for (int i = 0; i < 8; i++) w[i] |= spread_bits(s.highs.x >> (4 * i), 4);
        } else if constexpr (Format<F>::high_bytes == 8) {
#pragma unroll
            for (int i = 0; i < 8; i++) w[i] |= spread_pairs((i < 4 ? s.highs.x : s.highs.y) >> (8 * (i & 3)));
        }
    }
}

__device__ inline float half_bits(unsigned bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }

// The float scale of a block: for Q4_K and Q5_K d * sc, rounded once.
template <int F> __device__ inline float block_scale(const StoredBlock<F> &s) {
    if constexpr (F == KILN_Q4_K || F == KILN_Q5_K) return half_bits(s.super & 0xffffu) * (float)(s.scales & 255u);
    if constexpr (F == KILN_Q6_K) return half_bits(s.super);
    return half_bits(s.scales & 0xffffu);
}

// What is added after scaling; for Q4_K and Q5_K -(dmin * m), rounded once.
template <int F> __device__ inline float block_min(const StoredBlock<F> &s) {
    if constexpr (F == KILN_Q4_K || F == KILN_Q5_K) return -(half_bits(s.super >> 16) * (float)(s.scales >> 8));
    if constexpr (F == KILN_Q4_1 || F == KILN_Q5_1) return half_bits(s.scales >> 16);
    return 0.0f;
}

// Sub-scale of weights 0..16 (half 0) or 16..32: Q6_K's, otherwise 1.
template <int F> __device__ inline int sub_scale(const StoredBlock<F> &s, int half) {
    if constexpr (F == KILN_Q6_K) return (int)(signed char)(s.scales >> (8 * half));
    return 1;
}

// Weight `column` of 32 as a float, of a float format.
template <int F> __device__ inline float float_weight(const StoredBlock<F> &s, int column) {
    if constexpr (F == KILN_F32) {
        const uint4 q = s.quants[column / 4];
        const unsigned word[4] = {q.x, q.y, q.z, q.w};
        return __uint_as_float(word[column % 4]);
    } else {
        const uint4 q = s.quants[column / 8];
        const unsigned word[4] = {q.x, q.y, q.z, q.w};
        const unsigned bits = word[column / 2 % 4] >> (16 * (column % 2)) & 0xffffu;
        return F == KILN_F16 ? half_bits(bits) : __uint_as_float(bits << 16);
    }
}

// Calls `body` with the format as a constant: `dispatch_format(m.format, [&](auto f) { ...<decltype(f)::value> })`.
template <int F> struct FormatConstant { static constexpr int value = F; };
template <typename Body> __device__ inline void dispatch_format(unsigned format, Body &&body) {
    switch (format) {
    case KILN_Q4_0: return body(FormatConstant<KILN_Q4_0>());
    case KILN_Q4_1: return body(FormatConstant<KILN_Q4_1>());
    case KILN_Q5_0: return body(FormatConstant<KILN_Q5_0>());
    case KILN_Q5_1: return body(FormatConstant<KILN_Q5_1>());
    case KILN_Q8_0: return body(FormatConstant<KILN_Q8_0>());
    case KILN_Q4_K: return body(FormatConstant<KILN_Q4_K>());
    case KILN_Q5_K: return body(FormatConstant<KILN_Q5_K>());
    case KILN_Q6_K: return body(FormatConstant<KILN_Q6_K>());
    case KILN_F16: return body(FormatConstant<KILN_F16>());
    case KILN_BF16: return body(FormatConstant<KILN_BF16>());
    default: return body(FormatConstant<KILN_F32>());
    }
}

}  // namespace kiln
