// What the examples of each leaf add up to.

#include <vector>

#include "members.h"
#include "parallel.h"

namespace gradkit {
namespace {

struct Array {
  const float* values;
  float* sums;
  int64_t width, start;  // its first column among all
};

// Adds the columns of all arrays to the sums (leaves, columns). Number is that of arrays of one column each, 0 for any others.
template <size_t Number>
void Add(const int32_t* leaf, const float* weight, const std::vector<Array>& arrays, int64_t begin, int64_t end, int64_t columns,
         double* sums) {
  const float* only[Number + 1];
  for (size_t i = 0; i < Number; ++i) only[i] = arrays[i].values;
  for (int64_t row = begin; row < end; ++row) {
    if (weight && !(weight[row] > 0)) continue;  // a value that is not finite does not count either
    const double share = weight ? weight[row] : 1;
    double* own = sums + leaf[row] * (Number ? static_cast<int64_t>(Number) : columns);
#pragma GCC unroll 4
    for (size_t i = 0; i < Number; ++i) own[i] += share * only[i][row];
    for (size_t i = 0; Number == 0 && i < arrays.size(); ++i)
      for (int64_t c = 0; c < arrays[i].width; ++c) own[arrays[i].start + c] += share * arrays[i].values[row * arrays[i].width + c];
  }
}

// Weighted sums per leaf (leaves, c) of any number of arrays (n, c): block by block in double precision, blocks in their order.
void SumMember(ffi::ThreadPool& pool, const int32_t* leaf, const float* weights, const std::vector<Array>& arrays, int64_t n,
               int64_t leaves, int64_t columns) {
  const int64_t blocks = std::max<int64_t>(NumBlocksOfRows(n), 1);
  const bool is_simple = columns == static_cast<int64_t>(arrays.size()) && columns <= 3;
  const auto add = is_simple ? (columns == 1 ? Add<1> : columns == 2 ? Add<2> : Add<3>) : Add<0>;
  const int64_t size = leaves * columns;
  std::vector<double> parts(blocks * size);
  OverRows(pool, n, [&](int64_t block, int64_t begin, int64_t end) {
    add(leaf, weights, arrays, begin, end, columns, parts.data() + block * size);
  });
  for (int64_t block = 1; block < blocks; ++block)
    for (int64_t i = 0; i < size; ++i) parts[i] += parts[block * size + i];
  for (const Array& array : arrays)
    for (int64_t j = 0; j < leaves; ++j)
      for (int64_t c = 0; c < array.width; ++c)
        array.sums[j * array.width + c] = static_cast<float>(parts[j * columns + array.start + c]);
}

ffi::Error SumLeaves(ffi::ThreadPool pool, Ints leaf, Floats weights, ffi::RemainingArgs given, ffi::RemainingRets results) {
  auto first = results.get<Floats>(0);
  if (!first.has_value()) return ffi::Error::InvalidArgument("sums are of float32 arrays");
  const Members batch((*first)->dimensions(), 2);
  const int64_t n = batch.Own(leaf.dimensions())[0], leaves = batch.Own((*first)->dimensions())[0];
  const bool is_weighted = batch.Own(weights.dimensions())[0] == n;
  for (int64_t m = 0; m < batch.count(); ++m) {
    std::vector<Array> arrays;
    int64_t columns = 0;
    for (size_t i = 0; i < given.size(); ++i) {
      auto values = given.get<Floats>(i);
      auto sums = results.get<Floats>(i);
      if (!values.has_value() || !sums.has_value()) return ffi::Error::InvalidArgument("sums are of float32 arrays");
      arrays.push_back({batch.Part(*values, m), batch.Part(**sums, m), batch.Own((*sums)->dimensions())[1], columns});
      columns += arrays.back().width;
    }
    SumMember(pool, batch.Part(leaf, m), is_weighted ? batch.Part(weights, m) : nullptr, arrays, n, leaves, columns);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(gradkit_sum_leaves, gradkit::SumLeaves,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .RemainingArgs()
                                  .RemainingRets());
