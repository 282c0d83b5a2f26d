// libcu++: synchronisation, atomics and the device parts of the standard library, one kernel per facility.
#include <cooperative_groups.h>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/latch>
#include <cuda/pipeline>
#include <cuda/semaphore>
#include <cuda/std/algorithm>
#include <cuda/std/array>
#include <cuda/std/bit>
#include <cuda/std/complex>
#include <cuda/std/mdspan>
#include <cuda/std/numeric>
#include <cuda/std/optional>
#include <cuda/std/span>
#include <cuda/std/tuple>
#include <cuda/std/variant>

namespace cg = cooperative_groups;

using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Warp 0 produces tiles, the others consume them; two barriers per stage hand the stage back and forth.
extern "C" __global__ void cuda_barrier_producer_consumer(const int* x, int* out, int tiles) {
  constexpr int kTile = 96, kStages = 2;
  __shared__ int stage[kStages][kTile];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier ready[kStages], filled[kStages];
  if (threadIdx.x < kStages) {
    init(ready + threadIdx.x, blockDim.x);
    init(filled + threadIdx.x, blockDim.x);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    for (int tile = 0; tile < tiles; ++tile) {
      int s = tile % kStages;
      ready[s].arrive_and_wait();
      for (int i = threadIdx.x; i < kTile; i += 32) stage[s][i] = x[tile * kTile + i] * 2;
      (void)filled[s].arrive();
    }
  } else {
    for (int s = 0; s < kStages && s < tiles; ++s) (void)ready[s].arrive();
    for (int tile = 0; tile < tiles; ++tile) {
      int s = tile % kStages, i = threadIdx.x - 32;
      filled[s].arrive_and_wait();
      out[tile * kTile + i] = stage[s][kTile - 1 - i] + 1;
      if (tile + kStages < tiles) (void)ready[s].arrive();
    }
  }
}

struct AddFinished {
  int* count;
  __device__ void operator()() const noexcept { *count += 1; }
};

