// CUTLASS's multistage GEMM for compute capability 8.0, as DefaultGemm puts it together. The kernel's parameters have
// constructors that run on the device, so a wrapper makes them from plain arguments.
#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/epilogue/thread/linear_combination_relu.h>
#include <cutlass/gemm/kernel/default_gemm.h>
#include <cutlass/gemm/threadblock/threadblock_swizzle.h>

template <typename Element, typename LayoutA, typename LayoutB, typename Output, typename Sum, typename Block, typename Warp,
          typename Instruction, typename Epilogue, int kAlign, typename Operator = cutlass::arch::OpMultiplyAdd>
struct Gemm {
  using Swizzle = cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>;
  using Kernel =
      typename cutlass::gemm::kernel::DefaultGemm<Element, LayoutA, kAlign, Element, LayoutB, kAlign, Output,
                                                  cutlass::layout::RowMajor, Sum, cutlass::arch::OpClassTensorOp,
                                                  cutlass::arch::Sm80, Block, Warp, Instruction, Epilogue, Swizzle, 3,
                                                  false, Operator>::GemmKernel;

  __device__ static void run(int m, int n, int k, const Element* a, const Element* b, const Output* c, Output* d,
                             typename Epilogue::Params scale) {
    extern __shared__ __align__(16) char shared[];
    cutlass::gemm::GemmCoord problem(m, n, k);
    auto tiles = Swizzle::get_tiled_shape(problem, {Block::kM, Block::kN, Block::kK}, 1);
    auto a_ref = cutlass::TensorRef<Element, LayoutA>(const_cast<Element*>(a), LayoutA::packed({m, k}));
    auto b_ref = cutlass::TensorRef<Element, LayoutB>(const_cast<Element*>(b), LayoutB::packed({k, n}));
    cutlass::layout::RowMajor rows(n);
    typename Kernel::Params params(problem, tiles, a_ref, b_ref, {const_cast<Output*>(c), rows}, {d, rows}, scale);
    Kernel()(params, *reinterpret_cast<typename Kernel::SharedStorage*>(shared));
  }
};

template <int kM, int kN, int kK>
using Shape = cutlass::gemm::GemmShape<kM, kN, kK>;
using Rows = cutlass::layout::RowMajor;
using Columns = cutlass::layout::ColumnMajor;

using HalfGemm = Gemm<cutlass::half_t, Rows, Columns, cutlass::half_t, float, Shape<64, 64, 32>, Shape<32, 32, 32>,
                      Shape<16, 8, 16>, cutlass::epilogue::thread::LinearCombination<cutlass::half_t, 8, float, float>, 8>;

extern "C" __global__ void cutlass_gemm_f16(int m, int n, int k, const cutlass::half_t* a, const cutlass::half_t* b,
                                            const cutlass::half_t* c, cutlass::half_t* d, float alpha, float beta) {
  HalfGemm::run(m, n, k, a, b, c, d, {alpha, beta});
}

using BrainGemm =
    Gemm<cutlass::bfloat16_t, Columns, Rows, float, float, Shape<64, 64, 32>, Shape<32, 32, 32>, Shape<16, 8, 16>,
         cutlass::epilogue::thread::LinearCombinationRelu<float, 4, float, float>, 8>;

extern "C" __global__ void cutlass_gemm_bf16_relu(int m, int n, int k, const cutlass::bfloat16_t* a,
                                                  const cutlass::bfloat16_t* b, const float* c, float* d, float alpha,
                                                  float beta) {
  BrainGemm::run(m, n, k, a, b, c, d, {alpha, beta});
}

using ByteGemm = Gemm<signed char, Rows, Columns, int, int, Shape<64, 64, 64>, Shape<32, 32, 64>, Shape<16, 8, 32>,
                      cutlass::epilogue::thread::LinearCombination<int, 4, int, int>, 16,
                      cutlass::arch::OpMultiplyAddSaturate>;

extern "C" __global__ void cutlass_gemm_s8(int m, int n, int k, const signed char* a, const signed char* b, const int* c,
                                           int* d, int alpha, int beta) {
  ByteGemm::run(m, n, k, a, b, c, d, {alpha, beta});
}

using SingleGemm = Gemm<float, Rows, Rows, float, float, Shape<64, 64, 16>, Shape<32, 32, 16>, Shape<16, 8, 8>,
                        cutlass::epilogue::thread::LinearCombination<float, 4, float, float>, 4>;

extern "C" __global__ void cutlass_gemm_tf32(int m, int n, int k, const float* a, const float* b, const float* c, float* d,
                                             float alpha, float beta) {
  SingleGemm::run(m, n, k, a, b, c, d, {alpha, beta});
}

// What the host would ask the kernels: threads and bytes of shared memory.
extern "C" __global__ void cutlass_gemm_needs(int* needs) {
  needs[0] = HalfGemm::Kernel::kThreadCount;
  needs[1] = sizeof(HalfGemm::Kernel::SharedStorage);
  needs[2] = BrainGemm::Kernel::kThreadCount;
  needs[3] = sizeof(BrainGemm::Kernel::SharedStorage);
  needs[4] = ByteGemm::Kernel::kThreadCount;
  needs[5] = sizeof(ByteGemm::Kernel::SharedStorage);
  needs[6] = SingleGemm::Kernel::kThreadCount;
  needs[7] = sizeof(SingleGemm::Kernel::SharedStorage);
}
