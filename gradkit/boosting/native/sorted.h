// Examples in the order of their nodes, and how they are sent from a level to the next.

#ifndef GRADKIT_SORTED_H_
#define GRADKIT_SORTED_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "scores.h"

namespace gradkit {

// Examples by node: those of node j of a level are order[start[j]] to order[start[j + 1] - 1], ascending.
struct Sorted {
  std::vector<int32_t> order, next;
  std::vector<int64_t> start;
};

// Send the examples of every node to its children, those of each child still ascending.
inline void Part(ffi::ThreadPool& pool, const std::vector<Split>& splits, const uint8_t* codes, const Form& form, Sorted* rows) {
  struct Block {
    int64_t node, begin, end, num_left;
  };
  std::vector<Block> blocks;
  const int64_t count = splits.size();
  for (int64_t j = 0; j < count; ++j)
    for (int64_t begin = rows->start[j]; begin < rows->start[j + 1]; begin += kBlockOfRows)
      blocks.push_back({j, begin, std::min(begin + kBlockOfRows, rows->start[j + 1]), 0});
  std::vector<uint8_t> is_left(rows->order.size(), 1);
  Parallel(pool, blocks.size(), [&](int64_t task) {
    Block& block = blocks[task];
    const Split& split = splits[block.node];
    block.num_left = block.end - block.begin;
    if (!std::isfinite(split.gain)) return;
    const uint8_t* column = codes + split.feature;
    for (int64_t i = block.begin; i < block.end; ++i) {
      __builtin_prefetch(column + rows->order[std::min(i + kAhead, block.end - 1)] * form.d);
      const int64_t code = column[rows->order[i] * form.d];
      is_left[i] = code == form.bins - 1 ? split.is_missing_left : code <= split.cut;
    }
    block.num_left = std::count(is_left.begin() + block.begin, is_left.begin() + block.end, 1);
  });
  std::vector<int64_t> start(2 * count + 1, 0), to_left(blocks.size()), to_right(blocks.size());
  for (const Block& block : blocks) {
    start[2 * block.node + 1] += block.num_left;
    start[2 * block.node + 2] += block.end - block.begin - block.num_left;
  }
  for (int64_t j = 0; j < 2 * count; ++j) start[j + 1] += start[j];
  std::vector<int64_t> place(start.begin(), start.end() - 1);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    to_left[i] = place[2 * block.node];
    to_right[i] = place[2 * block.node + 1];
    place[2 * block.node] += block.num_left;
    place[2 * block.node + 1] += block.end - block.begin - block.num_left;
  }
  Parallel(pool, blocks.size(), [&](int64_t task) {
    int64_t left = to_left[task], right = to_right[task];
    for (int64_t i = blocks[task].begin; i < blocks[task].end; ++i) {  // without a branch: which way is anybody's guess
      rows->next[is_left[i] ? left : right] = rows->order[i];
      left += is_left[i];
      right += !is_left[i];
    }
  });
  rows->order.swap(rows->next);
  rows->start.swap(start);
}

}  // namespace gradkit

#endif  // GRADKIT_SORTED_H_
