// nvcuda::wmma: one warp per output tile, every element type.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include <cuda/std/type_traits>

using namespace nvcuda;

// C (m x n, row by row) = A (m x k) B (k x n) + C, one tile per block; the layouts say how A and B lie in memory.
template <int kM, int kN, int kK, typename In, typename Out, typename LayoutA, typename LayoutB, typename T>
__device__ void product(const T* a, const T* b, Out* c, int n, int k) {
  wmma::fragment<wmma::matrix_a, kM, kN, kK, In, LayoutA> x;
  wmma::fragment<wmma::matrix_b, kM, kN, kK, In, LayoutB> y;
  wmma::fragment<wmma::accumulator, kM, kN, kK, Out> sum;
  constexpr bool rows_a = cuda::std::is_same_v<LayoutA, wmma::row_major>;
  constexpr bool rows_b = cuda::std::is_same_v<LayoutB, wmma::row_major>;
  int row = blockIdx.y * kM, column = blockIdx.x * kN, m = gridDim.y * kM;
  wmma::load_matrix_sync(sum, c + row * n + column, n, wmma::mem_row_major);
  for (int i = 0; i < k; i += kK) {
    wmma::load_matrix_sync(x, rows_a ? a + row * k + i : a + i * m + row, rows_a ? k : m);
    wmma::load_matrix_sync(y, rows_b ? b + i * n + column : b + column * k + i, rows_b ? n : k);
    if constexpr (cuda::std::is_same_v<In, wmma::precision::tf32>) {
      for (int t = 0; t < x.num_elements; ++t) x.x[t] = wmma::__float_to_tf32(x.x[t]);
      for (int t = 0; t < y.num_elements; ++t) y.x[t] = wmma::__float_to_tf32(y.x[t]);
    }
    wmma::mma_sync(sum, x, y, sum);
  }
  wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}

extern "C" __global__ void wmma_f16(const __half* a, const __half* b, float* c, int n, int k) {
  product<16, 16, 16, __half, float, wmma::row_major, wmma::col_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_f16_wide(const __half* a, const __half* b, float* c, int n, int k) {
  product<8, 32, 16, __half, float, wmma::col_major, wmma::row_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_f16_accumulate(const __half* a, const __half* b, __half* c, int n, int k) {
  product<32, 8, 16, __half, __half, wmma::row_major, wmma::row_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int k) {
  product<16, 16, 16, __nv_bfloat16, float, wmma::col_major, wmma::col_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_s8(const signed char* a, const signed char* b, int* c, int n, int k) {
  product<16, 16, 16, signed char, int, wmma::row_major, wmma::col_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_u8(const unsigned char* a, const unsigned char* b, int* c, int n, int k) {
  product<32, 8, 16, unsigned char, int, wmma::row_major, wmma::row_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_tf32(const float* a, const float* b, float* c, int n, int k) {
  product<16, 16, 8, wmma::precision::tf32, float, wmma::row_major, wmma::row_major>(a, b, c, n, k);
}

extern "C" __global__ void wmma_f64(const double* a, const double* b, double* c, int n, int k) {
  product<8, 8, 4, double, double, wmma::row_major, wmma::col_major>(a, b, c, n, k);
}

// Through shared memory, with fragments changed element by element: C = 2 A B + bias.
extern "C" __global__ void wmma_fragment_elements(const __half* a, const __half* b, float* c) {
  __shared__ alignas(32) __half stage[2][16 * 24];
  __shared__ alignas(32) float result[16 * 20];
  for (int i = threadIdx.x; i < 256; i += 32) {
    stage[0][i / 16 * 24 + i % 16] = a[i];
    stage[1][i / 16 * 24 + i % 16] = b[i];
  }
  __syncwarp();
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> x;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> y;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, 0.0f);
  wmma::load_matrix_sync(x, stage[0], 24);
  wmma::load_matrix_sync(y, stage[1], 24);
  wmma::mma_sync(sum, x, y, sum);
  for (int t = 0; t < sum.num_elements; ++t) sum.x[t] = 2.0f * sum.x[t] + 0.5f;
  wmma::store_matrix_sync(result, sum, 20, wmma::mem_col_major);
  __syncwarp();
  for (int i = threadIdx.x; i < 256; i += 32) c[i] = result[i % 16 * 20 + i / 16];
}

extern "C" __global__ void wmma_b1(const unsigned* a, const unsigned* b, int* c) {
  using namespace wmma::experimental;
  wmma::fragment<wmma::matrix_a, 8, 8, 128, precision::b1, wmma::row_major> x;
  wmma::fragment<wmma::matrix_b, 8, 8, 128, precision::b1, wmma::col_major> y;
  wmma::fragment<wmma::accumulator, 8, 8, 128, int> sum;
  wmma::fill_fragment(sum, 0);
  wmma::load_matrix_sync(x, a, 128);
  wmma::load_matrix_sync(y, b, 128);
  wmma::bmma_sync(sum, x, y, sum, bmmaBitOpXOR);
  wmma::bmma_sync(sum, x, y, sum, bmmaBitOpAND);
  wmma::store_matrix_sync(c, sum, 8, wmma::mem_row_major);
}

extern "C" __global__ void wmma_s4(const unsigned* a, const unsigned* b, int* c) {
  using namespace wmma::experimental;
  wmma::fragment<wmma::matrix_a, 8, 8, 32, precision::s4, wmma::row_major> x;
  wmma::fragment<wmma::matrix_b, 8, 8, 32, precision::s4, wmma::col_major> y;
  wmma::fragment<wmma::accumulator, 8, 8, 32, int> sum;
  wmma::fill_fragment(sum, 3);
  wmma::load_matrix_sync(x, a, 32);
  wmma::load_matrix_sync(y, b, 32);
  wmma::mma_sync(sum, x, y, sum);
  wmma::store_matrix_sync(c, sum, 8, wmma::mem_row_major);
}
