// A library of its own that reads memory as fast as the device can, for the benchmark; needs nvcc, not torch.
#include <cstdint>

namespace {

constexpr int kThreads = 512;
constexpr int kAtOnce = 8;  // reads of 16 bytes that a thread has under way

// Every round reads the whole buffer, past the first-level cache. `sink` is written in a case that never comes, so that
// the compiler keeps the reads.
__global__ void read_kernel(const float4* buffer, int64_t count, int rounds, float* sink) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  float sum = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x; first < count; first += kAtOnce * stride) {
      float4 read[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t at = first + i * stride;
        read[i] = at < count ? __ldcg(buffer + at) : float4{};
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) sum += read[i].x + read[i].y + read[i].z + read[i].w;
    }
  }
  if (sum == 12345.678f) *sink = sum;
}

}  // namespace

// buffer: 16 x count bytes of the device, aligned to 16. Returns a cudaError_t.
extern "C" int read_rate(const void* buffer, int64_t count, int rounds, int blocks, void* sink, void* stream) {
  read_kernel<<<blocks, kThreads, 0, cudaStream_t(stream)>>>(static_cast<const float4*>(buffer), count, rounds,
                                                             static_cast<float*>(sink));
  return int(cudaGetLastError());
}