// A completion function runs once per phase; a thread that drops out lowers the count of the later ones.
extern "C" __global__ void cuda_barrier_completion(int* phases, int* out) {
  using Counting = cuda::barrier<cuda::thread_scope_block, AddFinished>;
  __shared__ cuda::std::aligned_storage_t<sizeof(Counting), alignof(Counting)> storage;
  __shared__ int finished;
  auto* barrier = reinterpret_cast<Counting*>(&storage);
  if (threadIdx.x == 0) {
    finished = 0;
    new (barrier) Counting(blockDim.x, AddFinished{&finished});
  }
  __syncthreads();
  if (threadIdx.x >= 48) {
    barrier->arrive_and_drop();
  } else {
    for (int i = 0; i < 3; ++i) {
      barrier->arrive_and_wait();
      out[i * 48 + threadIdx.x] = finished;
      barrier->arrive_and_wait();
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *phases = finished;
}

extern "C" __global__ void cuda_memcpy_async_barrier(const int4* x, int4* out, int count) {
  __shared__ alignas(16) int4 tile[128];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier barrier;
  auto block = cg::this_thread_block();
  if (threadIdx.x == 0) init(&barrier, blockDim.x);
  block.sync();
  for (int base = 0; base < count; base += 128) {
    int valid = count - base < 128 ? count - base : 128;
    // Each thread copies its own element and signals the barrier.
    if (static_cast<int>(threadIdx.x) < valid)
      cuda::memcpy_async(&tile[threadIdx.x], x + base + threadIdx.x, cuda::aligned_size_t<16>(16), barrier);
    barrier.arrive_and_wait();
    if (static_cast<int>(threadIdx.x) < valid) out[base + threadIdx.x] = tile[valid - 1 - threadIdx.x];
    block.sync();
  }
}

extern "C" __global__ void cuda_pipeline_block(const int* x, int* out, int tiles) {
  constexpr int kTile = 128, kStages = 3;
  __shared__ alignas(16) int stage[kStages][kTile];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, kStages> state;
  auto block = cg::this_thread_block();
  auto pipeline = cuda::make_pipeline(block, &state);
  int sum = 0;
  for (int fetch = 0, tile = 0; tile < tiles; ++tile) {
    for (; fetch < tiles && fetch < tile + kStages; ++fetch) {
      pipeline.producer_acquire();
      cuda::memcpy_async(block, stage[fetch % kStages], x + fetch * kTile,
                         cuda::aligned_size_t<16>(sizeof(int) * kTile), pipeline);
      pipeline.producer_commit();
    }
    pipeline.consumer_wait();
    sum = sum * 3 + stage[tile % kStages][(threadIdx.x + tile) % kTile];
    pipeline.consumer_release();
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void cuda_pipeline_roles(const int* x, int* out, int tiles) {
  constexpr int kTile = 64, kStages = 2;
  __shared__ alignas(16) int stage[kStages][kTile];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, kStages> state;
  auto block = cg::this_thread_block();
  auto role = threadIdx.x < 32 ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer;
  auto pipeline = cuda::make_pipeline(block, &state, role);
  for (int tile = 0; tile < tiles; ++tile) {
    if (role == cuda::pipeline_role::producer) {
      pipeline.producer_acquire();
      for (int i = threadIdx.x; i < kTile; i += 32)
        cuda::memcpy_async(&stage[tile % kStages][i], x + tile * kTile + i, sizeof(int), pipeline);
      pipeline.producer_commit();
    } else {
      pipeline.consumer_wait();
      int i = threadIdx.x - 32;
      out[tile * kTile + i] = stage[tile % kStages][kTile - 1 - i];
      pipeline.consumer_release();
    }
  }
}

extern "C" __global__ void cuda_pipeline_thread(const float4* x, float4* out, int count) {
  __shared__ float4 stage[2][64];
  auto pipeline = cuda::make_pipeline();
  int stride = gridDim.x * 64, first = blockIdx.x * 64 + threadIdx.x, t = threadIdx.x;
  int fetch = first;
  for (int i = first, s = 0; i < count; i += stride, s ^= 1) {
    for (; fetch < count && fetch <= i + stride; fetch += stride) {
      pipeline.producer_acquire();
      int to = (fetch - first) / stride % 2;
      cuda::memcpy_async(&stage[to][t], x + fetch, cuda::aligned_size_t<16>(16), pipeline);
      pipeline.producer_commit();
    }
    cuda::pipeline_consumer_wait_prior<1>(pipeline);
    if (i + stride >= count) cuda::pipeline_consumer_wait_prior<0>(pipeline);
    float4 v = stage[s][t];
    out[i] = make_float4(v.w, v.z, v.y, v.x);
    pipeline.consumer_release();
  }
}

extern "C" __global__ void cuda_atomic_ref_arithmetic(const int* x, int* ints, float* floats, double* doubles,
                                                      unsigned long long* longs) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i];
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[0]).fetch_add(v, cuda::memory_order_relaxed);
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[1]).fetch_max(v);
  cuda::atomic_ref<int, cuda::thread_scope_system>(ints[2]).fetch_min(v);
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[3]).fetch_xor(v);
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[4]).fetch_or(1 << (v & 31));
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[5]).fetch_and(~(1 << (v & 31)));
  cuda::atomic_ref<int, cuda::thread_scope_device>(ints[6]).fetch_sub(v);
  cuda::atomic_ref<float, cuda::thread_scope_device>(floats[0]).fetch_add(static_cast<float>(v & 7));
  cuda::atomic_ref<float, cuda::thread_scope_device>(floats[1]).fetch_max(static_cast<float>(v));
  cuda::atomic_ref<double, cuda::thread_scope_device>(doubles[0]).fetch_add(0.5 * v);
  cuda::atomic_ref<unsigned long long, cuda::thread_scope_device> wide(longs[0]);
  wide.fetch_add(static_cast<unsigned long long>(v) << 20);
  cuda::atomic_ref<unsigned long long, cuda::thread_scope_device>(longs[1]).fetch_max(
      static_cast<unsigned long long>(static_cast<unsigned>(v)) << 32 | i);
}

