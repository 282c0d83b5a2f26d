/* What kernels and host agree on: constants, and one parameter struct per kernel. Plain C; includes nothing.
 *
 * src/device/cuda/abi.rs is made from this file by `cargo xtask bindings` and checked for staleness by a test. Pointers are
 * device addresses. "Row" is a row of the step's batch unless a matrix is named. */
#ifndef KILN_ABI_H
#define KILN_ABI_H

typedef unsigned char kiln_u8;
typedef signed char kiln_i8;
typedef unsigned short kiln_u16;
typedef unsigned int kiln_u32;
typedef unsigned long long kiln_u64;

/* A device address: typed for kernels, a number for the host. */
#ifdef __CUDACC__
#define KILN_DEVICE(type) type *
#else
#define KILN_DEVICE(type) kiln_u64
#endif

enum {
    /* Weights and activations meet in blocks of 32. */
    KILN_BLOCK = 32,
    /* Rows of a repacked weight tile: one per lane. */
    KILN_TILE_ROWS = 32,
    /* A row's blocks are summed in at most this many segments (src/device/quant.rs, segment_blocks). */
    KILN_SEGMENTS_MAX = 16,
    KILN_SEGMENT_BLOCKS_MIN = 4,
    /* Rows that one CTA of the matrix-vector kernel takes together, at most. */
    KILN_SMALL_ROWS_MAX = 8,
    /* Attention: keys per segment, and (token, head) pairs of one CTA: the rows of an mma tile. */
    KILN_ATTEND_SEGMENT = 256,
    KILN_ATTEND_PAIRS = 16,
    KILN_NORM_THREADS = 256,
    KILN_ATTEND_THREADS = 128,
    KILN_MATRICES_MAX = 3,
    KILN_HEAD_DIM_MAX = 256,
    KILN_SAMPLE_THREADS = 512,
    /* Logits that one CTA of the sampler keeps in shared memory: what it aims at, and at most. */
    KILN_SAMPLE_SLICE = 8192,
    KILN_SAMPLE_SLICE_MAX = 16384,
    /* Dynamic shared memory of the matrix-matrix kernel: three stages of two tiles and the f32 rows of two blocks. */
    KILN_LARGE_SHARED_BYTES = 3 * (2 * 4 * (1024 + 64) + 2 * 64 * (128 + 16)),
    /* Bins of a radix digit of selection. */
    KILN_SAMPLE_BINS = 2048,
    /* Logit biases of a slot, and most likely tokens that a row can report. */
    KILN_BIASES_MAX = 1024,
    KILN_TOP_MAX = 128,
};

/* How 32 weights of a row become integers, a scale and a minimum (src/weights/blocks.rs). */
enum {
    KILN_Q4_0 = 0,
    KILN_Q4_1 = 1,
    KILN_Q5_0 = 2,
    KILN_Q5_1 = 3,
    KILN_Q8_0 = 4,
    KILN_Q4_K = 5,
    KILN_Q5_K = 6,
    KILN_Q6_K = 7,
    KILN_F16 = 8,
    KILN_BF16 = 9,
    KILN_F32 = 10,
};

/* A weight matrix, repacked into tiles of 32 rows. Planes, each [tile][block][...][lane = row of the tile]:
 *   quants  16-byte words: 1 for 4- to 6-bit formats (word i of the 16 bytes holds weights 4i.. in its low nibbles and
 *           16 + 4i.. in its high ones), 2 for Q8_0, 4 for 16-bit and 8 for 32-bit floats
 *   highs   the fifth bits (4 bytes: bit j of weight j) or the fifth and sixth (8 bytes: 2 bits per weight)
 *   scales  per block: half, or half2 {scale, minimum}, or u8x2 {scale, minimum} of K formats, or i8x2 of Q6_K
 *   supers  per 8 blocks, K formats only: half2 {d, dmin}, or half of Q6_K
 * Rows beyond the matrix and blocks beyond its columns are zeros. */
struct KilnMatrix {
    KILN_DEVICE(const void) quants;
    KILN_DEVICE(const void) highs;
    KILN_DEVICE(const void) scales;
    KILN_DEVICE(const void) supers;
    kiln_u32 rows;
    /* Blocks of 32 columns, rounded up. */
    kiln_u32 blocks;
    kiln_u32 format;
    kiln_u32 tiles;
};

/* What belongs to a block of 32 int8 activations besides the integers. */
struct KilnActivationScale {
    float scale;
    /* scale * (sum of the integers): what a minimum is multiplied by. */
    float scaled_sum;
    /* Sums of integers 0..16 and 16..32. */
    int sum_low;
    int sum_high;
};

