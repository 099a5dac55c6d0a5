// SPDX-License-Identifier: Apache-2.0

#include "buse/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "buse/status.h"

namespace buse {

absl::StatusOr<Arena> Arena::Create(size_t size, size_t max_parts) {
  size = (size + kAlignment - 1) / kAlignment * kAlignment;
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return StatusFromErrno(errno, "mapping memory for requests on their way");
  return Arena(static_cast<std::byte*>(base), size, max_parts);
}

Arena::~Arena() {
  if (base_ != nullptr) munmap(base_, size_);
}

Bytes Arena::Take(size_t size) {
  const size_t length = (size + kAlignment - 1) / kAlignment * kAlignment;
  if (length == 0 || taken_.size() == taken_.capacity()) return {};
  size_t begin = 0;
  auto next = taken_.begin();
  for (; next != taken_.end() && next->begin - begin < length; ++next) begin = next->end;
  if (next == taken_.end() && size_ - begin < length) return {};
  taken_.insert(next, {begin, begin + length});
  return {base_ + begin, size};
}

void Arena::GiveBack(Bytes part) {
  if (part.empty()) return;
  const size_t begin = static_cast<size_t>(part.data() - base_);
  const auto found = std::find_if(taken_.begin(), taken_.end(), [&](const Part& taken) { return taken.begin == begin; });
  assert(found != taken_.end() && "this part is not taken");
  taken_.erase(found);
}

}  // namespace buse
