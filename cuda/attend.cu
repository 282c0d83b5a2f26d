// Causal (or windowed) attention over the paged cache: out = softmax(q k^T) v, prompt and decode rows alike.
//
// A CTA takes up to 16 (token, query head) pairs of one sequence and one KV head, the 16 rows of an mma tile, and walks segments of 256
// keys at absolute positions. Per segment: each of four warps makes the scores of 64 keys; the segment's maximum is taken over all; weights
// go to shared memory; each warp then sums a quarter of the head's dimensions over all keys. Segments are folded in ascending order as
// (maximum, sum of weights, weighted sum). A decode row's segments may go to different CTAs: the last to finish folds them in the same
// order with the same operations, so the bits do not depend on who did what (row invariance), nor on a second launch.
//
// Queries and weights are split into two f16 numbers each, so that scores and outputs are as exact as f32 arithmetic would have them, where keys
// and values are f16 in the cache. exp is 2^x with log2(e) in the scale.
//
// Of an int8 cache, scores are scale_k (q . k) and outputs the sum of (weight scale_v) v. The integers k are exact in f16, and v in bf16, which is what
// the weights are split into then: their products with the scales may be smaller than f16 can say. 17 bits are left of them, 500 times finer
// than the steps of v.
//
// Keys go from the cache straight into registers: a lane's 16 bytes are eight dimensions of one key, and because a dot product does not
// care for the order of its terms, the queries' fragments are permuted to match. Values need a transposition (ldmatrix.trans), so each
// warp copies its dimensions to shared memory, 32 keys at a time, two copies ahead. Bytes are transposed in pairs: even dimensions go to one tile
// of the output, odd ones to the next.
//
// Bytes: every key and value once per 16 pairs. Requires: head_dim a multiple of 16 bytes, at most HD; block_tokens a multiple of 16.

#include <type_traits>

#include "cache.cuh"
#include "mma.cuh"

namespace kiln {

constexpr unsigned SEGMENT = KILN_ATTEND_SEGMENT, PAIRS = KILN_ATTEND_PAIRS, WARPS = KILN_ATTEND_THREADS / 32;
constexpr unsigned WARP_KEYS = SEGMENT / WARPS, VALUE_KEYS = 32;

// T is what the cache holds. Its values meet weights of this type.
template <typename T> constexpr bool is_int8 = sizeof(T) == 1;
template <typename T> using Weight = std::conditional_t<is_int8<T>, __nv_bfloat16, __half>;

template <int HD, typename T> struct AttendShared {
    // 64 bytes off a multiple of 128: two rows side by side fill all banks.
    static constexpr unsigned QUERY_STRIDE = HD + (HD % 64 == 0 ? 32 : 0);
    // An odd number of 16-byte chunks: eight rows fall on eight different groups of banks.
    static constexpr unsigned CHUNK = 16 / sizeof(T), WARP_DIMS = HD / WARPS, VALUE_STRIDE = (WARP_DIMS / CHUNK | 1) * CHUNK;
    // High and low halves of the split.
    __half queries[2][PAIRS][QUERY_STRIDE];
    union {
        Weight<T> weights[2][PAIRS][SEGMENT + 8];
        // Eight floats off a multiple of 32: a quarter warp's pairs of four rows fill all banks.
        float outputs[PAIRS][HD + 8];
    };
    T values[WARPS][2][VALUE_KEYS][VALUE_STRIDE];
    float maxima[WARPS][PAIRS];
    float sums[WARPS][PAIRS];
    bool is_last;
};

// x as the sum of two f16 numbers, 21 bits or more of it, or of two bf16 numbers, 16 bits or more.
__device__ inline void split(float x, __half &high, __half &low) {
    high = __float2half_rn(x);
    low = __float2half_rn(x - __half2float(high));
}
__device__ inline void split(float x, __nv_bfloat16 &high, __nv_bfloat16 &low) {
    high = __float2bfloat16_rn(x);
    low = __float2bfloat16_rn(x - __bfloat162float(high));
}

// What a segment or several leave of two pairs: rows g and g + 8 of the tile. The maximum and sum are the same in all four lanes of a quad.
template <int TILES> struct State {
    float max[2], sum[2];
    // [8 dimensions][element of the mma fragment]
    float out[TILES][4];

    __device__ void clear() {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (int n = 0; n < TILES; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
    }

    // Adds the state of later keys.
    __device__ void fold(const State &next) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // Nothing was visible: identity. Scores that are all NaN have no maximum either, but a sum of NaN.
            if (next.max[half] == -INFINITY && next.sum[half] == 0.0f) continue;
            const float both = fmaxf(max[half], next.max[half]);
            const float before = exp2f(max[half] - both), after = exp2f(next.max[half] - both);
            max[half] = both;
            sum[half] = fmaf(sum[half], before, next.sum[half] * after);
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) out[n][i] = fmaf(out[n][i], before, next.out[n][i] * after);
            }
        }
    }
};

