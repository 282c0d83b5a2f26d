// What happens to rows between linears: embedding, addition and RMSNorm, quantisation, the end of Qkv, and copies of cache blocks.
//
//   embed       residual[row][i] = table[token[row]][i] * scale
//   norm        r' = r + delta (post-normed first);  out = r' / sqrt(mean(r'^2) + eps) * weight, as f32 and as int8 blocks
//   quantise    d = max|x| / 127, q = rint(x / d) for every 32 values (cuda/common.cuh)
//   finish_qkv  x + bias, normed per head, pairs turned by position * inv_freq; keys and values rounded to f16, or by heads to int8, into the cache
//   copy_blocks cache[to] = cache[from]
//
// Shapes: rows are [row][cols] f32; int8 blocks [row][block][32] with 16 bytes of scales each; the cache as in KilnCache.
// Requires: launches as said at each kernel; sums have one order for every number of threads (cuda/norm.cuh).
// Bytes: embed reads one row's blocks of the table; norm 16 per element and 1.5 for the int8 blocks; finish_qkv 8 per query element, 6 per
// key and value; copy_blocks twice a cache block. These kernels wait, they do not stream.
// Source: RMSNorm, Zhang and Sennrich 2019; RoPE, Su et al. 2021, in both pairings.

#include "blocks.cuh"
#include "cache.cuh"
#include "norm.cuh"

using namespace kiln;

// Grid: rows; the table's row is gathered from its tile.
extern "C" __global__ void __launch_bounds__(256) kiln_embed(const __grid_constant__ KilnEmbedParams p) {
    const unsigned row = blockIdx.x;
    if (row >= p.step->num_rows) return;
    unsigned token = p.rows[row].token;
    if (token & KILN_LAST_SAMPLED) token = (unsigned)p.last_sampled[token & ~KILN_LAST_SAMPLED];
    const unsigned tile = token / KILN_TILE_ROWS, lane = token % KILN_TILE_ROWS;
    float *out = p.residual + (size_t)row * p.cols;
    dispatch_format(p.table.format, [&](auto format) {
        constexpr int F = decltype(format)::value;
        for (unsigned block = threadIdx.x; block < p.table.blocks; block += blockDim.x) {
            StoredBlock<F> stored[1];
            BlockCursor<F>(p.table, tile, block, lane).load(stored);
            const StoredBlock<F> &s = stored[0];
            unsigned words[8];
            if constexpr (!Format<F>::is_float) unpack_words<F>(s, words);
#pragma unroll
            for (int i = 0; i < KILN_BLOCK; i++) {
                const unsigned column = block * KILN_BLOCK + i;
                float weight;
                if constexpr (Format<F>::is_float) {
                    weight = float_weight<F>(s, i);
                } else {
                    const int q = (int)(signed char)(words[i / 4] >> (8 * (i % 4))) - Format<F>::offset;
                    weight = (block_scale<F>(s) * (float)sub_scale<F>(s, i / 16)) * (float)q;
                    if constexpr (Format<F>::has_min) weight += block_min<F>(s);
                }
                if (column < p.cols) out[column] = weight * p.scale;
            }
        }
    });
}

// Grid: rows; 256 threads.
extern "C" __global__ void __launch_bounds__(KILN_NORM_THREADS) kiln_norm(const __grid_constant__ KilnNormParams p) {
    __shared__ float sums[NORM_WARPS];
    wait_for_predecessor();
    const unsigned out_row = blockIdx.x;
    if (out_row >= row_count(p.step, p.logit_rows != nullptr)) return;
    const unsigned row = p.logit_rows ? p.logit_rows[out_row] : out_row;
    float *residual = p.residual_out + (size_t)row * p.cols;
    add_norm(
        p, row, sums,
        [&](unsigned i, float x) {
            if (p.delta) residual[i] = x;
        },
        [&](unsigned i) { return residual[i]; },
        [&](unsigned block, unsigned i, float x) {
            p.out.values[(size_t)out_row * p.out.blocks * KILN_BLOCK + i] = x;
            quantise_block(x, p.out, out_row, block);
        });
}

// Int8 blocks of rows that the host wrote. Grid: rows.
extern "C" __global__ void __launch_bounds__(256) kiln_quantise(const __grid_constant__ KilnQuantiseParams p) {
    wait_for_predecessor();
    const unsigned row = blockIdx.x;
    for (unsigned block = warp_id(); block < p.rows.blocks; block += blockDim.x / 32) {
        const unsigned i = block * KILN_BLOCK + lane_id();
        quantise_block(i < p.cols ? p.rows.values[(size_t)row * p.rows.blocks * KILN_BLOCK + i] : 0.0f, p.rows, row, block);
    }
}

