// What the linear kernels share: a lane's part of a dot product, and what happens to an output element.
#pragma once

#include "cache.cuh"
#include "halves.cuh"
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
enum class Formats { ALL, F32, INTEGERS };
template <Formats FORMATS, int F> constexpr bool has_format =
    FORMATS == Formats::ALL || (FORMATS == Formats::F32 ? F == KILN_F32 : !Format<F>::is_float);

// sum + the products of four unsigned and four signed bytes.
__device__ inline int dot_unsigned(unsigned weights, unsigned activations, int sum) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(weights), "r"(activations));
    return sum;
}

// The exact sum of a block's stored integers times activations, with Format::offset subtracted from each integer, and times sub-scales.
template <int F> __device__ inline int dot_product(const StoredBlock<F> &s, const uint4 &low, const uint4 &high, const KilnActivationScale &a) {
    const unsigned x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if constexpr (Format<F>::is_nibbles) {
        // High nibbles stay where they are, so that their sum is sixteen times too large.
        const unsigned q[4] = {s.quants[0].x, s.quants[0].y, s.quants[0].z, s.quants[0].w};
        int dot = -Format<F>::offset * (a.sum_low + a.sum_high), dot16 = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot = dot_unsigned(q[i] & 0x0f0f0f0fu, x[i], dot);
            dot16 = dot_unsigned(q[i] & 0xf0f0f0f0u, x[4 + i], dot16);
        }
        return dot + (dot16 >> 4);
    } else {
        unsigned w[8];
        unpack_words<F>(s, w);
        int dot_low = -Format<F>::offset * a.sum_low, dot_high = -Format<F>::offset * a.sum_high;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot_low = __dp4a((int)w[i], (int)x[i], dot_low);
            dot_high = __dp4a((int)w[4 + i], (int)x[4 + i], dot_high);
        }
        return sub_scale<F>(s, 0) * dot_low + sub_scale<F>(s, 1) * dot_high;
    }
}

// Adds block `block` of the lane's row times ROWS input rows to `sums`.
template <int F, int ROWS, typename Input>
__device__ inline void add_block(const StoredBlock<F> &s, const Input &x, unsigned rows, unsigned block, float (&sums)[ROWS]) {
    static_assert(!Format<F>::is_half, "these are for tensor cores");
    if constexpr (F == KILN_F32) {
        // The check stands inside: outside, the loads of many columns are moved up, and some architectures spill.
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int i = 0; i < KILN_BLOCK / 4; i++) {
                if (ROWS > 1 && r >= rows) break;
                const float4 v = x.values(r, block)[i];
                const float column[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; j++) sums[r] = fmaf(float_weight<F>(s, 4 * i + j), column[j], sums[r]);
            }
        }
    } else {
        const float scale = block_scale<F>(s), minimum = block_min<F>(s);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (ROWS > 1 && r >= rows) break;
            const KilnActivationScale a = x.scale(r, block);
            const int dot = dot_product<F>(s, x.quants(r, block)[0], x.quants(r, block)[1], a);
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
        if constexpr (!has_format<FORMATS, F>) {
            return;
        } else if constexpr (Format<F>::is_half) {
            half_segment_sums<F>(m, tile, start, end, x, rows, sums);
        } else {
            // Of one or two rows, loads of several blocks are in flight before the first is used.
            constexpr int DEPTH = Format<F>::is_float || ROWS > 2 ? 1 : 4;
            BlockCursor<F> cursor(m, tile, start, lane_id());
            auto add = [&](auto &&blocks) {
                constexpr int COUNT = sizeof(blocks) / sizeof(blocks[0]);
                cursor.load(blocks);
#pragma unroll
                for (int i = 0; i < COUNT; i++) add_block<F, ROWS>(blocks[i], x, rows, cursor.block + i, sums);
                cursor.advance(COUNT);
            };
#pragma unroll 1
            while (cursor.block + DEPTH <= end) {
                StoredBlock<F> blocks[DEPTH];
                add(blocks);
            }
#pragma unroll 1
            while (cursor.block < end) {
                StoredBlock<F> block[1];
                add(block);
            }
        }
    });
}

// Ends output element `lane` of a tile of a linear that is not gated. The whole warp must call.
__device__ inline void end_stored(const KilnLinearParams &p, size_t row, unsigned matrix, unsigned tile, float total) {
    const unsigned element = tile * KILN_TILE_ROWS + lane_id();
    const bool inside = element < p.matrices[matrix].rows;
    if (p.epilogue == KILN_QKV) {
        const KilnRow info = p.qkv.rows[row];
        const unsigned head = element / p.qkv.cache.head_dim, dim = element % p.qkv.cache.head_dim, half = p.qkv.rotary_dims / 2;
        float x = inside && p.qkv.biases[matrix] ? total + p.qkv.biases[matrix][element] : total;
        // Pairs are neighbours: a head has an even number of rows, a tile too.
        const float other = __shfl_xor_sync(FULL, x, 1);
        if (matrix < 2 && dim < p.qkv.rotary_dims) {
            const size_t at = (size_t)info.position * half + dim / 2;
            const float c = p.qkv.cosines[at], s = p.qkv.sines[at];
            x = dim % 2 == 0 ? rotated_first(x, other, c, s) : rotated_second(other, x, c, s);
        }
        if (inside && matrix > 0) {
            const CachePlace place(p.qkv.cache, info.seq, info.position, head, matrix == 2);
            place.elements<kiln_u16>()[dim] = cached_f16(x);
        }
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
