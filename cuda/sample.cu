// Logits to tokens, exactly as src/device/sampler does it on the host: bit for bit, in any order.
//
//   scores = mask(penalise(logits + bias))          w_i = rint(exp((score_i - max) / T) * 2^44)
//   kept   = top-k by (score, lower id), of these the smallest set of mass >= ceil(p * sum w), of these w_i >= min_mass
//   token  = the kept token in whose interval of the masses, ids ascending, lies random * sum w / 2^64
//
// Masses are integers, so sums have no order. A set "the k best" is {rank >= cut}; the cut is found by radix digits of the rank with
// histograms, 11 bits at a time, and usually after two or three of its five digits, as soon as a bin is taken as a whole.
//
// A row is cut into slices of at most KILN_SAMPLE_SLICE_MAX logits, one CTA each, which stay in shared memory. The CTAs of a row meet at
// barriers in global memory: all must be resident, so the launch is cooperative. Greedy rows need no barrier, draws from the whole
// distribution two, top-p about five.
//
// Bytes: 4 per logit, once, and with penalties 8 per token of the vocabulary for its counts; 24 to the host per row, and 8 for every most
// likely token that it asks for.

#include "masses.cuh"

namespace kiln {

constexpr unsigned THREADS = KILN_SAMPLE_THREADS;
constexpr unsigned WARPS = THREADS / 32;
constexpr unsigned BINS = KILN_SAMPLE_BINS;
constexpr kiln_u64 WHOLE_Q32 = 1ull << 32;

struct SampleShared {
    kiln_u64 bin_masses[BINS];
    kiln_u32 bin_counts[BINS];
    kiln_u64 warp_sums[WARPS];
    // The bin of a digit that the cut is in: what is still needed of it, what it holds.
    kiln_u64 found_needed;
    kiln_u64 found_value;
    kiln_u32 found_bin;
    kiln_u32 found_count;
    kiln_u32 is_last;
    kiln_u32 pad;
    // The slice.
    float scores[];
};

__device__ inline kiln_u64 warp_sum_u64(kiln_u64 x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(FULL, x, distance);
    return x;
}

__device__ inline kiln_u64 warp_max_u64(kiln_u64 x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) {
        const kiln_u64 other = __shfl_xor_sync(FULL, x, distance);
        x = other > x ? other : x;
    }
    return x;
}

// The sum over lower lanes and this one.
__device__ inline kiln_u64 warp_prefix_u64(kiln_u64 x) {
#pragma unroll
    for (unsigned distance = 1; distance < 32; distance <<= 1) {
        const kiln_u64 other = __shfl_up_sync(FULL, x, distance);
        if (lane_id() >= distance) x += other;
    }
    return x;
}

