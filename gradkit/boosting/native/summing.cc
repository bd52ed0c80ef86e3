// What the examples of each leaf add up to.

#include <vector>

#include "parallel.h"

namespace gradkit {
namespace {

// Adds up one column of values (n, Width) per leaf, Width 0 for what is known at run time only.
template <int64_t Width>
void Add(const int32_t* leaf, const float* weight, const float* values, int64_t begin, int64_t end, int64_t width, double* sums) {
  const int64_t c = Width ? Width : width;
  for (int64_t row = begin; row < end; ++row) {
    if (!(weight[row] > 0)) continue;  // a value that is not finite does not count either
    const double share = weight[row];
    for (int64_t i = 0; i < c; ++i) sums[leaf[row] * c + i] += share * values[row * c + i];
  }
}

// Weighted sums per leaf (leaves, c) of any number of arrays (n, c): block by block in double precision, blocks in their order.
ffi::Error SumLeaves(ffi::ThreadPool pool, ffi::Buffer<ffi::S32> leaf, ffi::Buffer<ffi::F32> weights, ffi::RemainingArgs arrays,
                     ffi::RemainingRets results) {
  struct Array {
    const float* values;
    float* sums;
    int64_t width, size, start;
  };
  const int64_t n = leaf.element_count(), blocks = std::max<int64_t>(NumBlocksOfRows(n), 1);
  std::vector<Array> all;
  int64_t size = 0;
  for (size_t i = 0; i < arrays.size(); ++i) {
    auto values = arrays.get<ffi::Buffer<ffi::F32>>(i);
    auto sums = results.get<ffi::Buffer<ffi::F32>>(i);
    if (!values.has_value() || !sums.has_value()) return ffi::Error::InvalidArgument("sums are of float32 arrays");
    all.push_back({values->typed_data(), (*sums)->typed_data(), static_cast<int64_t>(values->dimensions()[1]),
                   static_cast<int64_t>((*sums)->element_count()), size});
    size += all.back().size;
  }
  std::vector<double> parts(blocks * size);
  OverRows(pool, n, [&](int64_t block, int64_t begin, int64_t end) {
    for (const Array& array : all) {
      double* own = parts.data() + block * size + array.start;
      (array.width == 1 ? Add<1> : Add<0>)(leaf.typed_data(), weights.typed_data(), array.values, begin, end, array.width, own);
    }
  });
  for (int64_t block = 1; block < blocks; ++block)
    for (int64_t i = 0; i < size; ++i) parts[i] += parts[block * size + i];
  for (const Array& array : all)
    for (int64_t i = 0; i < array.size; ++i) array.sums[i] = static_cast<float>(parts[array.start + i]);
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
