// Arguments of several members at a time: those that members share lead with a size of 1 where others lead with their number.

#ifndef GRADKIT_MEMBERS_H_
#define GRADKIT_MEMBERS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace gradkit {

namespace ffi = xla::ffi;

using Bytes = ffi::Buffer<ffi::U8>;
using Floats = ffi::Buffer<ffi::F32>;
using Bools = ffi::Buffer<ffi::PRED>;
using Ints = ffi::Buffer<ffi::S32>;

class Members {
 public:
  // By a result, whose last `rank` sizes are a member's own.
  Members(ffi::Span<const int64_t> dimensions, size_t rank) : sizes_(dimensions.begin(), dimensions.end() - rank) {}

  int64_t count() const { return std::accumulate(sizes_.begin(), sizes_.end(), int64_t{1}, std::multiplies<int64_t>()); }

  // Where a member's part of an argument or result begins.
  template <typename Buffer>
  auto* Part(Buffer& buffer, int64_t member) const {
    const auto dimensions = buffer.dimensions();
    int64_t position = 0, stride = 1;
    for (size_t axis = sizes_.size(); axis-- > 0; member /= sizes_[axis]) {
      if (dimensions[axis] > 1) position += member % sizes_[axis] * stride;
      stride *= dimensions[axis];
    }
    return buffer.typed_data() + position * (static_cast<int64_t>(buffer.element_count()) / std::max<int64_t>(stride, 1));
  }

  // The sizes that are a member's own.
  std::vector<int64_t> Own(ffi::Span<const int64_t> dimensions) const { return {dimensions.begin() + sizes_.size(), dimensions.end()}; }

 private:
  std::vector<int64_t> sizes_;
};

}  // namespace gradkit

#endif  // GRADKIT_MEMBERS_H_