namespace kiln {

// Rounds a key or value into the cache; the whole warp must call.
__device__ inline void keep_head(const CachePlace &place, const float *x) {
    const unsigned lane = lane_id(), head_dim = place.c.head_dim;
    if (!place.c.is_int8) {
// Unrolled, ptxas spills a register for 9.0.
#pragma unroll 1
        for (unsigned i = lane; i < head_dim; i += 32) place.elements<kiln_u16>()[i] = cached_f16(x[i]);
        return;
    }
    unsigned amax_bits = 0;
    for (unsigned i = lane; i < head_dim; i += 32) amax_bits = max(amax_bits, __float_as_uint(x[i]) & 0x7fffffffu);
    const HeadQuantiser quantiser(__reduce_max_sync(FULL, amax_bits));
    for (unsigned i = lane; i < head_dim; i += 32) place.elements<kiln_i8>()[i] = quantiser.integer(x[i]);
    if (lane == 0) *place.scale() = quantiser.scale;
}

}  // namespace kiln

// Bias, per-head norm and RoPE, one warp per head; keys and values are rounded into the cache. Grid: rows; 128 threads.
extern "C" __global__ void __launch_bounds__(128) kiln_finish_qkv(const __grid_constant__ KilnFinishQkvParams p) {
    __shared__ float heads[4][KILN_HEAD_DIM_MAX];
    wait_for_predecessor();
    const unsigned row = blockIdx.x;
    if (row >= p.step->num_rows) return;
    const KilnRow info = p.rows[row];
    const unsigned lane = lane_id(), total = p.heads + 2 * p.kv_heads;
    float *x = heads[warp_id()];
    for (unsigned head = warp_id(); head < total; head += 4) {
        const unsigned part = head < p.heads ? 0 : head < p.heads + p.kv_heads ? 1 : 2;
        const unsigned index = part == 0 ? head : head - p.heads - (part == 2 ? p.kv_heads : 0);
        float *values = p.qkv + ((size_t)row * total + head) * p.cache.head_dim;
        const float *bias = p.biases[part] ? p.biases[part] + index * p.cache.head_dim : nullptr;
        float squares = 0.0f;
        for (unsigned i = lane; i < p.cache.head_dim; i += 32) {
            x[i] = bias ? values[i] + bias[i] : values[i];
            squares = fmaf(x[i], x[i], squares);
        }
        if (part < 2 && p.norms[part]) {
            const float scale = norm_scale(warp_sum(squares), p.cache.head_dim, p.eps);
            for (unsigned i = lane; i < p.cache.head_dim; i += 32) x[i] = x[i] * scale * p.norms[part][i];
        }
        __syncwarp();
        if (part < 2) {
            const unsigned half = p.rotary_dims / 2;
            const float *cosines = p.cosines + (size_t)info.position * half, *sines = p.sines + (size_t)info.position * half;
            for (unsigned i = lane; i < half; i += 32) {
                const unsigned first = p.adjacent ? 2 * i : i, second = p.adjacent ? 2 * i + 1 : i + half;
                const float a = x[first], b = x[second], c = cosines[i], s = sines[i];
                x[first] = rotated_first(a, b, c, s);
                x[second] = rotated_second(a, b, c, s);
            }
            __syncwarp();
        }
        if (part == 0) {
            for (unsigned i = lane; i < p.cache.head_dim; i += 32) values[i] = x[i];
        } else {
            keep_head(CachePlace(p.cache, info.seq, info.position, index, part == 2), x);
        }
        __syncwarp();
    }
}

// Whole cache blocks, all layers. Grid: pairs x slices; 16 bytes per thread and step.
extern "C" __global__ void __launch_bounds__(256) kiln_copy_blocks(const __grid_constant__ KilnCopyBlocksParams p) {
    const kiln_u32 from = p.pairs[2 * blockIdx.x], to = p.pairs[2 * blockIdx.x + 1];
    const uint4 *source = (const uint4 *)(p.cache + from * p.block_stride);
    uint4 *target = (uint4 *)(p.cache + to * p.block_stride);
    for (size_t i = (size_t)blockIdx.y * blockDim.x + threadIdx.x; i < p.block_stride / 16; i += (size_t)gridDim.y * blockDim.x) {
        target[i] = source[i];
    }
}
