// The call that grows a tree for each member of a batch.

#include "growing.h"

#include <cstdint>

#include "members.h"

namespace gradkit {
namespace {

ffi::Error GrowTrees(ffi::ThreadPool pool, Bytes codes, Bytes columns, Floats gradient, Floats curvature, Floats weights,
                     Floats penalties, Bools allowed, Ints monotone, ffi::Result<Ints> feature, ffi::Result<Ints> cut,
                     ffi::Result<Bools> is_missing_left, ffi::Result<Bools> is_split, ffi::Result<Floats> gain,
                     ffi::Result<Floats> cover, ffi::Result<Floats> low, ffi::Result<Floats> high, ffi::Result<Ints> leaf,
                     int64_t bins, bool has_missing) {
  const Members batch(leaf->dimensions(), 1);
  const auto size = batch.Own(codes.dimensions());
  const int64_t n = size[0], k = batch.Own(gradient.dimensions())[1], depth = batch.Own(allowed.dimensions())[0];
  const bool is_weighted = batch.Own(weights.dimensions())[0] == n;
  for (int64_t m = 0; m < batch.count(); ++m) {
    const float* p = batch.Part(penalties, m);
    const Penalties limits{p[0], p[1], p[2], p[3], p[4], p[5]};
    const Form form{n, size[1], k, bins, depth, has_missing, k > 1 || limits.min_child_samples > 1};
    const Inputs inputs{batch.Part(codes, m), batch.Part(columns, m),
                        {batch.Part(gradient, m), batch.Part(curvature, m), is_weighted ? batch.Part(weights, m) : nullptr},
                        batch.Part(allowed, m), batch.Part(monotone, m)};
    const Tree tree{batch.Part(*feature, m), batch.Part(*cut, m), batch.Part(*is_missing_left, m), batch.Part(*is_split, m),
                    batch.Part(*gain, m), batch.Part(*cover, m), batch.Part(*low, m), batch.Part(*high, m), batch.Part(*leaf, m)};
    Borrowed space;
    if (form.words() == 1) {
      Grower<1>(pool, form, limits, inputs, *space).Grow(tree);
    } else {
      Grower<0>(pool, form, limits, inputs, *space).Grow(tree);
    }
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gradkit

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gradkit_grow_tree, gradkit::GrowTrees,
    xla::ffi::Ffi::Bind()
        .Ctx<xla::ffi::ThreadPool>()
        .Arg<gradkit::Bytes>()  // codes
        .Arg<gradkit::Bytes>()  // columns
        .Arg<gradkit::Floats>().Arg<gradkit::Floats>().Arg<gradkit::Floats>()  // gradient, curvature, weights
        .Arg<gradkit::Floats>()  // penalties
        .Arg<gradkit::Bools>()   // allowed
        .Arg<gradkit::Ints>()    // monotone
        .Ret<gradkit::Ints>().Ret<gradkit::Ints>()      // feature, cut
        .Ret<gradkit::Bools>().Ret<gradkit::Bools>()    // is_missing_left, is_split
        .Ret<gradkit::Floats>().Ret<gradkit::Floats>()  // gain, cover
        .Ret<gradkit::Floats>().Ret<gradkit::Floats>()  // low, high
        .Ret<gradkit::Ints>()                           // leaf
        .Attr<int64_t>("bins")
        .Attr<bool>("has_missing"));
