// A tree grown on the CPU: the splits of gradkit/boosting/growing.py, by sorted lists of examples and subtraction of siblings.
//
// Only examples that count are summed, for the smaller child of each pair; the larger one is the parent less its sibling. Features
// are shared out among threads and each sums its own in the order of the examples, so that no bit depends on how many threads
// there are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "parallel.h"
#include "scores.h"
#include "sorted.h"

namespace gradkit {
namespace {

constexpr int64_t kBlockOfFeatures = 14;  // at most: the histograms of one node stay close to the core
constexpr int64_t kFewOutputs = 8;        // whose sums fit the stack

struct Tree {
  int32_t *feature, *cut;
  bool *is_missing_left, *is_split;
  float *gain, *cover, *low, *high;
  int32_t* leaf;
};

struct Inputs {
  const uint8_t* codes;  // (n, d)
  const float *gradient, *curvature, *weights;  // (n, k), (n, k), (n)
  const bool* allowed;             // (depth, d)
  const int32_t* monotone;         // (d)
};

// K is the number of outputs, or 0 where it is known at run time only. Counted says whether examples are counted in every bin,
// which a least number of them in a child asks for; else a child is empty if it has no curvature to speak of.
template <int64_t K, bool Counted>
class Grower {
 public:
  Grower(ffi::ThreadPool& pool, const Form& form, const Penalties& penalties, const Inputs& inputs)
      : pool_(pool), form_(form), penalties_(penalties), in_(inputs) {
    const int64_t k = form.k, stride = form.stride();
    values_.reset(new float[form.n * stride]);
    Parallel(pool_, (form.n + kBlockOfRows - 1) / kBlockOfRows, [&](int64_t task) {
      for (int64_t row = task * kBlockOfRows; row < std::min((task + 1) * kBlockOfRows, form.n); ++row) {
        float* value = values_.get() + row * stride;
        const float weight = in_.weights[row];
        for (int64_t i = 0; i < k; ++i) value[i] = weight * in_.gradient[row * k + i];
        for (int64_t i = 0; i < k; ++i) value[k + i] = weight * in_.curvature[row * k + i];
        for (int64_t i = 2 * k; i < stride; ++i) value[i] = i == 2 * k && weight > 0;
      }
    });
    counted_.order.resize(form.n);
    int64_t count = 0;
    for (int64_t row = 0; row < form.n; ++row) {
      counted_.order[count] = static_cast<int32_t>(row);
      count += in_.weights[row] > 0;
      if (!(in_.weights[row] > 0)) others_.order.push_back(static_cast<int32_t>(row));
    }
    counted_.order.resize(count);
    for (Sorted* rows : {&counted_, &others_}) {
      rows->next.resize(rows->order.size());
      rows->start = {0, static_cast<int64_t>(rows->order.size())};
    }
  }

  void Grow(const Tree& tree) {
    std::vector<Node> nodes(1);
    for (int64_t level = 0; level < form_.depth; ++level) {
      const int64_t count = int64_t{1} << level;
      SumUp(level, nodes);
      if (level == 0) nodes[0].cover = static_cast<float>(Load(Whole(0).data(), form_.k));
      const std::vector<Split> splits = Search(level, nodes);
      std::vector<Node> children(2 * count);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t i = count - 1 + j;
        const bool is_split = std::isfinite(splits[j].gain);
        tree.feature[i] = is_split ? splits[j].feature : 0;
        tree.cut[i] = is_split ? splits[j].cut : form_.bins;
        tree.is_missing_left[i] = splits[j].is_missing_left;
        tree.is_split[i] = is_split;
        tree.gain[i] = is_split ? static_cast<float>(splits[j].gain) : 0.0f;
        tree.cover[i] = nodes[j].cover;
        Descend(nodes[j], splits[j], &children[2 * j], &children[2 * j + 1]);
      }
      for (Sorted* rows : {&counted_, &others_}) Part(pool_, splits, in_.codes, form_, rows);
      nodes.swap(children);
    }
    const int64_t num_leaves = int64_t{1} << form_.depth;
    for (int64_t j = 0; j < num_leaves; ++j) {
      tree.cover[num_leaves - 1 + j] = nodes[j].cover;
      tree.low[j] = static_cast<float>(nodes[j].low);
      tree.high[j] = static_cast<float>(nodes[j].high);
      for (const Sorted* rows : {&counted_, &others_})
        for (int64_t i = rows->start[j]; i < rows->start[j + 1]; ++i) tree.leaf[rows->order[i]] = static_cast<int32_t>(j);
    }
  }

