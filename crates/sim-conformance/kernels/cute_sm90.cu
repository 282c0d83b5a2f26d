// CuTe on compute capability 9.0: products of whole warpgroups from shared memory.
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>

using namespace cute;

// C = A Bᵀ for one 128 × 64 tile: operands in the layouts that the hardware swizzles.
template <typename Element, typename Atom, typename Product>
__device__ void warpgroup_product(const Element* a, const Element* b, float* c, int k, Atom, Product product) {
  constexpr int kM = 128, kN = 64, kDepth = 64;
  using LayoutA = decltype(tile_to_shape(Atom{}, Shape<Int<kM>, Int<kDepth>>{}));
  using LayoutB = decltype(tile_to_shape(Atom{}, Shape<Int<kN>, Int<kDepth>>{}));
  // Bytes: some element types have constructors, which shared variables must not.
  __shared__ alignas(1024) unsigned char bytes_a[cosize_v<LayoutA> * sizeof(Element)];
  __shared__ alignas(1024) unsigned char bytes_b[cosize_v<LayoutB> * sizeof(Element)];
  auto sa = make_tensor(make_smem_ptr(reinterpret_cast<Element*>(bytes_a)), LayoutA{});
  auto sb = make_tensor(make_smem_ptr(reinterpret_cast<Element*>(bytes_b)), LayoutB{});
  auto mma = make_tiled_mma(product, Layout<Shape<_2, _1, _1>>{});
  auto thread = mma.get_slice(threadIdx.x);
  auto gc = make_tensor(make_gmem_ptr(c), Layout<Shape<Int<kM>, Int<kN>>, Stride<Int<kN>, _1>>{});
  auto accumulators = thread.partition_fragment_C(gc);
  auto fragment_a = thread.make_fragment_A(thread.partition_A(sa));
  auto fragment_b = thread.make_fragment_B(thread.partition_B(sb));
  clear(accumulators);
  for (int at = 0; at < k; at += kDepth) {
    for (int i = threadIdx.x; i < kM * kDepth; i += blockDim.x) sa(i / kDepth, i % kDepth) = a[i / kDepth * k + at + i % kDepth];
    for (int i = threadIdx.x; i < kN * kDepth; i += blockDim.x) sb(i / kDepth, i % kDepth) = b[i / kDepth * k + at + i % kDepth];
    cutlass::arch::fence_view_async_shared();
    __syncthreads();
    warpgroup_fence_operand(accumulators);
    warpgroup_arrive();
    gemm(mma, fragment_a, fragment_b, accumulators);
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(accumulators);
    __syncthreads();
  }
  copy(accumulators, thread.partition_C(gc));
}

extern "C" __global__ void cute_wgmma_f16(const half_t* a, const half_t* b, float* c, int k) {
  warpgroup_product(a, b, c, k, GMMA::Layout_K_SW128_Atom<half_t>{},
                    SM90_64x64x16_F32F16F16_SS<GMMA::Major::K, GMMA::Major::K>{});
}

extern "C" __global__ void cute_wgmma_bf16(const bfloat16_t* a, const bfloat16_t* b, float* c, int k) {
  warpgroup_product(a, b, c, k, GMMA::Layout_MN_SW64_Atom<bfloat16_t>{},
                    SM90_64x64x16_F32BF16BF16_SS<GMMA::Major::MN, GMMA::Major::MN>{});
}

extern "C" __global__ void cute_wgmma_e4m3(const float_e4m3_t* a, const float_e4m3_t* b, float* c, int k) {
  warpgroup_product(a, b, c, k, GMMA::Layout_K_SW32_Atom<float_e4m3_t>{}, SM90_64x64x32_F32E4M3E4M3_SS_TN<>{});
}
