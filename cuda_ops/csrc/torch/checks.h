// Argument checks of the operators: every message names the argument, what was expected and what came.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "../shared/arguments.h"

namespace sparse4d {

inline std::string describe(at::IntArrayRef shape) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << ']';
  return text.str();
}

// Shape with -1 for sizes that are not fixed by other arguments.
inline void check_tensor(const char* name, const at::Tensor& tensor, std::vector<int64_t> expected, const char* meaning,
                         at::ScalarType dtype, at::Device device) {
  bool same = tensor.dim() == int64_t(expected.size());
  for (int64_t i = 0; same && i < tensor.dim(); ++i) same = expected[i] < 0 || expected[i] == tensor.size(i);
  TORCH_CHECK_VALUE(same, name, ": expected shape ", meaning, " = ", describe(expected), " (-1 = any), got ",
                    describe(tensor.sizes()));
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, name, ": expected dtype ", dtype, ", got ", tensor.scalar_type(),
                   "; convert it with .to(...)");
  TORCH_CHECK_VALUE(tensor.device() == device, name, ": expected device ", device, " (that of features), got ",
                    tensor.device());
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, ": expected a contiguous tensor, got strides ",
                    describe(tensor.strides()), "; call .contiguous()");
}

inline FeatureType feature_type(const at::Tensor& features) {
  switch (features.scalar_type()) {
    case at::kFloat:
      return FeatureType::Float32;
    case at::kDouble:
      return FeatureType::Float64;
    case at::kBFloat16:
      return FeatureType::BFloat16;
    case at::kHalf:
      TORCH_CHECK_TYPE(features.is_cuda(), "features: float16 is supported on CUDA only; use bfloat16 or float32");
      return FeatureType::Float16;
    default:
      TORCH_CHECK_TYPE(false, "features: expected float32, float64, bfloat16 or (CUDA) float16, got ",
                       features.scalar_type());
  }
}

// Coordinates and weights: float32, with float64 features float64.
inline at::ScalarType coordinate_type(const at::Tensor& features) {
  return features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The tables describe memory, so they are checked on the host before a kernel sees them.
inline std::vector<LevelMap> level_maps(const at::Tensor& shapes, const at::Tensor& starts, int64_t cameras,
                                        int64_t levels, int64_t pixels) {
  for (const auto& [name, table] : {std::make_pair("spatial_shapes", shapes), {"scale_start_index", starts}}) {
    TORCH_CHECK_VALUE(table.device().is_cpu(), name, ": expected a CPU tensor (it is read on the host), got ",
                      table.device(), "; call .cpu() once when it is made");
    TORCH_CHECK_TYPE(table.scalar_type() == at::kLong || table.scalar_type() == at::kInt, name,
                     ": expected int64 or int32, got ", table.scalar_type());
  }
  TORCH_CHECK_VALUE(shapes.sizes() == at::IntArrayRef({cameras, levels, 2}),
                    "spatial_shapes: expected [cameras, levels, 2] = ", describe({cameras, levels, 2}),
                    " as weights has, got ", describe(shapes.sizes()));
  TORCH_CHECK_VALUE(starts.sizes() == at::IntArrayRef({cameras, levels}),
                    "scale_start_index: expected [cameras, levels] = ", describe({cameras, levels}),
                    " as weights has, got ", describe(starts.sizes()));
  const at::Tensor size = shapes.to(at::kLong).contiguous(), first = starts.to(at::kLong).contiguous();
  std::vector<LevelMap> maps(size_t(cameras * levels));
  for (size_t i = 0; i < maps.size(); ++i) {
    const int64_t height = size.data_ptr<int64_t>()[2 * i], width = size.data_ptr<int64_t>()[2 * i + 1];
    const int64_t start = first.data_ptr<int64_t>()[i];
    maps[i] = {start, height, width};
    const int64_t limit = int64_t(1) << 31;
    TORCH_CHECK_VALUE(height > 0 && width > 0 && height < limit && width < limit,
                      "spatial_shapes: expected positive heights and widths, got ", height, " x ", width,
                      " for camera ", int64_t(i) / levels, ", level ", int64_t(i) % levels);
    TORCH_CHECK_VALUE(start >= 0 && start <= pixels && height * width <= pixels - start, "scale_start_index: camera ",
                      int64_t(i) / levels, ", level ", int64_t(i) % levels, " needs rows [", start, ", ",
                      start + height * width, "), but features has ", pixels);
  }
  std::vector<LevelMap> sorted = maps;
  std::sort(sorted.begin(), sorted.end(), [](const LevelMap& a, const LevelMap& b) { return a.start < b.start; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const int64_t end = sorted[i - 1].start + sorted[i - 1].height * sorted[i - 1].width;
    TORCH_CHECK_VALUE(end <= sorted[i].start, "scale_start_index: the maps starting at rows ", sorted[i - 1].start,
                      " and ", sorted[i].start, " overlap; every (camera, level) needs rows of its own");
  }
  return maps;
}

inline bool covers_all_rows(const std::vector<LevelMap>& maps, int64_t pixels) {
  int64_t rows = 0;
  for (const LevelMap& map : maps) rows += map.height * map.width;
  return rows == pixels;
}

}  // namespace sparse4d