__device__ inline kiln_u32 load_acquire(const kiln_u32 *at) {
    kiln_u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

// Infinity is for masks: a finite logit stays finite.
__device__ inline float saturate(float x) {
    constexpr float MOST = 3.40282347e38f;
    if (x < -MOST) x = -MOST;
    if (x > MOST) x = MOST;
    return x;
}

__device__ inline float penalise(float score, const KilnCounts &counts, const KilnSampleRow &row) {
    if (row.repetition_penalty != 1.0f) {
        score = score > 0.0f ? __fdiv_rn(score, row.repetition_penalty) : __fmul_rn(score, row.repetition_penalty);
    }
    const kiln_u32 count = counts.output + (row.flags & KILN_SAMPLE_PENALISE_PROMPT ? counts.prompt : 0);
    if (count > 0) {
        const float penalty = __fmul_rn(row.frequency_penalty, __uint2float_rn(count));
        score = __fsub_rn(score, __fadd_rn(row.presence_penalty, penalty));
    }
    return saturate(score);
}

// One CTA's part of the rows of its group. Members are the same in all threads, and but for the slice in all CTAs of the group.
struct Sampler {
    const KilnSampleParams &p;
    SampleShared &s;
    // The slice: `count` ids from `first` on.
    unsigned first;
    unsigned count;
    // Which histogram the next digit goes to. The three take turns: one is being read, one filled and one cleared.
    unsigned histogram = 0;
    KilnSampleRow row = {};
    // Of the sample row.
    kiln_u32 index = 0;
    bool uses_histograms = false;

    __device__ Sampler(const KilnSampleParams &p, SampleShared &s)
        : p(p), s(s), first(min(blockIdx.x * p.slice, p.slots.vocab_size)), count(min(p.slice, p.slots.vocab_size - first)) {}

    __device__ KilnSampleState &state() const { return p.states[index]; }
    __device__ const float *logits() const { return p.logits + (size_t)row.logit_row * p.slots.vocab_size; }
    __device__ kiln_u32 *bin_counts(unsigned which) const { return p.bin_counts + ((size_t)blockIdx.y * 3 + which) * BINS; }
    __device__ kiln_u64 *bin_masses(unsigned which) const { return p.bin_masses + ((size_t)blockIdx.y * 3 + which) * BINS; }

    // True in all threads of the last CTA of the row to come here. What the others did before is visible to it.
    __device__ bool is_last_to_arrive() {
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            s.is_last = atomicInc(&state().arrivals, gridDim.x - 1) == gridDim.x - 1;
            __threadfence();
        }
        __syncthreads();
        return s.is_last;
    }

    // All CTAs of the row.
    __device__ void barrier() {
        __syncthreads();
        if (threadIdx.x == 0 && gridDim.x > 1) {
            // Does not change before this CTA has arrived.
            const kiln_u32 generation = load_acquire(&state().generation);
            __threadfence();
            if (atomicInc(&state().arrivals, gridDim.x - 1) == gridDim.x - 1) {
                __threadfence();
                atomicAdd(&state().generation, 1u);
            } else {
                while (load_acquire(&state().generation) == generation) {
                }
            }
            __threadfence();
        }
        __syncthreads();
    }

    // The sum over the CTA, in all threads.
    __device__ kiln_u64 cta_sum(kiln_u64 x) {
        x = warp_sum_u64(x);
        __syncthreads();
        if (lane_id() == 0) s.warp_sums[warp_id()] = x;
        __syncthreads();
        x = 0;
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) x += s.warp_sums[w];
        return x;
    }

    __device__ kiln_u64 cta_max(kiln_u64 x) {
        x = warp_max_u64(x);
        __syncthreads();
        if (lane_id() == 0) s.warp_sums[warp_id()] = x;
        __syncthreads();
        x = 0;
#pragma unroll
        for (unsigned w = 0; w < WARPS; w++) x = max(x, s.warp_sums[w]);
        return x;
    }

    // Calls body(score, id) for the slice.
    template <typename Body> __device__ void each(Body &&body) const {
        for (unsigned i = threadIdx.x; i < count; i += THREADS) body(s.scores[i], first + i);
    }

    __device__ bool is_processed() const {
        return row.flags & (KILN_SAMPLE_PENALTIES | KILN_SAMPLE_MASKS) || p.slots.num_biases[row.slot] > 0;
    }

    // Entries are sorted by id; the thread of an id's first entry adds all of them in order.
    __device__ void add_biases() {
        const KilnBias *biases = p.slots.biases + (size_t)row.slot * KILN_BIASES_MAX;
        const unsigned n = p.slots.num_biases[row.slot];
        for (unsigned i = threadIdx.x; i < n; i += THREADS) {
            const kiln_u32 id = biases[i].id;
            if (id - first >= count || (i > 0 && biases[i - 1].id == id)) continue;
            float score = s.scores[id - first];
            for (unsigned j = i; j < n && biases[j].id == id; j++) score = saturate(__fadd_rn(score, biases[j].bias));
            s.scores[id - first] = score;
        }
    }

    // The slice's processed logits into shared memory, their best and the raw logits' maximum into the state.
    __device__ void scan() {
        const float *raw = logits();
        bool not_finite = false;
        for (unsigned i = threadIdx.x; i < count; i += THREADS) {
            const float x = raw[first + i];
            s.scores[i] = x;
            not_finite |= (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
        }
        not_finite = __syncthreads_or(not_finite);
        kiln_u64 best = best_of_slice(), raw_best = best;
        if (is_processed()) {
            add_biases();
            __syncthreads();
            const KilnCounts *counts = p.slots.counts + (size_t)row.slot * p.slots.vocab_size;
            const kiln_u32 *masks = p.slots.masks + (size_t)row.slot * p.slots.mask_words;
            for (unsigned i = threadIdx.x; i < count; i += THREADS) {
                const unsigned id = first + i;
                float x = s.scores[i];
                if (row.flags & KILN_SAMPLE_PENALTIES) {
                    const KilnCounts c = counts[id];
                    if (c.prompt | c.output) x = penalise(x, c, row);
                }
                if (row.flags & KILN_SAMPLE_MASKS && masks[id / 32] >> id % 32 & 1) x = -__int_as_float(0x7f800000);
                s.scores[i] = x;
            }
            best = best_of_slice();
        }
        if (threadIdx.x == 0) {
            atomicMax(&state().best, best);
            atomicMax(&state().raw_max, (kiln_u32)(raw_best >> 32));
            if (not_finite) atomicOr(&state().not_finite, 1u);
        }
    }

    __device__ kiln_u64 best_of_slice() {
        kiln_u64 best = 0;
        each([&](float score, unsigned id) { best = max(best, rank_of(score, id)); });
        return cta_max(best);
    }

    // Whether the row gives a token, once all CTAs have scanned.
    __device__ kiln_u32 status() const {
        if (__ldcg(&state().not_finite)) return KILN_NOT_FINITE;
        const bool all_masked = rank_score(__ldcg(&state().best)) == -__int_as_float(0x7f800000);
        return all_masked && row.choice != KILN_FORCED ? KILN_ALL_MASKED : KILN_SAMPLED;
    }

    // One digit of a cut: the bin in which `needed`, counted in tokens or in mass from the top, is reached, among tokens of
    // `selects(rank)`. False if all of them are less. Digits of `bits` bits at `shift`.
    template <bool BY_MASS, typename Selects, typename Mass>
    __device__ bool find_bin(kiln_u64 needed, unsigned shift, unsigned bits, Selects &&selects, Mass &&mass_of) {
        __syncthreads();
        for (unsigned b = threadIdx.x; b < BINS; b += THREADS) {
            s.bin_counts[b] = 0;
            if (BY_MASS) s.bin_masses[b] = 0;
        }
        if (threadIdx.x == 0) s.found_bin = BINS;
        __syncthreads();
        each([&](float score, unsigned id) {
            const kiln_u64 rank = rank_of(score, id);
            if (!selects(rank)) return;
            const unsigned bin = (unsigned)(rank >> shift) & ((1u << bits) - 1);
            atomicAdd(&s.bin_counts[bin], 1u);
            if (BY_MASS) atomicAdd(&s.bin_masses[bin], mass_of(score));
        });
        __syncthreads();
        kiln_u32 *counts = bin_counts(histogram);
        kiln_u64 *masses = bin_masses(histogram);
        for (unsigned b = threadIdx.x; b < BINS; b += THREADS) {
            if (s.bin_counts[b] == 0) continue;
            atomicAdd(&counts[b], s.bin_counts[b]);
            if (BY_MASS) atomicAdd(&masses[b], s.bin_masses[b]);
        }
        barrier();
        // Every thread takes neighbouring bins, the best ones first.
        constexpr unsigned PER_THREAD = BINS / THREADS;
        kiln_u64 values[PER_THREAD], sum = 0;
#pragma unroll
        for (unsigned i = 0; i < PER_THREAD; i++) {
            const unsigned bin = BINS - 1 - (threadIdx.x * PER_THREAD + i);
            values[i] = BY_MASS ? __ldcg(&masses[bin]) : (kiln_u64)__ldcg(&counts[bin]);
            sum += values[i];
        }
        const kiln_u64 prefix = warp_prefix_u64(sum);
        if (lane_id() == 31) s.warp_sums[warp_id()] = prefix;
        __syncthreads();
        kiln_u64 above = prefix - sum;
        for (unsigned w = 0; w < warp_id(); w++) above += s.warp_sums[w];
#pragma unroll
        for (unsigned i = 0; i < PER_THREAD; i++) {
            if (above < needed && needed <= above + values[i]) {
                const unsigned bin = BINS - 1 - (threadIdx.x * PER_THREAD + i);
                s.found_bin = bin;
                s.found_needed = needed - above;
                s.found_value = values[i];
                s.found_count = __ldcg(&counts[bin]);
            }
            above += values[i];
        }
        // Last read before the barrier.
        clear_histogram((histogram + 2) % 3, blockIdx.x, gridDim.x);
        histogram = (histogram + 1) % 3;
        uses_histograms = true;
        __syncthreads();
        return s.found_bin < BINS;
    }

    __device__ void clear_histogram(unsigned which, unsigned part, unsigned parts) const {
        for (unsigned b = part * THREADS + threadIdx.x; b < BINS; b += parts * THREADS) {
            bin_counts(which)[b] = 0;
            bin_masses(which)[b] = 0;
        }
    }

    // The least rank of the best tokens that together reach `needed`, among ranks from `low` on. 0 if all together do not.
    template <bool BY_MASS, typename Mass> __device__ kiln_u64 cut_at(kiln_u64 needed, kiln_u64 low, Mass &&mass_of) {
        constexpr unsigned DIGITS = 5;
        // Ids have 20 bits; the 12 above them are ones in all ranks.
        constexpr unsigned SHIFTS[DIGITS] = {53, 42, 32, 10, 0}, BITS[DIGITS] = {11, 11, 10, 10, 10};
        kiln_u64 cut = 0;
        for (unsigned digit = 0; digit < DIGITS; digit++) {
            const unsigned shift = SHIFTS[digit], top = shift + BITS[digit];
            const kiln_u64 prefix = digit == 0 ? 0 : cut >> top;
            const auto selects = [&](kiln_u64 rank) { return rank >= low && (digit == 0 || rank >> top == prefix); };
            if (!find_bin<BY_MASS>(needed, shift, BITS[digit], selects, mass_of)) return 0;
            cut |= (kiln_u64)s.found_bin << shift;
            if (s.found_value == s.found_needed || s.found_count == 1) break;
            needed = s.found_needed;
            if (shift == 32) cut |= 0xfff00000u;
        }
        return cut;
    }

    // Tokens that cannot be missing for `target` of `total`: so little mass that all of them are less than what may be left out. Their
    // bound is rough, and checked.
    __device__ kiln_u64 low_for(kiln_u64 total, kiln_u64 target, float max_score) const {
        const kiln_u64 small = (total - target) / p.slots.vocab_size;
        // log2 of the share, rounded down.
        const int exponent = 63 - __clzll((long long)(small | 1)) - 44;
        const float low = __fadd_rn(max_score, __fmul_rn(row.temperature, __fmul_rn((float)exponent, 0.6931473f)));
        return (kiln_u64)order_key(low) << 32;
    }

    __device__ void draw() {
        const float max_score = rank_score(__ldcg(&state().best)), temperature = row.temperature;
        const auto mass_of = [&](float score) { return mass(__fdiv_rn(__fsub_rn(score, max_score), temperature)); };
        kiln_u64 cut = 0;
        if (row.top_k > 0 && row.top_k < p.slots.vocab_size) cut = cut_at<false>(row.top_k, 0, mass_of);
        if (row.top_p < WHOLE_Q32) {
            kiln_u64 sum = 0;
            each([&](float score, unsigned id) {
                if (rank_of(score, id) >= cut) sum += mass_of(score);
            });
            sum = cta_sum(sum);
            if (threadIdx.x == 0) atomicAdd(&state().total, sum);
            barrier();
            const kiln_u64 total = __ldcg(&state().total), target = share_of(total, row.top_p);
            if (target < total) {
                kiln_u64 nucleus = cut_at<true>(target, max(cut, low_for(total, target, max_score)), mass_of);
                if (nucleus == 0) nucleus = cut_at<true>(target, cut, mass_of);
                cut = max(cut, nucleus);
            }
        }
        pick(cut, mass_of);
    }

    // Draws among ranks from `cut` on that have the least mass. A warp takes neighbouring ids.
    template <typename Mass> __device__ void pick(kiln_u64 cut, Mass &&mass_of) {
        const unsigned per_warp = (count + 32 * WARPS - 1) / (32 * WARPS) * 32, start = warp_id() * per_warp;
        const unsigned end = min(start + per_warp, count);
        const auto mass_at = [&](unsigned i) -> kiln_u64 {
            if (i >= end || rank_of(s.scores[i], first + i) < cut) return 0;
            const kiln_u64 mass = mass_of(s.scores[i]);
            return mass >= row.min_mass ? mass : 0;
        };
        kiln_u64 sum = 0;
        for (unsigned i = start + lane_id(); i < end; i += 32) sum += mass_at(i);
        sum = cta_sum(sum);
        kiln_u64 *sums = p.sums + (size_t)index * gridDim.x;
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
        barrier();
        kiln_u64 total = 0, before = 0;
        for (unsigned c = 0; c < gridDim.x; c++) {
            const kiln_u64 other = __ldcg(&sums[c]);
            if (c < blockIdx.x) before += other;
            total += other;
        }
        kiln_u64 left = __umul64hi(row.random, total) - before;
        // Below `before`, it has wrapped around.
        if (left >= sum) return;
        for (unsigned w = 0; w < warp_id(); w++) left -= s.warp_sums[w];
        if (left >= s.warp_sums[warp_id()]) return;
        for (unsigned at = start; at < end; at += 32) {
            const kiln_u64 mass = mass_at(at + lane_id()), prefix = warp_prefix_u64(mass);
            if (prefix - mass <= left && left < prefix) state().chosen = first + at + lane_id();
            const kiln_u64 sum = __shfl_sync(FULL, prefix, 31);
            if (left < sum) return;
            left -= sum;
        }
    }

    // The raw distribution's mass, and the best tokens: of the processed logits for candidates, else of the raw ones.
    __device__ void report() {
        const bool is_processed = this->is_processed(), wants_processed = row.choice == KILN_CANDIDATES;
        if (wants_processed) report_top();
        if (is_processed) {
            // The processed ones have been read.
            __syncthreads();
            for (unsigned i = threadIdx.x; i < count; i += THREADS) s.scores[i] = logits()[first + i];
        }
        const float max_logit = key_value(__ldcg(&state().raw_max));
        kiln_u64 sum = 0;
        each([&](float logit, unsigned) { sum += mass(__fsub_rn(logit, max_logit)); });
        sum = cta_sum(sum);
        if (threadIdx.x == 0) atomicAdd(&state().raw_total, sum);
        if (!wants_processed) report_top();
    }

    __device__ void report_top() {
        if (row.top_count == 0) return;
        const kiln_u64 cut = cut_at<false>(row.top_count, 0, [](float) -> kiln_u64 { return 0; });
        KilnTop *top = p.top[p.step->results] + row.top_start;
        each([&](float logit, unsigned id) {
            if (rank_of(logit, id) >= cut) top[atomicAdd(&state().num_top, 1u)] = KilnTop{id, logit};
        });
    }

    // By the last CTA: the result, the slot's counts and token; the state is ready for the next launch.
    __device__ void finish() {
        if (threadIdx.x == 0) {
            KilnSampleState &state = this->state();
            KilnSampled out = {status(), 0, key_value(__ldcg(&state.raw_max)), 0.0f, __ldcg(&state.raw_total)};
            if (out.status == KILN_SAMPLED) {
                out.token = row.choice == KILN_FORCED ? row.forced
                            : row.choice == KILN_DRAW ? __ldcg(&state.chosen)
                                                      : rank_id(__ldcg(&state.best));
                out.logit = logits()[out.token];
            }
            if (out.status == KILN_SAMPLED && row.choice != KILN_CANDIDATES) {
                atomicAdd(&p.slots.counts[(size_t)row.slot * p.slots.vocab_size + out.token].output, 1u);
                atomicMax(&p.slots.last_sampled[row.slot], (kiln_u64)row.order << 32 | out.token);
            }
            p.results[p.step->results][row.result] = out;
            state.best = state.total = state.raw_total = 0;
            state.raw_max = state.not_finite = state.chosen = state.num_top = 0;
        }
        // The one that was read last; all CTAs have done so.
        if (uses_histograms) clear_histogram((histogram + 2) % 3, 0, 1);
    }

    __device__ void run(kiln_u32 i) {
        index = i;
        row = p.rows[i];
        uses_histograms = false;
        // The last row's scores have been read.
        __syncthreads();
        scan();
        const bool draws = row.choice == KILN_DRAW, reports = row.flags & KILN_SAMPLE_LOGPROBS;
        if (draws || reports) {
            barrier();
            if (status() == KILN_SAMPLED) {
                if (draws) draw();
                if (reports) report();
            }
        }
        if (is_last_to_arrive()) finish();
        if (row.next != KILN_NO_ROW) {
            // The next row's counters: this row's may still be in use by CTAs that have not arrived.
            index = row.next;
            barrier();
        }
    }
};

}  // namespace kiln

