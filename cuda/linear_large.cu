// Matrix-matrix products for prompts and larger batches: out[row] = W . x[row] on tensor cores.
//
// A CTA takes two tiles of 32 matrix rows and 64 batch rows; each of four warps takes one tile and 32 batch rows. Weights stay in their stored
// form until they are in registers: a lane unpacks just the bytes of its mma fragment (cuda/abi.h orders them so). One mma of k = 32 is the exact
// integer dot product of a block, so that
//     a = fma(float(idot), dw * da, a);   with a minimum: a = fma(m, sa, a)
// and the ascending order of blocks, and then of segments, give the bits of the matrix-vector kernel and of every other device.
//
// Weights and activations arrive by cp.async, four blocks of K per stage (of 16-bit floats two), three stages deep. Shared memory is read without
// bank conflicts: a fragment's words of eight weight rows are 128 consecutive bytes, int8 activation rows are 48 bytes apart, and pieces of floats
// are swizzled.
//
// Matrices of 16-bit floats are multiplied by the instructions of halves.cuh, those of f32 are summed by fma in the order of their columns, both with
// the bits of the matrix-vector kernel.
//
// Bytes: weights once per 64 batch rows, activations once per 64 matrix rows. Requires: the input rows as int8 blocks, or as f32.

#include "linear.cuh"

namespace kiln {

constexpr unsigned SLOTS = 2, LARGE_ROWS = 64, LARGE_THREADS = 128, WARP_ROWS = 32;
constexpr unsigned STAGES = 3, STAGE_BLOCKS = 4, INPUT_STRIDE = 48, TILE_BYTES_MAX = STAGE_BLOCKS * (1024 + 64);
constexpr unsigned HALF_STAGE_BLOCKS = 2, HALF_TILE_BYTES = 2048;
static_assert(HALF_STAGE_BLOCKS * HALF_TILE_BYTES <= TILE_BYTES_MAX, "a tile fits its stage");

struct IntegerInput {
    __align__(16) kiln_i8 quants[LARGE_ROWS][INPUT_STRIDE];
    __align__(16) KilnActivationScale scales[LARGE_ROWS];
    // Neighbouring threads copy a row's four blocks: these are 32 bytes off a multiple of 128 apart, and so in different banks.
    unsigned char pad[32];
};

// Piece i of a row lies at i ^ (row % 2): a quarter of a warp reads every second piece of two rows.
struct FloatInput {
    float4 pieces[LARGE_ROWS][KILN_BLOCK / 4];
    KilnActivationScale scales[LARGE_ROWS];
};

struct LargeStage {
    __align__(16) unsigned char tiles[SLOTS][TILE_BYTES_MAX];
    union {
        IntegerInput integers[STAGE_BLOCKS];
        FloatInput floats[HALF_STAGE_BLOCKS];
    };
};

union LargeShared {
    LargeStage stages[STAGES];
    // The tiles' sums, rows padded so that an mma fragment, eight columns of every second of eight rows, falls on 32 banks.
    float outputs[SLOTS][LARGE_ROWS][KILN_TILE_ROWS + 4];
};

// Where a tile's planes lie in a stage.
template <int F> struct TileLayout {
    static constexpr unsigned scale_bytes = F == KILN_Q4_1 || F == KILN_Q5_1 ? 4 : 2;
    static constexpr unsigned super_bytes = F == KILN_Q6_K ? 2 : Format<F>::is_k ? 4 : 0;
    // Bytes per block.
    static constexpr unsigned quants = Format<F>::words * 16 * KILN_TILE_ROWS;
    static constexpr unsigned highs = Format<F>::high_bytes * KILN_TILE_ROWS;
    static constexpr unsigned scales = scale_bytes * KILN_TILE_ROWS;
    static constexpr unsigned highs_at = STAGE_BLOCKS * quants;
    static constexpr unsigned scales_at = highs_at + STAGE_BLOCKS * highs;
    static constexpr unsigned supers_at = scales_at + STAGE_BLOCKS * scales;
    static_assert(Format<F>::is_float || supers_at + super_bytes * KILN_TILE_ROWS <= TILE_BYTES_MAX, "a tile fits its stage");
};

struct LargeWarp {
    const KilnLinearParams &p;
    LargeShared &s;
    const KilnMatrix &matrix;
    unsigned slot, tile, half, row_start, rows, lane, g, t;
    // Which pipelines the CTA runs: those that one of its slots needs, and the other keeps company.
    bool any_integers, any_halves;

