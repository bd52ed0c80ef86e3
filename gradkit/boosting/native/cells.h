// Sums as whole numbers: order, threads and devices then change no bit, and a larger child is its parent less its sibling, exactly.
//
// A cell of a histogram is a few 64-bit words: one per output, its gradient above its curvature, 32 bits each, and where
// examples are counted their number. A single addition thus moves both. Units are powers of two such that no sum overflows.

#ifndef GRADKIT_CELLS_H_
#define GRADKIT_CELLS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "scores.h"
#include "workspaces.h"

namespace gradkit {

struct Slopes {
  const float *gradient, *curvature, *weights;  // (n, k), (n, k), (n)
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

inline float Finite(float number) { return std::isfinite(number) ? number : 0.0f; }

// The weighted channel of an example; what is not finite counts as nothing here, and is found out by the leaves.
inline float Channel(const Slopes& slopes, int64_t k, int64_t row, int64_t channel) {
  const float value = channel < k ? slopes.gradient[row * k + channel] : slopes.curvature[row * k + channel - k];
  return Finite(slopes.weights[row] * value);
}

inline double PowerAbove(double number) {
  int exponent;
  std::frexp(number, &exponent);
  return std::ldexp(1.0, exponent);
}

// unit >= sum(|channel|) / (2**31 - 1 - n), of the sum rounded up in whole numbers, for a sum of floats depends on its order.
inline Units FindUnits(ffi::ThreadPool& pool, const Form& form, const Slopes& slopes) {
  const int64_t channels = 2 * form.k, blocks = NumBlocksOfRows(form.n);
  std::vector<float> largest(blocks * channels, 0.0f);
  std::vector<int64_t> total(blocks * channels, 0);
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < channels; ++c) {
      float most = 0.0f;
      for (int64_t row = begin; row < end; ++row) most = std::max(most, std::abs(Channel(slopes, form.k, row, c)));
      largest[block * channels + c] = most;
    }
  });
  Units coarse(channels), units(channels);
  for (int64_t c = 0; c < channels; ++c) {
    float most = 0.0f;
    for (int64_t block = 0; block < blocks; ++block) most = std::max(most, largest[block * channels + c]);
    coarse[c] = most > 0 ? PowerAbove(most) * PowerAbove(static_cast<double>(form.n)) * 0x1p-30 : 1.0;
  }
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    for (int64_t c = 0; c < channels; ++c) {
      const float scale = static_cast<float>(1.0 / coarse[c]);
      int64_t sum = 0;
      for (int64_t row = begin; row < end; ++row)
        sum += static_cast<int32_t>(std::abs(Channel(slopes, form.k, row, c)) * scale) + 1;
      total[block * channels + c] = sum;
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    int64_t sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += total[block * channels + c];
    units[c] = PowerAbove(static_cast<double>(sum) * coarse[c] / (0x1p31 - 1 - static_cast<double>(form.n)));
  }
  return units;
}

// The examples' words (n, words), those that count by number, and what they all add up to.
inline std::vector<int64_t> Encode(ffi::ThreadPool& pool, const Form& form, const Slopes& slopes, const Units& units,
                                   Workspace& space) {
  const int64_t words = form.words(), blocks = NumBlocksOfRows(form.n);
  std::vector<int64_t> parts(blocks * words, 0), counts(blocks, 0), start(blocks + 1, 0);
  std::vector<float> scales(units.size());
  for (size_t c = 0; c < units.size(); ++c) scales[c] = static_cast<float>(1.0 / units[c]);
  int64_t* values = space.values.Need(form.n * words);
  int32_t *order = space.order.Need(form.n), *scratch = space.lefts.Need(form.n);
  OverRows(pool, form.n, [&](int64_t block, int64_t begin, int64_t end) {
    int64_t *own = parts.data() + block * words, count = 0;
    for (int64_t row = begin; row < end; ++row) {
      int64_t* value = values + row * words;
      for (int64_t i = 0; i < form.k; ++i) {
        const int64_t g = static_cast<int64_t>(std::lrintf(Channel(slopes, form.k, row, i) * scales[i]));
        const int64_t h = static_cast<int64_t>(std::lrintf(Channel(slopes, form.k, row, form.k + i) * scales[form.k + i]));
        value[i] = g * (int64_t{1} << 32) + h;
        own[i] += value[i];
      }
      const bool counts_one = slopes.weights[row] > 0;
      if (form.is_counted) own[form.k] += value[form.k] = counts_one;
      scratch[begin + count] = static_cast<int32_t>(row);
      count += counts_one;
    }
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