/* Input rows of a linear: as f32, and as int8 blocks. */
struct KilnActivations {
    /* [row][32 * blocks] */
    KILN_DEVICE(float) values;
    /* [row][block][32] */
    KILN_DEVICE(kiln_i8) quants;
    /* [row][block] */
    KILN_DEVICE(struct KilnActivationScale) scales;
    kiln_u32 blocks;
    kiln_u32 pad;
};

/* A row of the step. */
struct KilnRow {
    /* A token id, or KILN_LAST_SAMPLED + slot. */
    kiln_u32 token;
    kiln_u32 position;
    /* Which block table. */
    kiln_u32 seq;
    kiln_u32 pad;
};

#define KILN_LAST_SAMPLED 0x80000000u

/* What changes from step to step, uploaded with one copy. */
struct KilnStep {
    kiln_u32 num_rows;
    kiln_u32 num_logit_rows;
    kiln_u32 num_attend_items;
    /* Chains of sample rows. */
    kiln_u32 num_sample_chains;
    /* Which of the two result buffers. */
    kiln_u32 results;
    kiln_u32 pad;
};

/* Up to 16 (token, head of the group) pairs of one sequence over some segments of its keys; every KV head does each item. */
struct KilnAttendItem {
    /* The batch row of pair 0 is row_start + pair_start / group. */
    kiln_u32 row_start;
    kiln_u32 pair_start;
    kiln_u32 pairs;
    kiln_u32 seq;
    kiln_u32 segment_start;
    kiln_u32 segment_count;
    /* Of all items of the same pairs; 1 if this item is alone. */
    kiln_u32 parts;
    /* Index of this part among all partial states, and of part 0. */
    kiln_u32 part;
    kiln_u32 part_start;
    /* Counts the parts that are done. */
    kiln_u32 counter;
};

/* residual[row] = dequantise(table[token]) * scale */
struct KilnEmbedParams {
    struct KilnMatrix table;
    KILN_DEVICE(const struct KilnStep) step;
    KILN_DEVICE(const struct KilnRow) rows;
    /* [slot]: the token is the low word. */
    KILN_DEVICE(const kiln_u64) last_sampled;
    KILN_DEVICE(float) residual;
    kiln_u32 cols;
    float scale;
};

/* residual_out = residual_in + delta (normed first if post_norm is given); out = rmsnorm(residual_out) * norm, as f32 and int8. Kernels
 * that fuse this into a linear do it in every CTA, so that the new residual cannot replace the old one. */
struct KilnNormParams {
    KILN_DEVICE(const struct KilnStep) step;
    /* Null: all rows. Else the batch rows that need logits, and out has one row for each. */
    KILN_DEVICE(const kiln_u32) logit_rows;
    KILN_DEVICE(const float) residual_in;
    KILN_DEVICE(float) residual_out;
    /* Null: nothing is added, and residual_out is residual_in. */
    KILN_DEVICE(const float) delta;
    KILN_DEVICE(const float) post_norm;
    KILN_DEVICE(const float) norm;
    struct KilnActivations out;
    kiln_u32 cols;
    float eps;
};

/* Fills quants and scales from values; one CTA per row. */
struct KilnQuantiseParams {
    struct KilnActivations rows;
    kiln_u32 cols;
    kiln_u32 num_rows;
};

/* One layer of the paged cache. Places are in bytes: [block][block_stride], this layer at layer_offset: [kv head]{keys, values}, each
 * [token][head_dim] f16, or int8 with f32 scales [token] behind them. */
struct KilnCache {
    KILN_DEVICE(kiln_u8) data;
    /* [seq][blocks_per_seq] */
    KILN_DEVICE(const kiln_u32) block_tables;
    kiln_u64 block_stride;
    kiln_u64 layer_offset;
    kiln_u32 blocks_per_seq;
    kiln_u32 block_tokens;
    kiln_u32 head_dim;
    kiln_u32 is_int8;
};

/* Bias, per-head norm and RoPE of the rows q, k, v; K and V into the cache. A warp takes a head of a row. */
struct KilnFinishQkvParams {
    KILN_DEVICE(const struct KilnStep) step;
    KILN_DEVICE(const struct KilnRow) rows;
    /* [row][(heads + 2 kv heads) * head_dim]; the queries are finished in place. */
    KILN_DEVICE(float) qkv;
    KILN_DEVICE(const float) biases[3];
    KILN_DEVICE(const float) norms[2];
    /* [position][rotary_dims / 2] */
    KILN_DEVICE(const float) cosines;
    KILN_DEVICE(const float) sines;
    struct KilnCache cache;
    kiln_u32 heads;
    kiln_u32 kv_heads;
    kiln_u32 rotary_dims;
    /* Pairs (2i, 2i + 1) instead of (i, i + rotary_dims / 2). */
    kiln_u32 adjacent;
    float eps;
    kiln_u32 pad;
};

