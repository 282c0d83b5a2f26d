// Matrix-vector products for decode: out[row] = W . x[row] for 1 to 8 rows at a time.
//
// A CTA takes one tile of 32 matrix rows, lane = row; its warps take the segments of K that row invariance prescribes, and the
// segments' sums are added in order at the end. So no shuffle and no horizontal sum is needed, every weight load is one 128-bit load per
// lane and block, and a warp's loads are contiguous. Activations are int8 blocks; a dot product of 32 is an exact integer (dp4a), then
//     a = fma(float(idot), dw * da, a);   with a minimum: a = fma(m, sa, a)
// as on every other device (src/device/reference/linear.rs), so equal inputs give equal bits. Float weights are summed by fma in the order
// of their columns.
//
// With one or two rows a warp has four blocks of weights in flight. 4-bit weights are not shifted: a mask leaves the high nibbles sixteen times too
// large, and so is the sum of their products, an exact integer, until it is shifted once.
//
// Bytes: each weight once; activations 48 bytes per 32 from L2 by each CTA. Requires: int8 blocks of the input rows.

#include "linear.cuh"

namespace kiln {

// Input rows in shared memory, of which only the int8 blocks are kept.
struct SharedInput {
    const KilnActivationScale *scales;
    const kiln_i8 *all_quants;
    unsigned blocks;

    __device__ const uint4 *quants(unsigned row, unsigned block) const {
        return (const uint4 *)(all_quants + (size_t)(row * blocks + block) * KILN_BLOCK);
    }
    __device__ const KilnActivationScale &scale(unsigned row, unsigned block) const { return scales[row * blocks + block]; }
};

// Which tile a CTA takes: of which matrix, gated of both.
struct TileChoice {
    unsigned matrix, tile;
    bool gated;

    // `index` counts the tiles of all matrices.
    __device__ TileChoice(const KilnLinearParams &p, unsigned index) : matrix(0), tile(index), gated(is_gated(p)) {
        if (gated) return;
        while (tile >= p.matrices[matrix].tiles) tile -= p.matrices[matrix++].tiles;
    }
};

// A CTA's tile times up to ROWS rows; a warp per segment.
template <int ROWS, Formats FORMATS, typename Input>
__device__ inline void tile_times_rows(const KilnLinearParams &p, const TileChoice &choice, const Input &input, unsigned row_start, unsigned rows) {
    // `ends` are the sums of a row's segments, pass by pass: in registers they would spill beside the sums of eight rows.
    __shared__ float shared[KILN_SEGMENTS_MAX][ROWS][KILN_TILE_ROWS], ends[2][ROWS][KILN_TILE_ROWS];
    const auto [matrix, tile, gated] = choice;
    const unsigned blocks = p.matrices[0].blocks, segments = (blocks + segment_blocks(blocks) - 1) / segment_blocks(blocks);
    // Not unrolled: each pass holds the code of every format.
#pragma unroll 1
    for (unsigned pass = 0; pass <= (gated ? 1u : 0u); pass++) {
        float sums[ROWS];
        segment_sums<ROWS, FORMATS>(p.matrices[matrix + pass], tile, warp_id(), input, rows, sums);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; r++) shared[warp_id()][r][lane_id()] = sums[r];
        __syncthreads();
        // Warp w ends rows w, w + segments, ...: segments are added in order.
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r % segments != warp_id()) continue;
            float total = shared[0][r][lane_id()];
            for (unsigned s = 1; s < segments; s++) total += shared[s][r][lane_id()];
            ends[pass][r][lane_id()] = total;
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows || r % segments != warp_id()) continue;
        if (gated) {
            end_gated(p, row_start + r, tile, ends[0][r][lane_id()], ends[1][r][lane_id()]);
        } else {
            end_stored(p, row_start + r, matrix, tile, ends[0][r][lane_id()]);
        }
    }
}

// Grid: {tiles of all matrices, groups of ROWS rows}.
template <int ROWS> __device__ inline void linear_small(const KilnLinearParams &p) {
    wait_for_predecessor();
    const unsigned row_start = blockIdx.y * ROWS, all_rows = row_count(p.step, p.logit_rows);
    if (row_start >= all_rows) return;
    tile_times_rows<ROWS, Formats::ALL>(p, TileChoice(p, blockIdx.x), GlobalInput{p.input, row_start}, row_start, min(all_rows - row_start, (unsigned)ROWS));
}