 private:
  int64_t NumBlocks() const { return (form_.d + kBlockOfFeatures - 1) / kBlockOfFeatures; }
  int64_t Begin(int64_t block) const { return form_.d * block / NumBlocks(); }  // of the block's features

  float* Cells(const std::unique_ptr<float[]>& sums, int64_t j, int64_t f) const {
    return sums.get() + (j * form_.d + f) * form_.width();
  }
  int64_t NumCounted(int64_t j) const { return counted_.start[j + 1] - counted_.start[j]; }

  // The histograms of a level: sums for the smaller children, differences for the larger ones.
  void SumUp(int64_t level, const std::vector<Node>& nodes) {
    const int64_t count = int64_t{1} << level, size = count * form_.d * form_.width();
    above_.swap(sums_);
    if (sums_size_[level % 2] < size) {
      sums_.reset(new float[size]);  // not filled: every cell that is read was written before
      sums_size_[level % 2] = size;
    }
    const int64_t blocks = NumBlocks(), pairs = std::max<int64_t>(count / 2, 1);
    Parallel(pool_, blocks * pairs, [&](int64_t task) {
      const int64_t pair = task / blocks, begin = Begin(task % blocks), end = Begin(task % blocks + 1);
      if (level == 0) return Sum(0, begin, end);
      if (!nodes[2 * pair].may_split) return;
      const int64_t small = 2 * pair + (NumCounted(2 * pair) > NumCounted(2 * pair + 1)), large = small ^ 1;
      Sum(small, begin, end);
      const float *whole = Cells(above_, pair, begin), *part = Cells(sums_, small, begin);
      float* rest = Cells(sums_, large, begin);
      for (int64_t i = 0; i < (end - begin) * form_.width(); ++i) rest[i] = whole[i] - part[i];
    });
  }

  void Sum(int64_t j, int64_t begin, int64_t end) {
    float* own = Cells(sums_, j, begin);
    std::fill_n(own, (end - begin) * form_.width(), 0.0f);
    const int32_t *row = counted_.order.data() + counted_.start[j], *last = counted_.order.data() + counted_.start[j + 1];
    if (K == 1) return SumOfOne(row, last, own, begin, end);
    const int64_t stride = form_.stride();
    for (; row < last; ++row) {
      const uint8_t* code = in_.codes + int64_t{*row} * form_.d;
      const float* value = values_.get() + int64_t{*row} * stride;
      for (int64_t f = begin; f < end; ++f) {
        float* cell = own + (f - begin) * form_.width() + code[f] * stride;
        for (int64_t c = 0; c < stride; ++c) cell[c] += value[c];
      }
    }
  }

  // The same for one output: the channels of a cell in one go.
  void SumOfOne(const int32_t* row, const int32_t* last, float* own, int64_t begin, int64_t end) {
    constexpr int64_t stride = Counted ? 4 : 2;
    typedef float Cell __attribute__((vector_size(stride * sizeof(float))));
    const int64_t width = form_.width();
    for (; row < last; ++row) {
      const int64_t ahead = row[row + kAhead < last ? kAhead : 0];
      __builtin_prefetch(in_.codes + ahead * form_.d + begin);
      __builtin_prefetch(values_.get() + ahead * stride);
      const uint8_t *code = in_.codes + int64_t{*row} * form_.d + begin, *stop = code + (end - begin);
      Cell added, sum;
      std::memcpy(&added, values_.get() + int64_t{*row} * stride, sizeof added);
#pragma GCC unroll 4
      for (float* cells = own; code < stop; ++code, cells += width) {
        std::memcpy(&sum, cells + int64_t{*code} * stride, sizeof sum);
        sum += added;
        std::memcpy(cells + int64_t{*code} * stride, &sum, sizeof sum);
      }
    }
  }

