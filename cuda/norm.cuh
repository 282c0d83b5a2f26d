// RMSNorm and RoPE: one function each, wherever they are fused, so that their bits are the same everywhere.
#pragma once

#include "common.cuh"

namespace kiln {

constexpr unsigned NORM_WARPS = KILN_NORM_THREADS / 32;

// The sum of squares of element(0) .. element(cols - 1), the same bits for every number of threads: 256 partial sums, of elements
// j, j + 256, ... in order; butterflies of 32 neighbours; eight sums in order. `shared` holds 8 floats. All threads of the CTA must call.
template <typename Element> __device__ inline float sum_of_squares(unsigned cols, float *shared, Element &&element) {
    __syncthreads();
    for (unsigned w = warp_id(); w < NORM_WARPS; w += blockDim.x / 32) {
        float sum = 0.0f;
        for (unsigned i = 32 * w + lane_id(); i < cols; i += KILN_NORM_THREADS) {
            const float x = element(i);
            sum = fmaf(x, x, sum);
        }
        // All lanes have the same sum.
        shared[w] = warp_sum(sum);
    }
    __syncthreads();
    float total = shared[0];
#pragma unroll
    for (int w = 1; w < NORM_WARPS; w++) total += shared[w];
    return total;
}

// A sum that is not finite would make a row of zeros: its scale is NaN.
__device__ inline float norm_scale(float squares, unsigned cols, float eps) {
    return 1.0f / sqrtf(squares / (float)cols + eps) + (squares - squares);
}

// A row's new residual and its norm: calls sum(i, x) with every element of residual + delta, then block(b, i, x) with the normed elements of
// block b, lane by lane (zeros beyond the columns). Each thread gets back the elements that it summed.
template <typename Read, typename Sum, typename Block>
__device__ inline void add_norm(const KilnNormParams &p, unsigned row, float *shared, Sum &&put, Read &&get, Block &&block) {
    const float *residual = p.residual_in + (size_t)row * p.cols, *delta = p.delta ? p.delta + (size_t)row * p.cols : nullptr;
    float squares;
    auto sum = [&](auto &&added) {
        squares = sum_of_squares(p.cols, shared, [&](unsigned i) {
            const float x = added(i);
            put(i, x);
            return x;
        });
    };
    if (!delta) {
        sum([&](unsigned i) { return residual[i]; });
    } else if (!p.post_norm) {
        sum([&](unsigned i) { return residual[i] + delta[i]; });
    } else {
        const float scale = norm_scale(sum_of_squares(p.cols, shared, [&](unsigned i) { return delta[i]; }), p.cols, p.eps);
        sum([&](unsigned i) { return residual[i] + delta[i] * scale * p.post_norm[i]; });
    }
    const float scale = norm_scale(squares, p.cols, p.eps);
    const unsigned blocks = (p.cols + KILN_BLOCK - 1) / KILN_BLOCK;
    for (unsigned w = warp_id(); w < NORM_WARPS; w += blockDim.x / 32) {
        for (unsigned b = w; b < blocks; b += NORM_WARPS) {
            // Beyond the last column the last one is read, and not used.
            const unsigned i = b * KILN_BLOCK + lane_id(), column = min(i, p.cols - 1);
            const float x = get(column) * scale * p.norm[column];
            block(b, i, i < p.cols ? x : 0.0f);
        }
    }
}

// Turns the pair (a, b) by an angle.
__device__ inline float rotated_first(float a, float b, float cosine, float sine) { return a * cosine - b * sine; }
__device__ inline float rotated_second(float a, float b, float cosine, float sine) { return a * sine + b * cosine; }

}  // namespace kiln