    __device__ unsigned blocks() const { return p.input.blocks; }

    // Copies a plane's `blocks` blocks of `bytes` each, by the slot's two warps.
    __device__ void copy_plane(unsigned char *to, const void *plane, size_t first, unsigned bytes, unsigned count) const {
        const unsigned char *from = (const unsigned char *)plane + first * bytes;
        for (unsigned i = 16 * (32 * half + lane); i < bytes * count; i += 16 * 64) copy_async(to + i, from + i, true);
    }

    template <int F> __device__ void copy_tile(unsigned stage) const {
        using Layout = TileLayout<F>;
        unsigned char *to = s.stages[stage % STAGES].tiles[slot];
        const unsigned block = stage * STAGE_BLOCKS, count = min(STAGE_BLOCKS, blocks() - block);
        const size_t first = (size_t)tile * blocks() + block;
        copy_plane(to, matrix.quants, first, Layout::quants, count);
        if constexpr (Layout::highs > 0) copy_plane(to + Layout::highs_at, matrix.highs, first, Layout::highs, count);
        copy_plane(to + Layout::scales_at, matrix.scales, first, Layout::scales, count);
        if constexpr (Layout::super_bytes > 0) {
            copy_plane(to + Layout::supers_at, matrix.supers, first / 8, Layout::super_bytes * KILN_TILE_ROWS, 1);
        }
    }

    // The CTA's activations of a stage: 16-byte pieces, neighbours by neighbouring threads.
    __device__ void copy_integers(unsigned stage) const {
        IntegerInput *to = s.stages[stage % STAGES].integers;
        for (unsigned i = threadIdx.x; i < LARGE_ROWS * STAGE_BLOCKS * 2; i += LARGE_THREADS) {
            const unsigned row = i / (2 * STAGE_BLOCKS), b = i / 2 % STAGE_BLOCKS, piece = 16 * (i % 2);
            const InputPlace place(*this, row, stage * STAGE_BLOCKS + b);
            copy_async(&to[b].quants[row][piece], p.input.quants + place.at * KILN_BLOCK + piece, place.present);
        }
        copy_scales<STAGE_BLOCKS>(to, stage);
    }

    __device__ void copy_floats(unsigned stage) const {
        FloatInput *to = s.stages[stage % STAGES].floats;
        constexpr unsigned PIECES = KILN_BLOCK / 4;
        for (unsigned i = threadIdx.x; i < LARGE_ROWS * HALF_STAGE_BLOCKS * PIECES; i += LARGE_THREADS) {
            const unsigned piece = i % PIECES, b = i / PIECES % HALF_STAGE_BLOCKS, row = i / PIECES / HALF_STAGE_BLOCKS;
            const InputPlace place(*this, row, stage * HALF_STAGE_BLOCKS + b);
            copy_async(&to[b].pieces[row][piece ^ row % 2], p.input.values + place.at * KILN_BLOCK + 4 * piece, place.present);
        }
        copy_scales<HALF_STAGE_BLOCKS>(to, stage);
    }

    // Where block `block` of a row of the CTA is, if there is one.
    struct InputPlace {
        bool present;
        size_t at;
        __device__ InputPlace(const LargeWarp &w, unsigned row, unsigned block)
            : present(row < w.rows && block < w.blocks()), at(present ? (size_t)(w.row_start + row) * w.blocks() + block : 0) {}
    };

    template <unsigned BLOCKS, typename Input> __device__ void copy_scales(Input *to, unsigned stage) const {
        for (unsigned i = threadIdx.x; i < LARGE_ROWS * BLOCKS; i += LARGE_THREADS) {
            const unsigned row = i / BLOCKS, b = i % BLOCKS;
            const InputPlace place(*this, row, stage * BLOCKS + b);
            copy_async(&to[b].scales[row], p.input.scales + place.at, place.present);
        }
    }

    // Word i of row r, 16 bytes, lies at r ^ 2 i: a quarter of a warp reads four words of two rows.
    __device__ void copy_half_tile(unsigned stage) const {
        constexpr unsigned WORDS = HALF_TILE_BYTES / 16;
        uint4 *to = (uint4 *)s.stages[stage % STAGES].tiles[slot];
        const unsigned block = stage * HALF_STAGE_BLOCKS, count = min(HALF_STAGE_BLOCKS, blocks() - block);
        const uint4 *from = (const uint4 *)matrix.quants + ((size_t)tile * blocks() + block) * WORDS;
        for (unsigned i = 32 * half + lane; i < WORDS * count; i += 64) {
            copy_async(to + (i ^ 2 * (i / KILN_TILE_ROWS % 4)), from + i, true);
        }
    }

