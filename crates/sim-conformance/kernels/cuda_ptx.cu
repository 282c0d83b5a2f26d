// cuda::ptx: instructions by name.
#include <cuda/ptx>
#include <cuda/std/cstdint>

namespace ptx = cuda::ptx;

// Two halves of a block hand values over through mbarriers, phase by phase.
extern "C" __global__ void cuda_ptx_mbarrier(const int* x, int* out, int phases) {
  __shared__ cuda::std::uint64_t full, empty;
  __shared__ int values[32];
  int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&full, 32);
    ptx::mbarrier_init(&empty, 32);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }
  __syncthreads();
  for (int phase = 0; phase < phases; ++phase) {
    if (threadIdx.x < 32) {
      if (phase > 0)
        while (!ptx::mbarrier_try_wait_parity(&empty, (phase - 1) & 1)) {
        }
      values[lane] = x[phase * 32 + lane];
      ptx::mbarrier_arrive(&full);
    } else {
      while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cta, &full, phase & 1)) {
      }
      out[phase * 32 + lane] = values[31 - lane] + 1;
      ptx::mbarrier_arrive(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &empty);
    }
  }
}

extern "C" __global__ void cuda_ptx_bits(const unsigned* x, unsigned* out) {
  int i = threadIdx.x;
  unsigned a = x[i], b = x[(i + 1) % 64], *o = out + i * 8;
  o[0] = ptx::bfind(a);
  o[1] = ptx::bmsk_clamp(a % 40, b % 40);
  o[2] = ptx::prmt(a, b, 0x7531u);
  o[3] = ptx::shr(a, b % 40);
  o[4] = ptx::shl(a, b % 40);
  o[5] = ptx::get_sreg_lanemask_lt() ^ ptx::get_sreg_laneid();
  bool valid;
  o[6] = ptx::shfl_sync_down(a, valid, 3u, 31u, 0xffffffffu) + valid;
  o[7] = ptx::elect_sync(0xffffffffu);
}
