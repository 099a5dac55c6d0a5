// SPDX-License-Identifier: Apache-2.0
//
// The memory of one connection: all that a client can make the server use.

#ifndef BUSE_BUFFERS_H_
#define BUSE_BUFFERS_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/nbd.h"

namespace buse {

// Page-aligned and taken from the system page by page as it is touched. Movable.
class Buffers {
 public:
  // Where requests arrive: many small ones from one receive.
  static constexpr size_t kReceiveSize = 64 << 10;
  // Where payloads lie: one of the largest, or many small ones until their replies are sent.
  static constexpr size_t kPayloadSize = nbd::kMaxPayload;

  // Errors: kUnavailable when the system has no address space left.
  static absl::StatusOr<Buffers> Create();

  Buffers(Buffers&& other) noexcept : base_(other.base_) { other.base_ = nullptr; }
  Buffers& operator=(Buffers&&) = delete;
  ~Buffers();

  Bytes receive() const { return {base_, kReceiveSize}; }
  Bytes payload() const { return {base_ + kReceiveSize, kPayloadSize}; }

 private:
  explicit Buffers(std::byte* base) : base_(base) {}

  std::byte* base_;
};

}  // namespace buse

#endif  // BUSE_BUFFERS_H_
