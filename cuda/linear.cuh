// What the linear kernels share: a lane's part of a dot product, and what happens to an output element.
#pragma once

#include "blocks.cuh"
#include "norm.cuh"

namespace kiln {

// Input rows in global memory, from `row_start` on.
struct GlobalInput {
    const KilnActivations &x;
    unsigned row_start;

    __device__ size_t at(unsigned row, unsigned block) const { return (size_t)(row_start + row) * x.blocks + block; }
    __device__ const float4 *values(unsigned row, unsigned block) const { return (const float4 *)(x.values + at(row, block) * KILN_BLOCK); }
    __device__ const uint4 *quants(unsigned row, unsigned block) const { return (const uint4 *)(x.quants + at(row, block) * KILN_BLOCK); }
    __device__ const KilnActivationScale &scale(unsigned row, unsigned block) const { return x.scales[at(row, block)]; }
};

__device__ inline bool is_gated(const KilnLinearParams &p) { return p.epilogue == KILN_GATED_SILU || p.epilogue == KILN_GATED_GELU; }

// Which formats a kernel has code for.
enum class Formats { ALL, FLOATS, INTEGERS };

// Adds block `block` of the lane's row times ROWS input rows to `sums`.
template <int F, int ROWS, typename Input>
__device__ inline void add_block(const StoredBlock<F> &s, const Input &x, unsigned rows, unsigned block, float (&sums)[ROWS]) {
    if constexpr (Format<F>::is_float) {
        // Columns outside, four rows inside: few weights and inputs are in registers at a time.
        constexpr int GROUP = ROWS < 4 ? ROWS : 4;
#pragma unroll
        for (int first = 0; first < ROWS; first += GROUP) {
#pragma unroll
            for (int i = 0; i < KILN_BLOCK / 4; i++) {
#pragma unroll
                for (int r = first; r < first + GROUP; r++) {
                    if (r >= rows) break;
                    const float4 v = x.values(r, block)[i];
                    const float column[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        float input = column[j];
                        if constexpr (F == KILN_BF16) input = round_bf16(input);
                        sums[r] = fmaf(float_weight<F>(s, 4 * i + j), input, sums[r]);
                    }
                }
            }
        }
    } else {
        unsigned w[8];
        unpack_words<F>(s, w);
        const float scale = block_scale<F>(s), minimum = block_min<F>(s);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows) break;
            const uint4 low = x.quants(r, block)[0], high = x.quants(r, block)[1];
            const KilnActivationScale a = x.scale(r, block);
            int dot_low = -Format<F>::offset * a.sum_low, dot_high = -Format<F>::offset * a.sum_high;
            dot_low = __dp4a((int)w[0], (int)low.x, dot_low);
            dot_low = __dp4a((int)w[1], (int)low.y, dot_low);
            dot_low = __dp4a((int)w[2], (int)low.z, dot_low);
            dot_low = __dp4a((int)w[3], (int)low.w, dot_low);
            dot_high = __dp4a((int)w[4], (int)high.x, dot_high);
            dot_high = __dp4a((int)w[5], (int)high.y, dot_high);
            dot_high = __dp4a((int)w[6], (int)high.z, dot_high);
            dot_high = __dp4a((int)w[7], (int)high.w, dot_high);
            const int dot = sub_scale<F>(s, 0) * dot_low + sub_scale<F>(s, 1) * dot_high;
            sums[r] = fmaf((float)dot, scale * a.scale, sums[r]);
            if constexpr (Format<F>::has_min) sums[r] = fmaf(minimum, a.scaled_sum, sums[r]);
        }
    }
}

// One segment of one tile: the warp's part.
template <int ROWS, Formats FORMATS, typename Input>
__device__ inline void segment_sums(const KilnMatrix &m, unsigned tile, unsigned segment, const Input &x, unsigned rows, float (&sums)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
    const unsigned length = segment_blocks(m.blocks), start = segment * length, end = min(start + length, m.blocks);
    dispatch_format(m.format, [&](auto format) {
        constexpr int F = decltype(format)::value;
        if constexpr (FORMATS == Formats::ALL || (FORMATS == Formats::FLOATS) == Format<F>::is_float) {
            constexpr int DEPTH = Format<F>::is_float || ROWS > 2 ? 1 : 2;
            unsigned block = start;
            // Loads of several blocks are in flight before the first is used.
            for (; block + DEPTH <= end; block += DEPTH) {
                StoredBlock<F> s[DEPTH];
#pragma unroll
                for (int i = 0; i < DEPTH; i++) s[i] = load_block<F>(m, tile, block + i, lane_id());
#pragma unroll
                for (int i = 0; i < DEPTH; i++) add_block<F, ROWS>(s[i], x, rows, block + i, sums);
            }
            for (; block < end; block++) add_block<F, ROWS>(load_block<F>(m, tile, block, lane_id()), x, rows, block, sums);
        }
    });
}

// Ends output element `lane` of a tile of a linear that is not gated. The whole warp must call.
__device__ inline void end_stored(const KilnLinearParams &p, size_t row, unsigned matrix, unsigned tile, float total) {
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
    const bool inside = element < p.matrices[matrix].rows;
    if (p.epilogue == KILN_QKV) {
        const KilnRow info = p.qkv.rows[row];
        const unsigned head = element / p.qkv.head_dim, dim = element % p.qkv.head_dim, half = p.qkv.rotary_dims / 2;
        float x = inside && p.qkv.biases[matrix] ? total + p.qkv.biases[matrix][element] : total;
        // Pairs are neighbours: a head has an even number of rows, a tile too.
        const float other = __shfl_xor_sync(FULL, x, 1);
        if (matrix < 2 && dim < p.qkv.rotary_dims) {
            const size_t at = (size_t)info.position * half + dim / 2;
            const float c = p.qkv.cosines[at], s = p.qkv.sines[at];
            x = dim % 2 == 0 ? rotated_first(x, other, c, s) : rotated_second(other, x, c, s);
        }
        if (inside && matrix > 0) cache_row(p.qkv, info, head, matrix == 2)[dim] = __half_as_ushort(__float2half_rn(x));
        if (inside && matrix == 0) p.out[row * p.out_stride + element] = x;
    } else if (inside) {
        p.out[row * p.out_stride + p.offsets[matrix] + element] = total;
    }
}

// Ends output element `lane` of a pair of tiles: 32 of them are a block of the next linear's input. The whole warp must call.
__device__ inline void end_gated(const KilnLinearParams &p, size_t row, unsigned tile, float gate, float up) {
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
    const float x = element < p.matrices[0].rows ? activate(p.epilogue, gate) * up : 0.0f;
    p.gated.values[row * p.gated.blocks * KILN_BLOCK + element] = x;
    quantise_block(x, p.gated, row, tile);
}

}  // namespace kiln
