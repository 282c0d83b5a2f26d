// One kernel per warp-wide CUB algorithm, named as its test.
#include <cub/warp/warp_exchange.cuh>
#include <cub/warp/warp_load.cuh>
#include <cub/warp/warp_merge_sort.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>
#include <cub/warp/warp_store.cuh>

constexpr int kWarps = 4;

extern "C" __global__ void cub_warp_reduce(const float* x, float* sums, const float* y, float* largest, int valid) {
  using Sum = cub::WarpReduce<float>;
  using Max = cub::WarpReduce<float, 8>;
  __shared__ typename Sum::TempStorage sum_storage[kWarps];
  __shared__ typename Max::TempStorage max_storage[kWarps * 4];
  int i = threadIdx.x;
  float sum = Sum(sum_storage[i / 32]).Sum(x[i]);
  if (i % 32 == 0) sums[i / 32] = sum;
  float most = Max(max_storage[i / 8]).Reduce(y[i], cuda::maximum<>{}, valid);
  if (i % 8 == 0) largest[i / 8] = most;
}

extern "C" __global__ void cub_warp_reduce_segmented(const int* x, const int* heads, int* out) {
  using Reduce = cub::WarpReduce<int>;
  __shared__ typename Reduce::TempStorage storage[kWarps];
  int i = threadIdx.x;
  int sum = Reduce(storage[i / 32]).HeadSegmentedSum(x[i], heads[i]);
  // Only a segment's first lane has the sum.
  out[i] = heads[i] || i % 32 == 0 ? sum : 0;
}

struct Line {
  float slope, offset;
};

// Composition of linear functions: associative, not commutative.
struct Compose {
  __device__ Line operator()(Line f, Line g) const { return {f.slope * g.slope, fmaf(f.offset, g.slope, g.offset)}; }
};

extern "C" __global__ void cub_warp_scan(const int* x, int* inclusive, int* exclusive, int* totals) {
  using Scan = cub::WarpScan<int, 16>;
  __shared__ typename Scan::TempStorage storage[kWarps * 2];
  int i = threadIdx.x, in, ex, total;
  Scan(storage[i / 16]).Scan(x[i], in, ex, 100, cuda::std::plus<>{});
  inclusive[i] = in;
  exclusive[i] = ex;
  __syncwarp();
  Scan(storage[i / 16]).InclusiveSum(x[i], in, total);
  if (i % 16 == 0) totals[i / 16] = total;
}

extern "C" __global__ void cub_warp_scan_custom(const float2* x, float2* out) {
  using Scan = cub::WarpScan<Line>;
  __shared__ typename Scan::TempStorage storage[kWarps];
  int i = threadIdx.x;
  Line line{x[i].x, x[i].y};
  Scan(storage[i / 32]).InclusiveScan(line, line, Compose{});
  out[i] = make_float2(line.slope, line.offset);
}

extern "C" __global__ void cub_warp_merge_sort(const unsigned* x, unsigned* out) {
  constexpr int kItems = 3;
  using Sort = cub::WarpMergeSort<unsigned, kItems, 16>;
  __shared__ typename Sort::TempStorage storage[kWarps * 2];
  unsigned keys[kItems];
  for (int i = 0; i < kItems; ++i) keys[i] = x[threadIdx.x * kItems + i];
  Sort(storage[threadIdx.x / 16]).Sort(keys, cuda::std::less<>{});
  for (int i = 0; i < kItems; ++i) out[threadIdx.x * kItems + i] = keys[i];
}

extern "C" __global__ void cub_warp_exchange(const int* x, int* striped, int* shuffled) {
  constexpr int kItems = 4;
  using Exchange = cub::WarpExchange<int, kItems, 16>;
  using Shuffles = cub::WarpExchange<int, kItems, 4, cub::WARP_EXCHANGE_SHUFFLE>;
  __shared__ typename Exchange::TempStorage storage[kWarps * 2];
  __shared__ typename Shuffles::TempStorage none;
  int items[kItems], moved[kItems];
  for (int i = 0; i < kItems; ++i) items[i] = x[threadIdx.x * kItems + i];
  Exchange(storage[threadIdx.x / 16]).BlockedToStriped(items, moved);
  for (int i = 0; i < kItems; ++i) striped[threadIdx.x * kItems + i] = moved[i];
  Shuffles(none).BlockedToStriped(items, moved);
  for (int i = 0; i < kItems; ++i) shuffled[threadIdx.x * kItems + i] = moved[i];
}

extern "C" __global__ void cub_warp_load_store(const double* x, double* out, int valid) {
  constexpr int kItems = 3;
  using Load = cub::WarpLoad<double, kItems, cub::WARP_LOAD_TRANSPOSE>;
  using Store = cub::WarpStore<double, kItems, cub::WARP_STORE_TRANSPOSE>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
  } storage[kWarps];
  int warp = threadIdx.x / 32, first = warp * 32 * kItems;
  double items[kItems];
  Load(storage[warp].load).Load(x + first, items, valid, -1.0);
  for (int i = 0; i < kItems; ++i) items[i] *= 2.0;
  __syncwarp();
  Store(storage[warp].store).Store(out + first, items, valid);
}
