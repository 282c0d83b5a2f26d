// Bulk and tensor copies through libcu++: cuda::barrier and cuda::ptx.
#include <cuda.h>
#include <cuda/barrier>
#include <cuda/ptx>

namespace ptx = cuda::ptx;
using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Rows of 256 floats, each loaded, scaled in place and stored in bulk.
extern "C" __global__ void tma_scale_rows(const float* x, float* out, int rows, float factor) {
  __shared__ alignas(128) float row[256];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier loaded;
  if (threadIdx.x == 0) {
    init(&loaded, blockDim.x);
    ptx::fence_proxy_async(ptx::space_shared);
  }
  __syncthreads();
  for (int i = blockIdx.x; i < rows; i += gridDim.x) {
    Barrier::arrival_token token;
    if (threadIdx.x == 0) {
      cuda::device::memcpy_async_tx(row, x + i * 256, cuda::aligned_size_t<16>(sizeof(row)), loaded);
      token = cuda::device::barrier_arrive_tx(loaded, 1, sizeof(row));
    } else {
      token = loaded.arrive();
    }
    loaded.wait(std::move(token));
    for (int j = threadIdx.x; j < 256; j += blockDim.x) row[j] *= factor;
    ptx::fence_proxy_async(ptx::space_shared);
    __syncthreads();
    if (threadIdx.x == 0) {
      ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, out + i * 256, row, sizeof(row));
      ptx::cp_async_bulk_commit_group();
      ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    }
    __syncthreads();
  }
}

// A transpose by tiles of 32 × 32 floats, read with a swizzle of 128 bytes so that columns lie in different banks.
extern "C" __global__ void tma_transpose(const __grid_constant__ CUtensorMap from, const __grid_constant__ CUtensorMap to) {
  __shared__ alignas(1024) float tile[32 * 32];
  __shared__ alignas(1024) float turned[32 * 32];
  __shared__ cuda::std::uint64_t loaded;
  int x = blockIdx.x * 32, y = blockIdx.y * 32;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&loaded, 1);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
    const cuda::std::int32_t at[2] = {x, y};
    ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, tile, &from, at, &loaded);
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &loaded, sizeof(tile));
  }
  __syncthreads();
  while (!ptx::mbarrier_try_wait_parity(&loaded, 0)) {
  }
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) {
    int row = i % 32, col = i / 32;
    turned[col * 32 + row] = tile[row * 32 + (((col / 4) ^ (row % 8)) * 4 | col % 4)];
  }
  ptx::fence_proxy_async(ptx::space_shared);
  __syncthreads();
  if (threadIdx.x == 0) {
    const cuda::std::int32_t at[2] = {y, x};
    ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &to, at, turned);
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
  }
}

// Boxes of a tensor of five dimensions, with element strides, copied to a list.
extern "C" __global__ void tma_boxes(const __grid_constant__ CUtensorMap map, const int* starts, short* out, int count) {
  __shared__ alignas(128) short box[2048];
  __shared__ cuda::std::uint64_t loaded;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&loaded, 1);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
    const int* s = starts + 5 * blockIdx.x;
    const cuda::std::int32_t at[5] = {s[0], s[1], s[2], s[3], s[4]};
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &loaded, count * 2);
    ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, box, &map, at, &loaded);
  }
  __syncthreads();
  while (!ptx::mbarrier_try_wait_parity(&loaded, 0)) {
  }
  for (int i = threadIdx.x; i < count; i += blockDim.x) out[blockIdx.x * count + i] = box[i];
}

