// SPDX-License-Identifier: Apache-2.0

#include "buse/buffers.h"

#include <sys/mman.h>

#include <cerrno>

#include "buse/status.h"

namespace buse {

absl::StatusOr<Buffers> Buffers::Create() {
  void* base =
      mmap(nullptr, kReceiveSize + kPayloadSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return StatusFromErrno(errno, "mapping a connection's buffers");
  return Buffers(static_cast<std::byte*>(base));
}

Buffers::~Buffers() {
  if (base_ != nullptr) munmap(base_, kReceiveSize + kPayloadSize);
}

}  // namespace buse
