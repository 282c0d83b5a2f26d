// A GEMM for compute capability 9.0 as CUTLASS builds them: a producer's tensor copies, multicast in a cluster, CUTLASS's pipeline
// of mbarriers, and a consumer warpgroup's products, which are stored by tensor copy as well.
#include <cuda.h>
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/pipeline/sm90_pipeline.hpp>

using namespace cute;

constexpr int kTile = 64, kStages = 2;
using Pipeline = cutlass::PipelineTmaAsync<kStages>;
using Cluster = Shape<_2, _1, _1>;

// C = A Bᵀ, 64 × 64 per CTA. The two CTAs of a cluster need the same rows of B: each loads half of them for both.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256)
    cute_tma_gemm(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                  const __grid_constant__ CUtensorMap map_c, int k) {
  using Atom = GMMA::Layout_K_SW128_Atom<half_t>;
  using Layouts = decltype(tile_to_shape(Atom{}, Shape<Int<kTile>, Int<kTile>, Int<kStages>>{}));
  __shared__ alignas(1024) unsigned char bytes_a[cosize_v<Layouts> * 2];
  __shared__ alignas(1024) unsigned char bytes_b[cosize_v<Layouts> * 2];
  // Its barriers have constructors, which shared variables must not.
  __shared__ alignas(16) unsigned char bytes_storage[sizeof(typename Pipeline::SharedStorage)];
  auto& storage = *reinterpret_cast<typename Pipeline::SharedStorage*>(bytes_storage);
  auto sa = make_tensor(make_smem_ptr(reinterpret_cast<half_t*>(bytes_a)), Layouts{});
  auto sb = make_tensor(make_smem_ptr(reinterpret_cast<half_t*>(bytes_b)), Layouts{});
  int warpgroup = cutlass::canonical_warp_group_idx();
  bool is_leader = threadIdx.x % 128 == 0;

  typename Pipeline::Params params;
  params.transaction_bytes = 2 * kTile * kTile * sizeof(half_t);
  params.role = warpgroup == 0 ? Pipeline::ThreadCategory::Producer : Pipeline::ThreadCategory::Consumer;
  params.is_leader = is_leader;
  params.num_consumers = 128;
  Pipeline pipeline(storage, params, Cluster{});
  cluster_arrive_relaxed();
  cluster_wait();

  int steps = k / kTile, rank = block_rank_in_cluster();
  if (warpgroup == 0) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (is_leader) {
      auto state = cutlass::make_producer_start_state<Pipeline>();
      for (int i = 0; i < steps; ++i, ++state) {
        pipeline.producer_acquire(state);
        auto* barrier = pipeline.producer_get_barrier(state);
        SM90_TMA_LOAD_2D::copy(&map_a, barrier, uint64_t(TMA::CacheHintSm90::EVICT_NORMAL), &sa(0, 0, state.index()), i * kTile,
                               blockIdx.x * kTile);
        SM90_TMA_LOAD_MULTICAST_2D::copy(&map_b, barrier, uint16_t(3), uint64_t(TMA::CacheHintSm90::EVICT_LAST),
                                         &sb(rank * kTile / 2, 0, state.index()), i * kTile, blockIdx.y * kTile + rank * kTile / 2);
      }
      pipeline.producer_tail(state);
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<168>();
    auto mma = make_tiled_mma(SM90_64x64x16_F32F16F16_SS<GMMA::Major::K, GMMA::Major::K>{});
    auto thread = mma.get_slice(threadIdx.x % 128);
    auto fragment_a = thread.partition_fragment_A(sa);
    auto fragment_b = thread.partition_fragment_B(sb);
    auto accumulators = partition_fragment_C(mma, Shape<Int<kTile>, Int<kTile>>{});
    clear(accumulators);
    typename Pipeline::PipelineState state;
    for (int i = 0; i < steps; ++i, ++state) {
      pipeline.consumer_wait(state);
      warpgroup_fence_operand(accumulators);
      warpgroup_arrive();
      gemm(mma, fragment_a(_, _, _, state.index()), fragment_b(_, _, _, state.index()), accumulators);
      warpgroup_commit_batch();
      warpgroup_wait<0>();
      warpgroup_fence_operand(accumulators);
      pipeline.consumer_release(state);
    }
    // All of the CTA's loads have arrived and have been used: A's memory holds the result, 64 × 64 floats.
    cutlass::arch::NamedBarrier::sync(128, 1);
    auto sc = make_tensor(make_smem_ptr(reinterpret_cast<float*>(bytes_a)), Layout<Shape<Int<kTile>, Int<kTile>>, Stride<Int<kTile>, _1>>{});
    copy(accumulators, thread.partition_C(sc));
    tma_store_fence();
    cutlass::arch::NamedBarrier::sync(128, 1);
    if (is_leader) {
      SM90_TMA_STORE_2D::copy(&map_c, &sc(0, 0), blockIdx.y * kTile, blockIdx.x * kTile);
      tma_store_arrive();
      tma_store_wait<0>();
    }
  }
  cluster_arrive();
  cluster_wait();
}
