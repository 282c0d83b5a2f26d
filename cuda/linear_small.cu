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

#include "linear.cuh"

namespace kiln {

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
        segment_sums<ROWS, false>(p.matrices[matrix + pass], tile, warp_id(), p.input, row_start, rows, sums);
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
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows || r % segments != warp_id()) continue;
        if (gated) {
            end_gated(p, row_start + r, tile, gates[r], totals[r]);
        } else {
            end_stored(p, row_start + r, matrix, tile, totals[r]);
        }
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
