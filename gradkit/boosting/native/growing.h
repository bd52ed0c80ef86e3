// A tree grown on the CPU: the splits of gradkit/boosting/growing.py, by sorted lists of examples and subtraction of siblings.
//
// Only examples that count are summed, for the smaller child of each pair; the larger one is the parent less its sibling, in the
// parent's memory. Pairs and blocks of features are shared out among threads, sums and search together, while a histogram is near.

#ifndef GRADKIT_GROWING_H_
#define GRADKIT_GROWING_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cells.h"
#include "parallel.h"
#include "scores.h"
#include "searching.h"
#include "sorted.h"
#include "workspaces.h"

namespace gradkit {

constexpr int64_t kLeastFeatures = 14, kMostFeatures = 48;  // of a task: a look at an example pays; a histogram stays near
constexpr int64_t kLeastExamples = 1 << 14;                // of a part of a node
constexpr int64_t kTasksPerThread = 4;                     // whoever is done early takes one more

struct Tree {
  int32_t *feature, *cut;
  bool *is_missing_left, *is_split;
  float *gain, *cover, *low, *high;
  int32_t* leaf;
};

struct Inputs {
  const uint8_t *codes, *columns;  // (n, d), (d, n)
  Slopes slopes;
  const bool* allowed;      // (depth, d)
  const int32_t* monotone;  // (d)
};

// Words is the number of words in a cell, or 0 where it is known at run time only.
template <int64_t Words>
class Grower {
 public:
  Grower(ffi::ThreadPool& pool, const Form& form, const Penalties& penalties, const Inputs& inputs, Workspace& space)
      : pool_(pool), form_(form), penalties_(penalties), in_(inputs), space_(space),
        units_(FindUnits(pool, form, inputs.slopes)), search_{form_, penalties_, units_} {}

  void Grow(const Tree& tree) {
    std::vector<Node> nodes(1);
    nodes[0].whole = Encode(pool_, form_, in_.slopes, units_, space_);
    nodes[0].end = space_.num_counted;
    space_.sums.Need((int64_t{1} << (form_.depth - 1)) * form_.d * form_.width());
    tree.cover[0] = static_cast<float>(search_.LoadOf(nodes[0].whole.data()));
    for (int64_t level = 0; level < form_.depth; ++level) {
      const int64_t count = int64_t{1} << level;
      const std::vector<Split> splits = SplitUp(level, nodes);
      for (int64_t j = 0; j < count; ++j) Note(splits[j], count - 1 + j, tree);
      const bool is_last = level + 1 == form_.depth;
      if (is_last) AssignLeaves(nodes, splits, tree.leaf);
      const std::vector<int64_t> num_left =
          is_last ? std::vector<int64_t>(count) : SendDown(pool_, nodes, splits, in_.columns, form_, space_);
      std::vector<Node> children(2 * count);
      int64_t next_slot = count;
      for (int64_t j = 0; j < count; ++j) {
        Node *left = &children[2 * j], *right = left + 1;
        Descend(nodes[j], splits[j], num_left[j], left, right);
        (left->end - left->begin > right->end - right->begin ? right : left)->slot = next_slot++;
        const int64_t i = 2 * (count + j) - 1;
        tree.cover[i] = static_cast<float>(search_.LoadOf(left->whole.data()));
        tree.cover[i + 1] = static_cast<float>(search_.LoadOf(right->whole.data()));
      }
      nodes.swap(children);
    }
    for (size_t j = 0; j < nodes.size(); ++j) {
      tree.low[j] = static_cast<float>(nodes[j].low);
      tree.high[j] = static_cast<float>(nodes[j].high);
    }
    if (space_.num_counted < form_.n) FollowOthers(tree);
  }

 private:
  int64_t* Cells(const Node& node, int64_t f) const { return space_.sums.data() + (node.slot * form_.d + f) * form_.width(); }
  int64_t* Part(int64_t part, int64_t f) const { return space_.parts.data() + (part * form_.d + f) * form_.width(); }
  int64_t NumThreads() const { return std::max<int64_t>(pool_.num_threads(), 1); }
  static int64_t Size(const Node& node) { return node.end - node.begin; }

  // A child that is summed, the larger one that is the rest of their parent (-1 for the root), and where its parts are.
  struct Family {
    int64_t small, large, first_part, num_parts;
  };

