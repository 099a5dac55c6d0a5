// SPDX-License-Identifier: Apache-2.0

#include "layers/mapped_array.h"

#include <sys/mman.h>

#include <cassert>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "buse/size.h"
#include "buse/status.h"

namespace buse {

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::Status Mapping::Open(size_t bytes, bool huge) {
  assert(data_ == nullptr && bytes > 0);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return StatusFromErrno(errno, absl::StrCat("cannot get ", FormatSize(bytes), " of memory"));
  data_ = memory;
  bytes_ = bytes;
  if (huge) madvise(data_, bytes_, MADV_HUGEPAGE);  // a wish: without it all is a little slower
  return absl::OkStatus();
}

}  // namespace buse
