// The kernels behind CUB's device-wide algorithms, as the library itself instantiates and tunes them. The functions here are
// never called: they make the compiler emit the kernels, which the tests launch as the library's host code would.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>

void scan(void* storage, size_t& bytes, const int* in, int* out, int count) {
  cub::DeviceScan::ExclusiveSum(storage, bytes, in, out, count);
}

void reduce(void* storage, size_t& bytes, const float* in, float* out, int count) {
  cub::DeviceReduce::Reduce(storage, bytes, in, out, count, cuda::maximum<>{}, -1.0f);
}

void sort(void* storage, size_t& bytes, const unsigned* keys, unsigned* keys_out, const int* values, int* values_out,
          int count) {
  cub::DeviceRadixSort::SortPairs(storage, bytes, keys, keys_out, values, values_out, count);
}

struct IsOdd {
  __device__ bool operator()(int v) const { return v & 1; }
};

void select(void* storage, size_t& bytes, const int* in, int* out, int* selected, int count) {
  cub::DeviceSelect::If(storage, bytes, in, out, selected, count, IsOdd{});
}

// Items per tile as the library tuned them for this architecture: what its host code would compute grids from.
extern "C" __global__ void cub_device_tiles(int* tiles) {
  using Scan = cub::detail::scan::policy_selector_from_types<const int*, int*, int, unsigned, cuda::std::plus<>, false>;
  using Reduce = cub::detail::reduce::policy_selector_from_types<
      float, unsigned, cuda::maximum<>, cuda::execution::determinism::__determinism_t::__run_to_run>;
  using Sort = cub::detail::radix_sort::policy_selector_from_types<unsigned, int, unsigned>;
  using Select = cub::detail::select::policy_selector_from_types<const int*, cub::NullType*, int*, long long,
                                                                 cub::SelectImpl::Select>;
  constexpr auto scan = cub::detail::current_policy<Scan>().lookback;
  constexpr auto reduce = cub::detail::current_policy<Reduce>().multi_tile;
  constexpr auto sort = cub::detail::current_policy<Sort>().onesweep;
  constexpr auto select = cub::detail::current_policy<Select>().lookback;
  tiles[0] = scan.threads_per_block * scan.items_per_thread;
  tiles[1] = reduce.threads_per_block * reduce.items_per_thread;
  tiles[2] = sort.threads_per_block * sort.items_per_thread;
  tiles[3] = select.threads_per_block * select.items_per_thread;
}
