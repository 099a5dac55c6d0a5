// SPDX-License-Identifier: Apache-2.0
//
// BufferPool: a few large buffers that are allocated once. Who gets none does with less and does not wait. Thread-safe.

#ifndef LAYERS_BUFFER_POOL_H_
#define LAYERS_BUFFER_POOL_H_

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/mapped_array.h"

namespace buse {

class BufferPool {
 public:
  static constexpr int kBuffers = 8;

  // A buffer until it is destroyed, or none, and then it is empty.
  class Lease {
   public:
    Lease() = default;
    Lease(BufferPool* pool, int buffer) : pool_(pool), buffer_(buffer) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      if (buffer_ >= 0) pool_->free_.fetch_or(uint32_t{1} << buffer_, std::memory_order_release);
    }
    Bytes bytes() const {
      return buffer_ < 0 ? Bytes() : Bytes(pool_->memory_.data() + buffer_ * pool_->buffer_size_, pool_->buffer_size_);
    }

   private:
    BufferPool* const pool_ = nullptr;
    const int buffer_ = -1;
  };

  absl::Status Open(size_t buffer_size) {
    buffer_size_ = buffer_size;
    return memory_.Open(kBuffers * buffer_size);
  }

  size_t buffer_size() const { return buffer_size_; }

  Lease TryTake() {
    uint32_t free = free_.load(std::memory_order_relaxed);
    while (free != 0 && !free_.compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire)) {
    }
    return Lease(this, free == 0 ? -1 : std::countr_zero(free));
  }

 private:
  std::atomic<uint32_t> free_ = (1 << kBuffers) - 1;
  size_t buffer_size_ = 0;
  MappedArray<std::byte> memory_;
};

}  // namespace buse

#endif  // LAYERS_BUFFER_POOL_H_
