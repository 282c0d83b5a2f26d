// Tensor rows as they lie in the file to the tiles of a KilnMatrix (abi.h). Runs once per tensor, as its bytes arrive.
//
// Bytes: reads and writes every weight once. A thread makes one block of one row.

#include "blocks.cuh"

namespace kiln {

__device__ inline unsigned half_at(const kiln_u8 *bytes) { return bytes[0] | bytes[1] << 8; }
__device__ inline unsigned word_at(const kiln_u8 *bytes) { return half_at(bytes) | half_at(bytes + 2) << 16; }

// 6-bit scale and minimum of block `part` of eight, from the 12 bytes of a Q4_K or Q5_K block (src/weights/blocks.rs, k_scale_min).
__device__ inline unsigned k_scale_min(const kiln_u8 *packed, unsigned part) {
    if (part < 4) return (packed[part] & 63u) | (packed[part + 4] & 63u) << 8;
    const unsigned low = packed[part + 4];
    return ((low & 15u) | packed[part - 4] >> 6 << 4) | ((low >> 4) | packed[part] >> 6 << 4) << 8;
}

// The stored integer of weight j of block `part` of a stored block.
template <int F> __device__ inline unsigned stored_integer(const kiln_u8 *stored, unsigned part, unsigned j) {
    if constexpr (F == KILN_Q4_0) return stored[2 + j % 16] >> (j / 16 * 4) & 15u;
    if constexpr (F == KILN_Q4_1) return stored[4 + j % 16] >> (j / 16 * 4) & 15u;
    if constexpr (F == KILN_Q5_0) return (stored[6 + j % 16] >> (j / 16 * 4) & 15u) | (stored[2 + j / 8] >> j % 8 & 1u) << 4;
    if constexpr (F == KILN_Q5_1) return (stored[8 + j % 16] >> (j / 16 * 4) & 15u) | (stored[4 + j / 8] >> j % 8 & 1u) << 4;
    if constexpr (F == KILN_Q8_0) return stored[2 + j];
    if constexpr (F == KILN_Q4_K) return stored[16 + part / 2 * 32 + j] >> (part % 2 * 4) & 15u;
    if constexpr (F == KILN_Q5_K) {
        return (stored[48 + part / 2 * 32 + j] >> (part % 2 * 4) & 15u) | (stored[16 + j] >> part & 1u) << 4;
    }
    if constexpr (F == KILN_Q6_K) {
        const unsigned half = part / 4, quarter = part % 4;
        const unsigned low = stored[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15u;
        return low | (stored[128 + half * 32 + j] >> (quarter * 2) & 3u) << 4;
    }
    return 0;
}

template <int F> __device__ inline void repack_integers(const KilnMatrix &m, size_t at, unsigned lane, const kiln_u8 *row, unsigned block) {
    constexpr unsigned PER_STORED = Format<F>::is_k ? 8 : 1;
    constexpr unsigned BYTES = F == KILN_Q4_0   ? 18
                               : F == KILN_Q4_1 ? 20
                               : F == KILN_Q5_0 ? 22
                               : F == KILN_Q5_1 ? 24
                               : F == KILN_Q8_0 ? 34
                               : F == KILN_Q4_K ? 144
                               : F == KILN_Q5_K ? 176
                                                : 210;
    const unsigned part = block % PER_STORED;
    const kiln_u8 *stored = row ? row + (size_t)(block / PER_STORED) * BYTES : nullptr;
    unsigned q[KILN_BLOCK];
#pragma unroll
    for (int j = 0; j < KILN_BLOCK; j++) q[j] = stored ? stored_integer<F>(stored, part, j) : 0;
    unsigned words[4 * Format<F>::words] = {};
    unsigned highs[2] = {};
#pragma unroll
    for (int j = 0; j < KILN_BLOCK; j++) {
        if constexpr (F == KILN_Q8_0) {
            words[j / 4] |= q[j] << (8 * (j % 4));
        } else {
            words[j / 4 % 4] |= (q[j] & 15u) << (8 * (j % 4) + j / 16 * 4);
            if constexpr (Format<F>::high_bytes == 4) highs[0] |= (q[j] >> 4) << j;
            if constexpr (Format<F>::high_bytes == 8) highs[j / 16] |= (q[j] >> 4) << (2 * (j % 16));
        }
    }
    uint4 *quants = (uint4 *)m.quants + at * Format<F>::words * KILN_TILE_ROWS + lane;
#pragma unroll
    for (int i = 0; i < Format<F>::words; i++) {
        quants[i * KILN_TILE_ROWS] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
    const size_t entry = at * KILN_TILE_ROWS + lane;
    if constexpr (Format<F>::high_bytes == 4) ((unsigned *)m.highs)[entry] = highs[0];
    if constexpr (Format<F>::high_bytes == 8) ((uint2 *)m.highs)[entry] = make_uint2(highs[0], highs[1]);
    if constexpr (F == KILN_Q4_1 || F == KILN_Q5_1) {
        ((unsigned *)m.scales)[entry] = stored ? word_at(stored) : 0;
    } else if constexpr (F == KILN_Q4_K || F == KILN_Q5_K) {
        ((unsigned short *)m.scales)[entry] = stored ? k_scale_min(stored + 4, part) : 0;
    } else if constexpr (F == KILN_Q6_K) {
        ((unsigned short *)m.scales)[entry] = stored ? half_at(stored + 192 + 2 * part) : 0;
    } else {
        ((unsigned short *)m.scales)[entry] = stored ? half_at(stored) : 0;
    }
    if constexpr (Format<F>::is_k) {
        if (part == 0) {
            const size_t super = at / 8 * KILN_TILE_ROWS + lane;
            if constexpr (F == KILN_Q6_K) {
                ((unsigned short *)m.supers)[super] = stored ? half_at(stored + 208) : 0;
            } else {
                ((unsigned *)m.supers)[super] = stored ? word_at(stored) : 0;
            }
        }
    }
}

template <int F>
__device__ inline void repack_floats(const KilnMatrix &m, size_t at, unsigned lane, const kiln_u8 *row, unsigned block, unsigned cols) {
    constexpr unsigned PER_WORD = F == KILN_F32 ? 4 : 8, BYTES = 16 / PER_WORD;
    uint4 *quants = (uint4 *)m.quants + at * Format<F>::words * KILN_TILE_ROWS + lane;
    for (int i = 0; i < Format<F>::words; i++) {
        unsigned words[4] = {};
#pragma unroll
        for (int j = 0; j < PER_WORD; j++) {
            const unsigned column = block * KILN_BLOCK + i * PER_WORD + j;
            if (!row || column >= cols) continue;
            const kiln_u8 *bytes = row + (size_t)column * BYTES;
            if constexpr (F == KILN_F32) {
                words[j] = word_at(bytes);
            } else {
                words[j / 2] |= half_at(bytes) << (16 * (j % 2));
            }
        }
        quants[i * KILN_TILE_ROWS] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

}  // namespace kiln

using namespace kiln;

// Grid: {tiles of this launch, slices}; 256 threads: a warp per block of 32 rows.
extern "C" __global__ void __launch_bounds__(256) kiln_repack(const __grid_constant__ KilnRepackParams p) {
    const unsigned lane = lane_id(), local_row = blockIdx.x * KILN_TILE_ROWS + lane;
    const kiln_u8 *row = local_row < p.source_rows ? p.source + (size_t)local_row * p.row_bytes : nullptr;
    const size_t tile = p.tile_start + blockIdx.x;
    dispatch_format(p.matrix.format, [&](auto format) {
        constexpr int F = decltype(format)::value;
        for (unsigned block = blockIdx.y * 8 + warp_id(); block < p.matrix.blocks; block += gridDim.y * 8) {
            const size_t at = tile * p.matrix.blocks + block;
            if constexpr (Format<F>::is_float) {
                repack_floats<F>(p.matrix, at, lane, row, block, p.cols);
            } else {
                repack_integers<F>(p.matrix, at, lane, row, block);
            }
        }
    });
}