enum { KILN_STORE = 0, KILN_GATED_SILU = 1, KILN_GATED_GELU = 2, KILN_QKV = 3 };

/* out[row][matrix offsets..] = matrices . input[row], or activation(gate) * up. */
struct KilnLinearParams {
    struct KilnMatrix matrices[KILN_MATRICES_MAX];
    /* First output element of each matrix. */
    kiln_u32 offsets[KILN_MATRICES_MAX];
    kiln_u32 num_matrices;
    struct KilnActivations input;
    KILN_DEVICE(const struct KilnStep) step;
    /* Row counts come from num_logit_rows instead of num_rows. */
    kiln_u32 logit_rows;
    kiln_u32 epilogue;
    /* KILN_STORE and KILN_QKV: [row][out_stride]. */
    KILN_DEVICE(float) out;
    kiln_u32 out_stride;
    kiln_u32 pad;
    /* KILN_GATED_*: the rows of the next linear. */
    struct KilnActivations gated;
    /* KILN_QKV, of adjacent pairs, without norms and into an f16 cache: what a kernel of its own does otherwise. */
    struct KilnFinishQkvParams qkv;
};

/* A linear whose CTAs make their int8 input themselves, for one or two rows. */
struct KilnFusedParams {
    struct KilnLinearParams linear;
    /* Used if norm.norm is given; otherwise linear.input is copied. */
    struct KilnNormParams norm;
    /* Of all matrices; pairs of them if gated. */
    kiln_u32 tiles;
    kiln_u32 pad;
};

struct KilnAttendParams {
    KILN_DEVICE(const struct KilnStep) step;
    KILN_DEVICE(const struct KilnRow) rows;
    KILN_DEVICE(const struct KilnAttendItem) items;
    /* [row][query_stride]: the first heads * head_dim are the queries. */
    KILN_DEVICE(const float) query;
    struct KilnCache cache;
    struct KilnActivations out;
    /* [part][kv head][16 pairs][head_dim + 2]: the weighted sum, the largest score, the sum of weights */
    KILN_DEVICE(float) parts;
    /* [counter][kv head], zero between launches. */
    KILN_DEVICE(kiln_u32) counters;
    kiln_u32 query_stride;
    kiln_u32 heads;
    kiln_u32 kv_heads;
    /* Keys that a query sees, itself included; 0xffffffff for all. */
    kiln_u32 window;
    /* score_scale * log2(e): softmax works in powers of two. */
    float scale_log2;
    kiln_u32 pad;
};

/* Raw tensor rows as they lie in the file to a KilnMatrix. */
struct KilnRepackParams {
    KILN_DEVICE(const kiln_u8) source;
    /* Of the matrix's first tile that this launch makes. */
    kiln_u32 tile_start;
    kiln_u32 tile_count;
    /* Rows in source, which starts with the first row of tile_start. */
    kiln_u32 source_rows;
    kiln_u32 row_bytes;
    kiln_u32 cols;
    kiln_u32 pad;
    struct KilnMatrix matrix;
};

/* How often a token occurred in a slot's prompt and output. */
struct KilnCounts {
    kiln_u32 prompt;
    kiln_u32 output;
};

struct KilnBias {
    kiln_u32 id;
    float bias;
};

/* What the sampler knows of sequences. */
struct KilnSlots {
    /* [slot]: the sample row's order above the token, so that the newest row's token is the maximum. */
    KILN_DEVICE(kiln_u64) last_sampled;
    /* [slot][vocab_size] */
    KILN_DEVICE(struct KilnCounts) counts;
    /* [slot][mask_words]: bits of the ids that are masked before the minimum length. */
    KILN_DEVICE(kiln_u32) masks;
    /* [slot][KILN_BIASES_MAX], by id; those of one id are added in order. */
    KILN_DEVICE(struct KilnBias) biases;
    /* [slot] */
    KILN_DEVICE(kiln_u32) num_biases;
    kiln_u32 vocab_size;
    kiln_u32 mask_words;
};