// Products modulo a prime by compare-and-exchange: the order does not matter.
extern "C" __global__ void cuda_atomic_ref_exchange(const unsigned* x, unsigned* product, short* small, int* owner) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  cuda::atomic_ref<unsigned, cuda::thread_scope_device> ref(*product);
  unsigned old = ref.load(cuda::memory_order_relaxed);
  while (!ref.compare_exchange_weak(old, static_cast<unsigned>(1ull * old * x[i] % 65521), cuda::memory_order_acq_rel)) {
  }
  cuda::atomic_ref<short, cuda::thread_scope_device>(small[i % 3]).fetch_add(short(i % 5));
  int expected = -1;
  cuda::atomic_ref<int, cuda::thread_scope_device>(owner[i % 7]).compare_exchange_strong(expected, i % 7 + 100);
}

// Every block waits for the one before it: a chain of releases and acquires through global memory.
extern "C" __global__ void cuda_atomic_message(const int* x, int* sums, int* flags) {
  __shared__ int before;
  int block = blockIdx.x;
  if (threadIdx.x == 0) {
    before = 0;
    if (block > 0) {
      cuda::atomic_ref<int, cuda::thread_scope_device> flag(flags[block - 1]);
      while (flag.load(cuda::memory_order_acquire) == 0) __nanosleep(20);
      before = sums[(block - 1) * 32];
    }
  }
  __syncthreads();
  sums[block * 32 + threadIdx.x] = before + x[block];
  __syncthreads();
  if (threadIdx.x == 0) {
    cuda::atomic_ref<int, cuda::thread_scope_device>(flags[block]).store(1, cuda::memory_order_release);
  }
}

// A ticket lock around unsynchronised memory, and a fence around relaxed flags.
extern "C" __global__ void cuda_atomic_lock(int* lock, int* list, int* fenced) {
  if (threadIdx.x % 32 == 0) {
    cuda::atomic_ref<int, cuda::thread_scope_device> ticket(lock[0]), serving(lock[1]);
    int mine = ticket.fetch_add(1, cuda::memory_order_relaxed);
    while (serving.load(cuda::memory_order_acquire) != mine) __nanosleep(10);
    int at = list[0];
    list[1 + at] = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    list[0] = at + 1;
    serving.store(mine + 1, cuda::memory_order_release);
  }
  cuda::atomic_ref<int, cuda::thread_scope_device> flag(fenced[1]);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    fenced[0] = 42;
    cuda::atomic_thread_fence(cuda::memory_order_release, cuda::thread_scope_device);
    flag.store(1, cuda::memory_order_relaxed);
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    while (flag.load(cuda::memory_order_relaxed) == 0) {
    }
    cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
    fenced[2] = fenced[0] + 1;
  }
}

extern "C" __global__ void cuda_semaphore_latch(int* inside_most, int* out) {
  __shared__ cuda::std::aligned_storage_t<sizeof(cuda::counting_semaphore<cuda::thread_scope_block, 3>), 8> a;
  __shared__ cuda::std::aligned_storage_t<sizeof(cuda::latch<cuda::thread_scope_block>), 8> b;
  __shared__ int inside, most, values[4];
  auto* semaphore = reinterpret_cast<cuda::counting_semaphore<cuda::thread_scope_block, 3>*>(&a);
  auto* latch = reinterpret_cast<cuda::latch<cuda::thread_scope_block>*>(&b);
  if (threadIdx.x == 0) {
    new (semaphore) cuda::counting_semaphore<cuda::thread_scope_block, 3>(3);
    new (latch) cuda::latch<cuda::thread_scope_block>(4);
    inside = most = 0;
  }
  __syncthreads();
  semaphore->acquire();
  int now = atomicAdd(&inside, 1) + 1;
  atomicMax(&most, now);
  atomicSub(&inside, 1);
  semaphore->release();
  if (threadIdx.x % 32 == 7) {
    values[threadIdx.x / 32] = 1000 + threadIdx.x;
    latch->count_down();
  }
  latch->wait();
  out[threadIdx.x] = values[(threadIdx.x + 1) % 4];
  __syncthreads();
  if (threadIdx.x == 0) *inside_most = most;
}