  std::vector<Family> Families(const std::vector<Node>& nodes) const {
    if (nodes.size() == 1) return {{0, -1, 0, 0}};
    std::vector<Family> families;
    for (int64_t j = 0; j < static_cast<int64_t>(nodes.size()); j += 2)
      if (nodes[j].may_split) families.push_back(Size(nodes[j]) > Size(nodes[j + 1]) ? Family{j + 1, j} : Family{j, j + 1});
    std::sort(families.begin(), families.end(), [&](const Family& a, const Family& b) {  // the largest first
      return Size(nodes[a.small]) > Size(nodes[b.small]);
    });
    return families;
  }

  // The best split of every node of a level: sums for the smaller children, differences for the larger ones, and the search.
  std::vector<Split> SplitUp(int64_t level, const std::vector<Node>& nodes) {
    std::vector<Family> families = Families(nodes);
    SumParts(nodes, &families);
    const int64_t number = families.size(), least = (form_.d + kMostFeatures - 1) / kMostFeatures;
    const int64_t wanted = (kTasksPerThread * NumThreads() + number - 1) / std::max<int64_t>(number, 1);
    const int64_t blocks = std::clamp(wanted, least, std::max(least, form_.d / kLeastFeatures));
    std::vector<Split> found(nodes.size() * blocks), best(nodes.size());
    Parallel(pool_, number * blocks, [&](int64_t task) {
      const Family& family = families[task / blocks];
      const int64_t block = task % blocks, begin = form_.d * block / blocks, end = form_.d * (block + 1) / blocks;
      const int64_t size = (end - begin) * form_.width();
      int64_t* own = Cells(nodes[family.small], begin);
      std::fill_n(own, size, 0);
      for (int64_t i = 0; i < family.num_parts; ++i) {
        const int64_t* part = Part(family.first_part + i, begin);
        for (int64_t cell = 0; cell < size; ++cell) own[cell] += part[cell];
      }
      if (family.num_parts == 0) Sum(nodes[family.small].begin, nodes[family.small].end, begin, end, own);
      if (family.large >= 0) {
        int64_t* rest = Cells(nodes[family.large], begin);
        for (int64_t cell = 0; cell < size; ++cell) rest[cell] -= own[cell];
      }
      for (const int64_t j : {family.small, family.large}) {
        if (j < 0) continue;
        const double score = search_.Own(nodes[j]);
        for (int64_t f = begin; f < end; ++f)
          if (in_.allowed[level * form_.d + f])
            search_.Scan(Cells(nodes[j], f), nodes[j], score, f, in_.monotone[f], &found[j * blocks + block]);
      }
    });
    for (size_t i = 0; i < found.size(); ++i)
      if (found[i].gain > best[i / blocks].gain) best[i / blocks] = std::move(found[i]);
    return best;
  }

  // Nodes of many examples are summed in parts, so that all threads have a share.
  void SumParts(const std::vector<Node>& nodes, std::vector<Family>* families) {
    struct Task {
      int64_t begin, end, part;
    };
    const int64_t most = std::max(kLeastExamples, form_.n / (kTasksPerThread * NumThreads()) + 1);
    std::vector<Task> tasks;
    for (Family& family : *families) {
      const Node& node = nodes[family.small];
      family.first_part = tasks.size();
      for (int64_t begin = node.begin; Size(node) > most && begin < node.end; begin += most)
        tasks.push_back({begin, std::min(begin + most, node.end), static_cast<int64_t>(tasks.size())});
      family.num_parts = tasks.size() - family.first_part;
    }
    const int64_t blocks = (form_.d + kMostFeatures - 1) / kMostFeatures;
    space_.parts.Need(tasks.size() * form_.d * form_.width());
    Parallel(pool_, tasks.size() * blocks, [&](int64_t index) {
      const Task& task = tasks[index / blocks];
      const int64_t block = index % blocks, begin = form_.d * block / blocks, end = form_.d * (block + 1) / blocks;
      int64_t* own = Part(task.part, begin);
      std::fill_n(own, (end - begin) * form_.width(), 0);
      Sum(task.begin, task.end, begin, end, own);
    });
  }