/* Some of what a slot starts with. Starts are in words, their data in the same buffer. */
struct KilnStart {
    kiln_u32 slot;
    /* Everything is cleared first. */
    kiln_u32 is_first;
    kiln_u32 last_sampled;
    /* Words from the buffer's start; ids of prompt, output, masks, and (id, bias) pairs. */
    kiln_u32 prompt_start;
    kiln_u32 prompt_count;
    kiln_u32 output_start;
    kiln_u32 output_count;
    kiln_u32 mask_start;
    kiln_u32 mask_count;
    kiln_u32 bias_start;
    kiln_u32 bias_count;
    kiln_u32 pad;
};

/* One CTA per start; every slot occurs once. */
struct KilnStartParams {
    struct KilnSlots slots;
    KILN_DEVICE(const struct KilnStart) starts;
    KILN_DEVICE(const kiln_u32) words;
};

enum { KILN_GREEDY = 0, KILN_DRAW = 1, KILN_FORCED = 2, KILN_CANDIDATES = 3 };

/* Flags of a sample row. */
enum {
    KILN_SAMPLE_PENALTIES = 1,
    KILN_SAMPLE_PENALISE_PROMPT = 2,
    KILN_SAMPLE_MASKS = 4,
    KILN_SAMPLE_LOGPROBS = 8,
};

/* src/device/sampler/mod.rs, SampleRow and the Penalties of its slot. Rows 0..num_sample_chains start chains; rows of a chain are of one slot and see each other's
 * counts. */
struct KilnSampleRow {
    kiln_u32 logit_row;
    kiln_u32 slot;
    kiln_u32 choice;
    kiln_u32 flags;
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty;
    float temperature;
    /* Q32 */
    kiln_u64 top_p;
    kiln_u64 min_mass;
    kiln_u64 random;
    kiln_u32 top_k;
    kiln_u32 forced;
    /* Counts the slot's sample rows from 1. */
    kiln_u32 order;
    /* The next row of the chain, or KILN_NO_ROW. */
    kiln_u32 next;
    /* Index of the row's result. */
    kiln_u32 result;
    /* Most likely tokens to report, and where. */
    kiln_u32 top_start;
    kiln_u32 top_count;
    kiln_u32 pad;
};

#define KILN_NO_ROW 0xffffffffu

enum { KILN_SAMPLED = 0, KILN_NOT_FINITE = 1, KILN_ALL_MASKED = 2 };

/* What the host gets of a sample row. It finishes the logarithms. */
struct KilnSampled {
    kiln_u32 status;
    kiln_u32 token;
    /* Of the raw logits; the rest only if log-probabilities are asked for. */
    float max;
    float logit;
    kiln_u64 total_mass;
};

struct KilnTop {
    kiln_u32 id;
    float logit;
};

/* What the CTAs of a sample row share; zero between launches, but for the generation. */
struct KilnSampleState {
    /* Rank of the best processed logit: its order-preserving key above its complemented id. */
    kiln_u64 best;
    /* Masses: of what top-p is a share of, and of the raw logits. */
    kiln_u64 total;
    kiln_u64 raw_total;
    kiln_u32 raw_max;
    kiln_u32 not_finite;
    kiln_u32 chosen;
    kiln_u32 num_top;
    kiln_u32 arrivals;
    kiln_u32 generation;
};

/* Grid: {CTAs of a row, rows at a time}, all resident. */
struct KilnSampleParams {
    KILN_DEVICE(const struct KilnStep) step;
    KILN_DEVICE(const struct KilnSampleRow) rows;
    /* [logit row][vocab_size] */
    KILN_DEVICE(const float) logits;
    struct KilnSlots slots;
    /* [sample row] */
    KILN_DEVICE(struct KilnSampleState) states;
    /* [sample row][CTA] */
    KILN_DEVICE(kiln_u64) sums;
    /* [row at a time][3][KILN_SAMPLE_BINS], zero between launches. */
    KILN_DEVICE(kiln_u32) bin_counts;
    KILN_DEVICE(kiln_u64) bin_masses;
    /* The host's memory: two buffers of results and of most likely tokens. */
    KILN_DEVICE(struct KilnSampled) results[2];
    KILN_DEVICE(struct KilnTop) top[2];
    /* Logits per CTA. */
    kiln_u32 slice;
    kiln_u32 pad;
};

struct KilnCopyBlocksParams {
    KILN_DEVICE(kiln_u8) cache;
    /* {from, to} */
    KILN_DEVICE(const kiln_u32) pairs;
    /* Bytes, a multiple of 16. */
    kiln_u64 block_stride;
    kiln_u32 num_pairs;
    kiln_u32 pad;
};

#endif
