// Products with matrices of 16-bit floats on tensor cores: the same instructions in the same order in both linear kernels, so that a row's
// bits do not depend on how many rows there are.
//
// A warp multiplies a tile of 32 matrix rows with eight batch rows, 32 columns at a time. Lane (g, t) = 4 g + t has columns 8t .. 8t + 7 of its
// rows, as 16 bytes lie in the file, for both operands: an mma sums over 16 columns, and which they are is all the same to it. So
// the first halves of these 16 bytes are the first mma's, the second ones the second's.
//
//   BF16: inputs are rounded to bf16; the tensor core adds a segment's products up in f32.
//   F16:  an input x is a pair of f16, high + low = x / 2^e, where 2^e is the power of two in the scale of its int8 block, so that nothing
//         overflows and 22 bits are kept. A block's sum is multiplied by 2^e and added: a = fma(dot, 2^e, a).
#pragma once

#include "blocks.cuh"
#include "mma.cuh"

namespace kiln {

// Eight columns of a batch row. BF16 has no low parts.
template <int F> struct HalfInput {
    unsigned high[4], low[4];
    // 2^e; NaN in the block makes it infinite and the low parts NaN.
    float power;
};

template <int F> __device__ inline HalfInput<F> half_input(const float4 &a, const float4 &b, float block_scale) {
    const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    HalfInput<F> input;
    if constexpr (F == KILN_BF16) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
            input.high[i] = *(const unsigned *)&pair;
        }
    } else {
        const unsigned power = __float_as_uint(block_scale) & 0x7f800000u;
        const float inverse = power == 0 ? 0.0f : __uint_as_float(0x7f000000u - power);
        input.power = __uint_as_float(power);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float first = x[2 * i] * inverse, second = x[2 * i + 1] * inverse;
            const __half2 high = __floats2half2_rn(first, second);
            const __half2 low = __floats2half2_rn(first - __low2float(high), second - __high2float(high));
            input.high[i] = *(const unsigned *)&high;
            input.low[i] = *(const unsigned *)&low;
        }
    }
    return input;
}

// Adds 32 columns. weights[i] are the lane's columns of matrix row g + 8 i; element i of sums[m] is matrix row 16 m + g + 8 (i / 2) and batch row
// 2 t + i % 2. The whole warp must call.
template <int F> __device__ inline void add_halves(const uint4 (&weights)[4], const HalfInput<F> &x, float (&sums)[2][4]) {
    float powers[2];
    if constexpr (F == KILN_F16) {
#pragma unroll
        for (int i = 0; i < 2; i++) powers[i] = __shfl_sync(FULL, x.power, 4 * (2 * (lane_id() % 4) + i));
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const uint4 &top = weights[2 * m], &bottom = weights[2 * m + 1];
        const unsigned first[4] = {top.x, bottom.x, top.y, bottom.y}, second[4] = {top.z, bottom.z, top.w, bottom.w};
        if constexpr (F == KILN_BF16) {
            mma_bf16(sums[m], first, x.high[0], x.high[1]);
            mma_bf16(sums[m], second, x.high[2], x.high[3]);
        } else {
            float dot[4] = {};
            mma_f16(dot, first, x.high[0], x.high[1]);
            mma_f16(dot, second, x.high[2], x.high[3]);
            mma_f16(dot, first, x.low[0], x.low[1]);
            mma_f16(dot, second, x.low[2], x.low[3]);
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][i] = fmaf(dot[i], powers[i % 2], sums[m][i]);
        }
    }
}

// Blocks start .. end of a tile times up to ROWS rows, from global memory: lane = matrix row in `sums`.
template <int F, int ROWS, typename Input>
__device__ inline void half_segment_sums(
    const KilnMatrix &m, unsigned tile, unsigned start, unsigned end, const Input &x, unsigned rows, float (&sums)[ROWS]) {
    constexpr unsigned WORDS = Format<F>::words;
    const unsigned lane = lane_id(), g = lane / 4, t = lane % 4;
    const uint4 *weights = (const uint4 *)m.quants + (((size_t)tile * m.blocks + start) * WORDS + t) * KILN_TILE_ROWS + g;
    float fragment[2][4] = {};
#pragma unroll 2
    for (unsigned block = start; block < end; block++) {
        uint4 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = __ldg(weights + 8 * i);
        weights += WORDS * KILN_TILE_ROWS;
        float4 a = {}, b = {};
        float scale = 0.0f;
        if (g < rows) {
            a = x.values(g, block)[2 * t], b = x.values(g, block)[2 * t + 1];
            if constexpr (F == KILN_F16) scale = x.scale(g, block).scale;
        }
        add_halves<F>(words, half_input<F>(a, b, scale), fragment);
    }
    // Matrix row `lane` of batch row r is with lane 4 (lane % 8) + r / 2.
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (unsigned q = 0; q < 4; q++) {
            const float sum = __shfl_sync(FULL, fragment[q / 2][2 * (q % 2) + r % 2], 4 * (lane % 8) + r / 2);
            if (lane / 8 == q) sums[r] = sum;
        }
    }
}

}  // namespace kiln
