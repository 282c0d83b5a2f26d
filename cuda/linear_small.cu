// Matrix-vector products for decode: out[row] = W . x[row] for 1 to 8 rows at a time.
//
// A CTA takes one tile of 32 matrix rows, lane = row; its warps take the segments of K that row invariance prescribes, and the
// segments' sums are added in order at the end. So no shuffle and no horizontal sum is needed, every weight load is one 128-bit load per
// lane and block, and a warp's loads are contiguous. Activations are int8 blocks; a dot product of 32 is an exact integer (dp4a), then
//     a = fma(float(idot), dw * da, a);   with a minimum: a = fma(m, sa, a)
// as on every other device (src/device/reference/linear.rs), so equal inputs give equal bits. Float weights are summed by fma in the order
// of their columns.
//
// Bytes: each weight once; activations 48 bytes per 32 from L2 by each CTA. Requires: int8 blocks of the input rows.

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

// One segment of one tile: the warp's part.
template <int ROWS>
__device__ inline void segment_sums(const KilnMatrix &m, unsigned tile, unsigned segment, const KilnActivations &x, unsigned row_start,
                                    unsigned rows, float (&sums)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
    const unsigned length = segment_blocks(m.blocks), start = segment * length, end = min(start + length, m.blocks);
    dispatch_format(m.format, [&](auto format) {
        constexpr int F = decltype(format)::value;
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

// Grid: {tiles of all matrices, groups of ROWS rows}; a warp per segment. Gated: tile pairs of the two matrices.
template <int ROWS> __device__ inline void linear_small(const KilnLinearParams &p) {
    __shared__ float shared[KILN_SEGMENTS_MAX][ROWS][KILN_TILE_ROWS];
    const unsigned row_start = blockIdx.y * ROWS, all_rows = row_count(p.step, p.logit_rows);
    if (row_start >= all_rows) return;
    const unsigned rows = min(all_rows - row_start, (unsigned)ROWS);
    const bool gated = p.epilogue != KILN_STORE;
    unsigned matrix = 0, tile = blockIdx.x;
    if (!gated) {
        while (tile >= p.matrices[matrix].tiles) tile -= p.matrices[matrix++].tiles;
    }
    const unsigned blocks = p.matrices[0].blocks, segments = (blocks + segment_blocks(blocks) - 1) / segment_blocks(blocks);
    float gates[ROWS], totals[ROWS] = {};
    // Not unrolled: each pass holds the code of every format.
#pragma unroll 1
    for (unsigned pass = 0; pass <= (gated ? 1u : 0u); pass++) {
        float sums[ROWS];
        segment_sums<ROWS>(p.matrices[matrix + pass], tile, warp_id(), p.input, row_start, rows, sums);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; r++) shared[warp_id()][r][lane_id()] = sums[r];
        __syncthreads();
        // Warp w ends rows w, w + segments, ...: segments are added in order.
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            gates[r] = totals[r];
            if (r % segments != warp_id()) continue;
            totals[r] = shared[0][r][lane_id()];
            for (unsigned s = 1; s < segments; s++) totals[r] += shared[s][r][lane_id()];
        }
    }
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows || r % segments != warp_id()) continue;
        const size_t row = row_start + r;
        if (!gated) {
            if (element < p.matrices[matrix].rows) p.out[row * p.out_stride + p.offsets[matrix] + element] = totals[r];
            continue;
        }
        const bool inside = element < p.matrices[0].rows;
        const float x = inside ? activate(p.epilogue, gates[r]) * totals[r] : 0.0f;
        if (tile >= p.gated.blocks) continue;
        p.gated.values[row * p.gated.blocks * KILN_BLOCK + element] = x;
        // The tile's 32 rows are a block of the next linear's input.
        quantise_block(x, p.gated, row, tile);
    }
}

}  // namespace kiln

#define KILN_LINEAR_SMALL(ROWS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * KILN_SEGMENTS_MAX) kiln_linear_small_##ROWS(                           \
        const __grid_constant__ KilnLinearParams p) {                                                                        \
        kiln::linear_small<ROWS>(p);                                                                                         \
    }

KILN_LINEAR_SMALL(1)
KILN_LINEAR_SMALL(2)
KILN_LINEAR_SMALL(4)
KILN_LINEAR_SMALL(8)
