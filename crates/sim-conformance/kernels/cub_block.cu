// One kernel per block-wide CUB algorithm, named as its test.
#include <cub/block/block_adjacent_difference.cuh>
#include <cub/block/block_discontinuity.cuh>
#include <cub/block/block_exchange.cuh>
#include <cub/block/block_histogram.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_run_length_decode.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_shuffle.cuh>
#include <cub/block/block_store.cuh>

constexpr int kThreads = 128;
constexpr int kItems = 4;
constexpr int kTile = kThreads * kItems;

// Loads and stores consecutive items per thread without CUB.
template <typename T>
__device__ void read_items(const T* x, T (&items)[kItems]) {
  for (int i = 0; i < kItems; ++i) items[i] = x[blockIdx.x * kTile + threadIdx.x * kItems + i];
}

template <typename T>
__device__ void write_items(T* out, const T (&items)[kItems]) {
  for (int i = 0; i < kItems; ++i) out[blockIdx.x * kTile + threadIdx.x * kItems + i] = items[i];
}

template <cub::BlockReduceAlgorithm algorithm, typename T, typename Op>
__device__ void reduce(const T* x, T* out, Op op, int valid) {
  using Reduce = cub::BlockReduce<T, kThreads, algorithm>;
  __shared__ typename Reduce::TempStorage storage;
  T result = Reduce(storage).Reduce(x[blockIdx.x * kThreads + threadIdx.x], op, valid);
  if (threadIdx.x == 0) out[blockIdx.x] = result;
}

extern "C" __global__ void cub_block_reduce(const int* x, int* out) {
  reduce<cub::BLOCK_REDUCE_WARP_REDUCTIONS>(x, out, cuda::std::plus<>{}, kThreads);
}

extern "C" __global__ void cub_block_reduce_raking(const float* x, float* out, int valid) {
  reduce<cub::BLOCK_REDUCE_RAKING>(x, out, cuda::maximum<>{}, valid);
}

extern "C" __global__ void cub_block_reduce_commutative(const unsigned* x, unsigned* out) {
  reduce<cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY>(x, out, cuda::std::bit_xor<>{}, kThreads);
}

extern "C" __global__ void cub_block_scan(const int* x, int* out, int* totals) {
  using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ typename Scan::TempStorage storage;
  int items[kItems], total;
  read_items(x, items);
  Scan(storage).ExclusiveSum(items, items, total);
  write_items(out, items);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

extern "C" __global__ void cub_block_scan_raking(const int* x, int* out) {
  using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_RAKING_MEMOIZE>;
  __shared__ typename Scan::TempStorage storage;
  int items[kItems];
  read_items(x, items);
  Scan(storage).InclusiveScan(items, items, cuda::maximum<>{});
  write_items(out, items);
}

// Carries the total from tile to tile.
struct RunningPrefix {
  int total;
  __device__ int operator()(int tile_total) {
    int prefix = total;
    total += tile_total;
    return prefix;
  }
};

extern "C" __global__ void cub_block_scan_prefix(const int* x, int* out, int count) {
  using Load = cub::BlockLoad<int, kThreads, kItems, cub::BLOCK_LOAD_TRANSPOSE>;
  using Store = cub::BlockStore<int, kThreads, kItems, cub::BLOCK_STORE_TRANSPOSE>;
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Scan::TempStorage scan;
    typename Store::TempStorage store;
  } storage;
  RunningPrefix prefix{0};
  for (int base = 0; base < count; base += kTile) {
    int items[kItems];
    Load(storage.load).Load(x + base, items, count - base, 0);
    __syncthreads();
    Scan(storage.scan).InclusiveSum(items, items, prefix);
    __syncthreads();
    Store(storage.store).Store(out + base, items, count - base);
    __syncthreads();
  }
}

extern "C" __global__ void cub_block_exchange(const int* x, int* striped, int* back, const int* ranks, int* scattered) {
  using Exchange = cub::BlockExchange<int, kThreads, kItems>;
  __shared__ typename Exchange::TempStorage storage;
  int items[kItems], moved[kItems], to[kItems];
  read_items(x, items);
  Exchange(storage).BlockedToStriped(items, moved);
  write_items(striped, moved);
  __syncthreads();
  Exchange(storage).StripedToBlocked(moved, moved);
  write_items(back, moved);
  __syncthreads();
  read_items(ranks, to);
  Exchange(storage).ScatterToBlocked(items, items, to);
  write_items(scattered, items);
}

extern "C" __global__ void cub_block_exchange_warp(const double* x, double* striped, double* back) {
  using Exchange = cub::BlockExchange<double, kThreads, kItems, true>;
  __shared__ typename Exchange::TempStorage storage;
  double items[kItems], moved[kItems];
  read_items(x, items);
  Exchange(storage).BlockedToWarpStriped(items, moved);
  write_items(striped, moved);
  __syncthreads();
  Exchange(storage).WarpStripedToBlocked(moved, moved);
  write_items(back, moved);
}

template <cub::BlockLoadAlgorithm kLoad, cub::BlockStoreAlgorithm kStore>
__device__ void copy(const short* x, short* out, int valid) {
  using Load = cub::BlockLoad<short, kThreads, kItems, kLoad>;
  using Store = cub::BlockStore<short, kThreads, kItems, kStore>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
  } storage;
  short items[kItems];
  Load(storage.load).Load(x, items, valid, short(-1));
  for (int i = 0; i < kItems; ++i) items[i] += threadIdx.x * kItems + i;
  __syncthreads();
  Store(storage.store).Store(out, items, valid);
  __syncthreads();
}

