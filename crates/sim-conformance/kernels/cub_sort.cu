// Block-wide sorts and selections of CUB.
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_rank.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_topk.cuh>
#include <cub/block/radix_rank_sort_operations.cuh>

constexpr int kThreads = 128;
constexpr int kItems = 5;
constexpr int kTile = kThreads * kItems;

template <typename T>
__device__ void read_items(const T* x, T (&items)[kItems]) {
  for (int i = 0; i < kItems; ++i) items[i] = x[blockIdx.x * kTile + threadIdx.x * kItems + i];
}

template <typename T>
__device__ void write_items(T* out, const T (&items)[kItems]) {
  for (int i = 0; i < kItems; ++i) out[blockIdx.x * kTile + threadIdx.x * kItems + i] = items[i];
}

extern "C" __global__ void cub_block_radix_sort(const float* x, float* out) {
  using Sort = cub::BlockRadixSort<float, kThreads, kItems>;
  __shared__ typename Sort::TempStorage storage;
  float keys[kItems];
  read_items(x, keys);
  Sort(storage).Sort(keys);
  write_items(out, keys);
}

extern "C" __global__ void cub_block_radix_sort_pairs(const int* x, int* keys_out, unsigned short* values_out) {
  using Sort = cub::BlockRadixSort<int, kThreads, kItems, unsigned short>;
  __shared__ typename Sort::TempStorage storage;
  int keys[kItems];
  unsigned short values[kItems];
  read_items(x, keys);
  for (int i = 0; i < kItems; ++i) values[i] = threadIdx.x * kItems + i;
  Sort(storage).SortDescending(keys, values);
  write_items(keys_out, keys);
  write_items(values_out, values);
}

extern "C" __global__ void cub_block_radix_rank(const unsigned* x, int* ranks, int* first_of_bin) {
  constexpr int kBits = 6;
  using Rank = cub::BlockRadixRankMatchEarlyCounts<kThreads, kBits, false, cub::BLOCK_SCAN_WARP_SCANS>;
  constexpr int kBinsPerThread = Rank::BINS_TRACKED_PER_THREAD;
  __shared__ typename Rank::TempStorage storage;
  unsigned keys[kItems];
  int rank[kItems], bins[kBinsPerThread];
  // The match ranking wants each warp's keys striped over its lanes.
  unsigned base = threadIdx.x / 32 * 32 * kItems + threadIdx.x % 32;
  for (int i = 0; i < kItems; ++i) keys[i] = x[base + i * 32];
  Rank(storage).RankKeys(keys, rank, cub::BFEDigitExtractor<unsigned>(3, kBits), bins);
  for (int i = 0; i < kItems; ++i) ranks[base + i * 32] = rank[i];
  for (int i = 0; i < kBinsPerThread; ++i) {
    int bin = threadIdx.x * kBinsPerThread + i;
    if (bin < 1 << kBits) first_of_bin[bin] = bins[i];
  }
}

struct ByMagnitude {
  __device__ bool operator()(int a, int b) const { return (a < 0 ? -a : a) < (b < 0 ? -b : b); }
};

extern "C" __global__ void cub_block_merge_sort(const int* x, int* keys_out, int* values_out, int valid) {
  using Sort = cub::BlockMergeSort<int, kThreads, kItems, int>;
  __shared__ typename Sort::TempStorage storage;
  int keys[kItems], values[kItems];
  read_items(x, keys);
  for (int i = 0; i < kItems; ++i) values[i] = threadIdx.x * kItems + i;
  Sort(storage).StableSort(keys, values, ByMagnitude{}, valid, 1 << 30);
  write_items(keys_out, keys);
  write_items(values_out, values);
}

extern "C" __global__ void cub_block_topk(const float* x, float* keys_out, int* values_out, int k, int valid) {
  using TopK = cub::detail::block_topk<float, kThreads, kItems, int>;
  __shared__ typename TopK::TempStorage storage;
  float keys[kItems];
  int values[kItems];
  for (int i = 0; i < kItems; ++i) {
    int at = threadIdx.x * kItems + i;
    keys[i] = at < valid ? x[at] : 0.0f;
    values[i] = at;
  }
  TopK(storage).max_pairs<false>(keys, values, k, valid);
  for (int i = 0; i < kItems; ++i) {
    int at = threadIdx.x * kItems + i;
    if (at < k) {
      keys_out[at] = keys[i];
      values_out[at] = values[i];
    }
  }
}
