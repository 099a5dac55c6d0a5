// SPDX-License-Identifier: Apache-2.0
//
// PageMemory: memory that is allocated once and aligned to pages, and if there is much of it, taken from the system as it is
// touched.

#ifndef LAYERS_PAGE_MEMORY_H_
#define LAYERS_PAGE_MEMORY_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/device.h"

namespace buse {

class PageMemory {
 public:
  static constexpr uint64_t kPage = 4096;

  // Once. What is in it is undefined. Errors: kUnavailable.
  absl::Status Allocate(uint64_t bytes) {
    assert(data_ == nullptr && bytes > 0);
    size_ = (bytes + kPage - 1) / kPage * kPage;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, size_)));
    return data_ != nullptr ? absl::OkStatus()
                            : absl::UnavailableError(absl::StrFormat("cannot get %d bytes of memory", bytes));
  }

  std::byte* data() const { return data_.get(); }
  uint64_t size() const { return size_; }
  Bytes bytes() const { return {data(), size_}; }
  Bytes page(uint64_t index) const { return {data() + index * kPage, kPage}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };

  std::unique_ptr<std::byte, Free> data_;
  uint64_t size_ = 0;
};

}  // namespace buse

#endif  // LAYERS_PAGE_MEMORY_H_
