// Examples in the order of their nodes, and how they are sent from a level to the next.

#ifndef GRADKIT_SORTED_H_
#define GRADKIT_SORTED_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "scores.h"
#include "workspaces.h"

namespace gradkit {

// Which bins go left.
inline std::array<uint8_t, 256> Sides(const Split& split, int64_t bins) {
  std::array<uint8_t, 256> is_left{};
  for (int64_t code = 0; code < bins; ++code) is_left[code] = code == bins - 1 ? split.is_missing_left : code <= split.cut;
  return is_left;
}

// Part the examples of every node that splits: those that go left come first, each side still ascending. How many went left.
inline std::vector<int64_t> SendDown(ffi::ThreadPool& pool, const std::vector<Node>& nodes, const std::vector<Split>& splits,
                                 const uint8_t* columns, const Form& form, Workspace& space) {
  struct Block {
    int64_t node, begin, end, num_left;
  };
  std::vector<Block> blocks;
  for (size_t j = 0; j < nodes.size(); ++j)
    for (int64_t begin = nodes[j].begin; splits[j].is_one() && begin < nodes[j].end; begin += kBlockOfRows)
      blocks.push_back({static_cast<int64_t>(j), begin, std::min(begin + kBlockOfRows, nodes[j].end), 0});
  int32_t *order = space.order.data(), *sides = space.sides.Need(form.n);
  Parallel(pool, blocks.size(), [&](int64_t task) {
    Block& block = blocks[task];
    const Split& split = splits[block.node];
    const auto is_left = Sides(split, form.bins);
    const uint8_t* column = columns + split.feature * form.n;
    int32_t *left = sides + block.begin, *right = sides + block.end - 1;  // the latter from the end on
    for (int64_t i = block.begin; i < block.end; ++i) {  // without a branch: which way is anybody's guess
      const int32_t row = order[i];
      const int64_t side = is_left[column[row]];
      *left = *right = row;
      left += side;
      right -= 1 - side;
    }
    block.num_left = left - (sides + block.begin);
  });
  std::vector<int64_t> num_left(nodes.size(), 0), to_left(blocks.size()), to_right(blocks.size());
  for (const Block& block : blocks) num_left[block.node] += block.num_left;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    const bool is_first = i == 0 || blocks[i - 1].node != block.node;
    to_left[i] = is_first ? block.begin : to_left[i - 1] + blocks[i - 1].num_left;
    to_right[i] = is_first ? block.begin + num_left[block.node]
                           : to_right[i - 1] + blocks[i - 1].end - blocks[i - 1].begin - blocks[i - 1].num_left;
  }
  Parallel(pool, blocks.size(), [&](int64_t task) {
    const Block& block = blocks[task];
    std::copy_n(sides + block.begin, block.num_left, order + to_left[task]);
    std::reverse_copy(sides + block.begin + block.num_left, sides + block.end, order + to_right[task]);
  });
  return num_left;
}

}  // namespace gradkit

#endif  // GRADKIT_SORTED_H_