template <int HD, typename T> struct Attend {
    using Shared = AttendShared<HD, T>;
    static constexpr int TILES = HD / 8 / WARPS, CHUNKS = HD / 32;
    const KilnAttendParams &p;
    const KilnAttendItem &item;
    Shared &s;
    unsigned kv_head, group, warp, lane, g, t;
    // Positions of the fragment's two pairs, or none; the last key that any pair sees.
    int position[2], last_key;

    __device__ unsigned batch_row(unsigned pair) const { return item.row_start + (item.pair_start + pair) / group; }
    __device__ unsigned query_head(unsigned pair) const { return kv_head * group + (item.pair_start + pair) % group; }

    // Whole runs of 8 keys lie in one block.
    __device__ CachePlace place(unsigned key, bool value) const { return CachePlace(p.cache, item.seq, key, kv_head, value); }

    // Of an even key and the next one; zeros beyond the last, where there may be anything.
    __device__ float2 scales(unsigned key, bool value) const {
        if ((int)key > last_key) return make_float2(0.0f, 0.0f);
        const float2 both = *(const float2 *)place(key, value).scale();
        return make_float2(both.x, (int)key < last_key ? both.y : 0.0f);
    }

    // The fragment's dimension of the warp's that element i of tile n is.
    __device__ unsigned dimension(int n, int i) const {
        return is_int8<T> ? 8 * (n / 2 * 2) + 4 * t + 2 * (i % 2) + n % 2 : 8 * n + 2 * t + i % 2;
    }

    __device__ void load_queries() {
        for (unsigned i = threadIdx.x; i < PAIRS * HD; i += KILN_ATTEND_THREADS) {
            const unsigned pair = i / HD, dim = i % HD;
            float x = 0.0f;
            if (pair < item.pairs && dim < p.cache.head_dim) {
                x = p.query[(size_t)batch_row(pair) * p.query_stride + query_head(pair) * p.cache.head_dim + dim] * p.scale_log2;
            }
            // Beyond f16 the parts are infinite with opposite signs, and all of the pair's scores NaN.
            split(x, s.queries[0][pair][dim], s.queries[1][pair][dim]);
        }
        last_key = -1;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned pair = g + 8 * half;
            position[half] = pair < item.pairs ? (int)p.rows[batch_row(pair)].position : -1;
        }
        last_key = (int)p.rows[batch_row(item.pairs - 1)].position;
        __syncthreads();
    }

    // Scores of the warp's 64 keys, masked: fragment element i of key tile n is pair g + 8 (i / 2), key 8 n + 2 t + i % 2.
    __device__ void scores(unsigned key_start, float (&score)[WARP_KEYS / 8][4]) const {
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n++) score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const unsigned dim = 32 * chunk + 8 * t;
            uint4 keys[WARP_KEYS / 8];