  std::vector<double> Whole(int64_t j) {
    std::vector<double> whole(form_.channels());
    const float* cell = Cells(sums_, j, 0);
    for (int64_t b = 0; b < form_.bins; ++b, cell += form_.stride())
      for (int64_t c = 0; c < form_.channels(); ++c) whole[c] += cell[c];
    return whole;
  }

  // The best split of every node; ties go to the lowest feature, then to the lowest bin, then to the missing on the right.
  std::vector<Split> Search(int64_t level, const std::vector<Node>& nodes) {
    const int64_t count = nodes.size(), d = form_.d, blocks = NumBlocks();
    std::vector<Split> found(count * blocks), best(count);
    Parallel(pool_, count * blocks, [&](int64_t task) {
      const int64_t j = task / blocks, begin = Begin(task % blocks), end = Begin(task % blocks + 1);
      if (!nodes[j].may_split) return;
      const double own = Score(Whole(j).data(), form_.k, penalties_, nodes[j].low, nodes[j].high);
      for (int64_t f = begin; f < end; ++f)
        if (in_.allowed[level * d + f]) Scan(j, f, own, nodes[j], &found[task]);
    });
    for (int64_t task = 0; task < count * blocks; ++task)
      if (found[task].gain > best[task / blocks].gain) best[task / blocks] = std::move(found[task]);
    return best;
  }

  void Scan(int64_t j, int64_t f, double own, const Node& node, Split* best) {
    const int64_t k = K ? K : form_.k, c = 2 * k + Counted, stride = form_.stride(), numbers = form_.bins - 1;
    const float *cells = Cells(sums_, j, f), *missing = cells + numbers * stride;
    double few[4 * (2 * kFewOutputs + 1)] = {};
    std::vector<double> many(k > kFewOutputs ? 4 * c : 0);
    double *whole = k > kFewOutputs ? many.data() : few, *prefix = whole + c, *left = prefix + c, *right = left + c;
    for (int64_t b = 0; b < form_.bins; ++b)
      for (int64_t i = 0; i < c; ++i) whole[i] += cells[b * stride + i];
    const bool has_missing = form_.has_missing && !IsEmpty(missing, c);
    const bool is_plain = penalties_.is_plain() && node.low == -kInfinity && node.high == kInfinity;
    const double load = Load(whole, k), least_load = std::max(penalties_.min_child_weight, Counted ? 0 : kRounding * load);
    const double least = std::max(penalties_.min_child_samples, 1.0);
    for (int64_t b = 0; b < numbers; ++b) {
      const float* cell = cells + b * stride;
      if (b > 0 && IsEmpty(cell, c)) continue;  // the cut before parts the examples alike
      for (int64_t i = 0; i < c; ++i) prefix[i] += cell[i];
      for (int64_t direction = 0; direction <= has_missing; ++direction) {
        for (int64_t i = 0; i < c; ++i) left[i] = direction ? prefix[i] + missing[i] : prefix[i];
        if (Counted && (left[2 * k] < least || whole[2 * k] - left[2 * k] < least)) continue;
        for (int64_t i = 0; i < c; ++i) right[i] = whole[i] - left[i];
        for (int64_t i = k; i < 2 * k; ++i) right[i] = std::max(right[i], 0.0);
        const double load_left = Load(left, k), load_right = Load(right, k);
        if (load_left < least_load || load_right < least_load) continue;
        const double children = K == 1 && is_plain ? PlainScores(left, right)
                                                   : Score(left, k, penalties_, node.low, node.high) +
                                                         Score(right, k, penalties_, node.low, node.high);
        const double gain = children - own;
        if (!(gain > best->gain && gain > std::max(penalties_.gamma, kRounding * children))) continue;
        if (in_.monotone[f] && in_.monotone[f] * (First(right, node) - First(left, node)) < 0) continue;
        best->gain = gain;
        best->feature = f;
        best->cut = b;
        best->is_missing_left = has_missing ? direction : load_left >= load_right;
        best->left.assign(left, left + c);
        best->right.assign(right, right + c);
      }
    }
  }

  static bool IsEmpty(const float* cell, int64_t c) {
    if (Counted) return !(cell[c - 1] > 0);
    for (int64_t i = 0; i < c; ++i)
      if (cell[i] != 0) return false;
    return true;
  }