    // Weights 4t.. and 16 + 4t.. of a row of the tile, as stored integers.
    template <int F> __device__ void fragment_words(const unsigned char *stage, unsigned block, unsigned row, unsigned &low, unsigned &high) const {
        using Layout = TileLayout<F>;
        const unsigned *quants = (const unsigned *)(stage + block * Layout::quants);
        if constexpr (F == KILN_Q8_0) {
            low = quants[4 * row + t];
            high = quants[4 * (KILN_TILE_ROWS + row) + t];
        } else {
            const unsigned word = quants[4 * row + t];
            low = word & 0x0f0f0f0fu;
            high = word >> 4 & 0x0f0f0f0fu;
            const unsigned *highs = (const unsigned *)(stage + Layout::highs_at + block * Layout::highs);
            if constexpr (Format<F>::high_bytes == 4) {
                const unsigned bits = highs[row];
                low |= spread_bits(bits >> (4 * t), 4);
                high |= spread_bits(bits >> (16 + 4 * t), 4);
            } else if constexpr (Format<F>::high_bytes == 8) {
                low |= spread_pairs(highs[2 * row] >> (8 * t));
                high |= spread_pairs(highs[2 * row + 1] >> (8 * t));
            }
        }
    }

    // The scales of a row's block, in the form that block_scale and its kin read.
    template <int F> __device__ StoredBlock<F> stored_scales(const unsigned char *stage, unsigned block, unsigned row) const {
        using Layout = TileLayout<F>;
        StoredBlock<F> stored;
        const unsigned char *scales = stage + Layout::scales_at + block * Layout::scales;
        stored.scales = Layout::scale_bytes == 4 ? ((const unsigned *)scales)[row] : ((const unsigned short *)scales)[row];
        const unsigned char *supers = stage + Layout::supers_at;
        if constexpr (Layout::super_bytes == 4) stored.super = ((const unsigned *)supers)[row];
        if constexpr (Layout::super_bytes == 2) stored.super = ((const unsigned short *)supers)[row];
        return stored;
    }

    // Element i of sums[n][m] is matrix row 16 m + g + 8 (i / 2) and batch row 32 half + 8 n + 2 t + i % 2.
    typedef float Sums[4][2][4];

    template <int F> __device__ void add_integers(const LargeStage &stage, unsigned block, Sums &sums) const {
        const unsigned char *tiles = stage.tiles[slot];
        unsigned a[2][4];
        float scale[4], minimum[4];
        int sub[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned row = g + 8 * i;
            fragment_words<F>(tiles, block, row, a[i / 2][i % 2], a[i / 2][2 + i % 2]);
            const StoredBlock<F> stored = stored_scales<F>(tiles, block, row);
            scale[i] = block_scale<F>(stored);
            minimum[i] = block_min<F>(stored);
            sub[i][0] = sub_scale<F>(stored, 0);
            sub[i][1] = sub_scale<F>(stored, 1);
        }
        const IntegerInput &input = stage.integers[block];
        // Words t and 4 + t of row g, of four times eight rows.
        unsigned x[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            load_matrices(x[i], &input.quants[WARP_ROWS * half + 16 * i + lane / 16 * 8 + lane % 8][lane / 8 % 2 * 16]);
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const unsigned first = WARP_ROWS * half + 8 * n, b0 = x[n / 2][n % 2 * 2], b1 = x[n / 2][n % 2 * 2 + 1];
            const KilnActivationScale even = input.scales[first + 2 * t], odd = input.scales[first + 2 * t + 1];
            const float da[2] = {even.scale, odd.scale}, sa[2] = {even.scaled_sum, odd.scaled_sum};
            const int low[2] = {-Format<F>::offset * even.sum_low, -Format<F>::offset * odd.sum_low};
            const int high[2] = {-Format<F>::offset * even.sum_high, -Format<F>::offset * odd.sum_high};
#pragma unroll
            for (int m = 0; m < 2; m++) {
                int dot[4];
                if constexpr (F == KILN_Q6_K) {
                    int dot_low[4], dot_high[4];
                    mma_s8_k16(dot_low, a[m][0], a[m][1], b0, low[0], low[1]);
                    mma_s8_k16(dot_high, a[m][2], a[m][3], b1, high[0], high[1]);
#pragma unroll
                    for (int i = 0; i < 4; i++) dot[i] = sub[2 * m + i / 2][0] * dot_low[i] + sub[2 * m + i / 2][1] * dot_high[i];
                } else {
                    mma_s8(dot, a[m], b0, b1, low[0] + high[0], low[1] + high[1]);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = 2 * m + i / 2, column = i % 2;
                    sums[n][m][i] = fmaf((float)dot[i], scale[row] * da[column], sums[n][m][i]);
                    if constexpr (Format<F>::has_min) sums[n][m][i] = fmaf(minimum[row], sa[column], sums[n][m][i]);
                }
            }
        }
    }