#pragma unroll
            for (int n = 0; n < WARP_KEYS / 8; n++) {
                const unsigned key = key_start + 8 * n + g;
                keys[n] = make_uint4(0, 0, 0, 0);
                if ((int)key > last_key || dim >= p.cache.head_dim) continue;
                const T *eight = place(key, false).template elements<T>() + dim;
                if constexpr (is_int8<T>) {
                    keys[n] = bytes_to_f16(*(const uint2 *)eight);
                } else {
                    keys[n] = *(const uint4 *)eight;
                }
            }
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint4 upper = *(const uint4 *)&s.queries[part][g][dim], lower = *(const uint4 *)&s.queries[part][g + 8][dim];
                const unsigned even[4] = {upper.x, lower.x, upper.y, lower.y}, odd[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
                for (int n = 0; n < WARP_KEYS / 8; n++) {
                    mma_f16(score[n], even, keys[n].x, keys[n].y);
                    mma_f16(score[n], odd, keys[n].z, keys[n].w);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n++) {
            if constexpr (is_int8<T>) {
                const float2 scale = scales(key_start + 8 * n + 2 * t, false);
#pragma unroll
                for (int i = 0; i < 4; i++) score[n][i] *= i % 2 ? scale.y : scale.x;
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = key_start + 8 * n + 2 * t + i % 2, at = position[i / 2];
                const bool visible = key <= at && (unsigned)(at - key) < p.window;
                if (!visible) score[n][i] = -INFINITY;
            }
        }
    }

    // Starts copying the warp's dimensions of 32 values.
    __device__ void copy_values(unsigned key_start, unsigned buffer) {
        constexpr unsigned PER_KEY = Shared::WARP_DIMS / Shared::CHUNK;
        for (unsigned i = lane; i < VALUE_KEYS * PER_KEY; i += 32) {
            // Eight lanes copy the same part of eight keys: different banks. The next ones complete the keys' sectors.
            const unsigned index = i / (8 * PER_KEY) * 8 + i % 8, part = Shared::CHUNK * (i / 8 % PER_KEY);
            const unsigned key = key_start + index, dim = warp * Shared::WARP_DIMS + part;
            // What lies beyond the sequence may be anything: zeros, so that a weight of zero makes nothing of it.
            const bool present = (int)key <= last_key && dim < p.cache.head_dim;
            const void *source = present ? (const void *)(place(key, true).template elements<T>() + dim) : p.cache.data;
            copy_async(&s.values[warp][buffer][index][part], source, present);
        }
        copy_commit();
    }

    __device__ void segment(unsigned index, State<TILES> &state) {
        state.clear();
        const unsigned segment_start = index * SEGMENT;
        copy_values(segment_start, 0);
        float score[WARP_KEYS / 8][4];
        scores(segment_start + warp * WARP_KEYS, score);
        float2 value_scale[is_int8<T> ? WARP_KEYS / 8 : 1];
        if constexpr (is_int8<T>) {
#pragma unroll
            for (int n = 0; n < WARP_KEYS / 8; n++) value_scale[n] = scales(segment_start + warp * WARP_KEYS + 8 * n + 2 * t, true);
        }
        float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) max[i / 2] = fmaxf(max[i / 2], score[n][i]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            max[half] = fmaxf(max[half], __shfl_xor_sync(FULL, max[half], 1));
            max[half] = fmaxf(max[half], __shfl_xor_sync(FULL, max[half], 2));
            if (t == 0) s.maxima[warp][g + 8 * half] = max[half];
        }
        __syncthreads();
        float shift[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float m = s.maxima[0][g + 8 * half];
#pragma unroll
            for (int w = 1; w < WARPS; w++) m = fmaxf(m, s.maxima[w][g + 8 * half]);
            state.max[half] = m;
            shift[half] = m == -INFINITY ? 0.0f : m;
        }
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                std::conditional_t<is_int8<T>, __nv_bfloat162, __half2> high, low;
                float x = exp2f(score[n][2 * half] - shift[half]), y = exp2f(score[n][2 * half + 1] - shift[half]);
                sum[half] += x;
                sum[half] += y;
                if constexpr (is_int8<T>) {
                    x *= value_scale[n].x;
                    y *= value_scale[n].y;
                }
                split(x, high.x, low.x);
                split(y, high.y, low.y);
                const unsigned key = warp * WARP_KEYS + 8 * n + 2 * t;
                *(decltype(high) *)&s.weights[0][g + 8 * half][key] = high;
                *(decltype(low) *)&s.weights[1][g + 8 * half][key] = low;
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            sum[half] += __shfl_xor_sync(FULL, sum[half], 1);
            sum[half] += __shfl_xor_sync(FULL, sum[half], 2);
            if (t == 0) s.sums[warp][g + 8 * half] = sum[half];
        }
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            state.sum[half] = s.sums[0][g + 8 * half];
#pragma unroll
            for (int w = 1; w < WARPS; w++) state.sum[half] += s.sums[w][g + 8 * half];
        }
        weighted_values(segment_start, state);
        // The weights and maxima are read by all before the next segment writes them.
        __syncthreads();
    }

    __device__ void weighted_values(unsigned segment_start, State<TILES> &state) {
        unsigned buffer = 0;
        for (unsigned key = 0; key < SEGMENT; key += VALUE_KEYS) {
            // Keys that nobody sees would add zeros.
            if ((int)(segment_start + key) > last_key) break;
            if (key + VALUE_KEYS < SEGMENT) {
                copy_values(segment_start + key + VALUE_KEYS, buffer ^ 1);
                copy_wait<1>();
            } else {
                copy_wait<0>();
            }
            __syncwarp();
#pragma unroll
            for (unsigned k = 0; k < VALUE_KEYS; k += 16) {
                unsigned weights[2][4];
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    load_matrices(weights[part], &s.weights[part][lane % 16][key + k + lane / 16 * 8]);
                }
#pragma unroll
                for (int n = 0; n < TILES; n += is_int8<T> ? 2 : 1) {
                    unsigned values[2];
                    load_matrices_transposed(values, &s.values[warp][buffer][k + lane % 16][8 * n]);
                    if constexpr (is_int8<T>) {
                        const unsigned even[2] = {bytes_to_bf16<false>(values[0]), bytes_to_bf16<false>(values[1])};
                        const unsigned odd[2] = {bytes_to_bf16<true>(values[0]), bytes_to_bf16<true>(values[1])};
#pragma unroll
                        for (int part = 0; part < 2; part++) {
                            mma_bf16(state.out[n], weights[part], even[0], even[1]);
                            mma_bf16(state.out[n + 1], weights[part], odd[0], odd[1]);
                        }
                    } else {
                        mma_f16(state.out[n], weights[0], values[0], values[1]);
                        mma_f16(state.out[n], weights[1], values[0], values[1]);
                    }
                }
            }
            __syncwarp();
            buffer ^= 1;
        }
        copy_wait<0>();
    }

    __device__ float *part_state(unsigned part, unsigned pair) const {
        return p.parts + (((size_t)part * p.kv_heads + kv_head) * PAIRS + pair) * (HD + 2);
    }

    // Calls body(pair, dimension, element) for the warp's elements of a state.
    template <typename Body> __device__ void each(State<TILES> &state, Body &&body) const {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) body(g + 8 * (i / 2), warp * Shared::WARP_DIMS + dimension(n, i), state.out[n][i]);
        }
    }

    // Leaves this part's state in global memory. The last part to do so folds all of them; true for it.
    __device__ bool combine(State<TILES> &state) {
        each(state, [&](unsigned pair, unsigned dim, float &x) { part_state(item.part, pair)[dim] = x; });
        if (warp == 0 && t == 0) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                part_state(item.part, g + 8 * half)[HD] = state.max[half];
                part_state(item.part, g + 8 * half)[HD + 1] = state.sum[half];
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            // After the barrier, so that it covers what the other threads wrote.
            __threadfence();
            kiln_u32 *counter = p.counters + (size_t)item.counter * p.kv_heads + kv_head;
            // Wraps to 0: ready for the next launch.
            s.is_last = atomicInc(counter, item.parts - 1) == item.parts - 1;
            __threadfence();
        }
        __syncthreads();
        if (!s.is_last) return false;
        state.clear();
        for (unsigned part = item.part_start; part < item.part_start + item.parts; part++) {
            State<TILES> next;
            each(next, [&](unsigned pair, unsigned dim, float &x) { x = __ldcg(part_state(part, pair) + dim); });
#pragma unroll
            for (int half = 0; half < 2; half++) {
                next.max[half] = __ldcg(part_state(part, g + 8 * half) + HD);
                next.sum[half] = __ldcg(part_state(part, g + 8 * half) + HD + 1);
            }
            state.fold(next);
        }
        return true;
    }

    __device__ void finish(State<TILES> &state) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float sum = state.sum[half], x = state.out[n][2 * half] / sum, y = state.out[n][2 * half + 1] / sum;
                float *outputs = &s.outputs[g + 8 * half][warp * Shared::WARP_DIMS];
                if constexpr (is_int8<T>) {
                    outputs[dimension(n, 0)] = x;
                    outputs[dimension(n, 1)] = y;
                } else {
                    *(float2 *)&outputs[dimension(n, 0)] = make_float2(x, y);
                }
            }
        }
        __syncthreads();
        const unsigned blocks = (p.cache.head_dim + 31) / 32, width = p.out.blocks * KILN_BLOCK;
        for (unsigned i = warp; i < item.pairs * blocks; i += WARPS) {
            const unsigned pair = i / blocks, dim = i % blocks * KILN_BLOCK + lane, row = batch_row(pair);
            const unsigned element = query_head(pair) * p.cache.head_dim + dim;
            if (dim < p.cache.head_dim) p.out.values[(size_t)row * width + element] = s.outputs[pair][dim];
            // Heads of other sizes share blocks: the host quantises them afterwards.
            if (p.cache.head_dim % KILN_BLOCK == 0) quantise_block(s.outputs[pair][dim], p.out, row, element / KILN_BLOCK);
        }
    }

    __device__ void run() {
        load_queries();
        State<TILES> total, next;
        total.clear();
        for (unsigned i = 0; i < item.segment_count; i++) {
            segment(item.segment_start + i, next);
            total.fold(next);
        }
        if (item.parts > 1 && !combine(total)) return;
        finish(total);
    }
};

}  // namespace kiln

