// A library of its own with the kernel of atomic_forward.cuh, for the benchmark; needs nvcc, not torch.
#define SPARSE4D_TARGET cuda
#include "atomic_forward.cuh"

// arguments: the bytes of an Arguments with pointers of the device, its maps on the host. Returns a cudaError_t.
extern "C" int atomic_forward(const void* arguments, void* stream) {
  using namespace sparse4d;
  Arguments a;
  memcpy(&a, arguments, sizeof(a));
  cuda::LevelMaps maps{};
  for (int64_t i = 0; i < a.sizes.cameras * a.sizes.levels; ++i) maps.map[i] = a.maps[i];
  const unsigned blocks = unsigned(cuda::atomic_forward_blocks(a.sizes));
  cuda::atomic_forward_kernel<<<blocks, cuda::kThreads, 0, cudaStream_t(stream)>>>(a, maps);
  return int(cudaGetLastError());
}
