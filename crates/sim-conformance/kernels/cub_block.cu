// One kernel per block-wide CUB algorithm, named as its test.
#include <cub/block/block_reduce.cuh>

extern "C" __global__ void cub_block_reduce(const int* x, int* out) {
  using Reduce = cub::BlockReduce<int, 128>;
  __shared__ typename Reduce::TempStorage storage;
  int sum = Reduce(storage).Sum(x[blockIdx.x * 128 + threadIdx.x]);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
