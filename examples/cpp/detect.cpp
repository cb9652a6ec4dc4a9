// Runs an exported step on a folder of frames, without Python: detect PACKAGE FRAMES [OPERATOR_LIBRARY]
//
// Prints a line of JSON for every box with a score above 0.3, as detect.py of an ONNX export does.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <iomanip>
#include <iostream>

#include "recurrent_step.h"

constexpr float kShown = 0.3f;  // score

void print_boxes(double seconds, const RecurrentStep::Tensors& found, const Json& class_names) {
  const at::Tensor boxes = found.at("boxes")[0], scores = found.at("scores")[0], labels = found.at("labels")[0];
  const auto ids = found.find("ids");
  for (int64_t row = 0; row < scores.size(0); ++row) {
    const float score = scores.const_data_ptr<float>()[row];
    if (score <= kShown) continue;
    const std::string& name = class_names.array().at(size_t(labels.const_data_ptr<int64_t>()[row])).text();
    std::cout << "{\"seconds\": " << std::setprecision(17) << seconds << ", \"class\": \"" << name
              << "\", \"score\": " << std::setprecision(9) << score << ", \"id\": ";
    if (ids == found.end()) {
      std::cout << "null";
    } else {
      std::cout << ids->second.const_data_ptr<int64_t>()[row];
    }
    std::cout << ", \"box\": [";
    for (int64_t i = 0; i < boxes.size(1); ++i) {
      std::cout << (i ? ", " : "") << boxes.const_data_ptr<float>()[row * boxes.size(1) + i];
    }
    std::cout << "]}\n";
  }
}

int main(int count, char** words) {
  if (count < 3 || count > 4) {
    std::cerr << "usage: detect PACKAGE FRAMES [OPERATOR_LIBRARY]\n";
    return 2;
  }
  try {
    const c10::InferenceMode inference;
    const std::string frames = words[2];
    RecurrentStep step(words[1], count == 4 ? words[3] : "");
    const Json entries = Json::read(frames + "/frames.json");
    for (const Json& entry : entries.array()) {
      const Frame frame = read_frame(frames, entry);
      print_boxes(frame.seconds, step.run(frame), step.config().at("class_names"));
    }
  } catch (const std::exception& error) {
    std::cerr << "detect: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
