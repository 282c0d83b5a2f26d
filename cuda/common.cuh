// Small device functions that every kernel uses: warp reductions in one fixed order, and the rule by which activations become int8.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "abi.h"

namespace kiln {

constexpr unsigned FULL = 0xffffffffu;
// src/device/quant.rs
constexpr float AMAX_MIN = 1e-30f;

// Programmatic dependent launch (PTX ISA: griddepcontrol), where there is any. A kernel that is launched early may prefetch constants, and
// touches nothing else before this: then all that earlier launches wrote is there. Only then may the next kernel start early, so that
// at most two launches share the device. Every CTA must call it.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline unsigned lane_id() { return threadIdx.x & 31u; }
__device__ inline unsigned warp_id() { return threadIdx.x >> 5; }

// Butterfly: every lane ends with the same bits, because a sum of two does not depend on their order.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(FULL, x, distance);
    return x;
}

// Blocks per segment of a row of `blocks` blocks: segment sums are formed in block order and added in segment order.
__device__ inline unsigned segment_blocks(unsigned blocks) {
    const unsigned share = (blocks + KILN_SEGMENTS_MAX - 1) / KILN_SEGMENTS_MAX;
    return share < KILN_SEGMENT_BLOCKS_MIN ? KILN_SEGMENT_BLOCKS_MIN : share;
}

// A warp's 32 values, one per lane, become a block of int8 activations (src/device/quant.rs, quantise_block).
__device__ inline void quantise_block(float x, kiln_i8 *quants, KilnActivationScale *scales) {
    const unsigned lane = lane_id();
    const unsigned amax_bits = __reduce_max_sync(FULL, __float_as_uint(x) & 0x7fffffffu);
    const float amax = __uint_as_float(amax_bits);
    // Selections, not branches: what is not selected may be anything.
    const bool is_finite = amax_bits < 0x7f800000u, is_zero = amax < AMAX_MIN;
    const int rounded = __float2int_rn(x * (127.0f / amax)), q = is_finite && !is_zero ? rounded : 0;
    const float scale = !is_finite ? __uint_as_float(0x7fc00000u) : is_zero ? 0.0f : amax / 127.0f;
    const int sum_low = __reduce_add_sync(FULL, lane < 16 ? q : 0);
    const int sum = __reduce_add_sync(FULL, q);
    quants[lane] = (kiln_i8)q;
    // One store, the same of all lanes: rows of scales are aligned to 16 bytes everywhere.
    *(float4 *)scales = make_float4(scale, scale * (float)sum, __int_as_float(sum_low), __int_as_float(sum - sum_low));
}

__device__ inline void quantise_block(float x, const KilnActivations &out, unsigned row, unsigned block) {
    const size_t at = (size_t)row * out.blocks + block;
    quantise_block(x, out.quants + at * KILN_BLOCK, out.scales + at);
}

// x / (1 + e^-y)
__device__ inline float sigmoid_times(float x, float y) { return x / (1.0f + expf(-y)); }

__device__ inline float activate(unsigned kind, float x) {
    if (kind == KILN_GATED_SILU) return sigmoid_times(x, x);
    // 0.5 (1 + tanh u) = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    return sigmoid_times(x, 1.595769122f * fmaf(x * x * 0.044715f, x, x));
}

// The batch rows of a launch: all of them, or those that need logits.
__device__ inline unsigned row_count(const KilnStep *step, bool logit_rows) {
    return logit_rows ? step->num_logit_rows : step->num_rows;
}

}  // namespace kiln
