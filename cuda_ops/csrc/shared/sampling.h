// SamplingSource a key point falls in a feature map: shared by the CPU and CUDA kernels. No torch includes.
#pragma once
#include <cmath>
#include <cstdint>

#include "arguments.h"

#if defined(__CUDACC__)
#define SPARSE4D_INLINE __host__ __device__ __forceinline__
#else
#define SPARSE4D_INLINE inline __attribute__((always_inline))
#endif

// Each translation unit with kernels keeps their code in a namespace of its own (generic, avx2, avx512, cuda), so that
// the linker can never hand AVX-512 code to a processor without it.
#ifndef SPARSE4D_TARGET
#error "define SPARSE4D_TARGET, the namespace of the kernels, before their headers are included"
#endif

namespace sparse4d {
namespace SPARSE4D_TARGET {

// NaN compares false: such a point is outside.
template <typename S>
SPARSE4D_INLINE bool inside_image(S x, S y) {
  return x > S(0) && x < S(1) && y > S(0) && y < S(1);
}

// The four neighbours of a point in one map, in the order (y0 x0), (y0 x1), (y1 x0), (y1 x1).
// A neighbour outside the map has weight zero and the row of the neighbour inside: no read leaves the map.
template <typename S>
struct Corners {
  int64_t row[4];
  S weight[4];
  S weight_dx[4];  // derivative with respect to x in pixels of this map, floor taken as constant
  S weight_dy[4];
};

// size * x - 0.5 - floor, rounded once: the location keeps all its digits on large maps.
template <typename S>
SPARSE4D_INLINE S fraction(S x, int64_t size, S floor) {
#if defined(__FP_FAST_FMAF) || defined(__CUDACC__)
  return std::fma(x, S(size), -(S(0.5) + floor));
#else
  return S(double(x) * double(size) - (0.5 + double(floor)));
#endif
}

template <typename S>
SPARSE4D_INLINE Corners<S> corners(S x, S y, const LevelMap& map) {
  const S x_pixel = x * S(map.width) - S(0.5), y_pixel = y * S(map.height) - S(0.5);
  const S x_floor = std::floor(x_pixel), y_floor = std::floor(y_pixel);
  // In [-1, size - 1]; beyond 2^23 pixels a float rounds up to size.
  const int64_t x0 = int64_t(x_floor) < map.width ? int64_t(x_floor) : map.width - 1;
  const int64_t y0 = int64_t(y_floor) < map.height ? int64_t(y_floor) : map.height - 1;
  const bool left = x0 >= 0, right = x0 + 1 < map.width, top = y0 >= 0, bottom = y0 + 1 < map.height;
  const int64_t xl = left ? x0 : 0, xr = right ? x0 + 1 : map.width - 1;
  const int64_t yt = top ? y0 : 0, yb = bottom ? y0 + 1 : map.height - 1;
  // A side outside the map gets weight and derivative zero.
  const S fx = fraction(x, map.width, x_floor), fy = fraction(y, map.height, y_floor);
  const S wl = left ? S(1) - fx : S(0), wr = right ? fx : S(0), wt = top ? S(1) - fy : S(0), wb = bottom ? fy : S(0);
  const S dl = left ? S(-1) : S(0), dr = right ? S(1) : S(0), dt = top ? S(-1) : S(0), db = bottom ? S(1) : S(0);
  const int64_t upper = map.start + yt * map.width, lower = map.start + yb * map.width;
  return {{upper + xl, upper + xr, lower + xl, lower + xr},
          {wt * wl, wt * wr, wb * wl, wb * wr},
          {wt * dl, wt * dr, wb * dl, wb * dr},
          {dt * wl, dt * wr, db * wl, db * wr}};
}

// Locations given by the caller.
template <typename S>
struct GivenLocations {
  const S* location;
  S* gradient;
  int64_t anchors, points, cameras;

  SPARSE4D_INLINE explicit GivenLocations(const Arguments& a)
      : location(static_cast<const S*>(a.location)),
        gradient(static_cast<S*>(a.grad_location)),
        anchors(a.sizes.anchors),
        points(a.sizes.points),
        cameras(a.sizes.cameras) {}

  SPARSE4D_INLINE bool locate(int64_t row, int64_t point, int64_t camera, S& x, S& y) const {
    const S* xy = location + ((row * points + point) * cameras + camera) * 2;
    x = xy[0];
    y = xy[1];
    return inside_image(x, y);
  }

  static constexpr int64_t gradients_per_point(int64_t cameras) { return 2 * cameras; }

  SPARSE4D_INLINE void add_gradient(int64_t row, int64_t point, int64_t camera, S gx, S gy) const {
    S* g = gradient + ((row * points + point) * cameras + camera) * 2;
    g[0] += gx;
    g[1] += gy;
  }
};

// Fused path: key points (metres, model frame) projected into each camera here.
template <typename S>
struct ProjectedPoints {
  const S *key_points, *projection, *image_wh;
  S* gradient;
  int64_t anchors, points, cameras;

  SPARSE4D_INLINE explicit ProjectedPoints(const Arguments& a)
      : key_points(static_cast<const S*>(a.key_points)),
        projection(static_cast<const S*>(a.projection)),
        image_wh(static_cast<const S*>(a.image_wh)),
        gradient(static_cast<S*>(a.grad_location)),
        anchors(a.sizes.anchors),
        points(a.sizes.points),
        cameras(a.sizes.cameras) {}

  // Numerators and depth of the projection; returns the matrix used.
  SPARSE4D_INLINE const S* project(int64_t row, int64_t point, int64_t camera, S& u, S& v, S& depth) const {
    const S* k = key_points + (row * points + point) * 3;
    const S* m = projection + (row / anchors * cameras + camera) * 16;
    u = m[0] * k[0] + m[1] * k[1] + m[2] * k[2] + m[3];
    v = m[4] * k[0] + m[5] * k[1] + m[6] * k[2] + m[7];
    depth = m[8] * k[0] + m[9] * k[1] + m[10] * k[2] + m[11];
    return m;
  }

  SPARSE4D_INLINE bool locate(int64_t row, int64_t point, int64_t camera, S& x, S& y) const {
    S u, v, depth;
    project(row, point, camera, u, v, depth);
    const S z = depth < S(1e-5) ? S(1e-5) : depth;  // NaN stays NaN and is outside
    const S* wh = image_wh + (row / anchors * cameras + camera) * 2;
    x = u / z / wh[0];
    y = v / z / wh[1];
    return inside_image(x, y);
  }

  static constexpr int64_t gradients_per_point(int64_t) { return 3; }

  SPARSE4D_INLINE void add_gradient(int64_t row, int64_t point, int64_t camera, S gx, S gy) const {
    S u, v, depth;
    const S* m = project(row, point, camera, u, v, depth);
    const bool clamped = depth < S(1e-5);
    const S z = clamped ? S(1e-5) : depth;
    const S* wh = image_wh + (row / anchors * cameras + camera) * 2;
    const S gu = gx / (wh[0] * z), gv = gy / (wh[1] * z);
    const S gz = clamped ? S(0) : -(gu * u + gv * v) / z;
    S* g = gradient + (row * points + point) * 3;
    for (int i = 0; i < 3; ++i) g[i] += gu * m[i] + gv * m[4 + i] + gz * m[8 + i];
  }
};

}  // namespace SPARSE4D_TARGET
}  // namespace sparse4d