// Grid: {any number, KV heads}: CTAs take the step's items in turn; 128 threads; dynamic shared memory AttendShared<HD, T>.
#define KILN_ATTEND(NAME, HD, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(KILN_ATTEND_THREADS, 2) kiln_attend_##NAME(                                 \
        const __grid_constant__ KilnAttendParams p) {                                                                        \
        extern __shared__ __align__(128) unsigned char memory[];                                                             \
        kiln::wait_for_predecessor();                                                                                        \
        const unsigned items = p.step->num_attend_items, lane = kiln::lane_id();                                             \
        for (unsigned item = blockIdx.x; item < items; item += gridDim.x) {                                                  \
            kiln::Attend<HD, T> attend{p,                                                                                    \
                                    p.items[item],                                                                           \
                                    *(kiln::AttendShared<HD, T> *)memory,                                                    \
                                    blockIdx.y,                                                                              \
                                    p.heads / p.kv_heads,                                                                    \
                                    kiln::warp_id(),                                                                         \
                                    lane,                                                                                    \
                                    lane / 4,                                                                                \
                                    lane % 4,                                                                                \
                                    {},                                                                                      \
                                    0};                                                                                      \
            attend.run();                                                                                                    \
            /* What this item read from shared memory is read before the next one writes it. */                              \
            __syncthreads();                                                                                                 \
        }                                                                                                                    \
    }

KILN_ATTEND(32, 32, kiln_u16)
KILN_ATTEND(64, 64, kiln_u16)
KILN_ATTEND(96, 96, kiln_u16)
KILN_ATTEND(128, 128, kiln_u16)
KILN_ATTEND(256, 256, kiln_u16)
KILN_ATTEND(int8_64, 64, kiln_i8)
KILN_ATTEND(int8_128, 128, kiln_i8)
KILN_ATTEND(int8_256, 256, kiln_i8)
