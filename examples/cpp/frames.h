// Frames as `python -m sparse4d_core.export.frames` writes them: raw images of the network's size and where each looks.
#pragma once
#include <array>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  // height x width x 3
};

using Pose = std::array<double, 16>;  // 4 x 4, row by row

struct Frame {
  double seconds = 0;
  std::vector<Picture> images;     // one a camera, of the network's size
  std::vector<double> projection;  // cameras x 4 x 4: points of the model frame at `seconds` to pixels
  Pose T_global_from_model{};      // metres
};

// A binary PPM with 256 levels.
inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Picture picture;
  int64_t levels = 0;
  file >> kind >> picture.width >> picture.height >> levels;
  if (!file || kind != "P6" || levels != 255) throw std::runtime_error(path + ": expected a PPM (P6) of 255 levels");
  file.get();  // the one blank that ends the head
  picture.rgb.resize(size_t(picture.width * picture.height * 3));
  file.read(reinterpret_cast<char*>(picture.rgb.data()), std::streamsize(picture.rgb.size()));
  if (size_t(file.gcount()) != picture.rgb.size()) throw std::runtime_error(path + ": ends too early");
  return picture;
}

inline Frame read_frame(const std::string& folder, const Json& entry) {
  Frame frame;
  frame.seconds = entry.at("seconds").number();
  for (const Json& name : entry.at("images").array()) frame.images.push_back(read_ppm(folder + "/" + name.text()));
  frame.projection = entry.at("projection").numbers();
  const std::vector<double> pose = entry.at("T_global_from_model").numbers();
  if (pose.size() != 16 || frame.projection.size() != 16 * frame.images.size()) {
    throw std::runtime_error(folder + "/frames.json: expected a 4x4 pose, and a 4x4 projection an image");
  }
  std::copy(pose.begin(), pose.end(), frame.T_global_from_model.begin());
  return frame;
}

// Maps points that are given in the model frame of `before` to that of `now`. Both are rigid: the inverse is cheap.
inline Pose relative(const Pose& now, const Pose& before) {
  Pose T{};
  T[15] = 1;
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 4; ++column) {
      for (int k = 0; k < 3; ++k) {
        const double offset = column == 3 ? now[size_t(4 * k + 3)] : 0;
        T[size_t(4 * row + column)] += now[size_t(4 * k + row)] * (before[size_t(4 * k + column)] - offset);
      }
    }
  }
  return T;
}
