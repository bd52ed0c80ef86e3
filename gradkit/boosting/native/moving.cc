// Scores with the value of each example's leaf added. Written out here, for compiled jax would write the place of each in a batch.

#include "members.h"
#include "parallel.h"

namespace gradkit {
namespace {

ffi::Error Move(ffi::ThreadPool pool, Floats scores, Floats value, Ints leaf, ffi::Result<Floats> moved) {
  const Members batch(moved->dimensions(), 2);
  const auto size = batch.Own(moved->dimensions());
  const int64_t n = size[0], k = size[1];
  for (int64_t m = 0; m < batch.count(); ++m) {
    const float *from = batch.Part(scores, m), *values = batch.Part(value, m);
    const int32_t* leaves = batch.Part(leaf, m);
    float* to = batch.Part(*moved, m);
    OverRows(pool, n, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = begin; k == 1 && row < end; ++row) to[row] = from[row] + values[leaves[row]];
      for (int64_t row = begin; k > 1 && row < end; ++row)
        for (int64_t c = 0; c < k; ++c) to[row * k + c] = from[row * k + c] + values[leaves[row] * k + c];
    });
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(gradkit_move, gradkit::Move,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<gradkit::Floats>()
                                  .Arg<gradkit::Floats>()
                                  .Arg<gradkit::Ints>()
                                  .Ret<gradkit::Floats>());
