// Cooperative groups: one kernel per kind of group, named as its test.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

template <int kSize>
__device__ void tile_sums(const int* x, int* sums, int* scans, int* largest) {
  auto tile = cg::tiled_partition<kSize>(cg::this_thread_block());
  int i = cg::this_grid().thread_rank();
  sums[i] = cg::reduce(tile, x[i], cg::plus<int>());
  scans[i] = cg::exclusive_scan(tile, x[i]);
  // A reduction by hand, as kernels write it.
  int most = x[i];
  for (int offset = tile.size() / 2; offset > 0; offset /= 2) {
    int other = tile.shfl_xor(most, offset);
    most = other > most ? other : most;
  }
  largest[i] = most;
}

extern "C" __global__ void cg_tiles(const int* x, int* sums, int* scans, int* largest, int size) {
  switch (size) {
    case 1: return tile_sums<1>(x, sums, scans, largest);
    case 2: return tile_sums<2>(x, sums, scans, largest);
    case 4: return tile_sums<4>(x, sums, scans, largest);
    case 8: return tile_sums<8>(x, sums, scans, largest);
    case 16: return tile_sums<16>(x, sums, scans, largest);
    default: return tile_sums<32>(x, sums, scans, largest);
  }
}

extern "C" __global__ void cg_tile_votes(const int* x, unsigned* ballots, unsigned* matches, int* any_all, int* shifted) {
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  int i = threadIdx.x;
  ballots[i] = tile.ballot(x[i] & 1);
  matches[i] = tile.match_any(x[i]);
  int same = 0;
  any_all[i] = tile.any(x[i] > 5) * 2 + tile.all(x[i] > 0) + 4 * (tile.match_all(x[i], same) != 0);
  shifted[i] = tile.shfl_up(x[i], 3) * 100 + tile.shfl_down(x[i], 2) * 10 + tile.shfl(x[i], 5);
}

extern "C" __global__ void cg_coalesced(const int* x, int* sums, int* ranks, int* counter, int* slots) {
  int i = cg::this_grid().thread_rank();
  sums[i] = -1;
  ranks[i] = -1;
  slots[i] = -1;
  if (x[i] % 3 == 0) {
    auto active = cg::coalesced_threads();
    sums[i] = cg::reduce(active, x[i], cg::plus<int>());
    ranks[i] = active.thread_rank();
    // One atomic operation per group of threads that are here together.
    int first = 0;
    if (active.thread_rank() == 0) first = atomicAdd(counter, static_cast<int>(active.size()));
    slots[i] = active.shfl(first, 0) + active.thread_rank();
  }
}

extern "C" __global__ void cg_partitions(const int* x, int* binary, int* labeled, int* scan) {
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int i = threadIdx.x;
  auto half = cg::binary_partition(warp, (x[i] & 1) != 0);
  binary[i] = cg::reduce(half, x[i], cg::greater<int>());
  auto same = cg::labeled_partition(warp, x[i] % 4);
  labeled[i] = same.num_threads() * 100 + same.thread_rank();
  scan[i] = cg::inclusive_scan(same, x[i], cg::plus<int>());
}

extern "C" __global__ void cg_multi_warp_tile(const int* x, int* out) {
  __shared__ cg::block_tile_memory<128> scratch;
  auto block = cg::this_thread_block(scratch);
  auto tile = cg::tiled_partition<64>(block);
  int i = threadIdx.x;
  out[i] = cg::reduce(tile, x[i], cg::plus<int>()) + 1000000 * tile.meta_group_rank();
  tile.sync();
  out[i + blockDim.x] = tile.shfl(x[i], 63);
}

// Each step averages neighbours: every block needs what the others wrote in the step before.
extern "C" __global__ void cg_grid_sync(float* a, float* b, int count, int steps) {
  auto grid = cg::this_grid();
  for (int step = 0; step < steps; ++step) {
    for (int i = grid.thread_rank(); i < count; i += grid.size()) {
      float left = a[i == 0 ? count - 1 : i - 1], right = a[i == count - 1 ? 0 : i + 1];
      b[i] = 0.5f * (left + right);
    }
    float* swap = a;
    a = b;
    b = swap;
    grid.sync();
  }
}

extern "C" __global__ void cg_cluster_histogram(const int* x, int per_block, int* bins, int bins_per_block) {
  extern __shared__ int histogram[];
  auto cluster = cg::this_cluster();
  auto block = cg::this_thread_block();
  for (int i = block.thread_rank(); i < bins_per_block; i += block.size()) histogram[i] = 0;
  cluster.sync();
  for (int i = block.thread_rank(); i < per_block; i += block.size()) {
    int bin = x[cg::this_grid().block_rank() * per_block + i];
    int* remote = cluster.map_shared_rank(histogram, bin / bins_per_block);
    atomicAdd(remote + bin % bins_per_block, 1);
  }
  cluster.sync();
  int* out = bins + cluster.block_rank() * bins_per_block;
  for (int i = block.thread_rank(); i < bins_per_block; i += block.size()) atomicAdd(out + i, histogram[i]);
}

extern "C" __global__ void cg_cluster_ring(const int* x, int* out) {
  __shared__ int value;
  auto cluster = cg::this_cluster();
  if (threadIdx.x == 0) value = x[blockIdx.x];
  auto token = cluster.barrier_arrive();
  cluster.barrier_wait(cuda::std::move(token));
  if (threadIdx.x == 0) {
    unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
    out[blockIdx.x] = *cluster.map_shared_rank(&value, next) * 10 + cluster.query_shared_rank(&value);
  }
  // No block may exit while another reads its memory.
  cluster.sync();
}

extern "C" __global__ void cg_split_barrier(const int* x, int* out) {
  __shared__ int tile[128];
  auto block = cg::this_thread_block();
  int i = threadIdx.x;
  tile[i] = x[i];
  auto token = block.barrier_arrive();
  int own = x[i] * 3;
  block.barrier_wait(std::move(token));
  out[i] = tile[127 - i] - own;
}

extern "C" __global__ void cg_memcpy_async(const int* x, int* out, int count) {
  constexpr int kTile = 256;
  __shared__ alignas(16) int stage[2][kTile];
  auto block = cg::this_thread_block();
  int tiles = (count + kTile - 1) / kTile;
  auto load = [&](int tile) {
    int elements = count - tile * kTile < kTile ? count - tile * kTile : kTile;
    cg::memcpy_async(block, stage[tile % 2], x + tile * kTile, sizeof(int) * elements);
  };
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      load(tile + 1);
      cg::wait_prior<1>(block);
    } else {
      cg::wait(block);
    }
    // Reversed: every thread reads what another copied.
    int elements = count - tile * kTile < kTile ? count - tile * kTile : kTile;
    for (int i = threadIdx.x; i < elements; i += block.size())
      out[tile * kTile + i] = stage[tile % 2][elements - 1 - i];
    block.sync();
  }
}