  // Add the examples of that part of the order to the cells of the features from `begin` to `end` - 1.
  void Sum(int64_t first_example, int64_t last_example, int64_t begin, int64_t end, int64_t* own) const {
    const int64_t words = Words ? Words : form_.words(), width = form_.bins * words;
    const int32_t *row = space_.order.data() + first_example, *last = space_.order.data() + last_example;
    for (; row < last; ++row) {
      const int64_t ahead = row[row + kAhead < last ? kAhead : 0];
      __builtin_prefetch(in_.codes + ahead * form_.d + begin);
      __builtin_prefetch(space_.values.data() + ahead * words);
      const uint8_t *code = in_.codes + int64_t{*row} * form_.d + begin, *stop = code + (end - begin);
      const int64_t* value = space_.values.data() + int64_t{*row} * words;
      if (Words == 1) {
        const int64_t added = *value;
#pragma GCC unroll 4
        for (int64_t* cells = own; code < stop; ++code, cells += width) cells[*code] += added;
      } else {
        for (int64_t* cells = own; code < stop; ++code, cells += width)
          for (int64_t i = 0; i < words; ++i) cells[*code * words + i] += value[i];
      }
    }
  }

  void Note(const Split& split, int64_t i, const Tree& tree) const {
    const bool is_split = split.is_one();
    tree.feature[i] = is_split ? split.feature : 0;
    tree.cut[i] = is_split ? split.cut : form_.bins;
    tree.is_missing_left[i] = split.is_missing_left;
    tree.is_split[i] = is_split;
    tree.gain[i] = is_split ? static_cast<float>(split.gain) : 0.0f;
  }

  // What the children of a node are; below one that does not split, the left child has all.
  void Descend(const Node& node, const Split& split, int64_t num_left, Node* left, Node* right) const {
    *left = *right = node;
    if (!split.is_one()) {
      left->may_split = right->may_split = false;
      right->begin = right->end;
      std::fill(right->whole.begin(), right->whole.end(), 0);
      return;
    }
    left->end = right->begin = node.begin + num_left;
    left->whole = split.left;
    for (size_t i = 0; i < split.left.size(); ++i) right->whole[i] -= split.left[i];
    if (const int32_t sign = in_.monotone[split.feature]) {
      const double middle = (First(*left) + First(*right)) / 2;
      (sign > 0 ? left : right)->high = (sign > 0 ? right : left)->low = middle;
    }
  }

  double First(const Node& node) const {
    const int64_t sums = node.whole[0];
    return Weight(Gradient(sums, units_[0]), Curvature(sums, units_[form_.k]), penalties_, node.low, node.high);
  }

  // Block of rows by block, through all nodes, whose examples ascend: what is written stays near.
  void AssignLeaves(const std::vector<Node>& nodes, const std::vector<Split>& splits, int32_t* leaf) {
    std::vector<std::array<uint8_t, 256>> sides;
    for (const Split& split : splits) sides.push_back(Sides(split, form_.bins));
    const int32_t* order = space_.order.data();
    OverRows(pool_, form_.n, [&](int64_t, int64_t first_row, int64_t last_row) {
      for (size_t j = 0; j < nodes.size(); ++j) {
        const int32_t* last = order + nodes[j].end;
        const int32_t* row = std::lower_bound(order + nodes[j].begin, last, static_cast<int32_t>(first_row));
        const uint8_t *column = in_.columns + splits[j].feature * form_.n, *is_left = sides[j].data();
        const int32_t left = static_cast<int32_t>(2 * j), right = left + splits[j].is_one();
        for (; row < last && *row < last_row; ++row) leaf[*row] = is_left[column[*row]] ? left : right;
      }
    });
  }

  void FollowOthers(const Tree& tree) {  // examples of no weight: where the tree sends them
    OverRows(pool_, form_.n, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if (in_.slopes.counts(row)) continue;
        int64_t i = 0;
        for (int64_t level = 0; level < form_.depth; ++level) {
          const int64_t code = in_.codes[row * form_.d + tree.feature[i]];
          i = 2 * i + 2 - (code == form_.bins - 1 ? tree.is_missing_left[i] : code <= tree.cut[i]);
        }
        tree.leaf[row] = static_cast<int32_t>(i + 1 - (int64_t{1} << form_.depth));
      }
    });
  }

  ffi::ThreadPool& pool_;
  const Form form_;
  const Penalties penalties_;
  const Inputs in_;
  Workspace& space_;
  const Units units_;
  const Search search_;
};

}  // namespace gradkit

#endif  // GRADKIT_GROWING_H_