extern "C" __global__ void cub_block_load_store(const short* x, short* out, int valid) {
  copy<cub::BLOCK_LOAD_DIRECT, cub::BLOCK_STORE_DIRECT>(x, out, valid);
  copy<cub::BLOCK_LOAD_TRANSPOSE, cub::BLOCK_STORE_WARP_TRANSPOSE>(x, out + kTile, valid);
  copy<cub::BLOCK_LOAD_WARP_TRANSPOSE, cub::BLOCK_STORE_TRANSPOSE>(x, out + 2 * kTile, valid);
  copy<cub::BLOCK_LOAD_WARP_TRANSPOSE_TIMESLICED, cub::BLOCK_STORE_WARP_TRANSPOSE_TIMESLICED>(
      x, out + 3 * kTile, valid);
}

extern "C" __global__ void cub_block_load_store_vector(const int* x, int* out) {
  using Load = cub::BlockLoad<int, kThreads, kItems, cub::BLOCK_LOAD_VECTORIZE>;
  using Store = cub::BlockStore<int, kThreads, kItems, cub::BLOCK_STORE_VECTORIZE>;
  int items[kItems];
  Load().Load(const_cast<int*>(x) + blockIdx.x * kTile, items);
  for (int i = 0; i < kItems; ++i) items[i] = ~items[i];
  Store().Store(out + blockIdx.x * kTile, items);
}

template <cub::BlockHistogramAlgorithm algorithm>
__device__ void histogram(const unsigned char* x, unsigned* out) {
  using Histogram = cub::BlockHistogram<unsigned char, kThreads, kItems, 256, algorithm>;
  __shared__ typename Histogram::TempStorage storage;
  __shared__ unsigned bins[256];
  unsigned char items[kItems];
  read_items(x, items);
  Histogram(storage).Histogram(items, bins);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += kThreads) out[blockIdx.x * 256 + i] = bins[i];
}

extern "C" __global__ void cub_block_histogram_atomic(const unsigned char* x, unsigned* out) {
  histogram<cub::BLOCK_HISTO_ATOMIC>(x, out);
}

extern "C" __global__ void cub_block_histogram_sort(const unsigned char* x, unsigned* out) {
  histogram<cub::BLOCK_HISTO_SORT>(x, out);
}

extern "C" __global__ void cub_block_discontinuity(const int* x, int* heads, int* tails) {
  using Discontinuity = cub::BlockDiscontinuity<int, kThreads>;
  __shared__ typename Discontinuity::TempStorage storage;
  int items[kItems], head[kItems], tail[kItems];
  read_items(x, items);
  Discontinuity(storage).FlagHeadsAndTails(head, tail, items, cuda::std::not_equal_to<>{});
  write_items(heads, head);
  write_items(tails, tail);
}

extern "C" __global__ void cub_block_adjacent_difference(const int* x, int* left, int* right) {
  using Difference = cub::BlockAdjacentDifference<int, kThreads>;
  __shared__ typename Difference::TempStorage storage;
  int items[kItems], out[kItems];
  read_items(x, items);
  Difference(storage).SubtractLeft(items, out, cuda::std::minus<>{});
  write_items(left, out);
  __syncthreads();
  Difference(storage).SubtractRight(items, out, cuda::std::minus<>{});
  write_items(right, out);
}

extern "C" __global__ void cub_block_run_length_decode(const int* values, const unsigned* lengths, int* out,
                                                       unsigned* offsets, unsigned* total) {
  using Decode = cub::BlockRunLengthDecode<int, kThreads, 2, kItems>;
  __shared__ typename Decode::TempStorage storage;
  int run_values[2];
  unsigned run_lengths[2];
  for (int i = 0; i < 2; ++i) {
    run_values[i] = values[threadIdx.x * 2 + i];
    run_lengths[i] = lengths[threadIdx.x * 2 + i];
  }
  unsigned decoded = 0;
  Decode decode(storage, run_values, run_lengths, decoded);
  if (threadIdx.x == 0) *total = decoded;
  for (unsigned window = 0; window < decoded; window += kTile) {
    int items[kItems];
    unsigned at[kItems];
    decode.RunLengthDecode(items, at, window);
    for (int i = 0; i < kItems; ++i) {
      unsigned to = window + threadIdx.x * kItems + i;
      if (to < decoded) {
        out[to] = items[i];
        offsets[to] = at[i];
      }
    }
  }
}

extern "C" __global__ void cub_block_shuffle(const int* x, int* up, int* down, int* last) {
  using Shuffle = cub::BlockShuffle<int, kThreads>;
  __shared__ typename Shuffle::TempStorage storage;
  int items[kItems], moved[kItems], suffix;
  read_items(x, items);
  Shuffle(storage).Up(items, moved, suffix);
  if (threadIdx.x == 0) moved[0] = -1;
  write_items(up, moved);
  if (threadIdx.x == 0) last[blockIdx.x] = suffix;
  __syncthreads();
  Shuffle(storage).Down(items, moved);
  if (threadIdx.x == kThreads - 1) moved[kItems - 1] = -1;
  write_items(down, moved);
}