    template <int F> __device__ void add_halves(const LargeStage &stage, unsigned block, Sums &sums) const {
        const uint4 *tile_words = (const uint4 *)(stage.tiles[slot] + block * HALF_TILE_BYTES) + KILN_TILE_ROWS * t;
        uint4 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = tile_words[(g + 8 * i) ^ 2 * t];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const unsigned row = WARP_ROWS * half + 8 * n + g;
            const float4 *pieces = stage.floats[block].pieces[row];
            const HalfInput<F> x = half_input<F>(pieces[2 * t ^ row % 2], pieces[(2 * t + 1) ^ row % 2], stage.floats[block].scales[row].scale);
            kiln::add_halves<F>(words, x, sums[n]);
        }
    }

    // Runs a pipeline: `copy(stage)` starts the copies of a stage of BLOCKS blocks, `use(stage data, block of the stage, block)` takes one.
    template <unsigned BLOCKS, typename Copy, typename Use> __device__ void pipeline(Copy &&copy, Use &&use) const {
        const unsigned stages = (blocks() + BLOCKS - 1) / BLOCKS;
        for (unsigned stage = 0; stage < STAGES - 1; stage++) {
            if (stage < stages) copy(stage);
            copy_commit();
        }
        for (unsigned stage = 0; stage < stages; stage++) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            if (stage + STAGES - 1 < stages) copy(stage + STAGES - 1);
            copy_commit();
            const unsigned block = stage * BLOCKS, count = min(BLOCKS, blocks() - block);
            for (unsigned b = 0; b < count; b++) use(s.stages[stage % STAGES], b, block + b);
        }
        copy_wait<0>();
        __syncthreads();
    }

    __device__ void accompany_integers() const {
        if (any_integers) pipeline<STAGE_BLOCKS>([&](unsigned stage) { copy_integers(stage); }, [](const LargeStage &, unsigned, unsigned) {});
    }
    __device__ void accompany_halves() const {
        if (any_halves) pipeline<HALF_STAGE_BLOCKS>([&](unsigned stage) { copy_floats(stage); }, [](const LargeStage &, unsigned, unsigned) {});
    }

    // `add(stage data, block of the stage, sums)` adds one block.
    template <unsigned BLOCKS, typename Copy, typename Add> __device__ void sum_segments(Sums &totals, Copy &&copy, Add &&add) const {
        Sums sums = {};
        const unsigned segment = segment_blocks(blocks());
        auto fold = [&] {
#pragma unroll
            for (int i = 0; i < 32; i++) {
                (&totals[0][0][0])[i] += (&sums[0][0][0])[i];
                (&sums[0][0][0])[i] = 0.0f;
            }
        };
        pipeline<BLOCKS>(copy, [&](const LargeStage &stage, unsigned b, unsigned block) {
            if (block > 0 && block % segment == 0) fold();
            add(stage, b, sums);
        });
        fold();
    }

    __device__ void put(const Sums &totals) const {
#pragma unroll
        for (int i = 0; i < 32; i++) {
            const unsigned n = i / 8, m = i / 4 % 2, e = i % 4;
            s.outputs[slot][WARP_ROWS * half + 8 * n + 2 * t + e % 2][16 * m + g + 8 * (e / 2)] = totals[n][m][e];
        }
    }

    template <int F> __device__ void integers() const {
        Sums totals = {};
        sum_segments<STAGE_BLOCKS>(
            totals,
            [&](unsigned stage) {
                copy_tile<F>(stage);
                copy_integers(stage);
            },
            [&](const LargeStage &stage, unsigned block, Sums &sums) { add_integers<F>(stage, block, sums); });
        accompany_halves();
        put(totals);
    }

    template <int F> __device__ void halves() const {
        accompany_integers();
        Sums totals = {};
        sum_segments<HALF_STAGE_BLOCKS>(
            totals,
            [&](unsigned stage) {
                copy_half_tile(stage);
                copy_floats(stage);
            },
            [&](const LargeStage &stage, unsigned block, Sums &sums) { add_halves<F>(stage, block, sums); });
        put(totals);
    }

    // Lane = matrix row, a few batch rows at a time.
    __device__ void singles() const {
        constexpr int GROUP = 4;
        const unsigned segment = segment_blocks(blocks()), segments = (blocks() + segment - 1) / segment;
        for (unsigned first = WARP_ROWS * half; first < min(WARP_ROWS * (half + 1), rows); first += GROUP) {
            const unsigned count = min((unsigned)GROUP, rows - first);
            float totals[GROUP] = {};
            for (unsigned i = 0; i < segments; i++) {
                float sums[GROUP];
                segment_sums<GROUP, Formats::F32>(matrix, tile, i, GlobalInput{p.input, row_start + first}, count, sums);
#pragma unroll
                for (int r = 0; r < GROUP; r++) totals[r] += sums[r];
            }
#pragma unroll
            for (int r = 0; r < GROUP; r++) s.outputs[slot][first + r][lane] = totals[r];
        }
    }

    // A slot beyond the last tile only accompanies the other.
    __device__ void run(bool active) const {
        if (!active) {
            accompany_integers();
            accompany_halves();
            return;
        }
        dispatch_format(matrix.format, [&](auto format) {
            constexpr int F = decltype(format)::value;
            if constexpr (F == KILN_F32) {
                accompany_integers();
                accompany_halves();
                singles();
            } else if constexpr (Format<F>::is_half) {
                halves<F>();
            } else {
                integers<F>();
            }
        });
    }
};