using namespace kiln;

// Tokens for all sample rows of the step. Dynamic shared memory: SampleShared with p.slice scores.
extern "C" __global__ void __launch_bounds__(KILN_SAMPLE_THREADS, 1) kiln_sample(const __grid_constant__ KilnSampleParams p) {
    extern __shared__ __align__(16) unsigned char memory[];
    Sampler sampler(p, *(SampleShared *)memory);
    for (unsigned chain = blockIdx.y; chain < p.step->num_sample_chains; chain += gridDim.y) {
        for (kiln_u32 row = chain; row != KILN_NO_ROW; row = sampler.row.next) sampler.run(row);
    }
}

// Slots that start: everything cleared, then tokens counted, masks set, biases kept. Grid: starts.
extern "C" __global__ void __launch_bounds__(KILN_SAMPLE_THREADS) kiln_start_slots(const __grid_constant__ KilnStartParams p) {
    const KilnStart start = p.starts[blockIdx.x];
    const KilnSlots &slots = p.slots;
    KilnCounts *counts = slots.counts + (size_t)start.slot * slots.vocab_size;
    kiln_u32 *masks = slots.masks + (size_t)start.slot * slots.mask_words;
    KilnBias *biases = slots.biases + (size_t)start.slot * KILN_BIASES_MAX;
    if (start.is_first) {
        for (unsigned i = threadIdx.x; i < slots.vocab_size; i += THREADS) counts[i] = KilnCounts{0, 0};
        for (unsigned i = threadIdx.x; i < slots.mask_words; i += THREADS) masks[i] = 0;
        if (threadIdx.x == 0) {
            slots.last_sampled[start.slot] = start.last_sampled;
            slots.num_biases[start.slot] = start.bias_count;
        }
        for (unsigned i = threadIdx.x; i < start.bias_count; i += THREADS) {
            const kiln_u32 *pair = p.words + start.bias_start + 2 * i;
            biases[i] = KilnBias{pair[0], __uint_as_float(pair[1])};
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < start.prompt_count; i += THREADS) atomicAdd(&counts[p.words[start.prompt_start + i]].prompt, 1u);
    for (unsigned i = threadIdx.x; i < start.output_count; i += THREADS) atomicAdd(&counts[p.words[start.output_start + i]].output, 1u);
    for (unsigned i = threadIdx.x; i < start.mask_count; i += THREADS) {
        const kiln_u32 id = p.words[start.mask_start + i];
        atomicOr(&masks[id / 32], 1u << id % 32);
    }
}