// Asks the L2 for up to 4 KiB of the warp's first weights: a line per lane. Weights never change, so this need not wait for anybody.
__device__ inline void prefetch_weights(const KilnLinearParams &p, const TileChoice &choice) {
    const KilnMatrix &m = p.matrices[choice.matrix];
    const unsigned length = segment_blocks(m.blocks), start = length * warp_id(), block_bytes = m.format == KILN_Q8_0 ? 1024 : 512;
    const unsigned bytes = min(length, m.blocks - start) * block_bytes, at = 128 * lane_id();
    const char *weights = (const char *)m.quants + ((size_t)choice.tile * m.blocks + start) * block_bytes + at;
    if (at < bytes) asm volatile("prefetch.global.L2 [%0];" ::"l"(weights));
}

// The same for matrices of integers, with the input made by the CTA: the norm of the residual, or a copy of int8 blocks. The first CTA leaves
// the new residual. Dynamic shared memory per row: scales, int8 blocks and, with a norm, the residual. Grid: any number of CTAs, which take
// tiles in turn, so that a CTA makes its input once.
template <int ROWS> __device__ inline void linear_fused(const KilnFusedParams &p) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float squares[NORM_WARPS];
    const KilnLinearParams &linear = p.linear;
    prefetch_weights(linear, TileChoice(linear, blockIdx.x));
    wait_for_predecessor();
    const unsigned rows = min(row_count(linear.step, linear.logit_rows), (unsigned)ROWS), blocks = linear.input.blocks;
    KilnActivationScale *scales = (KilnActivationScale *)memory;
    kiln_i8 *quants = (kiln_i8 *)(scales + ROWS * blocks);
    float *residual = (float *)(quants + ROWS * blocks * KILN_BLOCK);
    if (p.norm.norm) {
        for (unsigned r = 0; r < rows; r++) {
            const unsigned row = p.norm.logit_rows ? p.norm.logit_rows[r] : r;
            float *kept = blockIdx.x == 0 && p.norm.delta ? p.norm.residual_out + (size_t)row * p.norm.cols : nullptr;
            add_norm(
                p.norm, row, squares,
                [&](unsigned i, float x) {
                    residual[i] = x;
                    if (kept) kept[i] = x;
                },
                [&](unsigned i) { return residual[i]; },
                [&](unsigned block, unsigned, float x) {
                    quantise_block(x, quants + (r * blocks + block) * KILN_BLOCK, scales + r * blocks + block);
                });
        }
    } else {
        const uint4 *from = (const uint4 *)linear.input.quants;
        for (unsigned i = threadIdx.x; i < rows * blocks * 2; i += blockDim.x) ((uint4 *)quants)[i] = from[i];
        const uint4 *from_scales = (const uint4 *)linear.input.scales;
        for (unsigned i = threadIdx.x; i < rows * blocks; i += blockDim.x) ((uint4 *)scales)[i] = from_scales[i];
    }
    __syncthreads();
#pragma unroll 1
    for (unsigned index = blockIdx.x; index < p.tiles; index += gridDim.x) {
        tile_times_rows<ROWS, Formats::INTEGERS>(linear, TileChoice(linear, index), SharedInput{scales, quants, blocks}, 0, rows);
    }
}

}  // namespace kiln

#define KILN_LINEAR_SMALL(ROWS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * KILN_SEGMENTS_MAX, 1) kiln_linear_small_##ROWS(                           \
        const __grid_constant__ KilnLinearParams p) {                                                                        \
        kiln::linear_small<ROWS>(p);                                                                                         \
    }

KILN_LINEAR_SMALL(1)
KILN_LINEAR_SMALL(2)
KILN_LINEAR_SMALL(4)
KILN_LINEAR_SMALL(8)

#define KILN_LINEAR_FUSED(ROWS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * KILN_SEGMENTS_MAX, 1) kiln_linear_fused_##ROWS(                           \
        const __grid_constant__ KilnFusedParams p) {                                                                         \
        kiln::linear_fused<ROWS>(p);                                                                                         \
    }

KILN_LINEAR_FUSED(1)
KILN_LINEAR_FUSED(2)
