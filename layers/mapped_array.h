// SPDX-License-Identifier: Apache-2.0
//
// MappedArray: a fixed number of zeroed elements straight from the system: they take no memory until they are touched, and too
// many of them are an error and not the end of the program.

#ifndef LAYERS_MAPPED_ARRAY_H_
#define LAYERS_MAPPED_ARRAY_H_

#include <cstddef>
#include <span>
#include <type_traits>

#include "absl/status/status.h"

namespace buse {

// Zeroed pages, and their end.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  // Once, and not for 0 bytes. kUnavailable: there is not so much memory. `huge` has the system use huge pages where it can.
  absl::Status Open(size_t bytes, bool huge = false);

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Elements for which being all zero bytes is a value.
template <class T>
class MappedArray {
 public:
  static_assert(std::is_trivially_destructible_v<T>);

  absl::Status Open(size_t count, bool huge = false) {
    size_ = count;
    return mapping_.Open(count * sizeof(T), huge);
  }

  size_t size() const { return size_; }
  T* data() const { return static_cast<T*>(mapping_.data()); }
  T& operator[](size_t i) const { return data()[i]; }

 private:
  Mapping mapping_;
  size_t size_ = 0;
};

}  // namespace buse

#endif  // LAYERS_MAPPED_ARRAY_H_
