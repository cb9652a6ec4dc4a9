// Runs the CPU kernels of every instruction set on random problems in buffers of exactly the size needed; compiled with
// the address and undefined-behaviour sanitizers by test_sanitizers.py. Arguments: number of problems, seed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.h"

using namespace sparse4d;

namespace {

std::mt19937 generator;

int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

double coordinate() {
  static const double special[] = {0.0,
                                   1.0,
                                   -0.0,
                                   1e-40,
                                   1 - 1e-7,
                                   1e30,
                                   -1e30,
                                   std::nan(""),
                                   std::numeric_limits<double>::infinity(),
                                   -std::numeric_limits<double>::infinity()};
  return integer(0, 3) == 0 ? special[integer(0, 9)] : real(-0.1, 1.1);
}

// A heap block of its own for each tensor: one element too far is a report.
struct Buffer {
  std::unique_ptr<char[]> bytes;
  Buffer(int64_t count, int element) : bytes(new char[size_t(count * element)]()) {}
  void fill(int64_t count, int element, double (*value)()) {
    for (int64_t i = 0; i < count; ++i) {
      const double v = value();
      if (element == 8) reinterpret_cast<double*>(bytes.get())[i] = v;
      if (element == 4) reinterpret_cast<float*>(bytes.get())[i] = float(v);
      if (element == 2) reinterpret_cast<uint16_t*>(bytes.get())[i] = uint16_t(v > 0 ? 0x3f80 : 0xbf40);
    }
  }
};

double normal() { return real(-1, 1); }
double near_camera() { return integer(0, 15) == 0 ? coordinate() : real(-10, 10); }
double pixels() { return real(20, 200); }

std::vector<LevelMap> random_maps(const Sizes& size, int64_t& pixels) {
  std::vector<LevelMap> maps;
  pixels = integer(0, 2);
  for (int64_t i = 0; i < size.cameras * size.levels; ++i) {
    maps.push_back({pixels, integer(1, 12), integer(1, 12)});
    pixels += maps.back().height * maps.back().width + integer(0, 2);
  }
  return maps;
}

void run_problem(const std::vector<const CpuKernels*>& tables) {
  Sizes size{integer(0, 2), integer(0, 9), integer(0, 4), integer(0, 3), integer(1, 3), integer(1, 5), 0, 0};
  size.channels = size.groups * integer(1, 40);
  const auto maps = random_maps(size, size.pixels);
  const int type = int(integer(0, 2)), fused = int(integer(0, 1));
  const int feature = type == 0 ? 4 : type == 1 ? 8 : 2, scalar = type == 1 ? 8 : 4;
  const int64_t rows = size.batch * size.anchors, points = rows * size.points;
  const int64_t g = size.groups, l = size.levels, n = size.cameras, p = size.points;

  struct Made {
    int64_t count;
    int element;
    double (*value)();
  };
  const Made made[] = {{size.batch * size.pixels * size.channels, feature, normal},  // 0 features
                       {points * n * l * g, scalar, normal},                         // 1 weights
                       {points * n * 2, scalar, coordinate},                         // 2 location
                       {points * 3, scalar, near_camera},                            // 3 key points
                       {size.batch * n * 16, scalar, near_camera},                   // 4 projection
                       {size.batch * n * 2, scalar, pixels},                         // 5 image_wh
                       {rows * size.channels, feature, normal}};                     // 6 grad_output
  std::vector<Buffer> in;
  for (const Made& m : made) {
    in.emplace_back(m.count, m.element);
    in.back().fill(m.count, m.element, m.value);
  }
  for (const CpuKernels* table : tables) {
    Buffer output(made[6].count, feature), grad_features(made[0].count, feature), grad_weights(made[1].count, scalar);
    Buffer grad_where(fused ? made[3].count : made[2].count, scalar);
    Arguments a{};
    a.sizes = size;
    a.maps = maps.data();
    a.weight_strides = fused ? WeightStrides{size.anchors * n * l * p * g, n * l * p * g, g, l * p * g, p * g}
                             : WeightStrides{size.anchors * p * n * l * g, p * n * l * g, n * l * g, l * g, g};
    a.features = in[0].bytes.get();
    a.weights = in[1].bytes.get();
    a.location = in[2].bytes.get();
    a.key_points = in[3].bytes.get();
    a.projection = in[4].bytes.get();
    a.image_wh = in[5].bytes.get();
    a.grad_output = in[6].bytes.get();
    a.output = output.bytes.get();
    a.grad_features = grad_features.bytes.get();
    a.grad_weights = integer(0, 3) ? grad_weights.bytes.get() : nullptr;
    a.grad_location = integer(0, 3) ? grad_where.bytes.get() : nullptr;
    a.channel_blocks = integer(1, 3);
    const int64_t split = integer(0, rows), tasks = size.batch * n * l * a.channel_blocks;
    for (auto [begin, end] : {std::pair{int64_t(0), split}, std::pair{split, rows}}) {
      table->forward[type][fused](a, begin, end);
      table->backward_rows[type][fused](a, begin, end);
    }
    table->backward_maps[type][fused](a, 0, tasks);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 100;
  generator.seed(argc > 2 ? unsigned(std::atoi(argv[2])) : 0u);
  std::vector<const CpuKernels*> tables = {&cpu_kernels_generic()};
  if (&cpu_kernels() != tables[0]) tables.push_back(&cpu_kernels());
  for (int i = 0; i < problems; ++i) run_problem(tables);
  std::printf("%d problems on %zu instruction sets, last %s\n", problems, tables.size(), tables.back()->name);
}
