// CuTe's wgmma atoms over CuTe's shared-memory layouts: which element lies where, the matrix descriptors and the
// fragments are all computed by CuTe.
#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_atom.hpp>
#include <cute/tensor.hpp>

using namespace cute;
using Half = cutlass::half_t;
using Bf16 = cutlass::bfloat16_t;
using Tf32 = cutlass::tfloat32_t;

constexpr int kTile = 128;
constexpr int kDepthBytes = 128;
constexpr auto kK = GMMA::Major::K;
constexpr auto kMn = GMMA::Major::MN;

using Square = Layout<Shape<Int<kTile>, Int<kTile>>, Stride<Int<kTile>, _1>>;

// Issues the products of one warpgroup and waits for them.
template <typename Mma, typename A, typename B, typename Sum>
__device__ void multiply(Mma const& mma, A const& a, B const& b, Sum& sum) {
  warpgroup_fence_operand(sum);
  warpgroup_arrive();
  gemm(mma, a, b, sum);
  warpgroup_commit_batch();
  warpgroup_wait<0>();
  warpgroup_fence_operand(sum);
}

template <typename T>
__device__ T* shared(int matrix) {
  extern __shared__ __align__(1024) char memory[];
  return reinterpret_cast<T*>(memory + matrix * kTile * kDepthBytes);
}

// Writes a row-major matrix to shared memory in the layout of `tile`.
template <typename T, typename Tile>
__device__ void lay_out(T const* matrix, Tile& tile) {
  constexpr int depth = kDepthBytes / sizeof(T);
  for (int i = threadIdx.x; i < kTile * depth; i += blockDim.x) tile(i / depth, i % depth) = matrix[i];
}

__device__ void publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
}

// c (128 x 128) = a (128 x depth) b^T (128 x depth), both operands in shared memory.
template <typename AtomA, typename AtomB, typename Op, typename T, typename Out>
__device__ void from_shared(T const* a, T const* b, Out* c) {
  constexpr int depth = kDepthBytes / sizeof(T);
  auto shape = make_shape(Int<kTile>{}, Int<depth>{});
  auto a_tile = make_tensor(make_smem_ptr(shared<T>(0)), tile_to_shape(AtomA{}, shape));
  auto b_tile = make_tensor(make_smem_ptr(shared<T>(1)), tile_to_shape(AtomB{}, shape));
  lay_out(a, a_tile);
  lay_out(b, b_tile);
  publish();
  auto mma = make_tiled_mma(Op{});
  auto part = mma.get_slice(threadIdx.x);
  auto out = part.partition_C(make_tensor(make_gmem_ptr(c), Square{}));
  auto sum = part.make_fragment_C(out);
  clear(sum);
  multiply(mma, part.make_fragment_A(part.partition_A(a_tile)), part.make_fragment_B(part.partition_B(b_tile)), sum);
  copy(sum, out);
}

// As above with a in registers.
template <typename AtomB, typename Op, typename T, typename Out>
__device__ void from_registers(T const* a, T const* b, Out* c) {
  constexpr int depth = kDepthBytes / sizeof(T);
  auto shape = make_shape(Int<kTile>{}, Int<depth>{});
  auto b_tile = make_tensor(make_smem_ptr(shared<T>(1)), tile_to_shape(AtomB{}, shape));
  lay_out(b, b_tile);
  publish();
  auto mma = make_tiled_mma(Op{});
  auto part = mma.get_slice(threadIdx.x);
  auto rows = part.partition_A(make_tensor(make_gmem_ptr(a), make_layout(shape, make_stride(Int<depth>{}, _1{}))));
  auto x = make_fragment_like(rows);
  copy(rows, x);
  auto out = part.partition_C(make_tensor(make_gmem_ptr(c), Square{}));
  auto sum = part.make_fragment_C(out);
  clear(sum);
  multiply(mma, x, part.make_fragment_B(part.partition_B(b_tile)), sum);
  copy(sum, out);
}

#define PRODUCT(name, T, Out, AtomA, AtomB, ...)                                                          \
  extern "C" __global__ void __launch_bounds__(128) name(T const* a, T const* b, Out* c) {                \
    from_shared<GMMA::AtomA<T>, GMMA::AtomB<T>, __VA_ARGS__>(a, b, c);                                        \
  }
#define PRODUCT_REGISTERS(name, T, Out, AtomB, ...)                                                       \
  extern "C" __global__ void __launch_bounds__(128) name(T const* a, T const* b, Out* c) {                \
    from_registers<GMMA::AtomB<T>, __VA_ARGS__>(a, b, c);                                              \
  }

template <GMMA::Major a, GMMA::Major b>
using HalfOp = SM90_64x128x16_F32F16F16_SS<a, b>;

PRODUCT(cute_tiles_f16, Half, float, Layout_K_SW128_Atom, Layout_K_SW128_Atom, HalfOp<kK, kK>)
PRODUCT(cute_tiles_plain, Half, float, Layout_K_INTER_Atom, Layout_K_INTER_Atom, HalfOp<kK, kK>)
PRODUCT(cute_tiles_swizzles, Half, float, Layout_K_SW32_Atom, Layout_K_SW64_Atom, HalfOp<kK, kK>)
PRODUCT(cute_tiles_a_transposed, Half, float, Layout_MN_INTER_Atom, Layout_K_SW32_Atom, HalfOp<kMn, kK>)
PRODUCT(cute_tiles_b_transposed, Half, float, Layout_K_SW128_Atom, Layout_MN_SW32_Atom, HalfOp<kK, kMn>)
PRODUCT(cute_tiles_transposed, Half, float, Layout_MN_SW64_Atom, Layout_MN_SW128_Atom, HalfOp<kMn, kMn>)
PRODUCT(cute_tiles_narrow, Half, float, Layout_MN_SW128_Atom, Layout_MN_INTER_Atom,
        SM90_64x32x16_F32F16F16_SS<kMn, kMn>)
PRODUCT(cute_tiles_bf16, Bf16, float, Layout_K_SW64_Atom, Layout_MN_SW64_Atom,
        SM90_64x64x16_F32BF16BF16_SS<kK, kMn>)
PRODUCT(cute_tiles_tf32, Tf32, float, Layout_K_SW128_Atom, Layout_K_SW64_Atom, SM90_64x128x8_F32TF32TF32_SS_TN<>)
PRODUCT(cute_tiles_s8, int8_t, int, Layout_K_SW64_Atom, Layout_K_INTER_Atom, SM90_64x128x32_S32S8S8_SS_TN)
PRODUCT_REGISTERS(cute_tiles_registers, Half, float, Layout_MN_SW128_Atom, SM90_64x128x16_F32F16F16_RS<kK, kMn>)
PRODUCT_REGISTERS(cute_tiles_registers_s8, int8_t, int, Layout_K_SW128_Atom, SM90_64x64x32_S32S8S8_RS_TN)
