// The key points that one camera sees, in the order of their place in the image: neighbours in the list read
// neighbouring pixels, at every level, so the feature maps stream through the caches once.
#pragma once
#include "simd.h"

namespace sparse4d {
namespace SPARSE4D_TARGET {

template <typename S>
struct Visit {
  int32_t anchor;  // counted from the first row asked for
  int32_t point;
  S x, y;
};

template <typename S>
class Visits {
 public:
  explicit Visits(int64_t capacity) : found_(capacity), sorted_(capacity), next_(kTiles + 1) {}

  // Points of the output rows [first_row, first_row + rows) that `camera` sees. The order of one anchor's points does
  // not depend on which other anchors are asked for.
  template <typename Locations>
  void collect(const Locations& locations, int64_t first_row, int64_t rows, int64_t points, int64_t camera) {
    int32_t* next = next_.get();
    std::memset(next, 0, (kTiles + 1) * sizeof(int32_t));
    count_ = 0;
    for (int64_t anchor = 0; anchor < rows; ++anchor) {
      for (int64_t point = 0; point < points; ++point) {
        Visit<S>& visit = found_.get()[count_];
        if (!locations.locate(first_row + anchor, point, camera, visit.x, visit.y)) continue;
        visit.anchor = int32_t(anchor);
        visit.point = int32_t(point);
        ++next[tile(visit) + 1];
        ++count_;
      }
    }
    for (int i = 0; i < kTiles; ++i) next[i + 1] += next[i];
    for (int64_t i = 0; i < count_; ++i) {
      const Visit<S>& visit = found_.get()[i];
      sorted_.get()[next[tile(visit)]++] = visit;
    }
  }

  const Visit<S>* begin() const { return sorted_.get(); }
  const Visit<S>* end() const { return sorted_.get() + count_; }

 private:
  static constexpr int kTileRows = 32, kTileColumns = 64, kTiles = kTileRows * kTileColumns;

  static SPARSE4D_INLINE int tile(const Visit<S>& visit) {
    return int(visit.y * S(kTileRows)) * kTileColumns + int(visit.x * S(kTileColumns));
  }

  Scratch<Visit<S>> found_, sorted_;
  Scratch<int32_t> next_;  // first free place of each tile
  int64_t count_ = 0;
};

// Anchors worked on together: their sums stay in the second-level cache.
SPARSE4D_INLINE int64_t block_rows(const Sizes& size) {
  const int64_t rows = 8192 / (size.points > 0 ? size.points : 1);
  return rows < 1 ? 1 : rows > 512 ? 512 : rows;
}

// Calls work(first_row, rows, sample) for blocks of the output rows [begin, end) that lie in one sample each.
template <typename Work>
SPARSE4D_INLINE void for_blocks(const Sizes& size, int64_t begin, int64_t end, const Work& work) {
  const int64_t most = block_rows(size);
  for (int64_t row = begin; row < end;) {
    const int64_t sample = row / size.anchors, sample_end = (sample + 1) * size.anchors;
    int64_t rows = (end < sample_end ? end : sample_end) - row;
    if (rows > most) rows = most;
    work(row, rows, sample);
    row += rows;
  }
}

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