// Counts of each block's share, added to a histogram in global memory in bulk; maxima likewise, of 64-bit numbers.
extern "C" __global__ void tma_histogram(const unsigned char* x, unsigned* bins, cuda::std::uint64_t* largest, int count) {
  __shared__ alignas(128) unsigned mine[256];
  __shared__ alignas(16) cuda::std::uint64_t best[2];
  mine[threadIdx.x] = 0;
  if (threadIdx.x < 2) best[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    atomicAdd(mine + x[i], 1u);
    atomicMax(reinterpret_cast<unsigned long long*>(best) + i % 2, (unsigned long long)x[i] << 33 | i);
  }
  ptx::fence_proxy_async(ptx::space_shared);
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_add, bins, mine, sizeof(mine));
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_max, largest, best, sizeof(best));
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group(ptx::n32_t<0>());
  }
}

// Clusters of four: one load for all, then each block's sum goes round, from shared memory to shared memory.
extern "C" __global__ void __cluster_dims__(4, 1, 1) tma_ring(const int* x, int* out) {
  __shared__ alignas(128) int values[64];
  __shared__ alignas(128) int received[64];
  __shared__ cuda::std::uint64_t loaded, given;
  unsigned rank = ptx::get_sreg_cluster_ctarank(), next = (rank + 1) % 4;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&loaded, 1);
    ptx::mbarrier_init(&given, 1);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &loaded, sizeof(values));
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &given, sizeof(received));
  }
  ptx::barrier_cluster_arrive();
  ptx::barrier_cluster_wait();
  if (rank == 2 && threadIdx.x == 0) {
    ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, values, x + blockIdx.x / 4 * 64, sizeof(values), &loaded, (cuda::std::uint16_t)15);
  }
  while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cluster, &loaded, 0)) {
  }
  values[threadIdx.x] += 1000 * rank;
  ptx::fence_proxy_async(ptx::space_shared);
  __syncthreads();
  if (threadIdx.x == 0) {
    auto far = [&](void* p) {
      unsigned mapped;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"((unsigned)__cvta_generic_to_shared(p)), "r"(next));
      return mapped;
    };
    // By hand: the functions of cuda::ptx take generic pointers to the other block, as map_shared_rank returns them.
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(far(received)),
                 "r"((unsigned)__cvta_generic_to_shared(values)), "n"(sizeof(values)), "r"(far(&given))
                 : "memory");
  }
  while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cluster, &given, 0)) {
  }
  out[blockIdx.x * 64 + threadIdx.x] = received[threadIdx.x];
  ptx::barrier_cluster_arrive();
  ptx::barrier_cluster_wait();
}

// A tensor map is moved to another row block on the device, then used.
extern "C" __global__ void tma_moved_map(const __grid_constant__ CUtensorMap map, CUtensorMap* room, const float* x, float* out) {
  __shared__ alignas(128) CUtensorMap edited;
  __shared__ alignas(128) float tile[16 * 32];
  __shared__ cuda::std::uint64_t loaded;
  CUtensorMap* mine = room + blockIdx.x;
  if (threadIdx.x < 32) {
    reinterpret_cast<unsigned*>(&edited)[threadIdx.x] = reinterpret_cast<const unsigned*>(&map)[threadIdx.x];
    __syncwarp();
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&loaded, 1);
      ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
      ptx::tensormap_replace_global_address(ptx::space_shared, &edited, x + blockIdx.x * 512);
      ptx::tensormap_replace_global_dim(ptx::space_shared, &edited, ptx::n32_t<1>(), 16 - (int)blockIdx.x);
    }
    __syncwarp();
    ptx::tensormap_cp_fenceproxy(ptx::sem_release, ptx::scope_gpu, mine, &edited, ptx::n32_t<128>());
    ptx::fence_proxy_tensormap_generic(ptx::sem_acquire, ptx::scope_gpu, mine, ptx::n32_t<128>());
    if (threadIdx.x == 0) {
      const cuda::std::int32_t at[2] = {0, 0};
      ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &loaded, sizeof(tile));
      ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, tile, mine, at, &loaded);
    }
  }
  __syncthreads();
  while (!ptx::mbarrier_try_wait_parity(&loaded, 0)) {
  }
  for (int i = threadIdx.x; i < 512; i += blockDim.x) out[blockIdx.x * 512 + i] = tile[i];
}
