// The best split of a feature at a node: a histogram flows in, and what is better than the best so far flows out.

#ifndef GRADKIT_SEARCHING_H_
#define GRADKIT_SEARCHING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cells.h"
#include "scores.h"

namespace gradkit {

constexpr int64_t kMostBins = 256;

struct Search {
  const Form& form;
  const Penalties& penalties;
  const Units& units;

  // What a node scores before it splits.
  double Own(const Node& node) const {
    std::vector<double> numbers(form.channels());
    Decode(node.whole.data(), form, units, numbers.data());
    return Score(numbers.data(), form.k, penalties, node.low, node.high);
  }

  double LoadOf(const int64_t* cell) const {
    double total = 0;
    for (int64_t i = 0; i < form.k; ++i) total += Curvature(cell[i], units[form.k + i]);
    return total / form.k;
  }

  // Without a count, a child is empty if it has no curvature to speak of.
  double LeastLoad(const Node& node) const {
    return std::max(penalties.min_child_weight, form.is_counted ? 0.0 : kRounding * LoadOf(node.whole.data()));
  }

  // Ties go to the feature that came first, then to the lowest bin, then to the missing on the right.
  void Scan(const int64_t* cells, const Node& node, double own, int64_t feature, int32_t monotone, Split* best) const {
    const bool is_free = node.low == -kInfinity && node.high == kInfinity && monotone == 0;
    if (form.k == 1 && !form.is_counted && penalties.is_plain() && is_free) return ScanPlain(cells, node, own, feature, best);
    ScanAny(cells, node, own, feature, monotone, best);
  }

 private:
  static bool IsEmpty(const int64_t* cell, int64_t words) {
    return std::all_of(cell, cell + words, [](int64_t word) { return word == 0; });
  }

  void Keep(double gain, int64_t feature, int64_t cut, bool is_missing_left, const int64_t* left, Split* best) const {
    best->gain = gain;
    best->feature = feature;
    best->cut = cut;
    best->is_missing_left = is_missing_left;
    best->left.assign(left, left + form.words());
  }

  // One output that nothing but l2 and a least load holds back: G**2 / (H + l2) on each side, all cuts side by side.
  void ScanPlain(const int64_t* cells, const Node& node, double own, int64_t feature, Split* best) const {
    const int64_t numbers = form.bins - 1, whole = node.whole[0], missing = form.has_missing ? cells[numbers] : 0;
    const double unit_g = units[0], unit_h = units[1], least = LeastLoad(node), l2 = penalties.l2, gamma = penalties.gamma;
    int64_t prefix[kMostBins];
    double gains[kMostBins];
    for (int64_t b = 0, sum = 0; b < numbers; ++b) prefix[b] = sum += cells[b];
    double most = -kInfinity;
    int64_t cut = 0, added = 0;
    for (int64_t direction = 0; direction <= (missing != 0); ++direction) {
      const int64_t more = direction ? missing : 0;
      for (int64_t b = 0; b < numbers; ++b) {
        const int64_t left = prefix[b] + more, right = whole - left;
        const double g_left = Gradient(left, unit_g), h_left = Curvature(left, unit_h);
        const double g_right = Gradient(right, unit_g), h_right = Curvature(right, unit_h);
        const double a = h_left + l2, b_ = h_right + l2, product = a * b_;
        const double children = (g_left * g_left * b_ + g_right * g_right * a) / (product > 0 ? product : 1.0);
        const double gain = product > 0 ? children - own : -own;
        const double floor = std::max(gamma, kRounding * children);
        gains[b] = (h_left >= least) & (h_right >= least) & (gain > floor) ? gain : -kInfinity;
      }
      constexpr int64_t kLanes = 8;
      double lanes[kLanes];
      std::fill_n(lanes, kLanes, -kInfinity);
      for (int64_t b = numbers; b % kLanes; ++b) gains[b] = -kInfinity;
      for (int64_t b = 0; b < numbers; b += kLanes)
        for (int64_t i = 0; i < kLanes; ++i) lanes[i] = gains[b + i] > lanes[i] ? gains[b + i] : lanes[i];
      const double top = *std::max_element(lanes, lanes + kLanes);
      if (!(top > -kInfinity) || top < most) continue;
      const int64_t where = std::find(gains, gains + numbers, top) - gains;
      if (top == most && where >= cut) continue;
      most = top;
      cut = where;
      added = more;
    }
    if (!(most > best->gain)) return;
    const int64_t left = prefix[cut] + added;
    const bool is_left = missing ? added != 0 : Curvature(left, unit_h) >= Curvature(whole - left, unit_h);
    Keep(most, feature, cut, is_left, &left, best);
  }

  // Any number of outputs, under any penalties.
  void ScanAny(const int64_t* cells, const Node& node, double own, int64_t feature, int32_t monotone, Split* best) const {
    const int64_t k = form.k, words = form.words(), numbers = form.bins - 1, *missing = cells + numbers * words;
    const bool has_missing = form.has_missing && !IsEmpty(missing, words);
    const double least_load = LeastLoad(node), least = std::max(penalties.min_child_samples, 1.0);
    std::vector<int64_t> sums(3 * words, 0);
    std::vector<double> decoded(2 * form.channels());
    int64_t *prefix = sums.data(), *left = prefix + words, *right = left + words;
    double *to_left = decoded.data(), *to_right = to_left + form.channels();
    for (int64_t b = 0; b < numbers; ++b) {
      const int64_t* cell = cells + b * words;
      if (b > 0 && IsEmpty(cell, words)) continue;  // the cut before parts the examples alike
      for (int64_t i = 0; i < words; ++i) prefix[i] += cell[i];
      for (int64_t direction = 0; direction <= has_missing; ++direction) {
        for (int64_t i = 0; i < words; ++i) left[i] = direction ? prefix[i] + missing[i] : prefix[i];
        for (int64_t i = 0; i < words; ++i) right[i] = node.whole[i] - left[i];
        if (form.is_counted && (left[k] < least || right[k] < least)) continue;
        const double load_left = LoadOf(left), load_right = LoadOf(right);
        if (load_left < least_load || load_right < least_load) continue;
        Decode(left, form, units, to_left);
        Decode(right, form, units, to_right);
        const double children = Score(to_left, k, penalties, node.low, node.high) +
                                Score(to_right, k, penalties, node.low, node.high);
        const double gain = children - own;
        if (!(gain > best->gain && gain > std::max(penalties.gamma, kRounding * children))) continue;
        if (monotone && monotone * (Weight(to_right[0], to_right[k], penalties, node.low, node.high) -
                                    Weight(to_left[0], to_left[k], penalties, node.low, node.high)) < 0)
          continue;
        Keep(gain, feature, b, has_missing ? direction : load_left >= load_right, left, best);
      }
    }
  }
};

}  // namespace gradkit

#endif  // GRADKIT_SEARCHING_H_
