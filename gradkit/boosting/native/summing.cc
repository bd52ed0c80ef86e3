// What the examples of each leaf add up to.

#include <vector>

#include "parallel.h"

namespace gradkit {
namespace {

// Weighted sums of values (n, c) per leaf (leaves, c): block by block in double precision, blocks in their order.
ffi::Error SumLeaves(ffi::ThreadPool pool, ffi::Buffer<ffi::S32> leaf, ffi::Buffer<ffi::F32> weights, ffi::Buffer<ffi::F32> values,
                     ffi::ResultBuffer<ffi::F32> sums) {
  const int64_t n = values.dimensions()[0], c = values.dimensions()[1], size = sums->element_count();
  const int64_t blocks = (n + kBlockOfRows - 1) / kBlockOfRows;
  const int32_t* where = leaf.typed_data();
  const float *weight = weights.typed_data(), *value = values.typed_data();
  std::vector<double> parts(std::max<int64_t>(blocks, 1) * size);
  Parallel(pool, blocks, [&](int64_t block) {
    double* own = parts.data() + block * size;
    for (int64_t row = block * kBlockOfRows; row < std::min((block + 1) * kBlockOfRows, n); ++row)
      for (int64_t i = 0; weight[row] > 0 && i < c; ++i)
        own[where[row] * c + i] += static_cast<double>(weight[row]) * value[row * c + i];
  });
  for (int64_t block = 1; block < blocks; ++block)
    for (int64_t i = 0; i < size; ++i) parts[i] += parts[block * size + i];
  for (int64_t i = 0; i < size; ++i) sums->typed_data()[i] = static_cast<float>(parts[i]);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(gradkit_sum_leaves, gradkit::SumLeaves,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>());
