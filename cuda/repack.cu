// Tensor rows as they lie in the file to the tiles of a KilnMatrix (abi.h). Runs once per tensor, as its bytes arrive.
//
//   planes[tile][block][...][lane] = block `block` of matrix row 32 tile + lane, each weight's bits unchanged
//
// Shapes: source [rows][row_bytes] in a format of src/weights/blocks.rs; out, the planes quants, highs, scales and supers of the same
// format. Rows beyond the matrix and columns beyond its last are written as zeros.
// Requires: source and row_bytes even; launches that start at a tile. A thread makes one block of one row, a warp one block of a tile.
// Bytes: every weight is read and written once; writes are whole lines, reads are spread over 32 rows and meet again in the L1.
// Source: the formats' definition in GGML; that lanes are rows follows FLUTE's offline repacking (Guo et al., 2024) and Marlin's.

#include "blocks.cuh"

namespace kiln {

// Rows and fields lie at even addresses in every format.
__device__ inline unsigned half_at(const kiln_u8 *bytes) { return *(const kiln_u16 *)bytes; }
__device__ inline unsigned word_at(const kiln_u8 *bytes) { return half_at(bytes) | half_at(bytes + 2) << 16; }

// 6-bit scale and minimum of block `part` of eight, from the 12 bytes of a Q4_K or Q5_K block (src/weights/blocks.rs, k_scale_min).
__device__ inline unsigned k_scale_min(const kiln_u8 *packed, unsigned part) {
    if (part < 4) return (packed[part] & 63u) | (packed[part + 4] & 63u) << 8;
    const unsigned low = packed[part + 4];
    return ((low & 15u) | packed[part - 4] >> 6 << 4) | ((low >> 4) | packed[part] >> 6 << 4) << 8;
}

// Bits 0, 8, 16 and 24 of a word to bits 0..3: each product bit from 24 on is one of them, and nothing carries.
__device__ inline unsigned gather_bits(unsigned word) { return (word & 0x01010101u) * 0x01020408u >> 24 & 15u; }

// The lowest two bits of each byte to bits 0..7, likewise.
__device__ inline unsigned gather_pairs(unsigned word) { return (word & 0x03030303u) * 0x01041040u >> 24; }

// Bytes of a block as it lies in the file, and where in it are the (low) bits of its integers and their fifth and sixth bits.
template <int F> struct Stored {
    static constexpr unsigned bytes = F == KILN_Q4_0   ? 18
                                      : F == KILN_Q4_1 ? 20
                                      : F == KILN_Q5_0 ? 22
                                      : F == KILN_Q5_1 ? 24
                                      : F == KILN_Q8_0 ? 34
                                      : F == KILN_Q4_K ? 144
                                      : F == KILN_Q5_K ? 176
                                                       : 210;
    static constexpr unsigned lows = F == KILN_Q4_0 || F == KILN_Q8_0 ? 2
                                     : F == KILN_Q4_1                 ? 4
                                     : F == KILN_Q5_0                 ? 6
                                     : F == KILN_Q5_1                 ? 8
                                     : F == KILN_Q4_K                 ? 16
                                     : F == KILN_Q5_K                 ? 48
                                                                      : 0;
    static constexpr unsigned highs = F == KILN_Q5_0 ? 2 : F == KILN_Q5_1 ? 4 : F == KILN_Q5_K ? 16 : 128;
};

// Block `part` of a stored block as words of the quants plane. Formats of 32 weights have its order already; K formats keep the nibbles of
// two (Q6_K: four) blocks in one byte.
template <int F> __device__ inline void quant_words(const kiln_u8 *stored, unsigned part, unsigned (&words)[4 * Format<F>::words]) {
    const kiln_u8 *lows = stored + Stored<F>::lows;
#pragma unroll
    for (int i = 0; i < 4 * Format<F>::words; i++) {
        if constexpr (Format<F>::is_k) {
            const unsigned run = F == KILN_Q6_K ? part / 4 * 64 + part % 2 * 32 : part / 2 * 32;
            const unsigned shift = F == KILN_Q6_K ? part % 4 / 2 * 4 : part % 2 * 4;
            const unsigned low = word_at(lows + run + 4 * i) >> shift, high = word_at(lows + run + 16 + 4 * i) >> shift;
            words[i] = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
        } else {
            words[i] = word_at(lows + 4 * i);
        }
    }
}

// Its words of the highs plane.
template <int F> __device__ inline void high_words(const kiln_u8 *stored, unsigned part, unsigned (&words)[2]) {
    const kiln_u8 *highs = stored + Stored<F>::highs;
    if constexpr (F == KILN_Q5_0 || F == KILN_Q5_1) words[0] = word_at(highs);
    if constexpr (F == KILN_Q5_K) {
#pragma unroll
        for (int i = 0; i < 8; i++) words[0] |= gather_bits(word_at(highs + 4 * i) >> part) << (4 * i);
    }
    if constexpr (F == KILN_Q6_K) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            words[i / 4] |= gather_pairs(word_at(highs + part / 4 * 32 + 4 * i) >> (part % 4 * 2)) << (8 * (i % 4));
        }
    }
}

template <int F> __device__ inline void repack_integers(const KilnMatrix &m, size_t at, unsigned lane, const kiln_u8 *row, unsigned block) {
    constexpr unsigned PER_STORED = Format<F>::is_k ? 8 : 1;
    const unsigned part = block % PER_STORED;
    const kiln_u8 *stored = row ? row + (size_t)(block / PER_STORED) * Stored<F>::bytes : nullptr;
    unsigned words[4 * Format<F>::words] = {};
    unsigned highs[2] = {};
    if (stored) {
        quant_words<F>(stored, part, words);
        high_words<F>(stored, part, highs);
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