  // The scores of two nodes of one output that nothing but l2 holds back: G**2 / (H + l2) each, by one division.
  double PlainScores(const double* left, const double* right) const {
    const double h_left = left[1] + penalties_.l2, h_right = right[1] + penalties_.l2;
    if (!(h_left > 0 && h_right > 0)) return 0;
    return (left[0] * left[0] * h_right + right[0] * right[0] * h_left) / (h_left * h_right);
  }

  double First(const double* sums, const Node& node) const {
    return Weight(sums[0], sums[form_.k], penalties_, node.low, node.high);
  }

  // What the children of a node are; below one that does not split, the left child has all.
  void Descend(const Node& node, const Split& split, Node* left, Node* right) const {
    *left = *right = node;
    if (!std::isfinite(split.gain)) {
      left->may_split = right->may_split = false;
      right->cover = 0;
      return;
    }
    left->cover = static_cast<float>(Load(split.left.data(), form_.k));
    right->cover = static_cast<float>(Load(split.right.data(), form_.k));
    const int32_t sign = in_.monotone[split.feature];
    const double middle = (First(split.left.data(), node) + First(split.right.data(), node)) / 2;
    if (sign) (sign > 0 ? left : right)->high = (sign > 0 ? right : left)->low = middle;
  }

  ffi::ThreadPool& pool_;
  const Form form_;
  const Penalties penalties_;
  const Inputs in_;
  std::unique_ptr<float[]> values_;  // (n, stride)
  std::unique_ptr<float[]> sums_, above_;
  int64_t sums_size_[2] = {0, 0};
  Sorted counted_, others_;
};

ffi::Error GrowTree(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> gradient,
                    ffi::Buffer<ffi::F32> curvature, ffi::Buffer<ffi::F32> weights, ffi::Buffer<ffi::F32> penalties,
                    ffi::Buffer<ffi::PRED> allowed, ffi::Buffer<ffi::S32> monotone,
                    ffi::ResultBuffer<ffi::S32> feature, ffi::ResultBuffer<ffi::S32> cut,
                    ffi::ResultBuffer<ffi::PRED> is_missing_left, ffi::ResultBuffer<ffi::PRED> is_split,
                    ffi::ResultBuffer<ffi::F32> gain, ffi::ResultBuffer<ffi::F32> cover, ffi::ResultBuffer<ffi::F32> low,
                    ffi::ResultBuffer<ffi::F32> high, ffi::ResultBuffer<ffi::S32> leaf, int64_t bins, bool has_missing) {
  const auto size = codes.dimensions();
  const float* p = penalties.typed_data();
  const Penalties limits{p[0], p[1], p[2], p[3], p[4], p[5]};
  const bool is_counted = gradient.dimensions()[1] > 1 || limits.min_child_samples > 1;
  const Form form{size[0], size[1], gradient.dimensions()[1], bins, allowed.dimensions()[0], has_missing, is_counted};
  const Inputs inputs{codes.typed_data(),   gradient.typed_data(), curvature.typed_data(),
                      weights.typed_data(), allowed.typed_data(), monotone.typed_data()};
  const Tree tree{feature->typed_data(), cut->typed_data(),   is_missing_left->typed_data(),
                  is_split->typed_data(), gain->typed_data(), cover->typed_data(),
                  low->typed_data(),      high->typed_data(), leaf->typed_data()};
  if (form.k == 1) {
    is_counted ? Grower<1, true>(pool, form, limits, inputs).Grow(tree) : Grower<1, false>(pool, form, limits, inputs).Grow(tree);
  } else {
    Grower<0, true>(pool, form, limits, inputs).Grow(tree);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gradkit_grow_tree, gradkit::GrowTree,
    xla::ffi::Ffi::Bind()
        .Ctx<xla::ffi::ThreadPool>()
        .Arg<xla::ffi::Buffer<xla::ffi::U8>>()
        .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
        .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
        .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
        .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
        .Arg<xla::ffi::Buffer<xla::ffi::PRED>>()
        .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::S32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::S32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::PRED>>()
        .Ret<xla::ffi::Buffer<xla::ffi::PRED>>()
        .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
        .Ret<xla::ffi::Buffer<xla::ffi::S32>>()
        .Attr<int64_t>("bins")
        .Attr<bool>("has_missing"));
