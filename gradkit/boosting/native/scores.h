// Weights and scores of nodes: the formulas of gradkit/boosting/splits.py, for sums laid out as gradients, curvatures, count.

#ifndef GRADKIT_SCORES_H_
#define GRADKIT_SCORES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace gradkit {

constexpr double kRounding = 1e-6;  // as splits.ROUNDING
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Form {
  int64_t n, d, k, bins, depth;
  bool has_missing, is_counted;
  int64_t channels() const { return 2 * k + is_counted; }  // gradients, curvatures, and how many
  int64_t words() const { return k + is_counted; }         // of a cell
  int64_t width() const { return bins * words(); }         // of a feature
};

struct Penalties {
  double l1, l2, gamma, min_child_weight, min_child_samples, max_delta_step;
  bool is_plain() const { return l1 == 0 && max_delta_step == kInfinity; }
};

inline double Weight(double gradient, double curvature, const Penalties& p, double low, double high) {
  const double small = std::max(std::abs(gradient) - p.l1, 0.0), denominator = curvature + p.l2;
  const double value = denominator > 0 ? -std::copysign(small, gradient) / denominator : 0.0;
  return std::clamp(std::clamp(value, -p.max_delta_step, p.max_delta_step), low, high);
}

// The score of sums laid out as a cell.
inline double Score(const double* sums, int64_t k, const Penalties& p, double low, double high) {
  double total = 0;
  for (int64_t i = 0; i < k; ++i) {
    const double g = sums[i], h = sums[k + i] + p.l2, w = Weight(g, sums[k + i], p, low, high);
    total -= 2 * g * w + h * w * w + 2 * p.l1 * std::abs(w);
  }
  return total;
}

inline double Load(const double* sums, int64_t k) {
  double total = 0;
  for (int64_t i = 0; i < k; ++i) total += sums[k + i];
  return total / k;
}

// A node of the level that grows. Its examples are those of `order` from `begin` to `end` - 1, its sums in a slot of their own.
struct Node {
  double low = -kInfinity, high = kInfinity;
  std::vector<int64_t> whole;  // what its examples add up to
  int64_t begin = 0, end = 0, slot = 0;
  bool may_split = true;
};

struct Split {
  double gain = -kInfinity;
  int64_t feature = 0, cut = 0;
  bool is_missing_left = true;
  std::vector<int64_t> left;  // what the left child adds up to
  bool is_one() const { return std::isfinite(gain); }
};

}  // namespace gradkit

#endif  // GRADKIT_SCORES_H_