// What the tiles of the CTA's two slots are of.
struct SlotTile {
    unsigned matrix, tile;
    bool active;

    __device__ SlotTile(const KilnLinearParams &p, unsigned slot) : matrix(slot), tile(blockIdx.x) {
        if (!is_gated(p)) {
            matrix = 0, tile = SLOTS * blockIdx.x + slot;
            while (matrix + 1 < p.num_matrices && tile >= p.matrices[matrix].tiles) tile -= p.matrices[matrix++].tiles;
        }
        active = tile < p.matrices[matrix].tiles;
    }
};

__device__ inline bool is_half_format(unsigned format) { return format == KILN_F16 || format == KILN_BF16; }

static_assert(sizeof(LargeShared) == KILN_LARGE_SHARED_BYTES, "what the host asks for");

}  // namespace kiln

using namespace kiln;

// Grid: {pairs of tiles (gated: a gate's and an up's), groups of 64 batch rows}; 128 threads; dynamic shared memory LargeShared.
extern "C" __global__ void __launch_bounds__(LARGE_THREADS, 2) kiln_linear_large(const __grid_constant__ KilnLinearParams p) {
    extern __shared__ __align__(128) unsigned char memory[];
    LargeShared &s = *(LargeShared *)memory;
    wait_for_predecessor();
    const unsigned row_start = blockIdx.y * LARGE_ROWS, all_rows = row_count(p.step, p.logit_rows);
    if (row_start >= all_rows) return;
    const unsigned rows = min(all_rows - row_start, LARGE_ROWS), warp = warp_id(), lane = lane_id();
    const bool gated = is_gated(p);
    bool any_integers = false, any_halves = false;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        const SlotTile other(p, slot);
        const unsigned format = p.matrices[other.matrix].format;
        any_halves |= other.active && is_half_format(format);
        any_integers |= other.active && !is_half_format(format) && format != KILN_F32;
    }
    const unsigned slot = warp / 2;
    const auto [matrix, tile, active] = SlotTile(p, slot);
    LargeWarp{p, s, p.matrices[matrix], slot, tile, warp % 2, row_start, rows, lane, lane / 4, lane % 4, any_integers, any_halves}.run(active);
    __syncthreads();
    if (gated) {
        for (unsigned row = warp; row < rows; row += LARGE_THREADS / 32) {
            end_gated(p, row_start + row, tile, s.outputs[0][row][lane], s.outputs[1][row][lane]);
        }
    } else if (active) {
        for (unsigned row = warp % 2; row < rows; row += 2) end_stored(p, row_start + row, matrix, tile, s.outputs[slot][row][lane]);
    }
}
