// Sums as whole numbers: order, threads and devices then change no bit, and a larger child is its parent less its sibling, exactly.
//
// A cell of a histogram is a few 64-bit words: one per output, its gradient above its curvature, 32 bits each, and where
// examples are counted their number. A single addition thus moves both. Units are powers of two such that no sum overflows.

#ifndef GRADKIT_CELLS_H_
#define GRADKIT_CELLS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "scores.h"
#include "workspaces.h"

namespace gradkit {

constexpr double kLeastUnit = 0x1p-120;  // whose reciprocal is a float

struct Slopes {
  const float *gradient, *curvature, *weights;  // (n, k), (n, k), (n) or none
  bool counts(int64_t row) const { return !weights || weights[row] > 0; }
};

// The units of the channels: gradients of all outputs, then curvatures.
using Units = std::vector<double>;

inline double Gradient(int64_t word, double unit) { return static_cast<double>(word >> 32) * unit; }
inline double Curvature(int64_t word, double unit) { return static_cast<double>(static_cast<uint32_t>(word)) * unit; }

// A cell as numbers: gradients, curvatures, and the count where there is one.
inline void Decode(const int64_t* cell, const Form& form, const Units& units, double* numbers) {
  for (int64_t i = 0; i < form.k; ++i) {
    numbers[i] = Gradient(cell[i], units[i]);
    numbers[form.k + i] = Curvature(cell[i], units[form.k + i]);
  }
  if (form.is_counted) numbers[2 * form.k] = static_cast<double>(cell[form.k]);
}

// What is not finite counts as nothing here, and is found out by the leaves.
inline float Finite(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : number;
}

// A weighted channel of the examples: the gradients of all outputs come first, then the curvatures.
struct Channel {
  Channel(const Slopes& slopes, int64_t k, int64_t c)
      : values((c < k ? slopes.gradient : slopes.curvature) + c % k), weights(slopes.weights), stride(k) {}
  float operator()(int64_t row) const { return Finite(weights ? weights[row] * values[row * stride] : values[row * stride]); }
  const float *values, *weights;
  int64_t stride;
};

inline double PowerAbove(double number) {
  int exponent;
  std::frexp(number, &exponent);
  return std::ldexp(1.0, exponent);
}

// unit >= sum(|channel|) / (2**31 - 1 - n), of the sum rounded up in whole numbers, for a sum of floats depends on its order.
inline Units FindUnits(ffi::ThreadPool& pool, const Form& form, const Slopes& slopes) {
  const int64_t channels = 2 * form.k, blocks = NumBlocksOfRows(form.n);
  std::vector<int32_t> parts(channels * blocks, 0);
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < channels; ++c) {
      const Channel channel(slopes, form.k, c);
      int32_t most = 0;  // of numbers without a sign the largest has the largest bits
      for (int64_t row = begin; row < end; ++row) {
        const float size = std::abs(channel(row));
        int32_t bits;
        std::memcpy(&bits, &size, sizeof bits);
        most = std::max(most, bits);
      }
      parts[c * blocks + block] = most;
    }
  });
  Units coarse(channels, 1.0), units(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const int32_t bits = *std::max_element(parts.data() + c * blocks, parts.data() + (c + 1) * blocks);
    float most;
    std::memcpy(&most, &bits, sizeof most);
    if (most > 0) coarse[c] = std::max(PowerAbove(most) * PowerAbove(static_cast<double>(form.n)) * 0x1p-30, kLeastUnit);
  }
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < channels; ++c) {
      const Channel channel(slopes, form.k, c);
      const float scale = static_cast<float>(1.0 / coarse[c]);
      int32_t sum = 0;
      for (int64_t row = begin; row < end; ++row) sum += static_cast<int32_t>(std::abs(channel(row)) * scale) + 1;
      parts[c * blocks + block] = sum;
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t sum = std::accumulate(parts.data() + c * blocks, parts.data() + (c + 1) * blocks, int64_t{0});
    units[c] = std::max(PowerAbove(static_cast<double>(sum) * coarse[c] / (0x1p31 - 1 - static_cast<double>(form.n))), kLeastUnit);
  }
  return units;
}

inline int32_t Nearest(float number) { return static_cast<int32_t>(number + std::copysign(0.5f, number)); }

// The examples' words (n, words), those that count by number, and what they all add up to.
inline std::vector<int64_t> Encode(ffi::ThreadPool& pool, const Form& form, const Slopes& slopes, const Units& units,
                                   Workspace& space) {
  const int64_t words = form.words(), blocks = NumBlocksOfRows(form.n);
  std::vector<int64_t> parts(blocks * words, 0), counts(blocks, 0), start(blocks + 1, 0);
  std::vector<float> scales(units.size());
  for (size_t c = 0; c < units.size(); ++c) scales[c] = static_cast<float>(1.0 / units[c]);
  int64_t* values = space.values.Need(form.n * words);
  int32_t *order = space.order.Need(form.n), *scratch = space.sides.Need(form.n);
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    int64_t *own = parts.data() + block * words, count = 0;
    for (int64_t i = 0; i < form.k; ++i) {
      const Channel gradient(slopes, form.k, i), curvature(slopes, form.k, form.k + i);
      int64_t sum = 0;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t g = Nearest(gradient(row) * scales[i]), h = Nearest(curvature(row) * scales[form.k + i]);
        sum += values[row * words + i] = g * (int64_t{1} << 32) + h;
      }
      own[i] = sum;
    }
    for (int64_t row = begin; row < end; ++row) {
      scratch[begin + count] = static_cast<int32_t>(row);
      count += slopes.counts(row);
    }
    for (int64_t row = begin; form.is_counted && row < end; ++row) values[row * words + form.k] = slopes.counts(row);
    if (form.is_counted) own[form.k] = count;
    counts[block] = count;
  });
  for (int64_t block = 0; block < blocks; ++block) start[block + 1] = start[block] + counts[block];
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t) {
    std::copy_n(scratch + begin, counts[block], order + start[block]);
  });
  for (int64_t block = 1; block < blocks; ++block)
    for (int64_t i = 0; i < words; ++i) parts[i] += parts[block * words + i];
  parts.resize(words);
  space.num_counted = start[blocks];
  return parts;
}

}  // namespace gradkit

#endif  // GRADKIT_CELLS_H_
