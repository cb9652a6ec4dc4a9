// Runs the CPU kernels where the n-th request for working memory fails, for n = 1, 2, ... until none fails: every
// failure must arrive as std::bad_alloc, and nothing may be left allocated. Linked with --wrap for both functions.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <set>
#include <vector>

#include "cpu/kernels.h"

namespace {
int requests_left = -1;  // -1: all are granted
std::set<void*> allocated;
}  // namespace

extern "C" void* __real_aligned_alloc(size_t alignment, size_t size);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t size) {
  if (requests_left == 0) return nullptr;
  if (requests_left > 0) --requests_left;
  void* const memory = __real_aligned_alloc(alignment, size);
  allocated.insert(memory);
  return memory;
}

extern "C" void __real_free(void* memory);
extern "C" void __wrap_free(void* memory) {
  allocated.erase(memory);
  __real_free(memory);
}

int main() {
  using namespace sparse4d;
  const Sizes size{1, 2, 3, 1, 1, 1, 32, 12};
  const LevelMap map{0, 3, 4};
  std::vector<uint16_t> features(12 * 32, 0x3f80), output(2 * 32), grad_features(12 * 32);
  std::vector<float> weights(6, 1.0f), location(12, 0.5f), grad_weights(6), grad_location(12);
  Arguments a{};
  a.sizes = size;
  a.maps = &map;
  a.weight_strides = {6, 3, 1, 1, 1};
  a.features = features.data();
  a.weights = weights.data();
  a.location = location.data();
  a.output = output.data();
  a.grad_output = features.data();
  a.grad_features = grad_features.data();
  a.grad_weights = grad_weights.data();
  a.grad_location = grad_location.data();
  a.channel_blocks = 1;
  int failures = 0;
  for (const CpuKernels* const* table = cpu_kernels(); *table != nullptr; ++table) {
    for (const RangeKernel kernel :
         {(*table)->forward[2][0], (*table)->backward_rows[2][0], (*table)->backward_maps[2][0]}) {
      for (int granted = 0;; ++granted) {
        requests_left = granted;
        try {
          kernel(a, 0, 1);
          if (allocated.empty()) break;
        } catch (const std::bad_alloc&) {
          ++failures;
        }
        if (!allocated.empty()) {
          std::printf("%zu allocations are left\n", allocated.size());
          return 1;
        }
      }
    }
  }
  std::printf("%d failures arrived\n", failures);
}
