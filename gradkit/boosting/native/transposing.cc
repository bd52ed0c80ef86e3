// Bins, feature by feature. The call has no side effects, so the compiler takes it out of the loop over trees.

#include <algorithm>
#include <cstdint>

#include "parallel.h"

namespace gradkit {
namespace {

ffi::Error Transpose(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> rows, ffi::ResultBuffer<ffi::U8> columns) {
  const int64_t n = rows.dimensions()[0], d = rows.dimensions()[1];
  const uint8_t* from = rows.typed_data();
  uint8_t* to = columns->typed_data();
  OverRows(pool, n, [&](int64_t, int64_t begin, int64_t end) {
    constexpr int64_t kTile = 64;
    for (int64_t tile = begin; tile < end; tile += kTile)
      for (int64_t f = 0; f < d; ++f)
        for (int64_t row = tile; row < std::min(tile + kTile, end); ++row) to[f * n + row] = from[row * d + f];
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(gradkit_transpose, gradkit::Transpose,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::U8>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::U8>>());