// A radix-2 transform in shared memory.
extern "C" __global__ void cuda_std_complex(const float2* x, float2* out, const float2* roots) {
  constexpr int kPoints = 128;
  using Complex = cuda::std::complex<float>;
  __shared__ cuda::std::array<Complex, kPoints> data;
  int t = threadIdx.x;
  for (int i = t; i < kPoints; i += kPoints / 2) data[__brev(i) >> 25] = Complex(x[i].x, x[i].y);
  __syncthreads();
  for (int half = 1; half < kPoints; half *= 2) {
    int low = t / half * half * 2 + t % half;
    float2 root = roots[t % half * (kPoints / 2 / half)];
    Complex even = data[low], odd = data[low + half] * Complex(root.x, root.y);
    data[low] = even + odd;
    data[low + half] = even - odd;
    __syncthreads();
  }
  for (int i = t; i < kPoints; i += kPoints / 2) out[i] = make_float2(data[i].real(), data[i].imag());
}

struct Square {
  __device__ long long operator()(int v) const { return 1ll * v * v; }
};
struct Length {
  __device__ long long operator()(cuda::std::span<const int> s) const { return s.size(); }
};

extern "C" __global__ void cuda_std_containers(const int* x, long long* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  cuda::std::span<const int> all(x, count);
  cuda::std::mdspan<const int, cuda::std::extents<int, cuda::std::dynamic_extent, 8>> grid(x, count / 8);
  cuda::std::array<int, 8> row;
  for (int j = 0; j < 8; ++j) row[j] = grid(i / 8, j);
  cuda::std::make_heap(row.begin(), row.end());
  cuda::std::sort_heap(row.begin(), row.end());
  auto place = cuda::std::lower_bound(row.begin(), row.end(), all[i]);
  auto ends = cuda::std::minmax_element(row.begin(), row.end());
  auto [least, most] = cuda::std::make_tuple(*ends.first, *ends.second);
  cuda::std::optional<int> even = all[i] % 2 == 0 ? cuda::std::optional<int>(all[i]) : cuda::std::nullopt;
  cuda::std::variant<int, cuda::std::span<const int>> either = all[i];
  if (i % 3 == 0) either = all.subspan(0, i % 11);
  long long visited = cuda::std::holds_alternative<int>(either)
                          ? Square{}(cuda::std::get<int>(either))
                          : Length{}(cuda::std::get<cuda::std::span<const int>>(either));
  long long sum = cuda::std::accumulate(row.begin(), row.end(), 0ll);
  out[i * 6 + 0] = place - row.begin();
  out[i * 6 + 1] = 1ll * most - least;
  out[i * 6 + 2] = even.value_or(-7);
  out[i * 6 + 3] = visited;
  out[i * 6 + 4] = sum;
  out[i * 6 + 5] = cuda::std::gcd(row[0] & 0xffff, row[7] & 0xffff);
}

extern "C" __global__ void cuda_std_bit(const unsigned long long* x, unsigned* out) {
  int i = threadIdx.x;
  auto wide = x[i];
  auto narrow = static_cast<unsigned>(wide);
  auto tiny = static_cast<unsigned short>(wide);
  unsigned* o = out + i * 10;
  o[0] = cuda::std::popcount(wide);
  o[1] = cuda::std::countl_zero(wide) * 100 + cuda::std::countr_zero(narrow);
  o[2] = cuda::std::countl_one(narrow) * 100 + cuda::std::countr_one(wide);
  o[3] = cuda::std::bit_width(narrow);
  o[4] = cuda::std::rotl(narrow, i);
  o[5] = cuda::std::rotr(tiny, i);
  o[6] = cuda::std::bit_ceil(narrow >> 1);
  o[7] = cuda::std::bit_floor(narrow);
  o[8] = cuda::std::byteswap(narrow);
  o[9] = cuda::std::bit_cast<unsigned>(static_cast<float>(narrow));
}
