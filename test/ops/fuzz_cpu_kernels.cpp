// Runs the CPU kernels of every instruction set that the processor has on random problems, in buffers of exactly the
// size needed, and compares their results with those of the generic kernels. Arguments: number of problems, seed, and
// optionally `write FILE`, which keeps the generic kernels' results, or `check FILE`, which compares with such a file,
// written on another processor.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
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

// What kernels compute, as double precision numbers.
struct Result {
  const char* name;
  std::vector<double> values;
};

double number(const char* bytes, int64_t i, int element) {
  if (element == 8) return reinterpret_cast<const double*>(bytes)[i];
  if (element == 4) return reinterpret_cast<const float*>(bytes)[i];
  const uint32_t word = uint32_t(reinterpret_cast<const uint16_t*>(bytes)[i]) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

// Largest difference, relative where the numbers are above one. What is not a number, or infinite, must be so in both.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double d = std::fabs(a[i] - b[i]) / std::fmax(1, std::fabs(b[i]));
    largest = d > largest || std::isnan(d) ? d : largest;
    if (std::isnan(d)) return d;
  }
  return largest;
}

// One random problem on all kernels, the generic ones last. Returns the index of the feature type.
int run_problem(const std::vector<const CpuKernels*>& tables, std::vector<Result>& results) {
  Sizes size{integer(0, 2), integer(0, 9), integer(0, 4), integer(0, 3), integer(1, 3), integer(1, 5), 0, 0};
  size.channels = size.groups * integer(1, 40);
  const auto maps = random_maps(size, size.pixels);
  const int type = int(integer(0, 2)), fused = int(integer(0, 1));
  const int feature = type == 0 ? 4 : type == 1 ? 8 : 2, scalar = type == 1 ? 8 : 4;
  const int64_t rows = size.batch * size.anchors, points = rows * size.points;
  const int64_t g = size.groups, l = size.levels, n = size.cameras, p = size.points;
  const bool want_weights = integer(0, 3), want_location = integer(0, 3);
  const int64_t channel_blocks = integer(1, 3), split = integer(0, rows);

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
    a.grad_weights = want_weights ? grad_weights.bytes.get() : nullptr;
    a.grad_location = want_location ? grad_where.bytes.get() : nullptr;
    a.channel_blocks = channel_blocks;
    for (auto [begin, end] : {std::pair{int64_t(0), split}, std::pair{split, rows}}) {
      table->forward[type][fused](a, begin, end);
      table->backward_rows[type][fused](a, begin, end);
    }
    table->backward_maps[type][fused](a, 0, size.batch * n * l * channel_blocks);
    results.push_back({table->name, {}});
    const auto take = [&](const Buffer& buffer, int64_t count, int element) {
      for (int64_t i = 0; i < count; ++i) results.back().values.push_back(number(buffer.bytes.get(), i, element));
    };
    take(output, made[6].count, feature);
    take(grad_features, made[0].count, feature);
    take(grad_weights, made[1].count, scalar);
    take(grad_where, fused ? made[3].count : made[2].count, scalar);
  }
  return type;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 100;
  generator.seed(argc > 2 ? unsigned(std::atoi(argv[2])) : 0u);
  const std::string mode = argc > 4 ? argv[3] : "";
  std::FILE* const file = mode.empty() ? nullptr : std::fopen(argv[4], mode == "write" ? "wb" : "rb");
  std::vector<const CpuKernels*> tables;
  for (const CpuKernels* const* table = cpu_kernels(); *table != nullptr; ++table) tables.push_back(*table);

  // Rounding of float32, float64 and bfloat16: sums are in another order, and only some processors round x * y + z
  // once.
  const double allowed[] = {1e-4, 1e-12, 1.0 / 256};
  double largest[3] = {};
  for (int i = 0; i < problems; ++i) {
    std::vector<Result> results;
    const int type = run_problem(tables, results);
    std::vector<double> expected = results.back().values;
    if (mode == "write") std::fwrite(expected.data(), sizeof(double), expected.size(), file);
    if (mode == "check" && std::fread(expected.data(), sizeof(double), expected.size(), file) != expected.size()) {
      std::printf("problem %d is not in the file\n", i);
      return 1;
    }
    for (const Result& result : results) {
      const double d = difference(result.values, expected);
      if (!(d <= largest[type])) largest[type] = d;
      if (!(d <= allowed[type])) {
        std::printf("problem %d: %s differs by %g\n", i, result.name, d);
        return 1;
      }
    }
  }
  if (file != nullptr) std::fclose(file);
  std::printf("%d problems:", problems);
  for (const CpuKernels* table : tables) std::printf(" %s", table->name);
  std::printf("; float32 %.1e, float64 %.1e, bfloat16 %.1e\n", largest[0], largest[1], largest[2]);
  return 0;
}
