// SPDX-License-Identifier: Apache-2.0
//
// Arena: a fixed piece of memory that is taken and given back in parts, in any order.

#ifndef BUSE_ARENA_H_
#define BUSE_ARENA_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "buse/device.h"

namespace buse {

// Page-aligned, as are its parts; taken from the system page by page as it is touched. Movable. Not thread-safe. Cost: linear
// in the parts that are taken.
class Arena {
 public:
  static constexpr size_t kAlignment = 4096;

  // `size` is rounded up to whole pages. At most `max_parts` at a time. Errors: kUnavailable when the system has no address space left.
  static absl::StatusOr<Arena> Create(size_t size, size_t max_parts);

  Arena(Arena&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(other.size_), taken_(std::move(other.taken_)) {}
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  // The first part that is free and long enough; empty if there is none. Of no bytes there is always one, which is empty too.
  Bytes Take(size_t size);
  // What Take returned.
  void GiveBack(Bytes part);

 private:
  struct Part {
    size_t begin, end;
  };

  Arena(std::byte* base, size_t size, size_t max_parts) : base_(base), size_(size) { taken_.reserve(max_parts); }

  std::byte* base_;
  size_t size_;
  std::vector<Part> taken_;  // in order; never grows beyond what was reserved
};

}  // namespace buse

#endif  // BUSE_ARENA_H_
