// Memory that is kept from call to call: asking the system for fresh pages costs as much as a level of a tree.

#ifndef GRADKIT_WORKSPACES_H_
#define GRADKIT_WORKSPACES_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace gradkit {

// Grows when more is needed; what was in it is then lost.
template <typename T>
class Buffer {
 public:
  T* Need(int64_t size) {
    if (size > size_) {
      data_.reset();
      data_.reset(new T[size]);
      size_ = size;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

// What growing a tree works in.
struct Workspace {
  Buffer<int64_t> values, sums, parts;   // of examples; of nodes, features and bins; of parts of nodes
  Buffer<int32_t> order, sides;          // examples
  int64_t num_counted = 0;               // examples of positive weight: the first of `order`
};

// One of the workspaces, for as long as this lives; as many are kept as were ever used at a time.
class Borrowed {
 public:
  Borrowed() {
    std::lock_guard<std::mutex> lock(Mutex());
    if (Free().empty()) {
      own_ = std::make_unique<Workspace>();
    } else {
      own_ = std::move(Free().back());
      Free().pop_back();
    }
  }
  ~Borrowed() {
    std::lock_guard<std::mutex> lock(Mutex());
    Free().push_back(std::move(own_));
  }
  Borrowed(const Borrowed&) = delete;
  Workspace& operator*() const { return *own_; }

 private:
  static std::mutex& Mutex() {
    static std::mutex& mutex = *new std::mutex;  // never destroyed: a thread may still run when the process ends
    return mutex;
  }
  static std::vector<std::unique_ptr<Workspace>>& Free() {
    static auto& free = *new std::vector<std::unique_ptr<Workspace>>;
    return free;
  }
  std::unique_ptr<Workspace> own_;
};

}  // namespace gradkit

#endif  // GRADKIT_WORKSPACES_H_
