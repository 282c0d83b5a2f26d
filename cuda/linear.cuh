// What the linear kernels share: a lane's part of a dot product, and what happens to an output element.
#pragma once

#include "blocks.cuh"

namespace kiln {

// Adds block `block` of the lane's row times ROWS activation rows to `sums`.
template <int F, int ROWS>
__device__ inline void add_block(const StoredBlock<F> &s, const KilnActivations &x, unsigned row_start, unsigned rows, unsigned block,
                                 float (&sums)[ROWS]) {
    if constexpr (Format<F>::is_float) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows) break;
            const float4 *values = (const float4 *)(x.values + ((size_t)(row_start + r) * x.blocks + block) * KILN_BLOCK);
#pragma unroll
            for (int i = 0; i < KILN_BLOCK / 4; i++) {
                const float4 v = values[i];
                const float column[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float input = column[j];
                    if constexpr (F == KILN_BF16) input = round_bf16(input);
                    sums[r] = fmaf(float_weight<F>(s, 4 * i + j), input, sums[r]);
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
            const size_t at = (size_t)(row_start + r) * x.blocks + block;
            const uint4 low = *(const uint4 *)(x.quants + at * KILN_BLOCK), high = *(const uint4 *)(x.quants + at * KILN_BLOCK + 16);
            const KilnActivationScale a = x.scales[at];
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

// One segment of one tile: the warp's part. FLOATS_ONLY leaves out the code of formats that the caller does not have.
template <int ROWS, bool FLOATS_ONLY>
__device__ inline void segment_sums(const KilnMatrix &m, unsigned tile, unsigned segment, const KilnActivations &x, unsigned row_start,
                                    unsigned rows, float (&sums)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
    const unsigned length = segment_blocks(m.blocks), start = segment * length, end = min(start + length, m.blocks);
    dispatch_format(m.format, [&](auto format) {
        constexpr int F = decltype(format)::value;
        if constexpr (FLOATS_ONLY && !Format<F>::is_float) return;
        constexpr int DEPTH = Format<F>::is_float ? 1 : ROWS > 2 ? 2 : 4;
        unsigned block = start;
        // Loads of several blocks are in flight before the first is used.
        for (; block + DEPTH <= end; block += DEPTH) {
            StoredBlock<F> s[DEPTH];
#pragma unroll
            for (int i = 0; i < DEPTH; i++) s[i] = load_block<F>(m, tile, block + i, lane_id());
#pragma unroll
            for (int i = 0; i < DEPTH; i++) add_block<F, ROWS>(s[i], x, row_start, rows, block + i, sums);
        }
        for (; block < end; block++) add_block<F, ROWS>(load_block<F>(m, tile, block, lane_id()), x, row_start, rows, block, sums);
    });
}

// Ends output element `lane` of a tile of a stored linear.
__device__ inline void end_stored(const KilnLinearParams &p, size_t row, unsigned matrix, unsigned tile, float total) {
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
    if (element < p.matrices[matrix].rows) p.out[row * p.out_stride + p.offsets[matrix] + element] = total;
}

// Ends output element `lane` of a pair of tiles: 32 of them are a block of the next linear's input. The whole warp must call.
__device__ inline void end_gated(const KilnLinearParams &p, size_t row, unsigned tile, float gate, float up) {
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
    const float x = element < p.matrices[0].rows ? activate(p.epilogue, gate) * up : 0.0f;
    p.gated.values[row * p.gated.blocks * KILN_BLOCK + element] = x;
    quantise_block(x, p.gated, row, tile);
}

}  // namespace kiln
