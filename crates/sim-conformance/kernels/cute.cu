// CuTe: layouts, tiled copies and tiled products, put together by hand.
#include <cute/tensor.hpp>

using namespace cute;

// C = A Bᵀ: copies of 16 bytes through swizzled shared memory, ldmatrix, mma. One block per 64 × 64 tile.
extern "C" __global__ void cute_gemm_sm80(const half_t* a, const half_t* b, float* c, int m, int n, int k) {
  constexpr int kTile = 64, kDepth = 32, kStages = 2;
  using Swizzled = decltype(composition(Swizzle<2, 3, 3>{}, Layout<Shape<_8, _32>, Stride<_32, _1>>{}));
  using Stages = decltype(tile_to_shape(Swizzled{}, Shape<Int<kTile>, Int<kDepth>, Int<kStages>>{}));
  __shared__ alignas(128) half_t shared_a[cosize_v<Stages>];
  __shared__ alignas(128) half_t shared_b[cosize_v<Stages>];
  auto sa = make_tensor(make_smem_ptr(shared_a), Stages{});
  auto sb = make_tensor(make_smem_ptr(shared_b), Stages{});

  auto ga = make_tensor(make_gmem_ptr(a), make_shape(m, k), make_stride(k, _1{}));
  auto gb = make_tensor(make_gmem_ptr(b), make_shape(n, k), make_stride(k, _1{}));
  auto gc = make_tensor(make_gmem_ptr(c), make_shape(m, n), make_stride(n, _1{}));
  auto tile_a = local_tile(ga, Shape<Int<kTile>, Int<kDepth>>{}, make_coord(blockIdx.x, _));
  auto tile_b = local_tile(gb, Shape<Int<kTile>, Int<kDepth>>{}, make_coord(blockIdx.y, _));
  auto tile_c = local_tile(gc, Shape<Int<kTile>, Int<kTile>>{}, make_coord(blockIdx.x, blockIdx.y));

  auto copier = make_tiled_copy(Copy_Atom<SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>, half_t>{},
                                Layout<Shape<_32, _4>, Stride<_4, _1>>{}, Layout<Shape<_1, _8>>{});
  auto mine = copier.get_slice(threadIdx.x);
  auto from_a = mine.partition_S(tile_a);
  auto to_a = mine.partition_D(sa);
  auto from_b = mine.partition_S(tile_b);
  auto to_b = mine.partition_D(sb);

  auto mma = make_tiled_mma(SM80_16x8x16_F32F16F16F32_TN{}, Layout<Shape<_2, _2>>{}, Tile<_32, _32, _16>{});
  auto thread = mma.get_slice(threadIdx.x);
  auto accumulators = thread.partition_fragment_C(tile_c);
  clear(accumulators);
  auto fragment_a = thread.partition_fragment_A(sa(_, _, 0));
  auto fragment_b = thread.partition_fragment_B(sb(_, _, 0));
  auto load_a = make_tiled_copy_A(Copy_Atom<SM75_U32x4_LDSM_N, half_t>{}, mma);
  auto load_b = make_tiled_copy_B(Copy_Atom<SM75_U32x4_LDSM_N, half_t>{}, mma);
  auto slice_a = load_a.get_slice(threadIdx.x);
  auto slice_b = load_b.get_slice(threadIdx.x);

  int steps = size<3>(from_a);
  auto fetch = [&](int step) {
    if (step < steps) {
      copy(copier, from_a(_, _, _, step), to_a(_, _, _, step % kStages));
      copy(copier, from_b(_, _, _, step), to_b(_, _, _, step % kStages));
    }
    cp_async_fence();
  };
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    fetch(step + 1);
    cp_async_wait<1>();
    __syncthreads();
    copy(load_a, slice_a.partition_S(sa)(_, _, _, step % kStages), slice_a.retile_D(fragment_a));
    copy(load_b, slice_b.partition_S(sb)(_, _, _, step % kStages), slice_b.retile_D(fragment_b));
    gemm(mma, fragment_a, fragment_b, accumulators);
    __syncthreads();
  }
  copy(accumulators, thread.partition_C(tile_c));
}

// A transposed copy: both sides coalesced, through swizzled shared memory.
extern "C" __global__ void cute_transpose(const float* x, float* out, int rows, int columns) {
  using Tile2 = Shape<_32, _32>;
  using Staged = decltype(composition(Swizzle<5, 0, 5>{}, Layout<Tile2, Stride<_32, _1>>{}));
  __shared__ float shared[32 * 32];
  auto stage = make_tensor(make_smem_ptr(shared), Staged{});
  auto in = make_tensor(make_gmem_ptr(x), make_shape(rows, columns), make_stride(columns, _1{}));
  auto to = make_tensor(make_gmem_ptr(out), make_shape(rows, columns), make_stride(_1{}, rows));
  auto tile_in = local_tile(in, Tile2{}, make_coord(blockIdx.x, blockIdx.y));
  auto tile_out = local_tile(to, Tile2{}, make_coord(blockIdx.x, blockIdx.y));
  auto by_rows = Layout<Shape<_4, _32>, Stride<_32, _1>>{};
  auto by_columns = Layout<Shape<_32, _4>>{};
  copy(local_partition(tile_in, by_rows, threadIdx.x), local_partition(stage, by_rows, threadIdx.x));
  __syncthreads();
  copy(local_partition(stage, by_columns, threadIdx.x), local_partition(tile_out, by_columns, threadIdx.x));
}
